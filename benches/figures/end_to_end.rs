//! `e2e-50k`: a job from object storage to object storage, next to a plain script that does the same work with the same batch
//! server, the same storage and the same poll period. `rss-flat`: what the operator holds in memory for ten times as much.

use std::sync::Arc;
use std::time::Instant;

use object_store::buffered::BufWriter;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::operator::Operator;
use crate::support::process::{Process, python, root, scratch};
use crate::support::scene::Scene;
use crate::support::shared::storage;
use crate::{Bar, Figure, input, scaled};

const PAIRS: usize = 3;
const POLL_SECONDS: u32 = 1;
const MIB: f64 = (1 << 20) as f64;

/// What a run took.
struct Took {
    seconds: f64,
    /// Seconds of CPU, of the operator or the script alone.
    cpu: f64,
    /// Peak of resident memory, in bytes.
    peak: f64,
}

/// A batch server that answers at once, in half a kilobyte, and an operator that logs as it is shipped.
pub async fn scene(name: &str) -> Scene {
    let answers = scratch().join("answers.json");
    std::fs::write(&answers, json!([{"answer": input::Dice::new(7).prose(500)}]).to_string()).unwrap();
    let mut scene = Scene::set(name, &["--batch-duration", "0s", "--answers", answers.to_str().unwrap()]).await;
    scene.settings.env.push(("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into())));
    scene.restart().await;
    scene
}

pub async fn measure(end_to_end: bool, rss_flat: bool) -> Vec<Figure> {
    let (lines, mut figures, mut peaks) = (scaled(50_000), vec![], vec![]);
    let mut scene = scene("figures").await;
    let megabytes = put(&scene, "in/once.jsonl", lines).await / 1e6;
    let (mut seconds, mut cpu, mut memory) = (vec![], vec![], vec![]);
    for pair in 0..if end_to_end { PAIRS } else { 1 } {
        scene.restart().await;
        let ours = operator(&scene, &format!("once-{pair}"), "once.jsonl", lines).await;
        peaks.push(ours.peak / MIB);
        if end_to_end {
            let reference = script(&scene, pair, lines).await;
            seconds.push((ours.seconds, reference.seconds));
            cpu.push((ours.cpu, reference.cpu));
            memory.push((ours.peak / MIB, reference.peak / MIB));
        }
    }
    if end_to_end {
        let name = format!("{lines} lines, {megabytes:.0} MB, from bucket to bucket; a plain Python script");
        figures.push(Figure::of_pairs("e2e-50k", name.clone(), "s", &seconds, Bar::AtMost(1.0)));
        figures.push(Figure::of_pairs("e2e-50k-cpu", format!("{name}: CPU"), "s", &cpu, Bar::AtMost(1.0)));
        figures.push(Figure::of_pairs("e2e-50k-rss", format!("{name}: peak memory"), "MiB", &memory, Bar::AtMost(0.5)));
    }
    if rss_flat {
        let ten = put(&scene, "in/ten.jsonl", lines * 10).await / 1e6;
        scene.restart().await;
        let large = operator(&scene, "ten", "ten.jsonl", lines * 10).await;
        println!("rss-flat: {:.1} s", large.seconds);
        figures.push(flat(megabytes, crate::median(peaks), ten, large.peak / MIB));
    }
    figures
}

fn flat(megabytes: f64, small: f64, ten: f64, large: f64) -> Figure {
    let holds = (large - small).abs() <= 64.0 && large <= 256.0;
    Figure {
        id: "rss-flat",
        name: format!("peak memory for {ten:.0} MB; for {megabytes:.0} MB"),
        ours: large,
        reference: small,
        ratio: large / small,
        unit: "MiB",
        bar: ("64 MiB apart, <= 256 MiB".into(), holds),
    }
}

/// Puts so many requests; their bytes.
async fn put(scene: &Scene, key: &str, lines: usize) -> f64 {
    let key = format!("{}/{key}", scene.namespace);
    let (mut out, mut bytes) = (BufWriter::new(Arc::new(scene.bucket.clone()), key.as_str().into()), 0);
    for index in 0..lines {
        let line = input::line(index);
        bytes += line.len();
        out.write_all(line.as_bytes()).await.unwrap();
    }
    out.shutdown().await.unwrap();
    bytes as f64
}

/// From the creation of a job until it is complete, its results, manifest and all.
async fn operator(scene: &Scene, name: &str, key: &str, lines: usize) -> Took {
    let spec = json!({"model": null, "pollPeriodSeconds": POLL_SECONDS});
    let job = serde_json::from_value(scene.job(name, json!({"inputKey": key, "spec": spec}))).unwrap();
    let process = scene.operator.as_ref().unwrap();
    let (began, cpu) = (Instant::now(), cpu(process));
    scene.jobs().create(&Default::default(), &job).await.unwrap();
    let job = scene.wait_condition(name, "Complete", "True", 900).await;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), self::cpu(process) - cpu);
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total as usize, counts.succeeded as usize), (lines, lines));
    scene.wait_tidy(name).await;
    Took { seconds, cpu, peak: process.peak_memory() as f64 }
}

/// From the first call of the script to its last; the interpreter's start and the imports do not count.
async fn script(scene: &Scene, pair: usize, lines: usize) -> Took {
    let (storage, output) = (storage(), format!("script/{pair}.jsonl"));
    let settings = json!({
        "endpoint": storage.endpoint, "accessKey": storage.access_key, "secretKey": storage.secret_key, "bucket": "tests",
        "input": format!("{}/in/once.jsonl", scene.namespace), "output": format!("{}/{output}", scene.namespace),
        "baseURL": scene.sim.url, "apiKey": "sk-test", "pollSeconds": POLL_SECONDS,
    });
    let args = [root().join("benches/script/batch.py").to_str().unwrap().to_string(), settings.to_string()];
    let python = python("script", "python");
    let began = Instant::now();
    let said = tokio::task::spawn_blocking(move || Process::supervised(&python, &args, &[], "script").announcement());
    let said = said.await.unwrap();
    let (whole, start) = (began.elapsed().as_secs_f64(), said["startCPU"].as_f64().unwrap());
    println!("the script takes {whole:.2} s with its start, and {start:.2} s of CPU to start");
    let in_order = (0..lines).map(|i| format!("document-{i:07}"));
    assert!(crate::support::scene::ids(&scene.get(&output).await.unwrap()).into_iter().eq(in_order));
    let said = |key: &str| said[key].as_f64().unwrap();
    Took { seconds: said("seconds"), cpu: said("cpu"), peak: said("peak") }
}

/// Seconds that the operator was on a core so far; a hundredth is the finest that the kernel tells.
fn cpu(operator: &Operator) -> f64 {
    let supervisor = operator.process.id();
    let process = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap();
    // Behind the program's name, which may hold spaces, utime and stime are the 12th and 13th.
    let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    ticks.map(|t| t.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}
