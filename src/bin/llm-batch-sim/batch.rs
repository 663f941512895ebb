//! A batch and the states it goes through.
//!
//! ```text
//! validating ─┬─> failed
//!             └─> in_progress ──> finalizing ─┬─> completed
//!                     │                       └─> expired
//!    └───────────────────┴─> cancelling ──> cancelled
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::endpoint::Endpoint;
use crate::faults::Flaw;
use crate::ids;
use crate::vendor::Vendor;
use crate::wire::{BatchError, BatchErrors, RequestCounts, Tokens, Usage};

/// Where a batch is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Time ran out; what ran is in the result files.
    Expired,
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
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing comes after it.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }
}

/// What somebody asked to be run.
#[derive(Debug, Clone)]
pub struct Order {
    /// The input.
    pub input_file_id: String,
    /// Where every request goes; at Azure the lines say it.
    pub endpoint: Endpoint,
    /// Whose API it came to.
    pub vendor: Vendor,
    /// As it was sent.
    pub completion_window: String,
    /// The same in seconds.
    pub window_seconds: i64,
    /// The creator's notes, told back unchanged.
    pub metadata: Option<BTreeMap<String, String>>,
}

impl Order {
    /// The endpoint as the batch shows it.
    fn path(&self) -> &'static str {
        match self.vendor {
            Vendor::OpenAi => self.endpoint.path(),
            Vendor::Azure => "/chat/completions",
        }
    }
}

/// A batch as the API shows it. The methods are the only way to change its state, and each of
/// them does nothing in a state that it does not lead out of.
#[derive(Debug, Clone, Serialize)]
pub struct Batch {
    /// `batch_…`.
    pub id: String,
    object: &'static str,
    endpoint: &'static str,
    model: Option<String>,
    errors: Option<BatchErrors>,
    input_file_id: String,
    completion_window: String,
    /// Where it is.
    #[serde(skip)]
    pub status: Status,
    #[serde(rename = "status")]
    shown_status: Cow<'static, str>,
    #[serde(skip)]
    flaw: Option<Flaw>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    request_counts: Option<RequestCounts>,
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
    /// A batch that is made now, and what shall be wrong with it.
    pub fn new(id: String, order: Order, flaw: Option<Flaw>) -> Self {
        let created_at = ids::now();
        Self {
            id,
            object: "batch",
            endpoint: order.path(),
            model: None,
            errors: None,
            input_file_id: order.input_file_id,
            completion_window: order.completion_window,
            status: Status::Validating,
            shown_status: Status::Validating.name().into(),
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
            request_counts: (flaw != Some(Flaw::NoCounts {})).then(RequestCounts::default),
            usage: None,
            metadata: order.metadata.filter(|_| flaw != Some(Flaw::MetadataLost {})),
            flaw,
        }
    }

    fn go(&mut self, status: Status) {
        self.status = status;
        self.shown_status = match &self.flaw {
            Some(Flaw::OddState { state }) if status == Status::InProgress => state.clone().into(),
            _ => status.name().into(),
        };
    }

    /// What became of its requests so far.
    pub fn progress(&mut self, counts: RequestCounts) {
        if let Some(told) = &mut self.request_counts {
            *told = counts;
        }
    }

    /// Whether it was made less than this long ago.
    pub fn is_younger(&self, seconds: u32) -> bool {
        ids::now().saturating_sub(self.created_at) < i64::from(seconds)
    }

    /// How many requests it has; 0 until its file was read.
    pub fn requests(&self) -> u64 {
        self.request_counts.map_or(0, |counts| counts.total)
    }

    /// The input file is good: requests run from now on, unless somebody cancelled.
    pub fn start(&mut self, model: &str, total: u64) {
        self.model = Some(model.to_owned());
        self.progress(RequestCounts { total, ..RequestCounts::default() });
        if self.status == Status::Validating {
            self.go(Status::InProgress);
            self.in_progress_at = Some(ids::now());
        }
    }

    /// The input file is bad. A batch that is being cancelled ends as cancelled all the same.
    pub fn refuse(&mut self, error: BatchError) {
        if self.status.is_end() {
            return;
        }
        self.errors = Some(BatchErrors { object: "list", data: vec![error] });
        let now = Some(ids::now());
        if self.status == Status::Cancelling {
            self.go(Status::Cancelled);
            self.cancelled_at = now;
        } else {
            self.go(Status::Failed);
            self.failed_at = now;
        }
    }

    /// Whether the batch may still be cancelled; if so it is, from now on.
    pub fn cancel(&mut self) -> bool {
        match self.status {
            Status::Validating | Status::InProgress => {
                self.go(Status::Cancelling);
                self.cancelling_at = Some(ids::now());
                true
            }
            Status::Cancelling => true,
            _ => false,
        }
    }

    /// Whether it runs on although it is cancelled.
    pub fn ignores_cancel(&self) -> bool {
        self.flaw == Some(Flaw::IgnoreCancel {})
    }

    /// All requests ran that shall. False when somebody cancelled before.
    pub fn finalize(&mut self) -> bool {
        if self.status != Status::InProgress {
            return false;
        }
        self.go(Status::Finalizing);
        self.finalizing_at = Some(ids::now());
        true
    }

    /// The result files are there.
    pub fn end(&mut self, outcome: Outcome) {
        let now = Some(ids::now());
        match self.status {
            Status::Finalizing if matches!(self.flaw, Some(Flaw::Expire { .. })) => {
                self.go(Status::Expired);
                self.expired_at = now;
            }
            Status::Finalizing => {
                self.go(Status::Completed);
                self.completed_at = now;
            }
            Status::Cancelling => {
                self.go(Status::Cancelled);
                self.cancelled_at = now;
            }
            _ => return,
        }
        self.output_file_id = outcome.output_file_id;
        self.error_file_id = outcome.error_file_id;
        self.progress(outcome.counts);
        self.usage = Some(outcome.tokens.into());
    }
}
