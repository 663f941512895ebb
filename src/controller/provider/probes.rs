//! The last probe of each account by this process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::lifecycle::OwnProbe;

/// Most accounts whose last probe is remembered. Losing it costs another probe.
const REMEMBERED: usize = 1_000;

/// The last probes, by uid of the provider.
#[derive(Default)]
pub(crate) struct Probes(Mutex<HashMap<String, OwnProbe>>);

impl Probes {
    /// Returns the last probe of an account.
    pub fn of(&self, uid: &str) -> Option<OwnProbe> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Records a probe of an account.
    pub fn note(&self, uid: String, probe: OwnProbe) {
        let mut probes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if probes.len() >= REMEMBERED && !probes.contains_key(&uid) {
            probes.clear();
        }
        probes.insert(uid, probe);
    }
}
