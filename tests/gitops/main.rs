//! What is shipped for Helm, Argo CD, Flux and kustomize, by those tools' own code.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chart;
mod tools;
