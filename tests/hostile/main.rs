//! Servers that are broken, odd or hostile: nothing that one answers makes us panic, take too much, or pay a second time.
//!
//! The servers are raw sockets, so that they can say what no HTTP library would.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod batches;
mod calls;
mod deadlines;
mod hooks;
mod lines;
mod lists;
mod server;
mod slow;
mod storage;
mod stores;
mod usage;

use std::sync::Arc;

use batchjob_operator::api::ProviderType;
use batchjob_operator::provider::{Dialect, OpenAi};
use batchjob_operator::transport::{HostPolicy, Transport};

use server::Server;

fn transport() -> Transport {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Transport::new(HostPolicy::allowing(["127.0.0.1".parse().unwrap()])).unwrap()
}

fn client(server: &Server, vendors_own: bool) -> Arc<OpenAi> {
    client_of(ProviderType::OpenAI, server, vendors_own)
}

/// A client that speaks the dialect of this type: every one of them meets the same servers.
fn client_of(type_: ProviderType, server: &Server, vendors_own: bool) -> Arc<OpenAi> {
    let url = format!("{}/v1", server.url);
    let api = OpenAi::new(transport(), &url, Some("sk-canary".to_string().into()), vendors_own).unwrap();
    Arc::new(api.speaking(Dialect::of(type_)))
}
