//! Processes that never outlive the test: their supervisor ends them when the pipe to it closes, however we die.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

/// A supervised process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Its standard error.
    pub log: PathBuf,
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(name: &str, args: &[&str]) -> PathBuf {
    let script = root().join("tests/cluster").join(name);
    let output = Command::new(script).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "tests/cluster/{name} failed");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// A program of the folder that `tests/cluster/build.sh` fills.
pub fn kube(program: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| script("build.sh", &[])).join(program)
}

/// Helm for the cluster of a kubeconfig, with nothing of the user's own.
pub fn helm(kubeconfig: &str) -> Command {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let mut helm = Command::new(FOLDER.get_or_init(|| script("helm.sh", &[])).join("helm"));
    for home in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        helm.env(home, scratch().join("helm"));
    }
    helm.arg("--kubeconfig").arg(kubeconfig);
    helm
}

/// The storage server.
pub fn weed() -> PathBuf {
    static WEED: OnceLock<PathBuf> = OnceLock::new();
    WEED.get_or_init(|| script("seaweedfs.sh", &[])).clone()
}

/// A program of the Python packages in `tests/NAME/requirements.txt`.
pub fn python(name: &str, program: &str) -> PathBuf {
    script("venv.sh", &[name]).join(program)
}

/// What a node needs, or why there can be none on this machine.
pub fn node_tools() -> Result<PathBuf, String> {
    let output = Command::new(root().join("tests/cluster/node.sh")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap().trim().into()),
        Some(77) => Err(said),
        _ => panic!("tests/cluster/node.sh failed: {said}"),
    }
}

/// A folder for this run's logs and spools. The next run removes it: a static is never dropped.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e");
        for old in std::fs::read_dir(&all).into_iter().flatten().map(|old| old.unwrap()) {
            if !Path::new("/proc").join(old.file_name()).exists() {
                std::fs::remove_dir_all(old.path()).unwrap();
            }
        }
        let ours = all.join(std::process::id().to_string());
        std::fs::create_dir_all(&ours).unwrap();
        ours
    })
}

/// A port for a process that is about to start: below those that the kernel gives to connections, one of which could take it
/// until then, and above those of the cluster.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = 30_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 2_700;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Process {
    /// Starts `command`, which must be one that ends when its standard input does.
    pub fn start(mut command: Command, name: &str) -> Process {
        let log = scratch().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        Process { child, log }
    }

    /// Starts `program` under the supervisor. Its temporary files are in this run's folder: a killed program leaves them.
    pub fn supervised(program: &Path, args: &[String], envs: &[(&str, String)], name: &str) -> Process {
        let mut command = Command::new(kube("kube"));
        command.args(["supervise", "--grace", "12s", "--"]).arg(program).args(args);
        command.env("TMPDIR", scratch()).envs(envs.iter().map(|(k, v)| (*k, v)));
        Process::start(command, name)
    }

    /// The first line of standard output, as JSON.
    pub fn announcement(&mut self) -> Value {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("said {line:?}\n{}", self.tail(20)))
    }

    /// SIGKILL, as an out-of-memory killer or a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, as a kubelet sends it. Returns the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.child.wait().unwrap().code()
    }

    /// Whether it ended by itself.
    #[allow(dead_code, reason = "the soak starts it again")]
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Process id of the supervisor.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of standard error.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
