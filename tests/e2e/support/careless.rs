//! A store that takes every write and ignores every condition, as some S3-compatible servers do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

type Objects = Arc<Mutex<HashMap<String, Bytes>>>;

/// Starts one; its address.
pub async fn careless_store() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(serve).with_state(Objects::default());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn serve(State(objects): State<Objects>, method: Method, uri: Uri, body: Bytes) -> Response {
    let key = uri.path().to_string();
    let mut objects = objects.lock().unwrap();
    let etag = |bytes: &Bytes| {
        [("etag", format!("\"{}\"", bytes.len())), ("last-modified", "Sun, 22 Nov 2026 00:00:00 GMT".into())]
    };
    match method {
        Method::PUT => {
            let head = etag(&body);
            objects.insert(key, body);
            (head, "").into_response()
        }
        Method::DELETE => {
            objects.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => match objects.get(&key) {
            Some(bytes) => (etag(bytes), bytes.clone()).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}
