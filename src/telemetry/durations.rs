//! Histograms of durations and waiting times, in seconds.

use std::time::{Duration, Instant};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the buckets, in seconds: from a step that finds nothing to do, to a transfer that used up its time.
const BUCKETS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 900.0];

/// Upper bounds of the buckets of times that batches take, and wait, in seconds: up to two days.
const LONG: [f64; 12] =
    [15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0, 57_600.0, 86_400.0, 172_800.0];

/// Upper bounds of the buckets of the time from a batch's end to its job's, in seconds.
const LAGS: [f64; 10] = [1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0];

/// A histogram for each value of some labels, which are from fixed sets.
type Labelled<const N: usize> = Family<[(&'static str, &'static str); N], Histogram, fn() -> Histogram>;

fn seconds() -> Histogram {
    Histogram::new(BUCKETS)
}

fn long() -> Histogram {
    Histogram::new(LONG)
}

/// Durations, and waiting times before the start.
#[derive(Clone, Debug)]
pub(super) struct Durations {
    pub visits: Histogram,
    pub visit_queue: Histogram,
    pub transfers: Labelled<1>,
    pub transfer_queue: Labelled<1>,
    pub provider_requests: Labelled<2>,
    pub provider_request_queue: Histogram,
    pub storage_requests: Labelled<2>,
    pub webhook_requests: Labelled<2>,
    pub batch_turnaround: Labelled<1>,
    pub quota_wait: Histogram,
    pub completion_lag: Histogram,
}

impl Durations {
    /// Registers them all.
    pub fn register(registry: &mut Registry) -> Durations {
        let mut registered = Registered(registry);
        Durations {
            visits: registered.one("visit_duration", "Time that a visit of a job takes"),
            visit_queue: registered.one("visit_queue_duration", "Time that a visit of a job waits for its turn"),
            transfers: registered.family("transfer_duration", "Time that a transfer takes, by kind"),
            transfer_queue: registered
                .family("transfer_queue_duration", "Time that a transfer waits for its memory, by kind"),
            provider_requests: registered.family(
                "provider_request_duration",
                "Time until a provider begins its answer to a request, by method and class of the status code",
            ),
            provider_request_queue: registered.one(
                "provider_request_queue_duration",
                "Time that a call of an account waits for its turn, and for the end of a pause that the provider asked for",
            ),
            storage_requests: registered.family(
                "storage_request_duration",
                "Time until an object store begins its answer to a request, by method and class of the status code",
            ),
            webhook_requests: registered.family(
                "webhook_request_duration",
                "Time until a webhook begins its answer to a message, by method and class of the status code",
            ),
            batch_turnaround: registered.family_of(
                "batch_turnaround",
                "Time from the submission of a batch to its end, by type of the provider",
                long,
            ),
            quota_wait: registered.one_of(
                "quota_wait",
                "Time that a job waits for a place of its account for one more batch, if it has to wait",
                long(),
            ),
            completion_lag: registered.one_of(
                "completion_lag",
                "Time from the end of a job's last batch at the provider to the job's end in status",
                Histogram::new(LAGS),
            ),
        }
    }
}

struct Registered<'a>(&'a mut Registry);

impl Registered<'_> {
    fn one(&mut self, name: &str, help: &str) -> Histogram {
        self.one_of(name, help, seconds())
    }

    fn one_of(&mut self, name: &str, help: &str, histogram: Histogram) -> Histogram {
        self.0.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        histogram
    }

    fn family<const N: usize>(&mut self, name: &str, help: &str) -> Labelled<N> {
        self.family_of(name, help, seconds)
    }

    fn family_of<const N: usize>(&mut self, name: &str, help: &str, of: fn() -> Histogram) -> Labelled<N> {
        let family = Labelled::<N>::new_with_constructor(of);
        self.0.register_with_unit(name, help, Unit::Seconds, family.clone());
        family
    }
}

/// Measures the time until it is dropped.
#[derive(Debug)]
pub struct Timer {
    began: Instant,
    of: Histogram,
}

impl Timer {
    pub(super) fn new(of: &Histogram) -> Timer {
        Timer { began: Instant::now(), of: of.clone() }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.of.observe(self.began.elapsed().as_secs_f64());
    }
}

/// A kind of server that users name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// A provider.
    Provider,
    /// An object store.
    Store,
    /// A webhook that is told of jobs.
    Webhook,
}

/// A request to a server that a user named, whose answer began or will not come.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Kind of the server.
    pub to: Server,
    /// Method, such as `GET`.
    pub method: &'a str,
    /// Status code of the answer; None where none came.
    pub status: Option<u16>,
    /// Time until the head of the answer, or until it was given up.
    pub took: Duration,
}

impl Request<'_> {
    /// Returns the labels of the request, from fixed sets of methods and status codes.
    pub(super) fn labels(&self) -> [(&'static str, &'static str); 2] {
        let methods = ["GET", "PUT", "POST", "DELETE", "HEAD"];
        let method = methods.into_iter().find(|method| *method == self.method).unwrap_or("other");
        let code = match self.status.map(|status| status / 100) {
            Some(2) => "2xx",
            Some(3) => "3xx",
            Some(4) => "4xx",
            Some(5) => "5xx",
            Some(_) => "other",
            None => "none",
        };
        [("method", method), ("code", code)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    /// Metrics of a provider, a store and a webhook that were asked, of a visit and of a transfer.
    fn measured() -> Metrics {
        let metrics = Metrics::default();
        drop((metrics.visit(), metrics.visit_queue(), metrics.transfer("Upload"), metrics.transfer_queue("Upload")));
        metrics.provider_request_queue(Duration::from_millis(20));
        metrics.batch_turnaround("OpenAI", Duration::from_secs(3_000));
        metrics.completion_lag(Duration::from_secs(20));
        drop(metrics.quota_wait());
        let took = Duration::from_secs(2);
        for (to, method, status) in [
            (Server::Provider, "POST", Some(201)),
            (Server::Provider, "BREW", Some(418)),
            (Server::Provider, "GET", None),
            (Server::Store, "GET", Some(304)),
            (Server::Webhook, "POST", Some(410)),
        ] {
            metrics.request(Request { to, method, status, took });
        }
        metrics
    }

    #[test]
    fn what_took_time_is_counted_once_by_labels_of_fixed_sets() {
        let text = measured().text().unwrap();
        let mut counts: Vec<&str> = text.lines().filter(|line| line.contains("_seconds_count")).collect();
        counts.sort_unstable();
        insta::assert_snapshot!(counts.join("\n"), @r#"
        batchjob_batch_turnaround_seconds_count{type="OpenAI"} 1
        batchjob_completion_lag_seconds_count 1
        batchjob_provider_request_duration_seconds_count{method="GET",code="none"} 1
        batchjob_provider_request_duration_seconds_count{method="POST",code="2xx"} 1
        batchjob_provider_request_duration_seconds_count{method="other",code="4xx"} 1
        batchjob_provider_request_queue_duration_seconds_count 1
        batchjob_quota_wait_seconds_count 1
        batchjob_storage_request_duration_seconds_count{method="GET",code="3xx"} 1
        batchjob_transfer_duration_seconds_count{kind="Upload"} 1
        batchjob_transfer_queue_duration_seconds_count{kind="Upload"} 1
        batchjob_visit_duration_seconds_count 1
        batchjob_visit_queue_duration_seconds_count 1
        batchjob_webhook_request_duration_seconds_count{method="POST",code="4xx"} 1
        "#);
        let two_seconds = "batchjob_storage_request_duration_seconds_sum{method=\"GET\",code=\"3xx\"} 2.0";
        assert!(text.contains(two_seconds), "{text}");
    }

    /// The table of histograms in `docs/architecture.md`.
    #[test]
    fn each_histogram_is_documented() {
        let text = measured().text().unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let histograms: Vec<&str> = types.filter_map(|line| line.strip_suffix(" histogram")).collect();
        assert_eq!(histograms.len(), 11, "{histograms:?}");
        let page = include_str!("../../docs/architecture.md");
        for name in histograms {
            assert!(page.contains(&format!("| `{name}` |")), "docs/architecture.md lacks {name}");
        }
    }
}
