//! The memory of one process about a job: its findings so far, and the tasks that run.

use std::collections::{BTreeMap, BTreeSet};

use super::attempt::{AttemptKey, AttemptState};
use super::findings::{
    CleanUpResult, CollectResult, HalveResult, LaterRevision, ManifestView, Pass, Place, PollResult, PolledState,
    PostResult, ReportedTimes, ReserveResult, Search, SeenTimes,
};
use super::input_wait::InputLook;
use super::journal::{Journal, Owner};
use super::partial::Published;
use super::shard::Shard;
use super::shard_list::Shards;
use super::task::Task;
use crate::api::FileContent;

/// The findings of this process about one job. They may be lost at any time; decisions then wait until they are made again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Keyed fingerprint of the credential under which the findings about the provider were made.
    pub fingerprint: String,
    /// Time since which this process's clock runs without being set (Unix milliseconds).
    pub clock_since: i64,
    /// The manifest at the destination. The outer None means that nobody has looked yet.
    pub manifest: Option<Option<ManifestView>>,
    /// Time of the last look for the manifest.
    pub manifest_at: Option<i64>,
    /// The work whose results are known to be marked as whole.
    pub marked: Option<String>,
    /// An object at the destination that has the name of a result file and belongs to other work.
    pub taken: Option<String>,
    /// The owner that the journal named, and whether it still exists.
    pub owner_alive: Option<(Owner, bool)>,
    /// The result of the trial of conditional writes: whether the store refuses what it must refuse, or what it did instead.
    pub store_proved: Option<Result<(), String>>,
    /// The reason why the output's store, as addressed, can never do what is needed.
    pub unfit_store: Option<String>,
    /// The last look at what the job waits for before its input is read.
    pub input_look: Option<InputLook>,
    /// The last look at result sets whose answers are reused, if the job of one of them runs.
    pub reuse_look: Option<InputLook>,
    /// The result of a pass over the input.
    pub pass: Option<Pass>,
    /// Uploaded input files, by attempt and content: a plan that replaces a dropped one numbers its attempts from 1 again.
    pub uploads: BTreeMap<(AttemptKey, String), String>,
    /// The requests of uploaded files, by file. Only files for a provider with budgets are counted.
    pub contents: BTreeMap<String, FileContent>,
    /// Uploads that the provider refused for their content, with its message, by attempt and content.
    pub unfit: BTreeMap<(AttemptKey, String), String>,
    /// The halves of a shard that is too large for the account.
    pub halved: Option<HalveResult>,
    /// Whether the account has a place for one more batch.
    pub place: Place,
    /// The last answer of the ledger of the provider's budgets to a request to reserve.
    pub reserved: Option<ReserveResult>,
    /// A later revision of the journal that this ledger knows.
    pub later: Option<LaterRevision>,
    /// Intents whose cost is in that ledger.
    pub accounted: BTreeSet<String>,
    /// The revision of the journal by which the work's reservations were released.
    pub released: Option<u64>,
    /// The intent whose permit this process holds.
    pub permit: Option<String>,
    /// Results of POSTs, by intent.
    pub posted: BTreeMap<String, PostResult>,
    /// Results of searches for an intent's batches, by intent.
    pub searches: BTreeMap<String, Search>,
    /// Starts of the last searches that failed and that the job went on without, by intent (Unix milliseconds). They prove nothing.
    pub failed_searches: BTreeMap<String, i64>,
    /// Whether an input file is this work's and can be read with the current credential, by file.
    pub files: BTreeMap<String, bool>,
    /// Reasons why the fate of an intent cannot be found out, by intent: a call for it failed several times in a row.
    pub unsettled: BTreeMap<String, String>,
    /// Input files that are known to be gone after their deletion, with the time of that observation.
    pub revoked: BTreeMap<String, i64>,
    /// Whether the provider lists batches, and refuses a create on a deleted file.
    pub resolvable: Option<bool>,
    /// The last look at each batch.
    pub looks: BTreeMap<String, PollResult>,
    /// Times that these looks showed, by batch.
    pub times: BTreeMap<String, SeenTimes>,
    /// Times of the last hints that batches may have changed, by batch (Unix milliseconds).
    pub hints: BTreeMap<String, i64>,
    /// Batches that need no further cancellation: it was requested, or the batch is not this work's, or it had ended.
    pub cancelled: BTreeSet<String>,
    /// Those of them that may run on, of a work without a journal: they are not this work's, or the provider cannot cancel them.
    pub not_stopped: BTreeSet<String>,
    /// The collected answers of each batch.
    pub collected: BTreeMap<String, CollectResult>,
    /// The settled shards whose answers are readable. None if nobody has looked, or if that changes at the moment.
    pub published: Option<Published>,
    /// The number and shards of a possible later round.
    pub follow_up: Option<(u32, Shards)>,
    /// Files at the provider that need no further deletion: they were deleted, or are not this work's, or cannot be deleted.
    pub deleted: BTreeSet<String>,
    /// The result of deleting the staged files of a job that is being deleted.
    pub tidied: Option<CleanUpResult>,
    /// Tasks that run, or that failed and wait for their next try.
    pub running: BTreeSet<Task>,
    /// Tasks whose last call failed, with the time of the next try (Unix milliseconds). Other tasks go first.
    pub failed_calls: BTreeMap<Task, i64>,
    /// Whether the last step that is not a task failed. While it fails, tasks are not put off in its favor.
    pub last_step_failed: bool,
    /// The message of a failure that lasts.
    pub error: Option<String>,
}

impl Memory {
    /// Returns whether the task runs for the first time. A task that failed before, and waits for or is at its next try, holds
    /// nothing else up.
    pub fn is_under_way(&self, task: Task) -> bool {
        self.running.contains(&task) && !self.failed_calls.contains_key(&task)
    }

    /// Lets the next look for an input that was missing follow at once.
    pub fn look_for_input_again(&mut self) {
        for look in [&mut self.input_look, &mut self.reuse_look].into_iter().flatten() {
            look.is_due = true;
        }
    }

    /// Marks the tasks that wait for their next try at `now` as running, so that they are not started early. Returns when the
    /// first of them is due (Unix milliseconds).
    pub fn hold_back(&mut self, now: i64) -> Option<i64> {
        let waiting = self.failed_calls.iter().filter(|(_, due)| now < **due);
        self.running.extend(waiting.clone().map(|(task, _)| *task));
        waiting.map(|(_, due)| *due).min()
    }

    /// Records that the input file of an intent was seen to be gone at `at` (Unix milliseconds). The results of earlier searches
    /// are forgotten: a clock that was set back in the meantime would let them pass for later ones, which prove that no batch
    /// was made.
    pub fn input_file_is_gone(&mut self, intent_id: &str, file: String, at: i64) {
        self.searches.remove(intent_id);
        self.revoked.insert(file, at);
    }

    /// Takes in the result of a search for the batches of an intent.
    pub fn searched(&mut self, intent_id: String, search: Search) {
        self.failed_searches.remove(&intent_id);
        self.searches.insert(intent_id, search);
    }

    /// Takes in the failure of a search that began at `began` (Unix milliseconds) and without which the job goes on.
    /// The failure proves nothing, and leaves in place what an earlier search found beside a recorded batch. Without
    /// such a find, a permanent failure means that the list cannot be searched.
    pub fn search_failed(&mut self, intent_id: String, began: i64, is_permanent: bool, is_recorded: bool) {
        match is_permanent && !(is_recorded && self.searches.contains_key(&intent_id)) {
            true => self.searched(intent_id, Search { began, found: None }),
            false => _ = self.failed_searches.insert(intent_id, began),
        }
    }

    /// Takes in the time since which the clock runs without being set. If that time changed, the times of earlier
    /// findings do not say any more how long ago they were made. So findings that count for a while, or from a time on,
    /// are forgotten, as by a restart. Returns whether the clock was set.
    pub fn clock_runs_since(&mut self, since: i64) -> bool {
        let was_set = self.clock_since != since;
        if was_set {
            self.clock_since = since;
            self.searches.clear();
            self.failed_searches.clear();
            self.revoked.clear();
            self.looks.clear();
            self.times.clear();
            self.hints.clear();
            self.collected.retain(|_, collected| collected.short.is_none());
            self.manifest_at = self.manifest_at.map(|_| 0);
            self.look_for_input_again();
        }
        was_set
    }

    /// Takes in a look at a batch, with the times that the provider reports of it.
    pub fn looked(&mut self, batch_id: String, look: PollResult, reported: ReportedTimes) {
        let is_same = self.looks.get(&batch_id).is_some_and(|before| before.seen == look.seen);
        let times = self.times.entry(batch_id.clone()).or_default();
        times.reported = reported;
        if !is_same {
            times.same_since = look.at;
        }
        self.looks.insert(batch_id, look);
    }

    /// Returns whether the provider rejected the batch as a whole, by the last look at it.
    pub fn is_turned_away(&self, batch_id: &str) -> bool {
        matches!(self.looks.get(batch_id).map(|l| &l.seen), Some(PolledState::Ended { rejected: Some(_), .. }))
    }

    /// Forgets the findings about shards that were sealed when `next` was `written` over `old`, so that memory does not grow
    /// with the job. A pass whose plan the journal has is forgotten as well, and a reservation is taken over to `next`.
    pub fn forget_sealed(&mut self, old: &Journal, next: &Journal, written: &Journal) {
        self.pass.take_if(|_| written.plan.is_some());
        self.keep_reservation(old, next);
        let is_sealed = |index: usize| index < written.shards.next_planned() && written.shards.get(index).is_none();
        for (index, shard) in next.shards.entries().filter(|(index, _)| is_sealed(*index)) {
            // The names of the shard's files may be gone from `next` already.
            [old.shards.get(index), Some(shard)].into_iter().flatten().for_each(|shard| self.forget(index, shard));
        }
    }

    fn forget(&mut self, index: usize, shard: &Shard) {
        let contents = &mut self.contents;
        self.uploads.retain(|(attempt_key, _), file| {
            let is_kept = attempt_key.shard != index;
            if !is_kept {
                contents.remove(file);
            }
            is_kept
        });
        self.unfit.retain(|(attempt_key, _), _| attempt_key.shard != index);
        let Some(attempt) = &shard.attempt else { return };
        self.posted.remove(&attempt.intent_id);
        self.searches.remove(&attempt.intent_id);
        self.failed_searches.remove(&attempt.intent_id);
        self.accounted.remove(&attempt.intent_id);
        self.unsettled.remove(&attempt.intent_id);
        self.files.remove(attempt.payload.name());
        self.revoked.remove(attempt.payload.name());
        self.deleted.remove(attempt.payload.name());
        shard.files_left().for_each(|file| _ = self.deleted.remove(file));
        if let AttemptState::Submitted { batch_id, .. } | AttemptState::Settled { batch_id, .. } = &attempt.state {
            self.looks.remove(batch_id);
            self.times.remove(batch_id);
            self.hints.remove(batch_id);
            self.collected.remove(batch_id);
            self.cancelled.remove(batch_id);
        }
    }

    /// Forgets the findings that were made at the provider under another credential. That may belong to another account, where
    /// an empty search proves nothing.
    pub fn under(&mut self, fingerprint: &str) {
        if self.fingerprint == fingerprint {
            return;
        }
        self.fingerprint = fingerprint.into();
        self.uploads.clear();
        self.contents.clear();
        self.unfit.clear();
        self.unsettled.clear();
        self.searches.clear();
        self.failed_searches.clear();
        self.files.clear();
        self.revoked.clear();
        self.resolvable = None;
        self.looks.clear();
        self.times.clear();
        self.cancelled.clear();
        self.not_stopped.clear();
        self.deleted.clear();
    }
}
