//! The last probe of each account by this process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::remembered::Remembered;
use crate::lifecycle::OwnProbe;

/// Most accounts whose last probe is remembered. Losing it costs another probe.
const REMEMBERED: usize = 1_000;

/// The last probes, by uid of the provider.
pub(crate) struct Probes(Mutex<Remembered<Option<OwnProbe>>>);

impl Default for Probes {
    fn default() -> Self {
        Probes(Mutex::new(Remembered::new(REMEMBERED)))
    }
}

impl Probes {
    /// Returns the last probe of an account.
    pub fn of(&self, uid: &str) -> Option<OwnProbe> {
        self.known().get(uid)?.clone()
    }

    /// Records a probe of an account, whose object is in this namespace.
    pub fn note(&self, uid: &str, namespace: Option<&str>, probe: OwnProbe) {
        *self.known().entry(uid, namespace) = Some(probe);
    }

    fn known(&self) -> MutexGuard<'_, Remembered<Option<OwnProbe>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
