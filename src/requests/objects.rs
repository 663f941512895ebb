//! Which objects an input's URI means.

use futures::TryStreamExt;

use super::PassError;
use crate::api::ObjectStoreLocation;
use crate::store::{Folder, Listed};

/// Objects of one input.
const OBJECT_LIMIT: usize = 100_000;
/// Their names together, in bytes: they are held in memory.
const NAMES_LIMIT: usize = 32 << 20;

/// Whether a URI means many objects.
pub fn is_many(uri: &str) -> bool {
    uri.ends_with('/') || uri.contains('*')
}

/// Sees that what is read and what is written are kept apart, so that no answer is ever taken for a request.
///
/// # Errors
/// Says what to do.
pub fn apart(input: &ObjectStoreLocation, output: &ObjectStoreLocation, output_uri: &str) -> Result<(), String> {
    let endpoint = |l: &ObjectStoreLocation| l.endpoint.as_deref().map(|e| e.trim_end_matches('/').to_string());
    if !is_many(&input.uri) || endpoint(input) != endpoint(output) {
        return Ok(());
    }
    let folder = input.uri.get(..=input.uri.rfind('/').unwrap_or(0)).unwrap_or_default();
    // A pattern does not reach into folders.
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

/// The one object that is called `name`.
///
/// # Errors
/// When it is not there, or the store cannot say.
pub async fn one(folder: &Folder, name: &str) -> Result<Listed, PassError> {
    let missing = || format!("{} does not exist; put the requests there, or correct `spec.input`", folder.uri_of(name));
    folder.stat(name).await?.ok_or_else(|| PassError::Invalid(missing()))
}

/// The objects of `folder` that `name` means, by key: all of them where it is empty, else those that match its `*`.
///
/// # Errors
/// When there are too many, or the store cannot say.
pub async fn named(folder: &Folder, name: &str) -> Result<Vec<Listed>, PassError> {
    let uri = folder.uri_of(name);
    if folder.uri_of("").contains('*') {
        let message = format!("{uri} has a `*` before its last `/`; only the last part of the URI may hold one");
        return Err(PassError::Invalid(message));
    }
    let (mut objects, mut bytes) = (vec![], 0);
    let mut listing = folder.list();
    while let Some(object) = listing.try_next().await? {
        if object.size == 0 || !is_meant(name, object.name()) {
            continue;
        }
        bytes += object.name().len();
        objects.push(object);
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
    // Stores list in this order, but not all of them promise it.
    objects.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    Ok(objects)
}

fn is_meant(pattern: &str, name: &str) -> bool {
    let hidden = name.split('/').any(|segment| segment.starts_with(['_', '.']));
    !hidden && (pattern.is_empty() || (!name.contains('/') && matches(pattern, name)))
}

/// `*` stands for anything.
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
        for (pattern, name, meant) in [
            ("", "a.jsonl", true),
            ("", "2026/11/a.jsonl", true),
            ("", "_SUCCESS", false),
            ("", "_batchjob/x/shards/a", false),
            ("", "2026/.tmp", false),
            ("*.jsonl", "a.jsonl", true),
            ("*.jsonl", "a.jsonl.gz", false),
            ("*.jsonl", "sub/a.jsonl", false),
            ("*", "_a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("**", "x", true),
        ] {
            assert_eq!(is_meant(pattern, name), meant, "{pattern} {name}");
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
