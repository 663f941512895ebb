//! An input that changes while it is read is read again; objects are fetched ahead of their turn, but not too far; and what
//! is faulty is reported beside the journal, where that is ours.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/recipe.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use batchjob_operator::api::InputFormat;
use batchjob_operator::requests::{PassError, PassOutput, PlanOptions, SizeLimit, Source, pass};
use batchjob_operator::store::{Folder, StoreError, layout};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde_json::json;
use tokio::sync::Barrier;

/// What somebody else does meanwhile.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Replaces(&'static str),
    Deletes(&'static str),
    Adds(&'static str),
}

/// When: at the n-th object that is opened, from 1.
#[derive(Clone, Copy, Debug)]
enum When {
    Before(usize),
    After(usize),
}

/// A store that others use, too.
#[derive(Debug, Default)]
struct Shared {
    inner: InMemory,
    meanwhile: Option<(When, Meanwhile)>,
    /// Readers go on when so many of them have come.
    together: Option<Barrier>,
    /// Listings show other ETags than objects.
    odd_etags: bool,
    opened: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
}

impl std::fmt::Display for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a shared store")
    }
}

impl Shared {
    async fn write(&self, name: &str, text: &str) {
        self.inner.put(&format!("in/{name}").into(), text.to_string().into()).await.unwrap();
    }

    async fn happen(&self) {
        match self.meanwhile.map(|(_, what)| what) {
            Some(Meanwhile::Replaces(name)) => self.write(name, &line("another")).await,
            Some(Meanwhile::Adds(name)) => self.write(name, &line("new")).await,
            Some(Meanwhile::Deletes(name)) => self.inner.delete(&format!("in/{name}").into()).await.unwrap(),
            None => {}
        }
    }

    async fn get_object(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let n = self.opened.fetch_add(1, Ordering::SeqCst) + 1;
        if matches!(self.meanwhile, Some((When::Before(at), _)) if at == n) {
            self.happen().await;
        }
        if let Some(together) = &self.together {
            together.wait().await;
        }
        let got = self.inner.get_opts(path, options).await;
        if matches!(self.meanwhile, Some((When::After(at), _)) if at == n) {
            self.happen().await;
        }
        got
    }
}

#[async_trait]
impl ObjectStore for Shared {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            return self.inner.get_opts(path, options).await;
        }
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        let got = self.get_object(path, options).await;
        self.open.fetch_sub(1, Ordering::SeqCst);
        got
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let odd = self.odd_etags;
        let seen =
            move |meta: ObjectMeta| ObjectMeta { e_tag: meta.e_tag.map(|e| if odd { e + "-1" } else { e }), ..meta };
        self.inner.list(prefix).map(move |meta| meta.map(seen)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn line(id: &str) -> String {
    format!("{}\n", json!({"custom_id": id, "body": {"text": id}}))
}

fn options(format: InputFormat, max_object_bytes: usize) -> PlanOptions {
    let template = json!({"customID": "$(object.key)", "body": {"text": "$(object.text)"}});
    let template = (format == InputFormat::Objects).then(|| serde_json::from_value(template).unwrap());
    let size_limit = SizeLimit { bytes: max_object_bytes, then: Default::default() };
    PlanOptions { format, template, size_limit, ..support::options() }
}

async fn read(store: &Arc<Shared>, name: &str, options: &PlanOptions) -> std::result::Result<PassOutput, PassError> {
    let folder = Folder::of(store.clone(), "memory://in/", "in/");
    let source = Source::Objects { folder, name: name.into() };
    let spool = std::env::temp_dir();
    let passed = pass(source, options, None, &spool);
    tokio::time::timeout(Duration::from_secs(20), passed).await.expect("objects are not fetched together")
}

#[tokio::test]
async fn what_changes_while_it_is_read_is_read_again() {
    use Meanwhile::{Adds, Deletes, Replaces};
    use When::{After, Before};
    for (name, at, what, noticed) in [
        ("", Before(1), Replaces("a"), true),
        ("", Before(1), Replaces("c"), true),
        ("", Before(1), Deletes("c"), true),
        ("", Before(1), Adds("bb"), false),
        ("*", After(1), Replaces("a"), false),
        ("a", Before(1), Replaces("a"), true),
        ("a", Before(1), Deletes("a"), true),
        ("a", After(1), Replaces("a"), true),
        ("a", After(1), Deletes("a"), true),
        ("a", After(1), Replaces("b"), false),
    ] {
        for format in [InputFormat::Auto, InputFormat::Objects] {
            let store = Arc::new(Shared { meanwhile: Some((at, what)), ..Default::default() });
            for name in ["a", "b", "c"] {
                store.write(name, &line(name)).await;
            }
            let before = Arc::new(Shared::default());
            for name in ["a", "b", "c"] {
                before.write(name, &line(name)).await;
            }
            let options = options(format, 1 << 20);
            let passed = read(&store, name, &options).await;
            let case = format!("{name} {at:?} {what:?} {format:?}");
            match passed {
                Err(PassError::Store(StoreError::Changed(message))) => {
                    assert!(noticed && message.contains("it is read again"), "{case}: {message}");
                    let (again, fresh) = (read(&store, name, &options).await, read(&store, name, &options).await);
                    assert_eq!(again.map(|p| p.work_hash).ok(), fresh.map(|p| p.work_hash).ok(), "{case}");
                }
                Ok(passed) => {
                    assert!(!noticed, "{case}");
                    let of_before = read(&before, name, &options).await.unwrap();
                    // Nothing was staged: what is shown of it is all of it.
                    let [passed, of_before] = [passed, of_before].map(|passed| format!("{passed:?}"));
                    assert_eq!(passed, of_before, "as it was when it was listed: {case}");
                }
                Err(other) => panic!("{case}: {other}"),
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_lists_other_etags_than_it_answers_to_can_be_read() {
    let store = Arc::new(Shared { odd_etags: true, ..Default::default() });
    store.write("a", &line("a")).await;
    store.write("b", &line("b")).await;
    for format in [InputFormat::Auto, InputFormat::Objects] {
        assert_eq!(read(&store, "", &options(format, 1 << 20)).await.unwrap().requests, 2);
    }
}

#[tokio::test]
async fn objects_are_fetched_together_and_as_many_as_memory_allows() {
    for (max_object_bytes, together) in [(1 << 10, 16), (1 << 20, 16), (6 << 20, 2)] {
        let store = Arc::new(Shared { together: Some(Barrier::new(together)), ..Default::default() });
        for i in 0..together * 3 {
            store.write(&format!("{i:03}"), "text").await;
        }
        let passed = read(&store, "", &options(InputFormat::Objects, max_object_bytes)).await.unwrap();
        assert_eq!(passed.requests as usize, together * 3);
        assert_eq!(store.most.load(Ordering::SeqCst), together);
    }
}

#[tokio::test]
async fn faults_are_reported_beside_the_journal_until_they_are_mended() {
    let store = Arc::new(Shared::default());
    let out = Folder::of(Arc::new(InMemory::new()), "memory://out/", "out/");
    let (folder, options) = (Folder::of(store.clone(), "memory://in/", "in/"), options(InputFormat::Auto, 1 << 20));
    let read = async |stage: Option<(&Folder, &str)>| {
        let source = Source::Objects { folder: folder.clone(), name: String::new() };
        pass(source, &options, stage, &std::env::temp_dir()).await.map_err(|e| e.to_string())
    };
    let report = async || out.read(layout::REPORT, 1 << 20).await.unwrap();
    store.write("a", &format!("{}private words\n", line("a")).repeat(15)).await;
    store.write("b", &"private words\n".repeat(10)).await;
    let message = read(None).await.unwrap_err();
    assert!(message.ends_with("; and 19 more") && report().await.is_none(), "another's journal: {message}");
    let message = read(Some((&out, "w"))).await.unwrap_err();
    assert!(message.ends_with("; and 19 more, all in memory://out/_batchjob/report.jsonl"), "{message}");
    let text = String::from_utf8(report().await.unwrap().to_vec()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 39);
    assert!(lines[0].starts_with(r#"{"source":"memory://in/a","line":2,"problem":"is not JSON"#), "{}", lines[0]);
    assert!(lines[38].starts_with(r#"{"source":"memory://in/b","line":10,"problem":"is not JSON"#), "{}", lines[38]);
    assert!(!text.contains("private") && !message.contains("private"));
    store.write("b", "").await;
    store.write("a", "{").await;
    read(Some((&out, "w"))).await.unwrap_err();
    assert_eq!(report().await.unwrap().iter().filter(|b| **b == b'\n').count(), 1, "one pass, one report");
    store.write("a", &line("a")).await;
    read(Some((&out, "w"))).await.unwrap();
    assert!(report().await.is_none(), "it is about what was");
}
