//! The memory that a journal takes, and that the findings about a job take. It is measured, because the owner can write a large journal,
//! and a provider chooses most names in both.

use std::collections::BTreeMap;

use super::attempt::{Attempt, AttemptKey, AttemptState, PartRef, Payload, Rejection};
use super::findings::{
    CollectResult, ManifestView, Pass, Place, PlanResult, PollResult, PolledState, PostResult, ReserveResult,
};
use super::journal::{Commit, Journal, Owner, Plan, RecordedAnswers, ReuseSet, Takeover};
use super::memory::Memory;
use super::shard::Shard;
use super::shard_list::{Sealed, Shards};
use crate::api::{BatchUsage, CostStatus, ErrorSummary, InputStatus, Spending};
use crate::money::Cost;

/// Bytes that a text, or an entry of a map, takes besides its content.
const ENTRY_BYTES: usize = 64;

pub(super) fn text(text: &str) -> usize {
    ENTRY_BYTES + text.len()
}

fn texts<'a>(all: impl IntoIterator<Item = &'a String>) -> usize {
    all.into_iter().map(|one| text(one)).sum()
}

fn of_reuse(sets: &[ReuseSet]) -> usize {
    sets.iter().map(|set @ ReuseSet { uri, answers: _, incomparable: _ }| size_of_val(set) + text(uri)).sum()
}

fn of_spending(Spending { usage, answers: _, cost }: &Spending) -> usize {
    let models = usage.iter().flat_map(|usage| &usage.models);
    let of_cost = |cost: &CostStatus| {
        let CostStatus {
            estimated_usd,
            ceiling_usd,
            actual_usd,
            real_time_usd,
            saved_usd,
            unconfirmed_usd,
            prices_from,
        } = cost;
        let amounts = [estimated_usd, ceiling_usd, actual_usd, real_time_usd, saved_usd, unconfirmed_usd, prices_from];
        texts(amounts.into_iter().flatten())
    };
    models.map(|model| size_of_val(model) + text(&model.name)).sum::<usize>() + cost.as_ref().map_or(0, of_cost)
}

impl Journal {
    /// Returns the bytes of memory that the journal takes, including an allocator's overhead. A version that was made of
    /// another one shares the shards that did not change.
    pub fn weight(&self) -> usize {
        let Journal { rev: _, protocol_version: _, closing: _, out_of_time_since: _, approval: _, .. } = self;
        let Journal { work_id, owner, spec_hash, plan, shards, commit, taken_over, heard, pricing, .. } = self;
        let Owner { cluster, namespace, name, uid } = owner;
        let of_plan =
            |Plan { work_hash, input, requests: _, too_large: _, left_out: _, reuse, models, canary: _ }: &Plan| {
                let InputStatus { version, size_bytes: _, sources: _, skipped: _ } = input;
                let of_models = models.iter().map(|model| size_of_val(model) + text(&model.name)).sum::<usize>();
                texts([work_hash, version]) + of_reuse(reuse) + of_models
            };
        let of_end = |Commit { outcome: _, reason, message, at: _, requests: _, spending }: &Commit| {
            texts([reason, message]) + of_spending(spending)
        };
        let of_answers =
            |RecordedAnswers { said, to }: &RecordedAnswers| text(said) + texts(to.keys()) + texts(to.values());
        size_of::<Journal>()
            + texts([work_id, cluster, namespace, name, uid, spec_hash])
            + plan.as_ref().map_or(0, of_plan)
            + shards.weight()
            + commit.as_ref().map_or(0, of_end)
            + taken_over.as_ref().map_or(0, |Takeover { from, times: _ }| text(from))
            + heard.as_ref().map_or(0, of_answers)
            + pricing.weight()
    }
}

impl Shards {
    fn weight(&self) -> usize {
        let Shards { len: _, resident, next: _, plan, sealed } = self;
        let Sealed { segments, totals: _, errors, usage, recent } = sealed;
        let batches = recent.iter().map(|batch| {
            size_of_val(batch) + texts([&batch.state, &batch.model]) + batch.batch_id.as_ref().map_or(0, |id| text(id))
        });
        resident.values().map(|shard| shard.weight()).sum::<usize>()
            + plan.iter().map(|segment| size_of_val(segment) + text(&segment.name)).sum::<usize>()
            + segments.iter().map(|segment| size_of_val(segment) + text(&segment.name)).sum::<usize>()
            + errors.0.iter().map(|(code, sum)| text(code) + size_of_val(sum) + text(&sum.sample)).sum::<usize>()
            + usage.0.iter().map(|(model, sum)| text(model) + size_of_val(sum)).sum::<usize>()
            + batches.sum::<usize>()
    }
}

impl Shard {
    /// Returns the bytes of memory that the shard takes as an entry of a map.
    fn weight(&self) -> usize {
        let Shard { bytes: _, first: _, requests: _, failures: _, round: _, prior_counts: _, streaks: _, .. } = self;
        let Shard { sha256, index_sha256, attempt, prior_errors, model, reused, .. } = self;
        ENTRY_BYTES
            + size_of::<Shard>()
            + texts([sha256, index_sha256, model])
            + reused.as_ref().map_or(0, |PartRef { name, sha256 }| texts([name, sha256]))
            + attempt.as_ref().map_or(0, Attempt::weight)
            + of_errors(prior_errors)
    }
}

impl Attempt {
    /// Returns the bytes of memory that the attempt takes besides the struct itself.
    fn weight(&self) -> usize {
        let Attempt { number: _, post_by: _, billed_again: _, repeats: _, .. } = self;
        let Attempt { intent_id, payload, fingerprint, declined, state, .. } = self;
        let of_payload = match payload {
            Payload::File { id } => text(id),
            Payload::Object { name } => text(name),
            Payload::Inline {} => 0,
        };
        let of_state = match state {
            AttemptState::Intended | AttemptState::Revoking => 0,
            AttemptState::Revoked { message } | AttemptState::Refused { message, .. } => text(message),
            AttemptState::Submitted { batch_id, at: _ } => text(batch_id),
            AttemptState::Abandoned { batch_id } => batch_id.as_ref().map_or(0, |id| text(id)),
            AttemptState::Settled {
                batch_id,
                ended,
                part,
                counts: _,
                retryable: _,
                usage: _,
                cost: _,
                errors,
                files,
            } => {
                let part = part.as_ref().map_or(0, |part| texts([&part.name, &part.sha256]));
                texts([batch_id, ended])
                    + part
                    + of_errors(errors)
                    + texts(files)
                    + size_of::<BatchUsage>()
                    + size_of::<Cost>()
            }
        };
        let declined = declined.as_ref().map_or(0, |Rejection { refusal: _, message, retry_at: _ }| text(message));
        texts([intent_id, fingerprint]) + of_payload + declined + of_state
    }
}

impl Memory {
    /// Returns the bytes of memory that the findings take, including an allocator's overhead.
    pub fn weight(&self) -> usize {
        let Memory {
            clock_since: _,
            manifest_at: _,
            permit,
            place,
            resolvable: _,
            last_step_failed: _,
            released: _,
            reserved,
            accounted,
            fingerprint,
            ..
        } = self;
        let Memory {
            manifest,
            marked,
            taken,
            owner_alive,
            store_proved,
            unfit_store,
            input_look,
            reuse_look,
            pass,
            ..
        } = self;
        let Memory {
            uploads,
            contents,
            unfit,
            halved,
            posted,
            searches,
            failed_searches,
            files,
            unsettled,
            revoked,
            looks,
            times,
            hints,
            ..
        } = self;
        let Memory {
            cancelled,
            not_stopped,
            collected,
            published,
            follow_up,
            deleted,
            tidied,
            running,
            failed_calls,
            error,
            ..
        } = self;
        let few = [marked, taken, unfit_store, permit, error];
        let of_owner =
            |(Owner { cluster, namespace, name, uid }, _): &(Owner, bool)| texts([cluster, namespace, name, uid]);
        let of_place = match place {
            Place::Free | Place::Soon => 0,
            Place::Full(why) => text(why),
        };
        let of_reserved = |known: &ReserveResult| match &known.outcome {
            Ok(()) => 0,
            Err(wait) => text(&wait.message) + wait.blocked.as_ref().map_or(0, |blocked| text(&blocked.message)),
        };
        let of_pass = |Pass { spec_hash, result }: &Pass| match result {
            Ok(PlanResult { staged, plan, shards }) => {
                texts([spec_hash, &plan.work_hash, &plan.input.version])
                    + of_reuse(&plan.reuse)
                    + texts(staged)
                    + shards.weight()
            }
            Err(why) => texts([spec_hash, why]),
        };
        let by_attempt = |all: &BTreeMap<(AttemptKey, String), String>| {
            all.iter().map(|((_, content), value)| ENTRY_BYTES + texts([content, value])).sum::<usize>()
        };
        size_of::<Memory>()
            + text(fingerprint)
            + texts(few.into_iter().flatten())
            + manifest.iter().flatten().map(ManifestView::weight).sum::<usize>()
            + owner_alive.as_ref().map_or(0, of_owner)
            + store_proved.as_ref().map_or(0, |proved| texts(proved.as_ref().err()))
            + of_place
            + reserved.as_ref().map_or(0, of_reserved)
            + texts(accounted)
            + [input_look, reuse_look]
                .into_iter()
                .flatten()
                .map(|look| text(&look.of) + texts(&look.missing))
                .sum::<usize>()
            + pass.as_ref().map_or(0, of_pass)
            + by_attempt(uploads)
            + contents
                .iter()
                .map(|(file, of)| ENTRY_BYTES + text(file) + texts(&of.model) + size_of_val(of))
                .sum::<usize>()
            + by_attempt(unfit)
            + halved.as_ref().map_or(0, |of| text(&of.sha256) + of.halves.iter().map(Shard::weight).sum::<usize>())
            + posted.iter().map(|(intent, posted)| text(intent) + posted.weight()).sum::<usize>()
            + searches.iter().map(|(intent, search)| text(intent) + texts(search.batches())).sum::<usize>()
            + texts(
                files
                    .keys()
                    .chain(unsettled.keys())
                    .chain(unsettled.values())
                    .chain(revoked.keys())
                    .chain(failed_searches.keys()),
            )
            + looks.iter().map(|(batch, look)| text(batch) + look.weight()).sum::<usize>()
            + texts(cancelled.iter().chain(not_stopped).chain(deleted).chain(hints.keys()).chain(times.keys()))
            + collected.iter().map(|(batch, collected)| text(batch) + collected.weight()).sum::<usize>()
            + published.as_ref().map_or(0, |published| published.shards.weight())
            + follow_up.as_ref().map_or(0, |(_, shards)| shards.weight())
            + tidied
                .as_ref()
                .map_or(0, |tidied| text(&tidied.work_id) + tidied.failed.as_ref().map_or(0, |why| text(&why.message)))
            + ENTRY_BYTES * (running.len() + failed_calls.len())
    }

    /// Forgets what can be found out again, as a restart of the operator does, unless a call is under way or a permit is held. Results
    /// of passes, uploads, POSTs and collections stay: they cost work or money, and the journal may not say so yet.
    pub fn start_anew(&mut self) {
        if self.running.is_empty() && self.permit.is_none() {
            let Memory { fingerprint, clock_since, pass, uploads, contents, posted, collected, .. } =
                std::mem::take(self);
            *self =
                Memory { fingerprint, clock_since, pass, uploads, contents, posted, collected, ..Memory::default() };
        }
    }
}

impl ManifestView {
    fn weight(&self) -> usize {
        let ManifestView { outcome: _, requests: _, at: _, .. } = self;
        let ManifestView { work_id, work_hash, reason, message, files, errors, spending, .. } = self;
        let of_file = |(name, map): &(String, Option<String>)| text(name) + texts(map);
        texts([work_id, work_hash, reason, message])
            + files.iter().map(of_file).sum::<usize>()
            + of_errors(errors)
            + of_spending(spending)
    }
}

impl PostResult {
    fn weight(&self) -> usize {
        match self {
            PostResult::Created(words) | PostResult::Unknown(words) => text(words),
            PostResult::Refused(rejection) | PostResult::Declined(rejection) => text(&rejection.message),
        }
    }
}

impl PollResult {
    fn weight(&self) -> usize {
        size_of::<PollResult>()
            + match &self.seen {
                PolledState::Running { state, .. } => text(state),
                PolledState::Ended { rejected: Some((_, why)), .. } | PolledState::Unnamed { why, .. } => text(why),
                PolledState::NotFound | PolledState::NotOurs | PolledState::Ended { .. } | PolledState::Gone { .. } => {
                    0
                }
            }
    }
}

impl CollectResult {
    fn weight(&self) -> usize {
        let CollectResult {
            part: PartRef { name, sha256 },
            counts: _,
            long_context_above: _,
            foreign: _,
            retryable: _,
            usage: _,
            totals: _,
            errors,
            files,
            short: _,
        } = self;
        size_of::<CollectResult>() + texts([name, sha256]) + of_errors(errors) + texts(files)
    }
}

fn of_errors(errors: &[ErrorSummary]) -> usize {
    let of = |error: &ErrorSummary| {
        let ErrorSummary { code, count: _, sample_custom_id, message } = error;
        size_of_val(error) + texts([code, sample_custom_id, message])
    };
    errors.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{FileContent, ModelUsage, UsageStatus};
    use crate::lifecycle::BudgetWait;

    /// A head with everything that a journal can hold, with texts of `bytes` bytes.
    fn head(bytes: usize) -> Value {
        let long = "x".repeat(bytes);
        let error = json!({"code": long, "count": 1, "sampleCustomID": long, "message": long});
        let shard = |state: Value| {
            let mut attempt = json!({"number": 1, "intentID": long, "fileID": long, "postBy": 1, "fingerprint": long,
                "declined": {"refusal": "Failed", "message": long}});
            attempt.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
            json!({"sha256": long, "indexSha256": long, "bytes": 1, "first": 0, "requests": 1, "failures": 0,
                "attempt": attempt, "model": long, "tookErrors": [error]})
        };
        let counts = json!({"total": 1, "succeeded": 1, "failed": 0, "expired": 0, "cancelled": 0, "missing": 0});
        let settled = json!({"state": "Settled", "batchID": long, "ended": long, "counts": counts, "errors": [error],
            "part": {"name": long, "sha256": long}, "files": [long, long]});
        let states = [
            json!({"state": "Intended"}),
            json!({"state": "Revoked", "message": long}),
            json!({"state": "Refused", "refusal": "Failed", "message": long, "at": 1}),
            json!({"state": "Submitted", "batchID": long, "at": 1}),
            json!({"state": "Abandoned", "batchID": long}),
            settled,
        ];
        let open: serde_json::Map<String, Value> =
            (1..).zip(states).map(|(index, state): (usize, Value)| (index.to_string(), shard(state))).collect();
        let rates = json!({"input": "1", "cachedInput": "1", "output": "1"});
        let prices = json!({"batch": rates, "realTime": rates});
        let recent = json!({"shard": 0, "attempt": 1, "state": long, "batchID": long, "requests": 1, "model": long});
        json!({
            "rev": 1, "protocolVersion": 2, "workID": long, "specHash": long, "closing": null,
            "owner": {"cluster": long, "namespace": long, "name": long, "uid": long},
            "plan": {"workHash": long, "input": {"version": long, "sizeBytes": 1}, "requests": 1},
            "commit": {"outcome": "Failed", "reason": long, "message": long, "at": 1, "requests": counts,
                "usage": {"models": [{"name": long}]}, "cost": {"actualUSD": long, "unconfirmedUSD": long}},
            "takenOver": {"from": long, "times": 1}, "heard": {"said": long, "to": {(long.clone()): long}},
            "pricing": {"first": long, "latest": long, "changed": long, "unpriced": [long],
                "models": [{"model": long, "prices": prices}]},
            "shards": {"count": 8, "open": open, "next": 7,
                "plan": [{"name": long, "from": 7, "count": 1, "requests": 1, "round": 0}],
                "sealed": {"segments": [{"name": long, "count": 1}], "recent": [recent],
                    "errors": {(long.clone()): {"count": 1, "sample": long}}, "usage": {(long.clone()): {}}}},
        })
    }

    /// Findings with texts of `bytes` bytes in each place that takes one.
    fn findings(bytes: usize) -> Memory {
        let long = "x".repeat(bytes);
        let one = || Some(long.clone());
        let key = || (AttemptKey { shard: 1, attempt: 1 }, long.clone());
        let error =
            ErrorSummary { code: long.clone(), count: 1, sample_custom_id: long.clone(), message: long.clone() };
        let named = |value: &str| [(long.clone(), value.to_string())].into();
        let manifest = ManifestView {
            work_id: long.clone(),
            work_hash: long.clone(),
            outcome: crate::api::Outcome::Failed,
            reason: long.clone(),
            message: long.clone(),
            requests: Default::default(),
            at: 1,
            files: vec![(long.clone(), one())],
            errors: vec![error.clone()],
            spending: Spending {
                usage: Some(UsageStatus {
                    models: vec![ModelUsage { name: long.clone(), ..Default::default() }],
                    ..Default::default()
                }),
                cost: Some(CostStatus { actual_usd: one(), saved_usd: one(), ..Default::default() }),
                ..Default::default()
            },
        };
        let collected = CollectResult {
            part: PartRef { name: long.clone(), sha256: long.clone() },
            counts: Default::default(),
            usage: Default::default(),
            totals: None,
            retryable: 0,
            errors: vec![error],
            files: vec![long.clone()],
            short: None,
            long_context_above: None,
            foreign: 0,
        };
        Memory {
            manifest: Some(Some(manifest)),
            taken: one(),
            uploads: [(key(), long.clone())].into(),
            contents: [(long.clone(), FileContent { model: one(), ..Default::default() })].into(),
            unfit: [(key(), long.clone())].into(),
            posted: [(long.clone(), PostResult::Created(long.clone()))].into(),
            unsettled: named(&long),
            files: [(long.clone(), true)].into(),
            revoked: [(long.clone(), 1)].into(),
            looks: [(long.clone(), PollResult { at: 1, seen: PolledState::Running { state: long.clone(), done: 0 } })]
                .into(),
            times: [(long.clone(), crate::lifecycle::SeenTimes::default())].into(),
            hints: [(long.clone(), 1)].into(),
            reserved: Some(ReserveResult {
                attempt_key: key().0,
                rev: 1,
                judged: 1,
                amount: crate::money::Usd::ZERO,
                until: 1,
                outcome: Err(BudgetWait { message: long.clone(), blocked: None, state: 1 }),
            }),
            accounted: [long.clone()].into(),
            cancelled: [long.clone()].into(),
            not_stopped: [long.clone()].into(),
            collected: [(long.clone(), collected)].into(),
            deleted: [long.clone()].into(),
            error: one(),
            ..Default::default()
        }
    }

    #[test]
    fn findings_weigh_more_than_their_texts() {
        let texts = format!("{:?}", findings(4_000)).matches(&"x".repeat(4_000)).count() * 4_000;
        let (long, short) = (findings(4_000).weight(), findings(0).weight());
        assert!(texts > 30 * 4_000 && long == short + texts, "{long} of {texts} bytes of text");
    }

    #[test]
    fn findings_that_nothing_else_says_are_not_forgotten() {
        let mut memory = findings(10);
        (memory.permit, memory.running) = (None, Default::default());
        let before = memory.clone();
        for edit in [
            |m: &mut Memory| m.permit = Some("i".into()),
            |m: &mut Memory| _ = m.running.insert(crate::lifecycle::Task::Place),
        ] {
            let mut busy = before.clone();
            edit(&mut busy);
            let at_work = busy.clone();
            busy.start_anew();
            assert_eq!(busy, at_work);
        }
        memory.start_anew();
        assert_eq!((&memory.pass, &memory.uploads), (&before.pass, &before.uploads));
        assert_eq!(memory.contents, before.contents);
        assert_eq!((&memory.posted, &memory.collected), (&before.posted, &before.collected));
        assert_eq!(memory.fingerprint, before.fingerprint);
        assert!(!before.posted.is_empty() && !before.looks.is_empty() && !before.cancelled.is_empty());
        assert!(memory.looks.is_empty() && memory.cancelled.is_empty() && memory.error.is_none());
    }

    #[test]
    fn a_journal_weighs_more_than_its_text() {
        for bytes in [0, 10, 4_000] {
            let text = head(bytes).to_string();
            let journal: Journal = serde_json::from_str(&text).unwrap();
            // Absent fields are not weighed; names of fields are text of the head alone.
            let (weight, texts) = (journal.weight(), text.matches(&"x".repeat(bytes.max(1))).count() * bytes);
            assert!(weight > texts && weight > bytes * 80, "{weight} of {} bytes of text", text.len());
            assert!(weight < 2 * text.len() + (20 << 10), "{weight} of {} bytes of text", text.len());
        }
    }
}
