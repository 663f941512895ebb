//! Answers of earlier jobs that are reused: read out of their result sets, and staged as parts.

use std::borrow::Cow;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::collect::{CollectError, put_surely};
use super::ending::{is_nothing, value_of};
use super::index::{corrupt, index_lines, next_entry};
use super::line::{LineOutcome, PartLine};
use super::set::{ResultSet, read_error};
use super::settled::Part;
use super::write::WriteError;
use crate::api::WorkHashVersion;
use crate::store::staged::Spool;
use crate::store::{
    Folder, KeyedLines, KeyedLinesWriter, LINE_LIMIT, Line, LineKey, RequestHash, StagedShard, StoreError, layout,
};

/// A staged shard whose answers are those of earlier jobs.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct ReusedShard {
    /// Its requests.
    pub shard: StagedShard,
    /// Its answers.
    pub part: Part,
}

/// The answers of a result set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReuseCounts {
    /// Answers that can be found by the hash of their request.
    pub answers: i64,
    /// Answers whose request was hashed in another version.
    pub incomparable: i64,
}

/// A line of `results.jsonl`, as far as it is reused.
#[derive(Deserialize)]
struct AnswerLine<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request_sha256: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    request_blake3: Option<Cow<'a, str>>,
}

/// An answer as a part has it.
#[derive(Serialize)]
struct Answer<'a> {
    id: Option<&'a RawValue>,
    response: &'a RawValue,
}

/// Adds the answers of a result set to `answers`, by the hash of their request in `version`. Requests without an answer are in
/// other files of the set.
///
/// # Errors
/// [`StoreError::Corrupt`] if the set is not as its manifest says, so that none of it may be used.
pub async fn add_answers(
    set: &ResultSet,
    version: WorkHashVersion,
    answers: &mut KeyedLinesWriter,
    spool: &Path,
) -> Result<ReuseCounts, StoreError> {
    let (mut lines, mut counts, mut number) = (set.lines(layout::RESULTS, spool), ReuseCounts::default(), 0);
    let faulty = |number: i64, what: &str| {
        let uri = set.uri();
        StoreError::Corrupt(format!(
            "line {number} of the {} of {uri} {what}, so nothing of it is reused",
            layout::RESULTS
        ))
    };
    while let Some(line) = lines.next().await.map_err(read_error)? {
        number += 1;
        let Line::Whole(line) = line else { return Err(faulty(number, "is longer than any answer")) };
        let line: AnswerLine = serde_json::from_slice(line).map_err(|_| faulty(number, "is no line of results"))?;
        // Some servers write an empty error beside an answer.
        let is_error = line.error.is_some_and(|error| !is_nothing(&value_of(error)));
        let Some(response) = line.response.filter(|_| !is_error) else { return Err(faulty(number, "is no answer")) };
        let hash = match version {
            WorkHashVersion::V1 => &line.request_sha256,
            WorkHashVersion::V2 => &line.request_blake3,
        };
        let Some(hash) = hash else {
            counts.incomparable += 1;
            continue;
        };
        let key = key_of(hash).ok_or_else(|| faulty(number, "names its request by no hash"))?;
        let answer =
            serde_json::to_vec(&Answer { id: line.id, response }).map_err(|_| faulty(number, "is no answer"))?;
        if answer.len() > LINE_LIMIT {
            return Err(faulty(number, "is longer than any answer"));
        }
        answers.push(key, &answer).await?;
        counts.answers += 1;
    }
    Ok(counts)
}

/// Reads a hash in hex.
fn key_of(hex: &str) -> Option<LineKey> {
    let mut key = LineKey::default();
    if hex.len() != 2 * key.len() {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(key)
}

/// Puts the part of a staged shard whose requests all have an answer in `answers`.
///
/// # Errors
/// It can be tried again, since parts are named by their content.
pub async fn write_reused(
    folder: &Folder,
    work_id: &str,
    shard: StagedShard,
    answers: &KeyedLines,
    spool: &Path,
) -> Result<ReusedShard, WriteError> {
    let lost = || WriteError::Corrupt("a request whose answer was found has none".into());
    let mut index = index_lines(folder, work_id, &shard.index_sha256).await?;
    let (mut part, mut answers) = (Spool::new(spool).await?, answers.reader());
    while let Some(entry) = next_entry(&mut index).await? {
        let (RequestHash::Sha256(hash) | RequestHash::Blake3(hash)) = &entry.request_hash;
        let answer = answers.line(&key_of(hash).ok_or_else(lost)?).await?.ok_or_else(lost)?;
        let line: &RawValue = serde_json::from_slice(&answer).map_err(corrupt)?;
        let line = PartLine { index: entry.index, ended: LineOutcome::Succeeded, line };
        let mut line = serde_json::to_vec(&line).map_err(corrupt)?;
        line.push(b'\n');
        part.write(&line).await?;
    }
    let part = part.finish().await?;
    let sha256 = part.sha256.clone();
    let name = layout::part(work_id, &format!("reused-{}", shard.first), &sha256);
    put_surely(folder, part, &name, work_id).await.map_err(|error| match error {
        CollectError::Store(error) => WriteError::Store(error),
        CollectError::Download(why) => WriteError::Corrupt(why),
    })?;
    Ok(ReusedShard { shard, part: Part { name, sha256 } })
}

#[cfg(test)]
mod tests;
