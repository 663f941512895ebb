//! One endpoint: its keys, its rates, and the messages that it took lately.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use tokio::sync::mpsc;
use tracing::warn;

use super::event::batch_of;
use super::rate::Rate;
use super::seen::SeenMessages;
use super::{Hint, Outcome};
use crate::fair::Budget;
use crate::standard_webhooks::{SigningKeys, TOLERANCE, Verified, VerifyError};

/// Limits of the signatures that an endpoint checks: in a burst, and in each second. A flood of forgeries keeps out the
/// events of that endpoint only.
const CHECKS: (i64, i64) = (2_000, 200);
/// Limits of the events that an endpoint takes: in a burst, and in each second. Each event causes at most three calls
/// to the provider.
const EVENTS: (i64, i64) = (1_000, 50);
/// Milliseconds between two warnings about refused messages.
const WARNED_AGAIN: i64 = 60_000;

/// The endpoint of a provider object. Its state outlives a change of its keys.
pub(super) struct Endpoint {
    /// Names of the provider object, for logs.
    pub namespace: String,
    pub name: String,
    keys: SigningKeys,
    state: Arc<Mutex<State>>,
}

struct State {
    checks: Rate,
    events: Rate,
    seen: SeenMessages,
    /// Time of the last warning about a refused message.
    warned: i64,
}

/// A request, with the time, the memory and the channel that its judgement takes.
pub(super) struct Judged<'a> {
    pub uid: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    /// Unix milliseconds.
    pub now: i64,
    /// The memory for messages that were taken.
    pub memory: &'a Arc<Budget>,
    pub hints: &'a mpsc::Sender<Hint>,
}

impl Endpoint {
    pub fn new(namespace: &str, name: &str, keys: SigningKeys) -> Endpoint {
        let state = State {
            checks: Rate::new(CHECKS.0, CHECKS.1),
            events: Rate::new(EVENTS.0, EVENTS.1),
            seen: SeenMessages::default(),
            warned: i64::MIN,
        };
        Endpoint { namespace: namespace.into(), name: name.into(), keys, state: Arc::new(Mutex::new(state)) }
    }

    /// Returns the same endpoint with other keys.
    pub fn with_keys(&self, keys: SigningKeys) -> Endpoint {
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        Endpoint { namespace, name, keys, state: self.state.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a request. Passes on its hint if the request is a genuine and new event of a batch.
    pub fn judge(&self, request: &Judged) -> Outcome {
        let Judged { uid, headers, body, now, memory, hints } = request;
        if !self.lock().checks.take(*now) {
            return Outcome::Refused;
        }
        let Verified { id, timestamp } = match self.keys.verify(headers, body, now / 1000) {
            Ok(verified) => verified,
            Err(why) => {
                self.warn(*now, why);
                return Outcome::Refused;
            }
        };
        let Some(batch_id) = batch_of(body) else { return Outcome::Ignored };
        let mut state = self.lock();
        if state.seen.contains(id) {
            return Outcome::Repeated;
        }
        if !state.events.take(*now) || !state.seen.make_room(*now, memory, &self.namespace) {
            return Outcome::Later;
        }
        if hints.try_send(Hint { provider: (*uid).into(), batch_id }).is_err() {
            return Outcome::Later;
        }
        state.seen.insert(id, (timestamp + TOLERANCE + 1) * 1000);
        Outcome::Taken
    }

    /// Logs a refused message, once a minute at most, since the signing secret may be wrong. Requests to unknown
    /// endpoints are not logged.
    fn warn(&self, now: i64, why: VerifyError) {
        let mut state = self.lock();
        if self.name.is_empty() || now < state.warned.saturating_add(WARNED_AGAIN) {
            return;
        }
        state.warned = now;
        let (namespace, name) = (&self.namespace, &self.name);
        let remedy = match why {
            VerifyError::Stale => "check the clock of the operator's node, and that nobody repeats old messages",
            VerifyError::Header(_) | VerifyError::Forged => "compare its signing secret with the provider's",
        };
        warn!(namespace, name, %why, "a webhook of a provider was refused; {remedy}");
    }
}
