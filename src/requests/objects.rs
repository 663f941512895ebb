//! The selection of the objects that an input's URI stands for.

use std::path::Path;

use futures::TryStreamExt;

use super::PassError;
use crate::api::{EmptyPolicy, LeftOut, ObjectPolicy, ObjectStoreLocation};
use crate::store::{Folder, ListedObject, Sorted, Sorter, layout};

/// Most objects of one input.
const OBJECT_LIMIT: usize = 100_000;
/// Most bytes of their names together. The names wait on local disk.
const NAMES_LIMIT: usize = 32 << 20;
/// Selection of the objects below a URI.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    /// Objects whose name, or the name of a folder in it, begins with `_` or `.`.
    pub hidden: ObjectPolicy,
    /// Objects without content.
    pub empty: ObjectPolicy,
}

/// Returns whether a URI means more than one object.
pub fn is_many(uri: &str) -> bool {
    uri.ends_with('/') || uri.contains('*')
}

/// Checks that inputs and outputs are apart, so that no answer is ever taken for a request.
///
/// # Errors
/// Names both places and the remedy.
pub fn apart(input: &ObjectStoreLocation, output: &ObjectStoreLocation, output_uri: &str) -> Result<(), String> {
    let endpoint = |l: &ObjectStoreLocation| l.endpoint.as_deref().map(|e| e.trim_end_matches('/').to_string());
    if !is_many(&input.uri) || endpoint(input) != endpoint(output) {
        return Ok(());
    }
    let folder = input.uri.get(..=input.uri.rfind('/').unwrap_or(0)).unwrap_or_default();
    // A pattern does not match objects in folders below it.
    let within = if input.uri.contains('*') { output_uri == folder } else { output_uri.starts_with(folder) };
    match within || folder.starts_with(output_uri) {
        false => Ok(()),
        true => Err(format!(
            "`spec.output` ({output_uri}) and `spec.input` ({}) lie within each other, so that results could be read as \
             requests; write to a folder of its own",
            input.uri
        )),
    }
}

/// Returns the one object with this name. None if it does not exist, and an input without requests is fine: an object that is
/// absent holds as many as a folder that is.
///
/// # Errors
/// Fails if the object is needed and does not exist, if the bucket does not, or the store does not answer.
pub async fn one(folder: &Folder, name: &str, if_empty: EmptyPolicy) -> Result<Option<ListedObject>, PassError> {
    match (folder.stat(name).await?, if_empty) {
        (Some(object), _) => Ok(Some(object)),
        (None, EmptyPolicy::Complete) => {
            folder.see_bucket().await?;
            Ok(None)
        }
        (None, EmptyPolicy::Fail) => Err(PassError::Invalid(format!(
            "{} does not exist; put the requests there, or correct `spec.input`, or set `spec.input.emptyPolicy: Complete` where \
             that is fine",
            folder.uri_of(name)
        ))),
    }
}

/// Returns the objects of `folder` that match `name` (all if it is empty, otherwise those that match its `*`) and that
/// `selection` includes, sorted by key; with counts of those left out.
///
/// # Errors
/// Fails if there are too many, or the store does not answer.
pub async fn named(
    folder: &Folder,
    name: &str,
    selection: Selection,
    spool: &Path,
) -> Result<(Sorted<ListedObject>, LeftOut), PassError> {
    let uri = folder.uri_of(name);
    if folder.uri_of("").contains('*') {
        let message = format!("{uri} has a `*` before its last `/`; only the last part of the URI may hold one");
        return Err(PassError::Invalid(message));
    }
    let (mut objects, mut bytes, mut left_out) = (Sorter::new(spool, ListedObject::order), 0, LeftOut::default());
    let mut listing = folder.list();
    while let Some(object) = listing.try_next().await? {
        if !is_meant(name, object.name()) {
            continue;
        }
        if selection.hidden == ObjectPolicy::Skip && is_hidden(object.name()) {
            left_out.hidden_objects += 1;
            continue;
        }
        if selection.empty == ObjectPolicy::Skip && object.size == 0 {
            left_out.empty_objects += 1;
            continue;
        }
        bytes += object.name().len();
        objects.push(object)?;
        if objects.len() > OBJECT_LIMIT || bytes > NAMES_LIMIT {
            let message = format!(
                "{uri} means more than {} objects, or more than {} MiB of names; put many requests into one object, or \
                 split them over several BatchJobs",
                OBJECT_LIMIT,
                NAMES_LIMIT >> 20
            );
            return Err(PassError::Invalid(message));
        }
    }
    // Stores list in this order, but not all of them guarantee it.
    Ok((objects.finish()?, left_out))
}

fn is_meant(pattern: &str, name: &str) -> bool {
    !is_ours(name) && (pattern.is_empty() || (!name.contains('/') && matches(pattern, name)))
}

/// Returns whether a name is hidden. Spark, Athena and others do not read objects with such names, either.
fn is_hidden(name: &str) -> bool {
    name.split('/').any(|segment| segment.starts_with(['_', '.']))
}

/// Returns whether this operator writes objects of that name beside results. Such objects never hold requests, even if
/// another program wrote them.
fn is_ours(name: &str) -> bool {
    let (folders, last) = name.rsplit_once('/').unwrap_or(("", name));
    last == layout::SUCCESS || folders.split('/').any(|folder| [layout::WORKS, layout::PARTIAL].contains(&folder))
}

/// Returns whether a name matches a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_meant_or_hidden() {
        for (pattern, name, meant, hidden) in [
            ("", "a.jsonl", true, false),
            ("", "2026/11/a.jsonl", true, false),
            ("", "_SUCCESS", false, true),
            ("", "old/_SUCCESS", false, true),
            ("", "_batchjob/x/shards/a", false, true),
            ("", "old/_batchjob/journal.json", false, true),
            ("", "_batchjob", true, true),
            ("", "results.partial/00000.jsonl", false, false),
            ("", "old/results.partial/index.json", false, false),
            ("", "results.partial", true, false),
            ("", "_posts/a.md", true, true),
            ("", "src/__init__.py", true, true),
            ("", "2026/.tmp", true, true),
            ("*.jsonl", "a.jsonl", true, false),
            ("*.jsonl", "a.jsonl.gz", false, false),
            ("*.jsonl", "sub/a.jsonl", false, false),
            ("*", "_a", true, true),
            ("*", "sub/_a", false, true),
            ("a*b*c", "a-b-b-c", true, false),
            ("a*b*c", "a-c-b", false, false),
            ("ab*ba", "aba", false, false),
            ("**", "x", true, false),
        ] {
            assert_eq!((is_meant(pattern, name), is_hidden(name)), (meant, hidden), "{pattern} {name}");
        }
    }

    /// Case 09-underscore-names.
    #[tokio::test]
    async fn objects_are_taken_or_counted() {
        use ObjectPolicy::{Include, Skip};
        let folder = Folder::of(std::sync::Arc::new(object_store::memory::InMemory::new()), "memory://in/", "in/");
        let of_ours = [
            "_SUCCESS",
            "old/_SUCCESS",
            "_batchjob/journal.json",
            "old/_batchjob/w/parts/a",
            "old/results.partial/00000.jsonl",
        ];
        let input =
            [("src/__init__.py", ""), ("src/a.py", "x"), ("_posts/a.md", "x"), (".notes.md", "x"), ("src/b.py", "")];
        for (name, text) in input.into_iter().chain(of_ours.map(|name| (name, "x"))) {
            folder.put_new(name, text.into()).await.unwrap();
        }
        for (hidden, empty, taken, left_out) in [
            (Skip, Skip, &["src/a.py"][..], (3, 1)),
            (Include, Skip, &[".notes.md", "_posts/a.md", "src/a.py"], (0, 2)),
            (Skip, Include, &["src/a.py", "src/b.py"], (3, 0)),
            (Include, Include, &[".notes.md", "_posts/a.md", "src/__init__.py", "src/a.py", "src/b.py"], (0, 0)),
        ] {
            let (objects, left) = named(&folder, "", Selection { hidden, empty }, &std::env::temp_dir()).await.unwrap();
            assert_eq!(objects.map(|object| object.unwrap().name().to_string()).collect::<Vec<_>>(), taken);
            assert_eq!((left.hidden_objects, left.empty_objects), left_out, "{hidden:?} {empty:?}");
        }
    }

    #[test]
    fn input_and_output_are_kept_apart() {
        let place = |uri: &str| ObjectStoreLocation { uri: uri.into(), ..Default::default() };
        for (input, output, apart_) in [
            ("s3://b/in/", "s3://b/out/", true),
            ("s3://b/in/", "s3://b/in/out/", false),
            ("s3://b/in/", "s3://b/in/", false),
            ("s3://b/out/in/", "s3://b/out/", false),
            ("s3://b/in/", "s3://b/in2/", true),
            ("s3://b/in/", "s3://c/in/", true),
            ("s3://b/in/x.jsonl", "s3://b/in/", true),
            ("s3://b/in/*.csv", "s3://b/in/", false),
            ("s3://b/in/*.csv", "s3://b/in/out/", true),
            ("s3://b/in/*.csv", "s3://b/", false),
        ] {
            assert_eq!(apart(&place(input), &place(output), output).is_ok(), apart_, "{input} {output}");
        }
        let elsewhere = ObjectStoreLocation { endpoint: Some("https://x/".into()), ..place("s3://b/in/") };
        assert!(apart(&elsewhere, &place("s3://b/in/"), "s3://b/in/").is_ok());
    }
}
