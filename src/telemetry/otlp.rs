//! The way of spans to a collector, as OTLP over HTTP.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::SpanExporter as _;
use reqwest::redirect::Policy;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::Metrics;
use super::traces::{QueuedSpan, Traces, Waiting};

/// Spans in one request.
const BATCH: usize = 256;
/// Time for one request, and for it and its repetition.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after a stop within which everything is sent or dropped.
const GRACE: Duration = Duration::from_secs(2);
/// Time after a stop without a span after which none is expected: tasks that end with the process may still record some.
const QUIET: Duration = Duration::from_millis(200);

/// The URL of a collector, without the path of a signal. It never holds a password: [`Display`](fmt::Display) shows all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint(Url);

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| format!("{e}; write http://HOST:4318"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err("it is no URL of a collector that takes OTLP over HTTP; write http://HOST:4318".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it has a password; put a header with it into OTEL_EXPORTER_OTLP_HEADERS".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("it has a query or a fragment; write http://HOST:4318".into());
        }
        Ok(OtlpEndpoint(url))
    }
}

impl OtlpEndpoint {
    /// Returns the URL that traces are sent to.
    fn traces(&self) -> String {
        format!("{}/v1/traces", self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// The process that sends spans, as the collector knows it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name of this replica.
    pub instance: String,
    /// The uid of `kube-system`, which identifies the cluster.
    pub cluster: String,
}

/// The sender of recorded spans.
#[derive(Debug)]
pub struct Exporter {
    queued: mpsc::Receiver<QueuedSpan>,
    waiting: Waiting,
    exporter: SpanExporter,
    endpoint: OtlpEndpoint,
    metrics: Metrics,
    /// Whether the collector took no spans the last time.
    is_away: bool,
}

impl Exporter {
    /// Returns a recorder and the sender of its spans. `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_COMPRESSION` and
    /// `OTEL_RESOURCE_ATTRIBUTES` of the environment apply. Nothing is sent before [`Exporter::run`].
    ///
    /// # Errors
    /// If such a variable cannot be used, or TLS cannot be set up.
    pub fn new(endpoint: OtlpEndpoint, service: &Service, metrics: Metrics) -> Result<(Traces, Exporter), String> {
        // Neither redirects nor a proxy of the environment: the headers may hold a credential of the collector.
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none());
        let client = client.timeout(REQUEST_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build();
        let client = client.map_err(|error| error.to_string())?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(endpoint.traces())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(REQUEST_TIMEOUT)
            .with_retry_policy(RetryPolicy::recommended().with_max_retries(1))
            .build();
        let mut exporter = exporter.map_err(|error| error.to_string())?;
        exporter.set_resource(&resource(service));
        let (traces, queued, waiting) = Traces::new(metrics.clone());
        Ok((traces, Exporter { queued, waiting, exporter, endpoint, metrics, is_away: false }))
    }

    /// Sends spans until `stop`, and then for at most two seconds those that are left. What the collector does not take at the
    /// second try is dropped and counted.
    pub async fn run(mut self, stop: CancellationToken) {
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            () = self.send_all(&stop) => {}
            () = over => {}
        }
    }

    async fn send_all(&mut self, stop: &CancellationToken) {
        let mut spans = Vec::with_capacity(BATCH);
        loop {
            let quiet = async {
                stop.cancelled().await;
                tokio::time::sleep(QUIET).await;
            };
            tokio::select! {
                count = self.queued.recv_many(&mut spans, BATCH) => if count == 0 { return },
                () = quiet => return,
            }
            self.waiting.taken(&spans);
            self.send(spans.drain(..).map(|queued| queued.span).collect()).await;
        }
    }

    async fn send(&mut self, spans: Vec<opentelemetry_sdk::trace::SpanData>) {
        let count = spans.len();
        let sent = self.exporter.export(spans).await;
        let was_away = std::mem::replace(&mut self.is_away, sent.is_err());
        match sent {
            Ok(()) if was_away => info!(endpoint = %self.endpoint, "the collector takes spans again"),
            Ok(()) => {}
            Err(why) => {
                self.metrics.trace_spans_dropped.inc_by(count as u64);
                if !was_away {
                    warn!(endpoint = %self.endpoint, %why, "the collector takes no spans, and they are dropped");
                }
            }
        }
    }
}

/// Returns what the collector is told of this process. The environment goes before our own values.
fn resource(service: &Service) -> Resource {
    Resource::builder_empty()
        .with_service_name(env!("CARGO_PKG_NAME"))
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", service.instance.clone()),
            KeyValue::new("k8s.cluster.uid", service.cluster.clone()),
        ])
        .with_detector(Box::new(EnvResourceDetector::new()))
        .build()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::*;
    use crate::telemetry::{EndedSpan, TracedJob};

    fn exporter(endpoint: &str, metrics: &Metrics) -> (Traces, Exporter) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let service = Service { instance: "i".into(), cluster: "c".into() };
        Exporter::new(endpoint.parse().unwrap(), &service, metrics.clone()).unwrap()
    }

    fn record(traces: &Traces, spans: usize) {
        let (namespace, uid, attributes) = ("n".into(), "u".into(), vec![]);
        let job = TracedJob { namespace, uid, created: 0, now: 9, attributes };
        let span = |key: usize| EndedSpan {
            name: "wait",
            key: key.to_string(),
            start: 1,
            end: 2,
            attributes: vec![],
            error: None,
        };
        traces.record(&job, (0..spans).map(span).collect());
    }

    #[tokio::test]
    async fn spans_for_a_collector_that_is_away_are_dropped_and_counted() {
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let (traces, exporter) = exporter("http://127.0.0.1:9", &metrics);
        record(&traces, 3);
        stop.cancel();
        exporter.run(stop).await;
        assert_eq!(metrics.trace_spans_dropped.get(), 3);
        record(&traces, 1);
        assert_eq!(metrics.trace_spans_dropped.get(), 4, "nobody takes them any more");
    }

    #[tokio::test]
    async fn a_collector_that_never_answers_holds_up_a_stop_for_two_seconds_at_most_and_no_job() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let (traces, exporter) = exporter(&format!("http://{}", silent.local_addr().unwrap()), &metrics);
        record(&traces, 1);
        let running = tokio::spawn(exporter.run(stop.clone()));
        let _open = silent.accept().await.unwrap();
        let began = Instant::now();
        record(&traces, 3_000);
        assert!(began.elapsed() < Duration::from_secs(1) && metrics.trace_spans_dropped.get() > 0);
        stop.cancel();
        running.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }

    #[test]
    fn an_endpoint_is_a_url_to_which_the_path_of_traces_is_added() {
        for (text, traces) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("https://traces.example/otlp/", "https://traces.example/otlp/v1/traces"),
        ] {
            assert_eq!(text.parse::<OtlpEndpoint>().unwrap().traces(), traces);
        }
        for (text, advice) in [
            ("collector:4318", "write http://HOST:4318"),
            ("grpc://collector:4317", "write http://HOST:4318"),
            ("", "write http://HOST:4318"),
            ("http://u:p@collector:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("http://collector:4318?token=x", "write http://HOST:4318"),
        ] {
            let refused = text.parse::<OtlpEndpoint>().unwrap_err();
            assert!(refused.contains(advice), "{text}: {refused}");
        }
    }
}
