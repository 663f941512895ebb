//! Journals at work that tenants made as large as one may be, in several namespaces: the operator as a process, with the kernel's own
//! peak, and a quiet namespace beside them.

use batchjob_operator::api::BatchJobObject as BatchJob;
use futures::future::join_all;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::scene::{Scene, condition};
use crate::support::shared::cluster;

/// What the operator may take: 141 MiB were seen of 12 jobs, and 290 MiB where jobs that waited for memory kept their journals uncounted.
const LIMIT: u64 = 176 << 20;
/// Hostile namespaces.
const HOSTILE: usize = 3;
/// Jobs of each, all of them at work.
const JOBS: usize = 3;
/// Shards of the largest journal.
const LARGEST: usize = 2_000;
/// Shards of a journal of the quiet namespace: large enough to wait for memory among the hostile ones.
const LARGE: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_journals_of_three_namespaces_fit_and_a_quiet_namespace_does_not_wait_for_all_of_them() {
    // Given jobs whose owners made their journals as large as they may be, and one of a quiet namespace.
    let mut scene = Scene::set("heads", &["--batch-duration", "100ms"]).await;
    for n in 0..HOSTILE {
        let namespace = hostile(&scene, n);
        cluster().kubectl(&["create", "namespace", &namespace]);
        for manifest in ["storage.yaml", "provider.yaml"] {
            let manifest = scene.manifest(manifest);
            let (ok, said) = cluster().try_kubectl(&["-n", &namespace, "apply", "-f", "-"], Some(&manifest));
            assert!(ok, "{said}");
        }
        scene.settings.namespaces += &format!(",{namespace}");
    }
    scene.restart().await;
    let quiet = Job::planned(&scene, &scene.namespace, "quiet", LARGE).await;
    let largest = (0..HOSTILE * JOBS).map(|n| (hostile(&scene, n % HOSTILE), format!("head-{n}")));
    let largest: Vec<Job> =
        join_all(largest.map(async |(of, name)| Job::planned(&scene, &of, &name, LARGEST).await)).await;
    scene.operator.as_ref().unwrap().forget_peak();
    // When all of them go on at once, the quiet one last.
    join_all(largest.iter().map(Job::resume)).await;
    quiet.resume().await;
    scene.apply_job("one-line", json!({}));
    // Then the quiet namespace has its turn before the hostile ones are through,
    quiet.wait_held().await;
    let waiting = join_all(largest.iter().map(Job::is_held)).await.iter().filter(|is_held| !**is_held).count();
    assert!(waiting > 0, "the quiet namespace waited for all others");
    scene.wait_complete("one-line").await;
    println!("{waiting} of {} hostile jobs wait when the quiet ones are through", largest.len());
    // and all of them get through, within the memory.
    for job in &largest {
        job.wait_held().await;
    }
    join_all(largest.iter().chain([&quiet]).map(Job::delete)).await;
    let peak = scene.operator.as_ref().unwrap().peak_memory();
    println!("heads: {} MiB at the peak", peak >> 20);
    assert!(peak < LIMIT, "{peak} bytes");
}

/// The name of a hostile namespace.
fn hostile(scene: &Scene, n: usize) -> String {
    format!("hostile{n}-of-{}", scene.namespace)
}

/// A job whose one batch the provider does not know, so that a person is asked.
struct Job {
    name: String,
    api: Api<BatchJob>,
}

impl Job {
    /// Creates a job that is suspended with a journal of so many `shards`.
    async fn planned(scene: &Scene, namespace: &str, name: &str, shards: usize) -> Job {
        let api: Api<BatchJob> = Api::namespaced(scene.client.clone(), namespace);
        let mut job = scene.job(name, json!({"spec": {"suspend": true, "deletionPolicy": "Orphan"}}));
        job["metadata"]["namespace"] = json!(namespace);
        scene.plant(job.to_string().as_bytes());
        api.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
        let job = Job { name: name.into(), api };
        eventually(&format!("{name} is planned"), 60, || async { job.has("Planned").await.then_some(()) }).await;
        let key = format!("out/{name}/_batchjob/journal.json");
        let planned = scene.get(&key).await.expect("journal.json");
        scene.put(&key, swollen(&planned, shards)).await;
        job
    }

    async fn has(&self, type_: &str) -> bool {
        condition(&self.api.get(&self.name).await.unwrap(), type_).is_some_and(|(status, ..)| status == "True")
    }

    async fn resume(&self) {
        let patch = Patch::Merge(json!({"spec": {"suspend": false}}));
        self.api.patch(&self.name, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn is_held(&self) -> bool {
        self.has("Held").await
    }

    async fn wait_held(&self) {
        eventually(&format!("{} is held", self.name), 120, || async { self.is_held().await.then_some(()) }).await;
    }

    async fn delete(&self) {
        self.api.delete(&self.name, &DeleteParams::default()).await.unwrap();
        eventually(&format!("{} is gone", self.name), 120, || async {
            self.api.get_opt(&self.name).await.unwrap().is_none().then_some(())
        })
        .await;
    }
}

/// A journal with more shards, whose batches were given up, and one batch that may run; names are as long as a provider may give.
fn swollen(planned: &str, shards: usize) -> String {
    let mut journal: Value = serde_json::from_str(planned).unwrap();
    let long = "n".repeat(3_900);
    let mut shard = journal["shards"]["open"]["0"].clone();
    shard["attempt"] = json!({"number": 1, "intentID": long, "fileID": "", "postBy": 1, "fingerprint": "f",
        "state": "Abandoned", "batchID": long});
    let open: serde_json::Map<String, Value> = (0..shards).map(|index| (index.to_string(), shard.clone())).collect();
    journal["shards"]["count"] = json!(shards);
    journal["shards"]["open"] = Value::Object(open);
    journal["shards"]["open"]["0"]["attempt"]["state"] = json!("Submitted");
    journal["shards"]["open"]["0"]["attempt"]["at"] = json!(1);
    let text = journal.to_string();
    assert!(text.len() < 16 << 20 && text.len() > shards * 7_800, "{} bytes", text.len());
    text
}
