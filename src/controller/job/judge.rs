//! The decision on a look at a job, with what this process remembers of it and what its account has room for.

use std::collections::BTreeSet;

use super::events::not_published;
use super::job_state::JobState;
use super::observe::Snapshot;
use crate::account::{QuotaFull, Submission};
use crate::api::text::clock_time;
use crate::controller::Context;
use crate::lifecycle::{Blocked, Memory, Owner, Place, ReserveResult, Shard, Step, Task, decide, next_visit};

/// A decision, and the memory that it was made with.
pub(super) struct Decision {
    pub step: Step,
    pub memory: Memory,
    /// A lasting failure, which is reported beside the step.
    pub blocked: Option<Blocked>,
    /// True for a wait at a stage that may be over at once.
    pub is_brief: bool,
}

pub(super) fn judge(ctx: &Context, job_state: &JobState, snapshot: &Snapshot) -> Decision {
    if snapshot.view.reevaluated && snapshot.view.deleting_since.is_none() {
        job_state.remember(|m| {
            let (running, clock_since) = (std::mem::take(&mut m.running), m.clock_since);
            *m = Memory { running, clock_since, ..Default::default() };
        });
    }
    // A job that lacks a referenced object has no credential; findings under the last credential still count.
    if !snapshot.view.fingerprint.is_empty() {
        job_state.remember(|m| m.under(&snapshot.view.fingerprint));
    }
    // A job goes on, and ends, without its partial results.
    let is_needed = |what: &Option<Task>| *what != Some(Task::Publish);
    let lasting = job_state.lasting(is_needed).filter(|_| !snapshot.view.finished);
    account_for(ctx, job_state, snapshot);
    if let Some(clients) = &snapshot.clients {
        // Budgets may have more room than when the job was refused.
        let state = || ctx.ledgers.state(&clients.account.key("").provider);
        let is_over = |known: &ReserveResult| known.outcome.as_ref().is_err_and(|wait| wait.state != state());
        job_state.remember(|m| _ = m.reserved.take_if(|known| is_over(known)));
    }
    let mut memory = Memory {
        place: place(snapshot),
        error: lasting.as_ref().and_then(|b| Some(b.error()?.blocked.message.clone())),
        failed_calls: job_state.failed_calls(),
        last_step_failed: job_state.backoff(None).failures > 0,
        ..job_state.memory()
    };
    let next_try = memory.hold_back(snapshot.now);
    // A task that waits for room counts as begun, so that other steps go on.
    memory.running.extend(job_state.task_rooms.waiting());
    let mut step = decide(&snapshot.observed(&ctx.timing, &memory));
    let Step::Wait { until, why } = &mut step else {
        return Decision { step, memory, blocked: lasting.and_then(|b| b.blocked()), is_brief: false };
    };
    if let Some(clients) = &snapshot.clients {
        clients.quota.release(&snapshot.view.owner.uid);
    }
    let is_tried = |what: &Option<Task>| is_needed(what) && what.is_some_and(|task| memory.running.contains(&task));
    let blocked = job_state.lasting(is_tried).filter(|_| !snapshot.view.finished).and_then(|b| b.blocked());
    let tell_at = {
        let since = job_state.waits(why, snapshot.now);
        why.blocked = why.blocked.take().or(blocked);
        why.note = why.note.take().or_else(|| unpublished(job_state));
        why.written_at(&memory, since).filter(|at| snapshot.now < *at)
    };
    let due = until.iter().copied().chain(next_try).chain(tell_at).min();
    *until = next_visit(due, job_state.may_be_fixed(), snapshot.now);
    Decision { step, memory, blocked: None, is_brief: tell_at.is_some() }
}

/// Returns the message about partial results that cannot be published.
fn unpublished(job_state: &JobState) -> Option<String> {
    let failing = job_state.lasting(|what| *what == Some(Task::Publish))?;
    failing.blocked().map(|blocked| not_published(&blocked.message))
}

/// Tells the account which batches the job has in flight, and which it follows.
fn account_for(ctx: &Context, job_state: &JobState, snapshot: &Snapshot) {
    let (Some(clients), Some((journal, _))) = (&snapshot.clients, &snapshot.journal) else { return };
    let Owner { uid, namespace, .. } = &snapshot.view.owner;
    if journal.owner.uid != *uid {
        return;
    }
    let memory = job_state.memory();
    let live = journal.shards.iter().filter(|shard| shard.is_live()).count();
    let submission = match memory.running.iter().any(|task| matches!(task, Task::Post(_))) {
        true => Submission::Posting,
        false if memory.permit.is_some() => Submission::Begun,
        false => Submission::None,
    };
    ctx.accounts.report(&clients.account.key("").provider, uid, namespace, live, submission);
    let recorded: BTreeSet<&str> = journal.shards.iter().filter_map(Shard::batch_in_flight).collect();
    clients.calls.keep(uid, |batch| recorded.contains(batch));
}

/// Returns the place that the account has for one more batch.
fn place(snapshot: &Snapshot) -> Place {
    let Some(clients) = &snapshot.clients else { return Place::Free };
    if let Some(left) = clients.calls.pace().pause() {
        let until = snapshot.now.saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
        // Rounded up to whole minutes, so that an unchanged wait leaves the status unchanged.
        let until = clock_time(until.saturating_add(59_999) / 60_000 * 60_000);
        return Place::Full(format!(
            "the provider asked for a pause of all calls of its account, until {until} at most"
        ));
    }
    let Owner { uid, namespace, .. } = &snapshot.view.owner;
    match clients.quota.full(uid, namespace) {
        None => Place::Free,
        Some(QuotaFull::Submitting) => Place::Soon,
        Some(QuotaFull::Batches(limit)) => Place::Full(format!(
            "{limit} batches are in flight at {}, and its `limits.maxBatchesInFlight` allows no more; the next one is sent when \
             one of them ends, of the namespace that has the fewest",
            clients.account.name
        )),
    }
}
