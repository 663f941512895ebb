//! CronBatchJobs: a child for each start, never two, and the schedule tells what it did.

use std::io::Write;
use std::process::{Command, Stdio};

use batchjob_operator::api::{BatchJobObject as BatchJob, CronBatchJobObject as CronBatchJob, CronBatchJobStatus};
use batchjob_operator::schedule::{Schedule, child};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{Scene, batch_lines, condition};
use crate::support::shared::cluster;
use crate::support::webhooks::Receiver;

fn crons(scene: &Scene) -> Api<CronBatchJob> {
    Api::namespaced(scene.client.clone(), &scene.namespace)
}

/// A nightly schedule with `change`, whose jobs write to a folder of their date.
fn nightly(scene: &Scene, name: &str, change: Value) -> Value {
    let mut template = scene.job("nightly", json!({}));
    let uri = format!("s3://tests/{}/out/$(scheduledTime:%Y/%m/%d)/", scene.namespace);
    template["spec"]["output"]["objectStore"]["uri"] = json!(uri);
    let mut spec = json!({
        "schedule": "30 2 * * *", "timeZone": "Europe/Berlin",
        "jobTemplate": {"metadata": {"labels": {"team": "news"}}, "spec": template["spec"]},
    });
    spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob", "metadata": {"name": name}, "spec": spec})
}

/// Applies a schedule as if its last start had been `days` ago.
async fn apply_after(scene: &Scene, days: i64, mut cron: Value) {
    let (name, suspend) = (cron["metadata"]["name"].as_str().unwrap().to_string(), cron["spec"]["suspend"].clone());
    cron["spec"]["suspend"] = json!(true);
    scene.apply(&cron.to_string());
    wait(scene, &name, |status| status.observed_generation.is_some()).await;
    let last = Timestamp::now() - SignedDuration::from_hours(24 * days);
    let patch = json!({"status": {"lastScheduleTime": last.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}});
    crons(scene).patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    cron["spec"]["suspend"] = suspend;
    scene.apply(&cron.to_string());
}

async fn wait(scene: &Scene, name: &str, is_so: impl Fn(&CronBatchJobStatus) -> bool) -> CronBatchJobStatus {
    wait_long(scene, name, 60, is_so).await
}

async fn wait_long(
    scene: &Scene,
    name: &str,
    seconds: u64,
    is_so: impl Fn(&CronBatchJobStatus) -> bool,
) -> CronBatchJobStatus {
    eventually(&format!("the schedule {name}"), seconds, || async {
        crons(scene).get(name).await.unwrap().status.filter(|status| is_so(status))
    })
    .await
}

fn ready(status: &CronBatchJobStatus) -> Option<(&str, &str, &str)> {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some((&ready.status, &ready.reason, &ready.message))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_missed_nights_the_last_is_made_up_for_once_and_its_results_are_in_the_folder_of_its_date() {
    let mut scene = Scene::new("schedules", &[]).await;
    let receiver = Receiver::start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hooks"},
        "stringData": {"url": receiver.url("nightly")}});
    scene.apply(&secret.to_string());
    let quotas: Api<ResourceQuota> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let few = |batch_jobs: &str, secrets: u32| {
        let hard = json!({"count/batchjobs.llmbatch.dev": batch_jobs, "count/secrets": secrets.to_string()});
        let quota =
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}});
        let (quotas, apply) = (quotas.clone(), PatchParams::apply("admin").force());
        async move { quotas.patch("few", &apply, &Patch::Apply(quota)).await.unwrap() }
    };
    // The controller learns of new kinds every 30 s, and counts their objects when a quota changes, or five minutes later.
    let changes = std::cell::Cell::new(100);
    eventually("the quota counts BatchJobs", 120, async || {
        changes.set(changes.get() + 1);
        let used = few("0", changes.get()).await.status?.used?;
        used.contains_key("count/batchjobs.llmbatch.dev").then_some(())
    })
    .await;
    let mut cron = nightly(&scene, "nightly", json!({}));
    cron["spec"]["jobTemplate"]["spec"]["notifications"] = json!([{"name": "ops", "events": ["Complete"],
        "webhook": {"urlSecretKeyRef": {"name": "hooks", "key": "url"}}}]);
    apply_after(&scene, 3, cron).await;
    let refused = wait(&scene, "nightly", |s| ready(s).is_some_and(|(is_ready, ..)| is_ready == "False")).await;
    let (_, reason, message) = ready(&refused).unwrap();
    assert!(reason == "FailedCreate" && message.contains("exceeded quota: few"), "{reason}: {message}");
    assert_eq!(refused.active_count, 0);
    let told = scene.wait_told("FailedCreate", 1).await;
    assert!(told.len() == 1 && told[0]["note"].as_str().unwrap().contains("exceeded quota: few"), "{told:?}");

    // It tries again by itself, a minute later. Its BatchJob counts, and so does one that a person creates.
    few("1", 200).await;
    let is_done = |status: &CronBatchJobStatus| status.last_successful_time.is_some() && status.active.is_empty();
    let status = wait_long(&scene, "nightly", 120, is_done).await;

    let (created, said) = scene.try_apply(&scene.job("by-hand", json!({})).to_string());
    assert!(
        !created && said.contains("exceeded quota: few") && said.contains("used: count/batchjobs.llmbatch.dev=1"),
        "{said}"
    );
    let children = scene.jobs().list(&Default::default()).await.unwrap().items;
    let [child] = children.as_slice() else { panic!("{} children", children.len()) };
    let scheduled = status.last_schedule_time.unwrap().0;
    let night = scheduled.in_tz("Europe/Berlin").unwrap();
    assert_eq!((night.hour(), night.minute()), (2, 30));
    assert!(scheduled > Timestamp::now() - SignedDuration::from_hours(25), "the last night: {scheduled}");
    assert_eq!(child.metadata.name.as_deref().unwrap(), format!("nightly-{}", scheduled.as_second() / 60));
    assert_eq!(child.metadata.labels.as_ref().unwrap()["team"], "news");
    let run_id = scheduled.strftime("%Y%m%dT%H%M%SZ").to_string();
    assert_eq!(child.spec.run_id.as_deref(), Some(run_id.as_str()));
    let folder = night.strftime("out/%Y/%m/%d").to_string();
    assert!(scene.get(&format!("{folder}/manifest.json")).await.is_some(), "no results in {folder}");
    // The webhook of the template is told of the BatchJob, and where its results are.
    let received = receiver.waits_for("nightly", 1).await;
    let (told_of, event, _) = received[0].told();
    assert_eq!((Some(&told_of), event.as_str()), (child.metadata.name.as_ref(), "complete"));
    let results = received[0].event()["data"]["results"]["uri"].clone();
    assert!(results.as_str().unwrap().ends_with(&format!("/{folder}/results.jsonl")), "{results}");
    assert!(status.next_schedule_time.unwrap().0 > Timestamp::now());
    assert_eq!(ready(&wait(&scene, "nightly", |_| true).await).unwrap().1, "Scheduled");
    for reason in ["SuccessfulCreate", "SawCompletedJob"] {
        assert_eq!(scene.wait_told(reason, 1).await.len(), 1, "{reason}");
    }

    scene.restart().await;
    crons(&scene)
        .patch("nightly", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"annotations": {"llmbatch.dev/reconcile-requested-at": "1"}}, "spec": {"failedJobsHistoryLimit": 2}})))
        .await
        .unwrap();
    wait(&scene, "nightly", |status| status.observed_generation >= Some(3)).await;
    assert_eq!(scene.jobs().list(&Default::default()).await.unwrap().items.len(), 1, "a night has one child");

    crons(&scene).delete("nightly", &Default::default()).await.unwrap();
    scene.wait_gone(child.metadata.name.as_deref().unwrap()).await;
    assert!(scene.get(&format!("{folder}/results.jsonl")).await.is_some(), "results stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_runs_for_a_date_and_a_day_that_ran_is_adopted() {
    let scene = Scene::new("nightly-example", &["--batch-duration", "200ms"]).await;
    scene.put("in/articles/2026/11/20/a.jsonl", batch_lines("article", 2)).await;
    scene.example("nightly.yaml");
    let status = wait(&scene, "summaries", |status| status.next_schedule_time.is_some()).await;
    assert_eq!(ready(&status).unwrap().1, "Scheduled");

    let mut render = Command::new(env!("CARGO_BIN_EXE_batchjob-operator"));
    render.args(["schedule", "render", "-", "--at", "2026-11-21"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut render = render.spawn().unwrap();
    render.stdin.take().unwrap().write_all(scene.manifest("nightly.yaml").as_bytes()).unwrap();
    let rendered = String::from_utf8(render.wait_with_output().unwrap().stdout).unwrap();
    scene.apply(&rendered);
    let name = "summaries-29920530";
    let is_late = |job: &BatchJob| condition(job, "Complete").is_some_and(|(_, reason, _)| reason == "WaitingForInput");
    let late = scene.wait_job("the day is not whole yet", name, 30, is_late).await;
    let (_, _, message) = condition(&late, "Complete").unwrap();
    assert!(message.contains("in/articles/2026/11/20/_SUCCESS is not there yet"), "{message}");
    scene.put("in/articles/2026/11/20/b.jsonl", batch_lines("another", 1)).await;
    scene.put("in/articles/2026/11/20/_SUCCESS", "").await;
    scene.kubectl(&["annotate", "bjob", name, "llmbatch.dev/reconcile-requested-at=now"]);
    scene.wait_complete(name).await;
    assert_eq!(scene.result_ids("summaries/2026/11/21").await.len(), 3);

    // Results that are there are adopted without a wait.
    scene.delete("in/articles/2026/11/20/_SUCCESS").await;
    scene.jobs().delete(name, &Default::default()).await.unwrap();
    scene.wait_gone(name).await;
    scene.apply(&rendered);
    scene.wait_complete(name).await;
    scene.sim.assert_billed_once(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_night_pays_for_new_documents_only_and_its_results_are_whole() {
    let scene = Scene::new("nightly-reuse", &["--batch-duration", "200ms"]).await;
    let all = batch_lines("article", 8);
    let lines = |from: usize, to: usize| all.split_inclusive('\n').skip(from).take(to - from).collect::<String>();
    // The second night has four of the first one's five articles, and three new ones; the third has what the second had.
    for (day, articles) in [("20", lines(0, 5)), ("21", lines(1, 8)), ("22", lines(1, 8))] {
        scene.put(&format!("in/articles/2026/11/{day}/a.jsonl"), articles).await;
        scene.put(&format!("in/articles/2026/11/{day}/_SUCCESS"), "").await;
    }
    let manifest = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(manifest.path(), scene.manifest("nightly.yaml")).unwrap();
    for (day, name, paid, reused, total) in [
        ("21", "summaries-29920530", 5, 0, 5),
        ("22", "summaries-29921970", 8, 4, 7),
        ("23", "summaries-29923410", 8, 7, 7),
    ] {
        let mut render = std::process::Command::new(env!("CARGO_BIN_EXE_batchjob-operator"));
        render.args(["schedule", "render"]).arg(manifest.path()).args(["--at", &format!("2026-11-{day}")]);
        scene.apply(&String::from_utf8(render.output().unwrap().stdout).unwrap());
        let job = scene.wait_complete(name).await;
        scene.sim.assert_billed_once(paid).await;
        let status = job.status.clone().unwrap();
        let requests = status.requests.unwrap();
        assert_eq!((requests.succeeded, requests.reused, requests.total), (total, reused, total), "{name}");
        let first = if day == "21" { 0 } else { 1 };
        let wanted: Vec<String> = (first..first + total).map(|i| format!("article-{i}")).collect();
        assert_eq!(scene.result_ids(&format!("summaries/2026/11/{day}")).await, wanted, "whole, in order");
        let shown = if reused > 0 { format!("{total}/{total} (100%), {reused} reused") } else { "5/5 (100%)".into() };
        assert_eq!(status.display.unwrap().progress, shown);
        assert_eq!(status.batches.len(), usize::from(paid == 5 || reused == 4), "{name}");
        let manifest = scene.get(&format!("out/summaries/2026/11/{day}/manifest.json")).await.unwrap();
        assert_eq!(manifest.contains(&format!("\"reused\": {reused}")), reused > 0, "{manifest}");
        scene.wait_tidy(name).await;
        let left = scene.list(&format!("out/summaries/2026/11/{day}/_batchjob/")).await;
        assert!(left.iter().all(|key| !key.contains("/parts/") && !key.contains("/shards/")), "{left:?}");
    }
    let told = scene.wait_told("NothingToReuse", 2).await;
    let is_told = |day: &str| {
        let folder = format!("/out/summaries/2026/11/{day}/");
        told.iter().any(|event| event["note"].as_str().unwrap().contains(&folder))
    };
    assert!(["19", "20"].into_iter().all(is_told) && !["21", "22"].into_iter().any(is_told), "{told:?}");

    // A set that was changed is not used, and nothing is sent.
    scene.put("out/summaries/2026/11/23/results.jsonl", "{}\n").await;
    let location = |uri: &str| json!({"uri": format!("s3://tests/{}/{uri}", scene.namespace), "endpoint": scene.endpoint, "secretRef": {"name": "s3"}});
    let from = json!([{"objectStore": location("out/summaries/2026/11/23/")}]);
    scene.apply_job("late", json!({"spec": {"reuseFrom": from}}));
    let failed = scene.wait_condition("late", "Failed", "True", 60).await;
    let (_, reason, message) = condition(&failed, "Failed").unwrap();
    assert!(
        reason == "InvalidInput" && message.contains("spec.reuseFrom[0]") && message.contains("results.jsonl"),
        "{message}"
    );
    scene.sim.assert_billed_once(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_child_runs_the_next_is_skipped_and_replace_makes_room_for_it() {
    let scene = Scene::new("overlaps", &["--batch-duration", "1h"]).await;
    let minutely = json!({"schedule": "* * * * *", "timeZone": null});
    apply_after(&scene, 1, nightly(&scene, "often", minutely)).await;
    let first = wait(&scene, "often", |status| !status.active.is_empty()).await.active.remove(0);
    scene.batch_of(&first.name).await;

    let name = first.name.clone();
    crate::support::eventually("the next start is skipped", 90, || async {
        (!scene.told("JobAlreadyActive").await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(scene.jobs().list(&Default::default()).await.unwrap().items.len(), 1);

    let replace = json!({"spec": {"concurrencyPolicy": "Replace"}});
    crons(&scene).patch("often", &PatchParams::default(), &Patch::Merge(replace)).await.unwrap();
    let second = wait(&scene, "often", |status| status.active.iter().any(|active| active.name != name)).await;
    assert!(second.last_schedule_time.is_some());
    scene.wait_gone(&name).await;
    scene.wait_batch("the batch of the first was cancelled", |batch| batch["status"] == "cancelled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_cannot_start_says_why_before_its_time() {
    let scene = Scene::new("unfit-schedules", &[]).await;
    let unfit = |name: &str, change: Value| nightly(&scene, name, change);
    let mut bad_variable = unfit("bad-variable", json!({}));
    bad_variable["spec"]["jobTemplate"]["spec"]["output"]["objectStore"]["uri"] =
        json!("s3://tests/$(scheduledTime:%Q)/");
    for (cron, reason, names) in [
        (unfit("no-zone", json!({"timeZone": "Europe/Berlni"})), "UnknownTimeZone", "Europe/Berlni"),
        (unfit("no-schedule", json!({"schedule": "61 * * * *"})), "UnparseableSchedule", "61"),
        (unfit("never", json!({"schedule": "0 0 31 2 *"})), "InvalidSchedule", "no date"),
        (bad_variable, "FailedCreate", "%Q"),
    ] {
        scene.apply(&cron.to_string());
        let name = cron["metadata"]["name"].as_str().unwrap();
        let status = wait(&scene, name, |status| ready(status).is_some()).await;
        let (is_ready, why, message) = ready(&status).unwrap();
        assert_eq!((is_ready, why), ("False", reason), "{message}");
        assert!(message.contains(names), "{message}");
        assert_eq!(status.next_schedule_time, None);
    }
    let (applied, said) =
        scene.try_apply(&unfit("zone-in-schedule", json!({"schedule": "TZ=UTC 0 0 * * *"})).to_string());
    assert!(!applied && said.contains("spec.timeZone"), "{said}");
}

/// The API server judges names of variables, the operator their formats as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_with_an_unknown_variable_is_refused_and_no_other() {
    let scene = Scene::set("variables", &[]).await;
    let of = |field: &str, text: &str| {
        let mut cron = nightly(&scene, "variables", json!({}));
        let spec = &mut cron["spec"]["jobTemplate"]["spec"];
        if field.starts_with("/input") {
            spec["input"] = scene.job("x", json!({"inputKey": "x/"}))["spec"]["input"].clone();
            spec["input"]["waitFor"] = json!({"uri": "s3://tests/x/_SUCCESS"});
        }
        if field.starts_with("/input/configMaps") {
            spec["input"] = json!({"configMaps": [{"name": "a"}, {"name": "b", "key": "k"}]});
        }
        spec["runID"] = json!("v1");
        *spec.pointer_mut(field).unwrap() = json!(text);
        cron
    };
    let (uri, in_uri, out) = ("/input/waitFor/uri", "/input/objectStore/uri", "/output/objectStore/uri");
    let (map, key) = ("/input/configMaps/1/name", "/input/configMaps/1/key");
    let mut refused = 0;
    for (field, text, is_known) in [
        ("/runID", "v-$(scheduledTime:%Y-%m-%d)", true),
        ("/runID", "$(scheduledTme)", false),
        ("/runID", "v-$(scheduledTime", false),
        ("/runID", "$(runID)", false),
        (uri, "s3://tests/$(scheduledTime:%Y/%m/%d:-1d)/_SUCCESS", true),
        (uri, "s3://tests/$$(scheduledTime)/a$b$$c", true),
        (uri, "s3://tests/$(date)/_SUCCESS", false),
        (in_uri, "s3://tests/$$$(x)/$$(scheduledTime/", true),
        (in_uri, "s3://tests/$(scheduledTime:%Y/", false),
        (in_uri, "s3://tests/$(scheduledTimes)/", false),
        (map, "m-$(scheduledTime:%Y-%m-%d)", true),
        (map, "m-$(row.a)", false),
        (key, "$(scheduledTime:%j).jsonl", true),
        (key, "$(scheduledTime:%j.jsonl", false),
        (out, "s3://tests/$(namespace)/$(name)/$(runID)/$(scheduledTime:%F)/", true),
        (out, "s3://tests/$(runid)/", false),
        (out, "s3://tests/$$(name)/", false),
    ] {
        let cron = of(field, text);
        let dry = ["-n", &scene.namespace, "apply", "--dry-run=server", "-f", "-"];
        let (is_applied, said) = cluster().try_kubectl(&dry, Some(&cron.to_string()));
        assert_eq!(is_applied, is_known, "{field}: {text}: {said}");
        if !is_applied {
            refused += 1;
            assert!(
                said.contains("has a variable that is not known") && said.contains("$(scheduledTime)"),
                "{text}: {said}"
            );
            let read: CronBatchJob = serde_json::from_str(&cron.to_string()).unwrap();
            let zone = Schedule::parse("@daily", None).unwrap();
            child(&read, zone.zone(), Timestamp::now()).expect_err("the operator would make a BatchJob of it");
        }
    }
    assert_eq!(refused, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_job_a_person_created_is_done_and_a_stranger_of_its_name_is_told() {
    let scene = Scene::new("backfills", &[]).await;
    let last_night = {
        let now = Timestamp::now().in_tz("Europe/Berlin").unwrap();
        let today = now.date().at(2, 30, 0, 0).in_tz("Europe/Berlin").unwrap();
        if today < now { today } else { today.checked_sub(jiff::Span::new().days(1)).unwrap() }.timestamp()
    };
    let minutes = last_night.as_second() / 60;
    let mut by_hand = scene.job("by-hand", json!({}));
    let when = last_night.in_tz("Europe/Berlin").unwrap().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    by_hand["metadata"] =
        json!({"name": format!("filled-{minutes}"), "annotations": {"llmbatch.dev/scheduled-timestamp": when}});
    scene.apply(&by_hand.to_string());
    scene.apply_job(&format!("taken-{minutes}"), json!({}));

    apply_after(&scene, 1, nightly(&scene, "filled", json!({}))).await;
    apply_after(&scene, 1, nightly(&scene, "taken", json!({}))).await;
    let filled = wait(&scene, "filled", |s| s.last_schedule_time.as_ref().is_some_and(|t| t.0 == last_night)).await;
    assert_eq!((filled.active_count, ready(&filled).unwrap().1), (0, "Scheduled"));
    let taken = wait(&scene, "taken", |s| ready(s).is_some_and(|(is_ready, ..)| is_ready == "False")).await;
    let (_, reason, message) = ready(&taken).unwrap();
    assert!(reason == "FailedCreate" && message.contains("not of this schedule"), "{reason}: {message}");
    assert_eq!(scene.jobs().list(&Default::default()).await.unwrap().items.len(), 2, "nobody's job is made twice");
}
