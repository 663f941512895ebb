//! What separates the fields of a table, where nobody says it.

use super::{Header, Records};
use crate::requests::variable::Variable;

/// Bytes at the start of a table that its layout is told by.
pub const HEAD_BYTES: usize = 256 << 10;
/// What tables are separated by, the most common first.
pub(super) const COMMON: [u8; 4] = [b',', b';', b'\t', b'|'];

/// How a table lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What separates fields.
    pub delimiter: u8,
    /// Bytes of a first line that says so, `sep=;`; 0 where there is none.
    pub preamble: usize,
}

/// The delimiter that a spec names; None for Auto.
///
/// # Errors
/// What can be named.
pub fn delimiter(told: &str) -> Result<Option<u8>, String> {
    match told.as_bytes() {
        b"Auto" => Ok(None),
        br"\t" => Ok(Some(b'\t')),
        [b'"' | b'\r' | b'\n' | b'\0'] => Err(no_delimiter()),
        [byte] if byte.is_ascii() && !byte.is_ascii_alphanumeric() => Ok(Some(*byte)),
        _ => Err(no_delimiter()),
    }
}

fn no_delimiter() -> String {
    "`spec.input.csv.delimiter` is none; write one character, such as `;`, `\\t` for a tab, or Auto".into()
}

/// A delimiter, for an error.
pub(super) fn called(delimiter: u8) -> String {
    match delimiter {
        b'\t' => "tabs".into(),
        byte if byte.is_ascii_graphic() => format!("`{}`", char::from(byte)),
        byte => format!("the byte {byte}"),
    }
}

/// The same, of those within a field.
pub(super) fn called_many(delimiter: u8) -> String {
    if delimiter == b',' { "commas".into() } else { called(delimiter) }
}

impl Layout {
    /// The layout of a table that begins with `head`, its first [`HEAD_BYTES`] or all of it. What has every column that the
    /// template uses with commas, or with what is `told`, is read so; else what has more of them: the template's own columns
    /// are the evidence, so that no table that could be read with commas is ever read otherwise.
    pub async fn of(head: &[u8], told: Option<u8>, variables: &[&Variable]) -> Layout {
        let plain = Layout { delimiter: told.unwrap_or(b','), preamble: 0 };
        let with_plain = columns_found(head, plain.delimiter, variables).await;
        if with_plain == variables.len() {
            return plain;
        }
        if let Some((delimiter, preamble)) = preamble(head) {
            return Layout { delimiter: told.unwrap_or(delimiter), preamble };
        }
        let (mut best, mut most) = (plain, with_plain);
        for delimiter in COMMON.into_iter().filter(|_| told.is_none()) {
            let found = columns_found(head, delimiter, variables).await;
            if found > most {
                (best, most) = (Layout { delimiter, preamble: 0 }, found);
            }
        }
        best
    }
}

/// How many of the variables stand for a column that the header has with this delimiter.
async fn columns_found(head: &[u8], delimiter: u8, variables: &[&Variable]) -> usize {
    let mut records = Records::new(head, HEAD_BYTES, delimiter);
    while let Ok(Some(record)) = records.next().await {
        let Ok(fields) = record.fields else { return 0 };
        if fields.is_blank() && !variables.is_empty() {
            continue;
        }
        return Header::new(&fields, delimiter).map_or(0, |header| header.count(variables));
    }
    0
}

/// What a first line such as `sep=;`, which Excel writes and reads, says; with its length.
fn preamble(head: &[u8]) -> Option<(u8, usize)> {
    let end = memchr::memchr2(b'\n', b'\r', head)?;
    let line = &head[..end];
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    let (key, [delimiter]) = line.split_at_checked(4)? else { return None };
    let length = end + if head[end..].starts_with(b"\r\n") { 2 } else { 1 };
    let is_one = key.eq_ignore_ascii_case(b"sep=") && !delimiter.is_ascii_alphanumeric() && *delimiter != b'"';
    is_one.then_some((*delimiter, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::variable::Of;

    async fn of(head: &str, told: Option<u8>, columns: &[&str]) -> (char, usize) {
        let variables: Vec<Variable> =
            columns.iter().map(|name| Of::Rows.variable(&format!("row['{name}'])")).unwrap().0).collect();
        let layout = Layout::of(head.as_bytes(), told, &variables.iter().collect::<Vec<_>>()).await;
        (char::from(layout.delimiter), layout.preamble)
    }

    /// Case 06-european-excel, and its neighbours.
    #[tokio::test]
    async fn the_columns_of_the_template_tell_the_delimiter() {
        for (head, layout) in [
            ("id,text\n1,a;b\n", (',', 0)),
            ("id;text\n1;a, b\n", (';', 0)),
            ("id\ttext\n", ('\t', 0)),
            ("id|text\n", ('|', 0)),
            ("\"id\";\"text\"\r\n", (';', 0)),
            ("text;price, EUR;id\n", (';', 0)),
            (";;\n\nid;text;\n", (';', 0)),
            ("sep=;\nid;text\n", (';', 6)),
            ("SEP=|\r\nid|text\r\n", ('|', 7)),
            ("\"sep=;\"\rid;text\r", (';', 8)),
            ("sep=\t\nid\ttext\n", ('\t', 6)),
            ("sep=,\nid,text\n", (',', 6)),
            // Nothing has them all: what has more of them makes the better error.
            ("id;txt\n", (';', 0)),
            ("ID;TEXT\n", (',', 0)),
            ("", (',', 0)),
        ] {
            assert_eq!(of(head, None, &["id", "text"]).await, layout, "{head:?}");
        }
    }

    #[tokio::test]
    async fn what_could_be_read_with_commas_is_read_with_commas() {
        for (head, variables) in [
            ("id;text\n1;x\n", &["id;text"][..]),
            ("id;text\n1;x\n", &[]),
            ("sep=;\nid;text\n", &["sep=;"]),
            ("id,a;b\tc\n", &["id"]),
            (";;\nid;text\n", &[]),
        ] {
            assert_eq!(of(head, None, variables).await, (',', 0), "{head:?}");
        }
        let long = format!("{};id\n", "x".repeat(HEAD_BYTES));
        assert_eq!(of(&long[..HEAD_BYTES], None, &["id"]).await, (',', 0), "a header that does not end");
    }

    #[tokio::test]
    async fn what_is_told_is_not_guessed() {
        assert_eq!(of("id,text\n", Some(b';'), &["id"]).await, (';', 0));
        assert_eq!(
            of("sep=|\nid;text\n", Some(b';'), &["id"]).await,
            (';', 6),
            "the line is none of the table all the same"
        );
        for (told, delimiter_) in
            [("Auto", Some(None)), (";", Some(Some(b';'))), ("\t", Some(Some(b'\t'))), (r"\t", Some(Some(b'\t')))]
        {
            assert_eq!(delimiter(told).ok(), delimiter_, "{told:?}");
        }
        for none in ["", "\"", "\n", "a", ";;", "ä", "auto"] {
            assert!(delimiter(none).unwrap_err().contains("write one character"), "{none:?}");
        }
    }
}
