//! The events of a job, derived from changes of its journal and its conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::conditions::{self, reasons};
use crate::api::{CanaryApproval, Outcome, Spending};
use crate::controller::runtime::events::EventRecord;
use crate::lifecycle::{
    Approval, Attempt, AttemptKey, AttemptState, Journal, ManifestView, Memory, canary_report, left_out, not_reused,
};
use crate::money::{Usd, for_people};

/// Returns the events for a change of the journal from `old` to `new`.
pub(super) fn events_of(old: &Journal, new: &Journal) -> Vec<EventRecord> {
    let mut news = vec![];
    if let (None, Some(plan)) = (&old.plan, &new.plan) {
        let totals = new.shards.totals();
        let batches = match new.shards.len().saturating_sub(totals.reused) {
            1 => "1 batch".to_string(),
            n => format!("{n} batches"),
        };
        let mut note = format!("{} requests are sound and make {batches}", plan.requests);
        if !plan.reuse.is_empty() {
            note += &format!("; {} have an answer in `spec.reuseFrom` and are not sent", totals.counts.reused);
        }
        news.push(EventRecord::normal("InputResolved", note));
        news.extend(not_reused(plan).map(|why| EventRecord::warning("NothingToReuse", why)));
        news.extend(left_out(plan).map(|left_out| EventRecord::normal("InputSkipped", left_out)));
    }
    news.extend(prices_changed(old, new));
    if old.owner != new.owner {
        let whose =
            if old.owner.cluster == new.owner.cluster { "an earlier BatchJob of this name" } else { "another cluster" };
        let note = format!("took over the work of {whose} (uid {})", old.owner.uid);
        news.push(EventRecord::normal("WorkAdopted", note));
    }
    if canary_report(old).is_none() {
        news.extend(canary_report(new).map(|report| EventRecord::normal("CanaryDone", report)));
    }
    if let (None, Some(Approval { by, .. })) = (old.approval, new.approval) {
        let by = match by {
            CanaryApproval::Manual => "a person approved the requests behind the canary",
            CanaryApproval::Automatic => "the figures of the canary approved the requests behind it",
        };
        news.push(EventRecord::normal("Approved", format!("{by}; they are submitted")));
    }
    let both = old.shards.entries().filter_map(|(index, shard)| Some((shard, new.shards.get(index)?)));
    let halved = both.into_iter().find(|(a, b)| old.has_intents() && a.sha256 != b.sha256);
    if let Some((whole, half)) = halved {
        let (all, first) = (whole.requests, half.requests);
        let note = format!(
            "a batch of {all} requests is more than the account takes, with nothing else in flight; it is sent as two, of {first} \
             and {} requests: {}",
            all - first,
            whole.attempt.as_ref().map(|a| a.message()).unwrap_or_default()
        );
        news.push(EventRecord::warning("BatchHalved", note));
    }
    for (shard, attempt) in new.shards.entries().filter_map(|(i, s)| Some((i, s.attempt.as_ref()?))) {
        let before = old.shards.get(shard).and_then(|s| s.attempt.as_ref());
        if before == Some(attempt) {
            continue;
        }
        let attempt_key = AttemptKey { shard, attempt: attempt.number };
        if attempt.billed_again > 0 && before.is_none_or(|b| b.billed_again != attempt.billed_again) {
            let n = attempt.billed_again;
            let cost = cost_of(attempt, n).map_or(String::new(), |cost| format!(", for about {cost}"));
            let note = format!(
                "up to {n} requests of batch {attempt_key} were billed twice{cost}: the provider, or a gateway in front of it, made \
                 more than one batch of its submission"
            );
            news.push(EventRecord::warning("BilledTwice", note));
        }
        let lost = match &attempt.declined {
            Some(rejection) => format!("the server answered its submission with an error: {}", rejection.message),
            None => "the reply to its submission was lost".into(),
        };
        news.extend(match &attempt.state {
            AttemptState::Intended if attempt.declined.is_some() => Some(EventRecord::warning(
                "SubmissionDeclined",
                format!("batch {attempt_key}: {lost}; a gateway may have made it all the same, so it is looked for before it is sent again"),
            )),
            AttemptState::Submitted { batch_id, .. } => {
                Some(EventRecord::normal("BatchSubmitted", format!("batch {attempt_key} runs as {batch_id}")))
            }
            AttemptState::Settled { batch_id, ended, counts, usage, .. } if before.is_some_and(|b| b.state != attempt.state) => {
                let (ok, all) = (counts.succeeded, counts.total);
                let mut note = format!("batch {attempt_key} ({batch_id}) ended as '{ended}': {ok} of {all} requests succeeded");
                if usage.repeated_rows > 0 {
                    note += &format!("; {} rows were delivered twice, the first of each counts", usage.repeated_rows);
                }
                match before.map(|b| &b.state) {
                    Some(AttemptState::Settled { .. }) => None,
                    _ => Some(EventRecord::normal("BatchEnded", note)),
                }
            }
            AttemptState::Refused { message, .. } if before.is_none_or(|b| b.state != attempt.state) => {
                Some(EventRecord::warning("BatchRefused", format!("batch {attempt_key} was not accepted: {message}")))
            }
            AttemptState::Abandoned { batch_id } => {
                let (requests, id) = (new.shards.get(shard).map_or(0, |s| s.requests), batch_id.as_deref());
                let which = id.map_or_else(|| "of which nobody knows whether there is one".into(), |id| format!("({id})"));
                Some(EventRecord::warning(
                    "BatchAbandoned",
                    format!(
                        "batch {attempt_key} {which} did not end after it was to stop, and the job ends without it; it may still \
                         run, and up to {requests} requests may still be billed: cancel it at the provider"
                    ),
                ))
            }
            AttemptState::Revoking => Some(EventRecord::warning(
                "SubmissionUnknown",
                format!("no batch {attempt_key} was found ({lost}); its input file is deleted before it is sent again"),
            )),
            AttemptState::Revoked { .. } => {
                Some(EventRecord::normal("SubmissionRevoked", format!("no batch came of {attempt_key}; it can be sent again")))
            }
            _ => None,
        });
    }
    news
}

/// Returns the events for batches that are settled by a change of the journal from `old` to `new`, and whose tokens the provider
/// counts otherwise than its answers do.
pub(super) fn events_of_usage(old: &Journal, new: &Journal, memory: &Memory) -> Vec<EventRecord> {
    let settled = |journal: &Journal, shard: usize| match &journal.shards.get(shard)?.attempt.as_ref()?.state {
        AttemptState::Settled { batch_id, .. } => Some(batch_id.clone()),
        _ => None,
    };
    let note = |shard: usize| {
        let batch_id = settled(new, shard).filter(|id| settled(old, shard).as_ref() != Some(id))?;
        let difference = memory.collected.get(&batch_id)?.totals?.difference()?;
        let attempt_key = AttemptKey { shard, attempt: new.shards.get(shard)?.attempt.as_ref()?.number };
        Some(EventRecord::warning("UsageDiffers", format!("batch {attempt_key} ({batch_id}): {difference}")))
    };
    new.shards.entries().filter_map(|(shard, _)| note(shard)).collect()
}

/// Returns what so many requests of a settled batch cost on average.
fn cost_of(attempt: &Attempt, requests: i64) -> Option<Usd> {
    match &attempt.state {
        AttemptState::Settled { cost: Some(cost), counts, .. } if counts.succeeded > 0 => {
            Some(cost.batch.share(requests, counts.succeeded))
        }
        _ => None,
    }
}

/// Returns the event about prices that changed in the middle of a job: one, about the first change.
pub(super) fn prices_changed(old: &Journal, new: &Journal) -> Option<EventRecord> {
    let change = new.pricing.changed().filter(|_| old.pricing.changed().is_none())?;
    Some(EventRecord::normal("PricesChanged", change))
}

/// Returns the message about partial results that are not published, with the reason.
pub(super) fn not_published(why: &str) -> String {
    format!("partial results are not published, and the job goes on without them: {why}")
}

/// Returns the events for conditions that changed: a wait for the input, a question, a stalled job, a suspension and its end, a stop
/// that is seen.
pub(super) fn events_of_conditions(old: &[Condition], new: Option<&[Condition]>) -> Vec<EventRecord> {
    let turned = |c: &&Condition| {
        let before = old.iter().find(|o| o.type_ == c.type_);
        let says_other =
            |o: &Condition| o.reason != c.reason || (c.type_ == conditions::HELD && o.message != c.message);
        let begins_to_wait = c.reason == reasons::WAITING_FOR_INPUT && before.is_none_or(|o| o.reason != c.reason);
        let is_stuck = c.type_ == conditions::PROGRESSING && c.status == "False";
        begins_to_wait
            || is_stuck && before.is_none_or(|o| o.status != c.status || o.reason != c.reason)
            || before.map_or(c.status == "True", |o| o.status != c.status || (c.status == "True" && says_other(o)))
    };
    let all = new.unwrap_or_default();
    let reason_of = |all: &[Condition]| all.iter().find(|c| c.type_ == conditions::COMPLETE).map(|c| c.reason.clone());
    let stops = |c: &&Condition| c.type_ == conditions::COMPLETE && reason_of(old) != reason_of(all);
    let stops = all.iter().find(stops).and_then(|c| {
        let reason = [reasons::DRAINING, reasons::CANCELLING].into_iter().find(|reason| c.reason == *reason)?;
        Some(EventRecord::normal(reason, c.message.clone()))
    });
    let has_ended = [conditions::is_true, conditions::is_false].iter().any(|is| is(all, conditions::COMPLETE));
    let news = all.iter().filter(turned).filter_map(|c| {
        match (c.type_.as_str(), c.status.as_str()) {
            (conditions::COMPLETE, "Unknown") if c.reason == reasons::WAITING_FOR_INPUT => {
                Some(EventRecord::normal(reasons::WAITING_FOR_INPUT, c.message.clone()))
            }
            (conditions::HELD, "True") => Some(EventRecord::warning("Held", c.message.clone())),
            (conditions::SUSPENDED, "True") => Some(EventRecord::normal(reasons::SUSPENDED, c.message.clone())),
            // The condition of a job that ends while it is suspended becomes False as well.
            (conditions::SUSPENDED, "False") if !has_ended => {
                Some(EventRecord::normal(reasons::RESUMED, "batches are submitted again"))
            }
            (conditions::PROGRESSING, "False") => Some(EventRecord::warning(stuck(&c.reason)?, c.message.clone())),
            // A failed job, a question and a job without progress have events of their own.
            (conditions::STALLED, "True")
                if ![reasons::AWAITING_ANSWER, reasons::PROGRESS_DEADLINE_EXCEEDED].contains(&c.reason.as_str())
                    && !conditions::is_true(all, conditions::FAILED) =>
            {
                Some(EventRecord::warning("Stalled", format!("{}: {}", c.reason, c.message)))
            }
            _ => None,
        }
    });
    news.chain(stops).collect()
}

/// Returns the reason of an event about batches that do not get on, by that of the condition.
fn stuck(reason: &str) -> Option<&'static str> {
    [reasons::PROGRESS_DEADLINE_EXCEEDED, reasons::BATCHES_PAST_EXPIRY, reasons::BATCHES_NOT_FINALIZED]
        .into_iter()
        .find(|known| *known == reason)
}

/// Returns the event about an input that a job waited for.
pub(super) fn input_appeared(what: &str) -> EventRecord {
    EventRecord::normal("InputAppeared", format!("{what} is there; the requests are read"))
}

/// Returns the event about a schema in `field` whose properties the API server has sorted. `instead` is the field that keeps their
/// order.
pub(super) fn sorted_schema(field: &str, instead: &str) -> EventRecord {
    let note = format!(
        "`{field}` holds a schema, and the API server has sorted its properties. Models write the fields of an answer in the \
         order of the schema's: where that counts, write the JSON as text, into `{instead}`"
    );
    EventRecord::warning("SchemaSorted", note)
}

/// Returns the event about the end of a job; `reused` if it adopted an existing outcome.
pub(super) fn at_the_end(manifest: &ManifestView, reused: bool) -> EventRecord {
    let Spending { usage, cost, .. } = &manifest.spending;
    let tokens = usage.as_ref().map(|usage| for_people::tokens(&usage.tokens));
    let cost = cost.as_ref().and_then(for_people::cost);
    let has_no_cost = !reused && tokens.is_some() && cost.is_none();
    let figures: Vec<String> = [tokens, cost].into_iter().flatten().collect();
    let (message, figures) = (&manifest.message, figures.join(", "));
    if reused {
        let took =
            if figures.is_empty() { figures } else { format!(": the job that wrote the results took {figures}") };
        return EventRecord::normal("ResultsReused", format!("{message}; nothing was sent or paid again{took}"));
    }
    let mut message = if figures.is_empty() { message.clone() } else { format!("{message}, {figures}") };
    if has_no_cost {
        message += "; no cost is known: that takes prices of all models (`kubectl explain batchprovider.spec.models`), and usage in answers";
    }
    match manifest.outcome {
        Outcome::Succeeded | Outcome::PartiallySucceeded => EventRecord::normal("Completed", message),
        Outcome::Failed | Outcome::Cancelled => EventRecord::warning("Failed", message),
    }
}

#[cfg(test)]
mod tests;
