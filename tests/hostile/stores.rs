//! S3-compatible stores as they are: each kind works, or is refused in words that say what it lacks or which field to set.

#[path = "../support/odd_store.rs"]
mod odd_store;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use batchjob_operator::api::{InlineRequest, ObjectStoreLocation};
use batchjob_operator::requests::{Source, pass};
use batchjob_operator::results::{self, Collection};
use batchjob_operator::store::{
    Credentials, Document, Folder, ObjectDocument, StoreChecks, StoreError, SwapError, prove_conditional_writes,
};
use batchjob_operator::transport::{HostPolicy, Lookup, Transport};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use odd_store::{OddStore, Oddity};

const WORK: &str = "0123456789abcdef0123456789abcdef";

/// Every name is this machine; one is at an address that is not let in.
#[derive(Debug)]
struct Here;

#[async_trait]
impl Lookup for Here {
    async fn lookup(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        let address = if name == "shop.elsewhere.example" { "127.0.0.2" } else { "127.0.0.1" };
        Ok(vec![address.parse().unwrap()])
    }
}

fn folder(endpoint: &str, change: Value) -> Result<Folder, StoreError> {
    let mut location = json!({"uri": "s3://shop/out/", "endpoint": endpoint, "secretRef": {"name": "s"}});
    location.as_object_mut().unwrap().extend(change.as_object().cloned().unwrap());
    let location: ObjectStoreLocation = serde_json::from_value(location).unwrap();
    let secret = |s: &str| s.to_string().into();
    let credentials =
        Credentials::from_iter([("aws_access_key_id", secret("id")), ("aws_secret_access_key", secret("s3-canary"))]);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let hosts = HostPolicy::allowing(["127.0.0.1", "*.store.example"].map(|entry| entry.parse().unwrap()));
    let transport = Transport::with(hosts, Arc::new(Here), None).unwrap();
    Folder::open(&location, "s3://shop/out/", &credentials, &transport)
}

/// Everything that a job does with the store of its output, before it pays and after; what it says where it refuses.
async fn used(folder: &Folder) -> Result<(), StoreError> {
    let document = ObjectDocument { folder: folder.clone(), name: "journal.json".into() };
    let lost = |error| match error {
        SwapError::Store(error) => error,
        SwapError::Changed => panic!("nobody else writes"),
    };
    assert!(!folder.exists("manifest.json").await?);
    assert!(document.read().await?.is_none());
    document.create("{}".into()).await.map_err(lost)?;
    prove_conditional_writes(folder, "staged/scratch").await?.unwrap();
    let (read, version) = document.read().await?.unwrap();
    assert_eq!(read, "{}");
    document.swap(&version, "{\"a\":1}".into()).await.map_err(lost)?;
    assert!(folder.put_new("staged/part", "x".into()).await? && !folder.put_new("staged/part", "y".into()).await?);
    assert_eq!(folder.stat("staged/part").await?.unwrap().size, 1);
    assert!(folder.put_new("_SUCCESS", Default::default()).await?);
    Ok(())
}

async fn refused(oddity: Oddity, change: Value) -> StoreError {
    let store = OddStore::start(oddity).await;
    let folder = folder(&store.url, change).unwrap();
    used(&folder).await.expect_err(&format!("{oddity:?}"))
}

/// Case 30-other-stores.
#[tokio::test]
async fn a_store_that_cannot_do_it_is_refused_with_what_it_lacks_or_what_to_set() {
    for (oddity, change, words) in [
        (Oddity::Lacks("if-none-match"), json!({}), "does not take `If-None-Match` (NotImplemented"),
        (Oddity::Lacks("if-match"), json!({}), "does not take `If-Match` (NotImplemented"),
        (
            Oddity::WantsBucketInHost,
            json!({}),
            "SecondLevelDomainForbidden: as it is); set `addressingStyle: VirtualHosted`",
        ),
        (Oddity::Region("eu-west-3"), json!({"region": "eu-west-1"}), "set `region: eu-west-3`"),
        (Oddity::RedirectsToRegion("eu-west-3"), json!({"region": "eu-west-1"}), "set `region: eu-west-3`"),
        (Oddity::SilentRegion("eu-west-3"), json!({}), "does not say in which; set `region`"),
        (Oddity::NoLength, json!({}), "without `Content-Length`"),
        (
            Oddity::Redirects("https://u:pw@store.example:8443/x?sig=s3cret"),
            json!({}),
            "leads to https://store.example:8443 (status 308",
        ),
        (Oddity::Refuses(405, "MethodNotAllowed"), json!({}), "does not have what is asked of it (MethodNotAllowed"),
    ] {
        let error = refused(oddity, change).await;
        let said = error.to_string();
        assert!(matches!(error, StoreError::Unfit(_)) && said.contains(words), "{oddity:?}: {error:?}");
        assert!(["canary", "s3cret", "pw", "redentials"].iter().all(|word| !said.contains(word)), "{oddity:?}: {said}");
    }
}

/// Case 30-other-stores.
#[tokio::test]
async fn credentials_are_blamed_for_what_is_theirs_alone_and_the_stores_code_is_told() {
    for (status, code, is_theirs) in [
        (403, "AccessDenied", true),
        (403, "InvalidAccessKeyId", true),
        (403, "SignatureDoesNotMatch", true),
        (400, "ExpiredToken", true),
        (401, "Unauthorized", true),
        (403, "RequestTimeTooSkewed", false),
        (403, "InvalidObjectState", false),
        (403, "QuotaExceeded", false),
        (403, "SomeVendorsOwn", false),
        (400, "InvalidArgument", false),
    ] {
        let error = refused(Oddity::Refuses(status, code), json!({})).await;
        let said = error.to_string();
        assert!(said.contains(&format!("{code}: as it is")), "{said}");
        assert_eq!(matches!(error, StoreError::Denied(_)), is_theirs, "{error:?}");
        assert_eq!(said.contains("redentials"), is_theirs, "{said}");
    }
    let skewed = refused(Oddity::Refuses(403, "RequestTimeTooSkewed"), json!({})).await;
    assert!(matches!(skewed, StoreError::Unavailable(..)) && skewed.to_string().contains("clocks"), "{skewed:?}");
    let unknown = refused(Oddity::Refuses(403, "SomeVendorsOwn"), json!({})).await;
    assert!(matches!(unknown, StoreError::Rejected(_)), "it would be said again: {unknown:?}");
}

#[tokio::test]
async fn a_store_that_can_do_it_is_used_however_it_is_addressed() {
    for (oddity, endpoint, change) in [
        (Oddity::None, "http://127.0.0.1:PORT", json!({})),
        (Oddity::None, "http://127.0.0.1:PORT/", json!({"addressingStyle": "Path"})),
        (Oddity::WantsBucketInHost, "http://store.example:PORT", json!({"addressingStyle": "VirtualHosted"})),
        (Oddity::WantsBucketInHost, "http://shop.store.example:PORT/", json!({"addressingStyle": "VirtualHosted"})),
        (Oddity::Below("/storage/v1/s3"), "http://127.0.0.1:PORT/storage/v1/s3/", json!({})),
        (Oddity::Region("eu-west-3"), "http://127.0.0.1:PORT", json!({})),
        (Oddity::Region("eu-west-3"), "http://127.0.0.1:PORT", json!({"region": "eu-west-3"})),
        (Oddity::RedirectsToRegion("garage"), "http://127.0.0.1:PORT", json!({})),
        (Oddity::NoListing(501, "NotImplemented"), "http://127.0.0.1:PORT", json!({})),
    ] {
        let store = OddStore::start(oddity).await;
        let folder = folder(&endpoint.replace("PORT", &store.port.to_string()), change).unwrap();
        used(&folder).await.unwrap_or_else(|e| panic!("{oddity:?}: {e}"));
        assert_eq!(
            store.keys(),
            ["/shop/out/_SUCCESS", "/shop/out/journal.json", "/shop/out/staged/part"],
            "{oddity:?}"
        );
    }
}

#[tokio::test]
async fn a_host_with_the_bucket_in_it_is_judged_like_any_other() {
    let store = OddStore::start(Oddity::None).await;
    let endpoint = format!("http://elsewhere.example:{}", store.port);
    let folder = folder(&endpoint, json!({"addressingStyle": "VirtualHosted"})).unwrap();
    let error = folder.exists("a").await.unwrap_err();
    let said = error.to_string();
    assert!(
        matches!(error, StoreError::NotAllowed(_)) && said.contains("shop.elsewhere.example resolves to"),
        "{said}"
    );
    assert_eq!(store.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn the_region_is_asked_for_once() {
    let store = OddStore::start(Oddity::Region("eu-west-3")).await;
    let folder = folder(&store.url, json!({})).unwrap();
    for _ in 0..3 {
        assert!(!folder.exists("a").await.unwrap());
    }
    let asked = store.seen();
    let expected = ["HEAD", "GET", "HEAD", "HEAD", "HEAD"].map(|method| format!("{method} /shop/out/a"));
    assert_eq!(asked, expected, "refused, asked why, and three times answered");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out() {
    let store = OddStore::start(Oddity::IgnoresConditions).await;
    let folder = folder(&store.url, json!({})).unwrap();
    let proved = prove_conditional_writes(&folder, "staged/scratch").await.unwrap();
    assert!(proved.unwrap_err().contains("it created an object that exists"));
}

#[tokio::test]
async fn what_cannot_be_listed_is_said_to_need_listing() {
    for (status, code, words) in [
        (403, "AccessDenied", "`s3:ListBucket`"),
        (501, "NotImplemented", "does not list objects (NotImplemented: as it is); name a single object"),
    ] {
        let store = OddStore::start(Oddity::NoListing(status, code)).await;
        let folder = folder(&store.url, json!({})).unwrap();
        let error = folder.list().try_collect::<Vec<_>>().await.unwrap_err().to_string();
        assert!(error.contains("s3://shop/out/") && error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_store_that_deletes_one_object_at_a_time_is_asked_to() {
    for oddity in [Oddity::None, Oddity::NoBulkDelete] {
        let store = OddStore::start(oddity).await;
        let folder = folder(&store.url, json!({})).unwrap();
        for name in ["a", "b", "c"] {
            folder.put_new(&format!("staged/{name}"), "x".into()).await.unwrap();
        }
        folder.delete_below("staged/").await.unwrap();
        assert_eq!(store.keys(), Vec::<String>::new(), "{oddity:?}");
    }
}

/// What is collected at a provider may soon be nowhere else: it is read back, unless the store is seen to refuse what changed on
/// its way, be it an object or a part of one.
#[tokio::test]
async fn a_part_is_read_back_where_the_store_is_not_seen_to_check_what_is_put() {
    for (oddity, read_back) in [
        (Oddity::None, false),
        (Oddity::IgnoresHashes, true),
        (Oddity::IgnoresHashesOfParts, true),
        (Oddity::Lacks("x-amz-checksum-sha256"), true),
    ] {
        let store = OddStore::start(oddity).await;
        let checks = StoreChecks::default();
        for attempt_key in ["00000-1", "00001-1"] {
            let folder = folder(&store.url, json!({})).unwrap().seeing(checks.clone());
            let (part, tried) = collected(&folder, attempt_key, &store).await;
            let gets = store.seen().iter().filter(|call| call.starts_with("GET ") && call.contains(&part)).count();
            assert_eq!(gets, usize::from(read_back), "{oddity:?} {attempt_key}");
            assert_eq!(tried, attempt_key == "00000-1", "{oddity:?}: a store is tried once");
        }
        assert!(!store.keys().iter().any(|key| key.contains("checked-put")), "{oddity:?}: {:?}", store.keys());
    }
}

/// The name of a part that is collected in the store, and whether the store was tried for it.
async fn collected(folder: &Folder, attempt_key: &str, store: &OddStore) -> (String, bool) {
    let request =
        |i: usize| InlineRequest { custom_id: i.to_string(), body: Some(Default::default()), ..Default::default() };
    let source = Source::Inline((0..3).map(request).collect());
    let spool = std::env::temp_dir();
    let shard = pass(source, &crate::lines::support::options::options(), Some((folder, WORK)), &spool)
        .await
        .unwrap()
        .shards
        .next()
        .unwrap()
        .unwrap();
    let answer = r#"{"custom_id":"r0-01234567","response":{"status_code":200,"body":{"n":1}}}"#;
    let before = store.seen().len();
    let collection = Collection {
        folder,
        work_id: WORK,
        attempt_key: attempt_key.into(),
        index: &shard.index_sha256,
        requests: shard.requests,
        files: vec![futures::stream::iter([Ok(Bytes::from(answer))]).boxed()],
        long_context_above: None,
        may_be_unreadable: &|_| false,
        unusable: "",
    };
    let part = results::collect(collection, &spool).await.unwrap();
    (part.name, store.seen()[before..].iter().any(|call| call.contains("checked-put")))
}
