//! Checks what the operator needs of the cluster before it starts: our CRDs, the rights to read them, and a name.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use tracing::warn;

use super::options::StartError;
use crate::api::{BatchJob, BatchProvider, CronBatchJob};

/// Checks the CRDs. One namespace that the operator may read is enough: others may be gone, and come back.
pub(crate) async fn check_crds(client: &Client, watched: &[String]) -> Result<(), StartError> {
    let mut namespaces = watched.iter().map(Some).collect::<Vec<_>>();
    if namespaces.is_empty() {
        namespaces.push(None);
    }
    let (all, mut shut) = (namespaces.len(), vec![]);
    for namespace in namespaces {
        match check_kinds(client, namespace).await {
            Err(StartError::Forbidden(what)) => {
                warn!(
                    namespace,
                    what, "no right in a namespace that is to be watched; grant it, or take it out of the list"
                );
                shut.push(what);
            }
            checked => checked?,
        }
    }
    match shut.pop() {
        Some(what) if shut.len() + 1 == all => Err(StartError::Forbidden(what)),
        _ => Ok(()),
    }
}

async fn check_kinds(client: &Client, namespace: Option<&String>) -> Result<(), StartError> {
    async fn check<K>(client: &Client, namespace: Option<&String>, kind: &'static str) -> Result<(), StartError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug,
        K: for<'de> serde::Deserialize<'de>,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        match api.list(&ListParams::default().limit(1)).await {
            Ok(_) => Ok(()),
            // The API server answers for a group that it does not serve with a bare 404, without a reason.
            Err(kube::Error::Api(status)) if status.code == 404 => Err(StartError::NoCrd(kind)),
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                Err(StartError::Forbidden(format!("list {kind}s")))
            }
            Err(e) => Err(StartError::NoAnswer(crate::transport::chain(&e))),
        }
    }
    check::<BatchJob>(client, namespace, "BatchJob").await?;
    check::<CronBatchJob>(client, namespace, "CronBatchJob").await?;
    check::<BatchProvider>(client, namespace, "BatchProvider").await
}

pub(crate) async fn cluster_uid(client: &Client) -> Result<String, StartError> {
    match Api::<Namespace>::all(client.clone()).get("kube-system").await {
        Ok(namespace) => Ok(namespace.uid().unwrap_or_default()),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            Err(StartError::Forbidden("get the namespace kube-system, whose uid names the cluster".into()))
        }
        Err(e) => Err(StartError::NoAnswer(crate::transport::chain(&e))),
    }
}

#[cfg(test)]
mod tests {
    use kube::client::Body;

    use super::*;

    /// Runs the check of an operator that watches these namespaces, of which the API server opens those that begin with `open`.
    async fn starts(namespaces: &[&str]) -> Result<(), StartError> {
        let server = tower::service_fn(async |request: http::Request<Body>| {
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []});
            let refusal = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "no", "reason": "Forbidden", "code": 403});
            let (status, body) = if request.uri().path().contains("/open") { (200, list) } else { (403, refusal) };
            let body = Body::from(body.to_string().into_bytes());
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(status).body(body).unwrap())
        });
        let namespaces: Vec<String> = namespaces.iter().map(|name| name.to_string()).collect();
        check_crds(&Client::new(server, "default"), &namespaces).await
    }

    #[tokio::test]
    async fn a_namespace_that_is_gone_stops_nobody_in_the_others() {
        assert!(starts(&["gone", "open-1", "open-2"]).await.is_ok());
        assert!(matches!(starts(&["gone", "shut"]).await, Err(StartError::Forbidden(_))));
        assert!(matches!(starts(&[]).await, Err(StartError::Forbidden(_))), "all namespaces are asked for");
    }
}
