//! Webhooks of providers: `POST /hooks/UID`, where UID is that of a provider object. A signed event that a batch ended
//! is a hint to look at the batch now. The event itself is never believed. Without events jobs end by their polls,
//! somewhat later.
//!
//! Anybody may reach the port. So a request reads nothing from the cluster: the keys are those that the last look at
//! the provider object found. A sender without a key gets the same answer whether the endpoint exists or not.
//! Everything is bounded: connections, bytes, time, and for each endpoint the signatures that are checked and the
//! events that are taken in a second.

mod endpoint;
mod endpoints;
mod event;
mod rate;
mod seen;
mod server;

pub use endpoints::Endpoints;
pub use server::serve;

/// A batch of a provider that may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Value of `metadata.uid` of the provider object.
    pub provider: String,
    /// The provider's name for the batch.
    pub batch_id: String,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request is a genuine event; the batch that it names is looked at.
    Taken,
    /// The request repeats a message that was taken before.
    Repeated,
    /// The request is genuine, but no event of a batch.
    Ignored,
    /// The request is genuine, but cannot be taken now; the sender has to try again.
    Later,
    /// The request is not genuine, or the endpoint does not exist.
    Refused,
}

impl Outcome {
    /// Returns the name of the outcome in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Taken => "Taken",
            Outcome::Repeated => "Repeated",
            Outcome::Ignored => "Ignored",
            Outcome::Later => "Later",
            Outcome::Refused => "Refused",
        }
    }
}
