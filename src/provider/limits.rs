//! Limits of batches, as the vendors document them.

use crate::api::{EffectiveLimits, ProviderLimits};

/// Limits that a vendor documents for its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of requests in one batch.
    pub requests: i32,
    /// Maximum size of the input file, in bytes.
    pub bytes: i64,
    /// Maximum number of inputs of embeddings, over all requests of one batch.
    pub inputs: i32,
    /// Default of the time in which a batch is run, in seconds; whole hours.
    pub window_seconds: i32,
}

impl Limits {
    /// Returns the limits that apply if a provider object sets some of them.
    pub fn effective(self, set: ProviderLimits) -> EffectiveLimits {
        EffectiveLimits {
            max_batches_in_flight: set.max_batches_in_flight,
            max_enqueued_requests: set.max_enqueued_requests,
            max_requests_per_batch: set.max_requests_per_batch.unwrap_or(self.requests),
            max_bytes_per_batch: set.max_bytes_per_batch.unwrap_or(self.bytes),
            max_inputs_per_batch: set.max_inputs_per_batch.unwrap_or(self.inputs),
        }
    }

    /// Returns the whole hours in which a batch is to be run. `asked_seconds` is what the job asks for.
    pub fn window_hours(self, asked_seconds: Option<i32>) -> u32 {
        asked_seconds.unwrap_or(self.window_seconds).unsigned_abs() / 3600
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{BatchJobSpec, BatchProviderSpec, ProviderType};
    use crate::provider::Dialect;

    fn of(type_: ProviderType) -> Limits {
        Dialect::of(type_).limits
    }

    /// Every plan depends on the figures: with others, an input would be cut into other batches.
    #[test]
    fn limits_that_are_unset_are_the_vendors_and_stay_unset() {
        for (type_, requests) in [("OpenAI", 50_000), ("OpenAICompatible", 50_000), ("AzureOpenAI", 100_000)] {
            let manifest = json!({"type": type_, "limits": {"maxRequestsPerBatch": 9}});
            let spec: BatchProviderSpec = serde_json::from_value(manifest).unwrap();
            let effective = json!(of(spec.type_).effective(spec.limits));
            let wanted =
                json!({"maxRequestsPerBatch": 9, "maxBytesPerBatch": 200_000_000, "maxInputsPerBatch": 50_000});
            assert_eq!(effective, wanted);
            assert_eq!(json!(spec)["limits"], json!({"maxRequestsPerBatch": 9}));
            let plain: BatchProviderSpec = serde_json::from_value(json!({"type": type_})).unwrap();
            assert_eq!(json!(of(plain.type_).effective(plain.limits))["maxRequestsPerBatch"], requests);
            assert!(json!(plain).get("limits").is_none(), "{}", json!(plain));
        }
    }

    /// Earlier versions had the API server write OpenAI's limits and window into every object.
    #[test]
    fn objects_with_the_limits_of_versions_before_mean_the_same() {
        let limits =
            json!({"maxRequestsPerBatch": 50_000, "maxBytesPerBatch": 200_000_000, "maxInputsPerBatch": 50_000});
        let stored: BatchProviderSpec = serde_json::from_value(json!({"type": "OpenAI", "limits": limits})).unwrap();
        let now: BatchProviderSpec = serde_json::from_value(json!({"type": "OpenAI"})).unwrap();
        let effective = |spec: &BatchProviderSpec| of(spec.type_).effective(spec.limits);
        assert_eq!(effective(&stored), effective(&now));
        let job = |window: serde_json::Value| -> BatchJobSpec {
            let mut spec = json!({"providerRef": {"name": "p"}, "input": {}, "output": {}});
            spec["completionWindowSeconds"] = window;
            serde_json::from_value(spec).unwrap()
        };
        let hours = |spec: &BatchJobSpec| of(now.type_).window_hours(spec.completion_window_seconds);
        assert_eq!([hours(&job(json!(86_400))), hours(&job(json!(null)))], [24, 24]);
        assert_eq!(hours(&job(json!(7200))), 2);
    }
}
