//! Object storage behind a small face: folders, immutable files, and documents that change by conditional writes.

mod bucket;
mod checks;
mod config_maps;
mod copies;
mod document;
mod folder;
mod inputs;
mod lines;
mod memory;
mod s3;
mod shards;
mod sorted;
pub mod staged;
mod upload;

pub use bucket::{Backend, Credentials, Place, SecretKey};
pub use checks::StoreChecks;
pub use config_maps::ConfigMaps;
pub use copies::{Copies, NamespaceCopies};
pub use document::{
    DOCUMENT_LIMIT, Document, Fresh, ObjectDocument, SwapError, Swapped, Version, prove_conditional_writes,
};
pub use folder::{Entry, Folder, Listed};
pub use inputs::{inputs_of_body, inputs_of_line};
pub use lines::{
    HEAVY, Held, JOINED_LINES_BYTES, Kept, LINE_LIMIT, LINES_BYTES, LONG, Line, Lines, Long, SMALL_LINES_BYTES, Turn,
};
pub use memory::{Reservation, reserve};
pub use shards::{IndexEntry, RequestHash, ShardWriter, StagedShard};
pub use sorted::{Sorted, Sorter};
pub use staged::{READER_BYTES, SMALL_SPOOL_BYTES, SPOOL_BYTES};
pub use upload::{ENCODER_BYTES, UPLOAD_BYTES, Upload};

use copies::BLOCK_BYTES;
use folder::{PART_BYTES, PARTS_AT_A_TIME};

use s3::{NoContentLength, Refusal};

use crate::api::text::clip;
use crate::transport::{Meter, SendError, cause};

/// Tells whoever bounds the memory of the work at hand that so many bytes more came out of what is compressed.
pub fn unpacked(bytes: u64) {
    Meter::unpacked(bytes);
}

/// Names below an output's folder.
pub mod layout {
    /// The one mutable object of a work.
    pub const JOURNAL: &str = "_batchjob/journal.json";
    /// Written last; whoever sees it sees whole results.
    pub const MANIFEST: &str = "manifest.json";
    /// Spark's and Hadoop's sign that a folder is whole.
    pub const SUCCESS: &str = "_SUCCESS";
    /// Answers in the order of the requests.
    pub const RESULTS: &str = "results.jsonl";
    /// Requests without an answer, with the reason.
    pub const ERRORS: &str = "errors.jsonl";
    /// The requests without an answer, in OpenAI's batch format, to be run again.
    pub const UNSUCCESSFUL: &str = "unsuccessful.jsonl";
    /// All of them; compressed ones have an extension more.
    pub const RESULT_FILES: [&str; 3] = [RESULTS, ERRORS, UNSUCCESSFUL];

    /// Where the operator keeps its own; names with a leading underscore are ignored by Spark, Athena and friends.
    pub const WORKS: &str = "_batchjob";
    /// What is wrong with an input, a JSON line each; there only while the last pass over it found faults.
    pub const REPORT: &str = "_batchjob/report.jsonl";

    /// Where a work's staged files lie.
    pub fn work(work_id: &str) -> String {
        format!("{WORKS}/{work_id}/")
    }

    /// The bytes that are sent as one batch.
    pub fn shard(work_id: &str, sha256: &str) -> String {
        format!("{}shards/{sha256}.jsonl.zst", work(work_id))
    }

    /// Custom ids and request hashes of a shard, a line each; named by its own content.
    pub fn index(work_id: &str, sha256: &str) -> String {
        format!("{}shards/{sha256}.index.zst", work(work_id))
    }

    /// A segment of a journal's plan; it goes with what was staged.
    pub fn plan_segment(work_id: &str, sha256: &str) -> String {
        format!("{}plan/{sha256}.json", work(work_id))
    }

    /// A segment of settled shards; it stays with the journal.
    pub fn sealed_segment(work_id: &str, sha256: &str) -> String {
        format!("{WORKS}/journal/{work_id}/{sha256}.json")
    }

    /// With what it is tried whether the store checks what is put.
    pub fn scratch(work_id: &str) -> String {
        format!("{}checked-put", work(work_id))
    }

    /// What came back of one attempt. Named by its content too, so that two collectors cannot overwrite each other.
    pub fn part(work_id: &str, slot: &str, sha256: &str) -> String {
        format!("{}parts/{slot}-{}.jsonl.zst", work(work_id), sha256.get(..16).unwrap_or(sha256))
    }
}

/// Why storage did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The spec or the Secret cannot be used as it is.
    #[error("{0}")]
    Invalid(String),
    /// The object, or the bucket, is not there.
    #[error("{0}")]
    NotFound(String),
    /// The server may not be reached.
    #[error("{0}")]
    NotAllowed(String),
    /// The credentials were refused.
    #[error("{0}")]
    Denied(String),
    /// The store refused it and would refuse it again.
    #[error("{0}")]
    Rejected(String),
    /// The store, as it is addressed, can never do what it has to: says what it lacks, or which field to set.
    #[error("{0}")]
    Unfit(String),
    /// It is no longer what it was when the reading began.
    #[error("{0}")]
    Changed(String),
    /// Something foreign is in the way.
    #[error("{0}")]
    Conflict(String),
    /// There is no room for it.
    #[error("{0}")]
    TooLarge(String),
    /// It may work later.
    #[error("{0}")]
    Unavailable(String),
    /// The content is not what was stored.
    #[error("{0}")]
    Corrupt(String),
}

impl StoreError {
    /// An object is no longer the one that was listed or opened.
    pub fn changed(uri: &str) -> Self {
        StoreError::Changed(format!("{uri} was replaced or deleted while the input was read; it is read again"))
    }

    /// S3 answers 409 also where it cannot judge a condition right now (`ConditionalRequestConflict`, `OperationAborted`:
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>), and asks for another try.
    fn busy(uri: &str) -> Self {
        StoreError::Unavailable(format!("{uri}: the store was busy with another write; it is tried again"))
    }

    fn denied(place: &str) -> Self {
        StoreError::Denied(format!(
            "access to {place} was denied; check the credentials in the Secret and the bucket's policy"
        ))
    }

    fn of(place: &str, error: object_store::Error) -> Self {
        use object_store::Error as E;
        if let E::Generic { source, .. } = &error
            && let Some(refused) = source.downcast_ref::<config_maps::Refused>()
        {
            return match refused {
                config_maps::Refused::Foreign(why) => StoreError::Conflict(why.clone()),
                config_maps::Refused::Forbidden(why) => StoreError::Denied(why.clone()),
                config_maps::Refused::TooLarge(why) => StoreError::TooLarge(why.clone()),
            };
        }
        if let Some(refusal) = cause::<Refusal>(&error) {
            return refusal.explain(place);
        }
        if let Some(missing) = cause::<NoContentLength>(&error) {
            return missing.explain(place);
        }
        if let Some(SendError::NotAllowed(why)) = cause(&error) {
            return StoreError::NotAllowed(format!("{place}: {why}"));
        }
        let why = crate::transport::chain(&error);
        match error {
            E::NotFound { .. } => StoreError::NotFound(format!("{place} does not exist")),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => StoreError::denied(place),
            E::InvalidPath { .. } => StoreError::Invalid(format!(
                "{place} holds a key with an empty segment, `.` or `..`, which cannot be read; rename that object"
            )),
            // Who set a condition has dealt with its answer.
            E::AlreadyExists { .. } | E::Precondition { .. } => StoreError::busy(place),
            _ => match s3::said(&why) {
                Some(("NoSuchBucket", _)) => StoreError::NotFound(format!("the bucket of {place} does not exist")),
                Some((code, message)) => StoreError::Unavailable(clip(format!("{place}: {code}: {message}"), 512)),
                None => StoreError::Unavailable(format!("{place}: {}", clip(why, 512))),
            },
        }
    }
}
