//! The image is the same bytes whenever it is packed, and says of itself what the Dockerfile, the Deployment and Cargo.toml say.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

const NAME: &str = concat!("localhost/batchjob-operator:", env!("CARGO_PKG_VERSION"));

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap()
}

fn deployment() -> Value {
    serde_saphyr::from_str(&read("deploy/kustomize/deployment.yaml")).unwrap()
}

/// Packs files that are written in this order, with times of their own.
fn packed(files: &[&str], age: u64) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join("root").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, file).unwrap();
        File::open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let image = folder.path().join("image.tar");
    let mut pack = Command::new(root("deploy/image/oci.py"));
    pack.arg(folder.path().join("root")).arg(NAME).arg(&image).env_remove("SOURCE_DATE_EPOCH");
    assert!(pack.output().unwrap().status.success());
    fs::read(image).unwrap()
}

/// What the image is called, and how it is run.
fn opened(image: &[u8]) -> (Value, Value) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("image.tar"), image).unwrap();
    assert!(Command::new("tar").args(["-xf", "image.tar"]).current_dir(&folder).status().unwrap().success());
    let parse = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob = |of: &Value| parse(folder.path().join("blobs").join(of["digest"].as_str().unwrap().replace(':', "/")));
    let index = parse(folder.path().join("index.json"));
    let entry = &index["manifests"][0];
    let config = blob(&blob(entry)["config"]);
    (entry["annotations"]["io.containerd.image.name"].clone(), config["config"].clone())
}

#[test]
fn the_same_files_make_the_same_bytes() {
    let image = packed(&["etc/passwd", "usr/local/bin/batchjob-operator"], 10);
    assert!(image == packed(&["usr/local/bin/batchjob-operator", "etc/passwd"], 100_000));
    assert!(image != packed(&["etc/passwd"], 10));
}

#[test]
fn everybody_says_the_same_of_the_image() {
    let (name, config) = opened(&packed(&["etc/passwd"], 10));
    let pod = &deployment()["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], name);
    let context = &pod["securityContext"];
    assert_eq!(config["User"], format!("{}:{}", context["runAsUser"], context["runAsGroup"]));
    assert_eq!(config["Entrypoint"], json!(["/usr/local/bin/batchjob-operator"]));
    let label = |key: &str| config["Labels"][format!("org.opencontainers.image.{key}")].clone();
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("description"), env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    // Both ways of building take the files from the same place, and the compiler that Cargo.toml asks for.
    let (files, docker) = (read("deploy/image/rootfs.sh"), read("Dockerfile"));
    assert!(files.contains("nonroot:x:65532:65532:") && files.contains("\"$root/usr/local/bin/batchjob-operator\""));
    assert!(
        docker.contains("deploy/image/rootfs.sh") && read("deploy/image/build.sh").contains("deploy/image/rootfs.sh")
    );
    assert!(docker.contains(concat!("FROM rust:", env!("CARGO_PKG_RUST_VERSION"), "-")));
}
