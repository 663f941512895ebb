//! The header `Retry-After`.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// The longest time that a server may ask for.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Returns the time for which a server asks not to be called; at most a day. A server may write it in seconds, or as a date, which
/// counts from the `Date` of the same answer, so that its clock may be off.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let asked = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let sent = date(headers, DATE).or_else(|| Timestamp::try_from(SystemTime::now()).ok())?;
    let seconds = date(headers, RETRY_AFTER)?.as_second().saturating_sub(sent.as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LONGEST))
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<Timestamp> {
    let text = headers.get(name)?.to_str().ok()?;
    rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(retry_after: &str, date: Option<&str>) -> Option<u64> {
        let named = [Some((RETRY_AFTER, retry_after)), date.map(|date| (DATE, date))];
        let headers = named.into_iter().flatten().map(|(name, value)| (name, value.parse().unwrap())).collect();
        super::retry_after(&headers).map(|after| after.as_secs())
    }

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let sent = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        for (retry_after, date, wanted) in [
            ("120", None, Some(120)),
            (" 0 ", None, Some(0)),
            ("99999999999", None, Some(86_400)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", sent, Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", sent, Some(0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", sent, Some(0)),
            ("Sun, 06 Nov 2044 08:00:00 GMT", sent, Some(86_400)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None, Some(0)),
            ("-5", None, None),
            ("1.5", None, None),
            ("soon", sent, None),
            ("", None, None),
        ] {
            assert_eq!(asked(retry_after, date), wanted, "{retry_after}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
