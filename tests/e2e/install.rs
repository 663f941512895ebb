//! Installed as users install it.

use std::path::Path;
use std::process::Command;

use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::node::{HOST, Node};
use crate::support::process::{kube, root};
use crate::support::quiet;
use crate::support::scene::{batch_lines, ids, polled_each_second};
use crate::support::shared::{cluster, storage};
use crate::support::simulator::Simulator;

const NAMESPACE: &str = "batchjob-operator-system";

/// Everything that `kubectl apply -k deploy/kustomize` installs.
fn shipped() -> Vec<Value> {
    let output = Command::new(kube("kubectl")).arg("kustomize").arg(root().join("deploy/kustomize")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn shipped_deployment() -> Value {
    shipped().into_iter().find(|object| object["kind"] == "Deployment").unwrap()
}

#[test]
fn one_command_is_accepted_whole_and_without_a_warning() {
    let folder = root().join("deploy/kustomize");
    let said = cluster().kubectl(&["apply", "--dry-run=server", "-k", folder.to_str().unwrap()]);
    assert!(!said.contains("Warning"), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), shipped().len(), "{said}");
    assert!(lines.iter().all(|line| line.ends_with("(server dry run)")), "{said}");
}

#[test]
fn the_namespace_admits_our_pods_and_none_with_more_rights() {
    type Change = fn(&mut Value);
    let template = &shipped_deployment()["spec"]["template"];
    let admitted = |change: Change| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": template["spec"]});
        change(&mut pod["spec"]);
        let args = ["-n", NAMESPACE, "create", "--dry-run=server", "-f", "-"];
        cluster().try_kubectl(&args, Some(&pod.to_string()))
    };
    let (ok, said) = admitted(|_| {});
    assert!(ok && !said.contains("Warning"), "{said}");
    let refused: [(&str, Change); 6] = [
        ("capabilities", |s| s["containers"][0]["securityContext"] = json!({"capabilities": {"add": ["SYS_ADMIN"]}})),
        ("allowPrivilegeEscalation", |s| s["containers"][0]["securityContext"] = json!({})),
        ("runAsNonRoot", |s| s["securityContext"] = json!({"seccompProfile": {"type": "RuntimeDefault"}})),
        ("seccompProfile", |s| s["securityContext"] = json!({"runAsNonRoot": true})),
        ("host namespaces", |s| s["hostNetwork"] = json!(true)),
        ("hostPath", |s| s["volumes"][0] = json!({"name": "spool", "hostPath": {"path": "/"}})),
    ];
    for (what, change) in refused {
        let (ok, said) = admitted(change);
        assert!(!ok && said.contains("violates PodSecurity \"restricted") && said.contains(what), "{what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_it_ships_it_is_confined_and_runs_a_job_through_a_rolling_restart() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let sim = Simulator::start("install", &["--batch-duration", "1h"]);
    let Some(node) = Node::start("install-node", &[&sim.url, &storage().endpoint]) else { return };
    make_install(&node, &["IMAGE=localhost/elsewhere/batchjob-operator:1"]);
    assert_eq!(image_of(&node), "localhost/elsewhere/batchjob-operator:1");
    make_install(&node, &[]);
    assert_eq!(image_of(&node), concat!("localhost/batchjob-operator:", env!("CARGO_PKG_VERSION")));
    rolled_out(&node).await;
    for pod in pods(&node) {
        confined(&node, &pod);
    }
    watched_over(&node).await;

    // What an admin does to let teams use servers of their own.
    let allow = json!([{"op": "add", "path": "/spec/template/spec/containers/0/args/-",
        "value": format!("--allow-private-hosts={HOST}")}]);
    system(&node, &["patch", "deployment", "batchjob-operator", "--type=json", "-p", &allow.to_string()]);
    storage().bucket().put(&"install/in/reviews.jsonl".into(), batch_lines("review", 40).into()).await.unwrap();
    for example in ["provider.yaml", "storage.yaml", "reviews.yaml"] {
        let (ok, said) = node.cluster.try_kubectl(&["apply", "-f", "-"], Some(&manifest(&sim, example)));
        assert!(ok, "{said}");
    }
    let batch = eventually("the batch runs", 120, || async {
        let state = sim.state().await;
        state["batches"].as_array().unwrap().iter().find(|b| b["status"] == "in_progress").cloned()
    })
    .await;

    rolled_out(&node).await;
    let before = names(&pods(&node));
    system(&node, &["rollout", "restart", "deployment", "batchjob-operator"]);
    rolled_out(&node).await;
    assert!(names(&pods(&node)).iter().all(|name| !before.contains(name)), "none of them was there before");
    let reason = "jsonpath={.status.conditions[?(@.type=='Complete')].reason}";
    assert_eq!(node.cluster.kubectl(&["get", "bjob", "classify-reviews", "-o", reason]), "InProgress");

    sim.admin_post(&format!("batches/{}/finish", batch["id"].as_str().unwrap()), json!({})).await;
    node.cluster.kubectl(&["wait", "--for=condition=complete", "bjob/classify-reviews", "--timeout=120s"]);
    let results = storage().bucket().get(&"install/out/classify-reviews/v1/results.jsonl".into()).await.unwrap();
    let wanted: Vec<String> = (0..40).map(|i| format!("review-{i}")).collect();
    assert_eq!(ids(std::str::from_utf8(&results.bytes().await.unwrap()).unwrap()), wanted);
    sim.assert_billed_once(40).await;
    assert_eq!(sim.state().await["creates"], 1);
    for pod in pods(&node) {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
    }
    told_nothing(&node).await;
    nothing_is_left(node);
}

/// As at the end of every scene, but for metrics: only what runs on the node reaches the Pods.
async fn told_nothing(node: &Node) {
    let mut told = quiet::objects(&node.cluster.client().await, "default").await;
    let logs = node.last_words(100_000);
    assert!(logs.contains("watching BatchJobs"), "{logs}");
    told.push(("the Pods' logs".into(), logs));
    quiet::assert_quiet(&told);
}

fn make_install(node: &Node, variables: &[&str]) {
    let kubectl = kube("kubectl");
    let path = format!("{}:{}", kubectl.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut make = Command::new("make");
    make.arg("install")
        .args(variables)
        .current_dir(root())
        .env("PATH", path)
        .env("KUBECONFIG", &node.cluster.kubeconfig);
    let output = make.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn image_of(node: &Node) -> Value {
    let deployment = json_of(node, &["get", "deployment", "batchjob-operator"]);
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone()
}

fn system(node: &Node, args: &[&str]) -> String {
    node.cluster.kubectl(&[&["-n", NAMESPACE], args].concat())
}

fn json_of(node: &Node, args: &[&str]) -> Value {
    serde_json::from_str(&system(node, &[args, &["-o", "json"]].concat())).unwrap()
}

fn pods(node: &Node) -> Vec<Value> {
    json_of(node, &["get", "pods"])["items"].as_array().unwrap().clone()
}

fn names(pods: &[Value]) -> Vec<Value> {
    pods.iter().map(|pod| pod["metadata"]["name"].clone()).collect()
}

/// Waits until the Deployment's Pods are available, and no others are there.
async fn rolled_out(node: &Node) {
    system(node, &["rollout", "status", "deployment", "batchjob-operator", "--timeout=180s"]);
    eventually("those of before are gone", 60, || async { (pods(node).len() == 2).then_some(()) }).await;
}

/// What the kernel keeps the operator from.
fn confined(node: &Node, pod: &Value) {
    let process = node.process_of(pod);
    for of in ["Uid", "Gid"] {
        assert_eq!(process.status(of), ["65532"; 4], "{of}");
    }
    for none in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(process.status(none), ["0000000000000000"], "{none}");
    }
    assert_eq!(process.status("NoNewPrivs"), ["1"]);
    assert_eq!(process.status("Seccomp"), ["2"], "a filter");
    assert_eq!(process.is_read_only("/"), Some(true));
    assert_eq!(process.is_read_only("/var/spool/batchjob"), Some(false));
    assert_eq!(process.memory_limit(), 256 << 20);
}

/// A drain may take one replica, and a scraper finds both.
async fn watched_over(node: &Node) {
    eventually("the budget knows its Pods", 30, || async {
        let status = json_of(node, &["get", "poddisruptionbudget", "batchjob-operator"])["status"].clone();
        (status["expectedPods"] == 2 && status["disruptionsAllowed"] == 1).then_some(())
    })
    .await;
    eventually("the Service has both replicas", 30, || async {
        let slices =
            json_of(node, &["get", "endpointslices", "-l", "kubernetes.io/service-name=batchjob-operator-metrics"]);
        let slice = &slices["items"][0];
        let ready = slice["endpoints"].as_array()?.iter().filter(|e| e["conditions"]["ready"] == true).count();
        (ready == 2 && slice["ports"][0]["port"] == 8081).then_some(())
    })
    .await;
}

/// An example as it stands, but for addresses, keys and the bucket, and polled each second.
fn manifest(sim: &Simulator, example: &str) -> String {
    let text = std::fs::read_to_string(root().join("examples").join(example)).unwrap();
    let storage = storage();
    polled_each_second(&text)
        .replace("http://127.0.0.1:8333", &storage.endpoint.replace("127.0.0.1", HOST))
        .replace("http://127.0.0.1:8080/v1", &sim.url.replace("127.0.0.1", HOST))
        .replace("ACCESS_KEY", &storage.access_key)
        .replace("SECRET_KEY", &storage.secret_key)
        .replace("s3://shop/", "s3://tests/install/")
}

fn nothing_is_left(node: Node) {
    let (folder, group) = (node.folder().to_path_buf(), format!("batchjob-node-{}", node.id()));
    let groups = || {
        let roots = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
        roots.chain([Path::new("/sys/fs/cgroup").into()]).filter(|root| root.join(&group).exists()).count()
    };
    assert!(groups() > 0, "its Pods are in {group}");
    assert_eq!(node.stop(), Some(0));
    assert_eq!(groups(), 0, "{group}");
    assert!(!folder.exists(), "{}", folder.display());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(folder.to_str().unwrap()), "{mounts}");
}
