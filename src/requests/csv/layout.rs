//! Detection of the delimiter of a table whose manifest does not name one.

use super::{Header, RowReader};
use crate::requests::variable::Variable;

/// Bytes at the start of a table that its layout is detected from.
pub const HEAD_BYTES: usize = 256 << 10;
/// Usual delimiters, the most common first.
pub(super) const COMMON: [u8; 4] = [b',', b';', b'\t', b'|'];

/// The layout of a table in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The byte between two fields.
    pub delimiter: u8,
    /// Bytes of a first line such as `sep=;`, which names the delimiter; 0 without one.
    pub preamble: usize,
}

/// Returns the delimiter that a spec names; None for Auto.
///
/// # Errors
/// Fails if `told` is not a delimiter, and says which are.
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

/// Names a delimiter, for an error.
pub(super) fn called(delimiter: u8) -> String {
    match delimiter {
        b'\t' => "tabs".into(),
        byte if byte.is_ascii_graphic() => format!("`{}`", char::from(byte)),
        byte => format!("the byte {byte}"),
    }
}

/// Names delimiters within a field, for an error.
pub(super) fn called_many(delimiter: u8) -> String {
    if delimiter == b',' { "commas".into() } else { called(delimiter) }
}

impl Layout {
    /// Detects the layout of a table that begins with `head`: its first [`HEAD_BYTES`], or all of it. The template's
    /// own columns are the evidence. A table that has all of them with commas, or with the delimiter in `told`, is read
    /// that way; otherwise the delimiter with the most of them wins. So a table that can be read with commas is never
    /// read otherwise.
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

/// Counts the variables that stand for a column of the header with this delimiter.
async fn columns_found(head: &[u8], delimiter: u8, variables: &[&Variable]) -> usize {
    let mut records = RowReader::new(head, HEAD_BYTES, delimiter);
    while let Ok(Some(record)) = records.next().await {
        let Ok(fields) = record.fields else { return 0 };
        if fields.is_blank() && !variables.is_empty() {
            continue;
        }
        return Header::new(&fields, delimiter).map_or(0, |header| header.count(variables));
    }
    0
}

/// Returns the delimiter of a first line such as `sep=;`, which Excel writes and reads, with the length of that line.
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
    use crate::requests::variable::ValueSource;

    async fn of(head: &str, told: Option<u8>, columns: &[&str]) -> (char, usize) {
        let variables: Vec<Variable> =
            columns.iter().map(|name| ValueSource::Rows.variable(&format!("row['{name}'])")).unwrap().0).collect();
        let layout = Layout::of(head.as_bytes(), told, &variables.iter().collect::<Vec<_>>()).await;
        (char::from(layout.delimiter), layout.preamble)
    }

    /// Case 06-european-excel and its neighbours.
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
            // No delimiter finds every column: the one that finds more of them makes the better error.
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
