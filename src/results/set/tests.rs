use std::sync::Arc;

use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::api::{Outcome, OutputCompression, RequestCounts};
use crate::store::Line;

const WORK: &str = "0123456789abcdef0123456789abcdef";

pub(in crate::results) fn folder() -> Folder {
    Folder::of(Arc::new(InMemory::new()), "s3://b/out/", "out/")
}

async fn put(folder: &Folder, name: &str, text: &str, compression: OutputCompression) {
    let mut upload = folder.overwrite(name, WORK).compressed(compression);
    upload.write(text.as_bytes()).await.unwrap();
    upload.finish().await.unwrap();
}

/// Writes a set of these files. Returns its manifest.
pub(in crate::results) async fn written(
    folder: &Folder,
    files: &[(&str, &str)],
    compression: OutputCompression,
) -> Manifest {
    let mut listed = vec![];
    for (name, text) in files {
        let name = compression.named(name);
        put(folder, &name, text, compression).await;
        let mut digest = Context::new(&SHA256);
        digest.update(text.as_bytes());
        let (lines, sha256) = (text.lines().count() as i64, hex(digest.finish().as_ref()));
        listed.push(ManifestFile { name, lines, bytes: text.len() as u64, sha256, config_map: None });
    }
    let succeeded = listed.iter().filter(|file| is_of(&file.name, layout::RESULTS)).map(|file| file.lines).sum();
    let manifest = Manifest {
        manifest_version: MANIFEST_VERSION,
        work_id: WORK.into(),
        work_hash: "v2-hash".into(),
        outcome: Outcome::Succeeded,
        reason: "Succeeded".into(),
        message: String::new(),
        requests: RequestCounts { succeeded, total: succeeded, ..Default::default() },
        errors: vec![],
        spending: Default::default(),
        files: listed,
        batches: vec![],
        billed_twice: 0,
        repeated_rows: 0,
        abandoned_batches: vec![],
        completed_at: 0,
    };
    put_manifest(folder, &manifest).await;
    manifest
}

pub(in crate::results) async fn put_manifest(folder: &Folder, manifest: &Manifest) {
    let json = serde_json::to_string(manifest).unwrap();
    put(folder, layout::MANIFEST, &json, OutputCompression::None).await;
}

async fn read(folder: &Folder, name: &str) -> Result<String, StoreError> {
    let set = ResultSet::open(folder.clone()).await?.unwrap();
    let mut lines = set.lines(name, &std::env::temp_dir());
    let mut text = String::new();
    while let Some(line) = lines.next().await.map_err(read_error)? {
        let Line::Whole(line) = line else { panic!("a line is too long") };
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
    }
    Ok(text)
}

fn compression() -> impl Strategy<Value = OutputCompression> {
    prop::sample::select(vec![OutputCompression::None, OutputCompression::Gzip, OutputCompression::Zstd])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_set_reads_as_it_was_written(
        compression in compression(),
        pieces in prop::collection::vec(prop::collection::vec("[a-zé]{0,40}", 0..30), 1..4),
        errors in prop::collection::vec("[a-z]{0,9}", 0..5),
    ) {
        let text = |lines: &Vec<String>| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let files: Vec<(String, String)> = match &pieces[..] {
            [one] => vec![("results.jsonl".into(), text(one))],
            many => many.iter().enumerate().map(|(n, lines)| (format!("results-{n:05}.jsonl"), text(lines))).collect(),
        };
        let errors = text(&errors);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = folder();
            let mut all: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            all.push((layout::ERRORS, &errors));
            written(&folder, &all, compression).await;
            let results: String = files.iter().map(|(_, text)| text.as_str()).collect();
            assert_eq!(read(&folder, layout::RESULTS).await.unwrap(), results);
            assert_eq!(read(&folder, layout::ERRORS).await.unwrap(), errors);
            assert_eq!(read(&folder, layout::UNSUCCESSFUL).await.unwrap(), "", "the set has no such file");
        });
    }
}

#[tokio::test]
async fn a_set_without_a_manifest_is_not_complete() {
    let folder = folder();
    put(&folder, layout::RESULTS, "{}\n", OutputCompression::None).await;
    assert!(ResultSet::open(folder).await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_that_was_changed_is_named_at_its_end() {
    for (change, how) in [
        (Some("{\"a\":2}\n{}\n"), "has another SHA-256"),
        (Some("{\"a\":1}\n"), "has 8 bytes in 1 lines"),
        (Some("{\"a\":1}\n{}\n{}\n"), "has more than the 11 bytes"),
        (Some("{\"a\":1}  {}\n"), "has more than the 11 bytes"),
        (Some("{\"a\":1} {}\n"), "has 11 bytes in 1 lines"),
        (None, "is gone"),
    ] {
        for compression in [OutputCompression::None, OutputCompression::Gzip, OutputCompression::Zstd] {
            let (folder, name) = (folder(), compression.named(layout::RESULTS));
            written(&folder, &[(layout::RESULTS, "{\"a\":1}\n{}\n")], compression).await;
            match change {
                Some(text) => put(&folder, &name, text, compression).await,
                None => folder.delete(&name).await.unwrap(),
            }
            let refused = read(&folder, layout::RESULTS).await.unwrap_err();
            assert!(matches!(refused, StoreError::Corrupt(_)), "{refused:?}");
            let said = refused.to_string();
            assert!(said.starts_with(&format!("s3://b/out/{name} {how}")), "{said}");
        }
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_decompressed_is_named() {
    for compression in [OutputCompression::Gzip, OutputCompression::Zstd] {
        let (folder, name) = (folder(), compression.named(layout::RESULTS));
        written(&folder, &[(layout::RESULTS, "{}\n")], compression).await;
        put(&folder, &name, "{}\n", OutputCompression::None).await;
        let said = read(&folder, layout::RESULTS).await.unwrap_err().to_string();
        assert!(said.starts_with(&format!("s3://b/out/{name} cannot be decompressed")), "{said}");
    }
}

#[tokio::test]
async fn a_manifest_that_cannot_be_used_says_so() {
    let folder = folder();
    let manifest = written(&folder, &[(layout::RESULTS, "{}\n")], OutputCompression::None).await;
    put_manifest(&folder, &Manifest { manifest_version: 2, ..manifest.clone() }).await;
    let said = read(&folder, layout::RESULTS).await.unwrap_err().to_string();
    assert_eq!(said, "s3://b/out/manifest.json has version 2; this operator reads version 1");
    put_manifest(&folder, &Manifest { files: vec![], ..manifest }).await;
    let said = read(&folder, layout::RESULTS).await.unwrap_err().to_string();
    assert_eq!(said, "s3://b/out/manifest.json counts 1 answers and lists 0 lines of them");
    put(&folder, layout::MANIFEST, "{\"files\": 7}", OutputCompression::None).await;
    let said = read(&folder, layout::RESULTS).await.unwrap_err().to_string();
    assert!(said.starts_with("s3://b/out/manifest.json is not the manifest of a result set"), "{said}");
}

#[test]
fn pieces_are_known_by_their_names() {
    for (file, name, is) in [
        ("results.jsonl", layout::RESULTS, true),
        ("results.jsonl.zst", layout::RESULTS, true),
        ("results-00012.jsonl.gz", layout::RESULTS, true),
        ("results-.jsonl", layout::RESULTS, false),
        ("results-old.jsonl", layout::RESULTS, false),
        ("../results.jsonl", layout::RESULTS, false),
        ("errors.jsonl", layout::RESULTS, false),
        ("unsuccessful-00000.jsonl", layout::UNSUCCESSFUL, true),
        ("results.jsonl.bz2", layout::RESULTS, false),
    ] {
        assert_eq!(is_of(file, name), is, "{file}");
    }
}
