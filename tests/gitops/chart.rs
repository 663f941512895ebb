//! The Helm chart.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::tools::{helm, helm_template, kustomize, objects, read, root, said};

const NAMESPACE: &str = "--namespace=batchjob-operator-system";
/// Labels that Helm's conventions ask for, and the one that kustomize has in their place.
const BY_TOOL: [&str; 3] = ["app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "helm.sh/chart"];

/// Objects by kind, namespace and name, without what says which tool installs them.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let named = objects.into_iter().map(|mut object| {
        let metadata = &mut object["metadata"];
        if let Some(labels) = metadata["labels"].as_object_mut() {
            BY_TOOL.iter().for_each(|label| drop(labels.remove(*label)));
        }
        let name = format!("{} {} {}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]);
        (name.replace('"', ""), object)
    });
    named.collect()
}

/// Permissions, one by one: the order and the grouping of rules grant nothing.
fn one_by_one(rules: &Value) -> Value {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().unwrap_or(&vec![]).iter().map(|text| text.as_str().unwrap().into()).collect()
    };
    let mut rights: Vec<String> = vec![];
    for rule in rules.as_array().unwrap() {
        for resource in texts(&rule["resources"]) {
            for verb in texts(&rule["verbs"]) {
                rights.push(format!(
                    "{verb} {resource} {:?} {:?}",
                    texts(&rule["apiGroups"]),
                    texts(&rule["resourceNames"])
                ));
            }
        }
    }
    rights.sort();
    rights.dedup();
    json!(rights)
}

fn assert_same(mut of_chart: BTreeMap<String, Value>, mut of_kustomize: BTreeMap<String, Value>) {
    for objects in [&mut of_chart, &mut of_kustomize] {
        objects.values_mut().filter(|o| o["rules"].is_array()).for_each(|o| o["rules"] = one_by_one(&o["rules"]));
    }
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&of_chart), names(&of_kustomize));
    for (name, object) in &of_chart {
        assert!(*object == of_kustomize[name], "{name}:\n{object:#}\nby kustomize:\n{:#}", of_kustomize[name]);
    }
}

#[test]
fn with_its_defaults_the_chart_installs_what_kustomize_installs() {
    let mut of_kustomize = by_name(kustomize("deploy/kustomize"));
    // Helm makes the namespace itself, before there is a release.
    assert!(of_kustomize.remove("Namespace null batchjob-operator-system").is_some());
    let mut of_chart = by_name(helm_template(&[NAMESPACE]));
    for crd in of_chart.values_mut().filter(|object| object["kind"] == "CustomResourceDefinition") {
        let annotations = crd["metadata"].as_object_mut().unwrap().remove("annotations");
        assert_eq!(annotations, Some(json!({"helm.sh/resource-policy": "keep"})));
        // kustomize has it from the overlay alone.
        let labels = crd["metadata"]["labels"].as_object_mut().unwrap();
        assert_eq!(labels.remove("app.kubernetes.io/name"), Some(json!("batchjob-operator")));
    }
    assert!(of_chart.len() >= 15, "{}", of_chart.len());
    assert_same(of_chart, of_kustomize);
}

#[test]
fn webhooks_are_installed_alike_and_only_where_they_are_wanted() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("webhooks");
    for (shipped, copy) in [("deploy/kustomize", "kustomize"), ("deploy/provider-webhooks", "provider-webhooks")] {
        std::fs::create_dir_all(folder.join(copy)).unwrap();
        for file in std::fs::read_dir(root().join(shipped)).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), folder.join(copy).join(file.file_name())).unwrap();
        }
    }
    let copied = folder.join("kustomize/kustomization.yaml");
    let own = std::fs::read_to_string(&copied).unwrap().replace("  - ../../crds\n", "");
    std::fs::write(&copied, own).unwrap();
    let overlay = folder.join("overlay");
    std::fs::create_dir_all(&overlay).unwrap();
    let kustomization =
        json!({"kind": "Kustomization", "resources": ["../kustomize"], "components": ["../provider-webhooks"]});
    std::fs::write(overlay.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    let mut of_kustomize = by_name(kustomize(overlay.to_str().unwrap()));
    of_kustomize.remove("Namespace null batchjob-operator-system");
    let of_chart = helm_template(&[NAMESPACE, "--set=providerWebhooks.enabled=true", "--set=crds.install=false"]);
    assert_same(by_name(of_chart), of_kustomize);
    let without = by_name(helm_template(&[NAMESPACE]));
    assert!(!json!(without.values().collect::<Vec<_>>()).to_string().contains("8082"), "off by default");
}

#[test]
fn named_namespaces_get_the_rights_that_kustomize_grants_in_them_and_no_more() {
    let mut of_kustomize = by_name(kustomize("deploy/namespaced"));
    of_kustomize.remove("Namespace null batchjob-operator-system");
    let mut watched = kustomize("deploy/namespaced/watched");
    watched.iter_mut().for_each(|object| object["metadata"]["namespace"] = "default".into());
    of_kustomize.extend(by_name(watched));
    of_kustomize.retain(|name, _| !name.starts_with("CustomResourceDefinition"));
    // Its own RBAC comes from another folder than what kustomize labels.
    of_kustomize.values_mut().for_each(|object| {
        object["metadata"]["labels"]["app.kubernetes.io/part-of"] = "batchjob-operator".into();
    });
    let of_chart = helm_template(&[NAMESPACE, "--set=watchNamespaces={default}", "--set=crds.install=false"]);
    assert_same(by_name(of_chart), of_kustomize);
}

#[test]
fn two_releases_share_nothing_that_lies_in_no_namespace() {
    let release = |namespace: &str, watched: &str| {
        let (namespace, watched) = (format!("--namespace={namespace}"), format!("--set=watchNamespaces={{{watched}}}"));
        let shared = ["--set=crds.install=false", "--set=aggregatedRoles.create=false"];
        by_name(helm_template(&[&namespace, &watched, shared[0], shared[1]]))
    };
    let (one, other) = (release("ml", "a"), release("shop", "b"));
    assert!(one.len() > 10);
    let common: Vec<_> = one.keys().filter(|name| other.contains_key(*name)).collect();
    assert!(common.is_empty(), "{common:?}");
}

#[test]
fn the_chart_has_the_crds_of_the_repository() {
    let names = |folder: &str| {
        let entries =
            std::fs::read_dir(root().join(folder)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.filter(|name| name != "kustomization.yaml").collect();
        names.sort();
        names
    };
    assert_eq!(names("deploy/chart/files/crds"), names("crds"), "run `make crds`");
    for file in names("crds") {
        let same = read(&format!("deploy/chart/files/crds/{file}")) == read(&format!("crds/{file}"));
        assert!(same, "deploy/chart/files/crds/{file} is not crds/{file}: run `make crds`");
    }
}

#[test]
fn its_versions_are_those_of_the_operator() {
    let chart: Value = objects(&read("deploy/chart/Chart.yaml")).remove(0);
    for version in ["version", "appVersion"] {
        assert_eq!(chart[version], env!("CARGO_PKG_VERSION"), "{version}");
    }
}

#[test]
fn helm_lint_finds_nothing() {
    let found = said(helm(&["lint", "--strict", "deploy/chart", "--kube-version=1.36.0"]));
    assert!(found.contains("1 chart(s) linted, 0 chart(s) failed") && !found.contains("[WARNING]"), "{found}");
}

/// Every value that is not its default, so that each branch of each template shows.
const EVERYTHING: &str = "
image: {repository: registry.example.com/ml/batchjob-operator, digest: 'sha256:0123456789012345678901234567890123456789012345678901234567890123', pullPolicy: Always}
imagePullSecrets: [{name: registry}]
replicas: 3
watchNamespaces: [shop, research]
privateHosts: [minio.storage.svc, '10.20.0.0/16']
egressProxy: {secretKeyRef: {name: proxy, key: url}}
traces: {otlpEndpoint: 'http://collector.monitoring.svc:4318', headersSecretKeyRef: {name: collector, key: headers}}
extraArgs: [--log-format=text]
resources: {requests: {cpu: '1', memory: 512Mi}, limits: {memory: 512Mi}}
spool: {sizeLimit: 20Gi}
crds: {install: false, keep: false}
aggregatedRoles: {create: false}
serviceAccount: {annotations: {owner: ml}}
metrics: {serviceMonitor: {create: true, labels: {release: prometheus}, interval: 1m}, prometheusRule: {create: true, labels: {release: prometheus}}, dashboard: {create: true, labels: {dashboards: ml}}}
providerWebhooks: {enabled: true, from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress}}}]}
networkPolicy: {from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]}
podDisruptionBudget: {create: false}
podLabels: {team: ml}
podAnnotations: {note: 'true'}
priorityClassName: system-cluster-critical
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: ml, operator: Exists}]
affinity: {nodeAffinity: {}}
";

#[test]
fn every_value_has_its_place() {
    let values = root().join(env!("CARGO_TARGET_TMPDIR")).join("values.yaml");
    std::fs::write(&values, EVERYTHING).unwrap();
    let values = format!("--values={}", values.display());
    let mut rendered = by_name(helm_template(&["--namespace=ml", &values]));
    // What they hold is compared in monitoring.rs.
    for (name, content) in
        [("PrometheusRule ml batchjob-operator", "spec"), ("ConfigMap ml batchjob-operator-dashboard", "data")]
    {
        assert!(rendered.get_mut(name).unwrap()[content].take().is_object(), "{name}");
    }
    insta::assert_yaml_snapshot!("everything", rendered);
}

#[test]
fn what_the_chart_cannot_mean_is_refused() {
    for (value, words) in [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("image.tags=1", "additional properties 'tags' not allowed"),
        ("replicas=-1", "/replicas': minimum"),
        ("replicas=two", "/replicas': got string, want integer"),
        ("watchNamespaces={Shop}", "/watchNamespaces/0': 'Shop' does not match"),
        ("watchNamespaces=shop", "/watchNamespaces': got string, want array"),
        ("privateHosts={a\\,b}", "/privateHosts/0': 'a,b' does not match"),
        ("image.digest=sha256:1", "/image/digest'"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy'"),
        ("egressProxy.url=http://user:secret@proxy:3128", "/egressProxy/url'"),
        ("egressProxy.secretKeyRef.name=proxy", "/egressProxy/secretKeyRef'"),
        ("traces.otlpEndpoint=collector:4318", "/traces/otlpEndpoint'"),
        ("traces.otlpEndpoint=http://user:secret@collector:4318", "/traces/otlpEndpoint'"),
        ("traces.headersSecretKeyRef.key=headers", "/traces/headersSecretKeyRef'"),
        ("providerWebhooks.enabled=sometimes", "/providerWebhooks/enabled': got string, want boolean"),
        ("spool.sizeLimit=plenty", "/spool/sizeLimit'"),
        ("spool.sizeLimit=1.2.3Gi", "/spool/sizeLimit'"),
        ("spool.sizeLimit=63Mi", "/spool/sizeLimit'"),
        (
            "metrics.service=false,metrics.serviceMonitor.create=true",
            "metrics.serviceMonitor.create needs metrics.service",
        ),
        (
            "egressProxy.url=http://proxy:3128,egressProxy.secretKeyRef.name=proxy,egressProxy.secretKeyRef.key=url",
            "set one of egressProxy.url and egressProxy.secretKeyRef",
        ),
    ] {
        let output = helm(&["template", "release", "deploy/chart", "--kube-version=1.36.0", "--set", value]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words), "{value}: {error}");
    }
}

/// A value that the schema leaves out could be set to anything, and one that values.yaml leaves out is found by nobody.
#[test]
fn the_schema_and_the_values_name_the_same() {
    fn compare(schema: &Value, values: &Value, path: &str) {
        let Some(properties) = schema["properties"].as_object() else { return };
        assert_eq!(schema["additionalProperties"], false, "{path}");
        let mut named: Vec<_> = properties.keys().filter(|key| !path.is_empty() || *key != "global").collect();
        let mut set: Vec<_> = values.as_object().unwrap().keys().collect();
        named.sort();
        set.sort();
        if !set.is_empty() {
            assert_eq!(named, set, "{path}");
        }
        values
            .as_object()
            .unwrap()
            .iter()
            .for_each(|(key, value)| compare(&properties[key], value, &format!("{path}.{key}")));
    }
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    compare(&schema, &objects(&read("deploy/chart/values.yaml"))[0], "");
}
