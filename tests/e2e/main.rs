//! The promises, on a real Kubernetes API server, a real S3 server and a real HTTP provider, under the RBAC rules that we
//! ship. One binary, so that all tests share one control plane.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/manifests.rs"]
mod manifests;
mod support;
#[path = "../support/work.rs"]
mod work;

mod accounts;
mod aibrix;
mod availability;
mod bad_input;
mod big;
mod budgets;
mod conformance;
mod crash;
mod deletion;
mod dialects;
mod fairness;
mod forged;
mod gateways;
mod gitops;
mod happy;
#[path = "../hostile/heads.rs"]
mod heads;
mod holds;
mod inputs;
mod install;
#[path = "../hostile/large_answers.rs"]
mod large_answers;
mod matrix;
#[path = "../hostile/memory.rs"]
mod memory;
mod mixtures;
mod monitoring;
mod notifications;
mod objects;
mod orphans;
mod outputs;
mod partial;
mod providers;
mod quotas;
mod readers;
// The other test that runs it uses the rest of it.
#[allow(dead_code)]
#[path = "../support/receiver.rs"]
mod receiver;
mod refused;
mod resend;
mod restore;
mod results_as_input;
mod running;
mod schedules;
mod schema;
mod shards;
mod tenancy;
mod traces;
mod two_installs;
mod wait;
mod webhooks;
