//! The manifests that we show to people: the files of `examples/`, and the `yaml` blocks of the README and of `docs/`.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A manifest, and where it is shown.
#[derive(Debug)]
pub struct Shown {
    /// File, or page and place of the block in it: `docs/jobs.md 3`.
    pub place: String,
    /// The objects.
    pub objects: Vec<Value>,
}

/// Returns every manifest. A block without a `kind` is a part of a BatchJob, with its `spec:` or without: its fields take the
/// place of those of `examples/reviews.yaml`.
pub fn shown() -> Vec<Shown> {
    let mut shown = vec![];
    for file in files("examples", "yaml") {
        shown.push(Shown { objects: objects(&read(&file)), place: file });
    }
    for page in files("docs", "md").into_iter().chain(["README.md".into()]) {
        for (i, block) in blocks(&read(&page)).into_iter().enumerate() {
            let mut objects = objects(block);
            for part in objects.iter_mut().filter(|object| object.get("kind").is_none()) {
                *part = whole(part);
            }
            if !objects.is_empty() {
                shown.push(Shown { place: format!("{page} {}", i + 1), objects });
            }
        }
    }
    shown
}

/// Returns the `yaml` blocks of a page.
pub fn blocks(page: &str) -> Vec<&str> {
    page.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next()).collect()
}

fn whole(part: &Value) -> Value {
    let mut job = objects(&read("examples/reviews.yaml")).remove(0);
    // A part may name the job of the example.
    job["metadata"]["name"] = "shown".into();
    for (field, value) in part.get("spec").unwrap_or(part).as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
    job
}

/// Returns the objects of a text that this project's API or Kubernetes' own knows, and the parts of objects.
fn objects(text: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let is_known = |api: &str| api == "v1" || api.starts_with("llmbatch.dev/");
    objects.retain(|object| object["apiVersion"].as_str().is_none_or(is_known));
    objects
}

/// Returns the paths of the files of a folder, sorted.
pub fn files(folder: &str, extension: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(&format!(".{extension}")));
    let mut files: Vec<String> = names.map(|name| format!("{folder}/{name}")).collect();
    files.sort();
    files
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
