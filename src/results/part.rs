//! The lines of a part.

use std::borrow::Cow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use memchr::memmem;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::fs::File;

use super::collect::CollectError;
use super::errors::Tally;
use super::line::{LineOutcome, PartLine, ProviderLine};
use super::repair::{repaired, text, without_lone_surrogates};
use super::scan::{LineKind, LinePlace, QUOTED};
use crate::store::staged::{self, Spool};
use crate::store::{LINE_LIMIT, LONG, LongLineTurn};

/// Most bytes of answers that are read from the spool at a time. A longer one is read alone.
pub(super) const GO_BYTES: usize = 1 << 20;

/// Writes the lines at `places`, and counts the error codes of requests without an answer. `unusable` describes files
/// that could not be fetched.
pub(super) async fn write_part(
    raw: File,
    places: &[LinePlace],
    unusable: &str,
    spool: &Path,
) -> Result<(staged::SpooledFile, Tally), CollectError> {
    let (mut part, mut tally) = (Spool::new(spool).await?, Tally::default());
    let (raw, mut lines) = (Arc::new(raw.into_std().await), vec![]);
    let mut rest = places;
    while !rest.is_empty() {
        let (some, others) = rest.split_at(at_a_time(rest));
        // The turn ends when the entry is on the spool.
        let mut turn = LongLineTurn::default();
        turn.take(some.iter().map(|place| place.len as usize).sum()).await;
        lines = read_lines(&raw, some, lines).await?;
        let mut left = &lines[..];
        for place in some {
            let (line, others) = left.split_at(place.len as usize);
            left = others;
            let entry = part_line(place, line, unusable, &mut tally).map_err(|e| super::collect::local(e.into()))?;
            part.write(&entry).await?;
        }
        if lines.capacity() > LONG {
            lines = vec![];
        }
        rest = others;
    }
    Ok((part.finish().await?, tally))
}

/// Returns how many lines to read at a time. In index order they are spread over the file, and each read runs on
/// another thread.
fn at_a_time(places: &[LinePlace]) -> usize {
    let mut bytes = 0;
    let fits = |place: &&LinePlace| {
        bytes += place.len as usize;
        bytes <= GO_BYTES
    };
    places.iter().take_while(fits).count().max(1)
}

/// Reads lines one after the other into the buffer `lines`.
async fn read_lines(
    raw: &Arc<std::fs::File>,
    places: &[LinePlace],
    mut lines: Vec<u8>,
) -> Result<Vec<u8>, CollectError> {
    let (raw, places) = (raw.clone(), places.iter().map(|p| (p.offset, p.len as usize)).collect::<Vec<_>>());
    let read = tokio::task::spawn_blocking(move || {
        lines.resize(places.iter().map(|(_, len)| len).sum(), 0);
        let mut left = &mut lines[..];
        for (offset, len) in places {
            let (line, others) = left.split_at_mut(len);
            raw.read_exact_at(line, offset)?;
            left = others;
        }
        Ok(lines)
    });
    read.await.map_err(std::io::Error::other).and_then(|read| read).map_err(super::collect::local)
}

/// Returns the line of a part, with its newline.
fn part_line(place: &LinePlace, line: &[u8], unusable: &str, tally: &mut Tally) -> serde_json::Result<Vec<u8>> {
    let line = match place.kind {
        LineKind::Plain => unwrapped(without_lone_surrogates(text(line))),
        LineKind::Repaired => unwrapped(without_lone_surrogates(repaired(&text(line)).into())),
        _ => stand_in(place, &text(line), unusable).into(),
    };
    let raw = serde_json::from_str::<&RawValue>(&line)?;
    if place.ended != LineOutcome::Succeeded {
        tally.add(serde_json::from_str::<ProviderLine>(raw.get())?.code(), place.index);
    }
    let mut entry = serde_json::to_vec(&PartLine { index: place.index, ended: place.ended, line: raw })?;
    entry.push(b'\n');
    Ok(entry)
}

/// Returns a line in place of one that cannot be read, in the form of `errors.jsonl`.
fn stand_in(place: &LinePlace, line: &str, unusable: &str) -> String {
    let unreadable = |message: String| json!({"code": "unreadable_answer", "message": message, "raw_line": line});
    let error = match place.kind {
        LineKind::TooLong(size) => json!({"code": "answer_too_long", "message": format!(
            "the answer has {size} bytes, of which {LINE_LIMIT} are read; the provider keeps it in the batch's output file"
        )}),
        LineKind::Shared => json!({"code": "unreadable_answer", "message":
            "one line of the provider's files names this request and others, and is not JSON; the provider keeps the files"}),
        LineKind::Nameless if !unusable.is_empty() => json!({"code": "unreadable_answer", "message": format!(
            "no line names this request, and not all of the batch's files could be fetched: {unusable}"
        )}),
        LineKind::Nameless if line.is_empty() => json!({"code": "unreadable_answer", "message":
            "no line names this request, and some cannot be read; the provider keeps the files"}),
        LineKind::Nameless => unreadable(
            "no line names this request, and at least one cannot be read; `raw_line` is one of those, and may be another \
             request's; the provider keeps the files"
                .into(),
        ),
        LineKind::Unreadable(size) if size > QUOTED as u64 => unreadable(format!(
            "the line that names this request is not JSON; `raw_line` has {QUOTED} of its {size} bytes, and the provider keeps \
             the files"
        )),
        _ => unreadable("the line that names this request is not JSON; `raw_line` is all of it".into()),
    };
    json!({"error": error}).to_string()
}

/// Returns the line with its `body` as JSON. Some servers (llama-stack, Mistral) return the body as text.
fn unwrapped(line: Cow<'_, str>) -> Cow<'_, str> {
    match may_have_text(&line).then(|| with_body(&line)).flatten() {
        Some(unwrapped) if unwrapped.len() <= LINE_LIMIT => unwrapped.into(),
        _ => line,
    }
}

/// Returns whether a `body` may be a text. Nearly all lines are told apart by this, without parsing them again.
fn may_have_text(line: &str) -> bool {
    static BODY: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\"body\""));
    let after = BODY.find_iter(line.as_bytes()).map(|at| line[at + 6..].trim_start());
    after.filter_map(|rest| rest.strip_prefix(':')).any(|value| value.trim_start().starts_with('"'))
}

#[derive(serde::Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

fn with_body(line: &str) -> Option<String> {
    let parsed: ProviderLine = serde_json::from_str(line).ok()?;
    let body = serde_json::from_str::<Response>(parsed.response?.get()).ok()?.body?;
    let inside: String = body.get().starts_with('"').then(|| serde_json::from_str(body.get()).ok())??;
    let inside = inside.trim();
    if !inside.starts_with(['{', '[']) {
        return None;
    }
    // A JSON line has no line breaks in it.
    let inside = repaired(inside);
    serde_json::from_str::<&RawValue>(&inside).ok()?;
    // Both are slices of the same line.
    let at = (body.get().as_ptr() as usize).checked_sub(line.as_ptr() as usize)?;
    let (before, rest) = (line.get(..at)?, line.get(at + body.get().len()..)?);
    Some([before, &without_lone_surrogates(inside.into()), rest].concat())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt;
    use tokio::io::AsyncReadExt;

    use super::super::collect::download;
    use super::super::scan::scan;
    use super::*;
    use crate::store::Folder;

    const WORK: &str = "0123456789abcdef";

    /// Makes a part of a file. Returns it with the most frequent code and its count.
    async fn part_of(text: String, requests: i64) -> (String, Option<(String, i64)>) {
        let mut raw = staged::scratch(&std::env::temp_dir()).unwrap();
        let ends =
            download(&mut raw, &mut Default::default(), vec![futures::stream::iter([Ok(Bytes::from(text))]).boxed()])
                .await
                .unwrap();
        let asked: Vec<i64> = (0..requests).collect();
        let places = scan(&mut raw, &ends, WORK, &asked, None, &std::env::temp_dir()).await.unwrap().places;
        let (part, tally) = write_part(raw, &places, "", &std::env::temp_dir()).await.unwrap();
        let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
        part.put(&folder, "part", WORK).await.unwrap();
        let mut put = String::new();
        staged::open(&folder, "part").await.unwrap().read_to_string(&mut put).await.unwrap();
        (put, tally.most().first().map(|(summary, _)| (summary.code.clone(), summary.count)))
    }

    #[tokio::test]
    async fn answers_are_put_in_order_in_as_many_goes_as_it_takes() {
        let size = |i: usize| if i == 7 { GO_BYTES + 99 } else { GO_BYTES / 5 + i };
        let line = |i: usize| format!("{{\"custom_id\":\"r{i}-01234567\",\"x\":\"{}\"}}", "x".repeat(size(i)));
        let (put, most) = part_of((0..20).rev().map(|i| line(i) + "\n").collect(), 20).await;
        assert_eq!(most, Some(("unknown".into(), 20)));
        for (i, put) in put.lines().enumerate() {
            assert!(put == format!("{{\"index\":{i},\"ended\":\"failed\",\"line\":{}}}", line(i)), "{i}");
        }
        assert_eq!(put.lines().count(), 20);
    }

    #[tokio::test]
    async fn bodies_become_objects_and_lines_stay_lines() {
        let row =
            |body: &str| format!(r#"{{"custom_id":"r0-01234567","response":{{"status_code":200,"body":{body}}}}}"#);
        let whole = row(r#"{"choices":[{"logprob":null}]}"#);
        for (what, given) in [
            ("an object", whole.clone()),
            ("a number that is none", whole.replace("null", "-Infinity")),
            ("the text of JSON", row(r#""{\"choices\":[{\"logprob\":null}]}""#)),
            ("the text of what Python writes", row(r#""{\"choices\":[{\"logprob\":NaN}]}""#)),
        ] {
            let (put, _) = part_of(given + "\n", 1).await;
            assert_eq!(put, format!("{{\"index\":0,\"ended\":\"succeeded\",\"line\":{whole}}}\n"), "{what}");
        }
        let (put, _) = part_of(row("{\n\"choices\":\r\n[{}]}").replace(':', ":\n"), 1).await;
        assert_eq!(put.lines().count(), 1, "{put}");
        let (put, _) = part_of(row(r#"{"choices":["\ud83d"]}"#), 1).await;
        assert!(put.contains(r#"["\ufffd"]"#), "{put}");
        let (put, most) = part_of("{'custom_id': 'r0-01234567', 'response': \"it's\"}\n".into(), 1).await;
        assert_eq!(most, Some(("unreadable_answer".into(), 1)));
        let line: serde_json::Value = serde_json::from_str(&put).unwrap();
        assert_eq!(line["line"]["error"]["raw_line"], "{'custom_id': 'r0-01234567', 'response': \"it's\"}");
    }
}
