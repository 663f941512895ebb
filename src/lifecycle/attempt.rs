//! Attempts to send a shard, as the journal has them.

use serde::{Deserialize, Serialize};

use crate::api::{BatchUsage, ErrorSummary, PayloadKind, RequestCounts};
use crate::money::{Cost, Prices};

/// A shard and one attempt to send it, such as `00000-1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// Index in [`Journal::shards`].
    pub shard: usize,
    /// From 1.
    pub attempt: u32,
}

impl std::fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:05}-{}", self.shard, self.attempt)
    }
}

/// One attempt to send a shard.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// 128 random bits in hex; the batch's metadata carries them.
    #[serde(rename = "intentID")]
    pub intent_id: String,
    /// Form in which the attempt's requests reach the provider.
    #[serde(flatten)]
    pub payload: Payload,
    /// The POST must start before this moment (Unix milliseconds).
    pub post_by: i64,
    /// Keyed fingerprint of the credential that the intent was made under.
    pub fingerprint: String,
    /// Error with which the server answered the POST. It does not prove that no batch exists: a gateway may have sent the POST
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declined: Option<Rejection>,
    /// Number of requests, at most, that other batches of the same POST were billed for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub billed_again: i64,
    /// Number of times that the POST was repeated with the same token, at a provider that makes no second batch of it. The
    /// reply to a repeated POST proves nothing about the first POST, unless it names a batch.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeats: i64,
    /// Prices of the shard's model at the intent. None if the account had none for it, and once the attempt is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<Box<Prices>>,
    /// State of the attempt.
    #[serde(flatten)]
    pub state: AttemptState,
}

impl Attempt {
    /// Returns an attempt that nothing came of yet.
    pub fn intended(
        number: u32,
        intent_id: impl Into<String>,
        payload: Payload,
        post_by: i64,
        fingerprint: impl Into<String>,
    ) -> Self {
        let (intent_id, fingerprint, state) = (intent_id.into(), fingerprint.into(), AttemptState::Intended);
        let (declined, billed_again, repeats, prices) = (None, 0, 0, None);
        Attempt { number, intent_id, payload, post_by, fingerprint, declined, billed_again, repeats, prices, state }
    }
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Form in which the requests of an attempt reach the provider.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(untagged)]
pub enum Payload {
    /// An uploaded input file: the revocable right to start a batch.
    File {
        /// The provider's name for the file; empty once it is gone.
        #[serde(rename = "fileID")]
        id: String,
    },
    /// An object that only this attempt uses, in storage that the provider reads; revocable like a file.
    Object {
        /// Name of the object; empty once it is gone.
        #[serde(rename = "objectName")]
        name: String,
    },
    /// The body of the POST. The provider holds nothing before the POST, so that nothing can be revoked.
    Inline {},
}

impl Default for Payload {
    fn default() -> Self {
        Payload::file("")
    }
}

impl Payload {
    /// Returns the payload of an uploaded file.
    pub fn file(id: impl Into<String>) -> Self {
        Payload::File { id: id.into() }
    }

    /// Returns a payload of this kind. `name` is the provider's name for its file or object.
    pub(super) fn named(kind: PayloadKind, name: String) -> Self {
        match kind {
            PayloadKind::File => Payload::File { id: name },
            PayloadKind::Object => Payload::Object { name },
            PayloadKind::Inline => Payload::Inline {},
        }
    }

    /// Returns the name of the payload's file or object; empty if there is none.
    pub fn name(&self) -> &str {
        match self {
            Payload::File { id: name } | Payload::Object { name } => name,
            Payload::Inline {} => "",
        }
    }

    /// Clears the name of a file or object that is gone, or that no further attempt of this job uses.
    pub fn forget(&mut self) {
        match self {
            Payload::File { id: name } | Payload::Object { name } => name.clear(),
            Payload::Inline {} => {}
        }
    }
}

/// The reason why a submission made no batch: the provider's reply, or an obstacle before anything was sent. A gateway's
/// reply may be wrong; see [`Attempt::declined`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// Kind of the reason.
    pub refusal: Refusal,
    /// The provider's message, or ours if nothing was sent.
    pub message: String,
    /// Time at which the provider asked to be called again (Unix milliseconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<i64>,
}

impl Rejection {
    /// Returns a rejection without a time for the next try.
    pub fn new(refusal: Refusal, message: impl Into<String>) -> Self {
        Rejection { refusal, message: message.into(), retry_at: None }
    }
}

/// State of an attempt.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum AttemptState {
    /// A POST may be under way. Only the holder of the permit sends it; every other reader resolves the intent.
    Intended,
    /// No batch was found; the input file is being deleted so that a late POST is refused.
    Revoking,
    /// No batch of the attempt exists: that is proved, or a person said so.
    Revoked {
        /// The last error of the submission, or the person's answer, for people.
        message: String,
    },
    /// Nothing was sent, or the provider refused the submission, or it rejected the batch as a whole: no request ran.
    Refused {
        /// Reason of the refusal.
        refusal: Refusal,
        /// The provider's message, or ours if nothing was sent.
        message: String,
        /// Time of the refusal (Unix milliseconds).
        at: i64,
        /// Time at which the provider asked to be called again (Unix milliseconds).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<i64>,
    },
    /// A batch is recorded. The attempt keeps this state until its answers are in storage.
    Submitted {
        /// The provider's name for the batch.
        #[serde(rename = "batchID")]
        batch_id: String,
        /// Time at which the batch was recorded (Unix milliseconds).
        at: i64,
    },
    /// The batch ended and its results are in storage, or a person gave its results up.
    Settled {
        /// The provider's name for the batch.
        #[serde(rename = "batchID")]
        batch_id: String,
        /// The provider's last state of the batch, such as `completed`; `lost` if a person gave its results up.
        ended: String,
        /// The results; None if a person gave them up.
        part: Option<PartRef>,
        /// Requests by outcome.
        counts: RequestCounts,
        /// Failed requests whose failure may be temporary.
        #[serde(rename = "mayPass", default)]
        retryable: i64,
        /// Tokens and kinds of answers.
        #[serde(default, skip_serializing_if = "BatchUsage::is_zero")]
        usage: Box<BatchUsage>,
        /// Cost of `usage`; None without prices.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Box<Cost>>,
        /// Errors of the requests without an answer, by code.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        errors: Vec<ErrorSummary>,
        /// Files at the provider that may be deleted now.
        files: Vec<String>,
    },
    /// The job's time was over before the batch ended. The batch may still run and cost money. Its answers are not fetched, and
    /// its requests are never sent again.
    Abandoned {
        /// The provider's name for the batch; None if it is unknown whether there is one.
        #[serde(rename = "batchID", default, skip_serializing_if = "Option::is_none")]
        batch_id: Option<String>,
    },
}

/// The reason why an attempt made no batch.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Nothing was sent, for example because there was no connection.
    NotSent,
    /// The provider has no room now; the job waits, and this is no failure.
    Capacity,
    /// The account's queue has no room for so many tokens. The job waits; after several refusals with nothing else in flight,
    /// it halves the shard.
    TokenLimit,
    /// The provider does not know the input file that was just uploaded. It may know the file a little later.
    FileNotFound,
    /// The provider refused the credential.
    Credentials,
    /// The batch failed as a whole before a request ran, or the submission failed and is proved to have made no batch. Another
    /// attempt may succeed; failures count against `spec.backoffLimitPerBatch`.
    Failed,
    /// The provider refuses these requests; sending them again would not help.
    Invalid,
    /// The shard failed more often than the job allows.
    TooOften,
    /// A single request exceeds what the account can ever run: the request fails, and the rest of the job continues.
    TooLarge,
}

/// An immutable object with the results of one attempt, in index order.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartRef {
    /// Object name below the work's folder.
    pub name: String,
    /// SHA-256 of its uncompressed bytes.
    pub sha256: String,
}

impl Attempt {
    /// Returns the message of a refused or revoked attempt, for people; empty in other states.
    pub fn message(&self) -> String {
        match &self.state {
            AttemptState::Refused { message, .. } | AttemptState::Revoked { message } => message.clone(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Journals of earlier versions, which knew only files.
    #[test]
    fn a_payload_is_written_as_ever_where_it_is_a_file_and_read_back_whatever_it_is() {
        let start = r#"{"number":1,"intentID":"i","#;
        let end = r#""postBy":5,"fingerprint":"k","state":"Intended"}"#;
        for (written, payload) in [
            (r#""fileID":"f","#, Payload::file("f")),
            (r#""fileID":"","#, Payload::default()),
            (r#""objectName":"o","#, Payload::Object { name: "o".into() }),
            ("", Payload::Inline {}),
        ] {
            let written = [start, written, end].concat();
            let attempt: Attempt = serde_json::from_str(&written).unwrap();
            assert_eq!(attempt.payload, payload, "{written}");
            assert_eq!(serde_json::to_string(&attempt).unwrap(), written);
        }
    }
}
