//! Batches in flight and budgets, by namespace and provider object.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::names::{OTHER, share_out};

/// Most pairs of a namespace and a provider that have series of their own, four each; the others are summed.
const PAIRS: usize = 300;
/// Most budgets that have series, three each.
const BUDGETS: usize = 250;

/// The batches that jobs of a namespace have in flight at a provider object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProviderLoad {
    /// Namespace of the jobs.
    pub namespace: String,
    /// Kind and name of the provider object, such as `ClusterBatchProvider/openai`.
    pub provider: String,
    /// Batches that may run.
    pub batches: u64,
    /// Requests of these batches.
    pub requests: u64,
    /// Input tokens that are expected of them.
    pub tokens: u64,
    /// Seconds since the last progress of the job that has had none for the longest time.
    pub seconds_without_progress: u64,
}

impl ProviderLoad {
    /// Adds what other jobs have under way.
    pub fn add(&mut self, other: &ProviderLoad) {
        self.seconds_without_progress = self.seconds_without_progress.max(other.seconds_without_progress);
        for (sum, more) in
            [(&mut self.batches, other.batches), (&mut self.requests, other.requests), (&mut self.tokens, other.tokens)]
        {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Amounts of a budget of a provider object in its current period, as gauges show them, in USD.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetGauges {
    /// Namespace that has the budget for itself; else that of the provider object, or empty if it has none.
    pub namespace: String,
    /// `Day` or `Month`.
    pub period: &'static str,
    /// The budget.
    pub budget: f64,
    /// Cost of batches that ended.
    pub spent: f64,
    /// The rest, neither spent nor reserved for batches in flight.
    pub left: f64,
}

/// A provider object: its namespace, empty if it has none, and its kind and name.
type Provider = (String, String);
type Loads = dyn Fn() -> Vec<ProviderLoad> + Send + Sync;
/// A count of what is under way: the name of its metric, its help text, and its value.
type Count = (&'static str, &'static str, fn(&ProviderLoad) -> u64);
/// An amount of a budget: the name of its metric, its help text, and its value.
type Amount = (&'static str, &'static str, fn(&BudgetGauges) -> f64);

/// The batches in flight, counted on each scrape, and the budgets as of the last look.
#[derive(Clone, Default)]
pub(super) struct AtProviders {
    loads: Arc<Mutex<Option<Box<Loads>>>>,
    budgets: Arc<Mutex<BTreeMap<Provider, Vec<BudgetGauges>>>>,
}

impl std::fmt::Debug for AtProviders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtProviders").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AtProviders {
    pub fn count_loads(&self, count: impl Fn() -> Vec<ProviderLoad> + Send + Sync + 'static) {
        *lock(&self.loads) = Some(Box::new(count));
    }

    pub fn set_budgets(&self, namespace: &str, provider: &str, budgets: Vec<BudgetGauges>) {
        let key = (namespace.into(), provider.into());
        match budgets.is_empty() {
            true => lock(&self.budgets).remove(&key),
            false => lock(&self.budgets).insert(key, budgets),
        };
    }

    /// Ends the series of budgets whose provider object is not known any more.
    pub fn drop_unknown(&self, is_known: impl Fn(&str, &str) -> bool) {
        lock(&self.budgets).retain(|(namespace, provider), _| is_known(namespace, provider));
    }

    fn loads(&self) -> Vec<ProviderLoad> {
        let Some(loads) = lock(&self.loads).as_ref().map(|count| count()) else { return vec![] };
        let (mut kept, others) = share_out(loads, PAIRS, |load| &load.namespace);
        if !others.is_empty() {
            let mut sum = ProviderLoad { namespace: OTHER.into(), provider: OTHER.into(), ..ProviderLoad::default() };
            others.iter().for_each(|load| sum.add(load));
            kept.push(sum);
        }
        kept
    }

    /// Returns the budgets with their provider. Of several budgets of one period and namespace, the one counts that has the least left.
    fn budgets(&self) -> Vec<(String, BudgetGauges)> {
        let budgets = lock(&self.budgets);
        let mut least: BTreeMap<(&str, &str, &str, &str), &BudgetGauges> = BTreeMap::new();
        for ((namespace, provider), uses) in budgets.iter() {
            for used in uses {
                let least = least.entry((namespace, provider, &used.namespace, used.period)).or_insert(used);
                if used.left < least.left {
                    *least = used;
                }
            }
        }
        let rows: Vec<_> = least.into_iter().collect();
        let (kept, _) = share_out(rows, BUDGETS, |((namespace, ..), _)| namespace);
        kept.into_iter().map(|((_, provider, ..), used)| (provider.to_string(), used.clone())).collect()
    }
}

impl Collector for AtProviders {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let loads = self.loads();
        let counts: [Count; 4] = [
            ("batches_in_flight", "Batches that may run, by namespace and provider object", |load| load.batches),
            ("enqueued_requests", "Requests of batches that may run", |load| load.requests),
            ("enqueued_tokens", "Input tokens that are expected of batches that may run", |load| load.tokens),
            (
                "seconds_without_progress",
                "Time since the last progress of the running job that has had none for the longest time",
                |load| load.seconds_without_progress,
            ),
        ];
        for (name, help, count) in counts {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for load in &loads {
                let labels = [("namespace", load.namespace.as_str()), ("provider", &load.provider)];
                ConstGauge::new(count(load)).encode(metric.encode_family(&labels)?)?;
            }
        }
        let budgets = self.budgets();
        let amounts: [Amount; 3] = [
            ("budget_usd", "Budgets of provider objects in USD, by period", |used| used.budget),
            ("budget_spent_usd", "Cost in USD of batches that were sent in a budget's period and ended", |used| {
                used.spent
            }),
            (
                "budget_left_usd",
                "USD of a budget that are neither spent nor reserved for batches in flight, at their most",
                |used| used.left,
            ),
        ];
        for (name, help, amount) in amounts {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (provider, used) in &budgets {
                let labels = [("namespace", used.namespace.as_str()), ("provider", provider), ("period", used.period)];
                ConstGauge::new(amount(used)).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn used(namespace: &str, left: f64) -> BudgetGauges {
        BudgetGauges { namespace: namespace.into(), period: "Day", budget: 10.0, spent: 2.0, left }
    }

    fn samples(metrics: &Metrics, of: &str) -> Vec<String> {
        let text = metrics.text().unwrap();
        text.lines().filter(|line| line.starts_with(of)).map(String::from).collect()
    }

    fn text_has(metrics: &Metrics, sample: &str) -> bool {
        samples(metrics, sample).iter().any(|line| line == sample)
    }

    #[test]
    fn budgets_are_shown_as_they_were_last_looked_at_until_their_provider_is_gone() {
        let metrics = Metrics::default();
        metrics.budgets("", "ClusterBatchProvider/openai", vec![used("", 5.0), used("shop", 4.5), used("shop", 3.5)]);
        metrics.budgets("docs", "BatchProvider/llm", vec![used("docs", 1.0)]);
        assert_eq!(
            samples(&metrics, "batchjob_budget_left_usd"),
            [
                r#"batchjob_budget_left_usd{namespace="",provider="ClusterBatchProvider/openai",period="Day"} 5.0"#,
                r#"batchjob_budget_left_usd{namespace="docs",provider="BatchProvider/llm",period="Day"} 1.0"#,
                r#"batchjob_budget_left_usd{namespace="shop",provider="ClusterBatchProvider/openai",period="Day"} 3.5"#,
            ]
        );
        metrics.budgets("", "ClusterBatchProvider/openai", vec![]);
        assert_eq!(samples(&metrics, "batchjob_budget_spent_usd").len(), 1);
        metrics.drop_unknown(|_| true, |_, provider| provider != "BatchProvider/llm");
        assert_eq!(samples(&metrics, "batchjob_budget"), Vec::<String>::new());
    }

    #[test]
    fn what_is_under_way_is_bounded_and_its_sum_is_right_whoever_has_many_providers() {
        let metrics = Metrics::default();
        let load = |namespace: &str, n: i32| ProviderLoad {
            namespace: namespace.into(),
            provider: format!("BatchProvider/{n}"),
            batches: 2,
            requests: 6,
            tokens: 600,
            seconds_without_progress: n.unsigned_abs().into(),
        };
        metrics.count_loads(move || (0..1_000).map(|n| load("greedy", n)).chain([load("shop", 1)]).collect());
        let samples = samples(&metrics, "batchjob_batches_in_flight{");
        assert_eq!(samples.len(), PAIRS + 1);
        assert!(
            samples.contains(&r#"batchjob_batches_in_flight{namespace="shop",provider="BatchProvider/1"} 2"#.into())
        );
        let sum: u64 = samples.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(sum, 2_002);
        assert!(text_has(&metrics, r#"batchjob_enqueued_requests{namespace="other",provider="other"} 4206"#));
        assert!(text_has(&metrics, r#"batchjob_seconds_without_progress{namespace="other",provider="other"} 999"#));
        assert!(text_has(&metrics, r#"batchjob_enqueued_tokens{namespace="shop",provider="BatchProvider/1"} 600"#));
    }
}
