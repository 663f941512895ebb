//! Real parts for tests: a control plane and a storage server that the tests of one run share, and for each scene a
//! namespace, a simulator and an operator of its own.

pub mod dice;
pub mod faults;
pub mod gate;
pub mod node;
// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "../../support/odd_store.rs"]
pub mod odd_store;
pub mod operator;
pub mod process;
pub mod proxy;
pub mod quiet;

pub mod scene;
pub mod shared;
pub mod simulator;
pub mod slow_server;
pub mod webhooks;

#[path = "../../support/tls_front.rs"]
pub mod tls_front;

use std::time::{Duration, Instant};

/// Waits until `probe` gives something, or fails with what was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, seconds: u64, mut probe: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
