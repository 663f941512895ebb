//! What came of it, in numbers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::judge::Verdict;
use crate::troubles::Toll;
use crate::world::World;

/// A list of what was promised and what was seen.
pub fn figures(
    world: &World,
    toll: &Toll,
    verdict: &Verdict,
    jobs: usize,
    state: &Value,
    staged: usize,
    took: Duration,
) -> Value {
    let number = |n: u64| json!(n);
    let exits = world.replicas.exits.load(std::sync::atomic::Ordering::Relaxed);
    let unended = state["batches"].as_array().unwrap().iter().filter(|b| !ended(b)).count();
    json!([
        figure("kills", "operator processes killed with SIGKILL", number(toll.kills.get()), json!(500), "processes"),
        figure("jobs", "jobs of mixed kind", json!(jobs), json!(200), "jobs"),
        figure("lines", "lines of those jobs", json!(verdict.lines), Value::Null, "lines"),
        figure("answered", "lines answered", json!(verdict.answered), Value::Null, "lines"),
        figure(
            "paid-twice",
            "lines billed while another live batch had them",
            state["overlaps"].clone(),
            json!(0),
            "lines"
        ),
        figure(
            "paid-again",
            "lines billed again that the provider had not lost",
            json!(verdict.billed_again),
            json!(0),
            "lines"
        ),
        figure("unpaid", "answers that were never billed", json!(verdict.unbilled), json!(0), "lines"),
        figure("lost", "lines without an outcome", json!(verdict.lost), json!(0), "lines"),
        figure(
            "wrong",
            "lines with a wrong answer, two outcomes or in a wrong place",
            json!(verdict.wrong),
            json!(0),
            "lines"
        ),
        figure("unfinished", "jobs that did not end", json!(verdict.unfinished), json!(0), "jobs"),
        figure("running-on", "batches that run on when all jobs have ended", json!(unended), json!(0), "batches"),
        figure(
            "api-restarts",
            "restarts of the API server and etcd",
            number(toll.cluster_restarts.get()),
            Value::Null,
            "restarts"
        ),
        figure(
            "storage-restarts",
            "restarts of the object store",
            number(toll.storage_restarts.get()),
            Value::Null,
            "restarts"
        ),
        figure("outages", "outages of the provider", number(toll.outages.get()), Value::Null, "outages"),
        figure(
            "outage-seconds",
            "time that the provider was away",
            json!(toll.outage_seconds.get().round()),
            Value::Null,
            "s"
        ),
        figure("faults", "faults placed in the provider", number(toll.faults.get()), Value::Null, "faults"),
        figure("batches", "batches created", state["creates"].clone(), Value::Null, "batches"),
        figure(
            "files-left",
            "files left at the provider to their expiry",
            json!(state["files"].as_array().unwrap().len()),
            Value::Null,
            "files"
        ),
        figure("staged", "staged files that lie on beside results", json!(staged), json!(0), "files"),
        figure("exits", "operator processes that ended by themselves", number(exits), Value::Null, "processes"),
        figure("duration", "duration", json!(took.as_secs()), Value::Null, "s"),
    ])
}

pub fn ended(batch: &Value) -> bool {
    matches!(batch["status"].as_str(), Some("completed" | "failed" | "expired" | "cancelled"))
}

fn figure(id: &str, name: &str, ours: Value, reference: Value, unit: &str) -> Value {
    let ratio = match (ours.as_f64(), reference.as_f64()) {
        (Some(ours), Some(reference)) if reference > 0.0 => json!((ours / reference * 100.0).round() / 100.0),
        _ => Value::Null,
    };
    json!({"id": format!("soak-{id}"), "name": name, "ours": ours, "reference": reference, "ratio": ratio, "unit": unit})
}
