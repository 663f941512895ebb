//! Messages about jobs to webhooks that people name: their content ([`Notice`]), their two formats, and their delivery
//! ([`deliver`]).
//!
//! A message holds the counts, the outcome and the places of results of a job. It never holds a prompt, an answer or a
//! key. `lifecycle/notices.rs` decides when a message is due and how often it is tried.

mod cloudevents;
mod send;
mod slack;

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use crate::api::{
    CostStatus, NotificationEvent, NotificationFormat, Outcome, ProviderReference, RequestCounts, Results, UsageStatus,
};

pub use send::{deliver, deliver_within};

/// The content of one message: an event of a job, with the state of the job at that time.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Id of the message. It is the same in every try, so that a receiver knows a repetition. At most 128 letters,
    /// digits, `-` and `_`.
    pub id: String,
    /// Event that the message is about.
    pub event: NotificationEvent,
    /// Time of the event, in Unix milliseconds.
    pub at: i64,
    /// Namespace of the job.
    pub namespace: String,
    /// Name of the job.
    pub name: String,
    /// Value of `metadata.uid` of the job.
    pub uid: String,
    /// Outcome of the job. None if it has not ended.
    pub outcome: Option<Outcome>,
    /// Reason of the condition that the event is about, such as `AllSucceeded`.
    pub reason: String,
    /// Message of that condition, for people; at most 2,048 bytes.
    pub message: String,
    /// Counts of requests. None if they are not counted yet.
    pub requests: Option<RequestCounts>,
    /// Tokens of the job's batches. None before its end, and if they are not known.
    pub usage: Option<UsageStatus>,
    /// Cost of the job. None before its end, and without prices.
    pub cost: Option<CostStatus>,
    /// Time at which the operator first saw the job, in Unix milliseconds.
    pub start: Option<i64>,
    /// Time at which the job ended, in Unix milliseconds. None if it has not ended.
    pub end: Option<i64>,
    /// Places of the results. None if none were written.
    pub results: Option<Results>,
    /// Provider object that the job refers to.
    pub provider: ProviderReference,
    /// Model for requests that name none.
    pub model: Option<String>,
}

/// A webhook, with the contents of its Secrets.
#[derive(Clone, Debug)]
pub struct Target {
    /// Format of the messages.
    pub format: NotificationFormat,
    /// URL of the webhook, as it is in its Secret. White space around it is ignored.
    pub url: SecretString,
    /// Signing keys, as they are in their Secret; see [`crate::standard_webhooks`]. None: messages are not signed.
    pub signing_keys: Option<SecretString>,
    /// Whether an admin wrote the URL, in a ClusterBatchProvider: its host may be in a private network.
    pub by_admin: bool,
}

/// The reason why a message is not known to be delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Undelivered {
    /// The next try.
    pub retry: Retry,
    /// Explanation for people, with the remedy if one is known. It names hosts at most: never the path of the URL, a
    /// key, or other words of the server.
    pub message: String,
}

/// The next try of a message that was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// At a time that the caller chooses.
    Later,
    /// Not before this time has passed, since the server asked for it; at most a day.
    After(Duration),
    /// Never: the server refuses this message, or all messages, for good.
    Never,
}

impl Notice {
    /// Returns the time that the job took so far, in whole seconds. None if it has no start.
    fn duration_seconds(&self) -> Option<i64> {
        let until = self.end.unwrap_or(self.at);
        self.start.map(|start| until.saturating_sub(start).max(0) / 1_000)
    }
}

/// Returns Unix milliseconds as a time of RFC 3339 in whole seconds, as Kubernetes writes them.
fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
pub(crate) mod samples;
