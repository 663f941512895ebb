//! Messages for incoming webhooks of Slack: a line of text for notifications, and blocks for the channel.
//!
//! Escapes: <https://docs.slack.dev/messaging/formatting-message-text#escaping>. Limits: 150 characters in a header, 3,000 in the text
//! of a section, 2,000 in a field, 10 fields in a section (<https://docs.slack.dev/reference/block-kit/blocks>).

use serde_json::{Value, json};

use super::Notice;
use crate::api::text::clip;
use crate::api::{NotificationEvent, Outcome, RequestCounts};
use crate::money::for_people;

/// Media type of the messages.
pub(super) const CONTENT_TYPE: &str = "application/json";

/// Maximum length of a header, in bytes. Slack counts characters, which are never more.
const HEADER_LIMIT: usize = 150;
/// Maximum length of the text of a section, in bytes.
const SECTION_LIMIT: usize = 3_000;
/// Maximum length of a field, in bytes.
const FIELD_LIMIT: usize = 2_000;
/// Maximum length of the line of text, in bytes.
const LINE_LIMIT: usize = 1_000;

/// Returns the body of a message.
///
/// # Errors
/// Never for any notice that can be made.
pub(super) fn body(notice: &Notice) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&message(notice))
}

fn message(notice: &Notice) -> Value {
    let headline = headline(notice);
    let requests = notice.requests.as_ref().map(counts);
    let tokens = notice.usage.as_ref().map(|usage| for_people::tokens(&usage.tokens));
    let cost = notice.cost.as_ref().and_then(for_people::cost);
    let duration = notice.duration_seconds().map(duration);
    let mut line = format!("{headline} ({})", notice.namespace);
    for more in [&requests, &cost, &duration].into_iter().flatten() {
        line += &format!(" · {more}");
    }
    let mut blocks =
        vec![json!({"type": "header", "text": {"type": "plain_text", "text": clip(headline, HEADER_LIMIT)}})];
    if !notice.message.is_empty() {
        blocks.push(section(&escaped(&notice.message, SECTION_LIMIT)));
    }
    let fields = [
        ("Namespace", Some(notice.namespace.clone())),
        ("Reason", Some(notice.reason.clone())),
        ("Requests", requests),
        ("Usage", tokens),
        ("Cost", cost),
        ("Duration", duration),
        ("Provider", Some(notice.provider.name.clone())),
        ("Model", notice.model.clone()),
    ];
    let fields = fields.into_iter().filter_map(|(label, value)| Some((label, value.filter(|v| !v.is_empty())?)));
    let fields: Vec<Value> = fields.map(|(label, value)| field(label, &value)).collect();
    blocks.push(json!({"type": "section", "fields": fields}));
    if let Some(results) = &notice.results {
        let errors = results.errors_uri.as_deref().map(|uri| ("Without an answer", uri));
        let places = [Some(("Results", results.uri.as_str())), errors];
        let lines: Vec<String> = places
            .into_iter()
            .flatten()
            .map(|(label, uri)| format!("*{label}*\n{}", code(uri, SECTION_LIMIT / 2 - 40)))
            .collect();
        blocks.push(section(&lines.join("\n")));
    }
    json!({"text": escaped(&line, LINE_LIMIT), "blocks": blocks})
}

fn headline(notice: &Notice) -> String {
    let name = &notice.name;
    match (notice.event, notice.outcome) {
        (NotificationEvent::Started, _) => format!("▶️ {name} has started"),
        (NotificationEvent::Complete, Some(Outcome::PartiallySucceeded)) => {
            format!("⚠️ {name} is complete, but some requests have no answer")
        }
        (NotificationEvent::Complete, _) => format!("✅ {name} is complete"),
        (NotificationEvent::Failed, Some(Outcome::Cancelled)) => format!("⏹️ {name} was cancelled"),
        (NotificationEvent::Failed, _) => format!("❌ {name} failed"),
        (NotificationEvent::Held, _) => format!("✋ {name} waits for your answer"),
        (NotificationEvent::Stalled, _) => format!("🛑 {name} is stalled"),
    }
}

/// Returns counts such as `9,968 of 10,000 answered, 32 failed`.
fn counts(counts: &RequestCounts) -> String {
    let RequestCounts { total, succeeded, reused, failed, expired, cancelled, missing, resent } = *counts;
    let others = [
        (reused, "reused"),
        (failed, "failed"),
        (expired, "expired"),
        (cancelled, "cancelled"),
        (missing, "missing"),
        (resent, "sent again"),
    ];
    let mut text = format!("{} of {} answered", thousands(succeeded), thousands(total));
    for (count, word) in others.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {} {word}", thousands(count));
    }
    text
}

/// Returns a number with commas, such as `10,000`.
fn thousands(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && digit.is_ascii_digit() && (digits.len() - i).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a duration in its two largest units, such as `1 h 23 min`.
fn duration(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Returns a section. With `verbatim`, Slack makes no links and no mentions of text that looks like one.
fn section(mrkdwn: &str) -> Value {
    json!({"type": "section", "text": {"type": "mrkdwn", "text": mrkdwn, "verbatim": true}})
}

fn field(label: &str, value: &str) -> Value {
    json!({"type": "mrkdwn", "text": format!("*{label}*\n{}", code(value, FIELD_LIMIT - 40)), "verbatim": true})
}

/// Returns a value as code, so that nothing in it is taken for a format; of at most `limit` + 2 bytes.
fn code(value: &str, limit: usize) -> String {
    format!("`{}`", escaped(&value.replace(['`', '\n', '\r'], "'"), limit))
}

/// Escapes the three characters that Slack reads as markup, and cuts the text to at most `limit` bytes, never within an
/// escape.
fn escaped(text: &str, limit: usize) -> String {
    let ellipsis = "…".len();
    let mut escaped = String::new();
    let mut fits = 0;
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            c => escaped.push(c),
        }
        if escaped.len() > limit {
            escaped.truncate(fits);
            return escaped + "…";
        }
        if escaped.len() + ellipsis <= limit {
            fits = escaped.len();
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::notify::samples;

    /// Returns a message as a channel shows it, roughly: the line, and the texts of the blocks.
    fn shown(notice: &Notice) -> String {
        let message = message(notice);
        let texts = texts(&message["blocks"]).join("\n\n");
        format!("{}\n---\n{texts}\n", message["text"].as_str().unwrap())
    }

    fn texts(value: &Value) -> Vec<&str> {
        match value {
            Value::Array(list) => list.iter().flat_map(texts).collect(),
            Value::Object(object) => object
                .iter()
                .flat_map(|(key, value)| match (key.as_str(), value) {
                    ("text", Value::String(text)) => vec![text.as_str()],
                    (_, value) => texts(value),
                })
                .collect(),
            _ => vec![],
        }
    }

    #[test]
    fn people_read_what_became_of_a_job_and_what_to_do() {
        insta::assert_snapshot!(samples::all().iter().map(shown).collect::<Vec<_>>().join("\n==========\n\n"));
    }

    #[test]
    fn the_documented_message_is_the_one_that_is_sent() {
        let page = include_str!("../../docs/notifications.md");
        let message = serde_json::to_string_pretty(&message(&samples::complete())).unwrap();
        assert!(page.contains(&format!("```json\n{message}\n```")), "docs/notifications.md lacks\n{message}");
    }

    #[test]
    fn a_cancelled_job_is_not_said_to_have_failed() {
        let cancelled = Notice { outcome: Some(Outcome::Cancelled), ..samples::failed() };
        assert!(shown(&cancelled).starts_with("⏹️ reviews-csv was cancelled (shop)"));
    }

    #[test]
    fn what_slack_would_read_as_a_mention_a_link_or_a_format_is_text() {
        let message = "<!channel> <https://evil.example|here> & `x".to_string();
        let notice = Notice { message, model: Some("a`<@U1>\n*b*".into()), ..samples::complete() };
        let shown = shown(&notice);
        assert!(shown.contains("&lt;!channel&gt; &lt;https://evil.example|here&gt; &amp; `x"), "{shown}");
        assert!(shown.contains("`a'&lt;@U1&gt;'*b*`"), "{shown}");
        for mrkdwn in super::message(&notice)["blocks"].as_array().unwrap().iter().skip(1) {
            let of = |text: &Value| text["verbatim"] == true;
            assert!(of(&mrkdwn["text"]) || mrkdwn["fields"].as_array().unwrap().iter().all(of), "{mrkdwn}");
        }
    }

    #[test]
    fn numbers_and_durations_are_written_for_people() {
        let numbers = [0, 7, 999, 1_000, 12_345, 1_000_000, -1_000, -100].map(thousands);
        assert_eq!(numbers, ["0", "7", "999", "1,000", "12,345", "1,000,000", "-1,000", "-100"]);
        let durations = [0, 59, 60, 3_599, 3_600, 5_025, 86_400, 200_000].map(duration);
        assert_eq!(
            durations,
            ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "1 h 23 min", "1 d 0 h", "2 d 7 h"]
        );
    }

    /// Text of the characters that are escaped, cut or longer than a byte.
    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec!["<", ">", "&", "a", "ß", "😀", "`", "\n", "longer words "]),
            0..4_000,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_text_is_longer_than_slack_takes_and_no_escape_is_cut(long in text(), limit in 3usize..40) {
            let results = crate::api::Results { uri: long.clone(), errors_uri: Some(long.clone()), ..Default::default() };
            let notice = Notice {
                message: long.clone(),
                name: long.clone(),
                model: Some(long.clone()),
                results: Some(results),
                ..samples::complete()
            };
            let message = message(&notice);
            let blocks = message["blocks"].as_array().unwrap();
            let length = |value: &Value| value.as_str().unwrap().chars().count();
            prop_assert!(length(&message["text"]) <= 4_000 && length(&blocks[0]["text"]["text"]) <= 150);
            for block in &blocks[1..] {
                prop_assert!(block["text"].is_null() || (1..=3_000).contains(&length(&block["text"]["text"])));
                for field in block["fields"].as_array().into_iter().flatten() {
                    prop_assert!(length(&field["text"]) <= 2_000);
                }
            }
            let escaped = escaped(&long, limit);
            prop_assert!(escaped.len() <= limit);
            let plain = escaped.replace("&lt;", "").replace("&gt;", "").replace("&amp;", "");
            prop_assert!(!plain.contains(['&', '<', '>']), "{escaped}");
        }
    }
}
