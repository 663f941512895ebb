//! Providers of one namespace whose server answers every call with as much as is read of an answer, some of it byte by byte: the operator
//! as a process, with the kernel's own peak, and a quiet namespace beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use batchjob_operator::api::BatchJobObject as BatchJob;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::eventually;
use crate::support::scene::{Scene, requests};
use crate::support::shared::cluster;

/// What the Deployment allows.
const LIMIT: u64 = 256 << 20;
/// Hostile providers, each with one job.
const PROVIDERS: usize = 24;
/// Batches of each job, which are sent and looked at at a time.
const CALLS: usize = 8;
/// Answers that the server has begun when the quiet job starts.
const ANSWERS: usize = 100;
/// Bytes of an answer: a little less than what is read of one.
const ANSWER: usize = (4 << 20) - (64 << 10);
/// Bytes that a server which drips keeps back.
const DRIPPED: usize = 1 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn providers_whose_answers_are_as_large_as_can_be_leave_memory_and_a_quiet_namespace_alone() {
    // Given a namespace with many providers at a server of its own, and jobs that call each of them with all calls that it may get.
    let mut scene = Scene::set("large-answers", &["--batch-duration", "100ms"]).await;
    let server = Server::start().await;
    let hostile = format!("hostile-of-{}", scene.namespace);
    cluster().kubectl(&["create", "namespace", &hostile]);
    let provider = scene.manifest("provider.yaml").replace(&scene.base_url, &format!("{}/v1", server.url));
    let providers = (0..PROVIDERS).map(|n| {
        let named = provider.replace("name: llm\n", &format!("name: llm-{n}\n"));
        format!("---\n{named}  limits:\n    maxRequestsPerBatch: 1\n")
    });
    let manifests = scene.manifest("storage.yaml") + &providers.collect::<String>();
    let (ok, said) = cluster().try_kubectl(&["-n", &hostile, "apply", "-f", "-"], Some(&manifests));
    assert!(ok, "{said}");
    scene.settings.namespaces += &format!(",{hostile}");
    scene.restart().await;
    scene.operator.as_ref().unwrap().forget_peak();
    let jobs: Api<BatchJob> = Api::namespaced(scene.client.clone(), &hostile);
    for n in 0..PROVIDERS {
        let name = format!("large-{n}");
        let requests = requests(&name, CALLS);
        let spec = json!({"providerRef": {"name": format!("llm-{n}")}, "parallelism": CALLS, "input": {"inline": {"requests": requests}}});
        let job = scene.job(&name, json!({"spec": spec}));
        scene.plant(job.to_string().as_bytes());
        jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    }
    // When they are under way,
    eventually("the server answers at length", 60, || async { (server.begun() >= ANSWERS).then_some(()) }).await;
    // Then a job beside them ends,
    let began = Instant::now();
    scene.apply_job("quiet", json!({}));
    scene.wait_condition("quiet", "Complete", "True", 60).await;
    let took = began.elapsed();
    // and all of it fits.
    let peak = scene.operator.as_ref().unwrap().peak_memory();
    println!(
        "large answers: {} MiB at the peak, {} answers, at most {} at a time; the quiet job took {took:?}",
        peak >> 20,
        server.begun(),
        server.most.load(Ordering::Relaxed)
    );
    cluster().kubectl(&["-n", &hostile, "delete", "bjob", "--all", "--wait=false"]);
    assert!(peak < LIMIT, "{peak} bytes");
}

/// A server that answers every call at length.
struct Server {
    url: String,
    begun: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (begun, open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::default());
        let server = Server { url, begun, most };
        let (begun, most, tail) = (server.begun.clone(), server.most.clone(), Arc::new(tail()));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (begun, open, most, tail) = (begun.clone(), open.clone(), most.clone(), tail.clone());
                tokio::spawn(async move {
                    let number = begun.fetch_add(1, Ordering::Relaxed);
                    most.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                    let _ = answer(socket, number, &tail).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        server
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }
}

/// What follows the id in every answer, which is a file, a batch and a page of a list: values that take a hundred times their text, and
/// text.
fn tail() -> String {
    let values = format!("[{}0]", r#"{"":0},"#.repeat(900));
    let values = format!("[{}0]", format!("{values},").repeat(50));
    let start = format!(
        r#""object": "batch", "status": "in_progress", "data": [], "has_more": false, "junk": {values}, "text": ""#
    );
    let text = "x".repeat(ANSWER - start.len());
    format!("{start}{text}\"}}")
}

/// Answers one request. One answer in two does not say how long it is, and one in four drips at its end.
async fn answer(mut socket: TcpStream, number: usize, tail: &str) -> std::io::Result<()> {
    let mut request = vec![];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        if socket.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let first = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_string();
    let path = first.split(' ').nth(1).unwrap_or_default();
    let id = match first.starts_with("GET") {
        true => path.rsplit('/').next().unwrap_or_default().to_string(),
        false => format!("id-{number}"),
    };
    let (mut reads, mut writes) = socket.split();
    // All of a request is taken while it is answered.
    let taken = async { tokio::io::copy(&mut reads, &mut tokio::io::sink()).await };
    let given = async {
        let start = format!(r#"{{"id": "{id}", "#);
        let length = match number % 2 {
            0 => format!("content-length: {}\r\n", start.len() + tail.len()),
            _ => String::new(),
        };
        writes.write_all(format!("HTTP/1.1 200 OK\r\n{length}connection: close\r\n\r\n{start}").as_bytes()).await?;
        let at_once = if number % 4 < 3 { tail.len() } else { tail.len() - DRIPPED };
        writes.write_all(&tail.as_bytes()[..at_once]).await?;
        for byte in &tail.as_bytes()[at_once..] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            writes.write_all(&[*byte]).await?;
        }
        writes.shutdown().await
    };
    // The client hangs up when it has enough.
    tokio::select! {
        _ = taken => Ok(()),
        given = given => given,
    }
}
