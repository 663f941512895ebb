//! Changes against an API server that loses replies, refuses writes, and is written by others.

use std::collections::VecDeque;

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use kube::runtime::events::Reporter;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::{BudgetPeriod, ProviderKind};
use crate::controller::SystemClock;
use crate::controller::provider::ProviderKey;
use crate::controller::runtime::event_queue::{self, EventQueue};
use crate::money::{Unreserved, Usd, shard_key};
use crate::telemetry::Metrics;

/// What becomes of the next write of the ConfigMap.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// It is made, and its reply is lost.
    Lost,
    /// The operator has no right to it.
    Forbidden,
    /// Another process reserves one dollar just before.
    Raced,
}

/// An API server with the ConfigMap of one ledger and the BatchProvider `llm`.
#[derive(Default)]
struct Server {
    /// Version and text of the ledger.
    ledger: Mutex<Option<(u64, String)>>,
    /// Budgets in the provider's status.
    shown: Value,
    faults: Mutex<VecDeque<Fault>>,
    /// Number of writes that were made.
    writes: Mutex<u64>,
    events: Mutex<Vec<String>>,
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    let kind = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
        "reason": reason, "code": code});
    (code, kind)
}

impl Server {
    fn with(faults: &[Fault]) -> Arc<Server> {
        Arc::new(Server { faults: Mutex::new(faults.iter().copied().collect()), ..Server::default() })
    }

    fn client(self: &Arc<Self>) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                tokio::task::yield_now().await;
                let (parts, body) = request.into_parts();
                let sent = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
                let (code, answer) = server.answer(&parts.method, parts.uri.path(), sent);
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &Method, path: &str, sent: Value) -> (u16, Value) {
        if path.contains("/events") {
            lock(&self.events).push(sent["reason"].as_str().unwrap_or_default().into());
            return (201, sent);
        }
        if path.ends_with("/batchproviders/llm") {
            let provider = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider",
                "metadata": {"name": "llm", "namespace": "shop", "uid": "u"}, "spec": {"type": "OpenAI"},
                "status": {"budgets": self.shown.as_array().cloned().unwrap_or_default()}});
            return (200, provider);
        }
        assert!(path.starts_with("/api/v1/namespaces/home/configmaps"), "{path}");
        if *method == Method::GET {
            return self.map().map_or_else(|| status(404, "NotFound"), |map| (200, map));
        }
        let fault = lock(&self.faults).pop_front();
        match fault {
            Some(Fault::Forbidden) => return status(403, "Forbidden"),
            Some(Fault::Raced) => self.other_reserves(),
            _ => {}
        }
        let answer = self.write(method, &sent);
        if fault == Some(Fault::Lost) { status(500, "InternalError") } else { answer }
    }

    fn map(&self) -> Option<Value> {
        let (version, text) = lock(&self.ledger).clone()?;
        Some(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"ledger.json": text},
            "metadata": {"name": "batchjob-operator-budgets-u", "namespace": "home", "resourceVersion": version.to_string()}}))
    }

    fn write(&self, method: &Method, sent: &Value) -> (u16, Value) {
        let judged = match *method == Method::DELETE {
            true => &sent["preconditions"]["resourceVersion"],
            false => &sent["metadata"]["resourceVersion"],
        };
        let version = lock(&self.ledger).as_ref().map(|(version, _)| version.to_string());
        match (method, &version) {
            (&Method::POST, Some(_)) => return status(409, "AlreadyExists"),
            (&Method::POST, None) => {}
            (_, None) => return status(404, "NotFound"),
            (_, Some(version)) if judged != version => return status(409, "Conflict"),
            _ => {}
        }
        *lock(&self.writes) += 1;
        if *method == Method::DELETE {
            *lock(&self.ledger) = None;
            return (200, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}));
        }
        let text = sent["data"]["ledger.json"].as_str().unwrap().to_string();
        let next = version.map_or(1, |version| version.parse::<u64>().unwrap() + 1);
        *lock(&self.ledger) = Some((next, text));
        (200, self.map().unwrap())
    }

    fn other_reserves(&self) {
        let version = lock(&self.ledger).as_ref().map_or(0, |(version, _)| *version);
        let mut ledger = self.stored();
        ledger.reserve(&format!("other/w/{version}"), wants("other", "1"), None, &[]).unwrap();
        *lock(&self.ledger) = Some((version + 1, serde_json::to_string(&ledger).unwrap()));
    }

    fn stored(&self) -> Ledger {
        lock(&self.ledger).as_ref().map(|(_, text)| serde_json::from_str(text).unwrap()).unwrap_or_default()
    }

    fn reserved(&self) -> Usd {
        self.stored().open.values().map(|open| open.amount).sum()
    }
}

/// The process whose changes are looked at.
struct Process {
    client: Client,
    events: EventQueue,
    told: event_queue::QueuedEvents,
    provider: ProviderKey,
    changes: Changes,
}

impl Process {
    fn of(server: &Arc<Server>) -> Process {
        let (events, told) = EventQueue::new(Metrics::default());
        let provider =
            ProviderKey { kind: ProviderKind::BatchProvider, namespace: Some("shop".into()), name: "llm".into() };
        Process { client: server.client(), events, told, provider, changes: Changes::default() }
    }

    fn map(&self) -> LedgerMap<'_> {
        let (client, events, provider) = (&self.client, &self.events, &self.provider);
        LedgerMap { client, events, namespace: "home", provider, uid: "u", today: today() }
    }

    async fn make(&self, change: Change) -> Result<(Answer, Option<Written>), StepError> {
        self.changes.make(&self.map(), change).await
    }

    /// Writes the events that wait.
    async fn publish(self) {
        let (client, stop) = (self.client, CancellationToken::new());
        stop.cancel();
        let reporter = Reporter { controller: "c".into(), instance: None };
        event_queue::write(self.told, client, reporter, Metrics::default(), Arc::new(SystemClock), stop).await;
    }
}

fn today() -> Date {
    "2026-11-30".parse().unwrap()
}

fn usd(amount: &str) -> Usd {
    Usd::parse(amount).unwrap()
}

fn wants(namespace: &str, amount: &str) -> Reservation {
    let (namespace, job_uid) = (namespace.into(), format!("uid-of-{namespace}"));
    Reservation { namespace, job_uid, amount: usd(amount), day: today(), rev: 1, terms: None }
}

/// Reserves an amount for a shard, within five dollars a day.
fn reserve(shard: usize, amount: &str) -> Change {
    let budgets = vec![Budget { period: BudgetPeriod::Day, max_cost: usd("5"), per_namespace: false }];
    Change::Reserve { key: shard_key("shop/w", shard), wanted: wants("shop", amount), replaces: None, budgets }
}

/// Settles a shard at all that was reserved.
fn settle(shard: usize) -> Change {
    Change::Settle { key: shard_key("shop/w", shard), rev: 2, billed: None }
}

fn error_of<T>(result: Result<T, StepError>) -> StepError {
    result.err().expect("an error")
}

#[tokio::test]
async fn changes_that_come_together_share_a_write_and_each_has_its_own_answer() {
    let server = Server::with(&[]);
    let process = Process::of(&server);
    let answers =
        futures::future::join_all((0..10).map(|n| process.make(reserve(n, if n == 9 { "9" } else { "0.50" })))).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().0).collect();
    assert!(answers[..9].iter().all(|answer| *answer == Ok(true)), "{answers:?}");
    assert!(matches!(answers[9], Err(Unreserved::Exceeded { .. })), "{answers:?}");
    assert_eq!((*lock(&server.writes), server.reserved()), (2, usd("4.50")), "the first did not wait for the others");
    let settled = process.make(settle(0)).await.unwrap();
    assert_eq!(settled, (Ok(true), Some(Written { freed: true })));
    assert_eq!(*lock(&server.writes), 3);
}

#[tokio::test]
async fn a_write_that_another_process_overtakes_is_judged_again_on_what_is_there() {
    let server = Server::with(&[Fault::Raced, Fault::Raced]);
    let process = Process::of(&server);
    let Err(Unreserved::Exceeded { used, .. }) = process.make(reserve(0, "4")).await.unwrap().0 else {
        panic!("no refusal")
    };
    assert_eq!((used.reserved, server.reserved()), (usd("2"), usd("2")), "two dollars of the other");
    assert_eq!(process.make(reserve(0, "3")).await.unwrap().0, Ok(true));
    lock(&server.faults).extend([Fault::Raced; TRIES as usize]);
    let error = error_of(process.make(settle(0)).await);
    assert!(error.retryable && error.blocked.message.contains("at the same time"), "{error}");
    assert_eq!(process.make(settle(0)).await.unwrap().0, Ok(true), "later it is");
}

#[tokio::test]
async fn a_write_whose_reply_is_lost_counts_once() {
    let server = Server::with(&[Fault::Lost]);
    let process = Process::of(&server);
    assert!(error_of(process.make(reserve(0, "4")).await).retryable);
    assert_eq!(process.make(reserve(0, "4")).await.unwrap().0, Ok(true));
    assert_eq!(server.reserved(), usd("4"));
    lock(&server.faults).push_back(Fault::Lost);
    assert!(error_of(process.make(settle(0)).await).retryable);
    assert_eq!(process.make(settle(0)).await.unwrap(), (Ok(false), None), "it was settled");
    let spent = &server.stored().spent["shop"];
    assert_eq!((server.reserved(), spent.days[&today()]), (Usd::ZERO, usd("4")));
}

#[tokio::test]
async fn who_may_not_write_a_ledger_is_told_what_to_apply() {
    let server = Server::with(&[Fault::Forbidden]);
    let error = error_of(Process::of(&server).make(reserve(0, "4")).await);
    assert!(!error.retryable && error.blocked.message.contains("apply the Role"), "{error}");
    *lock(&server.ledger) = Some((1, "{".into()));
    let error = error_of(Process::of(&server).make(reserve(0, "4")).await);
    assert!(!error.retryable && error.blocked.message.contains("Put `ledger.json` back"), "{error}");
}

/// A server whose ledger is gone, and whose provider's status shows four dollars.
fn lost(faults: &[Fault]) -> Arc<Server> {
    let shown =
        json!([{"period": "Day", "start": "2026-11-30", "spentUSD": "1", "reservedUSD": "3", "maxCostUSD": "5"}]);
    Arc::new(Server { shown, faults: Mutex::new(faults.iter().copied().collect()), ..Server::default() })
}

#[tokio::test]
async fn a_ledger_that_is_gone_begins_with_what_status_shows_and_its_loss_is_told_once() {
    for faults in [&[][..], &[Fault::Lost]] {
        let server = lost(faults);
        let process = Process::of(&server);
        for _ in 0..3 {
            // If the reply was lost, the next look goes on.
            let read = process.map().read().await;
            assert!(read.is_ok() || !faults.is_empty());
        }
        let answer = process.make(reserve(0, "2")).await.unwrap().0;
        assert!(matches!(answer, Err(Unreserved::Exceeded { used, .. }) if used.spent == usd("4")));
        assert_eq!(*lock(&server.writes), 1, "it was written before anything was reserved");
        process.publish().await;
        assert_eq!(*lock(&server.events), ["BudgetLedgerLost"]);
    }
    let server = lost(&[Fault::Forbidden]);
    let process = Process::of(&server);
    assert!(!error_of(process.map().read().await).retryable);
    process.publish().await;
    assert!(lock(&server.events).is_empty(), "it did not begin");
}

#[tokio::test]
async fn a_ledger_is_deleted_unless_a_reservation_is_needed_or_another_process_writes_it() {
    let server = Server::with(&[]);
    let process = Process::of(&server);
    process.make(reserve(0, "4")).await.unwrap().0.unwrap();
    let is_of_shop = |open: &Reservation| open.job_uid == "uid-of-shop";
    assert!(!process.map().delete(is_of_shop).await.unwrap() && server.map().is_some());
    lock(&server.faults).push_back(Fault::Raced);
    assert!(!process.map().delete(|_| false).await.unwrap() && server.map().is_some(), "it is judged again");
    lock(&server.faults).push_back(Fault::Forbidden);
    assert!(process.map().delete(|_| false).await.unwrap() && server.map().is_some(), "a person has to");
    assert!(process.map().delete(|_| false).await.unwrap() && server.map().is_none());
    assert!(process.map().delete(|_| false).await.unwrap(), "there is none");
    *lock(&server.ledger) = Some((1, "{".into()));
    assert!(process.map().delete(|_| true).await.unwrap() && server.map().is_none(), "nobody can read it");
}
