//! Actions of tools that apply a Git repository: they apply again, heal, prune and rename jobs. Nothing is paid twice,
//! and nothing is left at the provider.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::process::root;
use crate::support::scene::{Scene, batch_lines, condition};
use crate::support::shared::cluster;

/// An Application of Argo CD: server-side apply in its name, its label on each object, deletion in the foreground.
struct Application<'a> {
    scene: &'a Scene,
    manifests: BTreeMap<String, Value>,
}

impl Application<'_> {
    /// Adds a job to the repository.
    fn add(&mut self, name: &str, change: Value) {
        self.manifests.insert(name.into(), self.scene.job(name, change));
    }

    /// The same job under another name.
    fn rename(&mut self, from: &str, to: &str) {
        let mut manifest = self.manifests.remove(from).unwrap();
        manifest["metadata"]["name"] = to.into();
        self.manifests.insert(to.into(), manifest);
    }

    fn sync(&self) {
        let mut items: Vec<Value> = self.manifests.values().cloned().collect();
        for item in &mut items {
            item["metadata"]["labels"] = json!({"app.kubernetes.io/instance": "reviews"});
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        self.scene.plant(list.as_bytes());
        let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=argocd-controller", "-f", "-"];
        let (ok, said) = cluster().try_kubectl(&[&["-n", &self.scene.namespace], &apply[..]].concat(), Some(&list));
        assert!(ok, "{said}");
    }

    /// Deletes an object that the repository does not have any more.
    async fn prune(&self, name: &str) {
        assert!(!self.manifests.contains_key(name));
        self.scene.kubectl(&["delete", "bjob", name, "--cascade=foreground", "--wait=false"]);
        self.scene.wait_gone(name).await;
    }

    /// The parts of a job that a sync leaves as they are, if everything is in place.
    fn applied(&self, name: &str) -> Value {
        let text = self.scene.kubectl(&["get", "bjob", name, "-o", "json", "--show-managed-fields"]);
        let object: Value = serde_json::from_str(&text).unwrap();
        let managers = object["metadata"]["managedFields"].as_array().unwrap().iter();
        let ours: Vec<_> = managers.filter(|m| m["manager"] == "argocd-controller").collect();
        json!([object["metadata"]["uid"], object["metadata"]["generation"], ours, object["spec"]])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_synced_healed_renamed_pruned_and_deleted_pay_once_and_leave_nothing_at_the_provider() {
    let scene = Scene::new("argo", &["--batch-duration", "1h"]).await;
    let mut app = Application { scene: &scene, manifests: BTreeMap::new() };
    app.add("done", json!({"spec": {"ttlSecondsAfterFinished": 0}}));
    app.add("running", json!({}));
    app.sync();
    let running = scene.batch_of("running").await;
    scene.finish(&scene.batch_of("done").await).await;
    scene.wait_gone("done").await;

    // Self-heal creates what the TTL deleted; the job adopts its results, and stays.
    app.sync();
    let healed = scene.wait_complete("done").await;
    assert_eq!(condition(&healed, "ResultsReused").unwrap().0, "True");
    let applied = || ["done", "running"].map(|name| app.applied(name));
    let before = applied();
    for _ in 0..3 {
        app.sync();
    }
    assert_eq!(applied(), before, "a sync that finds everything in place");
    assert_eq!(scene.sim.state().await["creates"], 2);

    // Under another name, the same work in the same output adopts it as well.
    app.rename("done", "renamed");
    app.sync();
    let renamed = scene.wait_complete("renamed").await;
    assert_eq!(condition(&renamed, "ResultsReused").unwrap().0, "True");
    app.prune("done").await;
    assert_eq!(scene.get("out/done/results.jsonl").await.unwrap().lines().count(), 3);

    // While its batch runs, a job keeps its output to itself: the rename waits for the end, or costs the batch.
    app.rename("running", "late");
    app.sync();
    let late = scene.wait_condition("late", "Failed", "True", 30).await;
    let (_, reason, message) = condition(&late, "Failed").unwrap();
    assert_eq!(reason, "OutputConflict");
    assert!(message.contains(&format!("in use by BatchJob {}/running", scene.namespace)), "{message}");
    app.prune("running").await;
    scene.wait_batch("it is cancelled", |b| b["id"] == running["id"] && b["status"] == "cancelled").await;

    // A revert brings it back, and it repeats how it ended.
    app.rename("late", "running");
    app.prune("late").await;
    app.sync();
    let again = scene.wait_condition("running", "Failed", "True", 30).await;
    assert_eq!(condition(&again, "Failed").unwrap().1, "Cancelled");
    assert_eq!(condition(&again, "ResultsReused").unwrap().0, "True");

    // The Application is deleted, and everything of it with it, while a batch runs; the provider and the Secrets are first.
    app.add("last", json!({}));
    app.sync();
    let last = scene.batch_of("last").await;
    let all = ["batchprovider/llm", "secret/llm-key", "secret/s3", "bjob/last", "bjob/renamed", "bjob/running"];
    scene.kubectl(&[&["delete", "--cascade=foreground", "--wait=false"], &all[..]].concat());
    for name in ["last", "renamed", "running"] {
        scene.wait_gone(name).await;
    }
    eventually("the provider is gone", 60, async || {
        scene.kubectl(&["get", "batchproviders", "-o", "name"]).is_empty().then_some(())
    })
    .await;
    let state = scene.sim.state().await;
    assert!(state["batches"].as_array().unwrap().iter().any(|b| b["id"] == last["id"] && b["status"] == "cancelled"));
    assert_eq!((&state["creates"], &state["files"]), (&json!(3), &json!([])));
    scene.sim.assert_billed_once(3).await;
}

/// A copy of the example's folder for this scene, with the component that it refers to.
fn checked_out(scene: &Scene) -> PathBuf {
    let checkout = Path::new(env!("CARGO_TARGET_TMPDIR")).join("from-git");
    let _ = std::fs::remove_dir_all(&checkout);
    for folder in ["examples/from-git", "deploy/gitops/kustomize"] {
        std::fs::create_dir_all(checkout.join(folder)).unwrap();
        for file in std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap()) {
            std::fs::copy(file.path(), checkout.join(folder).join(file.file_name())).unwrap();
        }
    }
    let folder = checkout.join("examples/from-git");
    std::fs::write(folder.join("capitals.yaml"), scene.manifest("from-git/capitals.yaml")).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_the_readme_is_applied_again_changed_and_pruned_with_kustomize() {
    let scene = Scene::new("from-git", &["--batch-duration", "200ms"]).await;
    let folder = checked_out(&scene);
    let apply = || {
        let options = ["-l", "app.kubernetes.io/part-of=capitals", "--prune"];
        let kinds = ["--prune-allowlist=llmbatch.dev/v1alpha1/BatchJob", "--prune-allowlist=core/v1/ConfigMap"];
        let from = ["-n", &scene.namespace, "apply", "-k", folder.to_str().unwrap()];
        cluster().try_kubectl(&[&from[..], &options, &kinds].concat(), None)
    };
    let (ok, said) = apply();
    assert!(ok && said.contains("batchjob.llmbatch.dev/capitals-v1 created"), "{said}");
    scene.wait_complete("capitals-v1").await;
    let (ok, said) = apply();
    assert!(ok && said.contains("capitals-v1 unchanged") && !said.contains("configured"), "{said}");

    // Other requests are another job.
    let requests = batch_lines("capital", 3);
    scene.plant(requests.as_bytes());
    std::fs::write(folder.join("requests.jsonl"), requests).unwrap();
    let (ok, said) = apply();
    assert!(!ok && said.contains("may not be changed once the job has started"), "{said}");
    let kustomization = folder.join("kustomization.yaml");
    let text = std::fs::read_to_string(&kustomization).unwrap().replace("nameSuffix: -v1", "nameSuffix: -v2");
    std::fs::write(&kustomization, text).unwrap();
    let (ok, said) = apply();
    assert!(ok && said.contains("capitals-v2 created") && said.contains("capitals-v1 pruned"), "{said}");
    scene.wait_complete("capitals-v2").await;
    scene.wait_gone("capitals-v1").await;
    for (name, answers) in [("capitals-v1", 2), ("capitals-v2", 3)] {
        assert_eq!(scene.result_ids(name).await.len(), answers, "{name}");
    }
    scene.sim.assert_billed_once(5).await;
}
