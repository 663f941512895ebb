//! The operator's command line.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use batchjob_operator::api;
use batchjob_operator::controller::{self, Dependencies, Options};
use batchjob_operator::lifecycle::Timing;
use batchjob_operator::schedule::{self, Schedule, Starts};
use batchjob_operator::telemetry::{LogFormat, OtlpEndpoint, init_logs};
use batchjob_operator::transport::{AllowedHost, EgressProxy, HostPolicy};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs LLM batch jobs from Kubernetes: never pays twice, never loses a line.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator.
    Run(Box<Run>),
    /// Write the CustomResourceDefinitions.
    Crds {
        /// Folder to write them to; unset: standard output.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Wait for the end of a BatchJob, in a step of a pipeline. Exits with 0 when the job succeeded, 2 when some of its requests
    /// have no answer, 124 when the time is over before the job ended, and 1 otherwise: it failed or was cancelled or deleted,
    /// or it is not there within a minute, or may not be read.
    Wait(Wait),
    /// Look into the schedule of a CronBatchJob, without a cluster.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
}

#[derive(Subcommand)]
enum ScheduleCommand {
    /// Write the BatchJobs that the operator would create for a date, for `kubectl create -f -`. What already ran is not paid
    /// again: it has the same name, and the same results.
    Render {
        /// File with the CronBatchJob; `-`: standard input.
        manifest: PathBuf,
        /// Date (2026-11-21) or time (2026-11-21T04:30) of the starts, in the time zone of the schedule, or an instant
        /// (2026-11-21T01:30:00Z).
        #[arg(long, value_name = "DATE|TIME", required_unless_present = "from", conflicts_with_all = ["from", "to"])]
        at: Option<Starts>,
        /// First date of the starts, in the time zone of the schedule.
        #[arg(long, value_name = "DATE", requires = "to")]
        from: Option<Date>,
        /// Last date of the starts.
        #[arg(long, value_name = "DATE", requires = "from")]
        to: Option<Date>,
    },
    /// Write the next starts, in the time zone of the schedule.
    Next {
        /// File with the CronBatchJob; `-`: standard input.
        manifest: PathBuf,
        /// Instant after which they are, such as 2026-11-21T01:30:00Z; unset: now.
        #[arg(long, value_name = "INSTANT")]
        after: Option<Timestamp>,
        /// Number of starts.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
    },
}

#[derive(Args)]
struct Wait {
    /// Name of the BatchJob.
    name: String,
    /// Namespace of the BatchJob; unset: that of the Pod, or of the kubeconfig.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Time after which it gives up, such as 90m or 26h: a batch may take a day at the provider. The job runs on.
    #[arg(long, default_value = "26h")]
    timeout: SignedDuration,
}

#[derive(Args)]
struct Run {
    /// Namespaces to look after, separated by commas; unset: all of them.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Whether replicas elect one that works. A lease saves work; correctness does not depend on it.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_election: bool,
    /// The operator's own namespace: its Lease is there, and the Secrets of ClusterBatchProviders.
    #[arg(long, env = "POD_NAMESPACE", default_value = "batchjob-operator-system")]
    namespace: String,
    /// This replica's name in the election and in events.
    #[arg(long, env = "POD_NAME", default_value = "batchjob-operator")]
    identity: String,
    /// Folder on local disk for transfers. Its content may vanish at any time.
    #[arg(long, env = "SPOOL_DIR", default_value = "/tmp")]
    spool_dir: PathBuf,
    /// Local disk to take at most, such as 2Gi: the size of the volume of --spool-dir, at least 64Mi. Transfers share five eighths of it,
    /// which the answers of one batch have to fit into.
    #[arg(long, env = "SPOOL_SIZE", default_value = "2Gi", value_parser = controller::spool_size)]
    spool_size: u64,
    /// ConfigMaps that the requests and results of one job may take where `spec.output.configMap` is set; 740 KiB each.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=16))]
    output_config_maps: u16,
    /// Private hosts that teams' providers and object stores may be at, separated by commas: `minio.storage.svc`, `vllm.ml.svc:8000`,
    /// `*.minio.storage.svc` (every host below it), `10.20.0.0/16`, `[fd00:10::/64]:443`. A name opens what it resolves to in private
    /// networks (RFC 1918, loopback, 100.64.0.0/10, fc00::/7), exactly as URLs spell it. A network opens all of its addresses but the
    /// metadata services of clouds, which take their very address. Public hosts, and those of ClusterBatchProviders, need no entry;
    /// but a provider at a public address whose URL begins with `http://` takes an entry for its network.
    #[arg(long, env = "ALLOW_PRIVATE_HOSTS", value_delimiter = ',', value_name = "HOST[:PORT]|NETWORK")]
    allow_private_hosts: Vec<AllowedHost>,
    /// HTTP proxy to providers and object stores: `http://[USER:PASSWORD@]HOST:PORT`. Hosts in private networks, where
    /// --allow-private-hosts or a ClusterBatchProvider lets them in, are connected to straight. Hosts are judged before the
    /// proxy is asked, but it looks names up itself: have it refuse addresses of networks that teams may not reach. The API
    /// server is never reached through it, and HTTPS_PROXY and the like are not used for providers and object stores.
    #[arg(long, env = "EGRESS_PROXY", hide_env_values = true, value_name = "URL")]
    egress_proxy: Option<EgressProxy>,
    /// Where /livez, /readyz and /metrics are served. `[::]` is every address of the host, of IPv6 and of IPv4.
    #[arg(long, default_value = "[::]:8081")]
    health_addr: SocketAddr,
    /// Where webhooks of providers are taken, such as `[::]:8082`; unset: nowhere. Signed events that a batch ended, sent to
    /// `/hooks/UID` of a BatchProvider with `spec.webhook`, make its jobs look at the batch at once.
    #[arg(long, value_name = "ADDRESS:PORT")]
    provider_webhook_addr: Option<SocketAddr>,
    /// Address of this Pod. Replicas on standby pass webhooks on to the leader there.
    #[arg(long, env = "POD_IP")]
    pod_ip: Option<IpAddr>,
    /// Collector that traces of jobs are sent to, in protobuf over HTTP, such as http://collector.monitoring.svc:4318; unset:
    /// no traces. `/v1/traces` is added to its path. Headers for it are in OTEL_EXPORTER_OTLP_HEADERS, as NAME=VALUE,…
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<OtlpEndpoint>,
    /// How logs are written.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    log_format: Format,
    /// Seconds from reading an object to the latest start of a submission made on it.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=120))]
    post_window_seconds: u16,
    /// Seconds from the start of a submission to its end, clock skew between replicas included.
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u16).range(1..=600))]
    send_timeout_seconds: u16,
    /// Seconds that a provider's list of batches may lag behind. Too small a value can pay twice.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..=3600))]
    listing_lag_seconds: u16,
    /// Seconds after which a deletion no longer waits for the provider or the storage.
    #[arg(long, default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    deletion_deadline_seconds: u32,
    /// Seconds that the batches of a job whose `activeDeadlineSeconds` are over may take to end once they are told to stop. Then
    /// the job fails without them, and an event names each batch that may still run and cost.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    abandon_after_seconds: u32,
    /// Seconds between two looks at the Secrets, ConfigMaps and the rest that a job refers to which failed before anything
    /// was paid: it is judged again when they change.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=3600))]
    recheck_seconds: u16,
    /// Seconds between two looks through the providers' lists for batches of this cluster that run and that no BatchJob follows;
    /// 0: never.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    orphan_check_seconds: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Json,
    Text,
}

/// Exit code for a command line that cannot be understood, as in sysexits.h.
const USAGE: i32 = 64;
/// Exit code of a process that SIGTERM ended, as shells have it.
const TERMINATED: u8 = 143;

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        let _ = error.print();
        // Not clap's 2, which would be the outcome of a job.
        std::process::exit(if error.use_stderr() { USAGE } else { 0 })
    });
    let outcome = match cli.command {
        Command::Run(run) => run.start().map(|()| ExitCode::SUCCESS),
        Command::Crds { dir } => write_crds(dir).map(|()| ExitCode::SUCCESS),
        Command::Wait(wait) => wait.run(),
        Command::Schedule(command) => command.run().map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("batchjob-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Each once, without what stands around it.
fn names(listed: &[String]) -> Vec<String> {
    let names: BTreeSet<&str> = listed.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    names.into_iter().map(String::from).collect()
}

impl Run {
    fn start(self) -> Result<(), Box<dyn std::error::Error>> {
        init_logs(match self.log_format {
            Format::Json => LogFormat::Json,
            Format::Text => LogFormat::Text,
        });
        // Two users of rustls, one crypto provider: whoever comes second finds it installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let seconds = |s: u16| i64::from(s) * 1000;
        let hosts = HostPolicy::allowing(self.allow_private_hosts);
        let options = Options {
            watch_namespaces: names(&self.watch_namespaces),
            namespace: self.namespace,
            leader_election: self.leader_election,
            identity: self.identity,
            spool_dir: self.spool_dir,
            spool_size: self.spool_size,
            output_config_maps: usize::from(self.output_config_maps),
            recheck: seconds(self.recheck_seconds),
            orphan_check: i64::from(self.orphan_check_seconds) * 1000,
            health_addr: self.health_addr,
            provider_webhook_addr: self.provider_webhook_addr,
            pod_ip: self.pod_ip,
            otlp_endpoint: self.otlp_endpoint,
            timing: Timing {
                post_window: seconds(self.post_window_seconds),
                send_timeout: seconds(self.send_timeout_seconds),
                listing_lag: seconds(self.listing_lag_seconds),
                deletion_deadline: i64::from(self.deletion_deadline_seconds) * 1000,
                abandon_after: i64::from(self.abandon_after_seconds) * 1000,
            },
        };
        options.check()?;
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
            let stop = CancellationToken::new();
            let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let stopping = stop.clone();
            tokio::spawn(async move {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                stopping.cancel();
            });
            Ok(controller::run(options, Dependencies::infer(hosts, self.egress_proxy)?, stop).await?)
        })
    }
}

impl Wait {
    fn run(self) -> Result<ExitCode, Box<dyn std::error::Error>> {
        let timeout = Duration::try_from(self.timeout).map_err(|_| "--timeout must not be negative")?;
        // Two users of rustls, one crypto provider: whoever comes second finds it installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            // The first process of a container has no default for it.
            let mut term = signal(SignalKind::terminate())?;
            let ended = tokio::select! {
                ended = controller::wait_for_end(self.namespace, &self.name, timeout) => ended?,
                _ = term.recv() => return Ok(ExitCode::from(TERMINATED)),
            };
            eprintln!("{ended}");
            Ok(ExitCode::from(ended.code()))
        })
    }
}

impl ScheduleCommand {
    fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        let (ScheduleCommand::Render { manifest, .. } | ScheduleCommand::Next { manifest, .. }) = &self;
        let of_file = |error: String| format!("{}: {error}", manifest.display());
        let text = match manifest.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(manifest),
        };
        let text = text.map_err(|error| of_file(error.to_string()))?;
        let cron = schedule::read(&text).map_err(of_file)?;
        match &self {
            ScheduleCommand::Render { at, from, to, .. } => {
                let starts = at.or(from.zip(*to).map(|(from, to)| Starts::Days(from, to)));
                let starts = starts.ok_or("name the starts with --at, or with --from and --to")?;
                print!("{}", schedule::render(cron, starts).map_err(of_file)?);
            }
            ScheduleCommand::Next { after, count, .. } => {
                let schedule = Schedule::parse(&cron.spec.schedule, cron.spec.time_zone.as_deref());
                let schedule = schedule.map_err(|error| of_file(error.to_string()))?;
                let first = schedule.next(after.unwrap_or_else(Timestamp::now));
                let starts = std::iter::successors(first, |start| schedule.next(*start));
                starts.take(usize::from(*count)).for_each(|start| println!("{}", schedule.zone().rfc3339(start)));
            }
        }
        Ok(())
    }
}

fn write_crds(dir: Option<PathBuf>) -> Result<(), Box<dyn std::error::Error>> {
    for (file, crd) in api::crds() {
        let yaml = api::render_crd(&crd)?;
        match &dir {
            Some(dir) => std::fs::write(dir.join(file), yaml)?,
            None => println!("---\n{yaml}"),
        }
    }
    Ok(())
}
