//! Pauses before a broken watch is set up again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::runtime::utils::Backoff;

use crate::controller::Clock;

const SHORTEST: Duration = Duration::from_millis(500);
/// Longest pause. Watches are current again soon after the API server is back, however long it was away.
const LONGEST: Duration = Duration::from_secs(4);
/// A watch that ran for so long without a break is set up again at once.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// Pauses that double up to a few seconds, with a quarter of jitter.
#[derive(Debug)]
pub(crate) struct WatchBackoff {
    clock: Arc<dyn Clock>,
    last: Option<(Instant, Duration)>,
}

impl WatchBackoff {
    /// Creates the backoff; `clock` supplies the jitter.
    pub fn new(clock: Arc<dyn Clock>) -> WatchBackoff {
        WatchBackoff { clock, last: None }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let pause = match self.last {
            Some((at, last)) if now < at + last + FORGOTTEN => (last * 2).min(LONGEST),
            _ => SHORTEST,
        };
        self.last = Some((now, pause));
        Some(pause + pause * u32::from(self.clock.jitter()) / 1024)
    }
}

impl Backoff for WatchBackoff {
    /// Does nothing: a watch that is set up and breaks at once is no success.
    fn reset(&mut self) {}
}

/// No pause. During a pause of its own, a controller would handle no events either; a watch that broke pauses by itself.
#[derive(Debug)]
pub(crate) struct NoBackoff;

impl Iterator for NoBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

impl Backoff for NoBackoff {
    fn reset(&mut self) {}
}
