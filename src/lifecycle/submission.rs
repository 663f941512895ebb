//! The submission protocol, shard by shard: see `docs/architecture.md` for the argument behind each rule.

use super::attempt::{Attempt, AttemptKey, AttemptState, Refusal, Rejection};
use super::findings::PostResult;
use super::follow::follow;
use super::job_budget::Obstacle;
use super::journal::Journal;
use super::observed::Observed;
use super::questions::{hear, hold_id};
use super::refused::refuse;
use super::shard::Shard;
use super::step::{Blocked, Step, Waiting};
use super::submit::start;
use super::task::Task;
use super::{canary, resolve, settled};
use crate::api::conditions::reasons;
use crate::api::{DeletionPolicy, Hold};

/// Milliseconds after its next try is due for which a step that failed lets other steps go first.
const PUT_OFF: i64 = 30_000;

/// The largest number of attempts that are counted as written off.
pub(super) const WRITTEN_OFF_LIMIT: u32 = 10_000;

/// The result of looking at every shard.
pub(super) struct Round {
    /// The next step, if there is one.
    pub step: Option<Step>,
    /// Time of the next look (Unix milliseconds).
    pub due: Option<i64>,
    /// Whether a batch may exist that has not ended.
    pub live: bool,
    /// Questions to a person.
    pub holds: Vec<Hold>,
    /// The problem that a person must fix.
    pub blocked: Option<Blocked>,
    /// Reason of the `Complete` condition.
    pub stage: &'static str,
    /// A stage that is shown instead of `stage`, with its message, which may quote the provider.
    pub note: Option<(&'static str, String)>,
    /// The reason why the budget of the job has no room for the next batch.
    pub over_budget: Option<Obstacle>,
}

impl Round {
    /// Returns the reason for the wait if there is no step.
    pub(super) fn waiting(self, stage: &'static str, blocked: Option<Blocked>) -> Waiting {
        Waiting { stage, holds: self.holds, blocked: blocked.or(self.blocked), note: self.note.map(|(_, note)| note) }
    }

    /// Returns the reason of the `Complete` condition.
    pub(super) fn shown_stage(&self) -> &'static str {
        self.note.as_ref().map_or(self.stage, |(stage, _)| stage)
    }

    /// Shows `stage` with a message. The first shard that calls this wins.
    pub(super) fn say(&mut self, stage: &'static str, note: String) {
        self.note.get_or_insert((stage, note));
    }

    pub(super) fn due(&mut self, at: i64) -> Option<Step> {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
        None
    }

    pub(super) fn hold(&mut self, kind: &str, attempt: &Attempt, message: &str, answers: Vec<String>) -> Option<Step> {
        let id = hold_id(kind, attempt);
        if self.holds.iter().any(|hold| hold.id == id) {
            return None;
        }
        let answers = answers.into_iter().map(|a| format!("{id}={a}")).collect();
        self.holds.push(Hold { id, message: message.into(), answers, annotation: None });
        None
    }
}

/// Looks at every shard for the next step: first for duties of this process (a permit to use, a reply to record), then at
/// attempts under way, then for new attempts.
pub(super) fn round(o: &Observed, journal: &Journal, closing: Option<DeletionPolicy>, may_start: bool) -> Round {
    let live = journal.shards.iter().any(Shard::is_live);
    let stage = reasons::SUBMITTING;
    let mut round =
        Round { step: None, due: None, live, holds: vec![], blocked: None, stage, note: None, over_budget: None };
    let owed = attempts(journal).find_map(|(attempt_key, attempt)| owed(o, journal, attempt_key, attempt, closing));
    let mut failed_calls = None;
    round.step = owed
        .or_else(|| following(o, journal, (closing, may_start), &mut round, &mut failed_calls))
        .or_else(|| hear(o, journal, &round.holds))
        .or_else(|| failed_calls.take_if(|_| o.memory.last_step_failed))
        // Files are deleted before new attempts start. Otherwise settled shards would stay in the journal's head until the
        // last shard was sent.
        .or_else(|| settled::delete_files(o, journal, closing))
        .or_else(|| may_start.then(|| canary::approve(o, journal, &mut round)).flatten())
        .or_else(|| may_start.then(|| start(o, journal, &mut round)).flatten())
        .or(failed_calls);
    round
}

/// Returns the next step of the attempts under way. Calls that failed the last time are put off, so that they do not delay
/// other steps. Of the steps with such calls, the one that was due first is stored in `failed_calls`.
fn following(
    o: &Observed,
    journal: &Journal,
    (closing, may_start): (Option<DeletionPolicy>, bool),
    round: &mut Round,
    failed_calls: &mut Option<Step>,
) -> Option<Step> {
    let mut longest = i64::MAX;
    for (attempt_key, attempt) in attempts(journal) {
        let Some(step) = under_way(o, journal, attempt_key, attempt, (closing, may_start), round) else { continue };
        let Some(call) = step.call() else { return Some(step) };
        match o.memory.failed_calls.get(&call) {
            _ if o.memory.running.contains(&call) => {}
            None => return Some(step),
            Some(due) if o.now >= due + PUT_OFF => return Some(step),
            Some(due) if *due < longest => (longest, *failed_calls) = (*due, Some(step)),
            Some(_) => {}
        }
    }
    None
}

pub(super) fn attempts(journal: &Journal) -> impl Iterator<Item = (AttemptKey, &Attempt)> {
    journal.shards.entries().filter_map(|(shard, s)| {
        let attempt = s.attempt.as_ref()?;
        Some((AttemptKey { shard, attempt: attempt.number }, attempt))
    })
}

pub(super) fn with_state(journal: &Journal, attempt_key: AttemptKey, state: AttemptState) -> Step {
    Step::Swap(journal.next(|j| {
        if let Some(attempt) = j.attempt_mut(attempt_key) {
            attempt.state = state;
        }
    }))
}

/// Revokes an attempt on a person's word. Its batch may have run and been billed all the same.
pub(super) fn write_off(journal: &Journal, attempt_key: AttemptKey, message: String) -> Step {
    Step::Swap(journal.next(|j| {
        let Some(shard) = j.shards.get_mut(attempt_key.shard) else { return };
        shard.written_off = shard.written_off.saturating_add(1).min(WRITTEN_OFF_LIMIT);
        if let Some(attempt) = &mut shard.attempt {
            attempt.state = AttemptState::Revoked { message };
        }
    }))
}

pub(super) fn record(o: &Observed, journal: &Journal, attempt_key: AttemptKey, batch_id: &str) -> Step {
    with_state(journal, attempt_key, AttemptState::Submitted { batch_id: batch_id.into(), at: o.now })
}

/// Returns the step that only this process can take: to use its permit, or to record the result of its POST.
fn owed(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    closing: Option<DeletionPolicy>,
) -> Option<Step> {
    if !matches!(attempt.state, AttemptState::Intended | AttemptState::Revoking) {
        return None;
    }
    let permitted = o.memory.permit.as_ref() == Some(&attempt.intent_id) && attempt.state == AttemptState::Intended;
    let stops = closing.is_some() || o.job.stop.is_some();
    let (posted, is_first) = (o.memory.posted.get(&attempt.intent_id), attempt.repeats == 0);
    // The reply to an earlier POST does not use up the permit for a repeated one.
    let posted = posted.filter(|posted| is_first || !permitted || matches!(posted, PostResult::Created(_)));
    match posted {
        Some(PostResult::Created(id)) => Some(record(o, journal, attempt_key, id)),
        // A refusal of a repeated POST proves nothing about the first POST, which may have made a batch.
        Some(PostResult::Refused(rejection)) if attempt.state == AttemptState::Intended && is_first => {
            Some(Step::Swap(journal.next(|j| refuse(o, j, attempt_key, rejection.clone(), false))))
        }
        // The reply is recorded first, because the resolution takes minutes, and another process may have to finish it.
        Some(PostResult::Declined(rejection))
            if attempt.state == AttemptState::Intended && attempt.declined.is_none() =>
        {
            Some(Step::Swap(journal.next(|j| {
                if let Some(attempt) = j.attempt_mut(attempt_key) {
                    attempt.declined = Some(rejection.clone());
                }
            })))
        }
        Some(_) => None,
        None if !permitted => None,
        None if (stops || attempt.fingerprint != o.job.fingerprint) && !is_first => None,
        None if stops => {
            let unsent = Rejection::new(Refusal::NotSent, "the job was to stop before the batch was asked for");
            Some(Step::Swap(journal.next(|j| refuse(o, j, attempt_key, unsent, false))))
        }
        // The file belongs to the account of the earlier credential. This account does not have it.
        None if attempt.fingerprint != o.job.fingerprint => Some(not_sent_anew(o, journal, attempt_key)),
        // The call failed before it used the permit, and waits for its next try.
        None if o.memory.running.contains(&Task::Post(attempt_key)) => None,
        None => Some(Step::Post(attempt_key)),
    }
}

/// Records that nothing was sent. The next attempt gets a file of its own.
fn not_sent_anew(o: &Observed, journal: &Journal, attempt_key: AttemptKey) -> Step {
    let unsent = Rejection::new(Refusal::NotSent, "the credential changed before the batch was asked for");
    Step::Swap(journal.next(|j| refuse(o, j, attempt_key, unsent, true)))
}

fn under_way(
    o: &Observed,
    journal: &Journal,
    attempt_key: AttemptKey,
    attempt: &Attempt,
    (closing, may_start): (Option<DeletionPolicy>, bool),
    round: &mut Round,
) -> Option<Step> {
    match &attempt.state {
        // This process is sending the POST, and will learn the outcome first.
        AttemptState::Intended if o.memory.running.contains(&Task::Post(attempt_key)) => None,
        AttemptState::Intended => resolve::resolve(o, journal, attempt_key, attempt, may_start, round),
        AttemptState::Revoking => resolve::revoke(o, journal, attempt_key, attempt, round),
        // An orphaned batch runs on, and the next object of this name adopts it. Only unresolved intents are waited for.
        AttemptState::Submitted { .. } if closing == Some(DeletionPolicy::Orphan) => {
            round.live = attempts(journal).any(|(_, a)| is_unresolved(a));
            None
        }
        AttemptState::Submitted { batch_id, .. } => follow(o, journal, attempt_key, attempt, batch_id, closing, round),
        AttemptState::Revoked { .. }
        | AttemptState::Refused { .. }
        | AttemptState::Settled { .. }
        | AttemptState::Abandoned { .. } => None,
    }
}

fn is_unresolved(attempt: &Attempt) -> bool {
    matches!(attempt.state, AttemptState::Intended | AttemptState::Revoking)
}
