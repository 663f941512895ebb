#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::{ScheduledTime, Text};
use crate::schedule::Zone;

/// The time of a start, as a zone's clocks show it.
fn expanded(zone: &str, at: &str, text: &str, kind: Text) -> Result<String, String> {
    ScheduledTime { at: at.parse().unwrap(), zone: &Zone::named(zone).unwrap() }.expand(text, kind)
}

/// The night of 21 November 2026 in Berlin.
fn plain(text: &str) -> Result<String, String> {
    expanded("Europe/Berlin", "2026-11-21T01:30:00Z", text, Text::Plain)
}

#[test]
fn variables_are_the_scheduled_time_in_the_zone_of_the_schedule() {
    for (text, value) in [
        ("$(scheduledTime)", "2026-11-21T02:30:00+01:00"),
        ("s3://b/in/$(scheduledTime:%Y/%m/%d)/x.csv", "s3://b/in/2026/11/21/x.csv"),
        ("$(scheduledTime:%Y/%m/%d:-1d)", "2026/11/20"),
        ("$(scheduledTime:%Y-%m-%d:-21d)..$(scheduledTime:%d)", "2026-10-31..21"),
        ("$(scheduledTime:%H:%M:%S)", "02:30:00"),
        ("$(scheduledTime:%H:%M:+90m)", "04:00"),
        ("$(scheduledTime:-2w)", "2026-11-07T02:30:00+01:00"),
        ("$(scheduledTime:%j %s %G-W%V 100%%)", "325 1795224600 2026-W47 100%"),
        ("none", "none"),
        ("$$(scheduledTime) $5 a$", "$(scheduledTime) $5 a$"),
        ("$$$(scheduledTime:%Y)", "$$(scheduledTime:%Y)"),
    ] {
        assert_eq!(plain(text).as_deref(), Ok(value), "{text}");
    }
}

#[test]
fn a_day_earlier_is_the_day_before_whatever_clocks_did() {
    // 29 March has 23 hours in Berlin: 24 hours before 00:30 on the 30th is 23:30 on the 28th.
    let before = |offset: &str| {
        expanded(
            "Europe/Berlin",
            "2026-03-29T22:30:00Z",
            &format!("$(scheduledTime:%m-%dT%H:%M:{offset})"),
            Text::Plain,
        )
    };
    assert_eq!(before("-1d").unwrap(), "03-29T00:30");
    assert_eq!(before("-24h").unwrap(), "03-28T23:30");
}

#[test]
fn each_kind_of_text_keeps_what_is_for_others() {
    let expanded = |text: &str, kind| expanded("UTC", "2026-11-21T01:30:00Z", text, kind);
    for (kind, text, value) in [
        (Text::OutputUri, "s3://b/$(name)/$(runID)/$(scheduledTime:%Y)/", Ok("s3://b/$(name)/$(runID)/2026/")),
        (Text::Template, "$(row.id) $$(row.id) $(scheduledTime:%d)", Ok("$(row.id) $$(row.id) 21")),
        (Text::Template, "$$(scheduledTime)", Ok("$$(scheduledTime)")),
        (Text::Content, "echo $(date) $$(date) $(", Ok("echo $(date) $$(date) $(")),
        (Text::Content, "$$(scheduledTime) $(scheduledTime:%d)", Ok("$(scheduledTime) 21")),
        (
            Text::Plain,
            "$(name)",
            Err("has the variable `$(name)`; `$(scheduledTime)` is known, and `$$(` is a literal `$(`"),
        ),
        (
            Text::OutputUri,
            "$(uid)",
            Err("has the variable `$(uid)`; `$(scheduledTime)`, `$(namespace)`, `$(name)` and `$(runID)` are known"),
        ),
    ] {
        assert_eq!(expanded(text, kind).as_deref().map_err(String::as_str), value, "{kind:?} {text}");
    }
}

#[test]
fn errors_name_the_variable_and_the_remedy() {
    let texts = [
        "$(scheduledTime:%Q)",
        "$(scheduledTime:%)",
        "$(scheduledTime:)",
        "$(scheduledTime:%Y\"%m)",
        "$(scheduledTime:%Y:-1y)",
        "$(scheduledTime:%Y:-)",
        "$(scheduledTime:%Y:-123456d)",
        "$(scheduledTime:%Y:-1é)",
        "$(scheduledTime:%Y",
        "$(scheduledtime)",
        "$(scheduledTimes)",
    ];
    let errors: Vec<String> = texts.iter().map(|text| plain(text).unwrap_err()).collect();
    insta::assert_snapshot!(errors.join("\n"), @r#"
    has the variable `$(scheduledTime:%Q)` with the conversion `%Q`, which is not known; write one of `%Y`, `%m`, `%d`, `%H`, `%M`, `%S`, `%j` (day of the year), `%G` and `%V` (ISO year and week), `%s` (seconds since 1970) and `%%`
    has the variable `$(scheduledTime:%)` with a `%` at its end; write one of `%Y`, `%m`, `%d`, `%H`, `%M`, `%S`, `%j` (day of the year), `%G` and `%V` (ISO year and week), `%s` (seconds since 1970) and `%%`
    has the variable `$(scheduledTime:)` with an empty format; leave the colon out, or write one of `%Y`, `%m`, `%d`, `%H`, `%M`, `%S`, `%j` (day of the year), `%G` and `%V` (ISO year and week), `%s` (seconds since 1970) and `%%`
    has the variable `$(scheduledTime:%Y"%m)` with `"` in its format; take letters, digits, spaces and `-._/:,=+@~` between the conversions
    has the variable `$(scheduledTime:%Y:-1y)` with the offset `-1y`, which cannot be read; write a number of at most five digits with one of the units s, m, h, d and w, such as `-1d` or `+90m`
    has the variable `$(scheduledTime:%Y:-)` with the offset `-`, which cannot be read; write a number of at most five digits with one of the units s, m, h, d and w, such as `-1d` or `+90m`
    has the variable `$(scheduledTime:%Y:-123456d)` with the offset `-123456d`, which cannot be read; write a number of at most five digits with one of the units s, m, h, d and w, such as `-1d` or `+90m`
    has the variable `$(scheduledTime:%Y:-1é)` with the offset `-1é`, which cannot be read; write a number of at most five digits with one of the units s, m, h, d and w, such as `-1d` or `+90m`
    has a `$(scheduledTime` without its `)`; write `$(scheduledTime)`
    has the variable `$(scheduledtime)`; `$(scheduledTime)` is known, and `$$(` is a literal `$(`
    has the variable `$(scheduledTimes)`; `$(scheduledTime)` is known, and `$$(` is a literal `$(`
    "#);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    /// Whatever a template holds, no text panics, and what the variables become is nothing that JSON would escape.
    #[test]
    fn values_stay_within_their_strings(text in "(\\$|\\(|\\)|:|%|[-+]|1|d|Y|\"|é|scheduledTime|\\$\\(scheduledTime:){0,12}") {
        for kind in [Text::Plain, Text::OutputUri, Text::Template, Text::Content] {
            if let Ok(value) = expanded("UTC", "2026-11-21T01:30:00Z", &text, kind) {
                prop_assert_eq!(value.matches('"').count(), text.matches('"').count());
            }
        }
    }
}

#[test]
fn the_uri_of_an_output_has_no_escape_and_content_is_repeated_to_nobody() {
    let expanded = |text: &str, kind| expanded("UTC", "2026-11-21T01:30:00Z", text, kind).unwrap_err();
    let escape = expanded("s3://b/$$(scheduledTime)/", Text::OutputUri);
    assert_eq!(escape, "has `$$(`, for which the URI of an output has no escape; leave it out");
    for kind in [Text::Template, Text::Content] {
        let error = expanded("$(scheduledTime:- patient Meyer)", kind);
        assert!(error.contains("`$(scheduledTime:…)`") && !error.contains("Meyer"), "{error}");
    }
}
