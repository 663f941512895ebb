//! What the provider is told of whose a file or a batch is.

use aws_lc_rs::digest::{SHA256, digest};

use crate::api::text::hex;
use crate::lifecycle::{Journal, Owner, Slot};
use crate::provider::Batch;

/// The intent that a batch came of.
pub(super) const INTENT: &str = "bj-intent";
/// The work that a batch is part of.
pub(super) const WORK: &str = "bj-work";

/// What a batch of this work says of itself.
fn identity(cluster: &str, owner: &Owner, work_id: &str) -> Vec<(&'static str, String)> {
    vec![
        ("bj-cluster", cluster.into()),
        ("bj-job", format!("{}/{}", owner.namespace, owner.name)),
        (WORK, work_id.into()),
    ]
}

/// Whether a batch says that it is this work's, as `cluster` began it.
pub(super) fn is_said_by(batch: &Batch, cluster: &str, owner: &Owner, work_id: &str) -> bool {
    identity(cluster, owner, work_id).into_iter().all(|(key, value)| batch.said(key) == Some(&value))
}

/// What a batch is told to say of itself: at most 16 pairs of 64 and 512 characters.
pub(super) fn metadata(journal: &Journal, slot: Slot, intent_id: &str) -> Vec<(&'static str, String)> {
    let mut metadata = identity(journal.named_after(), &journal.owner, &journal.work_id);
    metadata.push((INTENT, intent_id.into()));
    metadata.push(("bj-shard", slot.to_string()));
    metadata.push(("bj-content", journal.shards.get(slot.shard).map(|s| s.sha256.clone()).unwrap_or_default()));
    metadata
}

/// How the names of all uploads of this work begin. They name the job too: the work's id is in the journal, which is the
/// tenant's to write, and so it proves nothing.
pub(super) fn file_prefix(journal: &Journal) -> String {
    let owner = &journal.owner;
    let job = hex(digest(&SHA256, format!("{}/{}", owner.namespace, owner.name).as_bytes()).as_ref());
    format!("bj-{}-{}-{}-", short(journal.named_after()), &job[..16], short(&journal.work_id))
}

/// Name of the small file that a provider is tried out with.
pub(super) fn probe(cluster: &str) -> String {
    format!("bj-{}-probe.jsonl", short(cluster))
}

/// Name of the upload for an attempt.
pub(super) fn file(journal: &Journal, slot: Slot) -> String {
    let content = journal.shards.get(slot.shard).map(|s| s.sha256.as_str()).unwrap_or_default();
    format!("{}{slot}-{}.jsonl", file_prefix(journal), short(content))
}

fn short(text: &str) -> &str {
    text.get(..8).unwrap_or(text)
}

/// The provider's files of a batch.
pub(super) fn files_of(batch: &Batch) -> Vec<String> {
    [&batch.input_file_id, &batch.output_file_id, &batch.error_file_id].into_iter().flatten().cloned().collect()
}
