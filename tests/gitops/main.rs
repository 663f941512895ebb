//! What is shipped for Helm, Argo CD, Flux and kustomize, by those tools' own code.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/beginnings.rs"]
mod beginnings;
#[path = "../support/ends.rs"]
mod ends;

mod chart;
mod health;
mod kustomize;
mod monitoring;
mod neighbours;
mod states;
mod tools;
mod wait;
