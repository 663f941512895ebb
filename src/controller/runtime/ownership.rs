//! The marks of ownership that files and batches carry at the provider.

use aws_lc_rs::digest::{SHA256, digest};

use crate::api::text::hex;
use crate::lifecycle::{AttemptKey, Journal, Owner};
use crate::provider::Batch;

/// Metadata key of the intent that made a batch.
pub(crate) const INTENT: &str = "bj-intent";
/// Metadata key of the work that a batch is part of.
pub(crate) const WORK: &str = "bj-work";

/// Metadata key of the cluster that the batch's work was begun in.
const CLUSTER: &str = "bj-cluster";
/// Metadata key of the namespace and name of the BatchJob.
const JOB: &str = "bj-job";
/// Metadata key of the shard and the attempt to send it.
const SHARD: &str = "bj-shard";

/// Returns the metadata that identifies batches of this work.
fn identity(cluster: &str, owner: &Owner, work_id: &str) -> Vec<(&'static str, String)> {
    vec![(CLUSTER, cluster.into()), (JOB, format!("{}/{}", owner.namespace, owner.name)), (WORK, work_id.into())]
}

/// Returns true if the metadata of a batch says that it belongs to this work, as `cluster` began it.
pub(crate) fn is_said_by(batch: &Batch, cluster: &str, owner: &Owner, work_id: &str) -> bool {
    identity(cluster, owner, work_id).into_iter().all(|(key, value)| batch.said(key) == Some(&value))
}

/// The owner that a batch names in its metadata. Anybody with the account's key can write it, so it proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchOwner {
    pub namespace: String,
    pub name: String,
    pub work_id: String,
    pub intent_id: String,
    /// Key of the attempt, such as `00000-1`.
    pub attempt_key: String,
}

/// Returns the owner of a batch whose metadata says that `cluster` began it; None if it says otherwise, or something that no
/// operator writes.
pub(crate) fn owner_of(batch: &Batch, cluster: &str) -> Option<BatchOwner> {
    let word = |key| batch.said(key).filter(|text| is_word(text)).map(String::from);
    let (namespace, name) = batch.said(JOB)?.split_once('/')?;
    let named = is_object_name(namespace) && is_object_name(name);
    (named && batch.said(CLUSTER) == Some(cluster)).then_some(())?;
    Some(BatchOwner {
        namespace: namespace.into(),
        name: name.into(),
        work_id: word(WORK)?,
        intent_id: word(INTENT)?,
        attempt_key: word(SHARD)?,
    })
}

/// Returns true if the text is safe to show and to compare with our own ids.
fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Returns true if Kubernetes accepts the text as the name of an object, so that it cannot divert a request.
fn is_object_name(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    text.len() <= 253
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| end(Some(b)) || matches!(b, b'-' | b'.'))
}

/// Returns the metadata for a batch: at most 16 pairs of 64 and 512 characters.
pub(crate) fn metadata(journal: &Journal, attempt_key: AttemptKey, intent_id: &str) -> Vec<(&'static str, String)> {
    let mut metadata = identity(journal.named_after(), &journal.owner, &journal.work_id);
    metadata.push((INTENT, intent_id.into()));
    metadata.push((SHARD, attempt_key.to_string()));
    metadata.push(("bj-content", journal.shards.get(attempt_key.shard).map(|s| s.sha256.clone()).unwrap_or_default()));
    metadata
}

/// Returns the prefix of the names of all uploads of this work. It names the job too: the id of the work is in the journal,
/// which the tenant can write, and so proves nothing.
pub(crate) fn file_prefix(journal: &Journal) -> String {
    let owner = &journal.owner;
    let job = hex(digest(&SHA256, format!("{}/{}", owner.namespace, owner.name).as_bytes()).as_ref());
    format!("bj-{}-{}-{}-", short(journal.named_after()), &job[..16], short(&journal.work_id))
}

/// Returns the name of the small file that tests a provider.
pub(crate) fn probe(cluster: &str) -> String {
    format!("bj-{}-probe.jsonl", short(cluster))
}

/// Returns the name of the upload for an attempt.
pub(crate) fn file(journal: &Journal, attempt_key: AttemptKey) -> String {
    let content = journal.shards.get(attempt_key.shard).map(|s| s.sha256.as_str()).unwrap_or_default();
    format!("{}{attempt_key}-{}.jsonl", file_prefix(journal), short(content))
}

fn short(text: &str) -> &str {
    text.get(..8).unwrap_or(text)
}

/// Returns the ids of the provider's files of a batch.
pub(crate) fn files_of(batch: &Batch) -> Vec<String> {
    [&batch.input_file_id, &batch.output_file_id, &batch.error_file_id].into_iter().flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(change: &[(&str, &str)]) -> Batch {
        let owner = Owner { cluster: "c1".into(), namespace: "shop".into(), name: "j.1".into(), uid: "u".into() };
        let journal = Journal::open("0123abcd".into(), owner, String::new());
        let said = metadata(&journal, AttemptKey { shard: 3, attempt: 2 }, "ffff");
        let mut metadata: Vec<(String, String)> = said.into_iter().map(|(k, v)| (k.into(), v)).collect();
        for (key, value) in change {
            metadata.iter_mut().filter(|(k, _)| k == key).for_each(|(_, v)| *v = value.to_string());
        }
        Batch { metadata, ..Default::default() }
    }

    #[test]
    fn what_a_batch_is_told_to_say_is_read_back_and_nothing_else_is_taken_for_it() {
        let said = owner_of(&batch(&[]), "c1").unwrap();
        assert_eq!(
            (said.namespace.as_str(), said.name.as_str(), said.attempt_key.as_str()),
            ("shop", "j.1", "00003-2")
        );
        assert_eq!((said.work_id.as_str(), said.intent_id.as_str()), ("0123abcd", "ffff"));
        assert_eq!(owner_of(&batch(&[]), "c2"), None);
        let long = "a".repeat(254);
        for name in [
            "shop",
            "shop/",
            "/j",
            "shop/../secrets",
            "shop/j?watch=1",
            "shop/J",
            "shop/j%2f",
            "../j",
            "shop/j-",
            &format!("shop/{long}"),
        ] {
            assert_eq!(owner_of(&batch(&[(JOB, name)]), "c1"), None, "{name}");
        }
        for (key, value) in [(WORK, ""), (INTENT, "a prompt"), (SHARD, "1\n2"), (WORK, long.as_str())] {
            assert_eq!(owner_of(&batch(&[(key, value)]), "c1"), None, "{key} {value}");
        }
    }
}
