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
mod tests {
    use super::*;
    use crate::api::{BatchUsage, CostStatus, RequestCounts, TokenUsage, UsageStatus};
    use crate::lifecycle::{CollectResult, Owner, PartRef, Payload, Refusal, Rejection, Shard, UsageTotals};
    use crate::money::Cost;

    fn journal(state: AttemptState, declined: Option<Rejection>) -> Journal {
        let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
        let mut journal = Journal::open("w".into(), owner, "s".into());
        let attempt = Attempt { declined, state, ..Attempt::intended(1, "i", Payload::file("f"), 0, "") };
        journal.shards.push(Shard { requests: 3, attempt: Some(attempt), ..Shard::default() });
        journal
    }

    fn told(old: &Journal, new: &Journal) -> Vec<(&'static str, String)> {
        events_of(old, new).into_iter().map(|news| (news.reason, news.note)).collect()
    }

    /// Case 24-create-refused-at-once: a server's error is an answer, and not reported as a lost reply.
    #[test]
    fn what_a_server_answered_with_is_told_and_not_called_lost() {
        let said = Some(Rejection::new(Refusal::Failed, "model is required (400)"));
        let intended = journal(AttemptState::Intended, None);
        let declined = journal(AttemptState::Intended, said.clone());
        let revoking = journal(AttemptState::Revoking, said);
        for (old, new, reason) in
            [(&intended, &declined, "SubmissionDeclined"), (&declined, &revoking, "SubmissionUnknown")]
        {
            let told = told(old, new);
            assert!(told.len() == 1 && told[0].0 == reason, "{told:?}");
            assert!(told[0].1.contains("model is required (400)") && !told[0].1.contains("lost"), "{told:?}");
        }
        let unanswered = told(&intended, &journal(AttemptState::Revoking, None));
        assert!(unanswered[0].1.contains("the reply to its submission was lost"), "{unanswered:?}");
    }

    #[test]
    fn rows_that_were_delivered_twice_are_told_with_the_end_of_their_batch() {
        let submitted = journal(AttemptState::Submitted { batch_id: "b".into(), at: 0 }, None);
        let counts = RequestCounts { total: 3, succeeded: 3, ..Default::default() };
        let usage = BatchUsage { repeated_rows: 2, ..Default::default() }.into();
        let (batch_id, ended) = ("b".into(), "completed".into());
        let (part, retryable, cost, errors, files) = Default::default();
        let settled = AttemptState::Settled { batch_id, ended, part, counts, retryable, usage, cost, errors, files };
        let told = told(&submitted, &journal(settled, None));
        let note = "batch 00000-1 (b) ended as 'completed': 3 of 3 requests succeeded; 2 rows were delivered twice, the first of each \
                    counts";
        assert_eq!(told, [("BatchEnded", note.to_string())]);
    }

    #[test]
    fn a_suspension_and_its_end_are_told_and_the_end_of_a_suspended_job_is_no_resumption() {
        let of = |type_: &str, status: &str| -> Condition {
            serde_json::from_value(serde_json::json!({"type": type_, "status": status, "reason": "R", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}))
            .unwrap()
        };
        let told = |old: &[(&str, &str)], new: &[(&str, &str)]| -> Vec<&str> {
            let [old, new] = [old, new].map(|all| all.iter().map(|(t, s)| of(t, s)).collect::<Vec<_>>());
            events_of_conditions(&old, Some(&new)).into_iter().map(|news| news.reason).collect()
        };
        let (suspended, resumed) = (("Suspended", "True"), ("Suspended", "False"));
        assert_eq!(told(&[resumed], &[suspended]), ["Suspended"]);
        assert_eq!(told(&[suspended], &[resumed, ("Complete", "Unknown")]), ["Resumed"]);
        assert!(told(&[], &[resumed]).is_empty(), "it was never suspended");
        for status in ["True", "False"] {
            assert!(told(&[suspended], &[resumed, ("Complete", status)]).is_empty());
        }
    }

    #[test]
    fn a_stop_is_told_once_when_it_is_seen() {
        let complete = |reason: &str| -> Condition {
            serde_json::from_value(serde_json::json!({"type": "Complete", "status": "Unknown", "reason": reason,
                "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
            .unwrap()
        };
        let told = |old: &str, new: &str| -> Vec<&str> {
            let news = events_of_conditions(&[complete(old)], Some(&[complete(new)]));
            news.into_iter().map(|news| news.reason).collect()
        };
        assert_eq!(told("InProgress", "Draining"), ["Draining"]);
        assert_eq!(told("Draining", "Cancelling"), ["Cancelling"]);
        assert!(told("Draining", "Draining").is_empty() && told("Draining", "Held").is_empty());
    }

    #[test]
    fn the_beginning_of_a_wait_for_input_is_told_once() {
        let of = |reason: &str| -> Vec<Condition> {
            serde_json::from_value(
                serde_json::json!([{"type": "Complete", "status": "Unknown", "reason": reason, "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]),
            )
            .unwrap()
        };
        let told = |old: &[Condition], new: &str| {
            events_of_conditions(old, Some(&of(new))).into_iter().map(|news| news.reason).collect::<Vec<_>>()
        };
        for old in [&[][..], &of("Pending"), &of("Planning")] {
            assert_eq!(told(old, "WaitingForInput"), ["WaitingForInput"], "{old:?}");
        }
        assert!(
            told(&of("WaitingForInput"), "WaitingForInput").is_empty()
                && told(&of("WaitingForInput"), "InProgress").is_empty()
        );
    }

    #[test]
    fn batches_that_do_not_get_on_are_told_once() {
        let of = |progressing: (&str, &str), stalled: &str| -> Vec<Condition> {
            let condition = |type_: &str, (status, reason): (&str, &str)| {
                serde_json::json!({"type": type_, "status": status, "reason": reason, "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            };
            let all = [condition("Progressing", progressing), condition("Stalled", (stalled, progressing.1))];
            serde_json::from_value(serde_json::json!(all)).unwrap()
        };
        let goes = of(("True", "AwaitingProvider"), "False");
        let late = of(("False", "BatchesPastExpiry"), "False");
        let stuck = of(("False", "ProgressDeadlineExceeded"), "True");
        for (old, new, told) in [
            (&[][..], &late, &["BatchesPastExpiry"][..]),
            (&goes, &late, &["BatchesPastExpiry"]),
            (&late, &late, &[]),
            (&late, &stuck, &["ProgressDeadlineExceeded"]),
            (&stuck, &stuck, &[]),
            (&stuck, &goes, &[]),
            (&[], &goes, &[]),
        ] {
            let news = events_of_conditions(old, Some(new)).into_iter();
            assert_eq!(news.map(|news| news.reason).collect::<Vec<_>>(), told, "{old:?} {new:?}");
        }
    }

    #[test]
    fn totals_that_differ_are_told_once_when_the_batch_is_settled() {
        let running = journal(AttemptState::Submitted { batch_id: "b".into(), at: 0 }, None);
        let settled = journal(
            AttemptState::Settled {
                batch_id: "b".into(),
                ended: "completed".into(),
                part: None,
                counts: Default::default(),
                retryable: 0,
                usage: Default::default(),
                cost: None,
                errors: vec![],
                files: vec![],
            },
            None,
        );
        let told = |old: &Journal, new: &Journal, input_tokens: i64| {
            let totals = UsageTotals {
                provider: TokenUsage { input_tokens, ..Default::default() },
                answers: Default::default(),
            };
            let collected = CollectResult {
                part: PartRef { name: "p".into(), sha256: "s".into() },
                counts: Default::default(),
                retryable: 0,
                usage: Default::default(),
                totals: Some(totals),
                errors: vec![],
                files: vec![],
                short: None,
                long_context_above: None,
                foreign: 0,
            };
            let memory = Memory { collected: [("b".into(), collected)].into(), ..Default::default() };
            let news = events_of_usage(old, new, &memory).into_iter();
            news.map(|news| (news.warning, news.reason, news.note)).collect::<Vec<_>>()
        };
        let [(warning, reason, note)] = &told(&running, &settled, 7)[..] else { panic!("one event") };
        assert_eq!((*warning, *reason), (true, "UsageDiffers"));
        assert!(note.starts_with("batch 00000-1 (b): the provider counts 7 input and 0 output tokens"), "{note}");
        assert!(told(&running, &settled, 0).is_empty() && told(&settled, &settled, 7).is_empty());
        assert!(told(&running, &running, 7).is_empty(), "it may be collected again");
    }

    #[test]
    fn the_end_of_a_canary_and_its_approval_are_told_once() {
        let counts = RequestCounts { total: 3, succeeded: 3, ..RequestCounts::default() };
        let part = Some(PartRef { name: "p".into(), sha256: "s".into() });
        let (batch_id, ended, cost) = ("b".into(), "completed".into(), Some(Box::default()));
        let (usage, errors, files) = (Box::default(), vec![], vec![]);
        let settled = AttemptState::Settled { batch_id, ended, part, counts, retryable: 0, usage, cost, errors, files };
        let with_canary = |state| {
            let mut journal = journal(state, None);
            let input = serde_json::json!({"version": "v", "sizeBytes": 1, "sources": 1, "skipped": 0});
            let plan = serde_json::json!({"workHash": "h", "input": input, "requests": 5, "canary": {"requests": 3, "before": 3}});
            journal.plan = Some(serde_json::from_value(plan).unwrap());
            journal.shards.push(Shard { first: 3, requests: 2, ..Shard::default() });
            journal
        };
        let runs = with_canary(AttemptState::Submitted { batch_id: "b".into(), at: 0 });
        let done = with_canary(settled);
        let news = told(&runs, &done);
        let canary: Vec<_> = news.iter().filter(|(reason, _)| *reason == "CanaryDone").collect();
        assert!(canary.len() == 1 && canary[0].1.contains("3 of 3 requests were answered"), "{news:?}");
        assert!(told(&done, &done).is_empty());
        for (by, whose) in [(CanaryApproval::Manual, "a person"), (CanaryApproval::Automatic, "the figures")] {
            let approved = Journal { approval: Some(Approval { by, at: 7 }), ..done.clone() };
            let news = told(&done, &approved);
            assert!(news.len() == 1 && news[0].0 == "Approved" && news[0].1.starts_with(whose), "{news:?}");
            assert!(told(&approved, &approved).is_empty());
        }
    }

    #[test]
    fn halves_and_what_was_billed_twice_are_told() {
        let refused =
            |at| AttemptState::Refused { refusal: Refusal::TokenLimit, message: "90,000".into(), at, retry_at: None };
        let whole = journal(refused(7), None);
        let mut halves = journal(refused(0), None);
        (halves.shards[0].sha256, halves.shards[0].requests) = ("a".into(), 2);
        halves.shards.push(Shard { attempt: None, requests: 1, ..whole.shards[0].clone() });
        let halved = told(&whole, &halves);
        assert!(halved[0].0 == "BatchHalved" && halved[0].1.contains("of 2 and 1 requests: 90,000"), "{halved:?}");
        let mut billed = whole.clone();
        billed.shards[0].attempt.as_mut().unwrap().billed_again = 3;
        let twice = told(&whole, &billed);
        assert!(
            twice.len() == 1 && twice[0].0 == "BilledTwice" && twice[0].1.contains("up to 3 requests"),
            "{twice:?}"
        );
        assert!(!twice[0].1.contains('$'), "{twice:?}");
    }

    #[test]
    fn the_cost_of_requests_that_were_billed_twice_is_that_of_the_others_of_their_batch() {
        let cost = Cost { batch: Usd::parse("0.60").unwrap(), real_time: Usd::parse("1.20").unwrap() };
        let settled = AttemptState::Settled {
            batch_id: "b".into(),
            ended: "completed".into(),
            part: None,
            counts: RequestCounts { total: 3, succeeded: 3, ..Default::default() },
            retryable: 0,
            usage: Default::default(),
            cost: Some(Box::new(cost)),
            errors: vec![],
            files: vec![],
        };
        let mut billed = journal(settled, None);
        billed.shards[0].attempt.as_mut().unwrap().billed_again = 2;
        let twice = told(&journal(AttemptState::Intended, None), &billed);
        let note = &twice.iter().find(|(reason, _)| *reason == "BilledTwice").unwrap().1;
        assert!(note.starts_with("up to 2 requests of batch 00000-1 were billed twice, for about $0.40: "), "{note}");
    }

    #[test]
    fn the_event_at_the_end_has_tokens_and_cost_as_far_as_they_are_known() {
        let tokens = TokenUsage { input_tokens: 1_200_000, output_tokens: 400_000, ..Default::default() };
        let written = |amount: &str| Some(amount.to_string());
        let cost = CostStatus { actual_usd: written("3.12"), saved_usd: written("3.12"), ..Default::default() };
        let manifest = |outcome, spending| ManifestView {
            work_id: "w".into(),
            work_hash: "h".into(),
            outcome,
            reason: "R".into(),
            message: "all 10000 requests succeeded".into(),
            requests: RequestCounts::default(),
            at: 0,
            files: vec![],
            errors: vec![],
            spending,
        };
        let usage = Some(UsageStatus { tokens, models: vec![] });
        let whole = Spending { usage: usage.clone(), cost: Some(cost), ..Default::default() };
        let unpriced = Spending { usage, ..Default::default() };
        let told = |outcome, spending, reused| {
            let EventRecord { reason, note, .. } = at_the_end(&manifest(outcome, spending), reused);
            format!("{reason}: {note}")
        };
        for (outcome, spending, reused, expected) in [
            (
                Outcome::Succeeded,
                &whole,
                false,
                "Completed: all 10000 requests succeeded, 1.2M + 400k tokens, $3.12 (saved $3.12)",
            ),
            (
                Outcome::Succeeded,
                &unpriced,
                false,
                "Completed: all 10000 requests succeeded, 1.2M + 400k tokens; no cost is known: that takes prices of all \
                 models (`kubectl explain batchprovider.spec.models`), and usage in answers",
            ),
            (Outcome::Failed, &Spending::default(), false, "Failed: all 10000 requests succeeded"),
            (
                Outcome::Succeeded,
                &whole,
                true,
                "ResultsReused: all 10000 requests succeeded; nothing was sent or paid again: the job that wrote the \
                 results took 1.2M + 400k tokens, $3.12 (saved $3.12)",
            ),
        ] {
            assert_eq!(told(outcome, spending.clone(), reused), expected);
        }
    }
}
