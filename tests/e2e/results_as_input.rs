//! The answers of one job as the input of the next.

use serde_json::{Value, json};

use crate::support::process::scratch;
use crate::support::scene::{Scene, condition, requests};

/// A job that takes results of others, with `change` over a plain one.
fn fed(scene: &Scene, name: &str, input: Value, change: Value) -> Value {
    let mut job = scene.job(name, change);
    job["spec"]["input"] = input;
    job
}

fn template(content: &str) -> Value {
    json!({"customID": "$(row.custom_id)", "body": {"messages": [{"role": "user", "content": content}]}})
}

fn contents(requests: &str) -> Vec<String> {
    let content = |line: &str| {
        let request: Value = serde_json::from_str(line).unwrap();
        request["body"]["messages"][0]["content"].as_str().unwrap().to_string()
    };
    requests.lines().map(content).collect()
}

/// Answers go from a bucket to a ConfigMap to a bucket, compressed or not; what failed is sent again; and results outlive their job.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_one_job_feed_the_next_and_what_failed_is_run_again() {
    let rules = scratch().join("fed-answers.json");
    let refused = json!({"contains": "first 1 ", "status": 400, "code": "refused", "message": "no", "times": 1});
    std::fs::write(&rules, json!([refused]).to_string()).unwrap();
    let scene = Scene::new("fed", &["--batch-duration", "200ms", "--answers", rules.to_str().unwrap()]).await;
    // Applied first, as a GitOps tool may do it: all of them wait.
    let of = |name: &str, select: &str| json!({"name": name, "select": select});
    let judge = template("judge $(row.answer) to $(row.request.messages)");
    let input = json!({"batchJobRef": of("first", "Succeeded"), "template": judge});
    let mut second = fed(&scene, "second", input, json!({}));
    second["spec"]["output"] = json!({"configMap": {"name": "second"}, "includeRequests": true});
    scene.apply(&second.to_string());
    let input = json!({"batchJobRef": of("second", "All"), "template": template("third: $(row.answer)")});
    scene.apply(&fed(&scene, "third", input, json!({"spec": {"output": {"includeRequests": true}}})).to_string());
    scene.apply(&fed(&scene, "again", json!({"batchJobRef": of("first", "Unsuccessful")}), json!({})).to_string());
    let waits = |missing: &'static str| {
        move |job: &batchjob_operator::api::BatchJobObject| {
            condition(job, "Complete")
                .is_some_and(|(_, reason, message)| reason == "WaitingForInput" && message.contains(missing))
        }
    };
    scene
        .wait_job(
            "it waits for a job that is not there",
            "again",
            30,
            waits("'first' of `spec.input.batchJobRef` does not exist"),
        )
        .await;
    scene
        .wait_job(
            "it waits for a job that waits",
            "third",
            30,
            waits("'second' of `spec.input.batchJobRef` has not ended"),
        )
        .await;
    let first = json!({"spec": {
        "input": {"inline": {"requests": requests("first", 3)}},
        "output": {"compression": "Gzip", "includeRequests": true},
    }});
    scene.apply_job("first", first);
    for (job, total) in [("first", 3), ("second", 2), ("third", 2), ("again", 1)] {
        let status = scene.wait_tidy(job).await.status.unwrap();
        assert_eq!(status.requests.unwrap().total, total, "{job}");
    }
    assert_eq!(scene.answered_ids("second").await, ["first-0", "first-2"]);
    assert_eq!(scene.result_ids("third").await, ["first-0", "first-2"]);
    assert_eq!(scene.result_ids("again").await, ["first-1"], "answered this time");
    let sent = contents(&scene.get("out/third/requests.jsonl").await.unwrap());
    for (n, sent) in [0, 2].into_iter().zip(sent) {
        assert!(sent.starts_with("third: echo: judge echo: ") && sent.contains(&format!("first {n} ")), "{n}");
    }
    scene.sim.assert_billed_once(7).await;

    // The first job goes, and its results stay.
    scene.kubectl(&["delete", "bjob", "first"]);
    let place = json!({"uri": format!("s3://tests/{}/out/first/", scene.namespace), "endpoint": scene.endpoint, "secretRef": {"name": "s3"}});
    let all = template("$(row.error) $(row.request.messages) $(row.answer)");
    let input = json!({"results": {"objectStore": place, "select": "All"}, "template": all});
    scene.apply(&fed(&scene, "later", input, json!({})).to_string());
    scene.wait_complete("later").await;
    assert_eq!(scene.result_ids("later").await, ["first-0", "first-1", "first-2"], "in the order of the input");
    // The same job is the same work, and one that comes too late is told where the results are.
    let late = json!({"batchJobRef": of("first", "Succeeded"), "template": template("$(row.answer)")});
    scene.apply(&fed(&scene, "late", late, json!({})).to_string());
    scene.wait_job("it is told of `results`", "late", 30, waits("read its results with `spec.input.results`")).await;

    // Jobs that wait for each other say so.
    for (one, other) in [("hen", "egg"), ("egg", "hen")] {
        let input = json!({"batchJobRef": of(other, "Succeeded"), "template": template("$(row.answer)")});
        scene.apply(&fed(&scene, one, input, json!({})).to_string());
    }
    scene
        .wait_job("it is in a circle", "egg", 60, waits("BatchJobs 'egg', 'hen', 'egg' wait for each other's results"))
        .await;
    // Nor does one wait for its own.
    let own = json!({"uri": format!("s3://tests/{}/out/own/", scene.namespace), "endpoint": scene.endpoint, "secretRef": {"name": "s3"}});
    let input = json!({"results": {"objectStore": own, "select": "Succeeded"}, "template": template("$(row.answer)")});
    scene.apply(&fed(&scene, "own", input, json!({})).to_string());
    let is_told = |job: &batchjob_operator::api::BatchJobObject| {
        condition(job, "Stalled").is_some_and(|(status, reason, message)| {
            status == "True" && reason == "InvalidInput" && message.contains("is the destination of this job itself")
        })
    };
    scene.wait_job("it is told", "own", 30, is_told).await;
    let (ok, said) = scene
        .try_apply(&fed(&scene, "self", json!({"batchJobRef": of("self", "Unsuccessful")}), json!({})).to_string());
    assert!(!ok && said.contains("`spec.input.batchJobRef` names the BatchJob itself"), "{said}");

    // A set that was changed is not used.
    let key = "out/third/results.jsonl";
    let changed = scene.get(key).await.unwrap().replacen("echo", "Echo", 1);
    scene.put(key, changed).await;
    let input = json!({"batchJobRef": of("third", "Succeeded"), "template": template("$(row.answer)")});
    scene.apply(&fed(&scene, "changed", input, json!({})).to_string());
    let job = scene.wait_condition("changed", "Failed", "True", 30).await;
    let said = condition(&job, "Failed").unwrap().2;
    assert!(said.contains("out/third/results.jsonl has another SHA-256 than its manifest says"), "{said}");
    scene.sim.assert_billed_once(10).await;
}
