//! Requests, tokens and cost of batches that ended, by namespace, provider and model.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::names::{ByNames, Limits, Names};

/// Each has at most twelve series.
const LIMITS: Limits = Limits { total: 500, of_namespace: 16 };
/// Time without a batch after which series of names that are not known any more end.
const IDLE: Duration = Duration::from_secs(3_600);

/// The use of batches that ended. No count is part of another one of the same field.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Requests, by outcome: succeeded, failed, expired, cancelled, missing.
    pub requests: [u64; 5],
    /// Tokens, by kind: input that was not cached, cached input, output without reasoning, reasoning, embedding.
    pub tokens: [u64; 5],
    /// Cost in USD, by batch, and what was saved against single calls; None without prices.
    pub cost_and_saved_usd: Option<(f64, f64)>,
}

/// The values of the label `outcome`, in the order of [`Usage::requests`].
const OUTCOMES: [&str; 5] = ["Succeeded", "Failed", "Expired", "Cancelled", "Missing"];
/// The values of the label `kind`, in the order of [`Usage::tokens`].
const KINDS: [&str; 5] = ["input", "cached_input", "output", "reasoning", "embedding"];

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, Usage { requests, tokens, cost_and_saved_usd }: Usage) {
        let add = |sums: &mut [u64; 5], more: [u64; 5]| {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(more));
        };
        add(&mut self.requests, requests);
        add(&mut self.tokens, tokens);
        if let Some((cost, saved)) = cost_and_saved_usd {
            let (all_cost, all_saved) = self.cost_and_saved_usd.unwrap_or_default();
            self.cost_and_saved_usd = Some((all_cost + cost, all_saved + saved));
        }
    }
}

/// The sums since the start of the process.
#[derive(Clone, Debug)]
pub(super) struct UsageByNames(Arc<Mutex<ByNames<Usage>>>);

impl Default for UsageByNames {
    fn default() -> Self {
        UsageByNames(Arc::new(Mutex::new(ByNames::new(LIMITS))))
    }
}

impl UsageByNames {
    pub fn add(&self, names: &Names, usage: Usage) {
        *self.lock().of(names, Instant::now()) += usage;
    }

    /// Ends series that were not used for an hour and whose names are not known any more.
    pub fn drop_unknown(&self, is_known: impl Fn(&Names) -> bool) {
        self.lock().drop_unknown(Instant::now(), IDLE, is_known);
    }

    fn lock(&self) -> MutexGuard<'_, ByNames<Usage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for UsageByNames {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let sums = self.lock();
        let help = "Requests of batches that ended, by outcome; one that is sent again counts again";
        let mut metric = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for (names, sum) in sums.iter() {
            let [namespace, provider, model] = names.labels();
            for (outcome, requests) in OUTCOMES.into_iter().zip(sum.requests) {
                let labels = [namespace, provider, model, ("outcome", outcome)];
                ConstCounter::new(requests).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "Tokens that providers reported for batches that ended, by kind; none counts in two kinds";
        let mut metric = encoder.encode_descriptor("tokens", help, None, MetricType::Counter)?;
        for (names, sum) in sums.iter() {
            let [namespace, provider, model] = names.labels();
            for (kind, tokens) in KINDS.into_iter().zip(sum.tokens) {
                let labels = [namespace, provider, model, ("kind", kind)];
                ConstCounter::new(tokens).encode(metric.encode_family(&labels)?)?;
            }
        }
        let priced = || sums.iter().filter_map(|(names, sum)| Some((names, sum.cost_and_saved_usd?)));
        let help = "Cost in USD of batches that ended, at the prices of their submission";
        let mut metric = encoder.encode_descriptor("cost_usd", help, None, MetricType::Counter)?;
        for (names, (cost, _)) in priced() {
            ConstCounter::new(cost).encode(metric.encode_family(&names.labels())?)?;
        }
        let help = "USD that batches which ended cost less than single calls in real time";
        let mut metric = encoder.encode_descriptor("saved_usd", help, None, MetricType::Counter)?;
        for (names, (_, saved)) in priced() {
            ConstCounter::new(saved).encode(metric.encode_family(&names.labels())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn names(namespace: &str, model: &str) -> Names {
        Names { namespace: namespace.into(), provider: "BatchProvider/llm".into(), model: model.into() }
    }

    /// Sums of the samples whose name and labels begin so.
    fn sum(text: &str, of: &str) -> f64 {
        let samples = text.lines().filter(|line| line.starts_with(of));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    #[test]
    fn what_batches_used_is_counted_by_namespace_provider_and_model() {
        let metrics = Metrics::default();
        let unpriced = Usage { requests: [9, 1, 0, 0, 0], tokens: [100, 20, 30, 4, 0], cost_and_saved_usd: None };
        metrics.used(&names("shop", "gpt"), Usage { cost_and_saved_usd: Some((0.25, 0.5)), ..unpriced });
        metrics.used(&names("shop", "gpt"), Usage { cost_and_saved_usd: Some((0.5, 0.5)), ..unpriced });
        metrics.used(&names("docs", "say \"hi\"\n"), unpriced);
        let text = metrics.text().unwrap();
        let of_shop = r#"{namespace="shop",provider="BatchProvider/llm",model="gpt""#;
        for (of, wanted) in [
            (format!(r#"batchjob_requests_total{of_shop},outcome="Succeeded"}}"#), 18.0),
            (format!("batchjob_requests_total{of_shop}"), 20.0),
            (format!(r#"batchjob_tokens_total{of_shop},kind="cached_input"}}"#), 40.0),
            ("batchjob_tokens_total{".into(), 462.0),
            (format!("batchjob_cost_usd_total{of_shop}}}"), 0.75),
            ("batchjob_saved_usd_total{".into(), 1.0),
        ] {
            assert_eq!(sum(&text, &of), wanted, "{of}: {text}");
        }
        assert!(!text.contains(r#"cost_usd_total{namespace="docs""#), "no prices, no cost: {text}");
        assert!(text.contains(r#"model="say \"hi\"\n",outcome="Missing"} 0"#), "{text}");
    }

    /// 10,000 names of each of 1,000 tenants.
    #[test]
    fn series_stay_below_seven_thousand_and_lose_no_count_of_one_tenant() {
        let metrics = Metrics::default();
        let one = Usage { requests: [1; 5], tokens: [1; 5], cost_and_saved_usd: Some((1.0, 1.0)) };
        (0..10_000).for_each(|n| metrics.used(&names("greedy", &format!("m{n}")), one));
        let text = metrics.text().unwrap();
        assert_eq!(sum(&text, "batchjob_cost_usd_total{"), 10_000.0);
        let of_greedy = text.lines().filter(|line| line.starts_with("batchjob_cost_usd_total{")).count();
        assert_eq!(of_greedy, 15, "14 models, and the sum of the others of their provider");
        (0..1_000).for_each(|n| (0..3).for_each(|m| metrics.used(&names(&format!("n{n}"), &format!("m{m}")), one)));
        let text = metrics.text().unwrap();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!((6_000..7_000).contains(&series), "{series}");
        assert!(text.contains(r#"namespace="greedy""#) && text.contains(r#"namespace="n0""#));
    }
}
