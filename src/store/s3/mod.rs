//! S3-compatible servers: how a bucket is addressed, its region, and the meaning of refusals.

mod answers;
mod refusal;

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, Checksum};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use secrecy::ExposeSecret;
use url::{Host, Url};

pub(super) use refusal::{NoContentLength, Refusal, said};

use super::StoreError;
use super::bucket::{Bucket, Credentials, Place, SecretKey};
use super::checks::CheckedBucket;
use crate::api::{AddressingStyle, ObjectStoreLocation};
use crate::transport::{ObjectConnector, Transport};
use answers::{Answers, Region};

/// Vendors whose servers refuse path-style requests, for all buckets or for new ones: Alibaba's OSS, Tencent's COS
/// (<https://www.tencentcloud.com/document/product/436/57456>) and Volcano Engine's TOS.
const VIRTUAL_HOSTED_ONLY: [&str; 3] = [".aliyuncs.com", ".myqcloud.com", ".volces.com"];

/// Keys of a Secret with S3 credentials.
pub(super) const SECRET_KEYS: [SecretKey; 3] = [
    SecretKey { name: ACCESS_KEY_ID, required: true },
    SecretKey { name: SECRET_ACCESS_KEY, required: true },
    SecretKey { name: SESSION_TOKEN, required: false },
];
const ACCESS_KEY_ID: &str = "aws_access_key_id";
const SECRET_ACCESS_KEY: &str = "aws_secret_access_key";
const SESSION_TOKEN: &str = "aws_session_token";

/// Opens the bucket of `place` at the location's server, without any request to it.
///
/// # Errors
/// Fails if the location cannot be addressed as it asks.
pub(super) fn open(
    place: &Place,
    location: &ObjectStoreLocation,
    credentials: &Credentials,
    transport: &Transport,
) -> Result<Bucket, StoreError> {
    let value = |key| credentials.get(key).map(|value| value.expose_secret().to_string());
    let required = |key| value(key).ok_or_else(|| StoreError::Invalid(format!("the Secret has no key '{key}'")));
    let credential = AwsCredential {
        key_id: required(ACCESS_KEY_ID)?,
        secret_key: required(SECRET_ACCESS_KEY)?,
        token: value(SESSION_TOKEN),
    };
    let region = Region::new(location.region.as_deref(), location.endpoint.is_none());
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&place.bucket)
        .with_region(region.assumed())
        .with_access_key_id(&credential.key_id)
        .with_secret_access_key(&credential.secret_key);
    if let Some(token) = &credential.token {
        builder = builder.with_token(token);
    }
    let style = location.addressing_style.unwrap_or_default();
    let server = location.endpoint.as_deref().map(|endpoint| server(endpoint, style, &place.bucket)).transpose()?;
    builder = match server {
        Some(Server { url, virtual_hosted }) => {
            builder.with_endpoint(url).with_virtual_hosted_style_request(virtual_hosted).with_allow_http(true)
        }
        None => builder.with_virtual_hosted_style_request(style == AddressingStyle::VirtualHosted),
    };
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
    let answers = Answers::new(ObjectConnector::new(transport.clone()), credential, region);
    builder = builder.with_http_connector(answers.clone()).with_retry(RetryConfig {
        backoff,
        max_retries: 3,
        retry_timeout: Duration::from_secs(30),
    });
    let built = |builder: AmazonS3Builder| match builder.build() {
        Ok(store) => Ok(Arc::new(store) as Arc<dyn ObjectStore>),
        Err(e) => Err(StoreError::Unfit(e.to_string())),
    };
    let one_by_one = built(builder.clone().with_config(AmazonS3ConfigKey::DisableBulkDelete, "true"))?;
    let checking = builder.clone().with_checksum_algorithm(Checksum::SHA256);
    let checked = CheckedBucket {
        name: format!("{}/{}", location.endpoint.as_deref().unwrap_or("s3"), place.bucket),
        damaged: built(checking.clone().with_http_connector(answers.damaging()))?,
        intact: built(checking)?,
    };
    Ok(Bucket { store: built(builder)?, one_by_one, checked: Some(checked) })
}

/// A server in the form that `object_store` takes. The host of a virtual-hosted one includes the bucket.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    url: String,
    virtual_hosted: bool,
}

fn server(endpoint: &str, style: AddressingStyle, bucket: &str) -> Result<Server, StoreError> {
    let invalid = |why: &str| StoreError::Unfit(format!("`endpoint` '{endpoint}' {why}"));
    let mut url = Url::parse(endpoint).map_err(|e| invalid(&format!("is no URL ({e})")))?;
    let virtual_hosted = match (style, url.host()) {
        (AddressingStyle::Path, _) => false,
        (AddressingStyle::Auto, Some(Host::Domain(host))) => {
            VIRTUAL_HOSTED_ONLY.iter().any(|vendor| host.ends_with(vendor))
        }
        (AddressingStyle::Auto, _) => false,
        (AddressingStyle::VirtualHosted, Some(Host::Domain(_))) => true,
        (AddressingStyle::VirtualHosted, _) => {
            return Err(invalid(
                "is an address; `addressingStyle: VirtualHosted` puts the bucket before a host's name",
            ));
        }
    };
    if virtual_hosted {
        let host = url.host_str().unwrap_or_default();
        // Consoles show endpoints with the bucket in front.
        if !host.starts_with(&format!("{bucket}.")) {
            let host = format!("{bucket}.{host}");
            url.set_host(Some(&host)).map_err(|e| invalid(&format!("takes no bucket before its host ({e})")))?;
        }
    }
    Ok(Server { url: url.as_str().trim_end_matches('/').into(), virtual_hosted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_a_part_of_the_path_or_of_the_host() {
        use AddressingStyle::{Auto, Path, VirtualHosted};
        for (endpoint, style, url, virtual_hosted) in [
            ("https://minio.example/", Auto, "https://minio.example", false),
            ("https://minio.example:9000", VirtualHosted, "https://shop.minio.example:9000", true),
            ("https://gw.example/storage/v1/s3/", Path, "https://gw.example/storage/v1/s3", false),
            ("https://gw.example/s3", VirtualHosted, "https://shop.gw.example/s3", true),
            ("http://[fd00::1]:9000", Auto, "http://[fd00::1]:9000", false),
            ("http://10.0.0.1:9000", Path, "http://10.0.0.1:9000", false),
            ("https://oss-cn-shanghai.aliyuncs.com", Auto, "https://shop.oss-cn-shanghai.aliyuncs.com", true),
            ("https://shop.cos.ap-beijing.myqcloud.com", Auto, "https://shop.cos.ap-beijing.myqcloud.com", true),
            ("https://oss-cn-shanghai.aliyuncs.com", Path, "https://oss-cn-shanghai.aliyuncs.com", false),
            ("https://notaliyuncs.com", Auto, "https://notaliyuncs.com", false),
        ] {
            let expected = Server { url: url.into(), virtual_hosted };
            assert_eq!(server(endpoint, style, "shop").unwrap(), expected, "{endpoint} {style:?}");
        }
        for address in ["http://10.0.0.1:9000", "http://[fd00::1]"] {
            let error = server(address, VirtualHosted, "shop").unwrap_err();
            assert!(error.to_string().contains("`addressingStyle: VirtualHosted`"), "{error}");
        }
    }
}
