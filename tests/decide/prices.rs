//! The prices that batches are accounted at, and what is told of them.

use std::sync::Arc;

use batchjob_operator::api::{BatchUsage, TokenUsage};
use batchjob_operator::lifecycle::{CollectResult, PlannedModel};
use batchjob_operator::money::{Cost, PriceList, Prices, Rates, Usd};

use super::*;

/// A list in which a million input tokens of model `m` cost so much by batch, and twice as much in real time.
fn at(input: &str, from: &str) -> PriceList {
    let rates = |input: &str| Rates { input: Usd::parse(input).unwrap(), ..Rates::default() };
    let real_time = Rates { input: rates(input).input + rates(input).input, ..Rates::default() };
    let prices = Prices { batch: rates(input), real_time, long_context: None };
    PriceList { from: from.into(), models: vec![("m".into(), prices)], ..PriceList::default() }
}

fn priced(prices: PriceList) -> JobView {
    with_provider(|provider| provider.prices = Arc::new(prices))
}

/// The journal after the intent of the next shard.
fn after_intent(job: &JobView, journal: &Journal, shard: usize) -> Journal {
    let mut memory = searched(memory());
    memory.looks.insert("batch-1".into(), running());
    memory.uploads.insert((AttemptKey { shard, attempt: 1 }, "s".into()), format!("file-{shard}"));
    let Step::WriteIntent { journal, .. } = step(job, Some(journal), &memory) else { panic!("no intent") };
    journal
}

fn running() -> PollResult {
    PollResult { at: NOW, seen: PolledState::Running { state: "in_progress".into(), done: 0 } }
}

/// The journal after the first batch ended with a million input tokens, and its cost.
fn after_settlement(job: &JobView, journal: &Journal) -> (Journal, Option<Cost>) {
    let mut memory = searched(memory());
    let tokens = TokenUsage { input_tokens: 1_000_000, ..TokenUsage::default() };
    let usage = BatchUsage { tokens, ..BatchUsage::default() };
    let collected = CollectResult { usage, ..collected(all_succeeded(1)) };
    let ended = PolledState::Ended { state: BatchEnd::Completed, done: 1, rejected: None };
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen: ended });
    memory.collected.insert("batch-1".into(), collected);
    let Step::Swap(journal) = step(job, Some(journal), &memory) else { panic!("not settled") };
    let Some(AttemptState::Settled { cost, .. }) = journal.shards[0].attempt.as_ref().map(|a| a.state.clone()) else {
        panic!("not settled")
    };
    (journal, cost.map(|cost| *cost))
}

/// The first shard runs as `batch-1`, as the intent left it.
fn run(mut journal: Journal) -> Journal {
    let attempt = journal.shards.get_mut(0).and_then(|shard| shard.attempt.as_mut()).unwrap();
    attempt.intent_id = "intent-1".into();
    attempt.state = AttemptState::Submitted { batch_id: "batch-1".into(), at: NOW - 100_000 };
    journal
}

fn usd(amount: &str) -> Usd {
    Usd::parse(amount).unwrap()
}

#[test]
fn a_batch_costs_the_price_of_its_submission_and_a_price_that_changes_in_the_middle_is_told() {
    let mut unsent = journal(owner("j", "u"), None);
    unsent.shards.push(shard(None));
    let (old, new) = (
        priced(at("1", "ConfigMap prices (resourceVersion 1)")),
        priced(at("3", "ConfigMap prices (resourceVersion 2)")),
    );
    let first = run(after_intent(&old, &unsent, 0));
    assert_eq!(
        (first.pricing.from().as_deref(), first.pricing.changed()),
        (Some("ConfigMap prices (resourceVersion 1)"), None)
    );
    let second = after_intent(&new, &first, 1);
    assert_eq!(
        second.pricing.from().as_deref(),
        Some("ConfigMap prices (resourceVersion 1); later ConfigMap prices (resourceVersion 2)")
    );
    assert!(second.pricing.changed().is_some_and(|note| note.contains("from $1.00") && note.contains("to $3.00")));
    let (settled, cost) = after_settlement(&new, &first);
    assert_eq!(cost, Some(Cost { batch: usd("1"), real_time: usd("2") }), "the price of its submission");
    assert_eq!(settled.pricing, first.pricing);
}

#[test]
fn a_batch_without_a_price_at_its_submission_costs_the_price_of_its_settlement() {
    let unsent = journal(owner("j", "u"), None);
    let none = priced(PriceList::default());
    let sent = run(after_intent(&none, &unsent, 0));
    assert_eq!(sent.pricing.from(), None);
    assert_eq!(after_settlement(&none, &sent).1, None, "no price, no cost");
    let (settled, cost) = after_settlement(&priced(at("1", "A")), &sent);
    assert_eq!(cost, Some(Cost { batch: usd("1"), real_time: usd("2") }));
    assert_eq!((settled.pricing.from().as_deref(), settled.pricing.changed()), (Some("A"), None));
}

/// The message of the condition `Planned`.
fn planned(job: &JobView, journal: &Journal) -> String {
    let wait = Step::Wait { until: None, why: Default::default() };
    let memory = memory();
    let o = Observed { now: NOW, nonce: "nonce", timing: &TIMING, job, journal: Some(journal), memory: &memory };
    let status = project(&o, &Default::default(), Some(1), &wait).unwrap();
    status.conditions.into_iter().find(|c| c.type_ == "Planned").unwrap().message
}

#[test]
fn a_job_at_an_account_without_any_prices_says_how_to_set_them() {
    let mut sent = journal(owner("j", "u"), submitted());
    let none = priced(PriceList::default());
    assert_eq!(planned(&none, &sent), "1 requests were read and are sound", "its answers are reused");
    sent.plan.as_mut().unwrap().models = vec![PlannedModel { requests: 1_000, ..PlannedModel::default() }];
    insta::assert_snapshot!(planned(&none, &sent), @"1 requests were read and are sound; no cost is known, since BatchProvider 'p' has no prices; set `spec.models[].prices` or `spec.pricesRef` there");
}

#[test]
fn a_model_that_lacks_prices_where_others_have_some_is_named_with_the_remedy_until_it_has_them() {
    let mut unsent = journal(owner("j", "u"), None);
    unsent.shards.get_mut(0).unwrap().model = "other".into();
    let some = priced(at("1", "A"));
    insta::assert_snapshot!(planned(&some, &unsent), @"1 requests were read and are sound; the cost is not known as a whole: model 'other' has no prices; `kubectl edit batchprovider p` sets them in `spec.models`: - {name: other, prices: {inputUSDPerMillion: '…', outputUSDPerMillion: '…'}}");
    let sent = run(after_intent(&some, &unsent, 0));
    assert_eq!(planned(&some, &sent), planned(&some, &unsent), "as long as it runs");
    let fault = PriceList { fault: Some("ConfigMap 'prices' was not found; create it".into()), ..PriceList::default() };
    insta::assert_snapshot!(planned(&priced(fault), &sent), @"1 requests were read and are sound; the cost is not known as a whole: model 'other' has no prices: ConfigMap 'prices' was not found; create it");
    assert_eq!(planned(&priced(PriceList::default()), &sent), planned(&some, &sent), "those of another model are gone");
    assert_eq!(planned(&JobView { provider: None, ..job() }, &sent), "1 requests were read and are sound");
    let mut both = at("1", "A");
    both.models.push(("other".into(), both.models[0].1));
    let (settled, _) = after_settlement(&priced(both.clone()), &sent);
    assert_eq!(planned(&priced(both), &settled), "1 requests were read and are sound");
}
