//! Buckets: the backends that URIs name, and the opening of their buckets. Another backend is a file beside `s3` and a
//! row in each `match` here.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use object_store::ObjectStore;
use secrecy::{ExposeSecret, SecretString};

use super::checks::CheckedBucket;
use super::{StoreError, s3};
use crate::api::ObjectStoreLocation;
use crate::transport::Transport;

/// A protocol of object storage, named by the scheme of its URIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Amazon S3, and servers that speak its protocol.
    S3,
}

/// A key of a Secret that opens a bucket, under `object_store`'s name of the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretKey {
    /// The key, such as `aws_access_key_id`.
    pub name: &'static str,
    /// Whether the bucket cannot be opened without it.
    pub required: bool,
}

impl Backend {
    const ALL: [Backend; 1] = [Backend::S3];

    /// Returns the scheme of its URIs.
    pub fn scheme(self) -> &'static str {
        match self {
            Backend::S3 => "s3",
        }
    }

    /// Returns the keys that are read from the Secret of a location. No other key of the Secret is read.
    pub fn secret_keys(self) -> &'static [SecretKey] {
        match self {
            Backend::S3 => &s3::SECRET_KEYS,
        }
    }

    /// Opens the bucket of `place`, without any request to the server.
    ///
    /// # Errors
    /// Fails if the location cannot be addressed as it asks.
    pub(super) fn open(
        self,
        place: &Place,
        location: &ObjectStoreLocation,
        credentials: &Credentials,
        transport: &Transport,
    ) -> Result<Bucket, StoreError> {
        match self {
            Backend::S3 => s3::open(place, location, credentials, transport),
        }
    }
}

/// A place in a bucket, parsed from a URI such as `s3://bucket/folder/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Protocol of the server.
    pub backend: Backend,
    /// Name of the bucket.
    pub bucket: String,
    /// A key, or a prefix of keys.
    pub key: String,
}

impl FromStr for Place {
    type Err = StoreError;

    fn from_str(uri: &str) -> Result<Self, StoreError> {
        let invalid = || {
            let forms: Vec<String> = Backend::ALL.iter().map(|b| format!("{}://BUCKET/KEY", b.scheme())).collect();
            StoreError::Invalid(format!("'{uri}' is not a URI of the form {}", forms.join(" or ")))
        };
        let (scheme, rest) = uri.split_once("://").ok_or_else(invalid)?;
        let backend = Backend::ALL.into_iter().find(|b| b.scheme() == scheme).ok_or_else(invalid)?;
        let (bucket, key) = rest.split_once('/').ok_or_else(invalid)?;
        // object_store would collapse `//` and refuse `..`. Both are surely mistakes.
        let odd = key.split('/').rev().skip(1).any(str::is_empty) || key.split('/').any(|s| s == "." || s == "..");
        match bucket.is_empty() || key.is_empty() || odd {
            true => Err(invalid()),
            false => Ok(Place { backend, bucket: bucket.into(), key: key.into() }),
        }
    }
}

/// The values of a Secret's keys that open a bucket (see [`Backend::secret_keys`]). They are never printed.
#[derive(Clone, Debug, Default)]
pub struct Credentials(BTreeMap<String, SecretString>);

impl Credentials {
    /// Returns the value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&SecretString> {
        self.0.get(key)
    }

    /// Returns the bytes of all values.
    pub(super) fn bytes(&self) -> usize {
        self.0.values().map(|value| value.expose_secret().len()).sum()
    }
}

impl<K: Into<String>> FromIterator<(K, SecretString)> for Credentials {
    fn from_iter<I: IntoIterator<Item = (K, SecretString)>>(values: I) -> Self {
        Credentials(values.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

/// An open bucket.
pub(super) struct Bucket {
    pub store: Arc<dyn ObjectStore>,
    /// The same bucket, with one request for each deletion: not every server deletes many objects with one request.
    pub one_by_one: Arc<dyn ObjectStore>,
    /// The same bucket with a checksum on each put, for the store to check; None if the backend has no checksums.
    pub checked: Option<CheckedBucket>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed_and_odd_ones_refused() {
        let place: Place = "s3://bucket/a/b/".parse().unwrap();
        assert_eq!((place.backend, place.bucket.as_str(), place.key.as_str()), (Backend::S3, "bucket", "a/b/"));
        for odd in ["s3://bucket", "s3://bucket/", "gs://b/k", "b/k", "s3:///k", "s3://b/../k", "s3://b/a//k"] {
            let error = odd.parse::<Place>().unwrap_err();
            assert!(error.to_string().contains("s3://BUCKET/KEY"), "{odd}: {error}");
        }
    }
}
