//! Object stores that are broken, odd or hostile: everything ends, nothing is taken for more than it is.

use std::error::Error;
use std::time::Duration;

use batchjob_operator::api::ObjectStoreLocation;
use batchjob_operator::controller::StepError;
use batchjob_operator::store::{
    Credentials, Document, Folder, ObjectDocument, StoreError, SwapError, prove_conditional_writes,
};
use futures::{StreamExt, TryStreamExt};

use super::answers::{http, odd};
use super::server::{Answer, Server, Then};
use super::transport;

fn folder(server: &Server) -> Folder {
    let location: ObjectStoreLocation = serde_json::from_value(serde_json::json!({
        "uri": "s3://bucket/in/", "endpoint": server.url, "secretRef": {"name": "s"},
    }))
    .unwrap();
    let secret = |s: &str| s.to_string().into();
    let credentials =
        Credentials::from_iter([("aws_access_key_id", secret("id")), ("aws_secret_access_key", secret("s3-canary"))]);
    Folder::open(&location, &location.uri.clone(), &credentials, &transport()).unwrap()
}

fn document(server: &Server) -> ObjectDocument {
    ObjectDocument { folder: folder(server), name: "journal.json".into() }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(150), future).await.unwrap_or_else(|_| panic!("{what}: no end"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_answer_to_a_write_never_means_that_it_was_refused() {
    let run = |(name, answer): (String, Answer)| async move {
        let server = Server::start(move |_, _| answer.clone()).await;
        let document = document(&server);
        let created = in_time(&name, document.create("{}".into())).await;
        // What a store says to a write that lost, whatever comes with it: read again.
        let lost = matches!(created, Err(SwapError::Changed));
        let taken = created.is_ok();
        assert!(!lost || ["304", "409"].iter().any(|status| name.starts_with(status)), "{name}: {created:?}");
        assert!(!taken || name.starts_with("20") || name.starts_with("another"), "{name}: {created:?}");
        if let Err(SwapError::Store(e)) = created {
            assert!(!e.to_string().contains("s3-canary"), "{name}: {e}");
        }
    };
    futures::stream::iter(odd()).map(run).buffer_unordered(24).for_each(|()| async {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_read_whole_or_not_at_all() {
    let cut = |body: &str, length: usize| {
        Answer {
        bytes: format!("HTTP/1.1 200 OK\r\netag: \"e\"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").into_bytes(),
        then: Then::Close,
    }
    };
    let read = |answer: Answer| async move {
        let server = Server::start(move |_, _| answer.clone()).await;
        in_time("a read", document(&server).read()).await
    };
    assert!(read(cut("{}", 2)).await.unwrap().is_some());
    assert!(matches!(read(cut("{", 2)).await, Err(StoreError::Unavailable(..))));
    let vast = Answer { then: Then::Endless(&[b' '; 65_536]), ..cut("{", 17 << 20) };
    assert!(matches!(read(vast).await, Err(StoreError::Corrupt(_))), "over 16 MB");
    let chunk: &'static str = Box::leak(format!("10000\r\n{}\r\n", " ".repeat(65_536)).into_boxed_str());
    let head = String::from_utf8(cut("", 10).bytes).unwrap();
    let bytes = head.replace("connection", "transfer-encoding: chunked\r\nconnection").into_bytes();
    let more_than_announced = Answer { bytes, then: Then::Endless(chunk.as_bytes()) };
    assert!(matches!(read(more_than_announced).await, Err(StoreError::Corrupt(_))), "10 bytes that have no end");
    let no_tag = http(200, "application/json", b"{}");
    assert!(read(no_tag).await.is_err(), "a version is needed to write over it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_ends_whatever_the_server_says() {
    let page = |body: &str| http(200, "application/xml", body.as_bytes());
    let entry = |key: &str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag><Size>1</Size></Contents>"
        )
    };
    let list_to = |inside: String, next: Option<&str>| {
        let more = next.is_some();
        let next =
            next.map(|next| format!("<NextContinuationToken>{next}</NextContinuationToken>")).unwrap_or_default();
        format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>{next}{inside}</ListBucketResult>")
    };
    let list = |inside: String, more: bool| list_to(inside, more.then_some("t"));
    let count_at = |server: Server| async move {
        let folder = folder(&server);
        in_time("a listing", folder.list().try_fold(0, |n, _| async move { Ok(n + 1) })).await
    };
    let count = |answer: Answer| async move { count_at(Server::start(move |_, _| answer.clone()).await).await };
    assert_eq!(count(page(&list(entry("in/a") + &entry("in/b"), false))).await.unwrap(), 2);
    assert_eq!(count(page(&list(entry("elsewhere"), false))).await.unwrap_or(0), 0, "what is not in the folder is not");
    assert!(count(page(&list(entry("in/a") + &entry("in/b"), true))).await.is_err(), "it goes round");
    assert!(count(page(&list(String::new(), true))).await.is_err(), "it shows nothing and has no end");
    let [one, two] = ["one", "two"].map(|next| page(&list_to(String::new(), Some(next))));
    let circle = move |_: usize, request: &str| match request.contains("continuation-token=one") {
        true => two.clone(),
        false => one.clone(),
    };
    // Before the time for a whole listing is over.
    let listed = tokio::time::timeout(Duration::from_secs(30), count_at(Server::start(circle).await)).await;
    assert!(listed.is_ok_and(|listed| listed.is_err()), "two empty pages name each other");
    let short = move |n: usize, _: &str| page(&list_to(String::new(), (n < 40).then(|| format!("{n}")).as_deref()));
    assert_eq!(count_at(Server::start(short).await).await.unwrap(), 0, "empty pages that come to an end");
    assert!(count(page("<html>sign in</html>")).await.map_or(true, |n| n == 0));
    assert!(count(page("not XML")).await.is_err());
    let endless = Answer {
        bytes: b"HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\n\r\n<ListBucketResult>".to_vec(),
        then: Then::Endless(b"<Contents><Key>in/a</Key></Contents>"),
    };
    assert!(count(endless).await.is_err(), "a page of more than 8 MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_yes_to_everything_is_found_out() {
    let yes = |n: usize, _: &str| {
        Answer {
        bytes: format!("HTTP/1.1 200 OK\r\netag: \"{n}\"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\ncontent-length: 1\r\nconnection: close\r\n\r\n1").into_bytes(),
        then: Then::Close,
    }
    };
    let server = Server::start(yes).await;
    let proved = in_time("the proof", prove_conditional_writes(&folder(&server), "scratch")).await.unwrap();
    assert!(proved.unwrap_err().contains("ignores conditions"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_token_that_expired_is_a_refusal_and_is_not_shown() {
    let body = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>\
                <Token-0>s3-canary</Token-0></Error>";
    let server = Server::start(move |_, _| http(400, "application/xml", body.as_bytes())).await;
    let error = in_time("a read", document(&server).read()).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)) && !error.to_string().contains("canary"), "{error}");
    let body = body.replace("ExpiredToken", "SlowDown");
    let server = Server::start(move |_, _| http(400, "application/xml", body.as_bytes())).await;
    let error = in_time("a read", document(&server).read()).await.unwrap_err().to_string();
    assert!(error.contains("SlowDown: The provided token") && !error.contains("canary"), "{error}");
}

/// The causes of an error, the outermost first, as a debugger shows them.
fn causes(error: &StepError) -> Vec<String> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |e| (*e).source())
        .map(|e| format!("{e} | {e:?}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_causes_of_a_failed_call_are_kept_and_hold_no_credential() {
    let body =
        "<Error><Code>SlowDown</Code><Message>s3-canary is too fast</Message><Token-0>s3-canary</Token-0></Error>";
    let server = Server::start(move |_, _| http(400, "application/xml", body.as_bytes())).await;
    let refused: StepError = in_time("a read", document(&server).read()).await.unwrap_err().into();
    let all = causes(&refused);
    assert!(all.len() == 3 && all[2].starts_with("the store answered 400, code SlowDown"), "{all:?}");
    assert!(refused.chain().ends_with("is too fast: the store answered 400, code SlowDown"), "{}", refused.chain());
    assert!(!format!("{all:?}{}", refused.chain()).contains("canary"), "{all:?}");

    let server = Server::start(|_, _| Answer { bytes: vec![], then: Then::Close }).await;
    let broken: StepError = in_time("a read", document(&server).read()).await.unwrap_err().into();
    let all = causes(&broken);
    assert!(all.len() == 4 && all[2].starts_with("the store did not answer"), "{all:?}");
    assert!(all[3].contains("MaybeSent") && !format!("{all:?}").contains("canary"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_error_the_beginning_is_read_and_no_other_answer_is_as_large_as_a_listing() {
    let error = "<Error><Code>SlowDown</Code><Message>later</Message></Error>";
    let bytes = http(503, "application/xml", error.as_bytes()).bytes;
    let length = format!("content-length: {}", error.len());
    let head = String::from_utf8(bytes).unwrap().replace(&length, "x-length: none");
    let endless = Answer { bytes: head.into_bytes(), then: Then::Endless(b" ") };
    let server = Server::start(move |_, _| endless.clone()).await;
    let told = in_time("an error without an end", document(&server).read()).await.unwrap_err().to_string();
    assert!(told.contains("SlowDown"), "{told}");
    let put = |bytes: usize| async move {
        let etag = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>";
        let begun = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId>\
                     </InitiateMultipartUploadResult>";
        let server = Server::start(move |_, first| match first.split(' ').next() {
            Some("POST") if first.contains("uploadId") => {
                http(200, "application/xml", (etag.to_string() + &" ".repeat(bytes)).as_bytes())
            }
            Some("POST") => http(200, "application/xml", begun.as_bytes()),
            Some("HEAD") => http(404, "application/xml", b""),
            _ => {
                let tagged = "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                Answer { bytes: tagged.into(), then: Then::Close }
            }
        })
        .await;
        let mut upload = folder(&server).create("results.jsonl", "w").await.unwrap().compressed(Default::default());
        in_time("a write", upload.write(&vec![b'x'; 8 << 20])).await.unwrap();
        in_time("its end", upload.finish()).await
    };
    assert!(put(100 << 10).await.is_ok());
    assert!(put(300 << 10).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_asked_for_as_they_are_written() {
    let server = Server::start(|_, _| http(404, "application/xml", b"")).await;
    for name in ["größe 1.jsonl", "a~b#c%20d.jsonl", "dt=2026-01-01T00%3A00/x[1].jsonl"] {
        assert!(in_time(name, folder(&server).get(name)).await.unwrap().is_none());
        let seen = server.seen().pop().unwrap();
        let path = seen.split(' ').nth(1).unwrap().trim_start_matches("/bucket/in/");
        assert_eq!(percent_decode(path), name, "{seen}");
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let hex = |bytes: &mut std::str::Bytes| {
        let digits: String = bytes.take(2).map(char::from).collect();
        u8::from_str_radix(&digits, 16).unwrap()
    };
    let decoded = std::iter::from_fn(|| match bytes.next()? {
        b'%' => Some(hex(&mut bytes)),
        byte => Some(byte),
    });
    String::from_utf8(decoded.collect()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_no_parts_behind() {
    let begun = "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>k</Key><UploadId>u-1</UploadId>\
                 </InitiateMultipartUploadResult>";
    let server = Server::start(move |_, first| match first.split(' ').next() {
        Some("POST") => http(200, "application/xml", begun.as_bytes()),
        Some("DELETE") => http(204, "application/xml", b""),
        Some("HEAD") => http(404, "application/xml", b""),
        _ => http(200, "application/xml", b""),
    })
    .await;
    let mut upload = folder(&server).create("results.jsonl", "w").await.unwrap().compressed(Default::default());
    in_time("a write", upload.write(&vec![b'x'; 20 << 20])).await.unwrap();
    drop(upload);
    let gone = async {
        while !server.seen().iter().any(|r| r.starts_with("DELETE") && r.contains("uploadId=u-1")) {
            tokio::task::yield_now().await;
        }
    };
    in_time("giving up", gone).await;
}
