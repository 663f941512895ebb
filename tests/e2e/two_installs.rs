//! Installs beside each other, each for some namespaces.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::process::{helm, root};
use crate::support::scene::Scene;
use crate::support::shared::cluster;
use crate::tenancy::secret;

/// The objects that kustomize makes of `folder`, with other names of namespaces in them.
fn rendered(folder: &str, names: &[(&str, &str)]) -> Vec<Value> {
    let text = cluster().kubectl(&["kustomize", root().join(folder).to_str().unwrap()]);
    let text = names.iter().fold(text, |text, (from, to)| text.replace(from, to));
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn apply_to(namespace: &str, objects: Vec<Value>) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let (ok, said) = cluster().try_kubectl(&["-n", namespace, "apply", "-f", "-"], Some(&list.to_string()));
    assert!(ok, "{said}");
}

/// `deploy/namespaced`, installed beside the other one under another name.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_some_namespaces_does_its_work_and_may_read_no_secret_of_another() {
    let mut scene = Scene::set("narrow", &["--batch-duration", "200ms"]).await;
    let other = Scene::set("narrow-other", &[]).await;
    let home = format!("{}-operator", scene.namespace);
    let names = [("batchjob-operator-system", home.as_str())];
    let mut shipped = rendered("deploy/namespaced", &names);
    let deployment = shipped.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
    assert!(env.as_array().unwrap().contains(&json!({"name": "WATCH_NAMESPACES", "value": "default"})), "{env}");
    // There is no node here, and the CRDs are everybody's.
    shipped.retain(|object| object["kind"] != "Deployment" && object["kind"] != "CustomResourceDefinition");
    apply_to(&home, shipped);
    apply_to(&scene.namespace, rendered("deploy/namespaced/watched", &names));
    apply_to(&home, vec![serde_json::from_str(&secret(&home, json!({"key": "sk-test"}))).unwrap()]);
    let user = format!("system:serviceaccount:{home}:batchjob-operator");
    let may = |args: &[&str]| cluster().try_kubectl(&[&["--as", user.as_str()], args].concat(), None);
    for (args, allowed) in [
        (["get", "secret", "llm-key", "-n", &scene.namespace], true),
        (["get", "secret", &home, "-n", &home], true),
        (["get", "secret", "llm-key", "-n", &other.namespace], false),
        (["get", "batchprovider", "llm", "-n", &other.namespace], false),
        (["get", "configmap", "kube-root-ca.crt", "-n", &other.namespace], false),
        (["get", "secrets", "--watch=false", "-n", &scene.namespace], false),
        (["get", "secrets", "--watch=false", "-n", &home], false),
    ] {
        let (ok, said) = may(&args);
        assert!(ok == allowed && said.contains("Forbidden") != allowed, "{args:?}: {said}");
    }
    let shared = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": home},
        "spec": {"type": "OpenAICompatible", "baseURL": scene.sim.url, "namespaces": [{"names": [scene.namespace]}],
            "auth": {"secretKeyRef": {"name": home, "key": "key"}}}});
    apply_to(&home, vec![shared]);
    scene.settings.home = home.clone();
    scene.restart().await;
    scene.apply_job("own", json!({}));
    let reference = json!({"kind": "ClusterBatchProvider", "name": home});
    let output = json!({"objectStore": null, "configMap": {"name": "answers"}});
    scene.apply_job("shared", json!({"spec": {"providerRef": reference, "output": output}}));
    for job in ["own", "shared"] {
        scene.wait_complete(job).await;
        scene.wait_tidy(job).await;
    }
    // What a deletion asks for is granted too.
    cluster().kubectl(&["delete", "cbprov", &home, "--timeout=60s"]);
    scene.kubectl(&["delete", "bjob", "own", "shared", "--timeout=60s"]);
    let log = std::fs::read_to_string(&scene.operator.as_ref().unwrap().process.log).unwrap();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
}

/// Installs `examples/two-installs` for the namespace of a scene. There is no node here: the operator is a process of the test.
fn install_by_kustomize(scene: &mut Scene) {
    let home = format!("{}-operator", scene.namespace);
    let watched = format!("namespace: {}\n", scene.namespace);
    let names = [("batchjob-operator-shop", home.as_str()), ("namespace: shop\n", watched.as_str())];
    let mut objects = rendered("examples/two-installs/operator", &names);
    objects.retain(|object| object["kind"] != "Deployment");
    objects.extend(rendered("examples/two-installs/shop", &names));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let (ok, said) = cluster().try_kubectl(&["apply", "-f", "-"], Some(&list));
    assert!(ok, "{said}");
    scene.settings.home = home;
}

/// Installs the chart for the namespace of a scene, without Pods.
fn install_by_helm(scene: &mut Scene) {
    let home = format!("{}-operator", scene.namespace);
    let mut install = helm(&cluster().kubeconfig);
    install.args(["install", "beside"]).arg(root().join("deploy/chart"));
    install.args(["--namespace", &home, "--create-namespace", "--set=replicas=0,crds.install=false"]);
    install.args(["--set=aggregatedRoles.create=false", &format!("--set=watchNamespaces={{{}}}", scene.namespace)]);
    let output = install.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scene.settings.home = home;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installs_work_beside_each_other_in_their_own_namespaces_and_share_an_admins_account() {
    let mut one = Scene::set("beside-one", &["--batch-duration", "1h"]).await;
    let mut other = Scene::set("beside-other", &["--batch-duration", "1h"]).await;
    install_by_kustomize(&mut one);
    install_by_helm(&mut other);
    let name = one.namespace.clone();
    let shared = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "ClusterBatchProvider", "metadata": {"name": name},
        "spec": {"type": "OpenAICompatible", "baseURL": one.sim.url, "auth": {"secretKeyRef": {"name": name, "key": "key"}},
            "namespaces": [{"names": [one.namespace, other.namespace]}]}});
    apply_to(&one.settings.home, vec![shared]);
    let looks = async |scene: &Scene, look: &str| {
        scene.operator.as_ref().unwrap().metric(&format!("batchjob_provider_looks_total{{look=\"{look}\"}}")).await
    };
    for scene in [&mut one, &mut other] {
        let home = scene.settings.home.clone();
        apply_to(&home, vec![serde_json::from_str(&secret(&name, json!({"key": "sk-test"}))).unwrap()]);
        scene.settings.extra = ["--leader-election", "true", "--identity", &scene.namespace].map(String::from).to_vec();
        scene.restart().await;
        let lease = ["-n", &home, "get", "lease", "batchjob-operator", "-o", "jsonpath={.spec.holderIdentity}"];
        assert_eq!(cluster().kubectl(&lease), scene.namespace, "each leads where it is installed");
        let scene = &*scene;
        eventually("its own account and the shared one are tried out", 30, async || {
            (looks(scene, "probe").await == 2.0).then_some(())
        })
        .await;
    }
    // From now on both only ask the account, and write nothing, though the Secret of each has a version of its own.
    let shown = || cluster().kubectl(&["get", "cbprov", &name, "-o", "jsonpath={.status}"]);
    for scene in [&one, &other] {
        eventually("its own account and the shared one are tried out", 30, async || {
            (looks(scene, "probe").await == 2.0).then_some(())
        })
        .await;
    }
    let status = shown();
    cluster().kubectl(&["annotate", "cbprov", &name, "look=1"]);
    for scene in [&one, &other] {
        eventually("it is asked", 30, async || (looks(scene, "read").await >= 1.0).then_some(())).await;
        assert_eq!(looks(scene, "probe").await, 2.0);
    }
    assert_eq!(shown(), status);

    let reference = json!({"kind": "ClusterBatchProvider", "name": name});
    for (scene, job) in [(&one, "shared-one"), (&other, "shared-other")] {
        scene.apply_job("own", json!({}));
        scene.apply_job(job, json!({"spec": {"providerRef": reference}}));
        scene.batch_of("own").await;
        scene.wait_condition(job, "Submitted", "True", 60).await;
    }

    // An account that is deleted stays for the jobs of both, and status names the jobs of both, whoever wrote it.
    cluster().kubectl(&["delete", "cbprov", &name, "--wait=false"]);
    let message = || cluster().kubectl(&["get", "cbprov", &name, "-o", "jsonpath={.status.conditions[0].message}"]);
    let both = format!("{}/shared-one, {}/shared-other are settled", one.namespace, other.namespace);
    eventually("it names the jobs of both", 60, async || message().contains(&both).then_some(())).await;
    let finish = async |scene: &Scene, job: &str| {
        let batch = scene.get_job(job).await.status.unwrap().batches[0].provider_id.clone().unwrap();
        one.sim.admin_post(&format!("batches/{batch}/finish"), json!({})).await;
    };
    other.stop().await;
    other.apply_job("unseen", json!({}));
    finish(&one, "shared-one").await;
    one.wait_tidy("shared-one").await;
    one.finish(&one.batch_of("own").await).await;
    one.wait_tidy("own").await;
    let left = format!("BatchJob {}/shared-other are settled", other.namespace);
    eventually("it waits for the job that is left", 60, async || message().contains(&left).then_some(())).await;
    let unseen = other.get_job("unseen").await;
    assert!(unseen.status.is_none() && unseen.metadata.finalizers.is_none(), "{unseen:?}");

    other.restart().await;
    finish(&other, "shared-other").await;
    other.wait_tidy("shared-other").await;
    eventually("the account goes", 60, async || {
        (!cluster().try_kubectl(&["get", "cbprov", &name], None).0).then_some(())
    })
    .await;
    for job in ["own", "unseen"] {
        other.finish(&other.batch_of(job).await).await;
        other.wait_complete(job).await;
    }
    one.sim.assert_billed_once(9).await;
    other.sim.assert_billed_once(6).await;
    for scene in [&one, &other] {
        let log = std::fs::read_to_string(&scene.operator.as_ref().unwrap().process.log).unwrap();
        assert!(!log.to_lowercase().contains("forbidden"), "{log}");
    }
}
