//! The index of a shard: the custom ids and hashes of its requests, a line each.

use tokio::io::AsyncRead;

use super::write::WriteError;
use crate::store::{Folder, IndexEntry, Line, Lines, layout, staged};

pub(super) type Content = Box<dyn AsyncRead + Unpin + Send>;

/// Longest line of an index, in bytes: a custom id of 512 bytes, escaped, and a hash.
pub(super) const INDEX_LINE_LIMIT: usize = 8 << 10;

pub(super) async fn index_lines(folder: &Folder, work_id: &str, index: &str) -> Result<Lines<Content>, WriteError> {
    Ok(Lines::new(index_content(folder, work_id, index).await?, INDEX_LINE_LIMIT))
}

pub(super) async fn index_content(folder: &Folder, work_id: &str, index: &str) -> Result<Content, WriteError> {
    Ok(Box::new(staged::open(folder, &layout::index(work_id, index)).await?))
}

pub(super) async fn next_entry(index: &mut Lines<Content>) -> Result<Option<IndexEntry>, WriteError> {
    match index.next().await? {
        Some(Line::Whole(line)) => serde_json::from_slice(line).map(Some).map_err(corrupt),
        Some(Line::TooLong(size)) => Err(WriteError::Corrupt(format!("a line of an index has {size} bytes"))),
        None => Ok(None),
    }
}

pub(super) fn corrupt(error: serde_json::Error) -> WriteError {
    WriteError::Corrupt(error.to_string())
}
