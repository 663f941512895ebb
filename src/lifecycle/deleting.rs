//! A job that is being deleted: its batches are cancelled or left to run, and paid results are kept.

use super::decide::{self, GONE, MENDED_CHECK, conclude, tidy, wait};
use super::journal::{Commit, Journal};
use super::observed::Observed;
use super::step::{Step, Waiting};
use super::task::Task;
use super::{completion, submission};
use crate::api::conditions::reasons;
use crate::api::{DeletionPolicy, Outcome, RequestCounts, Spending};

/// Returns the next step for a job whose deletion was requested at `since` (Unix milliseconds).
pub(super) fn deleting(o: &Observed, since: i64) -> Step {
    if !o.job.finalizer {
        return wait(None, reasons::FINISHED);
    }
    let let_go = Step::RemoveFinalizer { abandoned: None, untidy: None };
    let overdue = o.now >= since + o.timing.deletion_deadline;
    if o.job.finished {
        return finished(o, overdue);
    }
    if let Some(blocked) = &o.job.blocked {
        // Without a lock, this object never opened anything.
        return match (o.job.lock.is_none(), overdue) {
            (true, _) => let_go,
            (false, _) if o.job.is_lost => lost(o, &blocked.message),
            (false, true) => abandon(&blocked.message),
            (false, false) => Step::Wait {
                until: Some((o.now + MENDED_CHECK).min(since + o.timing.deletion_deadline)),
                why: Waiting { stage: reasons::CANCELLED, blocked: Some(blocked.clone()), ..Default::default() },
            },
        };
    }
    let policy = o.job.deletion_policy;
    let failing = o.memory.error.as_ref().filter(|_| overdue);
    let journal = match o.journal {
        Some(journal) if journal.owner == o.job.owner => journal,
        // An earlier object of this name left batches behind, and nobody else will ever follow them.
        Some(journal)
            if journal.owner.is_namesake(&o.job.owner) && journal.has_intents() && journal.commit.is_none() =>
        {
            if let Some(why) = failing {
                return abandon(why);
            }
            return Step::Swap(journal.next(|j| {
                j.owner = o.job.owner.clone();
                j.closing = Some(policy);
            }));
        }
        None if o.job.submitted => return without_journal(o, since, overdue),
        _ => return let_go,
    };
    if let Some(why) = failing.filter(|_| journal.has_intents()) {
        return abandon(why);
    }
    if journal.commit.is_some() {
        return match conclude(o, journal) {
            Step::Conclude { .. } => tidy_up_then_let_go(o, journal, overdue),
            Step::Wait { .. } if overdue => abandon("its results could not be written"),
            step => step,
        };
    }
    if !journal.has_intents() {
        return close_then_tidy_up(o, journal, overdue);
    }
    if journal.closing != Some(policy) {
        return Step::Swap(journal.next(|j| j.closing = Some(policy)));
    }
    let round = submission::round(o, journal, Some(policy), false);
    match round.step {
        Some(step) => step,
        None if !round.live && policy == DeletionPolicy::Orphan => let_go,
        None if !round.live => completion::clean_up_then(o, journal, |requests| cancelled(requests, o.now)),
        None if overdue => abandon("its batches did not end in time"),
        None => Step::Wait {
            until: round.due.or(Some(since + o.timing.deletion_deadline)),
            why: round.waiting(reasons::CANCELLED, None),
        },
    }
}

/// Returns the next step for a job that has its outcome. It waits for an unavailable store, but for nothing else that prevents
/// reading its journal.
fn finished(o: &Observed, overdue: bool) -> Step {
    let tidied = o.job.tidy || o.job.lock.is_none();
    match (o.journal.filter(|j| j.owner == o.job.owner), &o.job.blocked) {
        // A failure that cost nothing leaves its staged data until the deletion.
        (Some(journal), _) if o.job.lock.is_none() && !journal.has_intents() && journal.commit.is_none() => {
            close_then_tidy_up(o, journal, overdue)
        }
        (Some(journal), _) if !tidied && journal.commit.is_some() => tidy_up_then_let_go(o, journal, overdue),
        (None, Some(_)) if !tidied && !overdue && o.job.store_is_away => {
            wait(Some(o.now + MENDED_CHECK), reasons::FINISHED)
        }
        (None, Some(blocked)) if !tidied => {
            Step::RemoveFinalizer { abandoned: None, untidy: Some(blocked.message.clone()) }
        }
        _ => Step::RemoveFinalizer { abandoned: None, untidy: None },
    }
}

/// Closes the journal, then deletes the staged data. Nothing was sent, and nothing is sent once the journal is closed: a job
/// that opens it again stages anew.
fn close_then_tidy_up(o: &Observed, journal: &Journal, overdue: bool) -> Step {
    let policy = o.job.deletion_policy;
    if let Some(why) = &o.memory.unfit_store {
        return Step::RemoveFinalizer { abandoned: None, untidy: Some(why.clone()) };
    }
    match (journal.closing == Some(policy), &o.memory.error) {
        (true, _) => tidy_up_then_let_go(o, journal, overdue),
        (false, Some(why)) if overdue => Step::RemoveFinalizer { abandoned: None, untidy: Some(why.clone()) },
        (false, _) => Step::Swap(journal.next(|j| j.closing = Some(policy))),
    }
}

/// Deletes the staged data of work that nobody continues. A failed deletion never blocks the object: the finalizer is removed
/// at once if the failure is permanent, else the deletion is retried until it is overdue.
fn tidy_up_then_let_go(o: &Observed, journal: &Journal, overdue: bool) -> Step {
    let tidied = o.memory.tidied.as_ref().filter(|t| t.work_id == journal.work_id);
    match tidied.map(|t| &t.failed) {
        None => tidy(o),
        Some(Some(failed)) if failed.retryable && !overdue => tidy(o),
        Some(failed) => Step::RemoveFinalizer { abandoned: None, untidy: failed.as_ref().map(|f| f.message.clone()) },
    }
}

fn cancelled(requests: RequestCounts, at: i64) -> Commit {
    Commit {
        outcome: Outcome::Cancelled,
        reason: reasons::CANCELLED.into(),
        message: format!(
            "the BatchJob was deleted before it was done; {} of {} requests were answered",
            requests.succeeded, requests.total
        ),
        at,
        requests,
        spending: Spending::default(),
    }
}

/// Returns the next step for a job without a journal, as when its namespace is deleted together with the journal's ConfigMap.
/// Batches that status names are cancelled if the provider says that they belong to this work; nothing can be collected any
/// more.
fn without_journal(o: &Observed, since: i64, overdue: bool) -> Step {
    if !overdue && o.memory.running.contains(&Task::CancelUnjournaled) {
        return wait(Some(since + o.timing.deletion_deadline), reasons::CANCELLED);
    }
    match (o.job.deletion_policy, unjournaled(o)) {
        (DeletionPolicy::Cancel, Some(step)) if !overdue => step,
        (DeletionPolicy::Cancel, None) => let_through(&format!("{GONE}; {}", told_to_stop(o))),
        _ => let_through(&format!("{GONE}; the batches that status names may still run and cost")),
    }
}

/// Returns the step that cancels the next of the batches that status names.
pub(super) fn unjournaled(o: &Observed) -> Option<Step> {
    let running = o.job.batches.iter().find(|id| !o.memory.cancelled.contains(*id));
    running.map(|batch_id| Step::CancelUnjournaled { batch_id: batch_id.clone() })
}

/// Returns what became of the batches that status names once each was cancelled, or could not be, for a person.
pub(super) fn told_to_stop(o: &Observed) -> String {
    let (left, told): (Vec<String>, Vec<String>) =
        o.job.batches.iter().cloned().partition(|id| o.memory.not_stopped.contains(id));
    let told = decide::named(&told).map(|named| format!("the batches that status names were told to stop ({named})"));
    let left = decide::named(&left).map(|named| {
        format!(
            "not told to stop, and may run on and cost: {named}; the provider cannot cancel them, does not find them under the \
             present credential, or does not say that they are this work's"
        )
    });
    let said: Vec<String> = told.into_iter().chain(left).collect();
    if said.is_empty() { "status names no batch of it".into() } else { said.join("; ") }
}

/// Reports a job whose prerequisites were deleted before it and will not come back: its batches can no longer be cancelled or
/// collected, and a person has to know which of them may run on.
fn lost(o: &Observed, why: &str) -> Step {
    let running = match decide::named(&o.job.batches) {
        Some(named) => format!("{named} may run on, and cost, until the provider is told to stop them"),
        None if o.job.submitted => "a batch that was being submitted may run, and cost".into(),
        None => "no batch of it is known".into(),
    };
    let message = format!("{why}, so its batches can neither be told to stop nor be collected: {running}");
    Step::RemoveFinalizer { abandoned: Some(message), untidy: None }
}

fn abandon(why: &str) -> Step {
    let left = "batches at the provider may still run and cost, the journal at the destination names them";
    let_through(&format!("{why}; {left}"))
}

fn let_through(why: &str) -> Step {
    Step::RemoveFinalizer { abandoned: Some(format!("the deletion was let through: {why}")), untidy: None }
}
