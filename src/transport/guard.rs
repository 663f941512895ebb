//! Clients that connect only to addresses that passed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url};

use super::CONNECT_TIMEOUT;
use super::hosts::{HostPolicy, port_of};

/// Clients kept for hosts that an admin wrote; beyond that, they are made anew.
const TRUSTED: usize = 64;

type HostAndPort = (String, Option<u16>);

/// Resolves names.
#[async_trait]
pub trait Lookup: std::fmt::Debug + Send + Sync {
    /// The addresses of `host` as of now.
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>>;
}

/// Resolves names as the system does.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// One client for each port that the policy speaks of, and one for all others: who resolves a name is not told the port.
#[derive(Debug)]
pub(super) struct Clients {
    policy: HostPolicy,
    lookup: Arc<dyn Lookup>,
    by_port: HashMap<u16, Client>,
    others: Client,
    trusted: Mutex<HashMap<HostAndPort, Arc<Clients>>>,
}

impl Clients {
    pub fn new(policy: HostPolicy, lookup: Arc<dyn Lookup>) -> Result<Clients, reqwest::Error> {
        let client = |port| client(Guard { policy: policy.clone(), port, lookup: lookup.clone() });
        let by_port = policy.ports().into_iter().map(|port| Ok((port, client(Some(port))?)));
        let by_port = by_port.collect::<Result<_, reqwest::Error>>()?;
        Ok(Clients { others: client(None)?, by_port, policy, lookup, trusted: Mutex::default() })
    }

    pub fn policy(&self) -> &HostPolicy {
        &self.policy
    }

    pub fn of(&self, url: &Url) -> &Client {
        port_of(url).and_then(|port| self.by_port.get(&port)).unwrap_or(&self.others)
    }

    /// The same for the host of `url` too, with connections of its own.
    pub fn trusting(&self, url: &Url) -> Result<Arc<Clients>, reqwest::Error> {
        let key = (url.host_str().unwrap_or_default().to_string(), port_of(url));
        let mut trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clients) = trusted.get(&key) {
            return Ok(clients.clone());
        }
        if trusted.len() >= TRUSTED {
            trusted.clear();
        }
        let clients = Arc::new(Clients::new(self.policy.and_host_of(url), self.lookup.clone())?);
        trusted.insert(key, clients.clone());
        Ok(clients)
    }
}

fn client(guard: Guard) -> Result<Client, reqwest::Error> {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .dns_resolver(guard)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("batchjob-operator/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Resolves a name when a connection is made, and gives only addresses that may be connected to.
#[derive(Clone, Debug)]
struct Guard {
    policy: HostPolicy,
    port: Option<u16>,
    lookup: Arc<dyn Lookup>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let ips = guard.lookup.lookup(name.as_str()).await?;
            let open = guard.policy.admit(name.as_str(), guard.port, ips)?;
            // The port is the URL's.
            let addresses: Addrs = Box::new(open.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
