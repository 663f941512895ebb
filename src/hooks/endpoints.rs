//! All endpoints, by the uid of their provider object.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use http::HeaderMap;
use tokio::sync::mpsc;

use super::endpoint::{Endpoint, Judged};
use super::{Hint, Outcome};
use crate::fair::Budget;
use crate::standard_webhooks::SigningKeys;

/// Maximum number of hints that wait to be followed.
const WAITING: usize = 4_096;
/// Bytes for the ids of messages that were taken lately, of all endpoints together.
const SEEN_BYTES: u64 = 4 << 20;
/// Number of endpoints below which none is dropped.
const FEW: usize = 64;

/// Returns the time in Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;
/// Called with the outcome of each request.
pub type OnOutcome = Arc<dyn Fn(Outcome) + Send + Sync>;

/// The endpoints of this process.
pub struct Endpoints {
    clock: Clock,
    on_outcome: OnOutcome,
    endpoints: RwLock<HashMap<String, Arc<Endpoint>>>,
    /// Stand-in for unknown endpoints: it takes the time that a real one takes, and accepts nothing.
    nobodys: Endpoint,
    memory: Arc<Budget>,
    /// Channel to the task that follows the hints; None while there is no such task.
    hints: Mutex<Option<mpsc::Sender<Hint>>>,
}

impl Endpoints {
    /// Returns a set without endpoints.
    pub fn new(clock: Clock, on_outcome: OnOutcome) -> Arc<Endpoints> {
        Arc::new(Endpoints {
            clock,
            on_outcome,
            endpoints: RwLock::default(),
            nobodys: Endpoint::new("", "", SigningKeys::unguessable()),
            memory: Budget::new(SEEN_BYTES),
            hints: Mutex::default(),
        })
    }

    /// Begins to take events. Returns their hints, which the caller has to follow.
    pub fn open(&self) -> mpsc::Receiver<Hint> {
        let (send, receive) = mpsc::channel(WAITING);
        *self.hints.lock().unwrap_or_else(PoisonError::into_inner) = Some(send);
        receive
    }

    /// Returns whether events are taken.
    pub fn is_open(&self) -> bool {
        self.hints().is_some()
    }

    fn hints(&self) -> Option<mpsc::Sender<Hint>> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the keys of a provider object's endpoint, or removes the endpoint if `keys` is None. The endpoints of earlier
    /// objects of the same namespace and name are dropped, and those of other deleted objects from time to time:
    /// `is_there` tells whether the object of a uid, a namespace and a name still exists. Returns whether the object had an
    /// endpoint that was removed.
    pub fn set(
        &self,
        uid: &str,
        (namespace, name): (&str, &str),
        keys: Option<SigningKeys>,
        is_there: impl Fn(&str, (&str, &str)) -> bool,
    ) -> bool {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = !endpoints.contains_key(uid);
        if is_new {
            endpoints.retain(|_, known| (known.namespace.as_str(), known.name.as_str()) != (namespace, name));
        }
        let Some(keys) = keys else {
            return endpoints.remove(uid).is_some();
        };
        if is_new && endpoints.len() >= FEW && endpoints.len().is_power_of_two() {
            endpoints.retain(|uid, known| is_there(uid, (&known.namespace, &known.name)));
        }
        let endpoint = match endpoints.get(uid) {
            Some(endpoint) => endpoint.with_keys(keys),
            None => Endpoint::new(namespace, name, keys),
        };
        endpoints.insert(uid.into(), Arc::new(endpoint));
        false
    }

    /// Judges a request to the endpoint of a provider object, and passes its hint on.
    pub fn judge(&self, uid: &str, headers: &HeaderMap, body: &[u8]) -> Outcome {
        let outcome = match self.hints() {
            None => Outcome::Later,
            Some(hints) => {
                let known = self.endpoints.read().unwrap_or_else(PoisonError::into_inner).get(uid).cloned();
                let endpoint = known.as_deref().unwrap_or(&self.nobodys);
                let now = (self.clock)();
                endpoint.judge(&Judged { uid, headers, body, now, memory: &self.memory, hints: &hints })
            }
        };
        (self.on_outcome)(outcome);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Arc<Endpoints> {
        Endpoints::new(Arc::new(|| 0), Arc::new(|_| {}))
    }

    fn uids(of: &Endpoints) -> Vec<String> {
        let mut uids: Vec<String> = of.endpoints.read().unwrap().keys().cloned().collect();
        uids.sort();
        uids
    }

    #[test]
    fn an_object_that_is_deleted_and_created_again_has_one_endpoint() {
        let endpoints = endpoints();
        let keys = || Some(SigningKeys::unguessable());
        endpoints.set("other", ("b", "llm"), keys(), |_, _| true);
        for n in 0..1_000 {
            endpoints.set(&format!("uid-{n}"), ("a", "llm"), keys(), |_, _| true);
        }
        assert_eq!(uids(&endpoints), ["other", "uid-999"]);
        endpoints.set("uid-1000", ("a", "llm"), None, |_, _| true);
        assert_eq!(uids(&endpoints), ["other"], "the next one has no webhook");
    }

    #[test]
    fn endpoints_of_deleted_objects_are_dropped_before_they_are_many() {
        let endpoints = endpoints();
        for n in 0..10_000 {
            let (uid, name) = (format!("uid-{n}"), format!("llm-{n}"));
            let keys = Some(SigningKeys::unguessable());
            endpoints.set(&uid, ("a", &name), keys, |uid, (_, name)| (uid, name) == ("uid-7", "llm-7"));
        }
        let kept = uids(&endpoints);
        assert!(kept.len() <= FEW && kept.contains(&"uid-7".into()), "{}", kept.len());
    }
}
