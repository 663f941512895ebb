//! The dependencies of the operator on the outside: the Kubernetes API, the transport to other hosts, the clock and random
//! bytes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};

use super::cluster;
use super::error::StepError;
use super::fair_calls::FairCalls;
use super::options::StartError;
use crate::api::conditions::reasons;
use crate::transport::{EgressProxy, HostPolicy, Transport};

/// The dependencies of an operator. Two operators that must fail independently get one each.
#[derive(Clone)]
pub struct Dependencies {
    /// The Kubernetes API; see [`config`].
    pub client: Client,
    /// The Kubernetes API with a longer read time-out, for watches, which are quiet for long; see [`watching_config`].
    pub watching: Client,
    /// The transport to providers and object stores.
    pub transport: Transport,
    /// The clock and the source of random bytes.
    pub clock: Arc<dyn Clock>,
}

/// A clock and a source of random bytes, the inputs of every decision.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the current time in Unix milliseconds.
    fn now(&self) -> i64;
    /// Fills `bytes` with random bytes. Returns false if none are available.
    fn fill(&self, bytes: &mut [u8]) -> bool;
}

/// The system's clock and source of random bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> i64 {
        jiff::Timestamp::now().as_millisecond()
    }

    fn fill(&self, bytes: &mut [u8]) -> bool {
        aws_lc_rs::rand::fill(bytes).is_ok()
    }
}

impl dyn Clock {
    /// Returns a jitter of 0 to 255, which is 0 if no random bytes are available: that is no reason to stop.
    pub(crate) fn jitter(&self) -> u8 {
        let mut jitter = [0];
        self.fill(&mut jitter);
        jitter[0]
    }

    /// Returns 128 random bits in hex.
    pub(crate) fn nonce(&self) -> Result<String, StepError> {
        let mut bytes = [0; 16];
        match self.fill(&mut bytes) {
            true => Ok(crate::api::text::hex(&bytes)),
            false => Err(StepError::passing(reasons::PENDING, "the system gave no random bits")),
        }
    }
}

impl Dependencies {
    /// Returns the dependencies for the cluster of the environment (KUBECONFIG, or the Pod's ServiceAccount). Hosts are
    /// restricted as `hosts` says, those outside of private networks are reached through `proxy` if there is one, and time is
    /// the system's.
    ///
    /// # Errors
    /// When no cluster is named, or TLS cannot be set up.
    pub fn infer(hosts: HostPolicy, proxy: Option<EgressProxy>) -> Result<Dependencies, StartError> {
        let cluster = cluster::infer().map_err(StartError::NoCluster)?;
        let no_cluster = |e: kube::Error| StartError::NoCluster(e.to_string());
        let calls = ClientBuilder::try_from(config(cluster.clone())).map_err(no_cluster)?;
        Ok(Dependencies {
            client: calls.with_layer(&FairCalls::new()).build(),
            watching: Client::try_from(watching_config(cluster)).map_err(no_cluster)?,
            transport: Transport::new(hosts)
                .and_then(|transport| transport.through(proxy))
                .map_err(|e| StartError::Other(crate::transport::chain(&e)))?,
            clock: Arc::new(SystemClock),
        })
    }
}

/// Returns the configuration of the Kubernetes client. It disables the client's own retries, which could turn our own write
/// into a conflict; the caller that decided on a call repeats it.
pub fn config(cluster: Config) -> Config {
    let mut config = watching_config(cluster);
    config.read_timeout = Some(Duration::from_secs(20));
    config
}

/// Returns the configuration for [`Dependencies::watching`].
pub fn watching_config(mut config: Config) -> Config {
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    // Longer than a watch lasts. Without it, a list whose server vanished would wait for ever.
    config.read_timeout = Some(Duration::from_secs(330));
    config
}
