//! What shall go wrong, where, and how many times.
//!
//! A new kind of fault is a new [`Wire`] or [`Flaw`] and a line where it is carried out.

mod wish;

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::app::lock;

pub use wish::{FaultsFileError, load};

/// Something that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// `POST /v1/files`.
    Upload,
    /// `GET /v1/files/{id}`.
    GetFile,
    /// `GET /v1/files`.
    ListFiles,
    /// `GET /v1/files/{id}/content`.
    Content,
    /// `DELETE /v1/files/{id}`.
    DeleteFile,
    /// `POST /v1/batches`.
    CreateBatch,
    /// `GET /v1/batches/{id}`.
    GetBatch,
    /// `GET /v1/batches`.
    ListBatches,
    /// `POST /v1/batches/{id}/cancel`.
    CancelBatch,
    /// Not a request: the next batch that is created.
    Batch,
}

impl Point {
    /// As faults and counts name it.
    pub fn name(self) -> &'static str {
        match self {
            Point::Upload => "upload",
            Point::GetFile => "get_file",
            Point::ListFiles => "list_files",
            Point::Content => "content",
            Point::DeleteFile => "delete_file",
            Point::CreateBatch => "create_batch",
            Point::GetBatch => "get_batch",
            Point::ListBatches => "list_batches",
            Point::CancelBatch => "cancel_batch",
            Point::Batch => "batch",
        }
    }
}

/// How a request goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum Wire {
    /// It is done, and the connection is cut before any byte of the reply.
    DropReply {},
    /// The connection is cut and nothing is done.
    DropRequest {},
    /// Nothing is done and this is the answer.
    Status {
        /// The answer's status.
        status: u16,
        /// Seconds, for a `Retry-After` header.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        /// The answer's body instead of an ordinary error.
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// It is done, and answered with this error all the same: what is in front tried more than once.
    Deny {
        /// The answer's status.
        status: u16,
        /// Seconds, for a `Retry-After` header.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        /// The answer's body instead of an ordinary error.
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// Two batches are made of one request, and its sender is told of one: what is in front repeated it.
    Double {},
    /// The input file is not known yet, though it was uploaded: nothing is done.
    UnknownFile {},
    /// Nothing is done, and a gateway's page comes back.
    Html {},
    /// Nothing is done, and the answer leads elsewhere.
    Redirect {
        /// The whole `Location`.
        location: String,
        /// 302 unless told.
        #[serde(default = "found")]
        status: u16,
    },
    /// It is done, and its reply comes late.
    Delay {
        /// How late.
        milliseconds: u64,
    },
    /// It is done, and the connection is cut within the body of the reply.
    Truncate {
        /// How much of the body is sent; half of it unless told.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// The list does not know the newest batches yet.
    Lag {
        /// How old a batch must be to be listed.
        seconds: u32,
    },
}

/// When a request goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// When it comes in.
    Arrival,
    /// When it was carried out and its success is about to be told.
    Reply,
}

impl Wire {
    fn moment(&self) -> Moment {
        match self {
            Self::DropReply {} | Self::Delay { .. } | Self::Truncate { .. } | Self::Deny { .. } => Moment::Reply,
            Self::DropRequest {} | Self::Status { .. } | Self::Html {} | Self::Lag { .. } => Moment::Arrival,
            Self::Double {} | Self::UnknownFile {} | Self::Redirect { .. } => Moment::Arrival,
        }
    }

    /// The only point that it makes sense at, if there is one.
    fn place(&self) -> Option<(Point, &'static str)> {
        match self {
            Self::Lag { .. } => Some((Point::ListBatches, "only list_batches can lag")),
            Self::Double {} => Some((Point::CreateBatch, "only create_batch can be doubled")),
            Self::UnknownFile {} => Some((Point::CreateBatch, "only create_batch names a file")),
            _ => None,
        }
    }
}

/// How a batch goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum Flaw {
    /// It ends as expired.
    Expire {
        /// The share of its lines that is executed.
        #[serde(default = "half")]
        after: f64,
    },
    /// It ends as failed before its file is read.
    Fail {
        /// The kind of error, for programs.
        code: String,
        /// The reason, for people.
        #[serde(default = "ordered_batch")]
        message: String,
    },
    /// It has a state that nobody has heard of while it runs.
    OddState {
        /// Shown instead of `in_progress`.
        state: String,
    },
    /// It runs until somebody finishes or cancels it.
    Stuck {
        /// The share of its lines that is executed before.
        #[serde(default = "half")]
        after: f64,
    },
    /// Cancelled, it shows `cancelling` and runs on.
    IgnoreCancel {},
    /// Rows that are billed are in neither file.
    LoseRows {
        /// How many.
        #[serde(default = "one")]
        rows: u64,
    },
    /// Rows stand twice in the output.
    DoubleRows {
        /// How many.
        #[serde(default = "one")]
        rows: u64,
    },
    /// The output has rows that nobody asked for.
    ForeignRows {
        /// How many.
        #[serde(default = "one")]
        rows: u64,
    },
    /// Rows fail when they are executed, and are not billed.
    FailRows {
        /// How many.
        #[serde(default = "one")]
        rows: u64,
        /// Their status.
        #[serde(default = "server_error_status")]
        status: u16,
        /// The kind of error, for programs.
        #[serde(default = "server_error_code")]
        code: String,
    },
    /// Rows of the output are written as some servers write them.
    OddRows {
        /// How many.
        #[serde(default = "one")]
        rows: u64,
        /// What is odd about them.
        shape: Shape,
    },
    /// Its usage has more input tokens than its rows add up to.
    TotalsDiffer {
        /// How many more.
        tokens: u64,
    },
    /// Its output file has a long id.
    LongFileId {
        /// How long, in characters.
        characters: usize,
    },
    /// It does not say how many requests it has.
    NoCounts {},
    /// It does not tell its creator's notes back.
    MetadataLost {},
}

/// What is odd about a row that is billed as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Its body has `-Infinity` in it, as Python writes it.
    Infinity,
    /// Its status is 200, and its body an error document.
    ErrorBody,
    /// Its `error` is an object of nulls.
    ErrorOfNulls,
    /// Its body is the text of JSON.
    TextBody,
    /// Its quotes are those of Python.
    SingleQuotes,
    /// It breaks off after its id.
    CutOff,
    /// It is no JSON and has no id.
    Garbled,
    /// Its body has no usage.
    NoUsage,
    /// The numbers of its usage are text.
    TextUsage,
    /// Its answer is null, or an empty text.
    Empty,
    /// Its model refuses.
    Refusal,
    /// Its answer ends at a limit of tokens.
    Truncated,
    /// A content filter withholds its answer.
    Filtered,
}

fn found() -> u16 {
    302
}

fn half() -> f64 {
    0.5
}

fn one() -> u64 {
    1
}

fn ordered_batch() -> String {
    "This failure was ordered as a fault.".to_owned()
}

fn server_error_status() -> u16 {
    500
}

fn server_error_code() -> String {
    "server_error".to_owned()
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Action {
    Wire(Wire),
    Flaw(Flaw),
}

/// Something that shall go wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "wish::Wish")]
pub struct Fault {
    point: Point,
    #[serde(flatten)]
    action: Action,
    times: u32,
}

/// The faults that are left.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    /// Starts with these.
    pub fn new(faults: Vec<Fault>) -> Self {
        Self(Mutex::new(faults))
    }

    /// Adds one after all others.
    pub fn add(&self, fault: Fault) {
        lock(&self.0).push(fault);
    }

    /// Forgets all.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// What is left.
    pub fn left(&self) -> Vec<Fault> {
        lock(&self.0).clone()
    }

    /// What befalls a request at this moment. Faults of a point strike in the order they were
    /// added, and one that has another moment holds up those behind it.
    pub fn take(&self, point: Point, moment: Moment) -> Option<Wire> {
        self.strike(point, |action| match action {
            Action::Wire(wire) if wire.moment() == moment => Some(wire.clone()),
            _ => None,
        })
    }

    /// What befalls a batch that is created now.
    pub fn flaw(&self) -> Option<Flaw> {
        self.strike(Point::Batch, |action| match action {
            Action::Flaw(flaw) => Some(flaw.clone()),
            Action::Wire(_) => None,
        })
    }

    /// Uses up one time of the first fault of a point, if it is wanted.
    fn strike<T>(&self, point: Point, wanted: impl Fn(&Action) -> Option<T>) -> Option<T> {
        let mut faults = lock(&self.0);
        let place = faults.iter().position(|fault| fault.point == point)?;
        let fault = faults.get_mut(place)?;
        let struck = wanted(&fault.action)?;
        fault.times -= 1;
        if fault.times == 0 {
            faults.remove(place);
        }
        Some(struck)
    }
}

#[cfg(test)]
mod tests;
