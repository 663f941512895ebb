//! A cluster with a node, for what has to run in Pods.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::process::{node_tools, root, scratch};
use super::shared::{Cluster, started};

/// A cluster with a node; stopped when dropped, and then nothing of it is left.
pub struct Node {
    pub cluster: Cluster,
}

/// Where Pods reach the ports of this machine that were exposed.
pub const HOST: &str = "10.0.0.1";

impl Node {
    /// A cluster whose node has our image. None where no node can run on this machine, which is said even though the test
    /// then passes; an error where `BATCHJOB_REQUIRE_NODE` is set.
    pub fn start(name: &str, exposed: &[&str]) -> Option<Node> {
        let tools = match node_tools() {
            Ok(tools) => tools,
            Err(why) => {
                assert!(std::env::var_os("BATCHJOB_REQUIRE_NODE").is_none(), "{why}");
                // Not a print macro: the harness would keep what a test that passes prints.
                let skipped = format!("\n*** SKIPPED: {name}. {why} ***\n\n");
                std::io::stderr().write_all(skipped.as_bytes()).unwrap();
                return None;
            }
        };
        let path = |p: &Path| p.to_str().unwrap().to_string();
        let mut args = vec!["--node".into(), path(&tools), "--image".into(), path(&image())];
        for url in exposed {
            let port = url::Url::parse(url).unwrap().port().unwrap();
            args.extend(["--expose".into(), port.to_string()]);
        }
        Some(Node { cluster: started(name, &args) })
    }

    /// The folder that holds all its state.
    pub fn folder(&self) -> &Path {
        Path::new(&self.cluster.kubeconfig).parent().unwrap()
    }

    /// Ends it; returns its exit code.
    pub fn stop(&self) -> Option<i32> {
        self.cluster.process.lock().unwrap().terminate()
    }

    /// Process id of what runs it.
    pub fn id(&self) -> u32 {
        self.cluster.process.lock().unwrap().id()
    }

    /// The process in a Pod of one process.
    pub fn process_of(&self, pod: &Value) -> PodProcess {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let mut found = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let proc = entry.unwrap().path();
            let ours = fs::read_to_string(proc.join("cgroup")).is_ok_and(|groups| groups.contains(uid))
                && fs::read_link(proc.join("exe")).is_ok_and(|exe| !exe.ends_with("pause"));
            ours.then_some(PodProcess { proc })
        });
        found.next().unwrap()
    }

    /// The last lines of what the operator's Pods said.
    pub fn last_words(&self, lines: u32) -> String {
        let script = format!("tail -n {lines} {}/node/logs/batchjob-operator*/operator/*.log", self.folder().display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the Pods' last words ---\n{}", self.last_words(20));
        }
        if self.folder().exists() {
            self.stop();
        }
    }
}

/// A process that runs in a Pod, as the kernel sees it.
pub struct PodProcess {
    proc: PathBuf,
}

impl PodProcess {
    /// A line of `/proc/PID/status`, without its name.
    pub fn status(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.proc.join("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().map(String::from).collect()
    }

    /// Whether what it sees at `path` is mounted to be read only. None where nothing is mounted there.
    pub fn is_read_only(&self, path: &str) -> Option<bool> {
        let text = fs::read_to_string(self.proc.join("mountinfo")).unwrap();
        let mounts = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        mounts.filter(|fields| fields[4] == path).map(|fields| fields[5].split(',').any(|o| o == "ro")).next_back()
    }

    /// Bytes of memory that it may take.
    pub fn memory_limit(&self) -> u64 {
        let groups = fs::read_to_string(self.proc.join("cgroup")).unwrap();
        let limit = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            match (fields.next()?, fields.next()?) {
                ("memory", group) => Some(format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes")),
                ("", group) => {
                    Some(format!("/sys/fs/cgroup{group}/memory.max")).filter(|file| Path::new(file).exists())
                }
                _ => None,
            }
        });
        fs::read_to_string(limit.unwrap()).unwrap().trim().parse().unwrap()
    }
}

/// The operator that is tested, made into an image by what makes the one that is shipped.
fn image() -> PathBuf {
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let [binary, files, image] = ["operator.stripped", "rootfs", "image.tar"].map(|name| scratch().join(name));
    run(Command::new("strip").arg("-o").arg(&binary).arg(env!("CARGO_BIN_EXE_batchjob-operator")));
    run(Command::new(root().join("deploy/image/rootfs.sh")).arg(&binary).arg(&files));
    let name = concat!("localhost/batchjob-operator:", env!("CARGO_PKG_VERSION"));
    run(Command::new(root().join("deploy/image/oci.py")).arg(&files).arg(name).arg(&image));
    image
}
