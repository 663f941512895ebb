//! Attempts to send a shard, as the journal has them.

use serde::{Deserialize, Serialize};

use crate::api::{ErrorSummary, PayloadKind, RequestCounts};

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
    /// 128 random bits in hex, in the batch's metadata.
    #[serde(rename = "intentID")]
    pub intent_id: String,
    /// What carries its requests.
    #[serde(flatten)]
    pub payload: Payload,
    /// The POST must start before this moment (Unix milliseconds).
    pub post_by: i64,
    /// Keyed fingerprint of the credential that the intent was made under.
    pub fingerprint: String,
    /// The error that the server answered its POST with. No proof that no batch exists: a gateway may have tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declined: Option<Rejection>,
    /// Requests that other batches of the same POST were billed for as well, at most.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub billed_again: i64,
    /// How often its POST was sent again with the same token, to providers that make no second batch of it. What a repeated POST
    /// is told says nothing of the first one, but for the batch that it names.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeats: i64,
    /// Where it stands.
    #[serde(flatten)]
    pub state: AttemptState,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// What carries the requests of an attempt to the provider.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(untagged)]
pub enum Payload {
    /// An uploaded input file: the revocable right to start a batch.
    File {
        /// The provider's name for it; empty once it is gone.
        #[serde(rename = "fileID")]
        id: String,
    },
    /// An object of its own in storage that the provider reads: a right like that.
    Object {
        /// Its name; empty once it is gone.
        #[serde(rename = "objectName")]
        name: String,
    },
    /// The body of the POST: nothing of it exists elsewhere.
    Inline {},
}

impl Default for Payload {
    fn default() -> Self {
        Payload::file("")
    }
}

impl Payload {
    /// An uploaded file.
    pub fn file(id: impl Into<String>) -> Self {
        Payload::File { id: id.into() }
    }

    /// What was put up for the provider under this name.
    pub(super) fn named(kind: PayloadKind, name: String) -> Self {
        match kind {
            PayloadKind::File => Payload::File { id: name },
            PayloadKind::Object => Payload::Object { name },
            PayloadKind::Inline => Payload::Inline {},
        }
    }

    /// The name of its file or object; empty where there is none.
    pub fn name(&self) -> &str {
        match self {
            Payload::File { id: name } | Payload::Object { name } => name,
            Payload::Inline {} => "",
        }
    }

    /// Forgets the name: what it named is gone, or somebody else's to delete.
    pub fn forget(&mut self) {
        match self {
            Payload::File { id: name } | Payload::Object { name } => name.clear(),
            Payload::Inline {} => {}
        }
    }
}

/// What a provider said when it made no batch, or claimed so.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// What it means.
    pub refusal: Refusal,
    /// The provider's words.
    pub message: String,
    /// When it asked to be called again (Unix milliseconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<i64>,
}

impl Rejection {
    /// A rejection that says nothing of when to try again.
    pub fn new(refusal: Refusal, message: impl Into<String>) -> Self {
        Rejection { refusal, message: message.into(), retry_at: None }
    }
}

/// Where an attempt stands.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum AttemptState {
    /// A POST may be on its way. Only the holder of the permit sends it; a reader resolves.
    Intended,
    /// Nothing was found; the input file is being deleted so that a late POST is refused.
    Revoking,
    /// Proved that no batch came of it.
    Revoked {
        /// What the provider said last, if anything.
        message: String,
    },
    /// The provider refused it, or nothing was sent; no batch exists.
    Refused {
        /// Why.
        refusal: Refusal,
        /// What the provider said.
        message: String,
        /// When (Unix milliseconds).
        at: i64,
        /// When the provider asked to be called again (Unix milliseconds).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<i64>,
    },
    /// A batch exists.
    Submitted {
        /// The provider's name for it.
        #[serde(rename = "batchID")]
        batch_id: String,
        /// When it was recorded (Unix milliseconds).
        at: i64,
    },
    /// The batch ended and what came back is in storage.
    Settled {
        /// The provider's name for it.
        #[serde(rename = "batchID")]
        batch_id: String,
        /// The provider's last word on it, such as `completed`.
        ended: String,
        /// What came back; none when a person declared the batch lost.
        part: Option<PartRef>,
        /// Requests by outcome.
        counts: RequestCounts,
        /// Of the failed ones, those that failed in a way that may pass.
        #[serde(rename = "mayPass", default)]
        retryable: i64,
        /// Why requests have no answer, by code.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        errors: Vec<ErrorSummary>,
        /// Files at the provider that may be deleted now.
        files: Vec<String>,
    },
    /// Given up on: the job's time was over and the batch did not end. It may still run and cost, nobody fetches what it
    /// answers, and its requests are never sent again.
    Abandoned {
        /// The provider's name for it; None where nobody knows whether there is one.
        #[serde(rename = "batchID", default, skip_serializing_if = "Option::is_none")]
        batch_id: Option<String>,
    },
}

/// Why no batch came of an attempt.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Nothing left this machine: no connection.
    NotSent,
    /// The provider has no room now; a wait, not a failure.
    Capacity,
    /// The account's queue has no room for so many tokens: a wait, and where nothing else is in flight, a reason to send less
    /// at a time.
    TokenLimit,
    /// The provider does not know the input file that was just uploaded; it may a little later.
    FileNotFound,
    /// The credential was refused.
    Credentials,
    /// The batch failed as a whole before a request ran; another one may not.
    Failed,
    /// The provider refuses these requests; sending them again would not help.
    Invalid,
    /// It failed more often than the job allows.
    TooOften,
    /// A single request that is more than the account can ever run: it ends as failed, and the rest of the job goes on.
    TooLarge,
}

/// An immutable object with what came back of one attempt, in index order.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartRef {
    /// Object name below the work's folder.
    pub name: String,
    /// SHA-256 of its uncompressed bytes.
    pub sha256: String,
}

impl Attempt {
    /// The provider's last word, for a person.
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

    /// Journals of versions that knew files alone.
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
