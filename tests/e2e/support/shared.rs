//! One control plane and one storage server for all tests of a run.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use serde_json::{Value, json};

use super::process::{Process, kube, root, scratch, weed};

/// A control plane with our CRDs and RBAC rules.
#[derive(Debug)]
pub struct Cluster {
    /// For people with all rights.
    pub kubeconfig: String,
    /// Address of the API server.
    pub server: String,
    /// Its certificate authority.
    pub ca_file: String,
    pub(super) process: Mutex<Process>,
}

/// A storage server with a bucket `tests`.
pub struct Storage {
    pub endpoint: String,
    pub access_key: String,
    pub secret_key: String,
    _process: Mutex<Process>,
}

/// A control plane without anything of ours.
pub fn bare_cluster(name: &str) -> Cluster {
    started(name, &[])
}

/// What `kube up` with `args` starts.
pub fn started(name: &str, args: &[String]) -> Cluster {
    let mut command = Command::new(kube("kube"));
    command.arg("up").args(args);
    let mut process = Process::start(command, name);
    let up = process.announcement();
    let text = |key: &str| up[key].as_str().unwrap().to_string();
    Cluster {
        kubeconfig: text("kubeconfig"),
        server: text("server"),
        ca_file: text("caFile"),
        process: Mutex::new(process),
    }
}

/// Every request of the operators of this run; judged by tests/rights.rs.
pub fn audit_log() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e-audit.log")
}

/// Notes something of this run for tests/rights.rs, which reads it when all is over. The first line says of which operator.
pub fn record(line: &Value) {
    static RECORD: OnceLock<Mutex<File>> = OnceLock::new();
    let record = RECORD.get_or_init(|| {
        let mut file = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e-record.jsonl")).unwrap();
        let operator = std::fs::metadata(env!("CARGO_BIN_EXE_batchjob-operator")).unwrap();
        writeln!(file, "{}", json!({"operator": format!("{:?}", operator.modified().unwrap())})).unwrap();
        Mutex::new(file)
    });
    writeln!(record.lock().unwrap(), "{line}").unwrap();
}

/// The control plane of this run.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let (policy, log) = (root().join("tests/e2e/audit-policy.yaml"), audit_log());
        let _ = std::fs::remove_file(&log);
        record(&json!({"audit log": log}));
        let args = ["--audit-policy", policy.to_str().unwrap(), "--audit-log", log.to_str().unwrap()].map(String::from);
        let cluster = started("control-plane", &args);
        cluster.install();
        cluster
    })
}

/// A control plane beside the one of this run.
pub fn another_cluster(name: &str) -> Cluster {
    let cluster = bare_cluster(name);
    cluster.install();
    cluster
}

/// The storage server of this run.
pub fn storage() -> &'static Storage {
    static STORAGE: OnceLock<Storage> = OnceLock::new();
    STORAGE.get_or_init(|| stored("storage", &[]))
}

/// What `kube s3` with `args` starts.
pub fn stored(name: &str, args: &[String]) -> Storage {
    let mut command = Command::new(kube("kube"));
    command.args(["s3", "--bucket", "tests", "--weed"]).arg(weed()).args(args);
    let mut process = Process::start(command, name);
    let up = process.announcement();
    let text = |key: &str| up[key].as_str().unwrap().to_string();
    Storage {
        endpoint: text("endpoint"),
        access_key: text("accessKey"),
        secret_key: text("secretKey"),
        _process: Mutex::new(process),
    }
}

impl Storage {
    /// The bucket `tests`.
    pub fn bucket(&self) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_bucket_name("tests")
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_access_key_id(&self.access_key)
            .with_secret_access_key(&self.secret_key)
            .build()
            .unwrap()
    }
}

impl Cluster {
    /// Installs all that we ship but the Deployment, for which there is no node here.
    pub fn install(&self) {
        self.kubectl(&["apply", "-k", root().join("crds").to_str().unwrap()]);
        for file in ["namespace.yaml", "serviceaccount.yaml", "rbac.yaml"] {
            self.kubectl(&["apply", "-f", root().join("deploy/kustomize").join(file).to_str().unwrap()]);
        }
    }

    /// A client for people with all rights.
    pub async fn client(&self) -> kube::Client {
        let config = kube::config::Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        kube::Client::try_from(config).unwrap()
    }

    /// Runs kubectl as a person with all rights would; fails the test when kubectl fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let (ok, out) = self.try_kubectl(args, None);
        assert!(ok, "kubectl {args:?}: {out}");
        out
    }

    /// Runs kubectl with `input` on its standard input; whether it went well, and what it said.
    pub fn try_kubectl(&self, args: &[&str], input: Option<&str>) -> (bool, String) {
        use std::process::Stdio;
        let mut command = Command::new(kube("kubectl"));
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// A kubeconfig with the token of the ServiceAccount that we ship, installed into `namespace`, for the API server at `server`.
    pub fn operator_kubeconfig(&self, name: &str, server: &str, namespace: &str) -> String {
        let token = self.kubectl(&["create", "token", "batchjob-operator", "-n", namespace, "--duration=24h"]);
        let ca = if server.starts_with("https") {
            format!("certificate-authority: {},", self.ca_file)
        } else {
            String::new()
        };
        let path = scratch().join(format!("{name}.kubeconfig"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{{ca} server: {server}}}}}]\n\
             users: [{{name: u, user: {{token: {}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            token.trim()
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().into()
    }
}
