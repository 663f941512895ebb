//! Metrics. Most labels are from fixed sets; those that are names of objects have bounded numbers of values.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::durations::{Durations, Request, Server, Timer};
use super::load::{AtProviders, BudgetGauges, ProviderLoad};
use super::names::Names;
use super::usage::{Usage, UsageByNames};

type Labelled = Family<[(&'static str, &'static str); 1], Counter>;
type LabelledGauge = Family<[(&'static str, &'static str); 1], Gauge>;

/// Returns counts by the values of a single label.
type Count = dyn Fn() -> Vec<(&'static str, i64)> + Send + Sync;

/// A metric that is counted on each scrape.
#[derive(Clone)]
struct Counted {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    count: Arc<Mutex<Option<Box<Count>>>>,
}

impl Counted {
    fn new(name: &'static str, help: &'static str, label: &'static str) -> Counted {
        Counted { name, help, label, count: Arc::default() }
    }

    fn by(&self, count: impl Fn() -> Vec<(&'static str, i64)> + Send + Sync + 'static) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(count));
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = &*count else { return Ok(()) };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (value, number) in count() {
            ConstGauge::new(number).encode(metric.encode_family(&[(self.label, value)])?)?;
        }
        Ok(())
    }
}

/// The operator's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    steps: Labelled,
    failures: Labelled,
    provider_looks: Labelled,
    webhooks: Labelled,
    notifications: Labelled,
    usage: UsageByNames,
    at_providers: AtProviders,
    orphan_batches: LabelledGauge,
    jobs: Counted,
    providers: Counted,
    schedules: Counted,
    failing_calls: Counted,
    waiting: Counted,
    durations: Durations,
    /// Batches that were created at providers.
    pub batches_created: Counter,
    /// Writes of a status.
    pub status_writes: Counter,
    /// Events that were not written, for there were too many.
    pub events_dropped: Counter,
    /// Spans of traces that were not sent to the collector.
    pub trace_spans_dropped: Counter,
    /// 1 while this replica leads.
    pub leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let (steps, failures, provider_looks) = (Labelled::default(), Labelled::default(), Labelled::default());
        let (webhooks, notifications) = (Labelled::default(), Labelled::default());
        let (usage, at_providers) = (UsageByNames::default(), AtProviders::default());
        let orphan_batches = LabelledGauge::default();
        let (batches_created, status_writes, leader) = (Counter::default(), Counter::default(), Gauge::default());
        let (events_dropped, trace_spans_dropped) = (Counter::default(), Counter::default());
        let mut registry = Registry::with_prefix("batchjob");
        registry.register("steps", "Steps that were decided, by name", steps.clone());
        registry.register("step_failures", "Steps that failed and are tried again, by reason", failures.clone());
        registry.register("provider_looks", "Looks at provider accounts, by kind", provider_looks.clone());
        registry.register(
            "provider_webhooks",
            "Requests to the endpoints for webhooks of providers, by outcome",
            webhooks.clone(),
        );
        // An alert on an increase would miss the first one of a series that does not exist before.
        for outcome in ["Delivered", "Failed", "GaveUp"] {
            notifications.get_or_create(&[("outcome", outcome)]).inc_by(0);
        }
        registry.register(
            "notifications",
            "Attempts to tell a webhook of an event of a job, and messages that were given up, by outcome",
            notifications.clone(),
        );
        registry.register_collector(Box::new(usage.clone()));
        registry.register_collector(Box::new(at_providers.clone()));
        registry.register("batches_created", "Batches created at providers", batches_created.clone());
        registry.register("status_writes", "Writes of a BatchJob's status", status_writes.clone());
        registry.register(
            "events_dropped",
            "Events that were not written, for their namespace or all together had too many",
            events_dropped.clone(),
        );
        registry.register(
            "trace_spans_dropped",
            "Spans of traces that were not sent: the collector did not take them, or a job or its namespace had too many",
            trace_spans_dropped.clone(),
        );
        registry.register(
            "orphan_batches",
            "Batches of this cluster that run at providers and that no BatchJob follows, by kind of provider",
            orphan_batches.clone(),
        );
        registry.register("leader", "1 while this replica leads", leader.clone());
        let jobs = Counted::new("jobs", "BatchJobs of which a condition is true that asks for a person", "condition");
        let providers = Counted::new(
            "providers",
            "BatchProviders and ClusterBatchProviders, by the status of their Ready",
            "ready",
        );
        let schedules = Counted::new("schedules", "CronBatchJobs, by the status of their Ready", "ready");
        let failing_calls = Counted::new(
            "failing_calls",
            "Calls to providers and object stores that fail again and again, by the step that makes them",
            "call",
        );
        let waiting = Counted::new(
            "waiting",
            "Visits of jobs that wait for their turn, and transfers that wait for memory or local disk, by kind",
            "kind",
        );
        for counted in [&jobs, &providers, &schedules, &waiting, &failing_calls] {
            registry.register_collector(Box::new(counted.clone()));
        }
        let durations = Durations::register(&mut registry);
        Metrics {
            registry: Arc::new(registry),
            steps,
            failures,
            provider_looks,
            webhooks,
            notifications,
            usage,
            at_providers,
            orphan_batches,
            jobs,
            providers,
            schedules,
            failing_calls,
            waiting,
            durations,
            batches_created,
            status_writes,
            events_dropped,
            trace_spans_dropped,
            leader,
        }
    }
}

impl Metrics {
    /// Counts a step.
    pub fn step(&self, name: &'static str) {
        self.steps.get_or_create(&[("step", name)]).inc();
    }

    /// Counts a failure.
    pub fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a look at a provider account.
    pub fn provider_look(&self, kind: &'static str) {
        self.provider_looks.get_or_create(&[("look", kind)]).inc();
    }

    /// Counts a request to an endpoint for webhooks.
    pub fn webhook(&self, outcome: &'static str) {
        self.webhooks.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts an attempt to tell a webhook of an event of a job.
    pub fn notification(&self, outcome: &'static str) {
        self.notifications.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts what a batch used that ended. Without anything, it lets the series begin.
    pub fn used(&self, names: &Names, usage: Usage) {
        self.usage.add(names, usage);
    }

    /// Sets the use of the budgets of a provider object, by its namespace, empty if it has none, and its kind and name.
    pub fn budgets(&self, namespace: &str, provider: &str, budgets: Vec<BudgetGauges>) {
        self.at_providers.set_budgets(namespace, provider, budgets);
    }

    /// Sets the function that counts what is under way at providers on each scrape.
    pub fn count_loads(&self, count: impl Fn() -> Vec<ProviderLoad> + Send + Sync + 'static) {
        self.at_providers.count_loads(count);
    }

    /// Ends series of names that are not known any more: those of batches that ended if no such batch ended for an hour, and those of
    /// budgets of a provider object, by its namespace, and its kind and name.
    pub fn drop_unknown(&self, is_known: impl Fn(&Names) -> bool, is_provider: impl Fn(&str, &str) -> bool) {
        self.usage.drop_unknown(is_known);
        self.at_providers.drop_unknown(is_provider);
    }

    /// Sets the number of running batches that nobody follows, in accounts of a kind of provider.
    pub fn orphan_batches(&self, kind: &'static str, batches: i64) {
        self.orphan_batches.get_or_create(&[("provider", kind)]).set(batches);
    }

    /// Sets the function that counts jobs on each scrape, as `batchjob_jobs{condition="..."}`.
    pub fn count_jobs(&self, count: impl Fn() -> Vec<(&'static str, i64)> + Send + Sync + 'static) {
        self.jobs.by(count);
    }

    /// Sets the function that counts provider objects on each scrape, as `batchjob_providers{ready="..."}`.
    pub fn count_providers(&self, count: impl Fn() -> Vec<(&'static str, i64)> + Send + Sync + 'static) {
        self.providers.by(count);
    }

    /// Sets the function that counts CronBatchJobs on each scrape, as `batchjob_schedules{ready="..."}`.
    pub fn count_schedules(&self, count: impl Fn() -> Vec<(&'static str, i64)> + Send + Sync + 'static) {
        self.schedules.by(count);
    }

    /// Sets the function that counts failing calls on each scrape, as `batchjob_failing_calls{call="..."}`.
    pub fn count_failing_calls(&self, count: impl Fn() -> Vec<(&'static str, i64)> + Send + Sync + 'static) {
        self.failing_calls.by(count);
    }

    /// Sets the function that counts waiting work on each scrape, as `batchjob_waiting{kind="..."}`.
    pub fn count_waiting(&self, count: impl Fn() -> Vec<(&'static str, i64)> + Send + Sync + 'static) {
        self.waiting.by(count);
    }

    /// Measures a visit of a job until the timer is dropped.
    pub fn visit(&self) -> Timer {
        Timer::new(&self.durations.visits)
    }

    /// Measures how long a visit of a job waits for its turn, until the timer is dropped.
    pub fn visit_queue(&self) -> Timer {
        Timer::new(&self.durations.visit_queue)
    }

    /// Measures a transfer until the timer is dropped.
    pub fn transfer(&self, kind: &'static str) -> Timer {
        Timer::new(&self.durations.transfers.get_or_create(&[("kind", kind)]))
    }

    /// Measures how long a transfer waits for its memory, until the timer is dropped.
    pub fn transfer_queue(&self, kind: &'static str) -> Timer {
        Timer::new(&self.durations.transfer_queue.get_or_create(&[("kind", kind)]))
    }

    /// Records the time from the submission of a batch to its end, by type of the provider.
    pub fn batch_turnaround(&self, type_: &'static str, took: Duration) {
        self.durations.batch_turnaround.get_or_create(&[("type", type_)]).observe(took.as_secs_f64());
    }

    /// Measures how long a job waits for a place for one more batch, until the timer is dropped.
    pub fn quota_wait(&self) -> Timer {
        Timer::new(&self.durations.quota_wait)
    }

    /// Records the time from the end of a job's last batch at the provider to the job's end in status.
    pub fn completion_lag(&self, took: Duration) {
        self.durations.completion_lag.observe(took.as_secs_f64());
    }

    /// Records the duration of a request to a provider, an object store or a webhook.
    pub fn request(&self, request: Request) {
        let requests = match request.to {
            Server::Provider => &self.durations.provider_requests,
            Server::Store => &self.durations.storage_requests,
            Server::Webhook => &self.durations.webhook_requests,
        };
        requests.get_or_create(&request.labels()).observe(request.took.as_secs_f64());
    }

    /// Records the time for which a call of an account waited for its turn.
    pub fn provider_request_queue(&self, waited: Duration) {
        self.durations.provider_request_queue.observe(waited.as_secs_f64());
    }

    /// Returns the metrics as OpenMetrics text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
