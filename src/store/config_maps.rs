//! A folder made of ConfigMaps, for small jobs without object storage. It implements `ObjectStore`, so that the
//! journal's protocol and the data path are the same for both.
//!
//! An object is one key of a ConfigMap, with `.` for each `/` of its name. A write replaces the whole ConfigMap, on
//! condition of the resourceVersion that was read, so that a condition on one object holds whatever happens to the
//! others. An ETag is a hash of the content: equal bytes have equal ETags, as in S3.

mod keys;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ObjectMeta as Metadata, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use keys::{FoundObject, contents, find, insert, is_pinned, is_request, key, remove, used};

use super::folder::WORK_ATTRIBUTE;
use crate::api::FIELD_MANAGER;
use crate::api::text::{clip, hex};

/// Most bytes of content in one ConfigMap. The API server accepts 1 MiB with keys
/// (https://kubernetes.io/docs/concepts/configuration/configmap/). The rest is left for the journal to grow.
const ROOM: usize = 740 << 10;
/// Bytes in addition for the journal and the manifest: 8 KiB for each batch that such a journal can have.
const RESERVE: usize = 256 << 10;
/// Most tries of a write that others interrupt. After the last the caller gets an error, and may try again later.
const TRIES: u32 = 16;

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const JOB_LABEL: &str = "llmbatch.dev/job";
const WORK_ANNOTATION: &str = "llmbatch.dev/work";

/// The reason why ConfigMaps refuse an operation.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigMapError {
    /// A ConfigMap of this name exists that was not made for the job.
    #[error("{0}")]
    Foreign(String),
    /// The operator lacks the permission.
    #[error("{0}")]
    Forbidden(String),
    /// The object does not fit.
    #[error("{0}")]
    TooLarge(String),
}

/// A ConfigMap, and further ones for the objects that do not fit into it.
#[derive(Clone)]
pub struct ConfigMaps {
    api: Api<ConfigMap>,
    namespace: String,
    name: String,
    job: String,
    limit: usize,
}

impl std::fmt::Debug for ConfigMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for ConfigMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConfigMap {}/{}", self.namespace, self.name)
    }
}

impl ConfigMaps {
    /// Creates a folder of the ConfigMap `name` in `namespace`, made for `job`, and at most `limit - 1` more. Reads
    /// nothing.
    pub fn new(client: Client, namespace: &str, name: &str, job: &str, limit: usize) -> ConfigMaps {
        ConfigMaps {
            api: Api::namespaced(client, namespace),
            namespace: namespace.into(),
            name: name.into(),
            job: job.into(),
            limit: limit.max(1),
        }
    }

    /// Returns the name of the ConfigMap that holds the object.
    pub(super) async fn holder(&self, path: &Path) -> object_store::Result<Option<String>> {
        let key = key(path);
        let maps = self.read(&key).await?;
        Ok(find(&maps, &key).map(|found| self.name_of(found.at)))
    }

    fn name_of(&self, at: usize) -> String {
        match at {
            0 => self.name.clone(),
            n => format!("{}-{n}", self.name),
        }
    }

    /// Reads the ConfigMaps that may hold `key`, as many as exist.
    async fn read(&self, key: &str) -> object_store::Result<Vec<ConfigMap>> {
        let mut maps = vec![];
        let limit = if is_pinned(key) { 1 } else { self.limit };
        while maps.len() < limit {
            let name = self.name_of(maps.len());
            let Some(map) = self.api.get_opt(&name).await.map_err(|e| self.error(&name, e))? else { break };
            let ours = map.labels().get(MANAGED_BY).is_some_and(|by| by == FIELD_MANAGER);
            if !ours || map.labels().get(JOB_LABEL) != Some(&self.job) {
                return Err(refused(ConfigMapError::Foreign(format!(
                    "ConfigMap '{name}' of namespace '{}' was not made for this job and is left alone; name another one in \
                     `spec.output`, or delete it",
                    self.namespace
                ))));
            }
            maps.push(map);
        }
        Ok(maps)
    }

    fn error(&self, name: &str, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) if status.is_forbidden() => refused(ConfigMapError::Forbidden(format!(
                "the operator may not use ConfigMap '{name}' in namespace '{}'; its ClusterRole must allow get, create, \
                 update and delete on configmaps",
                self.namespace
            ))),
            error => generic(std::io::Error::other(clip(crate::transport::chain(&error), 512))),
        }
    }

    /// Tries to put an object once. Returns None if another writer interrupted.
    async fn try_put(
        &self,
        path: &Path,
        content: &Bytes,
        options: &PutOptions,
    ) -> object_store::Result<Option<PutResult>> {
        let key = key(path);
        let mut maps = self.read(&key).await?;
        let found = find(&maps, &key);
        judge(path, found.as_ref(), &options.mode)?;
        let at = self.place(&maps, &key, content.len(), found.map(|f| f.at))?;
        let mut map = if at < maps.len() { maps.swap_remove(at) } else { self.fresh(at) };
        if let Some(work) = options.attributes.get(&Attribute::Metadata(WORK_ATTRIBUTE.into())) {
            map.annotations_mut().insert(WORK_ANNOTATION.into(), work.to_string());
        }
        insert(&mut map, key, content);
        Ok(self.write(map).await?.then(|| PutResult {
            e_tag: Some(etag(content)),
            version: None,
            extensions: Default::default(),
        }))
    }

    /// Writes a ConfigMap that was read and changed. Returns false if another writer was first.
    async fn write(&self, map: ConfigMap) -> object_store::Result<bool> {
        let (name, params) =
            (map.name_any(), PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() });
        let written = match map.metadata.resource_version {
            Some(_) => self.api.replace(&name, &params, &map).await,
            None => self.api.create(&params, &map).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(s)) if s.is_conflict() || s.is_already_exists() || s.is_not_found() => Ok(false),
            Err(e) => Err(self.error(&name, e)),
        }
    }

    fn fresh(&self, at: usize) -> ConfigMap {
        let labels = [(MANAGED_BY, FIELD_MANAGER), (JOB_LABEL, &self.job)];
        let metadata = Metadata {
            name: Some(self.name_of(at)),
            labels: Some(labels.map(|(k, v)| (k.to_string(), v.to_string())).into()),
            ..Default::default()
        };
        ConfigMap { metadata, ..Default::default() }
    }

    /// Chooses the ConfigMap of an object of this size: the one that has it, or the first with room. Requests take at
    /// most half of all room; the other half is for their answers.
    fn place(&self, maps: &[ConfigMap], key: &str, bytes: usize, there: Option<usize>) -> object_store::Result<usize> {
        let without = |map: &ConfigMap| used(map, |k| k != key);
        let fits = |map: &ConfigMap| without(map) + bytes <= ROOM + if is_pinned(key) { RESERVE } else { 0 };
        let staged: usize = maps.iter().map(|map| used(map, is_request)).sum();
        let crowded = is_request(key) && there.is_none() && staged + bytes > self.limit * ROOM / 2;
        let at = match there {
            Some(at) => maps.get(at).is_some_and(fits).then_some(at),
            None if is_pinned(key) => maps.first().is_none_or(fits).then_some(0),
            None => maps.iter().position(fits).or((maps.len() < self.limit && bytes <= ROOM).then_some(maps.len())),
        };
        at.filter(|_| !crowded).ok_or_else(|| {
            let most = self.limit * ROOM / 1024;
            refused(ConfigMapError::TooLarge(format!(
                "{key} does not fit into ConfigMap '{}' and those beside it: {} of {bytes} bytes, where all together hold {most} \
                 KiB, half of it requests; write to object storage, or raise --output-config-maps",
                self.name,
                if is_request(key) { "requests" } else { "content" },
            )))
        })
    }

    async fn get(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let key = key(path);
        let maps = self.read(&key).await?;
        let FoundObject { at, content } = find(&maps, &key).ok_or_else(|| not_found(path))?;
        let meta = meta(path.clone(), &content);
        options.check_preconditions(&meta)?;
        if options.range.is_some() {
            return Err(unsupported("read a range"));
        }
        let work = maps.get(at).and_then(|map| map.annotations().get(WORK_ANNOTATION).cloned());
        let attributes = work.map(|work| (Attribute::Metadata(WORK_ATTRIBUTE.into()), work));
        let range = 0..meta.size;
        let content = futures::stream::once(std::future::ready(Ok(content))).boxed();
        let (payload, attributes) = (GetResultPayload::Stream(content), Attributes::from_iter(attributes));
        Ok(GetResult { payload, meta, range, attributes, extensions: Default::default() })
    }

    async fn delete(&self, paths: Vec<Path>) -> object_store::Result<Vec<Path>> {
        let keys: Vec<String> = paths.iter().map(key).collect();
        for _ in 0..TRIES {
            if self.try_delete(&keys).await? {
                return Ok(paths);
            }
        }
        Err(busy(self))
    }

    /// Removes the keys, and then the last ConfigMaps as long as they are empty. Returns false if another writer
    /// interrupted.
    async fn try_delete(&self, keys: &[String]) -> object_store::Result<bool> {
        let mut maps = self.read("").await?;
        let mut undisturbed = true;
        for map in &mut maps {
            if keys.iter().filter(|key| remove(map, key)).count() > 0 {
                undisturbed &= self.write(map.clone()).await?;
            }
        }
        while maps.len() > 1 && undisturbed && maps.last().is_some_and(|map| used(map, |_| true) == 0) {
            let Some(last) = maps.pop() else { break };
            self.drop_empty(&last.name_any()).await?;
        }
        Ok(undisturbed)
    }

    async fn drop_empty(&self, name: &str) -> object_store::Result<()> {
        let Some(map) = self.api.get_opt(name).await.map_err(|e| self.error(name, e))? else { return Ok(()) };
        if used(&map, |_| true) > 0 {
            return Ok(());
        }
        let preconditions = Preconditions { resource_version: map.resource_version(), uid: map.uid() };
        let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
        match self.api.delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(()),
            Err(e) => Err(self.error(name, e)),
        }
    }

    async fn list_all(&self, prefix: Option<Path>) -> object_store::Result<Vec<ObjectMeta>> {
        let below = prefix.filter(|p| !p.as_ref().is_empty()).map(|p| format!("{}.", key(&p))).unwrap_or_default();
        let maps = self.read("").await?;
        let all = maps.iter().flat_map(contents).filter(|(key, _)| key.starts_with(&below));
        Ok(all.map(|(key, content)| meta(Path::from(key), &content)).collect())
    }
}

#[async_trait]
impl ObjectStore for ConfigMaps {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let content = Bytes::from(payload);
        for _ in 0..TRIES {
            if let Some(put) = self.try_put(path, &content, &options).await? {
                return Ok(put);
            }
        }
        Err(busy(self))
    }

    /// Only writers of more than a few megabytes ask for this, and there is no room for so much.
    async fn put_multipart_opts(
        &self,
        path: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(refused(ConfigMapError::TooLarge(format!(
            "{path} is too large for ConfigMap '{}'; write to object storage",
            self.name
        ))))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.get(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let maps = self.clone();
        let deleted = async move { maps.delete(paths.try_collect().await?).await };
        futures::stream::once(deleted).map_ok(|paths| futures::stream::iter(paths).map(Ok)).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (maps, prefix) = (self.clone(), prefix.cloned());
        let all = async move { maps.list_all(prefix).await };
        futures::stream::once(all).map_ok(|all| futures::stream::iter(all).map(Ok)).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> object_store::Result<ListResult> {
        Err(unsupported("list with a delimiter"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        Err(unsupported("copy"))
    }
}

fn judge(path: &Path, found: Option<&FoundObject>, mode: &PutMode) -> object_store::Result<()> {
    let source = || Box::new(std::io::Error::other("it is not what was judged"));
    match (mode, found) {
        (PutMode::Create, Some(_)) => Err(Error::AlreadyExists { path: path.to_string(), source: source() }),
        (PutMode::Update(wanted), found) if found.map(|f| etag(&f.content)) != wanted.e_tag => {
            Err(Error::Precondition { path: path.to_string(), source: source() })
        }
        _ => Ok(()),
    }
}

fn etag(content: &[u8]) -> String {
    hex(&digest(&SHA256, content).as_ref()[..16])
}

fn meta(location: Path, content: &Bytes) -> ObjectMeta {
    let (size, e_tag) = (content.len() as u64, Some(etag(content)));
    ObjectMeta { location, last_modified: Default::default(), size, e_tag, version: None }
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "ConfigMaps", source: Box::new(source) }
}

fn refused(why: ConfigMapError) -> Error {
    generic(why)
}

fn busy(maps: &ConfigMaps) -> Error {
    generic(std::io::Error::other(format!("{maps} is written to by others all the time")))
}

fn not_found(path: &Path) -> Error {
    Error::NotFound { path: path.to_string(), source: Box::new(std::io::Error::other("no ConfigMap has that key")) }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.into(), implementer: "ConfigMaps".into() }
}
