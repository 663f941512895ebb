//! Installed as users install it.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::process::{kube, root};
use crate::support::shared::cluster;

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
