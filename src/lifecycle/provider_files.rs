//! Files at the provider: their deletion, and their removal from the journal.

use super::attempt::{Attempt, AttemptKey, AttemptState};
use super::journal::Journal;
use super::observed::Observed;
use super::step::Step;
use super::submission::attempts;
use crate::api::ProviderFilePolicy;

/// Returns the step that deletes the input file; None if it is gone. If no batch may be made of it any more, it `must` be gone.
pub(super) fn without_file(o: &Observed, attempt_key: AttemptKey, attempt: &Attempt, must: bool) -> Option<Step> {
    let file = attempt.payload.name();
    let there = !file.is_empty() && !o.memory.deleted.contains(file);
    there.then(|| Step::DeleteFiles { files: vec![file.to_string()], attempt_key: Some(attempt_key), must })
}

/// Returns the files at the provider that nothing needs once every shard is settled or given up.
pub(super) fn files_to_delete(o: &Observed, journal: &Journal) -> Vec<String> {
    if o.job.provider_file_policy == ProviderFilePolicy::Retain {
        return vec![];
    }
    let recorded = attempts(journal).flat_map(|(_, a)| match &a.state {
        AttemptState::Settled { files, .. } => files.clone(),
        AttemptState::Refused { .. } => vec![a.payload.name().to_string()],
        _ => vec![],
    });
    let mut files: Vec<String> = recorded.chain(o.memory.uploads.values().cloned()).collect();
    // An abandoned batch may still read its file.
    let in_use = |file: &String| {
        attempts(journal).any(|(_, a)| a.payload.name() == file && matches!(a.state, AttemptState::Abandoned { .. }))
    };
    files.retain(|f| !f.is_empty() && !o.memory.deleted.contains(f) && !o.memory.revoked.contains_key(f));
    files.retain(|f| !in_use(f));
    files.sort();
    files.dedup();
    files
}

/// Removes the names of deleted files from the journal.
pub(super) fn forget_files(journal: &mut Journal) {
    for attempt in journal.shards.iter_mut().filter_map(|s| s.attempt.as_mut()) {
        if let AttemptState::Settled { files, .. } = &mut attempt.state {
            files.clear();
        }
    }
}

/// Removes the files of refused attempts from the journal, so that the next ones get their own.
pub(super) fn forget_refused_files(journal: &mut Journal) {
    let refused = |a: &&mut Attempt| matches!(a.state, AttemptState::Refused { .. });
    journal.shards.iter_mut().filter_map(|s| s.attempt.as_mut()).filter(refused).for_each(|a| a.payload.forget());
}
