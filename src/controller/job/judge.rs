//! The decision on a look at a job, with what this process remembers of it and what its account has room for.

use std::collections::BTreeSet;

use super::events::not_published;
use super::job_state::JobState;
use super::observe::Snapshot;
use super::place::place;
use crate::account::{JobUse, Submission};
use crate::controller::Context;
use crate::controller::provider::AccountChange;
use crate::lifecycle::{
    Blocked, Load, Memory, Owner, Place, ReserveResult, Shard, Step, Task, decide, next_end, next_visit,
};

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
        error: lasting.as_ref().and_then(|b| Some(b.error()?.blocked.message.clone())),
        failed_calls: job_state.failed_calls(),
        last_step_failed: job_state.backoff(None).failures > 0,
        ..job_state.memory()
    };
    let next_try = memory.hold_back(snapshot.now);
    // A task that waits for room counts as begun, so that other steps go on.
    memory.running.extend(job_state.task_rooms.waiting());
    let mut step = next_step(ctx, snapshot, &mut memory);
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

/// Decides on the next step. The account is asked for a place only if the next batch needs one.
fn next_step(ctx: &Context, snapshot: &Snapshot, memory: &mut Memory) -> Step {
    let is_waiting = memory.running.remove(&Task::Place);
    memory.place = Place::Soon;
    let step = decide(&snapshot.observed(&ctx.timing, memory));
    if is_waiting {
        memory.running.insert(Task::Place);
    }
    let Step::WaitForPlace(attempt_key) = step else { return step };
    memory.place = place(snapshot, attempt_key);
    decide(&snapshot.observed(&ctx.timing, memory))
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
    let known = snapshot.view.provider.as_ref().map(|provider| &*provider.models).unwrap_or_default();
    let live = Load::of_journal(journal, known);
    let submission = match memory.running.iter().any(|task| matches!(task, Task::Post(_))) {
        true => Submission::Posting,
        false if memory.permit.is_some() => Submission::Begun,
        false => Submission::None,
    };
    let next_end = next_end(journal, known, snapshot.now);
    let takes = JobUse { live, next_end, submission };
    ctx.accounts.report(&clients.account.key("").provider, uid, namespace, takes);
    if clients.quota.is_to_be_reported() {
        ctx.reports.ask(&clients.account.object, AccountChange::InFlight, snapshot.now);
    }
    let recorded: BTreeSet<&str> = journal.shards.iter().filter_map(Shard::batch_in_flight).collect();
    clients.calls.keep(uid, |batch| recorded.contains(batch));
}
