//! Questions that only a person can answer, and changes under a running job.

use batchjob_operator::api::BatchJobObject as BatchJob;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{Scene, condition, requests};

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_provider_does_not_know_is_held_and_given_up_on_a_persons_word_only() {
    let scene = Scene::new("held", &["--batch-duration", "1h", "--api-key", "sk-other"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    scene.wait_condition("j", "Submitted", "True", 30).await;
    // The key of another account: every batch "vanishes".
    let key = scene.manifest("provider.yaml").replace("sk-test", "sk-other");
    scene.apply(&key);
    let job = scene.wait_condition("j", "Held", "True", 90).await;
    let (_, _, message) = condition(&job, "Held").unwrap();
    let hold = &job.status.as_ref().unwrap().holds[0];
    assert!(message.contains(&format!("llmbatch.dev/resolve={}", hold.answers[0])), "{message}");
    assert_eq!(scene.sim.state().await["creates"], 1, "a 404 never makes a second batch");
    // The key comes back, and so does the batch.
    scene.example("provider.yaml");
    scene.wait_condition("j", "Held", "False", 40).await;
    scene.apply(&key);
    let job = scene.wait_condition("j", "Held", "True", 90).await;
    let answer = format!("llmbatch.dev/resolve={}", job.status.as_ref().unwrap().holds[0].answers[0]);
    scene.kubectl(&["annotate", "bjob", "j", &answer]);
    let job = scene.wait_condition("j", "Failed", "True", 40).await;
    assert_eq!(scene.sim.state().await["creates"], 1, "what was given up is not paid again");
    let counts = job.status.unwrap().requests.unwrap();
    assert_eq!((counts.total, counts.missing), (3, 3));
    assert_eq!(scene.get("out/j/errors.jsonl").await.unwrap().lines().count(), 3);
}

/// High enough to be seen in cents.
const PRICES: &str = "models: [{name: gpt-5-mini, prices: {inputUSDPerMillion: '100', outputUSDPerMillion: '1000'}}]";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_a_higher_budget_before_each_batch_that_does_not_fit() {
    let limits = "\n  limits: {maxRequestsPerBatch: 10}";
    let scene = Scene::with("budget", &["--batch-duration", "300ms"], &format!("{PRICES}{limits}")).await;
    let input = json!({"inline": {"requests": requests("j", 20)}});
    let defaults = json!({"max_completion_tokens": 50});
    let budget = json!({"maxCostUSD": "0.000001"});
    scene.apply_job("j", json!({"spec": {"input": input, "requestDefaults": defaults, "budget": budget}}));
    let raise = |most: &str| {
        let patch = json!({"spec": {"budget": {"maxCostUSD": most}}}).to_string();
        scene.kubectl(&["patch", "bjob", "j", "--type=merge", "-p", &patch])
    };
    let stalled = |job: &BatchJob| condition(job, "Stalled").filter(|(status, ..)| status == "True");
    let never = scene.wait_job("it never fits", "j", 60, |job| stalled(job).is_some()).await;
    let (_, reason, message) = stalled(&never).unwrap();
    assert!(reason == "BudgetExceeded" && message.contains("it alone never fits"), "{reason}: {message}");
    assert_eq!(scene.sim.state().await["creates"], 0);
    // The amount that the message names is enough for the first batch, and for no other beside what that cost.
    raise(message.split('\'').nth(1).unwrap());
    let spent = |job: &BatchJob| stalled(job).is_some_and(|(_, _, message)| message.contains("was spent"));
    scene.wait_job("the next batch does not fit", "j", 60, spent).await;
    assert_eq!(scene.sim.ledger().await.len(), 10);
    raise("100.00");
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_goes_alone_and_the_others_once_it_is_approved() {
    let mut scene = Scene::with("canary", &["--batch-duration", "300ms"], PRICES).await;
    let input = json!({"inline": {"requests": requests("j", 200)}});
    scene.apply_job("j", json!({"spec": {"input": input, "canary": {"requests": 10}}}));
    let job = scene.wait_condition("j", "Held", "True", 60).await;
    let (_, _, asked) = condition(&job, "Held").unwrap();
    let hold = job.status.unwrap().holds.remove(0);
    for words in ["10 of 10 requests were answered, for $", "The other 190 requests", "projected to cost $"] {
        assert!(hold.message.contains(words), "{hold:?}");
    }
    let answer = format!("{}={}", hold.annotation.unwrap(), hold.answers[0]);
    assert!(asked.contains(&answer), "{asked}");
    assert_eq!(scene.sim.ledger().await.len(), 10, "nothing else is billed");
    assert_eq!(scene.wait_told("CanaryDone", 1).await.len(), 1);
    scene.kubectl(&["annotate", "bjob", "j", &answer]);
    assert_eq!(scene.wait_told("Approved", 1).await.len(), 1);
    // It was given once, and is needed no more.
    scene.kubectl(&["annotate", "bjob", "j", &format!("{}-", answer.split('=').next().unwrap())]);
    scene.restart().await;
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(200).await;
    let ids: Vec<String> = (0..200).map(|i| format!("j-{i}")).collect();
    assert_eq!(scene.result_ids("j").await, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_gone_is_missed_and_nothing_is_paid_again() {
    let scene = Scene::new("gone", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_condition("j", "Submitted", "True", 30).await;
    let (key, journal) = ("out/j/_batchjob/journal.json", scene.get("out/j/_batchjob/journal.json").await.unwrap());
    scene.delete(key).await;
    let job = scene.wait_condition("j", "Stalled", "True", 40).await;
    assert!(condition(&job, "Stalled").unwrap().2.contains("journal"), "{:?}", condition(&job, "Stalled"));
    let status = job.status.unwrap();
    assert!(
        status.submission_time.is_some() && status.batches.len() == 1,
        "what was submitted is not forgotten with it"
    );
    // Whatever asks for another look.
    scene.kubectl(&["annotate", "bjob", "j", "llmbatch.dev/reconcile-requested-at=now"]);
    let looked =
        |j: &BatchJob| j.status.as_ref().is_some_and(|s| s.last_handled_reconcile_at.as_deref() == Some("now"));
    scene.wait_job("it is looked at again", "j", 30, looked).await;
    assert_eq!(scene.get(key).await, None);
    scene.put(key, journal).await;
    scene.wait_condition("j", "Stalled", "False", 40).await;
    assert_eq!(scene.sim.state().await["creates"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_gone_while_a_submission_is_unresolved_is_missed_and_nothing_is_sent() {
    let scene = Scene::with("gone-unresolved", &["--batch-duration", "300ms"], "unknownSubmissionPolicy: Hold").await;
    scene.sim.fault(json!({"point": "create_batch", "action": "drop_request"})).await;
    scene.apply_job("j", json!({}));
    let job = scene.wait_condition("j", "Held", "True", 60).await;
    let none = format!("llmbatch.dev/resolve={}", job.status.unwrap().holds[0].answers[0]);
    let (key, journal) = ("out/j/_batchjob/journal.json", scene.get("out/j/_batchjob/journal.json").await.unwrap());
    scene.delete(key).await;
    let is_missed = |j: &BatchJob| {
        j.status
            .as_ref()
            .is_some_and(|s| s.holds.iter().any(|h| h.message.contains("journal.json") && h.id.starts_with("journal-")))
    };
    scene.wait_job("the journal is missed", "j", 60, is_missed).await;
    assert_eq!(scene.get(key).await, None, "no other one is opened");
    assert_eq!(scene.sim.spent().await, (1, 0), "nothing is sent under another name");
    scene.put(key, journal).await;
    scene.kubectl(&["annotate", "bjob", "j", &none]);
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_gone_are_asked_about_and_fetched_once_they_are_back() {
    let scene = Scene::new("answers-gone", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({}));
    let batch = scene.batch_of("j").await;
    scene.sim.fault(json!({"point": "content", "action": "status", "status": 404, "times": 10_000})).await;
    scene.finish(&batch).await;
    let job = scene.wait_condition("j", "Held", "True", 60).await;
    let status = job.status.unwrap();
    assert!(status.holds[0].message.contains("no longer has the answers"), "{:?}", status.holds);
    assert_eq!(status.holds[0].answers.len(), 2);
    scene.sim.no_more_faults().await;
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
    assert_eq!(scene.sim.state().await["creates"], 1);
}

/// A batch as the provider shows it for a moment: it says that it ended, and neither where its answers are nor how many.
fn bare(batch: &Value, status: &str) -> Value {
    let body = json!({"id": batch["id"], "status": status, "input_file_id": batch["input_file_id"],
        "metadata": batch["metadata"], "created_at": batch["created_at"]});
    json!({"point": "get_batch", "action": "status", "status": 200, "body": body.to_string()})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_seems_to_have_ended_and_has_not_is_waited_for_and_nothing_is_sent_again() {
    let scene = Scene::new("seems-ended", &["--batch-duration", "1h"]).await;
    for (name, shown) in
        [("once", &["completed"][..]), ("twice", &["completed", "completed"]), ("stopped", &["expired", "expired"])]
    {
        scene.apply_job(name, json!({}));
        let batch = scene.batch_of(name).await;
        for status in shown {
            scene.sim.fault(bare(&batch, status)).await;
        }
        scene.sim.faults_struck().await;
        scene.finish(&batch).await;
        scene.wait_complete(name).await;
    }
    scene.sim.assert_billed_once(9).await;
    assert_eq!(scene.sim.state().await["creates"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_ended_and_then_is_unknown_is_asked_about() {
    let scene = Scene::new("ended-unknown", &["--batch-duration", "1h"]).await;
    scene.apply_job("j", json!({}));
    let batch = scene.batch_of("j").await;
    scene.sim.fault(bare(&batch, "completed")).await;
    scene.sim.fault(json!({"point": "get_batch", "action": "status", "status": 404, "times": 10_000})).await;
    let job = scene.wait_condition("j", "Held", "True", 60).await;
    let hold = &job.status.unwrap().holds[0];
    assert!(hold.id.starts_with("lost-") && hold.message.contains("does not know batch"), "{hold:?}");
    scene.sim.no_more_faults().await;
    scene.finish(&batch).await;
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_lost_is_given_up_on_a_persons_word_and_nothing_is_paid_again() {
    let scene = Scene::new("lost-journal", &["--batch-duration", "1h"]).await;
    for in_map in [false, true] {
        let name = if in_map { "map" } else { "j" };
        let output = json!({"objectStore": null, "configMap": {"name": name}});
        let change = if in_map { json!({"spec": {"output": output}}) } else { json!({}) };
        scene.apply_job(name, change.clone());
        let batch = scene.batch_of(name).await;
        let work = scene.get_job(name).await.status.unwrap().work.unwrap().id;
        match in_map {
            false => scene.delete(&format!("out/{name}/_batchjob/journal.json")).await,
            true => _ = scene.kubectl(&["delete", "configmap", name]),
        }
        let job = scene.wait_condition(name, "Held", "True", 40).await;
        let (_, reason, message) = condition(&job, "Stalled").unwrap();
        let answer = format!("llmbatch.dev/resolve={}", job.status.unwrap().holds[0].answers[0]);
        assert!(reason == "AwaitingAnswer" && message.contains(&answer), "{reason} {message}");
        for words in
            ["journal.json at the destination, is gone; put it back", "none of its requests is ever sent again", &work]
        {
            assert!(message.contains(words), "{words}: {message}");
        }
        scene.answer(name, "abandon").await;
        let job = scene.wait_condition(name, "Failed", "True", 40).await;
        let (_, reason, message) = condition(&job, "Failed").unwrap();
        assert!(reason == "JournalLost" && message.contains(batch["id"].as_str().unwrap()), "{reason} {message}");
        let status = job.status.unwrap();
        let counts = status.requests.unwrap();
        assert_eq!((counts.total, counts.missing), (3, 3));
        assert_eq!((status.batches.len(), status.results.unwrap().uri.as_str()), (1, ""));
        scene.wait_batch("it was told to stop", |b| b["id"] == batch["id"] && b["status"] == "cancelled").await;
        scene.wait_tidy(name).await;
        if !in_map {
            assert!(!scene.list(&format!("out/{name}/_batchjob/{work}/")).await.is_empty(), "nothing was tidied up");
            assert_eq!(scene.get(&format!("out/{name}/results.jsonl")).await, None);
        }
        // Applied again, the end is the same.
        scene.kubectl(&["delete", "bjob", name]);
        scene.apply_job(name, change);
        let job = scene.wait_condition(name, "Failed", "True", 40).await;
        assert_eq!(condition(&job, "Failed").unwrap().1, "JournalLost");
        assert_eq!(condition(&job, "ResultsReused").unwrap().0, "True");
        assert_eq!(scene.sim.state().await["creates"], if in_map { 2 } else { 1 });
    }
    assert!(scene.sim.ledger().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn once_started_what_shapes_requests_is_locked_and_the_rest_is_not() {
    let scene = Scene::new("locked", &["--batch-duration", "1h"]).await;
    let from = |uri: &str, secret: &str| json!({"objectStore": {"uri": uri, "endpoint": scene.endpoint, "secretRef": {"name": secret}}});
    let reuse = |secret: &str| json!([from("s3://tests/nothing/", secret)]);
    let spec = json!({"spec": {"requestDefaults": {"max_completion_tokens": 512}, "reuseFrom": reuse("s3")}});
    scene.apply_job("j", spec.clone());
    let batch = scene.wait_batch("the batch runs", |b| b["status"] == "in_progress").await;
    for (change, words) in [
        (json!({"spec": {"model": "other"}}), "spec.model"),
        (json!({"spec": {"runID": "v2"}}), "spec.runID"),
        (json!({"spec": {"requestDefaults": null, "requestDefaultsJSON": "{}"}}), "spec.requestDefaults"),
        (json!({"spec": {"providerRef": {"name": "other"}}}), "spec.providerRef"),
        (json!({"spec": {"input": {"inline": {"requests": [{"customID": "x", "body": {}}]}}}}), "spec.input"),
        (json!({"spec": {"output": {"objectStore": {"uri": "s3://tests/elsewhere/"}}}}), "spec.output"),
        (json!({"spec": {"reuseFrom": null}}), "spec.reuseFrom"),
        (json!({"spec": {"reuseFrom": [from("s3://tests/elsewhere/", "s3")]}}), "spec.reuseFrom"),
        (
            json!({"spec": {"reuseFrom": [from("s3://tests/nothing/", "s3"), from("s3://tests/more/", "s3")]}}),
            "spec.reuseFrom",
        ),
    ] {
        let mut change = change;
        if words != "spec.requestDefaults" {
            change["spec"]["requestDefaults"] = spec["spec"]["requestDefaults"].clone();
        }
        if words != "spec.reuseFrom" {
            change["spec"]["reuseFrom"] = reuse("s3");
        }
        let (ok, said) = scene.try_apply(&scene.job("j", change).to_string());
        assert!(!ok && said.contains(words) && said.contains("may not be changed"), "{words}: {said}");
    }
    let allowed = json!({"spec": {"requestDefaults": {"max_completion_tokens": 512}, "parallelism": 9, "pollPeriodSeconds": 2, "reuseFrom": reuse("other")}});
    scene.apply_job("j", allowed);
    // CEL cannot see this one: keys that one side lacks are skipped in free-form JSON.
    scene.kubectl(&[
        "patch",
        "bjob",
        "j",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/spec/requestDefaults","value":{"n":100}}]"#,
    ]);
    let job = scene.wait_condition("j", "Stalled", "True", 30).await;
    assert_eq!(condition(&job, "Stalled").unwrap().1, "SpecDrift");
    scene.sim.admin_post(&format!("batches/{}/finish", batch["id"].as_str().unwrap()), json!({})).await;
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}

/// A job whose POST is lost at a provider whose policy is to ask, once a person is asked.
async fn unknown(scene: &Scene, name: &str, fault: &str) -> BatchJob {
    scene.sim.fault(json!({"point": "create_batch", "action": fault})).await;
    scene.apply_job(name, json!({}));
    scene.wait_condition(name, "Held", "True", 60).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_lost_submission_is_asked_in_full_and_each_answer_works_as_it_is_copied() {
    let scene = Scene::with("unknown", &["--batch-duration", "1h"], "unknownSubmissionPolicy: Hold").await;
    let job = unknown(&scene, "none", "drop_request").await;
    let status = job.status.clone().unwrap();
    let hold = &status.holds[0];
    let file = scene.sim.state().await["files"][0]["id"].as_str().unwrap().to_string();
    for words in ["the reply to a submission was lost", "`unknownSubmissionPolicy` is Hold", &file, "paid, anew"] {
        assert!(hold.message.contains(words), "{words}: {}", hold.message);
    }
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert_eq!(reason, "AwaitingAnswer");
    for answer in &hold.answers {
        let command =
            format!("kubectl -n {} annotate --overwrite bjob none llmbatch.dev/resolve={answer}", scene.namespace);
        assert!(message.contains(&command), "{command}: {message}");
    }
    let told = scene.wait_told("Held", 1).await;
    assert!(told.len() == 1 && told[0]["note"].as_str().unwrap().contains(&hold.message), "{told:?}");
    assert_eq!(scene.told("Stalled").await.len(), 0, "one question, one event");
    let operator = scene.operator.as_ref().unwrap();
    eventually("it is counted", 10, || async {
        (operator.metric("batchjob_jobs{condition=\"Held\"}").await == 1.0).then_some(())
    })
    .await;
    // The id is still to be filled in: this is no answer.
    scene.answer("none", "adopt:BATCH_ID").await;
    scene.kubectl(&["annotate", "bjob", "none", "llmbatch.dev/reconcile-requested-at=now"]);
    let looked =
        |j: &BatchJob| j.status.as_ref().is_some_and(|s| s.last_handled_reconcile_at.as_deref() == Some("now"));
    let job = scene.wait_job("it is looked at again", "none", 30, looked).await;
    assert_eq!(job.status.unwrap().holds, status.holds);
    assert_eq!(scene.sim.state().await["creates"], 0);
    scene.answer("none", "none").await;
    let batch = scene.batch_of("none").await;
    assert_ne!(batch["input_file_id"], file, "a fresh file for another attempt");
    scene.finish(&batch).await;
    scene.wait_complete("none").await;
    // A batch that the provider does not list.
    let lag = json!({"point": "list_batches", "action": "lag", "seconds": 3600, "times": 1000});
    scene.sim.fault(lag).await;
    unknown(&scene, "adopt", "drop_reply").await;
    let made = scene.wait_batch("it was created", |b| b["id"] != batch["id"]).await;
    let hold = scene.get_job("adopt").await.status.unwrap().holds[0].id.clone();
    let answer = format!("llmbatch.dev/resolve={hold}=adopt:{}", made["id"].as_str().unwrap());
    scene.kubectl(&["annotate", "--overwrite", "bjob", "adopt", &answer]);
    assert_eq!(scene.batch_of("adopt").await["id"], made["id"]);
    scene.finish(&made).await;
    scene.wait_complete("adopt").await;
    eventually("nobody is asked any more", 10, || async {
        (operator.metric("batchjob_jobs{condition=\"Held\"}").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(scene.sim.state().await["creates"], 2);
    scene.sim.assert_billed_once(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_lost_is_sent_again_on_a_persons_word() {
    let scene = Scene::new("resent", &["--batch-duration", "1h", "--api-key", "sk-other"]).await;
    scene.apply_job("j", json!({}));
    let first = scene.batch_of("j").await;
    // An account that was given up for another one.
    scene.apply(&scene.manifest("provider.yaml").replace("sk-test", "sk-other"));
    let job = scene.wait_condition("j", "Held", "True", 90).await;
    let (_, reason, message) = condition(&job, "Stalled").unwrap();
    assert_eq!(reason, "AwaitingAnswer");
    assert!(
        message.contains(first["id"].as_str().unwrap()) && message.contains("put back the credential"),
        "{message}"
    );
    scene.answer("j", "resend").await;
    let is_another =
        |j: &BatchJob| j.status.as_ref().is_some_and(|s| s.batches[0].provider_id.as_deref() != first["id"].as_str());
    let sent = |j: &BatchJob| is_another(j) && condition(j, "Submitted").is_some_and(|(s, ..)| s == "True");
    let job = scene.wait_job("it is sent again", "j", 60, sent).await;
    let id = job.status.unwrap().batches[0].provider_id.clone().unwrap();
    let second = scene.wait_batch("the other batch runs", |b| b["id"] == id).await;
    scene.finish(&second).await;
    let job = scene.wait_complete("j").await;
    assert_eq!(job.status.unwrap().requests.unwrap().resent, 3, "nobody knows whether the first batch was billed");
    assert_eq!(scene.sim.state().await["creates"], 2);
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_gone_is_missed_and_nothing_is_paid_again() {
    let scene = Scene::new("no-manifest", &["--batch-duration", "200ms"]).await;
    scene.apply_job("j", json!({}));
    scene.wait_tidy("j").await;
    let manifest = scene.get("out/j/manifest.json").await.unwrap();
    scene.delete("out/j/manifest.json").await;
    scene.kubectl(&["delete", "bjob", "j"]);
    scene.apply_job("j", json!({}));
    let job = scene.wait_condition("j", "Stalled", "True", 60).await;
    let (_, _, message) = condition(&job, "Stalled").unwrap();
    assert!(message.contains("manifest.json"), "{message}");
    assert_eq!(scene.sim.state().await["creates"], 1);
    scene.put("out/j/manifest.json", manifest).await;
    scene.wait_complete("j").await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_annotation_answers_for_every_batch_that_is_lost_and_a_typo_for_none() {
    let scene = Scene::with(
        "lost-many",
        &["--batch-duration", "1h", "--api-key", "sk-other"],
        "limits: {maxRequestsPerBatch: 1}",
    )
    .await;
    scene.apply_job("j", json!({"spec": {"parallelism": 10, "input": {"inline": {"requests": requests("j", 10)}}}}));
    let runs = |j: &BatchJob| condition(j, "Submitted").is_some_and(|(status, ..)| status == "True");
    scene.wait_job("all batches run", "j", 60, runs).await;
    // An account that was given up for another one.
    let other = scene.manifest("provider.yaml").replace("sk-test", "sk-other");
    scene.apply(&(other + "  limits:\n    maxRequestsPerBatch: 1\n"));
    let all_asked =
        |j: &BatchJob| condition(j, "Held").is_some_and(|(_, _, said)| said.contains("10 questions are open"));
    let job = scene.wait_job("all are asked about", "j", 120, all_asked).await;
    assert_eq!(job.status.unwrap().holds.len(), 8, "so many are shown");
    scene.kubectl(&["annotate", "bjob", "j", "llmbatch.dev/resolve=lost-*=resned"]);
    let named = |j: &BatchJob| condition(j, "Held").is_some_and(|(_, _, said)| said.contains("'lost-*=resned'"));
    scene.wait_job("the typo is named", "j", 30, named).await;
    assert_eq!(scene.sim.state().await["creates"], 10, "and nothing is sent for it");
    scene.kubectl(&["annotate", "--overwrite", "bjob", "j", "llmbatch.dev/resolve=lost-*=resend"]);
    eventually("all are sent again", 60, || async { (scene.sim.state().await["creates"] == 20).then_some(()) }).await;
    scene.kubectl(&["delete", "bjob", "j", "--timeout=60s"]);
}
