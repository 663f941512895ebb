//! `@every 1h30m`: starts at equal distances, as Go writes durations.

/// Nanoseconds of each unit of Go's durations.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];
const SECOND: u64 = 1_000_000_000;

/// Reads a duration such as `1h30m` as Go's `time.ParseDuration` does, and returns it in whole seconds, rounded down; None if
/// it is none.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if unsigned == "0" {
        return Some(0);
    }
    let (mut total, mut rest) = (0u64, unsigned);
    // One with nothing behind its sign is none.
    let mut first = true;
    while first || !rest.is_empty() {
        let (nanoseconds, after) = term(rest)?;
        // 2^63 nanoseconds are too many, but for a negative duration.
        total = total.checked_add(nanoseconds).filter(|total| *total <= 1 << 63)?;
        (rest, first) = (after, false);
    }
    if negative {
        return Some(-((total / SECOND) as i64));
    }
    (total < 1 << 63).then_some((total / SECOND) as i64)
}

/// Reads a number with its unit, and returns it in nanoseconds with the text behind it.
fn term(text: &str) -> Option<(u64, &str)> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, mut rest) = text.split_at(digits(text));
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        (fraction, rest) = after.split_at(digits(after));
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (unit, after) = rest.split_at(rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len()));
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let whole = whole.checked_mul(*scale).filter(|total| *total <= 1 << 63)?;
    let part = format!("0.{fraction}0").parse::<f64>().unwrap_or_default() * *scale as f64;
    let total = whole.checked_add(part as u64).filter(|total| *total <= 1 << 63)?;
    Some((total, after))
}
