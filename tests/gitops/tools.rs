//! Helm and kubectl, as `tests/cluster/` builds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The folder that a script of `tests/cluster/` fills and prints.
pub fn built(script: &str, args: &[&str]) -> PathBuf {
    let script = root().join("tests/cluster").join(script);
    let output = Command::new(&script).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{} failed", script.display());
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// Helm, with a version of Kubernetes that it does not know by itself when it is built from source.
pub fn helm(args: &[&str]) -> Output {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| built("helm.sh", &[]));
    // Nothing of the user's: no plugins, no repositories.
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("helm");
    let mut helm = Command::new(folder.join("helm"));
    helm.args(args).current_dir(root()).env("HELM_CONFIG_HOME", &home).env("HELM_CACHE_HOME", &home);
    helm.env("HELM_DATA_HOME", &home).output().unwrap()
}

/// The objects of `helm template`, with what comes after these arguments.
pub fn helm_template(args: &[&str]) -> Vec<Value> {
    objects(&said(helm(&[&["template", "release", "deploy/chart", "--kube-version=1.36.0"], args].concat())))
}

pub fn kubectl(args: &[&str]) -> Output {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| built("build.sh", &[]));
    Command::new(folder.join("kubectl")).args(args).current_dir(root()).output().unwrap()
}

/// The objects of `kubectl kustomize`.
pub fn kustomize(folder: &str) -> Vec<Value> {
    objects(&said(kubectl(&["kustomize", folder])))
}

/// What a command wrote; it has to succeed.
pub fn said(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The documents of a YAML stream.
pub fn objects(yaml: &str) -> Vec<Value> {
    let documents = yaml.split("\n---\n").map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
    documents.filter(|object| !object.is_null()).collect()
}
