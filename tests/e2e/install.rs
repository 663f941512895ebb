//! Installed as users install it.

use std::path::{Path, PathBuf};
use std::process::Command;

use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::node::{HOST, Node};
use crate::support::process::{helm, kube, root, scratch};
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

/// Beside the operator of the whole cluster, for one namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_release_is_installed_upgraded_and_removed_without_a_trace() {
    let (home, watched) = ("install-second", "install-watched");
    let kubectl = |args: &[&str]| cluster().kubectl(args);
    kubectl(&["create", "namespace", home]);
    kubectl(&["label", "namespace", home, "pod-security.kubernetes.io/enforce=restricted"]);
    kubectl(&["create", "namespace", watched]);
    let run = |args: &[&str]| said(helm(&cluster().kubeconfig).args(args).args(["--namespace", home]));
    let chart = root().join("deploy/chart");
    let values =
        ["--set=crds.install=false,aggregatedRoles.create=false", &format!("--set=watchNamespaces={{{watched}}}")];
    let told = run(&[&["install", "second", chart.to_str().unwrap()], &values[..]].concat());
    assert!(told.contains("looks after the namespaces install-watched"), "{told}");
    run(&[&["upgrade", "second", chart.to_str().unwrap(), "--set=replicas=3"], &values[..]].concat());
    eventually("the namespace admits three Pods", 60, || async {
        let pods = kubectl(&["-n", home, "get", "pods", "-o", "name"]);
        (pods.lines().count() == 3).then_some(())
    })
    .await;
    let held = |namespace: &str| {
        let kinds =
            "deployments,services,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,secrets";
        let names = kubectl(&["-n", namespace, "get", kinds, "-o", "name"]);
        names.lines().filter(|name| !name.ends_with("/default")).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(
        held(watched),
        [
            "role.rbac.authorization.k8s.io/batchjob-operator-install-second",
            "rolebinding.rbac.authorization.k8s.io/batchjob-operator-install-second"
        ]
    );
    run(&["uninstall", "second", "--wait"]);
    assert_eq!((held(home), held(watched)), (vec![], vec![]));
    let of_cluster = kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"]);
    assert!(!of_cluster.contains("install-second") && of_cluster.contains("/batchjob-view"), "{of_cluster}");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_it_ships_it_is_confined_and_runs_a_job_through_an_upgrade() {
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

    // Helm takes over, with an earlier chart, and with what an admin sets to let teams use servers of their own.
    let tag = format!("--set=image.tag={}", env!("CARGO_PKG_VERSION"));
    upgrade(&node, &earlier_chart(), &["--take-ownership", &tag]);
    assert!(!has_column(&node, "Results"), "the CRDs are the earlier chart's");
    storage().bucket().put(&"install/in/reviews.jsonl".into(), batch_lines("review", 40).into()).await.unwrap();
    for example in ["provider.yaml", "storage.yaml", "reviews.yaml"] {
        let (ok, said) = node.cluster.try_kubectl(&["apply", "-f", "-"], Some(&manifest(&sim, example)));
        assert!(ok, "{said}");
    }
    // A step that waits for the job, through all that comes.
    let next_step = root().join("examples/wait/job.yaml");
    node.cluster.kubectl(&["apply", "-f", next_step.to_str().unwrap()]);
    let batch = eventually("the batch runs", 120, || async {
        let state = sim.state().await;
        state["batches"].as_array().unwrap().iter().find(|b| b["status"] == "in_progress").cloned()
    })
    .await;

    rolled_out(&node).await;
    let before = names(&pods(&node));
    upgrade(&node, &root().join("deploy/chart"), &[]);
    assert!(has_column(&node, "Results"), "the CRDs are the chart's");
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
    node.cluster.kubectl(&["wait", "--for=condition=complete", "job/after-reviews", "--timeout=60s"]);
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

/// Installs or upgrades the release with a chart; Pods may reach this machine.
fn upgrade(node: &Node, chart: &Path, flags: &[&str]) {
    let mut helm = helm(&node.cluster.kubeconfig);
    helm.args(["upgrade", "--install", "batchjob-operator"]).arg(chart).args(["--namespace", NAMESPACE]);
    said(helm.arg(format!("--set=privateHosts={{{HOST}}}")).args(flags));
}

/// What a command wrote; it has to succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The chart as it was before BatchJobs had the column RESULTS, and Pods their present time to end.
fn earlier_chart() -> PathBuf {
    let earlier = scratch().join("earlier-chart");
    said(Command::new("cp").arg("-R").arg(root().join("deploy/chart")).arg(&earlier));
    let edit = |file: &str, edit: &dyn Fn(&str) -> String| {
        let before = std::fs::read_to_string(earlier.join(file)).unwrap();
        let after = edit(&before);
        assert_ne!(before, after, "{file}");
        std::fs::write(earlier.join(file), after).unwrap();
    };
    edit("Chart.yaml", &|text| text.replace(env!("CARGO_PKG_VERSION"), "0.0.1"));
    edit("templates/deployment.yaml", &|text| text.replace("PeriodSeconds: 15", "PeriodSeconds: 14"));
    edit("files/crds/batchjobs.yaml", &|text| {
        let mut crd: Value = serde_saphyr::from_str(text).unwrap();
        let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array_mut().unwrap();
        columns.retain(|column| column["name"] != "Results");
        crd.to_string()
    });
    earlier
}

fn has_column(node: &Node, name: &str) -> bool {
    let crd = node.cluster.kubectl(&["get", "crd", "batchjobs.llmbatch.dev", "-o", "json"]);
    let crd: Value = serde_json::from_str(&crd).unwrap();
    crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap().iter().any(|c| c["name"] == name)
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
