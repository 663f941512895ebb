//! Objects as keys of ConfigMaps.

use std::collections::BTreeMap;

use bytes::Bytes;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use object_store::path::Path;

use crate::store::layout;

/// An object that was found.
pub(super) struct FoundObject {
    /// Number of its ConfigMap.
    pub(super) at: usize,
    pub(super) content: Bytes,
}

pub(super) fn find(maps: &[ConfigMap], key: &str) -> Option<FoundObject> {
    maps.iter().enumerate().find_map(|(at, map)| {
        let text = map.data.as_ref().and_then(|d| d.get(key)).map(|t| Bytes::copy_from_slice(t.as_bytes()));
        let binary = || map.binary_data.as_ref()?.get(key).map(|b| Bytes::copy_from_slice(&b.0));
        text.or_else(binary).map(|content| FoundObject { at, content })
    })
}

/// Text is stored as text, so that people can read it.
pub(super) fn insert(map: &mut ConfigMap, key: String, content: &Bytes) {
    remove(map, &key);
    match std::str::from_utf8(content) {
        Ok(text) => {
            map.data.get_or_insert_with(BTreeMap::new).insert(key, text.into());
        }
        Err(_) => {
            map.binary_data.get_or_insert_with(BTreeMap::new).insert(key, ByteString(content.to_vec()));
        }
    }
}

pub(super) fn remove(map: &mut ConfigMap, key: &str) -> bool {
    let text = map.data.as_mut().and_then(|d| d.remove(key)).is_some();
    let binary = map.binary_data.as_mut().and_then(|d| d.remove(key)).is_some();
    text || binary
}

pub(super) fn contents(map: &ConfigMap) -> impl Iterator<Item = (&str, Bytes)> {
    let text = map.data.iter().flatten().map(|(key, text)| (key.as_str(), Bytes::copy_from_slice(text.as_bytes())));
    let binary = map.binary_data.iter().flatten().map(|(key, b)| (key.as_str(), Bytes::copy_from_slice(&b.0)));
    text.chain(binary)
}

/// Returns the bytes of the keys for which `counted` holds.
pub(super) fn used(map: &ConfigMap, counted: impl Fn(&str) -> bool) -> usize {
    let text = map.data.iter().flatten().map(|(key, text)| (key, text.len()));
    let binary = map.binary_data.iter().flatten().map(|(key, b)| (key, b.0.len()));
    text.chain(binary).filter(|(key, _)| counted(key)).map(|(key, size)| key.len() + size).sum()
}

pub(super) fn key(path: &Path) -> String {
    path.as_ref().replace('/', ".")
}

/// Whether an object is always in the first ConfigMap. These documents lead to all others.
pub(super) fn is_pinned(key: &str) -> bool {
    [layout::JOURNAL, layout::MANIFEST, layout::SUCCESS].iter().any(|name| name.replace('/', ".") == key)
}

pub(super) fn is_request(key: &str) -> bool {
    key.contains(".shards.")
}
