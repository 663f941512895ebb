//! A Kubernetes operator for LLM batch processing: never pays twice, never loses a line.
//!
//! Data flows one way: `observe -> decide -> record -> act`, one effect a step. [`lifecycle`] holds every decision and is
//! pure; [`controller`] is the only place where the others meet. `docs/architecture.md` tells the whole story.

pub mod account;
pub mod api;
pub mod controller;
pub mod fair;
pub mod hooks;
pub mod lifecycle;
pub mod money;
pub mod notify;
pub mod provider;
pub mod requests;
pub mod results;
pub mod schedule;
pub mod standard_webhooks;
pub mod store;
pub mod telemetry;
pub mod transport;
