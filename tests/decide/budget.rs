//! `spec.budget`: a batch is submitted only if what was spent, what is in flight and what it can cost itself fit together.

use std::sync::Arc;

use batchjob_operator::api::{BatchUsage, OnExceeded, TokenHints, TokenUsage};
use batchjob_operator::lifecycle::{CostLimit, UnreportedCost};
use batchjob_operator::money::{Cost, PriceList, Prices, Rates, Usd};

use super::*;

pub fn usd(amount: &str) -> Usd {
    Usd::parse(amount).unwrap()
}

/// So many USD for a million tokens of output, and nothing for input.
fn prices(output: &str) -> Prices {
    let batch = Rates { output: usd(output), ..Rates::default() };
    Prices { batch, real_time: batch, long_context: None }
}

/// A job whose every shard costs a dollar at most, under this budget.
pub fn with_budget(most: &str, on_exceeded: OnExceeded) -> JobView {
    let budget = Some(CostLimit { most: usd(most), on_exceeded });
    JobView { budget, provider: Some(priced("1")), ..job() }
}

pub fn priced(output: &str) -> ProviderView {
    let models = vec![("m".to_string(), prices(output))];
    ProviderView { prices: Arc::new(PriceList { models, ..PriceList::default() }), ..provider() }
}

/// A shard of ten requests whose batch costs a dollar at most at a dollar for a million tokens.
pub fn of_a_dollar(index: usize, state: Option<AttemptState>) -> Shard {
    let hints = TokenHints { text_bytes: 1, max_output_tokens: 1_000_000, ..TokenHints::default() };
    let mut shard =
        Shard { sha256: format!("s{index}"), first: 10 * index as i64, requests: 10, hints, ..shard(state) };
    if let Some(attempt) = &mut shard.attempt {
        (attempt.intent_id, attempt.prices) = (format!("intent-{index}"), Some(Box::new(prices("1"))));
    }
    shard
}

pub fn of(shards: Vec<Shard>) -> Journal {
    let mut journal = journal(owner("j", "u"), None);
    journal.plan.as_mut().unwrap().requests = 10 * shards.len() as i64;
    journal.shards = shards.into();
    journal
}

/// A batch of ten requests that cost so much.
pub fn cost(amount: &str) -> Option<AttemptState> {
    let counts = RequestCounts { total: 10, succeeded: 10, ..Default::default() };
    let AttemptState::Settled { batch_id, ended, part, counts, retryable, usage, errors, files, .. } =
        completed("batch-0", counts, 0)
    else {
        panic!("not settled")
    };
    let cost = Some(Box::new(Cost { batch: usd(amount), real_time: usd(amount) }));
    Some(AttemptState::Settled { batch_id, ended, part, counts, retryable, usage, cost, errors, files })
}

fn runs(index: usize) -> Option<AttemptState> {
    Some(AttemptState::Submitted { batch_id: format!("batch-{index}"), at: NOW - 100_000 })
}

/// The files of these shards are uploaded, and their batches are looked at.
pub fn uploaded(shards: usize) -> Memory {
    let mut memory = Memory { deleted: ["file-1".to_string()].into(), ..memory() };
    for shard in 0..shards {
        memory.uploads.insert((AttemptKey { shard, attempt: 1 }, format!("s{shard}")), format!("file-{shard}"));
        let seen = PolledState::Running { state: "in_progress".into(), done: 0 };
        memory.looks.insert(format!("batch-{shard}"), PollResult { at: NOW, seen });
        let found = Some(vec![format!("batch-{shard}")]);
        memory.searches.insert(format!("intent-{shard}"), Search { began: NOW, found });
    }
    memory
}

/// No file is left at the provider.
pub fn without_files(shards: usize) -> Memory {
    Memory { uploads: BTreeMap::new(), ..uploaded(shards) }
}

#[track_caller]
fn waits(step: Step) -> Waiting {
    let Step::Wait { why, .. } = step else { panic!("it does not wait: {step:?}") };
    why
}

#[track_caller]
fn sends(step: Step) -> Journal {
    let Step::WriteIntent { journal, .. } = step else { panic!("nothing is sent: {step:?}") };
    journal
}

#[test]
fn a_batch_is_submitted_if_it_fits_to_the_cent_beside_those_that_ended_and_those_in_flight() {
    let journal = of(vec![of_a_dollar(0, cost("0.25")), of_a_dollar(1, runs(1)), of_a_dollar(2, None)]);
    sends(step(&with_budget("2.25", OnExceeded::Hold), Some(&journal), &uploaded(3)));
    let why = waits(step(&with_budget("2.249999", OnExceeded::Hold), Some(&journal), &uploaded(3)));
    assert_eq!((why.stage, why.blocked), ("WaitingForBudget", None), "batches in flight may end for less");
    insta::assert_snapshot!(why.note.unwrap(), @"$0.25 was spent; batches in flight may cost up to $1.00; the next batch, of 10 requests, may cost up to $1.00. Together this may be more than the $2.25 of `spec.budget.maxCostUSD`; the batch is submitted if those in flight end for less, or once the budget is raised");
}

#[test]
fn with_nothing_in_flight_a_job_stalls_until_its_budget_is_raised_and_then_goes_on_by_itself() {
    let journal = of(vec![of_a_dollar(0, cost("0.25")), of_a_dollar(1, None)]);
    let why = waits(step(&with_budget("1.2", OnExceeded::Hold), Some(&journal), &uploaded(2)));
    let blocked = why.blocked.unwrap();
    assert_eq!((why.stage, blocked.reason), ("WaitingForBudget", "BudgetExceeded"));
    insta::assert_snapshot!(blocked.message, @"$0.25 was spent; the next batch, of 10 requests, may cost up to $1.00. Together this is more than the $1.20 of `spec.budget.maxCostUSD`; raise it to at least '1.25', and the job goes on by itself");
    sends(step(&with_budget("1.25", OnExceeded::Hold), Some(&journal), &uploaded(2)));
    sends(step(&JobView { budget: None, ..with_budget("1", OnExceeded::Hold) }, Some(&journal), &uploaded(2)));
}

#[test]
fn a_budget_that_is_lowered_below_what_is_spent_stops_further_batches_and_nothing_else() {
    let journal = of(vec![of_a_dollar(0, cost("0.9")), of_a_dollar(1, runs(1)), of_a_dollar(2, None)]);
    let why = waits(step(&with_budget("0.5", OnExceeded::Fail), Some(&journal), &uploaded(3)));
    assert_eq!((why.stage, why.blocked), ("WaitingForBudget", None), "the batch in flight is followed");
}

#[test]
fn with_fail_the_job_collects_what_runs_and_ends_with_its_results() {
    let job = with_budget("1.2", OnExceeded::Fail);
    let running = of(vec![of_a_dollar(0, cost("0.25")), of_a_dollar(1, runs(1)), of_a_dollar(2, None)]);
    assert_eq!(waits(step(&job, Some(&running), &uploaded(3))).stage, "WaitingForBudget");
    let over = of(vec![of_a_dollar(0, cost("0.25")), of_a_dollar(1, cost("0.5")), of_a_dollar(2, None)]);
    let Step::Swap(next) = step(&job, Some(&over), &without_files(3)) else { panic!("no end") };
    let end = next.commit.unwrap();
    assert_eq!((end.outcome, end.reason.as_str()), (Outcome::Failed, "BudgetExceeded"));
    assert_eq!(end.requests, RequestCounts { total: 30, succeeded: 20, cancelled: 10, ..Default::default() });
    insta::assert_snapshot!(end.message, @"$0.75 was spent; the next batch, of 10 requests, may cost up to $1.00. Together this is more than the $1.20 of `spec.budget.maxCostUSD`; 20 of 30 requests were answered");
}

#[test]
fn a_job_whose_first_batch_exceeds_the_budget_waits_or_fails_for_free_and_says_that_it_never_fits() {
    let planned = of(vec![of_a_dollar(0, None)]);
    let blocked = waits(step(&with_budget("0.5", OnExceeded::Hold), Some(&planned), &uploaded(1))).blocked.unwrap();
    insta::assert_snapshot!(blocked.message, @"the next batch, of 10 requests, may cost up to $1.00: it alone never fits into the $0.50 of `spec.budget.maxCostUSD`; raise it to at least '1.00', and the job goes on by itself. For smaller batches, delete the job, lower `limits.maxRequestsPerBatch` of the provider, and apply the job again");
    let job = with_budget("0.5", OnExceeded::Fail);
    let Step::Swap(dropped) = step(&job, Some(&planned), &uploaded(1)) else { panic!("the plan stays") };
    assert!(dropped.plan.is_none() && dropped.shards.is_empty());
    // The same plan is not taken up again.
    let result = PlanResult { staged: Some("w".into()), plan: plan("h"), shards: planned.shards.clone() };
    let memory = Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(result) }), ..uploaded(1) };
    let Step::Fail(failure) = step(&job, Some(&dropped), &memory) else { panic!("it does not fail") };
    assert_eq!((failure.outcome, failure.reason), (Outcome::Failed, "BudgetExceeded"));
    let suspended = JobView { suspend: true, ..job };
    assert_eq!(waits(step(&suspended, Some(&planned), &memory)).stage, "Suspended", "it is not to send now");
}

#[test]
fn without_a_price_or_a_limit_of_output_nothing_is_sent_under_a_budget() {
    let hold = with_budget("5", OnExceeded::Hold);
    let free = JobView { provider: Some(provider()), ..hold.clone() };
    let mut unlimited = of(vec![of_a_dollar(0, None), of_a_dollar(1, None)]);
    let fails = |job: &JobView, planned: &Journal| {
        let Step::Swap(dropped) = step(job, Some(planned), &uploaded(2)) else { panic!("the plan stays") };
        let result = PlanResult { staged: Some("w".into()), plan: plan("h"), shards: planned.shards.clone() };
        let memory = Memory { pass: Some(Pass { spec_hash: "spec".into(), result: Ok(result) }), ..uploaded(2) };
        let Step::Fail(failure) = step(job, Some(&dropped), &memory) else { panic!("it does not fail") };
        assert_eq!(failure.reason, "CostUnknown");
        failure.message
    };
    insta::assert_snapshot!(fails(&free, &unlimited), @"`spec.budget` is set, and the most that the next batch can cost is unknown: the provider object has no prices for model 'm'; set `prices` in `spec.models`, or name a table with `spec.pricesRef`; or remove `spec.budget`, to go on without a limit. Nothing was sent");
    unlimited.shards[1].hints.unlimited_requests = 1;
    insta::assert_snapshot!(fails(&hold, &unlimited), @"`spec.budget` is set, and the most that the next batch can cost is unknown: some requests set no limit of output tokens; set it in `spec.requestDefaults`, such as `max_completion_tokens: 500`, or `maxOutputTokens` of the model in `spec.models` of the provider object; or remove `spec.budget`, to go on without a limit. Nothing was sent");
    unlimited.shards[1].hints = TokenHints::default();
    assert!(fails(&hold, &unlimited).contains("`maxInputTokens`"), "an earlier version planned it: nothing is known");
    // Once something was sent, the job waits for a remedy.
    let sent = of(vec![of_a_dollar(0, cost("0.25")), of_a_dollar(1, None)]);
    let blocked = waits(step(&free, Some(&sent), &uploaded(2))).blocked.unwrap();
    assert_eq!(blocked.reason, "CostUnknown");
    sends(step(&JobView { budget: None, ..free }, Some(&sent), &uploaded(2)));
}

#[test]
fn batches_in_flight_count_at_the_prices_of_their_submission() {
    let journal = of(vec![of_a_dollar(0, runs(0)), of_a_dollar(1, None)]);
    // A price that falls makes the next batch cheaper, and not the one that runs.
    let cheap = |most: &str| JobView { provider: Some(priced("0.1")), ..with_budget(most, OnExceeded::Hold) };
    sends(step(&cheap("1.1"), Some(&journal), &uploaded(2)));
    assert_eq!(waits(step(&cheap("1.09"), Some(&journal), &uploaded(2))).stage, "WaitingForBudget");
}

#[test]
fn batches_that_ran_without_prices_leave_no_budget_to_judge() {
    let AttemptState::Settled { batch_id, ended, part, counts, retryable, usage, errors, files, .. } =
        cost("1").unwrap()
    else {
        panic!("not settled")
    };
    let free = AttemptState::Settled { batch_id, ended, part, counts, retryable, usage, cost: None, errors, files };
    let journal = of(vec![of_a_dollar(0, Some(free)), of_a_dollar(1, None)]);
    let blocked = waits(step(&with_budget("100", OnExceeded::Hold), Some(&journal), &uploaded(2))).blocked.unwrap();
    insta::assert_snapshot!(blocked.message, @"`spec.budget` is set, and the most that the next batch can cost is unknown: so is the cost of earlier batches, for one ran without prices of its model; or remove `spec.budget`, to go on without a limit");
}

/// The sums of sealed shards are all that is left of them.
#[test]
fn sealed_shards_count_as_they_did_before() {
    let mut settled: Vec<Shard> = (0..16).map(|index| of_a_dollar(index, cost("0.25"))).collect();
    settled[3].unreported_cost = UnreportedCost { most: usd("0.5"), unbounded: 0 };
    settled.push(of_a_dollar(16, None));
    let mut journal = of(settled);
    let [fits, over] = ["5.5", "5.49"].map(|most| with_budget(most, OnExceeded::Hold));
    let judged = |journal: &Journal| {
        sends(step(&fits, Some(journal), &uploaded(17)));
        waits(step(&over, Some(journal), &uploaded(17))).blocked.unwrap().message
    };
    let before = judged(&journal);
    assert_eq!(journal.shards.pack(16).unwrap().len(), 1);
    assert_eq!(judged(&journal), before);
    let read: Journal = serde_json::from_str(&serde_json::to_string(&journal).unwrap()).unwrap();
    assert_eq!(judged(&read), before, "as it is stored");
}

fn some_without_usage(counts: RequestCounts, answers_without_usage: i64) -> CollectResult {
    let tokens = TokenUsage { output_tokens: 100_000, answers_without_usage, ..TokenUsage::default() };
    CollectResult { usage: BatchUsage { tokens, ..BatchUsage::default() }, ..collected(counts) }
}

/// Nobody knows what they cost; their batch costs no more than it can.
#[test]
fn requests_in_no_file_and_answers_without_usage_count_at_their_share_of_the_most() {
    let job = with_budget("5", OnExceeded::Hold);
    let journal = of(vec![of_a_dollar(0, runs(0))]);
    let mut memory = uploaded(1);
    let seen = PolledState::Ended { state: BatchEnd::Completed, done: 10, rejected: None };
    memory.looks.insert("batch-0".into(), PollResult { at: NOW, seen });
    let counts = RequestCounts { total: 10, succeeded: 8, missing: 2, ..Default::default() };
    memory.collected.insert("batch-0".into(), some_without_usage(counts, 1));
    let Step::Swap(next) = step(&job, Some(&journal), &memory) else { panic!("it is not settled") };
    let totals = next.shards.totals();
    assert_eq!((next.shards.usage().all().cost.batch, totals.unreported_cost.most), (usd("0.1"), usd("0.3")));
}

#[test]
fn a_batch_whose_answers_a_person_gives_up_counts_whole_also_if_it_is_sent_again() {
    for (answer, is_sent_again) in [("lost", false), ("resend", true)] {
        let journal = of(vec![of_a_dollar(0, runs(0))]);
        let answers = Answers::one("lost-intent-0", answer);
        let job = JobView { answers, ..with_budget("1.5", OnExceeded::Hold) };
        let mut memory = uploaded(1);
        memory.looks.insert("batch-0".into(), PollResult { at: NOW, seen: PolledState::NotFound });
        let Step::Swap(mut next) = step(&job, Some(&journal), &memory) else { panic!("not given up") };
        assert_eq!(next.shards.totals().unreported_cost.most, usd("1"), "{answer}");
        next.shards.push(of_a_dollar(1, None));
        memory.uploads.insert((AttemptKey { shard: 0, attempt: 2 }, "s0".into()), "file-0".into());
        let blocked = waits(step(&job, Some(&next), &memory)).blocked.unwrap();
        assert_eq!(blocked.reason, "BudgetExceeded", "{answer}");
        let raised = JobView { budget: Some(CostLimit { most: usd("2"), on_exceeded: OnExceeded::Hold }), ..job };
        let sent = sends(step(&raised, Some(&next), &Memory { ..memory_of_two(memory) }));
        assert_eq!(sent.shards[0].attempt.as_ref().unwrap().number, 1 + u32::from(is_sent_again), "{answer}");
        assert_eq!(sent.shards.totals().unreported_cost.most, usd("1"), "the next attempt forgets nothing: {answer}");
    }
}

fn memory_of_two(mut memory: Memory) -> Memory {
    memory.uploads.insert((AttemptKey { shard: 1, attempt: 1 }, "s1".into()), "file-1b".into());
    memory
}

#[test]
fn a_batch_that_the_job_ends_without_counts_whole() {
    let mut journal = of(vec![of_a_dollar(0, runs(0))]);
    journal.out_of_time_since = Some(NOW - TIMING.abandon_after);
    let mut memory = uploaded(1);
    memory.cancelled.insert("batch-0".into());
    let job = JobView { stop: Some(StopPolicy::Cancel), ..with_budget("5", OnExceeded::Hold) };
    let Step::Swap(next) = step(&job, Some(&journal), &memory) else { panic!("not given up") };
    assert_eq!(next.shards.totals().unreported_cost.most, usd("1"));
}
