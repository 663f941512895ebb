//! Files at the provider: which are deleted, and when the journal forgets them.

use super::attempt::{Attempt, AttemptKey, AttemptState};
use super::journal::Journal;
use super::observed::Observed;
use super::step::Step;
use super::submission::attempts;
use crate::api::ProviderFilePolicy;

/// Deletes the input file first; where nothing may come of it any more, it `must` be gone.
pub(super) fn without_file(o: &Observed, attempt_key: AttemptKey, attempt: &Attempt, must: bool) -> Option<Step> {
    let file = attempt.payload.name();
    let there = !file.is_empty() && !o.memory.deleted.contains(file);
    there.then(|| Step::DeleteFiles { files: vec![file.to_string()], attempt_key: Some(attempt_key), must })
}

/// Files at the provider that nothing needs once every shard is settled or given up.
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
    // A batch that was given up on may still read its file.
    let in_use = |file: &String| {
        attempts(journal).any(|(_, a)| a.payload.name() == file && matches!(a.state, AttemptState::Abandoned { .. }))
    };
    files.retain(|f| !f.is_empty() && !o.memory.deleted.contains(f) && !o.memory.revoked.contains_key(f));
    files.retain(|f| !in_use(f));
    files.sort();
    files.dedup();
    files
}

/// Takes the names of deleted files out of the journal.
pub(super) fn forget_files(journal: &mut Journal) {
    for attempt in journal.shards.iter_mut().filter_map(|s| s.attempt.as_mut()) {
        if let AttemptState::Settled { files, .. } = &mut attempt.state {
            files.clear();
        }
    }
}

/// Takes the files of attempts that were refused out of the journal, so that the next ones get their own.
pub(super) fn forget_refused_files(journal: &mut Journal) {
    let refused = |a: &&mut Attempt| matches!(a.state, AttemptState::Refused { .. });
    journal.shards.iter_mut().filter_map(|s| s.attempt.as_mut()).filter(refused).for_each(|a| a.payload.forget());
}
