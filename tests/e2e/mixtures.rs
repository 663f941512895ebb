//! Faults of the provider in random mixtures: whatever comes together, every line ends once, and none is paid for in two
//! batches at once. A seed makes a mixture; `SEED=7 cargo test --test e2e mixtures` makes that one alone.

use std::collections::{HashMap, HashSet};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::dice::Dice;
use crate::support::faults::{batch_faults, wire_faults};
use crate::support::quiet::prompt;
use crate::support::scene::{Scene, batch_lines, condition};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=10;
const AT_A_TIME: usize = 5;

/// An input, limits, and what shall go wrong.
#[derive(Debug)]
struct Mixture {
    seed: u64,
    lines: u64,
    per_batch: u64,
    parallelism: u64,
    batch_milliseconds: u64,
    faults: Vec<Value>,
}

impl Mixture {
    fn new(seed: u64) -> Mixture {
        let mut dice = Dice(seed);
        let (creates, rest) = wire_faults(&mut dice).into_iter().partition(|f| f["point"] == "create_batch");
        let batches = batch_faults(&mut dice);
        let faults = [(creates, 1, 2), (batches, 2, 3), (rest, 2, 4)];
        Mixture {
            seed,
            faults: faults.into_iter().flat_map(|(kinds, least, most)| draw(&mut dice, kinds, least, most)).collect(),
            lines: dice.roll(10, 150),
            per_batch: dice.roll(5, 30),
            parallelism: dice.roll(1, 5),
            batch_milliseconds: dice.roll(50, 900),
        }
    }

    fn has(&self, action: &str) -> bool {
        self.faults.iter().any(|f| f["action"] == action)
    }

    /// How many rows are billed and come back in no file, or could.
    fn paid_and_lost(&self) -> u64 {
        let rows = |f: &Value| f["rows"].as_u64().unwrap() * f["times"].as_u64().unwrap();
        self.faults.iter().filter(|f| f["action"] == "lose_rows").map(rows).sum()
    }

    /// How many uploads succeed without the client being told: it cannot delete what it does not know, and such files
    /// go by their own expiry.
    fn uploads_untold(&self) -> u64 {
        let untold =
            |f: &&Value| f["point"] == "upload" && matches!(f["action"].as_str(), Some("drop_reply" | "truncate"));
        self.faults.iter().filter(untold).map(|f| f["times"].as_u64().unwrap()).sum()
    }
}

/// Some of the kinds, each once or twice in a row.
fn draw(dice: &mut Dice, mut kinds: Vec<Value>, least: u64, most: u64) -> Vec<Value> {
    let count = dice.roll(least, most);
    let draw = |_| {
        let mut fault = kinds.swap_remove(dice.roll(0, kinds.len() as u64 - 1) as usize);
        fault["times"] = json!(dice.roll(1, 2));
        fault
    };
    (0..count).map(draw).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn mixtures_of_faults_leave_every_line_with_one_end_and_one_payer() {
    let one = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().expect("SEED is a number"));
    let seeds: Vec<u64> = one.map_or_else(|| SEEDS.collect(), |seed| vec![seed]);
    let runs = seeds.into_iter().map(|seed| async move { (seed, tokio::spawn(see_through(Mixture::new(seed))).await) });
    let runs: Vec<_> = futures::stream::iter(runs).buffer_unordered(AT_A_TIME).collect().await;
    let failed: Vec<String> = runs.iter().filter(|(_, run)| run.is_err()).map(|(seed, _)| seed.to_string()).collect();
    assert!(
        failed.is_empty(),
        "see above; again with SEED={} cargo test --test e2e mixtures",
        failed.join(" or SEED=")
    );
}

async fn see_through(mixture: Mixture) {
    let duration = format!("{}ms", mixture.batch_milliseconds);
    let mut scene = Scene::set(&format!("mixture-{}", mixture.seed), &["--batch-duration", &duration]).await;
    let limits = format!("  limits:\n    maxRequestsPerBatch: {}\n", mixture.per_batch);
    scene.apply(&(scene.manifest("provider.yaml") + &limits));
    scene.put("in/many.jsonl", batch_lines("n", mixture.lines as usize)).await;
    for fault in &mixture.faults {
        scene.sim.admin_post("faults", fault.clone()).await;
    }
    scene.restart().await;
    let deadline = mixture.has("stuck").then_some(15);
    let spec = json!({"model": null, "parallelism": mixture.parallelism, "activeDeadlineSeconds": deadline});
    scene.apply_job("j", json!({"inputKey": "many.jsonl", "spec": spec}));
    let over = |job: &_| condition(job, "Reconciling").is_some_and(|(s, r, _)| s == "False" && r == "Finished");
    let job = scene.wait_job(&format!("the end of {mixture:?}"), "j", 90, over).await;
    let status = job.status.unwrap();
    assert_eq!(status.holds.len(), 0, "{mixture:?}");
    let counts = status.requests.unwrap();
    let ended = counts.succeeded + counts.failed + counts.expired + counts.cancelled + counts.missing;
    assert_eq!((counts.total, ended), (mixture.lines as i64, mixture.lines as i64), "{counts:?} {mixture:?}");
    let answered = lines_of(&scene, &mixture, "results.jsonl").await;
    assert_eq!(answered.len() as i64, counts.succeeded, "{mixture:?}");
    let without = lines_of(&scene, &mixture, "errors.jsonl").await;
    let all: HashSet<u64> = answered.iter().chain(&without).copied().collect();
    assert_eq!(
        (all.len(), answered.len() + without.len()),
        (mixture.lines as usize, mixture.lines as usize),
        "{mixture:?}"
    );
    assert_eq!(lines_of(&scene, &mixture, "unsuccessful.jsonl").await, without, "{mixture:?}");
    paid_once(&scene, &mixture, &answered).await;
}

/// The numbers of the lines of a result file, which are in order and carry the answers to their own requests.
async fn lines_of(scene: &Scene, mixture: &Mixture, file: &str) -> Vec<u64> {
    let text = scene.get(&format!("out/j/{file}")).await.unwrap_or_default();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let number = |line: &Value| line["custom_id"].as_str().unwrap().strip_prefix("n-").unwrap().parse::<u64>().unwrap();
    let numbers: Vec<u64> = lines.iter().map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{file} is in the order of the requests: {mixture:?}");
    for line in lines.iter().filter(|_| file == "results.jsonl") {
        let answer = &line["response"]["body"]["choices"][0]["message"]["content"];
        assert_eq!(*answer, format!("echo: {}", prompt("n", number(line) as usize)), "{mixture:?}");
    }
    numbers
}

async fn paid_once(scene: &Scene, mixture: &Mixture, answered: &[u64]) {
    let state = scene.sim.state().await;
    assert_eq!(state["overlaps"], 0, "no line was billed while another batch with it was alive: {mixture:?}");
    let mut billed: HashMap<u64, u64> = HashMap::new();
    for line in scene.sim.ledger().await {
        let index = line["custom_id"].as_str().unwrap()[1..].split('-').next().unwrap().parse().unwrap();
        *billed.entry(index).or_default() += 1;
    }
    assert!(answered.iter().all(|i| billed.contains_key(i)), "{mixture:?}");
    let again: u64 = billed.values().map(|n| n - 1).sum();
    assert!(again <= mixture.paid_and_lost(), "{again} lines were billed again although nothing was lost: {mixture:?}");
    let ended = |b: &Value| matches!(b["status"].as_str(), Some("completed" | "failed" | "expired" | "cancelled"));
    assert!(state["batches"].as_array().unwrap().iter().all(ended), "nothing runs on: {mixture:?}");
    let left = state["files"].as_array().unwrap().len() as u64;
    assert!(left <= mixture.uploads_untold(), "{left} files are left at the provider: {mixture:?}");
}
