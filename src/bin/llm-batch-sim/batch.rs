//! A batch and the states it goes through.
//!
//! ```text
//! validating ─┬─> failed
//!             └─> in_progress ──> finalizing ──> completed
//!    └───────────────────┴─> cancelling ──> cancelled
//! ```

use std::collections::BTreeMap;

use serde::Serialize;

use crate::endpoint::Endpoint;
use crate::ids;
use crate::wire::{BatchError, BatchErrors, RequestCounts, Tokens, Usage};

/// Where a batch is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The input file is being read.
    Validating,
    /// The input file is refused; nothing ran.
    Failed,
    /// Requests run.
    InProgress,
    /// All requests ran, the result files are being made.
    Finalizing,
    /// The result files are there, whatever the answers are.
    Completed,
    /// Somebody asked to stop; what ran is being saved.
    Cancelling,
    /// Stopped; what ran is in the result files.
    Cancelled,
}

impl Status {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What somebody asked to be run.
#[derive(Debug, Clone)]
pub struct Order {
    /// The input.
    pub input_file_id: String,
    /// Where every request goes.
    pub endpoint: Endpoint,
    /// As it was sent.
    pub completion_window: String,
    /// The same in seconds.
    pub window_seconds: i64,
    /// The creator's notes, told back unchanged.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// A batch as the API shows it. The methods are the only way to change its state, and each of
/// them does nothing in a state that it does not lead out of.
#[derive(Debug, Clone, Serialize)]
pub struct Batch {
    /// `batch_…`.
    pub id: String,
    object: &'static str,
    endpoint: Endpoint,
    model: Option<String>,
    errors: Option<BatchErrors>,
    input_file_id: String,
    completion_window: String,
    /// Where it is.
    pub status: Status,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: i64,
    in_progress_at: Option<i64>,
    expires_at: i64,
    finalizing_at: Option<i64>,
    completed_at: Option<i64>,
    failed_at: Option<i64>,
    expired_at: Option<i64>,
    cancelling_at: Option<i64>,
    cancelled_at: Option<i64>,
    /// What became of its requests so far.
    pub request_counts: RequestCounts,
    usage: Option<Usage>,
    metadata: Option<BTreeMap<String, String>>,
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// File of the 2xx rows, if there are any.
    pub output_file_id: Option<String>,
    /// File of the other rows, if there are any.
    pub error_file_id: Option<String>,
    /// What became of the requests.
    pub counts: RequestCounts,
    /// What was used.
    pub tokens: Tokens,
}

impl Batch {
    /// A batch that is made now.
    pub fn new(id: String, order: Order) -> Self {
        let created_at = ids::now();
        Self {
            id,
            object: "batch",
            endpoint: order.endpoint,
            model: None,
            errors: None,
            input_file_id: order.input_file_id,
            completion_window: order.completion_window,
            status: Status::Validating,
            output_file_id: None,
            error_file_id: None,
            created_at,
            in_progress_at: None,
            expires_at: created_at.saturating_add(order.window_seconds),
            finalizing_at: None,
            completed_at: None,
            failed_at: None,
            expired_at: None,
            cancelling_at: None,
            cancelled_at: None,
            request_counts: RequestCounts::default(),
            usage: None,
            metadata: order.metadata,
        }
    }

    /// The input file is good: requests run from now on, unless somebody cancelled.
    pub fn start(&mut self, model: &str, total: u64) {
        self.model = Some(model.to_owned());
        self.request_counts.total = total;
        if self.status == Status::Validating {
            self.status = Status::InProgress;
            self.in_progress_at = Some(ids::now());
        }
    }

    /// The input file is bad. A batch that is being cancelled ends as cancelled all the same.
    pub fn refuse(&mut self, error: BatchError) {
        if matches!(self.status, Status::Failed | Status::Completed | Status::Cancelled) {
            return;
        }
        self.errors = Some(BatchErrors { object: "list", data: vec![error] });
        let now = Some(ids::now());
        if self.status == Status::Cancelling {
            (self.status, self.cancelled_at) = (Status::Cancelled, now);
        } else {
            (self.status, self.failed_at) = (Status::Failed, now);
        }
    }

    /// Whether the batch may still be cancelled; if so it is, from now on.
    pub fn cancel(&mut self) -> bool {
        match self.status {
            Status::Validating | Status::InProgress => {
                self.status = Status::Cancelling;
                self.cancelling_at = Some(ids::now());
                true
            }
            Status::Cancelling => true,
            _ => false,
        }
    }

    /// All requests ran. False when somebody cancelled before.
    pub fn finalize(&mut self) -> bool {
        if self.status != Status::InProgress {
            return false;
        }
        self.status = Status::Finalizing;
        self.finalizing_at = Some(ids::now());
        true
    }

    /// The result files are there.
    pub fn end(&mut self, outcome: Outcome) {
        let now = Some(ids::now());
        match self.status {
            Status::Finalizing => {
                (self.status, self.completed_at) = (Status::Completed, now);
            }
            Status::Cancelling => {
                (self.status, self.cancelled_at) = (Status::Cancelled, now);
            }
            _ => return,
        }
        self.output_file_id = outcome.output_file_id;
        self.error_file_id = outcome.error_file_id;
        self.request_counts = outcome.counts;
        self.usage = Some(outcome.tokens.into());
    }
}
