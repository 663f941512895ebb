//! Tokens, kinds of answers, cost, and requests that may have been billed more than once.

use std::sync::Arc;

use batchjob_operator::api::{
    AnswerCounts, AnswerKind, CostStatus, ModelUsage, Spending, TokenHints, TokenUsage, UsageStatus,
};
use batchjob_operator::lifecycle::MaxFailed;
use batchjob_operator::money::{Cost, PriceList, Prices, Rates, Usd};
use proptest::prelude::*;

use super::*;

fn usd(amount: &str) -> Usd {
    Usd::parse(amount).unwrap()
}

fn counts(succeeded: i64, missing: i64) -> RequestCounts {
    RequestCounts { total: succeeded + missing, succeeded, missing, ..Default::default() }
}

/// A batch that completed, whose answers took a token each way.
fn collected(counts: RequestCounts, cost: Option<&str>) -> AttemptState {
    let mut state = completed("batch-1", counts, 0);
    if let AttemptState::Settled { usage, cost: of, .. } = &mut state {
        let (input_tokens, output_tokens) = (counts.succeeded, counts.succeeded);
        usage.tokens = TokenUsage { input_tokens, output_tokens, ..Default::default() };
        *of = cost.map(|cost| Box::new(Cost { batch: usd(cost), real_time: usd(cost) + usd(cost) }));
    }
    state
}

fn with_answers(mut state: AttemptState, answers: AnswerCounts) -> AttemptState {
    if let AttemptState::Settled { usage, .. } = &mut state {
        usage.answers = answers;
    }
    state
}

/// A shard of the model's whose latest attempt is in this state.
fn of_model(model: &str, requests: i64, state: AttemptState) -> Shard {
    Shard { model: model.into(), requests, ..shard(Some(state)) }
}

fn of_shards(shards: Vec<Shard>) -> Journal {
    Journal { shards: shards.into(), ..journal(owner("j", "u"), None) }
}

fn shown(job: &JobView, journal: &Journal) -> BatchJobStatus {
    let wait = Step::Wait { until: None, why: Waiting { stage: "InProgress", ..Default::default() } };
    let (memory, timing, journal) = (memory(), &TIMING, Some(journal));
    let observed = Observed { now: NOW, nonce: "nonce", timing, job, journal, memory: &memory };
    project(&observed, &Default::default(), Some(1), &wait).unwrap()
}

fn amounts(status: &BatchJobStatus) -> Option<[Option<&str>; 4]> {
    let CostStatus { actual_usd, real_time_usd, saved_usd, unconfirmed_usd, .. } = status.cost.as_ref()?;
    Some([actual_usd, real_time_usd, saved_usd, unconfirmed_usd].map(Option::as_deref))
}

#[test]
fn cost_is_the_sum_over_all_models_and_none_if_one_of_them_had_no_price() {
    let priced = of_model("a", 3, collected(counts(3, 0), Some("3.1239999")));
    let other = of_model("b", 2, collected(counts(2, 0), Some("0.25")));
    let both = shown(&job(), &of_shards(vec![priced.clone(), other]));
    assert_eq!(amounts(&both), Some([Some("3.374"), Some("6.748"), Some("3.374"), None]));
    let display = both.display.unwrap();
    assert_eq!((display.cost.as_str(), display.saved.as_str()), ("$3.37", "$3.37"));
    let usage = both.usage.unwrap();
    assert_eq!((usage.tokens.input_tokens, usage.tokens.output_tokens), (5, 5));
    let models: Vec<(&str, i64)> = usage.models.iter().map(|m| (m.name.as_str(), m.tokens.input_tokens)).collect();
    assert_eq!(models, [("a", 3), ("b", 2)]);
    let unpriced = of_model("b", 2, collected(counts(2, 0), None));
    let partial = shown(&job(), &of_shards(vec![priced, unpriced]));
    assert_eq!(partial.cost, None, "a sum of some models looks whole");
    let display = partial.display.unwrap();
    assert_eq!((display.cost.as_str(), display.saved.as_str()), ("", ""));
    assert_eq!(partial.usage.unwrap().tokens.input_tokens, 5);
}

#[test]
fn before_a_batch_is_collected_nothing_is_said_of_tokens_and_cost() {
    let status = shown(&job(), &journal(owner("j", "u"), submitted()));
    assert_eq!((status.usage, status.answers, status.cost), (None, None, None));
}

/// Its batches were collected by a version that counted no tokens.
#[test]
fn a_journal_of_an_earlier_version_has_answers_without_usage_and_no_cost() {
    let written = include_str!("../journals/all-settled.json");
    let mut earlier: Journal = serde_json::from_str(written).unwrap();
    earlier.owner = job().owner;
    let answered = earlier.counts().succeeded;
    let uncounted = |status: BatchJobStatus| {
        let expected = TokenUsage { answers_without_usage: answered, ..Default::default() };
        assert!(answered > 0);
        assert_eq!((status.usage.map(|usage| usage.tokens), status.cost), (Some(expected), None));
    };
    uncounted(shown(&job(), &earlier));
    // An earlier version sealed its shards without sums of usage.
    earlier.shards.iter_mut().for_each(|shard| {
        if let Some(AttemptState::Settled { files, .. }) = shard.attempt.as_mut().map(|a| &mut a.state) {
            files.clear();
        }
    });
    earlier.shards.pack(1).unwrap();
    let mut head = serde_json::to_value(&earlier).unwrap();
    assert!(head["shards"]["sealed"].as_object_mut().unwrap().remove("usage").is_some());
    uncounted(shown(&job(), &serde_json::from_value(head).unwrap()));
}

#[test]
fn requests_that_may_have_been_billed_before_are_counted_when_they_are_sent_again_and_others_are_not() {
    let refused = |refusal| AttemptState::Refused { refusal, message: "m".into(), at: NOW, retry_at: None };
    let revoked = || AttemptState::Revoked { message: "m".into() };
    let runs = || submitted().unwrap();
    let of = |state| Shard { requests: 10, ..shard(Some(state)) };
    let again = |prior_counts, state| Shard { round: 1, prior_counts, ..of(state) };
    let prior = RequestCounts { total: 10, missing: 4, failed: 3, expired: 2, cancelled: 1, ..Default::default() };
    let written_off = |written_off, state| Shard { written_off, ..of(state) };
    let twin = |mut shard: Shard| {
        shard.attempt.as_mut().unwrap().billed_again = 7;
        shard
    };
    for (what, shard, resent) in [
        ("sent once", of(runs()), 0),
        ("refused before anything ran", of(refused(Refusal::NotSent)), 0),
        ("rejected as a whole", of(refused(Refusal::Failed)), 0),
        ("proved not to exist", of(revoked()), 0),
        ("in no file and sent again, beside what expired, was cancelled or failed", again(prior, runs()), 4),
        ("in no file and about to be sent again", again(prior, AttemptState::Intended), 4),
        ("in no file and not sent again yet", again(prior, refused(Refusal::Capacity)), 0),
        ("written off and not sent again yet", written_off(1, revoked()), 0),
        ("written off and sent again", written_off(1, runs()), 10),
        ("written off, sent again, and that proved not to exist", written_off(1, revoked()), 0),
        ("written off twice and sent again", written_off(2, runs()), 20),
        (
            "in no file, sent again, written off and refused",
            Shard { written_off: 1, ..again(prior, refused(Refusal::Capacity)) },
            4,
        ),
        ("billed twice by a gateway", twin(of(completed("batch-1", counts(10, 0), 0))), 7),
        ("given up", of(AttemptState::Abandoned { batch_id: None }), 0),
    ] {
        let status = shown(&job(), &of_shards(vec![shard]));
        assert_eq!(status.requests.unwrap().resent, resent, "{what}");
    }
}

#[test]
fn a_batch_that_a_person_has_sent_again_counts_from_then_on_whether_it_was_lost_or_never_known() {
    let lost = PollResult { at: NOW, seen: PolledState::NotFound };
    for (state, answer) in
        [(submitted().unwrap(), ("lost-intent-1", "resend")), (AttemptState::Intended, ("unknown-intent-1", "none"))]
    {
        let mut memory = memory();
        memory.looks.insert("batch-1".into(), lost.clone());
        memory.deleted.insert("file-1".into());
        let told = JobView { answers: Answers::one(answer.0, answer.1), ..job() };
        let journal = of_shards(vec![Shard { requests: 10, ..shard(Some(state)) }]);
        let Step::Swap(revoked) = step(&told, Some(&journal), &memory) else { panic!("{answer:?} is not heard") };
        assert_eq!((revoked.shards[0].written_off, revoked.counts().resent), (1, 0), "{answer:?}: not sent again yet");
        memory.uploads.insert((AttemptKey { shard: 0, attempt: 2 }, "s".into()), "file-2".into());
        let Step::WriteIntent { journal: next, .. } = step(&told, Some(&revoked), &memory) else {
            panic!("{answer:?} is not sent again")
        };
        assert_eq!(next.counts().resent, 10, "{answer:?}");
    }
}

/// Halves of a shard that was written off: each of their requests may have been billed.
#[test]
fn requests_that_were_written_off_stay_so_when_their_shard_is_halved() {
    let state = AttemptState::Refused { refusal: Refusal::TokenLimit, message: "m".into(), at: 0, retry_at: None };
    let mut whole = Shard { requests: 10, written_off: 1, ..shard(Some(state)) };
    whole.streaks.alone = 3;
    let half = |sha256: &str, requests| Shard { sha256: sha256.into(), requests, ..beginnings::shard() };
    let halves = [half("a", 6), half("b", 4)];
    let attempt_key = AttemptKey { shard: 0, attempt: 1 };
    let halved = Some(HalveResult { attempt_key, sha256: "s".into(), halves });
    let mut memory = Memory { halved, ..memory() };
    memory.deleted.insert("file-1".into());
    let Step::Swap(next) = step(&job(), Some(&of_shards(vec![whole])), &memory) else { panic!("not halved") };
    assert_eq!(
        next.shards.iter().map(|shard| (shard.requests, shard.written_off)).collect::<Vec<_>>(),
        [(6, 1), (4, 1)]
    );
}

#[test]
fn cost_that_nobody_reported_is_apart_from_the_actual_cost_at_the_mean_of_the_models_answers() {
    let answered = || of_model("a", 100, collected(counts(100, 0), Some("1")));
    let cost = |more: Shard| {
        let status = shown(&job(), &of_shards(vec![answered(), more]));
        let cost = status.cost.unwrap();
        assert_eq!(cost.actual_usd.as_deref(), Some("1.00"));
        cost.unconfirmed_usd
    };
    let lost = AttemptState::Settled {
        batch_id: "b".into(),
        ended: "lost".into(),
        part: None,
        counts: counts(0, 10),
        usage: Default::default(),
        cost: None,
        retryable: 0,
        errors: vec![],
        files: vec![],
    };
    let missing = collected(RequestCounts { total: 10, missing: 3, expired: 7, ..Default::default() }, Some("0"));
    let mut twin = of_model("a", 10, submitted().unwrap());
    twin.attempt.as_mut().unwrap().billed_again = 5;
    for (what, shard, unconfirmed) in [
        ("in no file", of_model("a", 10, missing), Some("0.03")),
        ("answers that were given up", of_model("a", 10, lost), Some("0.10")),
        ("given up at the deadline", of_model("a", 20, AttemptState::Abandoned { batch_id: None }), Some("0.20")),
        ("made twice by a gateway", twin, Some("0.05")),
        ("written off", Shard { written_off: 2, ..of_model("a", 10, submitted().unwrap()) }, Some("0.20")),
        ("running", of_model("a", 10, submitted().unwrap()), None),
    ] {
        assert_eq!(cost(shard).as_deref(), unconfirmed, "{what}");
    }
}

#[test]
fn the_end_of_a_job_without_a_batch_says_what_that_may_cost() {
    let answered = of_model("a", 100, collected(counts(100, 0), Some("1")));
    let given_up = of_model("a", 20, AttemptState::Abandoned { batch_id: Some("batch-2".into()) });
    let stopped = JobView { stop: Some(StopPolicy::Cancel), ..job() };
    let message = end(&stopped, &of_shards(vec![answered, given_up])).unwrap().message;
    assert!(message.contains("up to 20 requests may still be billed, for about $0.20: cancel them"), "{message}");
}

#[test]
fn answers_without_a_count_of_tokens_are_in_the_cost_that_nobody_reported() {
    let mut state = collected(counts(100, 0), Some("0.9"));
    let AttemptState::Settled { usage, .. } = &mut state else { unreachable!() };
    usage.tokens.answers_without_usage = 10;
    let status = shown(&job(), &of_shards(vec![of_model("a", 100, state)]));
    assert_eq!(amounts(&status), Some([Some("0.90"), Some("1.80"), Some("0.90"), Some("0.10")]));
    let none = collected(counts(100, 0), Some("0"));
    let uncounted = |mut state: AttemptState| {
        if let AttemptState::Settled { usage, .. } = &mut state {
            usage.tokens = TokenUsage { answers_without_usage: 100, ..Default::default() };
        }
        state
    };
    let status = shown(&job(), &of_shards(vec![of_model("a", 100, uncounted(none))]));
    assert_eq!(status.cost, None, "nothing tells their cost");
}

#[test]
fn without_any_answer_lost_requests_cost_as_much_as_they_were_expected_to_and_nothing_is_said_without_prices() {
    let rates = Rates { input: usd("1"), output: usd("1"), ..Rates::default() };
    let prices = Prices { batch: rates, real_time: rates, long_context: None };
    let priced = with_provider(|p| {
        p.prices = Arc::new(PriceList { models: vec![("a".into(), prices)], ..PriceList::default() });
    });
    let hints = TokenHints { text_bytes: 4_000_000, max_output_tokens: 10, ..Default::default() };
    let given_up = Shard { hints, ..of_model("a", 10, AttemptState::Abandoned { batch_id: None }) };
    let journal = of_shards(vec![given_up]);
    let unconfirmed = shown(&priced, &journal).cost.unwrap().unconfirmed_usd.unwrap();
    assert!(usd(&unconfirmed) >= usd("0.5") && usd(&unconfirmed) <= usd("5"), "{unconfirmed}");
    assert_eq!(shown(&job(), &journal).cost, None);
}

/// Returns the end that is written once every shard is settled.
fn end(job: &JobView, journal: &Journal) -> Option<Commit> {
    match step(job, Some(journal), &memory()) {
        Step::Swap(next) => next.commit,
        _ => None,
    }
}

#[test]
fn the_end_the_manifest_and_status_have_the_same_tokens_answers_and_cost() {
    let answers = AnswerCounts { empty: 1, truncated: 2, ..Default::default() };
    let state = with_answers(collected(counts(10, 0), Some("0.5")), answers);
    let journal = of_shards(vec![of_model("a", 10, state)]);
    let commit = end(&job(), &journal).unwrap();
    let written = serde_json::to_value(&commit).unwrap();
    assert_eq!(written["cost"], serde_json::json!({"actualUSD": "0.50", "realTimeUSD": "1.00", "savedUSD": "0.50"}));
    assert_eq!(written["answers"], serde_json::json!({"empty": 1, "truncated": 2}));
    assert_eq!(
        written["usage"],
        serde_json::json!({"inputTokens": 10, "outputTokens": 10,
            "models": [{"name": "a", "inputTokens": 10, "outputTokens": 10}]})
    );
    let running = shown(&job(), &journal);
    let Spending { usage, cost, .. } = &commit.spending;
    assert_eq!((&running.usage, running.answers, &running.cost), (usage, Some(answers), cost));
    assert_eq!(running.display.unwrap().suspect, "2 truncated, 1 empty");
    let conclude = |reused: bool| {
        let manifest = ManifestView { spending: commit.spending.clone(), ..manifest("w", "h") };
        let (job, memory) = (job(), memory());
        let (timing, journal) = (&TIMING, (!reused).then_some(&journal));
        let observed = Observed { now: NOW, nonce: "nonce", timing, job: &job, journal, memory: &memory };
        project(&observed, &Default::default(), Some(1), &Step::Conclude { manifest, reused }).unwrap()
    };
    let ended = conclude(false);
    assert_eq!((&ended.usage, ended.answers, &ended.cost), (usage, Some(answers), cost));
    assert_eq!(ended.display.unwrap().cost, "$0.50");
    let reused = conclude(true);
    assert_eq!((&reused.usage, &reused.cost), (usage, cost), "they are those of the job that wrote the results");
    let display = reused.display.unwrap();
    assert_eq!((display.cost.as_str(), display.saved.as_str()), ("$0.00 (was $0.50)", ""));
    let says = reused.conditions.iter().find(|c| c.type_ == "ResultsReused").unwrap();
    assert!(says.message.contains("usage and cost are those of the job that wrote it"), "{}", says.message);
}

#[test]
fn the_end_of_a_job_has_the_estimate_beside_the_cost() {
    let journal = of_shards(vec![of_model("a", 100, collected(counts(100, 0), Some("1")))]);
    let estimated = JobView { estimated: Some(usd("1.4")), ..job() };
    let cost = end(&estimated, &journal).unwrap().spending.cost.unwrap();
    assert_eq!((cost.estimated_usd.as_deref(), cost.actual_usd.as_deref()), (Some("1.40"), Some("1.00")));
}

#[test]
fn rows_that_were_delivered_twice_are_counted_over_all_batches() {
    let repeating = |rows| {
        let mut state = collected(counts(3, 0), None);
        let AttemptState::Settled { usage, .. } = &mut state else { unreachable!() };
        usage.repeated_rows = rows;
        of_model("a", 3, state)
    };
    let journal = of_shards(vec![repeating(2), repeating(0), repeating(i64::MAX)]);
    assert_eq!(journal.shards.totals().repeated_rows, i64::MAX, "a journal is its user's to write");
    assert_eq!(of_shards(vec![repeating(2), repeating(3)]).shards.totals().repeated_rows, 5);
}

#[test]
fn numbers_of_a_manifest_that_somebody_changed_do_not_keep_status_from_being_written() {
    let tokens = TokenUsage { input_tokens: -5, output_tokens: i64::MAX, ..Default::default() };
    let model = |n: usize| ModelUsage { name: format!("{n}{}", "m".repeat(9_000)), tokens };
    let spending = Spending {
        usage: Some(UsageStatus { tokens, models: (0..90).map(model).collect() }),
        answers: AnswerCounts { empty: -1, ..Default::default() },
        cost: Some(CostStatus {
            actual_usd: Some("free".repeat(90)),
            prices_from: Some("f".repeat(9_000)),
            ..Default::default()
        }),
    };
    let manifest = ManifestView { spending, ..manifest("w", "h") };
    let (job, memory) = (job(), memory());
    let observed = Observed { now: NOW, nonce: "nonce", timing: &TIMING, job: &job, journal: None, memory: &memory };
    let step = Step::Conclude { manifest, reused: true };
    let status = project(&observed, &Default::default(), Some(1), &step).unwrap();
    let usage = status.usage.unwrap();
    assert_eq!((usage.models.len(), usage.tokens.input_tokens), (16, 0));
    assert!(usage.models.iter().all(|m| m.name.len() <= 253 && m.tokens.output_tokens < 1 << 53));
    let cost = status.cost.unwrap();
    assert_eq!((status.answers, cost.actual_usd, cost.prices_from.map(|from| from.len())), (None, None, Some(1_200)));
}

fn kinds() -> impl Strategy<Value = Vec<AnswerKind>> {
    prop::sample::subsequence(AnswerKind::ALL.to_vec(), 0..=4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// Half of the requests are answered, the others are yet to be sent.
    #[test]
    fn answers_of_the_kinds_in_fail_on_count_as_failures_and_stop_what_is_not_sent_yet(
        fail_on in kinds(),
        answers in prop::collection::vec(prop::array::uniform4(prop::bool::weighted(0.3)), 0..20),
        failed in 0..4i64,
        limit in 0..12i64,
    ) {
        let counts = RequestCounts { total: 30, succeeded: 30 - failed, failed, ..Default::default() };
        let mut state = collected(counts, None);
        let AttemptState::Settled { usage, .. } = &mut state else { unreachable!() };
        for [empty, refused, truncated, filtered] in answers.iter().map(|kinds| kinds.map(i64::from)) {
            usage.count_answer(AnswerCounts { empty, refused, truncated, filtered });
        }
        let settled = of_model("a", 30, state);
        let unsent = Shard { requests: 30, ..shard(None) };
        let job = JobView { max_failed: Some(MaxFailed::Count(limit)), fail_on: fail_on.clone(), ..job() };
        let counts_as_failed =
            |kinds: &&[bool; 4]| AnswerKind::ALL.iter().zip(**kinds).any(|(kind, is)| is && fail_on.contains(kind));
        let failing = answers.iter().filter(counts_as_failed).count() as i64;
        let is_too_much = failed + failing > limit;
        let next = step(&job, Some(&of_shards(vec![settled.clone(), unsent])), &memory());
        let goes_on = matches!(next, Step::Upload(_));
        prop_assert_eq!(goes_on, !is_too_much, "{:?}", next);
        let Some(commit) = end(&job, &of_shards(vec![settled])) else { return Err(TestCaseError::fail("no end")) };
        let outcome = match (is_too_much, failed) {
            (true, _) => Outcome::Failed,
            (false, 0) => Outcome::Succeeded,
            (false, _) => Outcome::PartiallySucceeded,
        };
        prop_assert_eq!(commit.outcome, outcome, "{}", commit.message);
        prop_assert_eq!(commit.requests.succeeded, 30 - failed, "they stay in results.jsonl");
        prop_assert_eq!(is_too_much, commit.reason == "MaxFailedRequestsExceeded");
    }
}

#[test]
fn a_job_that_fails_for_its_answers_says_which_count_and_where_they_are() {
    let answers = AnswerCounts { empty: 3, truncated: 2, refused: 9, ..Default::default() };
    let journal = of_shards(vec![of_model("a", 30, with_answers(collected(counts(30, 0), None), answers))]);
    let fail_on = vec![AnswerKind::Empty, AnswerKind::Truncated];
    let job = JobView { max_failed: Some(MaxFailed::Percent(10)), fail_on, ..job() };
    insta::assert_snapshot!(end(&job, &journal).unwrap().message, @"0 of 30 requests have no answer, and 5 answers count as failures (`spec.failOn`: Empty, Truncated); results.jsonl has them");
    let all = AnswerCounts { empty: 30, ..Default::default() };
    let journal = of_shards(vec![of_model("a", 30, with_answers(collected(counts(30, 0), None), all))]);
    let unset = JobView { max_failed: None, ..job };
    assert_eq!(end(&unset, &journal).unwrap().outcome, Outcome::Failed, "unset: any number but all");
}

/// Puts as much into status as it takes of tokens and cost.
pub(super) fn at_its_bound(status: &mut BatchJobStatus) {
    const MOST: i64 = 1_000_000_000_000_000;
    let tokens = TokenUsage {
        input_tokens: MOST,
        cached_input_tokens: MOST,
        output_tokens: MOST,
        reasoning_tokens: MOST,
        embedding_tokens: MOST,
        answers_without_usage: MOST,
    };
    let models = (0..16).map(|_| ModelUsage { name: "m".repeat(253), tokens }).collect();
    let usage = status.usage.replace(UsageStatus { tokens, models });
    assert!(usage.is_none_or(|usage| usage.models.len() <= 16));
    status.answers = Some(AnswerCounts { empty: MOST, refused: MOST, truncated: MOST, filtered: MOST });
    let amount = || Some("9".repeat(40));
    status.cost = Some(CostStatus {
        estimated_usd: amount(),
        ceiling_usd: amount(),
        actual_usd: amount(),
        real_time_usd: amount(),
        saved_usd: amount(),
        unconfirmed_usd: amount(),
        prices_from: Some("f".repeat(1_200)),
    });
    let display = status.display.get_or_insert_default();
    (display.cost, display.saved, display.suspect) = ("c".repeat(64), "s".repeat(64), "s".repeat(128));
}
