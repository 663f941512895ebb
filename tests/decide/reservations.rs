//! What is reserved in the ledger of the provider's budgets before a batch is sent, and what its batches cost.

use std::sync::Arc;

use batchjob_operator::api::{BatchUsage, FileContent, TokenHints, TokenUsage};
use batchjob_operator::lifecycle::{Freshness, LaterRevision};
use batchjob_operator::money::{Billed, PriceList, Prices, Rates, Terms, Unbilled, Usd};

use super::*;

fn usd(amount: &str) -> Usd {
    Usd::parse(amount).unwrap()
}

/// A job at a provider with budgets, where a million tokens cost a dollar of input and ten of output.
fn budgeted() -> JobView {
    let batch = Rates { input: usd("1"), output: usd("10"), ..Rates::default() };
    let price = |batch| Prices { batch, ..Prices::default() };
    let models = vec![("m".into(), price(batch)), ("free".into(), price(Rates::default()))];
    with_provider(|provider| {
        provider.has_budgets = true;
        provider.prices = Arc::new(PriceList { models, ..PriceList::default() });
    })
}

fn seen(seen: PolledState) -> PollResult {
    PollResult { at: NOW, seen }
}

fn running() -> PolledState {
    PolledState::Running { state: "in_progress".into(), done: 0 }
}

/// A shard to be sent whose file, as it was counted, can cost $1.50. The journal says that it costs nothing.
fn to_send() -> (Journal, Memory) {
    let mut journal = journal(owner("j", "u"), None);
    let forged = TokenHints { text_bytes: 1, ..TokenHints::default() };
    journal.shards.iter_mut().for_each(|shard| (shard.hints, shard.model) = (forged, "free".into()));
    let mut memory = memory();
    memory.uploads.insert((first(), "s".into()), "file-1".into());
    memory.contents.insert("file-1".into(), content());
    (journal, memory)
}

/// Requests that can cost $1.50.
fn content() -> FileContent {
    let hints = TokenHints { text_bytes: 500_000, max_output_tokens: 100_000, ..TokenHints::default() };
    FileContent { requests: 1, model: Some("m".into()), hints }
}

fn terms() -> Box<Terms> {
    let rates = Rates { input: usd("1"), output: usd("10"), ..Rates::default() };
    Box::new(Terms { requests: 1, rates, long_context: None })
}

fn collected_with(tokens: TokenUsage) -> CollectResult {
    CollectResult { usage: BatchUsage { tokens, ..Default::default() }, ..collected(all_succeeded(1)) }
}

fn first() -> AttemptKey {
    AttemptKey { shard: 0, attempt: 1 }
}

fn reserve(amount: &str) -> Step {
    Step::Reserve { attempt_key: first(), amount: usd(amount), terms: terms(), replaces: None }
}

fn reserved(rev: u64, amount: &str) -> Option<ReserveResult> {
    Some(ReserveResult { attempt_key: first(), rev, judged: 1, amount: usd(amount), until: NOW + 1, outcome: Ok(()) })
}

#[test]
fn an_intent_is_written_only_over_the_journal_that_its_reservation_was_judged_on() {
    let (mut journal, mut memory) = to_send();
    let next = |journal: &Journal, memory: &Memory| step(&budgeted(), Some(journal), memory);
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::WriteIntent { .. }), "without budgets");
    assert_eq!(next(&journal, &memory), reserve("1.5"));
    memory.running.insert(Task::Reserve);
    assert!(matches!(next(&journal, &memory), Step::Wait { .. }));
    memory.running.clear();
    memory.reserved = reserved(journal.rev, "1.5");
    assert!(matches!(next(&journal, &memory), Step::WriteIntent { .. }));
    let other =
        Some(ReserveResult { attempt_key: AttemptKey { shard: 1, attempt: 1 }, ..memory.reserved.clone().unwrap() });
    for stale in [None, other, reserved(journal.rev + 1, "1.5")] {
        let memory = Memory { reserved: stale, ..memory.clone() };
        assert_eq!(next(&journal, &memory), reserve("1.5"), "{:?}", memory.reserved);
    }
    let own = Step::Reserve { attempt_key: first(), amount: usd("1.5"), terms: terms(), replaces: Some(1) };
    let less = Memory { reserved: reserved(journal.rev, "1.4"), ..memory.clone() };
    assert_eq!(next(&journal, &less), own, "too little; it replaces its own reservation");
    let yesterday = Some(ReserveResult { until: NOW, ..memory.reserved.clone().unwrap() });
    assert_eq!(next(&journal, &Memory { reserved: yesterday, ..memory.clone() }), own);
    journal.rev += 1;
    assert_eq!(next(&journal, &memory), reserve("1.5"), "another process wrote it");
}

#[test]
fn a_reservation_stands_over_own_writes_of_the_journal_unless_no_intent_can_follow() {
    let (journal, mut memory) = to_send();
    memory.reserved = reserved(journal.rev, "1.5");
    let after = |edit: fn(&mut Journal)| {
        let (next, mut memory) = (journal.next(edit), memory.clone());
        memory.forget_sealed(&journal, &next, &next);
        memory.reserved.map(|reserved| reserved.rev)
    };
    assert_eq!(after(|_| {}), Some(journal.rev + 1));
    assert_eq!(after(|j| j.closing = Some(DeletionPolicy::Cancel)), None);
    assert_eq!(after(|j| j.plan = None), None);
    let (other, mut late) = (Journal { rev: 7, ..journal.clone() }, memory.clone());
    late.forget_sealed(&other, &other.next(|_| {}), &other);
    assert_eq!(late.reserved, None, "it was judged on a journal that others changed");
}

#[test]
fn a_batch_that_is_refused_by_a_budget_waits_with_its_words_and_no_later_one_overtakes_it() {
    let (mut journal, mut memory) = to_send();
    journal.shards.push(journal.shards[0].clone());
    memory.uploads.insert((AttemptKey { shard: 1, attempt: 1 }, "s".into()), "file-2".into());
    let hints = TokenHints { text_bytes: 2, ..TokenHints::default() };
    memory.contents.insert("file-2".into(), FileContent { hints, ..content() });
    let refused = |blocked| {
        let outcome = Err(BudgetWait { message: "the budget is used up".into(), blocked, state: 1 });
        Some(ReserveResult { outcome, until: NOW + 5, ..reserved(journal.rev, "1.5").unwrap() })
    };
    let waits = |memory: &Memory| match step(&budgeted(), Some(&journal), memory) {
        Step::Wait { until, why } => (until, why),
        step => panic!("{step:?}"),
    };
    memory.reserved = refused(None);
    let (until, why) = waits(&memory);
    assert_eq!(
        (until, why.stage, why.note.as_deref()),
        (Some(NOW + 5), "WaitingForBudget", Some("the budget is used up"))
    );
    assert_eq!(why.blocked, None);
    let blocked = Blocked { reason: "BudgetTooSmall", message: "raise it".into() };
    memory.reserved = refused(Some(blocked.clone()));
    assert_eq!(waits(&memory).1.blocked, Some(blocked));
    let over = Memory { reserved: memory.reserved.take().map(|r| ReserveResult { until: NOW, ..r }), ..memory };
    assert_eq!(step(&budgeted(), Some(&journal), &over), reserve("1.5"), "it is judged again");
}

#[test]
fn a_batch_whose_cost_nothing_bounds_is_not_sent_within_a_budget_and_says_how_to_bound_it() {
    let blocked = |edit: &dyn Fn(&mut FileContent)| {
        let ((journal, mut memory), job) = (to_send(), budgeted());
        memory.contents.values_mut().for_each(edit);
        match step(&job, Some(&journal), &memory) {
            Step::Wait { why: Waiting { blocked: Some(Blocked { reason, message }), .. }, .. } => {
                assert_eq!(reason, "CostUnknown");
                message
            }
            step => panic!("{step:?}"),
        }
    };
    let message = blocked(&|of| of.model = Some("other".into()));
    assert!(message.contains("no prices for model"), "{message}");
    let message = blocked(&|of| of.hints.unlimited_requests = 1);
    assert!(message.contains("max_completion_tokens"), "{message}");
    let message = blocked(&|of| of.model = None);
    assert!(message.contains("several models"), "{message}");
}

#[test]
fn the_cost_of_a_batch_is_in_the_ledger_before_the_journal_settles_it() {
    let mut journal = journal(owner("j", "u"), submitted());
    let mut memory = searched(memory());
    memory
        .looks
        .insert("batch-1".into(), seen(PolledState::Ended { state: BatchEnd::Completed, done: 1, rejected: None }));
    let tokens = TokenUsage { input_tokens: 1_000_000, output_tokens: 50_000, ..TokenUsage::default() };
    memory.collected.insert("batch-1".into(), collected_with(tokens));
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Swap(_)), "without budgets");
    let usage = BatchUsage { tokens, ..BatchUsage::default() };
    let billed = Some(Box::new(Billed { told: 1, usage, long_context_above: None, billed_again: 0 }));
    let settle = Step::SettleCost { attempt_key: first(), billed };
    assert_eq!(step(&budgeted(), Some(&journal), &memory), settle);
    assert_eq!(settle.call(), Some(Task::SettleCost(first())));
    let mut busy = memory.clone();
    busy.running.insert(Task::SettleCost(first()));
    assert!(matches!(step(&budgeted(), Some(&journal), &busy), Step::Wait { .. }));
    memory.accounted.insert("intent-1".into());
    let Step::Swap(settled) = step(&budgeted(), Some(&journal), &memory) else { panic!("it is counted") };
    assert!(settled.shards[0].settled().is_some());
    journal.shards[0].attempt.as_mut().unwrap().intent_id = "intent-2".into();
    memory.searches.insert("intent-2".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    assert_eq!(step(&budgeted(), Some(&journal), &memory), settle, "another submission");
}

#[test]
fn a_batch_that_is_given_up_on_counts_with_all_that_was_reserved() {
    let settle = Step::SettleCost { attempt_key: first(), billed: None };
    let journal = journal(owner("j", "u"), submitted());
    let mut lost = searched(memory());
    lost.looks.insert("batch-1".into(), seen(PolledState::NotFound));
    lost.deleted.insert("file-1".into());
    for answer in ["lost", "resend"] {
        let answers = Answers::one("lost-intent-1", answer);
        let job = JobView { answers, ..budgeted() };
        assert_eq!(step(&job, Some(&journal), &lost), settle, "{answer}");
        let counted = Memory { accounted: ["intent-1".to_string()].into(), ..lost.clone() };
        assert!(matches!(step(&job, Some(&journal), &counted), Step::Swap(_)), "{answer}");
    }
    let mut late = journal.clone();
    late.out_of_time_since = Some(NOW - TIMING.abandon_after);
    let mut memory = searched(memory());
    memory.looks.insert("batch-1".into(), seen(running()));
    memory.cancelled.insert("batch-1".into());
    let job = JobView { deadline: Some(NOW - TIMING.abandon_after), ..budgeted() };
    assert_eq!(step(&job, Some(&late), &memory), settle);
    memory.accounted.insert("intent-1".into());
    assert!(matches!(step(&job, Some(&late), &memory), Step::Swap(_)));
}

#[test]
fn what_is_reserved_is_released_before_an_end_after_which_no_intent_can_follow() {
    let (mut journal, mut memory) = to_send();
    memory.uploads.clear();
    let end = |journal: &Journal, memory: &Memory| step(&budgeted(), Some(journal), memory);
    let stopped = || JobView { stop: Some(StopPolicy::Cancel), ..budgeted() };
    journal.plan = None;
    journal.shards.clear();
    let release = |shards: &[usize], from| Step::Release {
        unbilled: Unbilled { shards: shards.iter().copied().collect(), from },
    };
    assert_eq!(step(&stopped(), Some(&journal), &memory), release(&[], 0));
    let mut busy = memory.clone();
    busy.running.insert(Task::Release);
    assert!(matches!(step(&stopped(), Some(&journal), &busy), Step::Wait { .. }), "one try is waited for");
    busy.failed_calls.insert(Task::Release, NOW + 10);
    assert!(matches!(step(&stopped(), Some(&journal), &busy), Step::Fail(_)), "the end waits for no second one");
    memory.released = Some(journal.rev);
    assert!(matches!(step(&stopped(), Some(&journal), &memory), Step::Fail(_)));
    memory.released = None;
    let counts = RequestCounts { total: 1, succeeded: 1, ..Default::default() };
    let mut done = self::journal(owner("j", "u"), Some(completed("batch-1", counts, 0)));
    done.commit = Some(Commit {
        outcome: Outcome::Succeeded,
        reason: "AllSucceeded".into(),
        message: "m".into(),
        at: NOW,
        requests: counts,
        spending: Default::default(),
    });
    assert_eq!(end(&done, &memory), release(&[], 1), "its batch was billed");
    memory.running.insert(Task::Release);
    assert_eq!(end(&done, &memory), Step::Write, "beside it");
    memory.running.clear();
    memory.released = Some(done.rev);
    assert_eq!(end(&done, &memory), Step::Write);
}

/// The journal is its user's to write.
#[test]
fn a_file_that_this_process_did_not_count_is_deleted_and_uploaded_anew() {
    let refusal = AttemptState::Refused { refusal: Refusal::Capacity, message: "m".into(), at: 0, retry_at: None };
    let (journal, key) = (journal(owner("j", "u"), Some(refusal)), AttemptKey { shard: 0, attempt: 2 });
    let mut memory = memory();
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::WriteIntent { .. }), "without budgets");
    let delete = Step::DeleteFiles { files: vec!["file-1".into()], attempt_key: Some(key), must: true };
    assert_eq!(step(&budgeted(), Some(&journal), &memory), delete);
    memory.contents.insert("file-1".into(), content());
    assert!(matches!(step(&budgeted(), Some(&journal), &memory), Step::Reserve { .. }), "it was counted");
    memory.contents.clear();
    let retain = JobView { provider_file_policy: ProviderFilePolicy::Retain, ..budgeted() };
    assert_eq!(step(&retain, Some(&journal), &memory), Step::Upload(key));
    memory.deleted.insert("file-1".into());
    assert_eq!(step(&budgeted(), Some(&journal), &memory), Step::Upload(key));
    memory.uploads.insert((key, "s".into()), "file-2".into());
    memory.contents.insert("file-2".into(), content());
    assert!(matches!(step(&budgeted(), Some(&journal), &memory), Step::Reserve { .. }));
}

/// The half of a batch that was refused needs less than the whole.
#[test]
fn the_next_attempt_replaces_the_reservation_that_this_process_holds() {
    let (journal, mut memory) = to_send();
    memory.reserved = reserved(journal.rev, "9");
    let last = memory.reserved.as_mut().unwrap();
    (last.attempt_key.attempt, last.judged) = (0, 7);
    let replaces = |memory: &Memory| match step(&budgeted(), Some(&journal), memory) {
        Step::Reserve { replaces, .. } => replaces,
        step => panic!("{step:?}"),
    };
    assert_eq!(replaces(&memory), Some(7));
    let other = |edit: fn(&mut ReserveResult)| {
        let mut memory = memory.clone();
        memory.reserved.iter_mut().for_each(edit);
        memory
    };
    assert_eq!(replaces(&other(|known| known.rev += 1)), None, "another process wrote the journal");
    assert_eq!(replaces(&other(|known| known.attempt_key.shard = 5)), None, "it is for another shard");
    let refused = |known: &mut ReserveResult| {
        known.outcome = Err(BudgetWait { message: "m".into(), blocked: None, state: 1 });
    };
    assert_eq!(replaces(&other(refused)), None);
}

#[test]
fn an_earlier_journal_that_was_put_back_goes_on_behind_the_revision_that_the_ledger_knows() {
    let (mut journal, mut memory) = to_send();
    let rev = journal.rev;
    let later = |past, counted_after| Some(LaterRevision { past, counted_after });
    memory.later = later(rev - 1, None);
    assert_eq!(step(&budgeted(), Some(&journal), &memory), reserve("1.5"), "it was read again");
    memory.later = later(rev + 5, None);
    assert_eq!(step(&budgeted(), Some(&journal), &memory), Step::SettleLater);
    assert_eq!(Step::SettleLater.freshness(), Freshness::Now, "on the journal as it is");
    memory.later = later(rev + 5, Some(rev - 1));
    assert_eq!(step(&budgeted(), Some(&journal), &memory), Step::SettleLater, "another one was put back");
    memory.later = later(rev + 5, Some(rev));
    let Step::Swap(next) = step(&budgeted(), Some(&journal), &memory) else { panic!("no swap") };
    assert_eq!(next, Journal { rev: rev + 6, ..journal.clone() }, "nothing else changes");
    assert_eq!(step(&budgeted(), Some(&next), &memory), reserve("1.5"));
    journal.rev = u64::MAX;
    memory.later = later(u64::MAX, Some(u64::MAX));
    assert!(matches!(step(&budgeted(), Some(&journal), &memory), Step::Swap(_)), "no number is too large");
}

/// A person said that there is no batch, which is no proof.
#[test]
fn the_reservation_of_a_batch_that_was_written_off_does_not_end_without_cost() {
    let job = JobView { stop: Some(StopPolicy::Cancel), ..budgeted() };
    for (written_off, free) in [(0, vec![0]), (1, vec![])] {
        let revoked = AttemptState::Revoked { message: "m".into() };
        let mut journal = journal(owner("j", "u"), Some(revoked));
        journal.shards[0].written_off = written_off;
        journal.commit = Some(Commit {
            outcome: Outcome::Cancelled,
            reason: "Cancelled".into(),
            message: "m".into(),
            at: NOW,
            requests: RequestCounts { total: 1, cancelled: 1, ..Default::default() },
            spending: Default::default(),
        });
        let unbilled = Unbilled { shards: free.into_iter().collect(), from: 1 };
        assert_eq!(step(&job, Some(&journal), &memory()), Step::Release { unbilled });
    }
}
