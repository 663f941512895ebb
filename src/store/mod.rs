//! Object storage: folders, immutable files, and documents that change by conditional writes.

mod bucket;
mod cause;
mod checks;
mod config_maps;
mod copies;
mod disk;
mod document;
mod file_content;
mod folder;
mod inputs;
mod keyed_lines;
mod lines;
mod long;
mod memory;
mod s3;
mod shards;
mod sorted;
mod spool;
pub mod staged;
mod token_hints;
mod upload;

pub use bucket::{Backend, Credentials, Place, SecretKey};
pub use cause::StoreCause;
pub use checks::StoreChecks;
pub use config_maps::ConfigMaps;
pub use copies::{LocalCopies, NamespaceCopies};
#[cfg(test)]
pub(crate) use disk::DiskMeter;
pub use disk::DiskUse;
pub use document::{
    ConditionalRead, DOCUMENT_LIMIT, Document, ObjectDocument, SwapError, SwapProof, Version, prove_conditional_writes,
};
pub use file_content::count_requests;
pub use folder::{Folder, ListedObject, ObjectStream};
pub use inputs::{inputs_of_body, inputs_of_line};
pub use keyed_lines::{KEYED_BYTES, KeyedLines, KeyedLinesReader, KeyedLinesWriter, LineKey};
pub use lines::{JOINED_LINES_BYTES, KeptLine, LINE_LIMIT, LINES_BYTES, Line, Lines, SMALL_LINES_BYTES};
pub use long::{HEAVY, LONG, LoadedLine, LongLineTurn, SpooledLine};
pub use memory::{Reservation, reserve};
pub use shards::{IndexEntry, RequestHash, ShardWriter, StagedShard};
pub use sorted::{Sorted, Sorter};
pub use spool::{SMALL_SPOOL_BYTES, SPOOL_BYTES};
pub use staged::{DECODED_BYTES, READER_BYTES};
pub use token_hints::{hints_of_fields, hints_of_line};
pub use upload::{ENCODER_BYTES, UPLOAD_BYTES, Upload};

use copies::BLOCK_BYTES;
use folder::{PART_BYTES, PARTS_AT_A_TIME};

use s3::{NoContentLength, Refusal};

use crate::api::text::clip;
use crate::transport::{Meter, SendError, cause};

/// Reports to the memory limits of the current work that `bytes` more bytes were decompressed.
pub fn unpacked(bytes: u64) {
    Meter::unpacked(bytes);
}

/// Names of objects below an output's folder.
pub mod layout {
    /// The one mutable object of a work.
    pub const JOURNAL: &str = "_batchjob/journal.json";
    /// The manifest. It is written last, so its presence means that the results are complete.
    pub const MANIFEST: &str = "manifest.json";
    /// The mark of a complete folder, as Spark and Hadoop write it.
    pub const SUCCESS: &str = "_SUCCESS";
    /// Answers, in the order of the requests.
    pub const RESULTS: &str = "results.jsonl";
    /// Requests without an answer, with the reason.
    pub const ERRORS: &str = "errors.jsonl";
    /// Requests without an answer, in OpenAI's batch format, ready to be run again.
    pub const UNSUCCESSFUL: &str = "unsuccessful.jsonl";
    /// All requests in OpenAI's batch format, in the order of the input, if the job is to write them.
    pub const REQUESTS: &str = "requests.jsonl";
    /// Returns the names of all result files. Compressed ones have another extension.
    pub fn result_files(with_requests: bool) -> &'static [&'static str] {
        let all = &[RESULTS, ERRORS, UNSUCCESSFUL, REQUESTS];
        if with_requests { all } else { &all[..3] }
    }

    /// Folder of the operator's own objects. Spark, Athena and others ignore names with a leading underscore.
    pub const WORKS: &str = "_batchjob";
    /// Folder of answers that are readable while the job runs, without the `/` at its end.
    pub const PARTIAL: &str = "results.partial";
    /// List of the files in it that are whole. It is written before the first of them and deleted after the last, so whose
    /// it is tells whose they are.
    pub const PARTIAL_INDEX: &str = "results.partial/index.json";

    /// Faults of an input, one JSON line each. It exists only while the last pass over the input found faults.
    pub const REPORT: &str = "_batchjob/report.jsonl";

    /// Folder of a work's staged files.
    pub fn work(work_id: &str) -> String {
        format!("{WORKS}/{work_id}/")
    }

    /// Shard of a work: the bytes that are sent as one batch.
    pub fn shard(work_id: &str, sha256: &str) -> String {
        format!("{}shards/{sha256}.jsonl.zst", work(work_id))
    }

    /// Index of a shard: custom ids and request hashes, one line each. It is named by its own content.
    pub fn index(work_id: &str, sha256: &str) -> String {
        format!("{}shards/{sha256}.index.zst", work(work_id))
    }

    /// Segment of a journal's plan. It is deleted with the staged files.
    pub fn plan_segment(work_id: &str, sha256: &str) -> String {
        format!("{}plan/{sha256}.json", work(work_id))
    }

    /// Segment of settled shards. It stays with the journal.
    pub fn sealed_segment(work_id: &str, sha256: &str) -> String {
        format!("{WORKS}/journal/{work_id}/{sha256}.json")
    }

    /// Object with which a store is tried out, to see whether it checks puts.
    pub fn scratch(work_id: &str) -> String {
        format!("{}checked-put", work(work_id))
    }

    /// Name, below [`PARTIAL`], of the answers of the shard of this index. Compressed ones have another extension.
    pub fn partial(shard: usize) -> String {
        format!("{shard:05}.jsonl")
    }

    /// Name, below [`PARTIAL`], of a page of the list of files.
    pub fn partial_page(page: usize) -> String {
        format!("index-{page:05}.json")
    }

    /// Returns the index of the shard whose answers have this name below [`PARTIAL`].
    pub fn partial_shard(name: &str) -> Option<usize> {
        let (digits, extension) = name.split_at_checked(name.find('.')?)?;
        let shard = digits.parse().ok()?;
        let is_known = [".jsonl", ".jsonl.gz", ".jsonl.zst"].contains(&extension);
        (is_known && digits == format!("{shard:05}")).then_some(shard)
    }

    /// Returns whether a file of this name below [`PARTIAL`], but for [`PARTIAL_INDEX`], is the operator's.
    pub fn is_partial(name: &str) -> bool {
        let page = || name.strip_prefix("index-")?.strip_suffix(".json")?.parse().ok().map(partial_page);
        partial_shard(name).is_some() || page().is_some_and(|page| page == name)
    }

    /// Part: the answers to one attempt. It is named by its content as well, so that two collectors cannot overwrite
    /// each other.
    pub fn part(work_id: &str, attempt_key: &str, sha256: &str) -> String {
        format!("{}parts/{attempt_key}-{}.jsonl.zst", work(work_id), sha256.get(..16).unwrap_or(sha256))
    }
}

/// The reason why storage did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The spec or the Secret cannot be used as it is.
    #[error("{0}")]
    Invalid(String),
    /// The object or the bucket does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Connections to the server are not allowed.
    #[error("{0}")]
    NotAllowed(String),
    /// The credentials were refused.
    #[error("{0}")]
    Denied(String),
    /// The store refused the operation and would refuse it again.
    #[error("{0}")]
    Rejected(String),
    /// The store can never do what is needed, at least as it is addressed. The text names the missing ability, or the
    /// field to set.
    #[error("{0}")]
    Unfit(String),
    /// The object is not the one that was listed or opened.
    #[error("{0}")]
    Changed(String),
    /// An object that is not the work's is in the way.
    #[error("{0}")]
    Conflict(String),
    /// The object does not fit.
    #[error("{0}")]
    TooLarge(String),
    /// The operation may succeed later.
    #[error("{0}")]
    Unavailable(String, #[source] Option<StoreCause>),
    /// The content is not as it was stored.
    #[error("{0}")]
    Corrupt(String),
}

impl StoreError {
    /// Returns the error of an object that is not the one that was listed or opened.
    pub fn changed(uri: &str) -> Self {
        StoreError::Changed(format!("{uri} was replaced or deleted while the input was read; it is read again"))
    }

    /// Returns the typed cause, if there is one.
    pub fn into_cause(self) -> Option<StoreCause> {
        match self {
            StoreError::Unavailable(_, source) => source,
            _ => None,
        }
    }

    /// Returns the error of a store that is busy with another write. S3 answers 409 also if it cannot judge a condition
    /// at the moment (`ConditionalRequestConflict`, `OperationAborted`:
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>), and asks for another try.
    fn busy(uri: &str) -> Self {
        StoreError::Unavailable(format!("{uri}: the store was busy with another write; it is tried again"), None)
    }

    fn denied(place: &str) -> Self {
        StoreError::Denied(format!(
            "access to {place} was denied; check the credentials in the Secret and the bucket's policy"
        ))
    }

    fn of(place: &str, error: object_store::Error) -> Self {
        use object_store::Error as E;
        let error = match error {
            // An error of ours that went through a listing.
            E::Generic { store, source } => match source.downcast::<StoreError>() {
                Ok(error) => return *error,
                Err(source) => E::Generic { store, source },
            },
            error => error,
        };
        if let E::Generic { source, .. } = &error
            && let Some(refused) = source.downcast_ref::<config_maps::ConfigMapError>()
        {
            return match refused {
                config_maps::ConfigMapError::Foreign(why) => StoreError::Conflict(why.clone()),
                config_maps::ConfigMapError::Forbidden(why) => StoreError::Denied(why.clone()),
                config_maps::ConfigMapError::TooLarge(why) => StoreError::TooLarge(why.clone()),
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
        let source = cause::<SendError>(&error).cloned().map(StoreCause::NoResponse);
        match error {
            E::NotFound { .. } => StoreError::NotFound(format!("{place} does not exist")),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => StoreError::denied(place),
            E::InvalidPath { .. } => StoreError::Invalid(format!(
                "{place} holds a key with an empty segment, `.` or `..`, which cannot be read; rename that object"
            )),
            // Callers that set a condition have handled its refusal before.
            E::AlreadyExists { .. } | E::Precondition { .. } => StoreError::busy(place),
            _ => match s3::said(&why) {
                Some(("NoSuchBucket", _)) => StoreError::NotFound(format!("the bucket of {place} does not exist")),
                Some((code, message)) => {
                    StoreError::Unavailable(clip(format!("{place}: {code}: {message}"), 512), source)
                }
                None => StoreError::Unavailable(format!("{place}: {}", clip(why, 512)), source),
            },
        }
    }
}

/// Returns the error of a store that has no room, as ConfigMaps give it.
#[cfg(test)]
pub(crate) fn no_room() -> object_store::Error {
    let source = config_maps::ConfigMapError::TooLarge("there is no room".into());
    object_store::Error::Generic { store: "small", source: source.into() }
}
