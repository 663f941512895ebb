//! The conditions in status: what each step says of the job.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::Outcome;
use crate::api::conditions::{self, Verdict, reasons};
use crate::lifecycle::findings::ManifestView;
use crate::lifecycle::journal::Owner;
use crate::lifecycle::observed::Observed;
use crate::lifecycle::plan_forecast::forecast;
use crate::lifecycle::questions;
use crate::lifecycle::step::{Failure, Waiting};

pub(super) fn verdict(
    type_: &'static str,
    status: impl Into<Option<bool>>,
    reason: &str,
    message: impl Into<String>,
) -> Verdict {
    Verdict { type_, status: status.into(), reason: reason.into(), message: message.into() }
}

/// Returns the message about a job without progress, if that is longer than its spec allows.
pub(super) fn exceeded(known: &[Condition]) -> Option<String> {
    let of = |c: &&Condition| c.type_ == conditions::PROGRESSING && c.reason == reasons::PROGRESS_DEADLINE_EXCEEDED;
    known.iter().find(of).map(|c| c.message.clone())
}

/// Returns the conditions of a job that waits. `exceeded` is the message about its progress, if that took too long.
pub(super) fn waiting(why: &Waiting, o: &Observed, exceeded: Option<String>) -> Vec<Verdict> {
    let message = match (why.holds.first(), &why.blocked, &why.note) {
        (Some(hold), _, _) => hold.message.clone(),
        (_, Some(blocked), _) => blocked.message.clone(),
        (_, _, Some(note)) => note.clone(),
        _ => stage_message(why.stage).into(),
    };
    let ours = matches!(
        why.stage,
        reasons::PLANNING | reasons::SUBMITTING | reasons::COLLECTING | reasons::WRITING_RESULTS | reasons::CANCELLED
    );
    let reconciling = match (why.holds.is_empty(), &why.blocked, ours) {
        (false, ..) => {
            verdict(conditions::RECONCILING, false, reasons::AWAITING_ANSWER, "the condition Held has a question")
        }
        (true, Some(blocked), _) => {
            verdict(conditions::RECONCILING, false, blocked.reason, "the condition Stalled says what is in the way")
        }
        (true, None, true) => verdict(conditions::RECONCILING, true, reasons::PROGRESSING, stage_message(why.stage)),
        (true, None, false) if why.stage == reasons::WAITING_FOR_INPUT => {
            verdict(conditions::RECONCILING, false, reasons::AWAITING_INPUT, "nothing for the operator to do now")
        }
        (true, None, false) => {
            verdict(conditions::RECONCILING, false, reasons::AWAITING_PROVIDER, "nothing for the operator to do now")
        }
    };
    let asked = questions::asked(o, &why.holds);
    let stalled = match (&why.blocked, &asked, exceeded) {
        (Some(blocked), ..) => verdict(conditions::STALLED, true, blocked.reason, blocked.message.clone()),
        (None, Some(asked), _) => verdict(conditions::STALLED, true, reasons::AWAITING_ANSWER, asked.clone()),
        (None, None, Some(exceeded)) => {
            verdict(conditions::STALLED, true, reasons::PROGRESS_DEADLINE_EXCEEDED, exceeded)
        }
        (None, None, None) => verdict(conditions::STALLED, false, reasons::PROGRESSING, ""),
    };
    let held = match asked {
        Some(asked) => verdict(conditions::HELD, true, reasons::AWAITING_ANSWER, asked),
        None => verdict(conditions::HELD, false, reasons::NOTHING_TO_ANSWER, ""),
    };
    let stage = if why.holds.is_empty() { why.stage } else { reasons::HELD };
    vec![
        verdict(conditions::COMPLETE, None, stage, message),
        verdict(conditions::FAILED, false, reasons::NOT_FAILED, ""),
        suspended(o),
        held,
        // Stalled comes first, because kstatus uses the first of the two that is True.
        stalled,
        reconciling,
    ]
}

fn suspended(o: &Observed) -> Verdict {
    if !o.job.suspend {
        return not_suspended();
    }
    let message = to_approve(o).unwrap_or_else(|| "no batch is submitted while `spec.suspend` is true".into());
    verdict(conditions::SUSPENDED, true, reasons::SUSPENDED, message)
}

fn not_suspended() -> Verdict {
    verdict(conditions::SUSPENDED, false, reasons::NOT_SUSPENDED, "")
}

/// Describes the plan of a job of which nothing was sent, and the way to approve it; None if there is no plan yet.
fn to_approve(o: &Observed) -> Option<String> {
    let journal = o.journal.filter(|journal| journal.owner == o.job.owner && !journal.has_intents())?;
    let plan = forecast(o.job, journal.plan.as_ref()?)?.describe();
    let Owner { namespace, name, .. } = &o.job.owner;
    let approve =
        format!(r#"kubectl -n {namespace} patch bjob {name} --type=merge -p '{{"spec":{{"suspend":false}}}}'"#);
    Some(format!("nothing is sent yet: {plan}. Approve it with `{approve}`"))
}

fn stage_message(stage: &str) -> &'static str {
    match stage {
        reasons::PENDING => "not started yet",
        reasons::WAITING_FOR_INPUT => "waiting for the input",
        reasons::PLANNING => "reading and checking the requests",
        reasons::SUSPENDED => "the requests are checked; set `spec.suspend` to false to submit them",
        reasons::SUBMITTING => "submitting batches to the provider",
        reasons::WAITING_FOR_QUOTA => "the provider has no room for another batch now; it is tried again",
        reasons::WAITING_FOR_BUDGET => "the budget has no room for another batch now",
        reasons::IN_PROGRESS => "the provider is working",
        reasons::DRAINING => {
            "`spec.stopPolicy` is Drain: no further batch is submitted, and batches in flight are awaited"
        }
        reasons::CANCELLING => "batches in flight are cancelled, and answers that were paid for are written",
        reasons::COLLECTING => "fetching the answers",
        reasons::WRITING_RESULTS => "writing the results",
        reasons::CANCELLED => "stopping the batches before the object goes",
        _ => "",
    }
}

pub(super) fn concluded(manifest: &ManifestView, reused: bool) -> Vec<Verdict> {
    let ended_well = matches!(manifest.outcome, Outcome::Succeeded | Outcome::PartiallySucceeded);
    // Never both Complete and Failed, as with a Job.
    let reason = manifest.reason.as_str();
    let message = manifest.message.as_str();
    let mut verdicts = vec![
        verdict(conditions::COMPLETE, ended_well, reason, message),
        match ended_well {
            true => verdict(conditions::FAILED, false, reasons::NOT_FAILED, ""),
            false => verdict(conditions::FAILED, true, reason, message),
        },
        verdict(conditions::RESULTS_WRITTEN, true, reasons::MANIFEST_WRITTEN, "manifest.json is in place"),
        verdict(conditions::HELD, false, reasons::NOTHING_TO_ANSWER, ""),
        match ended_well {
            true => verdict(conditions::STALLED, false, reasons::FINISHED, ""),
            // Without it kstatus, and so Flux and Argo CD, would consider the job healthy.
            false => verdict(conditions::STALLED, true, reason, message),
        },
        not_suspended(),
    ];
    verdicts.push(match reused {
        true => verdict(conditions::RECONCILING, false, reasons::FINISHED, ""),
        false => verdict(conditions::RECONCILING, true, reasons::PROGRESSING, "removing staged files"),
    });
    if reused {
        let message = "the destination already holds the outcome of this work; nothing was sent or paid again: usage and \
                       cost are those of the job that wrote it";
        verdicts.push(verdict(conditions::RESULTS_REUSED, true, reasons::MANIFEST_WRITTEN, message));
    }
    verdicts
}

pub(super) fn failed(failure: &Failure) -> Vec<Verdict> {
    vec![
        verdict(conditions::COMPLETE, false, failure.reason, failure.message.clone()),
        verdict(conditions::FAILED, true, failure.reason, failure.message.clone()),
        verdict(conditions::STALLED, true, failure.reason, failure.message.clone()),
        verdict(conditions::RECONCILING, false, reasons::FINISHED, ""),
        verdict(conditions::HELD, false, reasons::NOTHING_TO_ANSWER, ""),
        not_suspended(),
    ]
}
