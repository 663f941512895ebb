//! The journal's bytes.

use bytes::Bytes;

use crate::lifecycle::Journal;
use crate::store::{DOCUMENT_LIMIT, StoreError};

/// # Errors
/// [`StoreError::TooLarge`] where nobody could read it again, as of a thousand batches whose ids have kilobytes.
pub(super) fn encode(journal: &Journal) -> Result<Bytes, StoreError> {
    let bytes = serde_json::to_vec_pretty(journal).map_err(|e| StoreError::Invalid(e.to_string()))?;
    match bytes.len() as u64 > DOCUMENT_LIMIT {
        true => Err(StoreError::TooLarge(format!(
            "the journal would have {} bytes, and {DOCUMENT_LIMIT} can be read; run the job in parts",
            bytes.len()
        ))),
        false => Ok(bytes.into()),
    }
}

/// # Errors
/// When somebody wrote something else to the journal's name.
pub(super) fn decode(bytes: &[u8]) -> Result<Journal, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| {
        StoreError::Corrupt(format!(
            "_batchjob/journal.json at the destination is not a journal (line {}, column {}); it is not touched, write \
             to another URI",
            e.line(),
            e.column()
        ))
    })
}
