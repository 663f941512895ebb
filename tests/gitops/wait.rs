//! The examples of `batchjob-operator wait`.

use std::process::Command;

use serde_json::Value;

use crate::tools::{objects, read, root};

/// Every list of arguments in `value` that begins with `wait`.
fn waits(value: &Value, found: &mut Vec<Vec<String>>) {
    match value {
        Value::Array(items) if items.first().is_some_and(|first| first == "wait") => {
            found.push(items.iter().map(|item| item.as_str().unwrap().into()).collect());
        }
        Value::Array(items) => items.iter().for_each(|item| waits(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| waits(field, found)),
        _ => {}
    }
}

#[test]
fn arguments_in_the_examples_are_understood() {
    let mut found = vec![];
    for file in ["job.yaml", "argo-workflow.yaml"] {
        objects(&read(&format!("examples/wait/{file}"))).iter().for_each(|object| waits(object, &mut found));
    }
    let dag = read("examples/wait/airflow.py");
    let (_, arguments) = dag.split_once("arguments=").unwrap();
    found.push(
        serde_json::from_str(arguments.split_once("],").map(|(list, _)| format!("{list}]")).unwrap().as_str()).unwrap(),
    );
    assert_eq!(found.len(), 3);
    for args in found {
        let mut wait = Command::new(env!("CARGO_BIN_EXE_batchjob-operator"));
        let output =
            wait.args(&args).env("KUBECONFIG", "/nowhere").env_remove("KUBERNETES_SERVICE_HOST").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: understood, but there is no cluster: {said}");
        let misspelt =
            Command::new(env!("CARGO_BIN_EXE_batchjob-operator")).args(&args).arg("--tiemout=1h").output().unwrap();
        assert_eq!(misspelt.status.code(), Some(64), "no outcome of a job");
    }
}

#[test]
fn the_dag_is_python() {
    let path = root().join("examples/wait/airflow.py");
    let parse = "import ast, sys; ast.parse(open(sys.argv[1]).read())";
    assert!(Command::new("python3").args(["-c", parse]).arg(path).status().unwrap().success());
}
