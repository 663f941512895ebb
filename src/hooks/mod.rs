//! Webhooks of providers: `POST /hooks/UID`, where UID is that of a provider object. A signed event that a batch ended is a hint to look
//! at the batch now. It is never believed: polls stay the truth, and without any event a job ends as well, somewhat later.
//!
//! Anybody may reach the port. So nothing is read from the cluster for a request: keys are what the last look at the provider found.
//! Whoever has no key of the endpoint gets the same answer, whether there is such an endpoint or not. And everything is bounded:
//! connections, bytes, time, and for each endpoint the signatures that are checked and the events that are taken in a second.

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
    /// uid of the provider object.
    pub provider: String,
    /// The provider's name for the batch.
    pub batch_id: String,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The batch that it names is looked at.
    Taken,
    /// It was taken before.
    Repeated,
    /// It is genuine, and no event of a batch.
    Ignored,
    /// It is genuine, and may not be taken now: the sender has to try again.
    Later,
    /// It is not genuine, or there is no such endpoint.
    Refused,
}

impl Outcome {
    /// Name of the outcome, as metrics have it.
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
