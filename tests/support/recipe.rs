//! How to make batches, where nothing about it matters.

use batchjob_operator::api::ProviderType;
use batchjob_operator::provider::Dialect;
use batchjob_operator::requests::{PlanOptions, SizeLimit};

/// Chat completions of the model `m`, up to 1,000 requests and 1 MiB a batch.
pub fn options() -> PlanOptions {
    PlanOptions {
        provider: "p".into(),
        endpoint: Default::default(),
        model: Some("m".into()),
        base_url: "https://llm.test/v1".into(),
        line: (Dialect::of(ProviderType::OpenAI).line)(Default::default()).unwrap(),
        defaults: Default::default(),
        format: Default::default(),
        compression: Default::default(),
        csv: Default::default(),
        selection: Default::default(),
        template: None,
        size_limit: SizeLimit { bytes: 1 << 20, then: Default::default() },
        empty_policy: Default::default(),
        run_id: None,
        max_requests: 1000,
        max_bytes: 1 << 20,
        max_inputs: 50_000,
        max_text: Default::default(),
        open_disk: u64::MAX,
        max_batches: 100,
        allowed_models: vec![],
        hash_version: Default::default(),
        canary: None,
        answers: None,
    }
}
