//! Objects without `managedFields`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::object::HasStatus;
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// An object whose `managedFields` are not read. They are nested as deep as the content that they describe, and one
/// object that cannot be read makes a whole list unreadable. Writing an object without them keeps those on the server.
#[derive(Serialize, Clone, Debug, PartialEq)]
#[serde(transparent)]
pub struct WithoutManagedFields<K>(pub K);

type Fields = BTreeMap<String, Box<RawValue>>;

impl<'de, K: DeserializeOwned> Deserialize<'de> for WithoutManagedFields<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Fields::deserialize(deserializer)?;
        without_managers(object).map(WithoutManagedFields).map_err(D::Error::custom)
    }
}

fn without_managers<K: DeserializeOwned>(mut object: Fields) -> serde_json::Result<K> {
    if let Some(metadata) = object.get_mut("metadata") {
        let mut fields: Fields = serde_json::from_str(metadata.get())?;
        fields.remove("managedFields");
        *metadata = to_raw_value(&fields)?;
    }
    K::deserialize(MapDeserializer::new(object.iter().map(|(key, value)| (key.as_str(), &**value))))
}

impl<K> Deref for WithoutManagedFields<K> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.0
    }
}

impl<K> DerefMut for WithoutManagedFields<K> {
    fn deref_mut(&mut self) -> &mut K {
        &mut self.0
    }
}

impl<K: Resource> Resource for WithoutManagedFields<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

impl<K: HasStatus> HasStatus for WithoutManagedFields<K> {
    type Status = K::Status;

    fn status(&self) -> Option<&K::Status> {
        self.0.status()
    }

    fn status_mut(&mut self) -> &mut Option<K::Status> {
        self.0.status_mut()
    }
}
