use proptest::prelude::*;

use super::*;

mod interleavings;

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
    Reservation { namespace, job_uid, amount: usd(amount), day: day(on), rev }
}

const MONDAY: &str = "2026-11-30";
const TUESDAY: &str = "2026-12-01";

#[test]
fn a_batch_is_reserved_while_every_budget_suffices_and_its_cost_takes_the_place_of_the_reservation() {
    let budgets = [budget(BudgetPeriod::Day, "10", true), budget(BudgetPeriod::Month, "15", false)];
    let mut ledger = Ledger::default();
    assert_eq!(ledger.reserve("w/0", wants("a", "8", MONDAY, 1), &budgets), Ok(()));
    let Err(Unreserved::Exceeded(used)) = ledger.reserve("w/1", wants("a", "3", MONDAY, 2), &budgets) else { panic!() };
    assert_eq!((used.namespace.as_deref(), used.reserved, used.left()), (Some("a"), usd("8"), usd("2")));
    let Err(Unreserved::Exceeded(used)) = ledger.reserve("v/0", wants("b", "8", MONDAY, 1), &budgets) else { panic!() };
    assert_eq!((used.namespace.as_deref(), used.left()), (None, usd("7")), "the budget of all");
    assert!(ledger.settle("w/0", 3, Some(usd("1.5")), day(MONDAY)));
    assert_eq!(ledger.reserve("v/0", wants("b", "8", MONDAY, 1), &budgets), Ok(()));
    assert_eq!(ledger.used(&budgets[0], Some("a"), day(MONDAY), None).spent, usd("1.5"));
    assert!(!ledger.settle("w/0", 4, Some(usd("1.5")), day(MONDAY)), "it was settled before");
    assert_eq!(ledger.used(&budgets[1], None, day(MONDAY), None).spent, usd("1.5"));
}

#[test]
fn a_batch_counts_in_the_period_of_its_reservation() {
    let budgets = [budget(BudgetPeriod::Day, "10", false)];
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8", MONDAY, 1), &budgets).unwrap();
    assert_eq!(ledger.reserve("v/0", wants("b", "8", TUESDAY, 1), &budgets), Ok(()), "on another day");
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
    ledger.reserve("w/0", wants("a", "8", MONDAY, 5), &[]).unwrap();
    assert_eq!(ledger.reserve("w/0", wants("a", "1", MONDAY, 4), &[]), Err(Unreserved::Stale));
    assert!(!ledger.settle("w/0", 4, Some(usd("1")), day(MONDAY)) && !ledger.release("w", 4));
    assert_eq!(ledger.open["w/0"].amount, usd("8"));
    assert!(!ledger.release("w2", 9) && ledger.open.contains_key("w/0"));
    assert!(ledger.release("w", 5) && ledger.open.is_empty());
}

/// It would be settled, and counted, once more.
#[test]
fn nothing_is_reserved_on_a_journal_on_which_the_work_was_settled() {
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8", MONDAY, 1), &[]).unwrap();
    assert!(ledger.settle("w/0", 2, None, day(MONDAY)));
    for (key, rev, answer) in
        [("w/0", 1, Err(Unreserved::Stale)), ("w/1", 2, Err(Unreserved::Stale)), ("w/0", 3, Ok(())), ("v/0", 1, Ok(()))]
    {
        assert_eq!(ledger.reserve(key, wants("a", "8", MONDAY, rev), &[]), answer, "{key} at {rev}");
    }
    let many = (0..SETTLED_WORKS + 10).map(|n| format!("work-{n}/0"));
    for key in many {
        ledger.reserve(&key, wants("a", "1", MONDAY, 1), &[]).unwrap();
        ledger.settle(&key, 1, None, day(MONDAY));
    }
    assert_eq!(ledger.settled.len(), SETTLED_WORKS);
}

#[test]
fn the_next_attempt_of_a_shard_takes_the_reservation_of_the_last_one() {
    let budgets = [budget(BudgetPeriod::Day, "10", false)];
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8", MONDAY, 1), &budgets).unwrap();
    for (amount, rev, reserved) in [("9", 3, "9"), ("1", 3, "9"), ("1", 4, "9"), ("9.5", 4, "9.5")] {
        assert_eq!(ledger.reserve("w/0", wants("a", amount, MONDAY, rev), &budgets), Ok(()));
        assert_eq!(ledger.used(&budgets[0], None, day(MONDAY), None).reserved, usd(reserved), "{amount} at {rev}");
    }
}

#[test]
fn jobs_that_are_gone_are_settled_at_what_they_reserved() {
    let mut ledger = Ledger::default();
    ledger.reserve("w/0", wants("a", "8", MONDAY, 1), &[]).unwrap();
    let there = Reservation { job_uid: "v".into(), ..wants("a", "1", MONDAY, 1) };
    ledger.reserve("v/0", there, &[]).unwrap();
    assert_eq!(ledger.sweep(|open| open.job_uid == "u", day(MONDAY)), 1);
    assert_eq!(ledger.open.len(), 1);
    assert_eq!(ledger.spent["a"].of(BudgetPeriod::Day, day(MONDAY)), usd("8"));
}

#[test]
fn a_clock_that_was_wrong_for_a_while_displaces_no_sum_that_counts() {
    let mut ledger = Ledger::default();
    for (rev, on) in (1..).zip(["2026-11-28", "2026-11-29", MONDAY, "2036-01-01", MONDAY, TUESDAY]) {
        ledger.reserve("w/0", wants("a", "1", on, rev), &[]).unwrap();
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
        ledger.reserve(&key, wants(namespace, "1", on, 1), &[]).unwrap();
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
        ledger.reserve(&format!("w/{n}"), wants(&format!("ns-{n}"), amount, MONDAY, 1), &budgets).unwrap();
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
        ledger.reserve(&format!("w/{n}"), wants(namespace, "9", MONDAY, 1), &budgets).unwrap();
    }
    ledger.settle("w/0", 1, Some(usd("4")), day(MONDAY));
    let again = Ledger::from_last_shown(&ledger.uses(&budgets, day(MONDAY), 2), day(MONDAY));
    assert_eq!(again.used(&budgets[0], None, day(MONDAY), None).spent, usd("22"));
    assert_eq!(again.used(&budgets[1], Some("b"), day(MONDAY), None).spent, usd("9"));
    assert_eq!(again.used(&budgets[1], Some("a"), day(MONDAY), None).spent, Usd::ZERO, "it was not among those shown");
}

#[test]
fn a_full_ledger_takes_no_further_batch_and_fits_into_a_config_map_whatever_becomes_of_the_others() {
    let mut ledger = Ledger::default();
    let (long, uid) = ("n".repeat(59), "u".repeat(36));
    let of = |n: usize| Reservation {
        namespace: format!("{long}{:04}", n % 1_000),
        job_uid: uid.clone(),
        amount: usd("0.12345678901234567890123456"),
        day: day(MONDAY),
        rev: u64::MAX / 2,
    };
    let key = |n: usize| shard_key(&"w".repeat(32), n);
    let full = (0..10_000).find(|n| ledger.reserve(&key(*n), of(*n), &[]).is_err()).unwrap();
    assert!(full > 1_000, "{full} batches");
    assert_eq!(ledger.reserve(&key(full), of(full), &[]), Err(Unreserved::Full));
    assert_eq!(ledger.reserve(&key(0), of(0), &[]), Ok(()), "its next attempt");
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
    ledger.reserve("w/0", wants("a", "8.25", MONDAY, 1), &[]).unwrap();
    ledger.reserve("w/1", wants("a", "1", MONDAY, 1), &[]).unwrap();
    ledger.settle("w/1", 1, None, day(MONDAY));
    let text = serde_json::to_string(&ledger).unwrap();
    let written = r#"{"open":{"w/0":{"namespace":"a","jobUID":"u","amountUSD":"8.25","day":"2026-11-30","rev":1}},"spent":{"a":{"days":{"2026-11-30":"1"},"months":{"2026-11-01":"1"}}},"settled":{"w":{"rev":1,"day":"2026-11-30"}}}"#;
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
