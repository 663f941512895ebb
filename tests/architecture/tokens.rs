//! The tokens of a source, without comments.

/// A word, `::` or any other single character; a literal is `"`.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub line: usize,
    pub text: &'a str,
    /// Of a literal, all of it.
    pub literal: &'a str,
}

pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let (mut tokens, mut rest, mut line) = (vec![], source, 1);
    while let Some(first) = rest.chars().next() {
        let (length, text) = match first {
            _ if first.is_whitespace() => (first.len_utf8(), None),
            _ if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), None),
            _ if rest.starts_with("/*") => (block_comment(rest), None),
            _ if let Some(length) = string(rest) => (length, Some("\"")),
            '\'' => (quoted(rest), Some("\"")),
            _ if is_word(&rest[..first.len_utf8()]) => {
                let from = if rest.starts_with("r#") { 2 } else { 0 };
                let length = rest[from..].find(|c: char| !is_word_char(c)).map_or(rest.len(), |n| n + from);
                (length, Some(&rest[from..length]))
            }
            _ if rest.starts_with("::") => (2, Some("::")),
            _ => (first.len_utf8(), Some(&rest[..first.len_utf8()])),
        };
        let literal = if text == Some("\"") { &rest[..length] } else { "" };
        tokens.extend(text.map(|text| Token { line, text, literal }));
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

pub fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_word_char)
}

fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

/// Length of the string literal that `text` starts with.
fn string(text: &str) -> Option<usize> {
    let marked = text.trim_start_matches(['b', 'c']);
    let raw = marked.strip_prefix('r').map(|rest| rest.trim_start_matches('#')).filter(|rest| rest.starts_with('"'));
    if let Some(body) = raw {
        let hashes = marked.len() - body.len() - 1;
        let end = format!("\"{}", "#".repeat(hashes));
        let start = text.len() - body.len() + 1;
        return Some(text[start..].find(&end).map_or(text.len(), |n| start + n + end.len()));
    }
    let start = text.len() - marked.strip_prefix('"')?.len();
    Some(start + unescaped(&text[start..], '"'))
}

/// Length of the character literal or lifetime that `text` starts with.
fn quoted(text: &str) -> usize {
    let mut chars = text[1..].chars();
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => 1 + unescaped(&text[1..], '\''),
        _ => 1 + text[1..].find(|c: char| !is_word_char(c)).unwrap_or(text.len() - 1),
    }
}

/// Length of `text` up to and with the first `quote` that no backslash precedes.
fn unescaped(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}
