use proptest::prelude::*;

use super::*;
use crate::api::{BatchUsage, TokenUsage};
use crate::money::{LongRates, Rates};

mod interleavings;
mod room;

fn usd(amount: &str) -> Usd {
    Usd::parse(amount).unwrap()
}

fn day(text: &str) -> Date {
    text.parse().unwrap()
}

fn budget(period: BudgetPeriod, amount: &str, per_namespace: bool) -> Budget {
    Budget { period, max_cost: usd(amount), per_namespace }
}

fn wants(namespace: &str, amount: &str, on: &str, rev: u64) -> Reservation {
    let (namespace, job_uid) = (namespace.into(), "u".into());
    Reservation { namespace, job_uid, amount: usd(amount), day: day(on), rev, terms: Some(Box::new(terms(1))) }
}

/// A dollar for a million tokens of input.
fn terms(requests: i64) -> Terms {
    let rates = Rates { input: usd("1"), ..Rates::default() };
    Terms { requests, rates, long_context: None }
}

/// All was answered, for this amount.
fn billed(amount: &str) -> Billed {
    let input_tokens = (amount.parse::<f64>().unwrap() * 1e6).round() as i64;
    let tokens = TokenUsage { input_tokens, ..TokenUsage::default() };
    Billed { told: i64::MAX, usage: BatchUsage { tokens, ..BatchUsage::default() }, ..Billed::default() }
}

/// No shard was sent.
fn all() -> Unbilled {
    Unbilled::default()
}

const MONDAY: &str = "2026-11-30";
const TUESDAY: &str = "2026-12-01";

#[test]
fn a_batch_is_reserved_while_every_budget_suffices_and_its_cost_takes_the_place_of_the_reservation() {
    let budgets = [budget(BudgetPeriod::Day, "10", true), budget(BudgetPeriod::Month, "15", false)];
    let mut ledger = Ledger::default();
    assert_eq!(ledger.reserve("w/0", wants("a", "8", MONDAY, 1), None, &budgets), Ok(()));
    let Err(Unreserved::Exceeded { used, .. }) = ledger.reserve("w/1", wants("a", "3", MONDAY, 2), None, &budgets)
    else {
        panic!()
    };
    assert_eq!((used.namespace.as_deref(), used.reserved, used.left()), (Some("a"), usd("8"), usd("2")));
    let Err(Unreserved::Exceeded { used, .. }) = ledger.reserve("v/0", wants("b", "8", MONDAY, 1), None, &budgets)
    else {
        panic!()
    };
    assert_eq!((used.namespace.as_deref(), used.left()), (None, usd("7")), "the budget of all");
    assert!(ledger.settle("w/0", 3, Some(&billed("1.5")), day(MONDAY)));
    assert_eq!(ledger.reserve("v/0", wants("b", "8", MONDAY, 1), None, &budgets), Ok(()));
    assert_eq!(ledger.used(&budgets[0], Some("a"), day(MONDAY), None).spent, usd("1.5"));
    assert!(!ledger.settle("w/0", 4, Some(&billed("1.5")), day(MONDAY)), "it was settled before");
    assert_eq!(ledger.used(&budgets[1], None, day(MONDAY), None).spent, usd("1.5"));
}

#[test]
fn a_batch_counts_in_the_period_of_its_reservation() {
    let budgets = [budget(BudgetPeriod::Day, "10", false)];
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8", MONDAY, 1), None, &budgets).unwrap();
    assert_eq!(ledger.reserve("v/0", wants("b", "8", TUESDAY, 1), None, &budgets), Ok(()), "on another day");
    ledger.settle("w/0", 2, None, day(TUESDAY));
    assert_eq!(ledger.used(&budgets[0], None, day(TUESDAY), None).spent, Usd::ZERO);
    assert_eq!(ledger.used(&budgets[0], None, day(MONDAY), None).spent, usd("8"));
    let month = budget(BudgetPeriod::Month, "10", false);
    assert_eq!(ledger.used(&month, None, day(TUESDAY), None).spent, Usd::ZERO, "that of November");
}

/// The next attempt of the shard has another reservation under the same key.
#[test]
fn who_judged_an_older_journal_neither_reserves_settles_nor_releases() {
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8", MONDAY, 5), None, &[]).unwrap();
    assert_eq!(ledger.reserve("w/0", wants("a", "1", MONDAY, 4), None, &[]), Err(Unreserved::Stale { past: 4 }));
    assert!(!ledger.settle("w/0", 4, Some(&billed("1")), day(MONDAY)) && !ledger.release("w", 4, &all(), day(MONDAY)));
    assert_eq!(ledger.open["w/0"].amount, usd("8"));
    assert!(!ledger.release("w2", 9, &all(), day(MONDAY)) && ledger.open.contains_key("w/0"));
    assert!(ledger.release("w", 5, &all(), day(MONDAY)) && ledger.open.is_empty());
}

/// It would be settled, and counted, once more.
#[test]
fn nothing_is_reserved_on_a_journal_on_which_the_work_was_settled() {
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8", MONDAY, 1), None, &[]).unwrap();
    assert!(ledger.settle("w/0", 2, None, day(MONDAY)));
    const STALE: Unreserved = Unreserved::Stale { past: 2 };
    for (key, rev, answer) in [("w/0", 1, Err(STALE)), ("w/1", 2, Err(STALE)), ("w/0", 3, Ok(())), ("v/0", 1, Ok(()))] {
        assert_eq!(ledger.reserve(key, wants("a", "8", MONDAY, rev), None, &[]), answer, "{key} at {rev}");
    }
    let many = (0..SETTLED_WORKS + 10).map(|n| format!("work-{n}/0"));
    for key in many {
        ledger.reserve(&key, wants("a", "1", MONDAY, 1), None, &[]).unwrap();
        ledger.settle(&key, 1, None, day(MONDAY));
    }
    assert_eq!(ledger.settled.len(), SETTLED_WORKS);
}

#[test]
fn the_next_attempt_of_a_shard_takes_the_reservation_of_the_last_one() {
    let budgets = [budget(BudgetPeriod::Day, "10", false)];
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8", MONDAY, 1), None, &budgets).unwrap();
    for (amount, rev, reserved) in [("9", 3, "9"), ("1", 3, "9"), ("1", 4, "9"), ("9.5", 4, "9.5")] {
        assert_eq!(ledger.reserve("w/0", wants("a", amount, MONDAY, rev), None, &budgets), Ok(()));
        assert_eq!(ledger.used(&budgets[0], None, day(MONDAY), None).reserved, usd(reserved), "{amount} at {rev}");
    }
    let lowered = [budget(BudgetPeriod::Day, "5", false)];
    let Err(Unreserved::Exceeded { amount, .. }) = ledger.reserve("w/0", wants("a", "1", MONDAY, 5), None, &lowered)
    else {
        panic!()
    };
    assert_eq!(amount, usd("9.5"), "the amount that was judged");
}

/// The next batch is a half of the last one.
#[test]
fn who_holds_the_reservation_and_wrote_the_journal_since_makes_it_smaller() {
    let mut ledger = Ledger::default();
    let mut reserve = |amount: &str, rev, replaces| {
        ledger.reserve("w/0", wants("a", amount, MONDAY, rev), replaces, &[]).unwrap();
        ledger.open["w/0"].amount
    };
    assert_eq!(reserve("8", 3, None), usd("8"));
    assert_eq!(reserve("4", 3, Some(3)), usd("8"), "another process may have reserved on the same revision");
    assert_eq!(reserve("4", 5, Some(2)), usd("8"), "another process reserved since");
    assert_eq!(reserve("4", 7, Some(5)), usd("4"));
}

#[test]
fn batches_of_other_prices_under_one_reservation_count_in_full() {
    let mut ledger = Ledger::default();
    let mut settled_at = |dear: &str, rev: u64| {
        let of = |requests, input: &str| {
            let rates = Rates { input: usd(input), ..Rates::default() };
            Some(Box::new(Terms { rates, ..terms(requests) }))
        };
        for (rev, terms) in [(rev, of(4, dear)), (rev + 1, of(2, "1"))] {
            ledger.reserve("w/0", Reservation { terms, ..wants("a", "8", MONDAY, rev) }, None, &[]).unwrap();
        }
        let before = ledger.spent.get("a").map_or(Usd::ZERO, |sums| sums.of(BudgetPeriod::Day, day(MONDAY)));
        ledger.settle("w/0", rev + 1, Some(&Billed { told: 2, ..billed("1") }), day(MONDAY));
        ledger.spent["a"].of(BudgetPeriod::Day, day(MONDAY)).saturating_sub(before)
    };
    assert_eq!(settled_at("1", 1), usd("5"), "two of the four requests were not told of");
    assert_eq!(settled_at("2", 3), usd("8"), "either may have been sent");
    ledger.reserve("w/1", Reservation { terms: None, ..wants("a", "3", MONDAY, 5) }, None, &[]).unwrap();
    ledger.settle("w/1", 5, Some(&billed("1")), day(MONDAY));
    assert_eq!(ledger.spent["a"].of(BudgetPeriod::Day, day(MONDAY)), usd("16"), "of an earlier version");
}

/// The provider had no budgets while they ended.
#[test]
fn reservations_whose_batches_nobody_settled_count_in_full_when_their_work_ends() {
    let mut ledger = Ledger::default();
    for shard in 0..4 {
        ledger.reserve(&shard_key("w", shard), wants("a", "1", MONDAY, 1), None, &[]).unwrap();
    }
    ledger.reserve("w/9", wants("a", "1", MONDAY, 8), None, &[]).unwrap();
    let unbilled = Unbilled { shards: [1].into(), from: 3 };
    assert!(ledger.release("w", 7, &unbilled, day(MONDAY)));
    assert_eq!(ledger.open.keys().collect::<Vec<_>>(), ["w/9"], "it was judged on a later journal");
    assert_eq!(ledger.spent["a"].of(BudgetPeriod::Day, day(MONDAY)), usd("2"), "shards 0 and 2");
    assert!(!ledger.release("w", 7, &unbilled, day(MONDAY)));
}

#[test]
fn what_was_reserved_on_revisions_that_were_lost_counts_in_full_and_is_reserved_anew_on_later_ones() {
    let mut ledger = Ledger::default();
    for (shard, rev) in [(0, 2), (1, 5)] {
        ledger.reserve(&shard_key("w", shard), wants("a", "1", MONDAY, rev), None, &[]).unwrap();
    }
    assert_eq!(ledger.reserve("w/1", wants("a", "1", MONDAY, 3), None, &[]), Err(Unreserved::Stale { past: 4 }));
    assert!(ledger.settle_later("w", 3, day(MONDAY)) && !ledger.settle_later("w", 3, day(MONDAY)));
    assert_eq!(ledger.open.keys().collect::<Vec<_>>(), ["w/0"]);
    assert_eq!(ledger.spent["a"].of(BudgetPeriod::Day, day(MONDAY)), usd("1"));
    assert_eq!(ledger.reserve("w/1", wants("a", "1", MONDAY, 5), None, &[]), Err(Unreserved::Stale { past: 5 }));
    assert_eq!(ledger.reserve("w/1", wants("a", "1", MONDAY, 6), None, &[]), Ok(()));
}

#[test]
fn jobs_that_are_gone_are_settled_at_what_they_reserved() {
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8", MONDAY, 1), None, &[]).unwrap();
    let there = Reservation { job_uid: "v".into(), ..wants("a", "1", MONDAY, 1) };
    ledger.reserve("v/0", there, None, &[]).unwrap();
    assert_eq!(ledger.sweep(|open| open.job_uid == "u", day(MONDAY)), 1);
    assert_eq!(ledger.open.len(), 1);
    assert_eq!(ledger.spent["a"].of(BudgetPeriod::Day, day(MONDAY)), usd("8"));
}

#[test]
fn a_clock_that_was_wrong_for_a_while_displaces_no_sum_that_counts() {
    let mut ledger = Ledger::default();
    for (rev, on) in (1..).zip(["2026-11-28", "2026-11-29", MONDAY, "2036-01-01", MONDAY, TUESDAY]) {
        ledger.reserve("w/0", wants("a", "1", on, rev), None, &[]).unwrap();
        ledger.settle("w/0", rev, None, day(on));
    }
    let spent = |period, on: &str| ledger.spent["a"].of(period, day(on));
    assert_eq!(spent(BudgetPeriod::Day, MONDAY), usd("2"));
    assert_eq!(spent(BudgetPeriod::Month, MONDAY), usd("4"));
    assert_eq!(spent(BudgetPeriod::Day, TUESDAY), usd("1"));
    assert!(ledger.spent["a"].days.len() <= KEPT, "{:?}", ledger.spent);
}

#[test]
fn sums_of_past_periods_are_dropped_with_their_namespace() {
    let mut ledger = Ledger::default();
    for (namespace, on) in [("gone", "2026-10-01"), ("here", MONDAY)] {
        let key = shard_key(namespace, 0);
        ledger.reserve(&key, wants(namespace, "1", on, 1), None, &[]).unwrap();
        ledger.settle(&key, 1, None, day(on));
    }
    assert_eq!(ledger.settled.keys().collect::<Vec<_>>(), ["here"]);
    assert_eq!(ledger.spent.keys().collect::<Vec<_>>(), ["here"]);
}

#[test]
fn the_namespaces_that_have_the_least_left_are_shown() {
    let budgets = [budget(BudgetPeriod::Month, "10", true), budget(BudgetPeriod::Day, "100", false)];
    let mut ledger = Ledger::default();
    for (n, amount) in ["1", "7", "3", "9"].into_iter().enumerate() {
        ledger.reserve(&format!("w/{n}"), wants(&format!("ns-{n}"), amount, MONDAY, 1), None, &budgets).unwrap();
    }
    let uses = ledger.uses(&budgets, day(MONDAY), 2);
    let shown: Vec<_> = uses.iter().map(|used| (used.namespace.as_deref(), used.reserved)).collect();
    assert_eq!(shown, [(Some("ns-3"), usd("9")), (Some("ns-1"), usd("7")), (None, usd("20"))]);
}

/// What is in flight cannot be known any more, so that it counts as spent.
#[test]
fn a_ledger_that_was_lost_begins_with_what_was_last_shown() {
    let budgets = [budget(BudgetPeriod::Day, "50", false), budget(BudgetPeriod::Day, "10", true)];
    let mut ledger = Ledger::default();
    for (n, namespace) in ["a", "b", "c"].into_iter().enumerate() {
        ledger.reserve(&format!("w/{n}"), wants(namespace, "9", MONDAY, 1), None, &budgets).unwrap();
    }
    ledger.settle("w/0", 1, Some(&billed("4")), day(MONDAY));
    let again = Ledger::from_last_shown(&ledger.uses(&budgets, day(MONDAY), 2), day(MONDAY));
    assert_eq!(again.used(&budgets[0], None, day(MONDAY), None).spent, usd("22"));
    assert_eq!(again.used(&budgets[1], Some("b"), day(MONDAY), None).spent, usd("9"));
    assert_eq!(again.used(&budgets[1], Some("a"), day(MONDAY), None).spent, Usd::ZERO, "it was not among those shown");
}

#[test]
fn a_full_ledger_takes_no_further_batch_and_fits_into_a_config_map_whatever_becomes_of_the_others() {
    let mut ledger = Ledger::default();
    let (name, uid) = ("n".repeat(59), "u".repeat(36));
    let [input, cached_input, output] = [usd("999999.12345678"); 3];
    let rates = Rates { input, cached_input, output };
    let long_context = Some(LongRates { above_input_tokens: 1_000_000_000, rates });
    let long = Terms { requests: 1_000_000, rates, long_context };
    let of = |n: usize| Reservation {
        namespace: format!("{name}{:04}", n % 1_000),
        job_uid: uid.clone(),
        amount: usd("0.12345678901234567890123456"),
        day: day(MONDAY),
        rev: u64::MAX / 2,
        terms: Some(Box::new(long)),
    };
    let key = |n: usize| shard_key(&"w".repeat(32), n);
    let full = (0..10_000).find(|n| ledger.reserve(&key(*n), of(*n), None, &[]).is_err()).unwrap();
    assert!(full > 800, "{full} batches");
    assert_eq!(ledger.reserve(&key(full), of(full), None, &[]), Err(Unreserved::Full));
    assert_eq!(ledger.reserve(&key(0), of(0), None, &[]), Ok(()), "its next attempt");
    let bytes = |ledger: &Ledger| serde_json::to_vec(ledger).unwrap().len();
    assert!(bytes(&ledger) < 1_000_000, "{}", bytes(&ledger));
    for n in 0..full {
        ledger.settle(&key(n), u64::MAX, None, day(MONDAY));
    }
    assert!(bytes(&ledger) < 1_000_000, "{}", bytes(&ledger));
}

#[test]
fn a_ledger_is_read_as_it_was_written() {
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8.25", MONDAY, 1), None, &[]).unwrap();
    ledger.reserve("w/1", wants("a", "1", MONDAY, 1), None, &[]).unwrap();
    ledger.settle("w/1", 1, None, day(MONDAY));
    let text = serde_json::to_string(&ledger).unwrap();
    let written = r#"{"open":{"w/0":{"namespace":"a","jobUID":"u","amountUSD":"8.25","day":"2026-11-30","rev":1,"terms":{"requests":1,"rates":{"input":"1","cachedInput":"0","output":"0"}}}},"spent":{"a":{"days":{"2026-11-30":"1"},"months":{"2026-11-01":"1"}}},"settled":{"w":{"rev":1,"day":"2026-11-30"}}}"#;
    assert_eq!(text, written);
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
}

#[test]
fn periods_end_at_midnight_in_utc() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond();
    let now = at("2026-11-30T23:59:59Z");
    assert_eq!(day_of(now), day(MONDAY));
    assert_eq!(period_end(BudgetPeriod::Day, now), at("2026-12-01T00:00:00Z"));
    assert_eq!(period_end(BudgetPeriod::Month, at("2026-12-31T00:00:00Z")), at("2027-01-01T00:00:00Z"));
}
