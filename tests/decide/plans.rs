//! What a plan is expected to take, as a person reads it before anything is paid.

use batchjob_operator::api::{CostStatus, LearnedTokens, ModelStatus, Spending, TokenHints};
use batchjob_operator::lifecycle::{PlannedModel, advice};
use batchjob_operator::money::{PriceList, Prices, Rates, TokenLimits, Usd};

use super::*;

fn account() -> ProviderView {
    let rates = |input, output| Rates {
        input: Usd::parse(input).unwrap(),
        cached_input: Usd::ZERO,
        output: Usd::parse(output).unwrap(),
    };
    let prices = Prices { batch: rates("0.125", "1"), real_time: rates("0.25", "2"), long_context: None };
    let limits = TokenLimits { max_input_tokens: Some(400_000), max_output_tokens: Some(128_000) };
    let (models, limits) = (vec![("gpt-5-mini".into(), prices)], vec![("gpt-5-mini".into(), limits)]);
    ProviderView { prices: PriceList { models, limits, ..PriceList::default() }.into(), ..provider() }
}

/// A job of which nothing was sent.
fn fresh(suspend: bool) -> JobView {
    JobView { suspend, submitted: false, batches: vec![], provider: Some(account()), ..job() }
}

/// A plan of reviews of 250 bytes, with answers of at most 16 tokens.
fn planned(requests: i64, state: Option<AttemptState>) -> Journal {
    let text_bytes = 250 * requests.unsigned_abs();
    let hints =
        TokenHints { text_bytes, longest_text_bytes: 400, max_output_tokens: 16 * requests, ..Default::default() };
    let models = vec![PlannedModel { name: "gpt-5-mini".into(), batches: 1, requests, hints }];
    let mut journal = journal(owner("j", "u"), state);
    journal.plan = Some(Plan { requests, models, ..plan("h") });
    journal.shards[0].requests = requests;
    journal
}

fn status(job: &JobView, journal: &Journal, old: &BatchJobStatus) -> BatchJobStatus {
    let memory = memory();
    let o = Observed { now: NOW, nonce: "n", timing: &TIMING, job, journal: Some(journal), memory: &memory };
    let stage = if job.suspend { "Suspended" } else { "InProgress" };
    let wait = Step::Wait { until: None, why: Waiting { stage, ..Default::default() } };
    project(&o, old, Some(1), &wait).unwrap()
}

fn condition(status: &BatchJobStatus, type_: &str) -> String {
    status.conditions.iter().find(|c| c.type_ == type_).unwrap().message.clone()
}

#[test]
fn a_suspended_job_shows_the_whole_plan_and_how_to_approve_it() {
    let status = status(&fresh(true), &planned(10_000, None), &Default::default());
    insta::assert_snapshot!(condition(&status, "Suspended"));
    insta::assert_yaml_snapshot!((&status.estimate, &status.cost, &status.display));
    assert!(!condition(&status, "Planned").contains("real time"), "they would take twenty minutes");
}

#[test]
fn a_plan_that_is_approved_stays_as_it_was_and_one_that_is_not_follows_what_was_learned() {
    let tokens =
        LearnedTokens { text_bytes: 5_000_000, input_tokens: 1_000_000, answers: 10_000, output_tokens: 20_000 };
    let known = ProviderView {
        models: [ModelStatus { name: "gpt-5-mini".into(), tokens, ..ModelStatus::default() }].into(),
        ..account()
    };
    for (journal, is_sent) in [(planned(10_000, None), false), (planned(10_000, submitted()), true)] {
        let suspended = fresh(true);
        let before = status(&suspended, &planned(10_000, None), &Default::default());
        let after = status(&JobView { provider: Some(known.clone()), ..suspended }, &journal, &before);
        let of = |status: &BatchJobStatus| (status.estimate.clone(), status.cost.clone());
        assert_eq!(of(&after) == of(&before), is_sent, "{:?}", of(&after));
        assert_eq!(condition(&after, "Suspended").contains("Approve it"), !is_sent);
        let learned_more = JobView { provider: Some(known.clone()), ..fresh(false) };
        let few = planned(99, journal.shards[0].attempt.clone().map(|attempt| attempt.state));
        let before = status(&fresh(false), &planned(99, None), &Default::default());
        let (early, late) = (status(&fresh(false), &few, &before), status(&learned_more, &few, &before));
        assert!(condition(&late, "Planned").contains("single calls in real time"));
        assert_eq!(
            condition(&early, "Planned") == condition(&late, "Planned"),
            is_sent,
            "status is not written for it"
        );
        let anew = status(&JobView { provider: Some(known.clone()), ..fresh(false) }, &journal, &Default::default());
        assert!(anew.estimate.is_some_and(|estimate| estimate.output_tokens < 30_000), "where status was lost");
    }
}

/// A thousand jobs wait, and each one that ends teaches something.
#[test]
fn what_other_jobs_teach_changes_the_estimate_of_a_waiting_job_only_if_it_matters() {
    let taught = |text_bytes, output_tokens| {
        let tokens = LearnedTokens { text_bytes, input_tokens: 1_000_000, answers: 10_000, output_tokens };
        let models = [ModelStatus { name: "gpt-5-mini".into(), tokens, ..ModelStatus::default() }].into();
        Some(ProviderView { models, ..account() })
    };
    let of = |status: &BatchJobStatus| (status.estimate.clone(), status.cost.clone(), status.display.clone());
    let journal = planned(10_000, None);
    let before =
        status(&JobView { provider: taught(4_000_000, 100_000), ..fresh(false) }, &journal, &Default::default());
    let after = |suspend, provider| of(&status(&JobView { provider, ..fresh(suspend) }, &journal, &before));
    assert_eq!(after(false, taught(4_400_000, 95_000)), of(&before), "a tenth less");
    assert_ne!(after(true, taught(4_400_000, 95_000)), of(&before), "a person is to approve it");
    for (provider, what) in [
        (taught(6_000_000, 100_000), "a third less input"),
        (taught(4_000_000, 150_000), "half as much output again"),
        (taught(4_000_000, 100_000).map(|known| ProviderView { prices: Default::default(), ..known }), "no prices"),
    ] {
        assert_ne!(after(false, provider), of(&before), "{what}");
    }
}

#[test]
fn the_advice_to_call_in_real_time_comes_with_the_plan_and_once() {
    let job = fresh(false);
    let opened = Journal { plan: None, ..planned(99, None) };
    let few = planned(99, None);
    assert!(advice(&job, &opened, &few).is_some());
    assert_eq!((advice(&job, &few, &few), advice(&job, &opened, &opened)), (None, None));
    assert_eq!(advice(&job, &opened, &planned(10_000, None)), None);
    let shown = condition(&status(&job, &few, &Default::default()), "Planned");
    assert!(shown.starts_with("99 requests were read and are sound; single calls in real time may suit"), "{shown}");
}

#[test]
fn a_job_that_ended_keeps_what_was_expected_of_it_beside_what_it_cost() {
    let (job, journal, memory) = (fresh(false), planned(10_000, submitted()), memory());
    let before = status(&job, &journal, &Default::default());
    assert_eq!(before.display.as_ref().unwrap().cost, "~$0.24");
    let o = Observed { now: NOW, nonce: "n", timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
    let cost = CostStatus { actual_usd: Some("0.2".into()), ..CostStatus::default() };
    let spending = Spending { cost: Some(cost), ..Spending::default() };
    let manifest = ManifestView { spending, ..manifest("w", "h") };
    let ended = |reused| {
        let conclude = Step::Conclude { manifest: manifest.clone(), reused };
        let status = project(&o, &before, Some(1), &conclude).unwrap();
        let cost = status.cost.unwrap();
        (status.display.unwrap().cost, cost.estimated_usd, cost.actual_usd)
    };
    let text = |text: &str| Some(text.to_string());
    assert_eq!(ended(false), ("$0.20".into(), text("0.238125"), text("0.20")));
    assert_eq!(ended(true), ("$0.00 (was $0.20)".into(), None, text("0.20")), "nothing is expected of it");
}
