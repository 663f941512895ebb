//! The port for webhooks, which anybody may reach: events that are forged, stale, replayed, foreign, odd, large, slow or many.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use batchjob_operator::hooks::{Endpoints, Hint, Outcome, serve};
use batchjob_operator::standard_webhooks::{ID, SIGNATURE, SigningKeys, TIMESTAMP};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
const NOW: i64 = 1_764_547_200;

fn keys(secret: &str) -> SigningKeys {
    SigningKeys::parse(secret).unwrap()
}

/// Endpoints of the providers `llm` and `shop`, of one namespace each.
struct Port {
    endpoints: Arc<Endpoints>,
    hints: mpsc::Receiver<Hint>,
    clock: Arc<AtomicI64>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
}

impl Port {
    fn new() -> Port {
        let (clock, outcomes) = (Arc::new(AtomicI64::new(NOW * 1000)), Arc::new(Mutex::new(vec![])));
        let (time, log) = (clock.clone(), outcomes.clone());
        let endpoints = Endpoints::new(
            Arc::new(move || time.load(Ordering::Relaxed)),
            Arc::new(move |outcome| log.lock().unwrap().push(outcome)),
        );
        endpoints.set("llm", ("a", "llm"), Some(keys(KEY)), |_, _| true);
        endpoints.set("shop", ("b", "shop"), Some(keys(OTHER)), |_, _| true);
        let hints = endpoints.open();
        Port { endpoints, hints, clock, outcomes }
    }

    /// Serves the port. Returns its address.
    async fn serve(&self) -> SocketAddr {
        served(&self.endpoints, None).await
    }

    fn hinted(&mut self) -> Vec<(String, String)> {
        std::iter::from_fn(|| self.hints.try_recv().ok()).map(|hint| (hint.provider, hint.batch_id)).collect()
    }

    fn judge(&self, uid: &str, message: &Message) -> Outcome {
        self.endpoints.judge(uid, &message.headers(), message.body.as_bytes())
    }
}

async fn served(endpoints: &Arc<Endpoints>, leader: Option<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(vec![listener], endpoints.clone(), watch::channel(leader).1, std::future::pending()));
    address
}

#[derive(Clone)]
struct Message {
    id: String,
    at: i64,
    signature: String,
    body: String,
}

fn thin(batch: &str) -> String {
    format!(
        r#"{{"object":"event","id":"evt_1","type":"batch.completed","created_at":{},"data":{{"id":"{batch}"}}}}"#,
        NOW - 60
    )
}

impl Message {
    fn signed(secret: &str, id: &str, at: i64, body: &str) -> Message {
        let signature = keys(secret).sign(id, at, body.as_bytes());
        Message { id: id.into(), at, signature, body: body.into() }
    }

    /// A genuine event of the provider `llm`.
    fn genuine(id: &str, batch: &str) -> Message {
        Message::signed(KEY, id, NOW, &thin(batch))
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ID, self.id.parse().unwrap());
        headers.insert(TIMESTAMP, self.at.into());
        headers.insert(SIGNATURE, self.signature.parse().unwrap());
        headers
    }

    fn request(&self, uid: &str) -> String {
        let Message { id, at, signature, body } = self;
        format!(
            "POST /hooks/{uid} HTTP/1.1\r\nhost: h\r\n{ID}: {id}\r\n{TIMESTAMP}: {at}\r\n{SIGNATURE}: {signature}\r\n\
             user-agent: OpenAI/1.0 (+https://platform.openai.com/docs/webhooks)\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// Returns the whole answer to these bytes, without its date.
async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has answered need not read the rest.
    let _ = stream.write_all(request.as_ref()).await;
    let mut bytes = vec![];
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    text.lines().filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("\n")
}

async fn status(address: SocketAddr, request: impl AsRef<[u8]>) -> u16 {
    ask(address, request).await.split(' ').nth(1).map_or(0, |status| status.parse().unwrap())
}

#[tokio::test]
async fn a_signed_event_is_one_hint_and_forged_stale_replayed_and_foreign_ones_are_none() {
    let mut port = Port::new();
    let address = port.serve().await;
    let genuine = Message::genuine("wh_1", "batch_1");
    assert_eq!(status(address, genuine.request("llm")).await, 200);
    assert_eq!(port.hinted(), [("llm".to_string(), "batch_1".to_string())]);
    let later = Message::signed(KEY, "wh_1", NOW + 5, &genuine.body);
    for again in [&genuine, &later] {
        assert_eq!(status(address, again.request("llm")).await, 200, "a sender that repeats itself is content");
    }
    let tampered = Message { body: thin("batch_2"), ..Message::genuine("wh_2", "batch_1") };
    let unsigned = Message { signature: "v1,".into(), ..Message::genuine("wh_3", "batch_3") };
    let renamed = Message { id: "wh_4".into(), ..genuine.clone() };
    let stale = Message::signed(KEY, "wh_5", NOW - 301, &thin("batch_5"));
    let ahead = Message::signed(KEY, "wh_6", NOW + 301, &thin("batch_6"));
    let of_shop = Message::signed(OTHER, "wh_7", NOW, &thin("batch_7"));
    let mut refusals = vec![];
    for (uid, message) in [
        ("llm", &tampered),
        ("llm", &unsigned),
        ("llm", &renamed),
        ("llm", &stale),
        ("llm", &ahead),
        ("llm", &of_shop),
        ("shop", &genuine),
        ("nobody", &genuine),
        ("", &genuine),
        ("llm/", &Message::genuine("wh_8", "batch_8")),
    ] {
        refusals.push(ask(address, message.request(uid)).await);
    }
    refusals.push(ask(address, "POST /hooks/llm HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await);
    assert!(refusals[0].starts_with("HTTP/1.1 401 "), "{}", refusals[0]);
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:#?}");
    assert_eq!(port.hinted(), []);
    let refused = port.outcomes.lock().unwrap().iter().filter(|outcome| **outcome == Outcome::Refused).count();
    assert_eq!(refused, refusals.len());
}

#[tokio::test]
async fn every_vendors_payload_is_read_and_what_is_no_event_of_a_batch_is_accepted_and_left_alone() {
    let mut port = Port::new();
    let address = port.serve().await;
    let fat = r#"{"type":"batch.failed","timestamp":"2026-11-30T00:00:00Z","data":{"batch_id":"b-1","status":"failed",
        "request_counts":{"total":1,"completed":0,"failed":1},"output_file_id":null,"error_file_id":"f"}}"#;
    assert_eq!(status(address, Message::signed(KEY, "wh_1", NOW, fat).request("llm")).await, 200);
    assert_eq!(port.hinted(), [("llm".to_string(), "b-1".to_string())]);
    let deep = "[".repeat(16_000);
    for (n, body) in
        ["", "{}", r#"{"type":"response.completed","data":{"id":"resp_1"}}"#, "\u{0}", &deep].iter().enumerate()
    {
        let message = Message::signed(KEY, &format!("wh_odd_{n}"), NOW, body);
        assert_eq!(status(address, message.request("llm")).await, 200, "{}", &body[..body.len().min(60)]);
    }
    assert_eq!(port.hinted(), []);
}

#[tokio::test]
async fn a_secret_is_rotated_without_a_lost_event_and_taken_back_at_once() {
    let mut port = Port::new();
    let event = |secret: &str, id: &str| Message::signed(secret, id, NOW, &thin(id));
    let both = format!("{KEY} {OTHER}");
    port.endpoints.set("llm", ("a", "llm"), Some(keys(&both)), |_, _| true);
    assert_eq!(port.judge("llm", &event(KEY, "1")), Outcome::Taken);
    assert_eq!(port.judge("llm", &event(OTHER, "2")), Outcome::Taken);
    assert_eq!(port.judge("llm", &event(&both, "3")), Outcome::Taken);
    port.endpoints.set("llm", ("a", "llm"), Some(keys(OTHER)), |_, _| true);
    assert_eq!(port.judge("llm", &event(OTHER, "2")), Outcome::Repeated, "other keys, and the same endpoint");
    assert_eq!(port.judge("llm", &event(KEY, "4")), Outcome::Refused);
    port.endpoints.set("llm", ("a", "llm"), None, |_, _| true);
    assert_eq!(port.judge("llm", &event(OTHER, "5")), Outcome::Refused);
    assert_eq!(port.hinted().len(), 3);
}

#[test]
fn an_endpoint_that_there_is_not_takes_as_long_as_one_that_refuses() {
    let port = Port::new();
    let forged = Message::signed(OTHER, "wh_1", NOW, &"x".repeat(16 << 10));
    let took = |uid: &str| {
        let began = Instant::now();
        (0..900).for_each(|_| assert_eq!(port.judge(uid, &forged), Outcome::Refused));
        began.elapsed().as_secs_f64()
    };
    took("llm");
    let (known, unknown) = (took("llm"), took("nobody"));
    assert!((0.2..5.0).contains(&(known / unknown)), "{known} s and {unknown} s");
}

#[test]
fn a_flood_of_forgeries_is_no_longer_checked_and_keeps_only_its_own_endpoint_from_hearing() {
    let mut port = Port::new();
    let forged = Message::signed(OTHER, "wh_1", NOW, &"x".repeat(16 << 10));
    let began = Instant::now();
    (0..2_000).for_each(|_| assert_eq!(port.judge("llm", &forged), Outcome::Refused));
    let checked = began.elapsed();
    let began = Instant::now();
    (0..2_000).for_each(|_| assert_eq!(port.judge("llm", &forged), Outcome::Refused));
    let unchecked = began.elapsed();
    assert!(unchecked * 2 < checked, "{unchecked:?} unchecked, {checked:?} checked");
    assert_eq!(port.judge("llm", &Message::genuine("wh_2", "batch_2")), Outcome::Refused);
    assert_eq!(port.judge("shop", &Message::signed(OTHER, "wh_3", NOW, &thin("batch_3"))), Outcome::Taken);
    port.clock.fetch_add(1_000, Ordering::Relaxed);
    assert_eq!(port.judge("llm", &Message::genuine("wh_2", "batch_2")), Outcome::Taken, "the sender tries again");
    assert_eq!(port.hinted().len(), 2);
}

#[test]
fn a_flood_of_genuine_events_is_taken_at_a_bounded_rate_and_the_rest_is_told_to_come_again() {
    let mut port = Port::new();
    let mut taken = vec![];
    for second in 0..20 {
        port.clock.store((NOW + second) * 1000, Ordering::Relaxed);
        let event = |n| Message::signed(KEY, &format!("wh_{second}_{n}"), NOW + second, &thin("batch_1"));
        let outcomes: Vec<Outcome> = (0..150).map(|n| port.judge("llm", &event(n))).collect();
        taken.push(outcomes.iter().filter(|outcome| **outcome == Outcome::Taken).count());
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Taken | Outcome::Later)));
    }
    assert_eq!(taken.iter().sum::<usize>(), port.hinted().len());
    assert_eq!((taken[0], *taken.last().unwrap()), (150, 50), "{taken:?}");
    assert_eq!(port.judge("shop", &Message::signed(OTHER, "wh", NOW, &thin("batch_3"))), Outcome::Taken);
}

#[test]
fn hints_that_nobody_follows_any_more_fill_no_memory() {
    let port = Port::new();
    let event = |second: i64, n: i64| Message::signed(KEY, &format!("wh_{second}_{n}"), NOW + second, &thin("b"));
    let mut outcomes = vec![];
    for second in 0..200 {
        port.clock.store((NOW + second) * 1000, Ordering::Relaxed);
        outcomes.extend((0..100).map(|n| port.judge("llm", &event(second, n))));
    }
    let taken = outcomes.iter().filter(|outcome| **outcome == Outcome::Taken).count();
    assert_eq!((taken, *outcomes.last().unwrap()), (4_096, Outcome::Later));
}

#[tokio::test]
async fn requests_that_are_large_or_odd_are_refused_before_anybody_is_looked_for() {
    let mut port = Port::new();
    let address = port.serve().await;
    let of = |uid: &str, head: &str, body: &str| format!("POST /hooks/{uid} HTTP/1.1\r\nhost: h\r\n{head}\r\n{body}");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    // A sender that goes on after the answer may not see it: the connection is closed before all is read.
    for (wanted, is_seen, head, body) in [
        (413, true, "content-length: 16385\r\n".to_string(), "x".repeat(16_385)),
        (413, false, "content-length: 100000000000\r\n".to_string(), "x".repeat(100_000)),
        (413, false, "transfer-encoding: chunked\r\n".to_string(), chunk.repeat(100)),
        (431, false, format!("x: {}\r\n", "y".repeat(100_000)), String::new()),
        (431, true, "x: y\r\n".repeat(100), String::new()),
    ] {
        for uid in ["llm", "nobody"] {
            let answer = status(address, of(uid, &head, &body)).await;
            let as_wanted = answer == wanted || answer == 0 && !is_seen;
            assert!(as_wanted, "{answer} instead of {wanted}: {}", &head[..head.len().min(40)]);
        }
    }
    for uid in ["llm", "nobody"] {
        assert_eq!(status(address, format!("GET /hooks/{uid} HTTP/1.1\r\nhost: h\r\n\r\n")).await, 405);
    }
    assert_eq!(status(address, "POST /metrics HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await, 404);
    assert_eq!(status(address, "\u{1}\u{2}\r\n\r\n").await, 400);
    assert!(port.outcomes.lock().unwrap().is_empty() && port.hinted().is_empty());
}

#[tokio::test]
async fn senders_that_never_end_are_cut_off_and_an_event_is_taken_beside_them() {
    let mut port = Port::new();
    let address = port.serve().await;
    let drips =
        ["", "POST /hooks/llm HTTP/1.1\r\n", "POST /hooks/llm HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nx"];
    let began = Instant::now();
    let slow: Vec<_> = (0..240)
        .map(|n| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(drips[n % drips.len()].as_bytes()).await.unwrap();
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            })
        })
        .collect();
    // The idle connections take all but a few places of the port.
    assert_eq!(status(address, Message::genuine("wh_1", "batch_1").request("llm")).await, 200);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for one in slow {
        one.await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(port.hinted().len(), 1);
}

#[tokio::test]
async fn a_replica_on_standby_passes_events_on_to_the_leader_or_has_them_sent_again() {
    let mut leader = Port::new();
    let to = leader.serve().await;
    let standby = Endpoints::new(Arc::new(|| NOW * 1000), Arc::new(|_| {}));
    let event = Message::genuine("wh_1", "batch_1").request("llm");
    let alone = served(&standby, None).await;
    let answer = ask(alone, &event).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\nretry-after: "), "{answer}");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(status(served(&standby, Some(nobody)).await, &event).await, 503, "the leader is gone");
    let front = served(&standby, Some(to)).await;
    assert_eq!(status(front, &event).await, 200);
    assert_eq!(status(front, Message::signed(OTHER, "wh_2", NOW, "{}").request("llm")).await, 401);
    assert_eq!(leader.hinted(), [("llm".to_string(), "batch_1".to_string())]);
}
