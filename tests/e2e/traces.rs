//! What a collector of OpenTelemetry receives of jobs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::quiet::assert_quiet;
use crate::support::scene::{Scene, batch_lines};

/// The requests that came.
type Requests = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A collector that takes everything.
struct Collector {
    url: String,
    requests: Requests,
}

impl Collector {
    async fn start() -> Collector {
        let requests = Requests::default();
        let take = async |State(requests): State<Requests>, head: HeaderMap, body: Bytes| {
            requests.lock().unwrap().push((head, body));
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take)).with_state(requests.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        Collector { url, requests }
    }

    /// What came, as it is on the wire.
    fn requests(&self) -> Vec<(HeaderMap, Bytes)> {
        self.requests.lock().unwrap().clone()
    }

    fn received(&self) -> Vec<ExportTraceServiceRequest> {
        self.requests().into_iter().map(|(_, body)| ExportTraceServiceRequest::decode(body).unwrap()).collect()
    }

    /// The spans of a job, by name.
    fn spans(&self, job: &str) -> BTreeMap<String, Vec<Span>> {
        let resources = self.received().into_iter().flat_map(|request| request.resource_spans);
        let spans = resources.flat_map(|of| of.scope_spans).flat_map(|of| of.spans);
        let mut by_name: BTreeMap<String, Vec<Span>> = BTreeMap::new();
        for span in spans.filter(|span| attributes(&span.attributes)["batchjob.name"] == *job) {
            by_name.entry(span.name.clone()).or_default().push(span);
        }
        by_name
    }

    /// Waits until there are so many spans of a job with this name.
    async fn wait(&self, job: &str, name: &str, spans: usize) -> BTreeMap<String, Vec<Span>> {
        eventually(&format!("{spans} spans {name} of {job}"), 60, async || {
            let by_name = self.spans(job);
            (by_name.get(name).map_or(0, Vec::len) >= spans).then_some(by_name)
        })
        .await
    }
}

fn attributes(list: &[KeyValue]) -> Value {
    let value = |attribute: &KeyValue| match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
        Any::StringValue(text) => json!(text),
        Any::IntValue(number) => json!(number),
        Any::BoolValue(flag) => json!(flag),
        other => panic!("{other:?}"),
    };
    list.iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect::<serde_json::Map<_, _>>().into()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

/// A job of two batches whose operator is killed while they run is one trace, whoever recorded which of its spans.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_one_trace_over_a_restart_and_nothing_is_sent_without_a_collector() {
    let mut scene = Scene::set("traced", &["--batch-duration", "1h"]).await;
    scene.apply(&(scene.manifest("provider.yaml") + "  limits:\n    maxRequestsPerBatch: 2\n"));
    let collector = Collector::start().await;
    // Not a word of it reaches an operator whose admin named no collector.
    scene.settings.env = vec![("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{}/v1/traces", collector.url))];
    scene.restart().await;
    scene.apply_job("untraced", json!({}));
    finish(&scene, "untraced").await;
    scene.wait_tidy("untraced").await;
    assert_eq!(collector.requests(), []);

    scene.settings.env = vec![("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t".into())];
    scene.settings.extra = vec!["--otlp-endpoint".into(), collector.url.clone()];
    scene.restart().await;
    scene.apply_job("j", json!({}));
    collector.wait("j", "submit", 2).await;
    scene.restart().await;
    finish(&scene, "j").await;
    let job = scene.wait_tidy("j").await;
    let spans = collector.wait("j", "BatchJob", 1).await;

    let counts: Vec<_> = spans.iter().map(|(name, spans)| (name.as_str(), spans.len())).collect();
    assert_eq!(counts, [("BatchJob", 1), ("collect", 2), ("plan", 1), ("submit", 2), ("wait", 2), ("write", 1)]);
    let (root, all) = (&spans["BatchJob"][0], spans.values().flatten());
    let uid = job.metadata.uid.clone().unwrap();
    let trace: String = root.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((trace, root.parent_span_id.len()), (uid.replace('-', ""), 0));
    for span in all {
        assert_eq!(span.trace_id, root.trace_id);
        assert!(span.name == root.name || span.parent_span_id == root.span_id, "{span:?}");
        assert!(root.start_time_unix_nano <= span.start_time_unix_nano, "{span:?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano, "{span:?}");
        assert!(!is_error(span), "{span:?}");
        let told = attributes(&span.attributes);
        assert_eq!((&told["k8s.namespace.name"], &told["batchjob.uid"]), (&json!(scene.namespace), &json!(uid)));
        assert_eq!(told["batchjob.provider.name"], "llm");
    }
    let of_batch = |name: &str, batch: &str| {
        let is_it = |span: &&Span| attributes(&span.attributes)["batchjob.batch.name"] == batch;
        spans[name].iter().find(is_it).cloned().unwrap()
    };
    for (batch, requests) in [("00000-1", 2), ("00001-1", 1)] {
        let [submit, wait, collect] = ["submit", "wait", "collect"].map(|name| of_batch(name, batch));
        assert!(spans["plan"][0].end_time_unix_nano <= submit.end_time_unix_nano);
        assert_eq!(submit.end_time_unix_nano, wait.start_time_unix_nano);
        assert_eq!(wait.end_time_unix_nano, collect.start_time_unix_nano);
        assert!(collect.end_time_unix_nano <= spans["write"][0].end_time_unix_nano);
        let told = attributes(&collect.attributes);
        assert_eq!(
            (&told["batchjob.requests.succeeded"], &told["gen_ai.request.model"]),
            (&json!(requests), &json!("gpt-5-mini"))
        );
        assert!(told["gen_ai.usage.output_tokens"].as_i64().unwrap() > 0, "{told}");
        assert_eq!(told["batchjob.batch.id"], attributes(&submit.attributes)["batchjob.batch.id"]);
    }
    let told = attributes(&root.attributes);
    assert_eq!((&told["batchjob.outcome"], &told["batchjob.requests.succeeded"]), (&json!("Succeeded"), &json!(3)));
    let resource = collector.received()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "batchjob-operator");
    let requests = collector.requests();
    assert!(requests.iter().all(|(head, _)| head["authorization"] == "Bearer t"));
    let bodies = requests.iter().map(|(_, body)| ("a span".to_string(), String::from_utf8_lossy(body).into_owned()));
    assert_quiet(&bodies.collect::<Vec<_>>());
}

/// Ends both batches of a job.
async fn finish(scene: &Scene, job: &str) {
    scene.batch_of(job).await;
    let batches = scene.get_job(job).await.status.unwrap().batches;
    assert_eq!(batches.len(), 2);
    for id in batches.into_iter().map(|batch| batch.provider_id.unwrap()) {
        let batch = scene.wait_batch("it runs", |batch| batch["id"] == id && batch["status"] == "in_progress").await;
        scene.finish(&batch).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_an_error_in_the_trace_with_its_reason() {
    let mut scene = Scene::set("traced-failures", &["--batch-duration", "1h"]).await;
    let collector = Collector::start().await;
    scene.settings.extra = vec!["--otlp-endpoint".into(), collector.url.clone()];
    scene.restart().await;

    // The account has no room at first, and the job is deleted while its batch runs.
    scene.sim.fault(json!({"point": "create_batch", "action": "status", "status": 429, "times": 1})).await;
    scene.apply_job("refused", json!({}));
    scene.batch_of("refused").await;
    let spans = collector.wait("refused", "submit", 2).await;
    let [refused, submitted] = spans["submit"].as_slice() else { panic!("{:?}", spans["submit"]) };
    assert!(is_error(refused) && !is_error(submitted), "{refused:?} {submitted:?}");
    assert_eq!(attributes(&refused.attributes)["error.type"], "Capacity");
    assert_ne!(refused.span_id, submitted.span_id);
    scene.kubectl(&["delete", "bjob", "refused"]);
    let spans = collector.wait("refused", "BatchJob", 1).await;
    let (wait, deleted) = (&spans["wait"][0], &spans["BatchJob"][0]);
    assert!(is_error(wait) && is_error(deleted), "{wait:?} {deleted:?}");
    assert_eq!(attributes(&wait.attributes)["error.type"], "cancelled");
    assert_eq!(attributes(&deleted.attributes)["error.type"], "Deleted");

    // A failure that costs nothing, and is mended: the job goes on in the same trace.
    scene.put("in/lines.jsonl", "nonsense\n").await;
    scene.apply_job("faulty", json!({"inputKey": "lines.jsonl"}));
    let spans = collector.wait("faulty", "BatchJob", 1).await;
    let failed = spans["BatchJob"][0].clone();
    assert!(is_error(&failed) && spans.len() == 1, "{spans:?}");
    assert_eq!(attributes(&failed.attributes)["error.type"], "InvalidInput");
    scene.put("in/lines.jsonl", batch_lines("faulty", 2)).await;
    scene.kubectl(&["annotate", "bjob", "faulty", "llmbatch.dev/reconcile-requested-at=now"]);
    let batch = scene.batch_of("faulty").await;
    scene.finish(&batch).await;
    let spans = collector.wait("faulty", "BatchJob", 2).await;
    let ended = spans["BatchJob"].iter().find(|span| span.span_id != failed.span_id).unwrap();
    assert!(!is_error(ended) && ended.trace_id == failed.trace_id, "{ended:?}");
    assert_eq!(spans["collect"][0].parent_span_id, ended.span_id);
}
