//! Calls to the API server, fair by namespace: a flood of calls for one namespace does not delay those for another.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Request;
use kube::client::Body;
use tower::{Layer, Service};

use crate::fair::{Claim, Limits, Shares};

/// Calls in flight. More would not be answered sooner, only each of them later. All calls have one lane, so a namespace has at
/// most 8.
const LIMITS: Limits = Limits { total: 24, per_namespace: 16, keeps_last_shares: true };

/// A layer for a client of the API server, for all calls but watches, which last.
#[derive(Clone, Debug)]
pub(crate) struct FairCalls(Arc<Shares>);

impl FairCalls {
    pub fn new() -> FairCalls {
        FairCalls(Shares::new(LIMITS))
    }
}

impl<S> Layer<S> for FairCalls {
    type Service = Fair<S>;

    fn layer(&self, inner: S) -> Fair<S> {
        Fair { inner, calls: self.0.clone() }
    }
}

/// See [`FairCalls`].
pub(crate) struct Fair<S> {
    inner: S,
    calls: Arc<Shares>,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Fair<S>
where
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let namespace = namespace(request.uri().path()).to_string();
        let (calls, call) = (self.calls.clone(), self.inner.call(request));
        async move {
            let _share = calls.take(Claim { namespace, size: 1, ..Claim::default() }).await;
            call.await
        }
        .boxed()
    }
}

/// Returns the namespace of the object that a path names; empty if it has none.
fn namespace(path: &str) -> &str {
    let mut segments = path.split('/').skip_while(|segment| *segment != "namespaces");
    segments.nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_namespace() {
        for (path, expected) in [
            ("/apis/llmbatch.dev/v1alpha1/namespaces/shop/batchjobs/j/status", "shop"),
            ("/api/v1/namespaces/shop/secrets/s", "shop"),
            ("/api/v1/namespaces/kube-system", "kube-system"),
            ("/apis/llmbatch.dev/v1alpha1/clusterbatchproviders/p", ""),
            ("/api/v1/namespaces", ""),
        ] {
            assert_eq!(namespace(path), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn a_namespace_whose_calls_hang_holds_up_nobody_elses() {
        let server = tower::service_fn(async |request: Request<Body>| {
            if request.uri().path().contains("/flood/") {
                std::future::pending::<()>().await;
            }
            Ok::<_, std::convert::Infallible>(())
        });
        let mut client = FairCalls::new().layer(server);
        let mut get = |namespace: &str| {
            let uri = format!("/api/v1/namespaces/{namespace}/secrets/s");
            client.call(Request::builder().uri(uri).body(Body::empty()).unwrap())
        };
        let mut flood: Vec<_> = (0..100).map(|_| get("flood")).collect();
        assert!(flood.iter_mut().all(|call| call.now_or_never().is_none()));
        assert!(get("quiet").now_or_never().is_some());
    }
}
