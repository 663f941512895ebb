//! The requests of a staged file, counted before it is uploaded.

use std::path::Path;

use futures::StreamExt;
use tokio_util::io::StreamReader;

use super::token_hints::{of_bytes, read};
use super::{Folder, LINE_LIMIT, Line, Lines, StoreError, staged};
use crate::api::{Endpoint, FileContent};

/// Counts the requests of a staged file, whose batch is for this endpoint. A line of another endpoint cannot be read.
///
/// # Errors
/// If the file is not there, or is not the one with this hash.
pub async fn count_requests(
    folder: &Folder,
    (name, sha256): (&str, &str),
    endpoint: Endpoint,
    spool: &Path,
) -> Result<FileContent, StoreError> {
    let staged = staged::verified(folder, name, sha256).await?;
    let mut lines = Lines::new(StreamReader::new(staged.boxed()), LINE_LIMIT).spooling(spool);
    let mut content = FileContent::default();
    while let Some(line) = lines.next().await.map_err(staged::unread)? {
        match line {
            Line::Whole(line) if line.trim_ascii().is_empty() => {}
            Line::Whole(line) => match read(line).filter(|(of, _)| *of == Some(endpoint)) {
                Some((_, body)) => content.add(body.model(), body.hints()),
                None => content.add(None, of_bytes(line.len() as u64)),
            },
            Line::TooLong(bytes) => content.add(None, of_bytes(bytes)),
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::TokenHints;
    use crate::store::{IndexEntry, RequestHash, ShardWriter, StagedShard, layout};

    /// Whoever can write to the bucket can write the file, its index and the journal.
    #[tokio::test]
    async fn the_requests_of_a_file_are_those_that_are_in_it_whatever_is_said_of_them() {
        let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
        let spool = std::env::temp_dir();
        let line = |endpoint: Endpoint, body: &str| {
            format!(r#"{{"custom_id":"a","method":"POST","url":"{}","body":{{{body}}}}}"#, endpoint.path())
        };
        let chat = |body: &str| line(Endpoint::ChatCompletions, body);
        let count = async |lines: &[String]| {
            let mut writer = ShardWriter::new(&folder, "w", &spool, i64::MAX, u64::MAX);
            for (index, line) in (0..).zip(lines) {
                let (custom_id, request_hash) = (format!("{index}"), RequestHash::Blake3(String::new()));
                let entry = IndexEntry { index, custom_id, request_hash };
                writer.push("said", &[line.as_bytes()], 0, TokenHints::default(), &entry).await.unwrap();
            }
            let StagedShard { sha256, .. } = writer.finish().await.unwrap().remove(0);
            let name = layout::shard("w", &sha256);
            let counted = count_requests(&folder, (&name, &sha256), Endpoint::ChatCompletions, &spool).await.unwrap();
            let other = count_requests(&folder, (&name, "other"), Endpoint::ChatCompletions, &spool).await;
            assert!(matches!(other, Err(StoreError::Corrupt(_))), "{other:?}");
            counted
        };
        let cheap = chat(r#""model":"cheap","max_tokens":5,"messages":"xy""#);
        let counted = count(&[cheap.clone(), cheap.clone()]).await;
        let hints = TokenHints {
            text_bytes: 8,
            longest_text_bytes: 4,
            max_output_tokens: 10,
            limited_answers: 2,
            ..TokenHints::default()
        };
        assert_eq!(counted, FileContent { requests: 2, model: Some("cheap".into()), hints });
        for other in [
            chat(r#""model":"dear","max_tokens":5"#),
            chat(r#""model":"cheap","max_tokens":5,"model":"dear""#),
            chat(r#""max_tokens":5"#),
            line(Endpoint::Embeddings, r#""model":"cheap","input":"x""#),
            "no request".into(),
        ] {
            for lines in [[cheap.clone(), other.clone()], [other.clone(), cheap.clone()]] {
                assert_eq!(count(&lines).await.model, None, "{other}");
            }
        }
        let two = chat(r#""model":"cheap","max_tokens":5,"model":"dear""#);
        assert_eq!(count(&[two]).await.model, None, "servers differ in the one that they heed");
        let unread = count(&[cheap, "no request".into()]).await.hints;
        assert_eq!((unread.unlimited_requests, unread.opaque_requests), (1, 1));
    }
}
