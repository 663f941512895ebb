//! Ids and the time.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// An id that nobody had before and nobody can guess from another: the prefix and 32 hex digits.
pub fn fresh(prefix: &str) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let high = KEYS.hash_one((number, 0_u8));
    let low = KEYS.hash_one((number, 1_u8));
    format!("{prefix}{high:016x}{low:016x}")
}

/// Now, as the API counts time: whole seconds since 1970.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
