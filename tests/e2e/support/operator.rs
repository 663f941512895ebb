//! The operator as a process, under the ServiceAccount and the rules that we ship.

use std::path::Path;
use std::sync::Arc;

use super::process::{Process, free_port, scratch};
use super::shared::{Cluster, cluster};

/// A running operator; killed when dropped.
pub struct Operator {
    pub process: Process,
    /// Address of its probes and metrics.
    pub health: String,
}

/// Where `deploy/kustomize` installs it.
const HOME: &str = "batchjob-operator-system";

/// How to start one.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: String,
    pub namespaces: String,
    /// Its credential, where the control plane is not that of the run.
    pub kubeconfig: Option<String>,
    /// Address of the API server, or of a proxy in front of it.
    pub server: Option<String>,
    pub extra: Vec<String>,
    pub env: Vec<(&'static str, String)>,
    /// Where it is installed.
    pub home: String,
    /// The control plane, where it is not the one of this run.
    pub elsewhere: Option<Arc<Cluster>>,
}

impl Settings {
    pub fn new(name: &str, namespace: &str) -> Settings {
        Settings {
            name: name.into(),
            namespaces: namespace.into(),
            kubeconfig: None,
            server: None,
            extra: vec![],
            env: vec![],
            home: HOME.into(),
            elsewhere: None,
        }
    }

    pub fn cluster(&self) -> &Cluster {
        match &self.elsewhere {
            Some(elsewhere) => elsewhere,
            None => cluster(),
        }
    }

    /// Starts an operator and waits until it is ready.
    pub async fn start(&self) -> Operator {
        let operator = self.launch();
        super::eventually("the operator is ready", 30, || async {
            let ready = reqwest::get(format!("{}/readyz", operator.health)).await;
            ready.is_ok_and(|r| r.status().is_success()).then_some(())
        })
        .await;
        operator
    }

    /// Starts an operator.
    pub fn launch(&self) -> Operator {
        let kubeconfig = self.kubeconfig.clone().unwrap_or_else(|| {
            let server = self.server.as_ref().unwrap_or(&self.cluster().server);
            self.cluster().operator_kubeconfig(&self.name, server, &self.home)
        });
        let port = free_port();
        let mut args: Vec<String> = [
            "run",
            "--leader-election",
            "false",
            "--log-format",
            "text",
            "--post-window-seconds",
            "3",
            "--send-timeout-seconds",
            "3",
            "--listing-lag-seconds",
            "1",
            "--allow-private-hosts",
            "127.0.0.1",
        ]
        .map(String::from)
        .into();
        args.extend(["--namespace".into(), self.home.clone()]);
        args.extend(["--watch-namespaces".into(), self.namespaces.clone()]);
        args.extend(["--health-addr".into(), format!("[::]:{port}")]);
        args.extend(["--spool-dir".into(), scratch().to_str().unwrap().into()]);
        // clap lets the later of two flags win only where told to: replace instead.
        for pair in self.extra.chunks(2) {
            match args.iter().position(|a| *a == pair[0]) {
                Some(i) => args[i + 1] = pair[1].clone(),
                None => args.extend_from_slice(pair),
            }
        }
        let mut envs = vec![("KUBECONFIG", kubeconfig), ("RUST_LOG", "warn,batchjob_operator=trace".into())];
        // As where every Pod has a proxy in its environment: the API server is reached all the same, and nothing else goes there.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            envs.push((name, "http://127.0.0.1:9".into()));
        }
        envs.push(("NO_PROXY", ".svc,127.0.0.0/8,".into()));
        // As deploy/kustomize sets it.
        for threshold in ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"] {
            envs.push((threshold, "1048576".into()));
        }
        envs.extend(self.env.iter().cloned());
        let program = Path::new(env!("CARGO_BIN_EXE_batchjob-operator"));
        let process = Process::supervised(program, &args, &envs, &self.name);
        Operator { process, health: format!("http://127.0.0.1:{port}") }
    }
}

impl Operator {
    /// One of its metrics; 0 where it was never counted.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(format!("{}/metrics", self.health)).await.unwrap().text().await.unwrap();
        let line = text.lines().find(|l| l.split(' ').next() == Some(name));
        line.and_then(|l| l.split(' ').nth(1)).map_or(0.0, |v| v.parse().unwrap())
    }

    /// All of its metrics; None where it does not answer.
    pub async fn metrics(&self) -> Option<String> {
        reqwest::get(format!("{}/metrics", self.health)).await.ok()?.text().await.ok()
    }

    /// Peak of resident memory, in bytes, as the kernel counts it.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// From now on the peak is that of what comes: `proc_pid_clear_refs(5)`.
    pub fn forget_peak(&self) {
        std::fs::write(self.proc("clear_refs"), "5").unwrap();
    }

    /// A file that the kernel keeps about the operator's own process.
    fn proc(&self, file: &str) -> String {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.process.id())).unwrap();
        format!("/proc/{}/{file}", children.trim())
    }
}
