//! Calls that return the metadata of an object alone. A BatchJob may carry a megabyte, which is not needed to see that nothing
//! changed or that a write took effect. Managed fields are nested as deeply as that content, and are not read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ObjectList, PartialObjectMeta, Request};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{FIELD_MANAGER, WithoutManagedFields};

type Answer<K> = WithoutManagedFields<PartialObjectMeta<K>>;

fn requests<K: Resource<DynamicType = ()>>(namespace: Option<&str>) -> Request {
    Request::new(K::url_path(&(), namespace))
}

/// Reads the metadata of an object; None if it is gone.
pub(crate) async fn get<K>(
    client: &Client,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<ObjectMeta>, kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let request =
        requests::<K>(namespace).get_metadata(name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    match client.request::<Answer<K>>(request).await {
        Ok(WithoutManagedFields(found)) => Ok(Some(found.metadata)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Applies a merge patch to an object, or to its `subresource`, and returns the metadata after it.
pub(crate) async fn patch<K>(
    client: &Client,
    namespace: Option<&str>,
    name: &str,
    subresource: Option<&'static str>,
    patch: &Value,
) -> Result<ObjectMeta, kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    let path = subresource.map_or(name.to_string(), |subresource| format!("{name}/{subresource}"));
    let request = requests::<K>(namespace).patch_metadata(&path, &params, &Patch::Merge(patch));
    let WithoutManagedFields(patched) =
        client.request::<Answer<K>>(request.map_err(kube::Error::BuildRequest)?).await?;
    Ok(patched.metadata)
}

/// Creates an object, and returns its metadata.
pub(crate) async fn create<K>(client: &Client, namespace: Option<&str>, object: &K) -> Result<ObjectMeta, kube::Error>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    let object = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
    let request = requests::<K>(namespace).create(&params, object).map_err(kube::Error::BuildRequest)?;
    let WithoutManagedFields(created) = client.request::<Answer<K>>(for_metadata(request)).await?;
    Ok(created.metadata)
}

/// Deletes an object.
pub(crate) async fn delete<K>(
    client: &Client,
    namespace: Option<&str>,
    name: &str,
    params: &DeleteParams,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let request = requests::<K>(namespace).delete(name, params).map_err(kube::Error::BuildRequest)?;
    client.request_status::<Answer<K>>(for_metadata(request)).await.map(drop)
}

/// Asks for the metadata of the object in the answer.
fn for_metadata(mut request: http::Request<Vec<u8>>) -> http::Request<Vec<u8>> {
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(metadata));
    request
}

/// Lists the metadata of the objects that field selectors choose, in one namespace or in all.
pub(crate) async fn list<K>(
    client: &Client,
    namespace: Option<&str>,
    fields: &str,
) -> Result<Vec<ObjectMeta>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned,
{
    let (mut all, mut page) = (vec![], ListParams::default().fields(fields).limit(500));
    loop {
        let request = requests::<K>(namespace).list_metadata(&page).map_err(kube::Error::BuildRequest)?;
        let list: ObjectList<Answer<K>> = client.request(request).await?;
        all.extend(list.items.into_iter().map(|WithoutManagedFields(object)| object.metadata));
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::api::BatchJob;

    /// An API server with the jobs `a` and `b`, which lists the metadata of those of the provider `p`, one on a page.
    async fn server(request: http::Request<Body>) -> Result<http::Response<Body>, std::convert::Infallible> {
        let (accepted, query) = (request.headers()["accept"].to_str().unwrap(), request.uri().query().unwrap());
        let is_lean = accepted.contains("as=PartialObjectMetadataList") && query.contains("fieldSelector=of%3Dp&");
        let (name, next) = if query.contains("continue=second") { ("b", None) } else { ("a", Some("second")) };
        let item = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name}});
        let list = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
            "metadata": {"continue": next}, "items": if is_lean { json!([item]) } else { json!([]) }});
        Ok(http::Response::new(Body::from(list.to_string().into_bytes())))
    }

    #[tokio::test]
    async fn a_list_holds_the_metadata_of_all_pages_and_of_those_objects_alone_that_were_asked_for() {
        let client = Client::new(tower::service_fn(server), "default");
        let found = list::<BatchJob>(&client, None, "of=p").await.unwrap();
        assert_eq!(found.iter().map(|of| of.name.as_deref().unwrap()).collect::<Vec<_>>(), ["a", "b"]);
    }
}
