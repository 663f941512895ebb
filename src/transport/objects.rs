//! Puts [`Transport`] under `object_store`, so that storage goes out the same way as everything else.

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use super::{SendError, Transport};

/// Connects `object_store` through a [`Transport`].
#[derive(Clone, Debug)]
pub struct ObjectConnector(pub Transport);

impl HttpConnector for ObjectConnector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for ObjectConnector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse().map_err(|e| HttpError::new(HttpErrorKind::Request, e))?;
        let mut out = reqwest::Request::new(parts.method, url);
        *out.headers_mut() = parts.headers;
        let chunks = body.into_data_stream().map_err(|e| HttpError::new(HttpErrorKind::Request, e));
        let bytes: Vec<bytes::Bytes> = chunks.try_collect().await?;
        if bytes.iter().any(|b| !b.is_empty()) {
            *out.body_mut() = Some(whole(bytes));
        }
        let response: http::Response<reqwest::Body> = self.0.send(out).await.map_err(http_error)?.into();
        let (parts, body) = response.into_parts();
        let frames = body
            .into_data_stream()
            .map(|chunk| chunk.map(http_body::Frame::data).map_err(|e| HttpError::new(HttpErrorKind::Interrupted, e)));
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(StreamBody::new(frames))))
    }
}

/// A body of known length: storage refuses chunked uploads.
fn whole(chunks: Vec<bytes::Bytes>) -> reqwest::Body {
    match <[_; 1]>::try_from(chunks) {
        Ok([one]) => one.into(),
        Err(many) => many.concat().into(),
    }
}

fn http_error(error: SendError) -> HttpError {
    let kind = match error {
        SendError::NotSent(_) => HttpErrorKind::Connect,
        // Trying again would not help.
        SendError::NotAllowed(_) => HttpErrorKind::Unknown,
        SendError::MaybeSent(_) => HttpErrorKind::Interrupted,
        SendError::TooLarge(_) => HttpErrorKind::Decode,
    };
    HttpError::new(kind, error)
}
