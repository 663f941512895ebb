//! The operator in this process, in a runtime of its own: it can die at any call, and then nothing of it is left.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use batchjob_operator::controller::{self, Clock, Dependencies, Options, SystemClock};
use batchjob_operator::lifecycle::Timing;
use batchjob_operator::transport::{HostPolicy, SystemLookup, Transport};
use kube::Client;
use kube::client::ClientBuilder;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::stage::cluster;
use super::wires::{KubeLayer, Script, Wires};
use crate::support::process::scratch;
use crate::support::shared::storage;

/// How long things may take here, in milliseconds.
const TIMING: Timing = Timing {
    post_window: 4_000,
    send_timeout: 2_000,
    listing_lag: 300,
    deletion_deadline: 1_800_000,
    abandon_after: 3_600_000,
};

/// A running operator; dies when dropped.
pub struct Operator {
    runtime: Option<Runtime>,
    /// Set when it died, or ended by itself.
    pub ended: CancellationToken,
    _spool: tempfile::TempDir,
}

/// What an operator says, for when its story fails.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

/// The system's clock, so many milliseconds off.
#[derive(Clone, Debug, Default)]
pub struct SkewedClock(pub Arc<AtomicI64>);

impl Clock for SkewedClock {
    fn now(&self) -> i64 {
        SystemClock.now() + self.0.load(Ordering::Relaxed)
    }

    fn fill(&self, bytes: &mut [u8]) -> bool {
        SystemClock.fill(bytes)
    }
}

impl Operator {
    /// Starts one that looks after `namespace`, with an empty memory.
    pub fn start(namespace: &str, script: &Arc<Script>, clock: SkewedClock, log: &Log) -> Operator {
        let spool = tempfile::tempdir_in(scratch()).unwrap();
        let wires = Wires::new(script.clone(), &storage().endpoint);
        let ended = wires.dead.clone();
        let runtime = runtime(log.clone());
        let options = options(namespace, spool.path());
        let (over, mut log) = (ended.clone(), log.clone());
        runtime.spawn(async move {
            let dependencies = dependencies(wires, Arc::new(clock));
            let end = controller::run(options, dependencies, CancellationToken::new()).await;
            let _ = writeln!(log, "the operator ended: {end:?}");
            over.cancel();
        });
        Operator { runtime: Some(runtime), ended, _spool: spool }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.ended.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn options(namespace: &str, spool: &Path) -> Options {
    Options {
        watch_namespaces: vec![namespace.into()],
        namespace: "batchjob-operator-system".into(),
        leader_election: false,
        identity: "sweep".into(),
        spool_dir: spool.into(),
        spool_size: 2 << 30,
        output_config_maps: 4,
        recheck: 60_000,
        orphan_check: 0,
        health_addr: "127.0.0.1:0".parse().unwrap(),
        provider_webhook_addr: None,
        otlp_endpoint: None,
        pod_ip: None,
        timing: TIMING,
    }
}

fn dependencies(wires: Wires, clock: Arc<dyn Clock>) -> Dependencies {
    let client =
        |config| -> Client { ClientBuilder::try_from(config).unwrap().with_layer(&KubeLayer(wires.clone())).build() };
    let hosts = HostPolicy::allowing(["127.0.0.1".parse().unwrap()]);
    Dependencies {
        client: client(controller::config(account())),
        watching: client(controller::watching_config(account())),
        transport: Transport::with(hosts, Arc::new(SystemLookup), Some(Arc::new(wires.clone()))).unwrap(),
        clock,
    }
}

/// The ServiceAccount that we ship.
fn account() -> kube::Config {
    static CONFIG: OnceLock<kube::Config> = OnceLock::new();
    let read = || {
        let cluster = cluster();
        let file = cluster.operator_kubeconfig("sweep", &cluster.server, "batchjob-operator-system");
        let file = kube::config::Kubeconfig::read_from(file).unwrap();
        futures::executor::block_on(kube::Config::from_custom_kubeconfig(file, &Default::default())).unwrap()
    };
    CONFIG.get_or_init(read).clone()
}

fn runtime(log: Log) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(2)
        .enable_all()
        // What its threads log is its own; they take the guard with them.
        .on_thread_start(move || std::mem::forget(tracing::subscriber::set_default(log.subscriber())))
        .build()
        .unwrap()
}

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        let log = self.clone();
        tracing_subscriber::fmt()
            .with_env_filter("warn,batchjob_operator=debug")
            .with_ansi(false)
            .with_target(false)
            .with_writer(move || log.clone())
            .finish()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
