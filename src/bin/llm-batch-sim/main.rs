//! `llm-batch-sim` plays OpenAI's Files and Batches API, and Azure's, for tests, demos and CI.
//!
//! It is a real HTTP server that costs nothing and keeps an append-only ledger of every line it
//! would have billed, so that a client's promise to pay once can be checked instead of believed.
//! Faults can be ordered over `/admin/faults`. It shares no code with the operator, so that a
//! misreading of the API cannot hide on both sides of the wire.

mod accounts;
mod answers;
mod api;
mod app;
mod batch;
mod bodies;
mod canonical;
mod cli;
mod drive;
mod durations;
mod endpoint;
mod execute;
mod faults;
mod home;
mod ids;
mod ledger;
mod overlaps;
mod prompt;
mod rows;
mod serve;
mod shuffle;
mod store;
mod table;
#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;
mod validate;
mod vendor;
mod webhooks;
mod wire;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::cli::{Args, StartError};

/// How long work in progress on other threads may hold up the end of the process.
const LAST_WORDS: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), StartError> {
    let listen = args.listen.clone();
    let (app, home) = args.prepare()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::io("start the runtime", error))?;
    let served = runtime.block_on(async {
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|error| StartError::io("watch for SIGTERM", error))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(|error| StartError::io("watch for SIGINT", error))?;
        let listener =
            TcpListener::bind(&listen).await.map_err(|error| StartError::io(format!("listen on {listen}"), error))?;
        announce(&listener).map_err(|error| StartError::io("say where it listens", error))?;
        tokio::select! {
            () = serve::accept(listener, api::router(app)) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    });
    runtime.shutdown_timeout(LAST_WORDS);
    drop(home);
    served
}

/// Scripts that start the simulator on port 0 read this line to learn the port.
fn announce(listener: &TcpListener) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let line = serde_json::json!({
        "url": format!("http://{address}/v1"),
        "admin": format!("http://{address}/admin"),
    });
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
