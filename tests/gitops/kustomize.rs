//! Names that kustomize changes reach the objects that refer to them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::tools::{kustomize, objects, read, root};

/// Fields that a schema has for names of other objects, as kustomize spells paths, with the kinds that they name.
fn references(schema: &Value, path: &str, found: &mut BTreeSet<(&'static str, String)>) {
    let fields = schema["properties"].as_object().or_else(|| schema["items"]["properties"].as_object());
    for (field, schema) in fields.into_iter().flatten() {
        let at = format!("{path}/{field}");
        let kinds: &[&str] = match field.as_str() {
            "configMaps" | "pricesRef" => &["ConfigMap"],
            "secretRef" | "secretKeyRef" | "urlSecretKeyRef" | "signingSecretKeyRef" => &["Secret"],
            "caBundleRef" => &["ConfigMap", "Secret"],
            "providerRef" => &["BatchProvider", "ClusterBatchProvider"],
            "batchJobRef" => &["BatchJob"],
            other => {
                assert!(!other.ends_with("Ref"), "{at} names another object: add it to namereference.yaml, and here");
                &[]
            }
        };
        found.extend(kinds.iter().map(|kind| (*kind, format!("{at}/name"))));
        references(schema, &at, found);
    }
}

#[test]
fn every_reference_of_every_kind_is_in_the_configuration_and_nothing_else() {
    let mut wanted = BTreeSet::new();
    for file in ["batchjobs", "cronbatchjobs", "batchproviders", "clusterbatchproviders"] {
        let crd = objects(&read(&format!("crds/{file}.yaml"))).remove(0);
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut found = BTreeSet::new();
        references(spec, "spec", &mut found);
        wanted.extend(found.into_iter().map(|(named, path)| format!("{kind} {path} {named}")));
    }
    let configured = objects(&read("deploy/gitops/kustomize/namereference.yaml")).remove(0);
    let mut named = BTreeSet::new();
    for reference in configured["nameReference"].as_array().unwrap() {
        for field in reference["fieldSpecs"].as_array().unwrap() {
            assert_eq!(field["group"], "llmbatch.dev");
            let (kind, path) = (field["kind"].as_str().unwrap(), field["path"].as_str().unwrap());
            named.insert(format!("{kind} {path} {}", reference["kind"].as_str().unwrap()));
        }
    }
    assert_eq!(named, wanted);
}

/// Every string in `value` that has `part` in it.
fn strings(value: &Value, part: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains(part) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, part, found)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, part, found)),
        _ => {}
    }
}

/// Objects of each kind that refer to what is generated, and to each other.
fn team() -> Vec<Value> {
    let tls = json!({"caBundleRef": {"name": "generated-ca", "key": "ca.crt"}});
    let place = json!({"uri": "s3://b/o/", "secretRef": {"name": "generated-s3"}, "tls": tls});
    let key = |key: &str| json!({"name": "generated-hooks", "key": key});
    let notifications =
        json!([{"name": "ops", "webhook": {"urlSecretKeyRef": key("url"), "signingSecretKeyRef": key("signing")}}]);
    let config_maps = json!({"configMaps": [{"name": "by-hand"}, {"name": "generated-in"}]});
    let job = |input: Value| {
        json!({"providerRef": {"name": "p"}, "input": input, "output": {"objectStore": place},
            "reuseFrom": [{"objectStore": place}], "notifications": notifications})
    };
    let inputs = [
        ("p", config_maps),
        ("stored", json!({"objectStore": place})),
        ("results", json!({"results": {"objectStore": place}})),
        ("again", json!({"batchJobRef": {"name": "p"}})),
    ];
    let provider = json!({"auth": {"secretKeyRef": {"name": "generated-s3", "key": "k"}},
        "tls": {"caBundleRef": {"kind": "Secret", "name": "generated-s3", "key": "ca.crt"}},
        "webhook": {"signingSecretKeyRef": key("provider")}, "notifications": notifications,
        "pricesRef": {"name": "generated-in", "key": "k"}});
    let object = |kind: &str, name: &str, spec: &Value| json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let mut objects = vec![object("BatchProvider", "p", &provider), object("ClusterBatchProvider", "p", &provider)];
    for (name, input) in inputs {
        let mut spec = job(input);
        objects.push(object("BatchJob", name, &spec));
        spec["providerRef"]["kind"] = "ClusterBatchProvider".into();
        objects.push(object("CronBatchJob", name, &json!({"jobTemplate": {"spec": spec}})));
    }
    objects
}

#[test]
fn hashes_of_generated_config_maps_and_secrets_reach_jobs_schedules_and_providers() {
    let objects = team();
    // Below target/, which may be anywhere: kustomize takes no absolute path.
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("kustomize");
    let shipped = folder.join("shipped");
    std::fs::create_dir_all(&shipped).unwrap();
    for file in ["kustomization.yaml", "namereference.yaml"] {
        std::fs::copy(root().join("deploy/gitops/kustomize").join(file), shipped.join(file)).unwrap();
    }
    let team = folder.join("team");
    std::fs::create_dir_all(&team).unwrap();
    let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
    std::fs::write(team.join("objects.yaml"), documents.join("\n---\n")).unwrap();
    let generated = |name: &str| json!({"name": name, "literals": ["k=v"]});
    let kustomization = json!({"kind": "Kustomization", "resources": ["objects.yaml"], "components": ["../shipped"],
        "namePrefix": "team-", "configMapGenerator": [generated("generated-in"), generated("generated-ca")],
        "secretGenerator": [generated("generated-s3"), generated("generated-hooks")]});
    std::fs::write(team.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    let built = kustomize(team.to_str().unwrap());
    let names: Vec<&str> = built.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect();
    let mut references = vec![];
    built.iter().for_each(|object| strings(&object["spec"], "generated-", &mut references));
    // A job has six of its output, reuse and notifications, and some of its input; a provider has six.
    assert_eq!(references.len(), 2 * (6 + 1) + 2 * (6 + 2) + 2 * (6 + 2) + 2 * 6 + 2 * 6, "{references:?}");
    for reference in &references {
        let hashed = reference.starts_with("team-generated-") && reference.len() > "team-generated-s3-".len() + 8;
        assert!(hashed && names.contains(&reference.as_str()), "{reference} of {names:?}");
    }
    let specs = |kind: &str, path: &str| -> Vec<Value> {
        let of_kind = built.iter().filter(|object| object["kind"] == kind);
        of_kind.map(|object| object.pointer(path).unwrap().clone()).collect()
    };
    let (jobs, templates) = (specs("BatchJob", "/spec"), specs("CronBatchJob", "/spec/jobTemplate/spec"));
    for specs in [&jobs, &templates] {
        assert_eq!(specs.len(), 4);
        assert!(specs.iter().all(|spec| spec["providerRef"]["name"] == "team-p"), "{specs:?}");
        assert!(specs.iter().any(|spec| spec["input"]["batchJobRef"]["name"] == "team-p"), "{specs:?}");
        let by_hand = |spec: &Value| spec["input"]["configMaps"][0]["name"] == "by-hand";
        assert!(specs.iter().any(by_hand), "nothing generates it: {specs:?}");
    }
}

#[test]
fn a_second_install_has_no_name_of_another_and_its_bindings_are_its_own() {
    let named = |object: &Value| {
        format!("{} {} {}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"])
    };
    let (operator, watched) = (kustomize("examples/two-installs/operator"), kustomize("examples/two-installs/shop"));
    let mut names: BTreeSet<String> = operator.iter().map(named).collect();
    assert!(names.len() >= 10, "{names:?}");
    for other in ["deploy/kustomize", "deploy/namespaced"] {
        let common: Vec<_> = kustomize(other).iter().map(named).filter(|name| names.contains(name)).collect();
        assert!(common.is_empty(), "{other} has {common:?} as well");
    }
    names.extend(watched.iter().map(named));
    let bindings: Vec<_> = operator.iter().chain(&watched).filter(|object| object["roleRef"].is_object()).collect();
    assert_eq!(bindings.len(), 4);
    for binding in bindings {
        let of_role = match binding["roleRef"]["kind"].as_str().unwrap() {
            "Role" => &binding["metadata"]["namespace"],
            _ => &Value::Null,
        };
        let role = format!("{} {of_role} {}", binding["roleRef"]["kind"], binding["roleRef"]["name"]);
        assert!(names.contains(&role), "{role} of {names:?}");
        let account =
            json!({"kind": "ServiceAccount", "name": "batchjob-operator", "namespace": "batchjob-operator-shop"});
        assert_eq!(binding["subjects"], json!([account]));
    }
    let deployment = operator.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    assert!(env.contains(&json!({"name": "WATCH_NAMESPACES", "value": "shop"})), "{env:?}");
    assert!(env.iter().any(|variable| variable["name"] == "POD_NAMESPACE"), "{env:?}");
    assert_eq!(watched.iter().map(|object| &object["metadata"]["namespace"]).collect::<Vec<_>>(), ["shop", "shop"]);
}
