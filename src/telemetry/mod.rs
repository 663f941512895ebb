//! What the operator says of itself: logs, metrics, health.

mod metrics;
mod server;

pub use metrics::Metrics;
pub use server::{Health, serve};

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What is logged unless `RUST_LOG` says otherwise. kube's client reports every request that fails as an error without
/// saying which: whoever made the request says so, where it matters.
const FILTER: &str = "info,kube=warn,kube_client::client::builder=off,hyper=warn,tower=warn";

/// Writes logs to standard error; `RUST_LOG` sets levels. Prompts, answers and keys are never in them.
pub fn init_logs(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let for_a_person = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(for_a_person);
    match format {
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).init(),
        LogFormat::Text => logs.with_target(false).init(),
    }
}
