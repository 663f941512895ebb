//! Text helpers that every module needs.

use jiff::Timestamp;

/// Cuts `text` to at most `max` bytes at a character boundary. An ellipsis marks the cut.
pub fn clip(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// Returns bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// Returns Unix milliseconds as a time for people, such as `Nov 29 21:40:00 UTC`. It includes the day, since a next try
/// may be tomorrow.
pub fn clock_time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or_default().strftime("%b %d %H:%M:%S UTC").to_string()
}
