//! What lies outside of this process and is handed to it: the Kubernetes API, the way out to other hosts, time and chance.

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

/// What an operator works with. Two that are to fail apart from each other get one each.
#[derive(Clone)]
pub struct Dependencies {
    /// The Kubernetes API; see [`config`].
    pub client: Client,
    /// The same without a time-out between reads: watches are quiet for long.
    pub watching: Client,
    /// The way to providers and object stores.
    pub transport: Transport,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
}

/// Time and chance: inputs of every decision.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Unix milliseconds.
    fn now(&self) -> i64;
    /// Fills `bytes` at random. False where there is no randomness to be had.
    fn fill(&self, bytes: &mut [u8]) -> bool;
}

/// The system's time and chance.
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
    /// 0 to 255; without randomness there is no jitter, which is no reason to stop.
    pub(crate) fn jitter(&self) -> u8 {
        let mut jitter = [0];
        self.fill(&mut jitter);
        jitter[0]
    }

    /// 128 random bits in hex.
    pub(crate) fn nonce(&self) -> Result<String, StepError> {
        let mut bytes = [0; 16];
        match self.fill(&mut bytes) {
            true => Ok(crate::api::text::hex(&bytes)),
            false => Err(StepError::passing(reasons::PENDING, "the system gave no random bits")),
        }
    }
}

impl Dependencies {
    /// The cluster of the environment (KUBECONFIG, or the Pod's ServiceAccount), hosts as `hosts` allows, those outside of
    /// private networks through `proxy` if there is one, and the system's clock.
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

/// How the Kubernetes API is talked to: retries under our feet would turn our own write into a conflict, so whoever decides
/// repeats.
pub fn config(cluster: Config) -> Config {
    let mut config = watching_config(cluster);
    config.read_timeout = Some(Duration::from_secs(20));
    config
}

/// The same for [`Dependencies::watching`].
pub fn watching_config(mut config: Config) -> Config {
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    // Longer than a watch lasts: else a list whose server vanished would be waited for for ever.
    config.read_timeout = Some(Duration::from_secs(330));
    config
}
