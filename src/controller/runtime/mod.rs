//! Shared parts of the controllers: the cluster, its small objects, events, the lease, errors.

pub(super) mod cache;
pub(super) mod clock_watch;
pub(super) mod cluster;
pub(super) mod dependencies;
pub(super) mod error;
pub(super) mod event_queue;
pub(super) mod events;
mod fair_calls;
pub(super) mod finalizer;
pub(super) mod leader;
pub(super) mod metadata;
pub(super) mod missing;
pub(super) mod options;
pub(super) mod ownership;
pub(super) mod preflight;
pub(super) mod schedule_looks;
pub(super) mod secrets;
pub(super) mod status;
pub(super) mod trust;
pub(super) mod version;
pub(super) mod watch_backoff;
