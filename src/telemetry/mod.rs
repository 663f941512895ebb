//! The operator's own logs, metrics, traces and health.

mod durations;
mod json;
mod load;
mod metrics;
mod names;
mod otlp;
mod server;
mod traces;
mod usage;

use tracing::Span;
use tracing_subscriber::EnvFilter;

pub use durations::{Request, Server, Timer};
pub use load::{BudgetGauges, ProviderLoad};
pub use metrics::Metrics;
pub use names::Names;
pub use opentelemetry::KeyValue;
pub use otlp::{Exporter, OtlpEndpoint, Service};
pub use server::{Health, listen, serve};
pub use traces::{EndedSpan, JOB_SPAN, SpanError, TracedJob, Traces};
pub use usage::Usage;

/// Format of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// Default filter of logs, which `RUST_LOG` overrides.
const FILTER: &str = "info,kube=warn,hyper=warn,tower=warn";
/// Filter of kube's client, whatever `RUST_LOG` says: it logs all of what it cannot read from the API server, and reports
/// failed requests without saying which. Whoever made the request reports it, where it matters.
const CLIENT: &str = "kube_client::client=off";

/// Writes logs to standard error; `RUST_LOG` sets levels. Prompts, answers and keys are never in them.
pub fn init_logs(format: LogFormat) {
    let filter = without_bodies(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER)));
    let for_a_person = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(for_a_person);
    match format {
        LogFormat::Json => logs.json().event_format(json::Flat).init(),
        LogFormat::Text => logs.with_target(false).init(),
    }
}

/// The span of a visit of an object, and of what the visit begins beside itself: all that is logged in it has these fields. It is there
/// at every level, as warnings need them too.
pub fn visit(namespace: Option<&str>, name: &str, uid: Option<&str>) -> Span {
    tracing::error_span!(parent: None, "visit", namespace, name, uid)
}

fn without_bodies(filter: EnvFilter) -> EnvFilter {
    match CLIENT.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => EnvFilter::new(FILTER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_sent_is_never_logged() {
        for wanted in [FILTER, "trace", "warn,kube_client::client=trace"] {
            let filter = without_bodies(EnvFilter::new(wanted)).to_string();
            let of_the_client = filter.split(',').filter(|directive| directive.starts_with("kube_client::client"));
            assert_eq!(of_the_client.collect::<Vec<_>>(), [CLIENT], "{wanted}");
        }
    }
}
