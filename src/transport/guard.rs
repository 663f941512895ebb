//! Clients that connect only to addresses that the policy admits.

use std::any::Any;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, ClientBuilder, Proxy, Url};

use super::egress::EgressProxy;
use super::hosts::{HostPolicy, port_of};
use super::{CONNECT_TIMEOUT, chain};

/// Maximum number of [`Clients`] that are kept for hosts of admins and for clear text. Beyond it, all are dropped and made again when
/// they are needed.
const APART: usize = 64;
/// Largest bundle of certificates, in bytes of PEM: twice what browsers trust.
const CA_BUNDLE_BYTES: usize = 512 << 10;
/// Bytes that a client takes besides its certificates.
const CLIENT_BYTES: usize = 32 << 10;

/// Bytes of one HTTP/2 response that a server may send before they are read: a tenant's server may send them to each call. A file of a
/// server that is 100 ms away comes at 5 MB a second.
const STREAM_WINDOW: u32 = 512 << 10;
/// Bytes of all responses of one HTTP/2 connection that a server may send before they are read: a window for each call and upload that
/// may be on its way.
const CONNECTION_WINDOW: u32 = 192 * STREAM_WINDOW;

/// Resolves names.
#[async_trait]
pub trait Lookup: std::fmt::Debug + Send + Sync {
    /// Returns the current addresses of `host`.
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

/// Certificate authorities that are trusted in place of the system's.
#[derive(Clone)]
pub struct CaBundle {
    pem: Arc<str>,
    certificates: Vec<Certificate>,
}

impl CaBundle {
    /// Reads certificates in PEM form.
    ///
    /// # Errors
    /// A message about the problem with them.
    pub fn from_pem(pem: &str) -> Result<CaBundle, String> {
        if pem.len() > CA_BUNDLE_BYTES {
            let bytes = pem.len();
            return Err(format!(
                "it has {bytes} bytes, and at most {CA_BUNDLE_BYTES} are read; leave out what the server does not need"
            ));
        }
        let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|e| chain(&e))?;
        match certificates.is_empty() {
            true => Err("there is no certificate in PEM form (-----BEGIN CERTIFICATE-----)".into()),
            false => Ok(CaBundle { pem: pem.into(), certificates }),
        }
    }
}

impl std::fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CaBundle({} certificates)", self.certificates.len())
    }
}

/// Settings of clients.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub policy: HostPolicy,
    pub lookup: Arc<dyn Lookup>,
    pub proxy: Option<EgressProxy>,
    /// The trusted authorities; None for the system's.
    pub ca: Option<CaBundle>,
}

/// The purpose of clients that are kept apart from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ClientPurpose {
    /// The host and port of a URL that an admin wrote.
    Host(String, Option<u16>),
    /// Requests in clear text.
    ClearText,
}

/// One client for each port that the policy names, and one for all other ports, because a resolver is not told the port of a connection.
#[derive(Debug)]
pub(super) struct Clients {
    setup: Setup,
    by_port: HashMap<u16, Client>,
    others: Client,
    /// The client through the proxy.
    proxied: Option<Client>,
    apart: Mutex<HashMap<ClientPurpose, Arc<Clients>>>,
    /// Clients that trust certain authorities, by the hash of their PEM form. They live as long as somebody uses them.
    trusting: Mutex<HashMap<[u8; 32], Weak<Clients>>>,
    _memory: Option<Granted>,
}

/// Memory that was granted, given back when this is dropped.
pub struct Granted(pub Box<dyn Any + Send + Sync>);

impl std::fmt::Debug for Granted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Granted")
    }
}

impl Clients {
    pub fn new(setup: Setup) -> Result<Clients, reqwest::Error> {
        let by_port = setup.policy.ports().into_iter().map(|port| Ok((port, straight(&setup, Some(port))?)));
        let by_port = by_port.collect::<Result<_, reqwest::Error>>()?;
        let proxied = setup.proxy.as_ref().map(|proxy| {
            // This client resolves the name of the proxy only. An admin named it, so it needs no guard.
            client(&setup).proxy(Proxy::all(proxy.url().clone())?).build()
        });
        Ok(Clients {
            others: straight(&setup, None)?,
            by_port,
            proxied: proxied.transpose()?,
            setup,
            apart: Mutex::default(),
            trusting: Mutex::default(),
            _memory: None,
        })
    }

    pub fn policy(&self) -> &HostPolicy {
        &self.setup.policy
    }

    pub fn of(&self, url: &Url) -> &Client {
        port_of(url).and_then(|port| self.by_port.get(&port)).unwrap_or(&self.others)
    }

    /// Returns the client that goes through the proxy, if there is one.
    pub fn proxied(&self) -> Option<(&Client, &EgressProxy)> {
        self.proxied.as_ref().zip(self.setup.proxy.as_ref())
    }

    /// Returns the addresses of a name; none if it is unknown here, or the lookup takes too long.
    pub async fn lookup(&self, name: &str) -> Vec<IpAddr> {
        let looked_up = tokio::time::timeout(CONNECT_TIMEOUT, self.setup.lookup.lookup(name)).await;
        looked_up.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Returns the same clients through a proxy.
    pub fn through(&self, proxy: Option<EgressProxy>) -> Result<Clients, reqwest::Error> {
        Clients::new(Setup { proxy, ..self.setup.clone() })
    }

    /// Returns clients that also reach the host of `url`, with connections of their own.
    pub fn trusting(&self, url: &Url) -> Result<Arc<Clients>, reqwest::Error> {
        let host = ClientPurpose::Host(url.host_str().unwrap_or_default().into(), port_of(url));
        self.apart(host, |setup| setup.policy = setup.policy.and_host_of(url))
    }

    /// Returns the same clients for requests in clear text, with connections of their own.
    pub fn in_clear_text(&self) -> Result<Arc<Clients>, reqwest::Error> {
        self.apart(ClientPurpose::ClearText, |setup| setup.policy = setup.policy.in_clear_text())
    }

    /// Returns the same clients for servers that these authorities vouch for, with connections of their own. Unless somebody uses such
    /// clients, they are made, with memory of so many bytes that `grant` grants; None if it does not.
    pub fn trusting_authorities(
        &self,
        ca: &CaBundle,
        grant: impl FnOnce(u64) -> Option<Granted>,
    ) -> Result<Option<Arc<Clients>>, reqwest::Error> {
        let hash = *blake3::hash(ca.pem.as_bytes()).as_bytes();
        let mut trusting = self.trusting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clients) = trusting.get(&hash).and_then(Weak::upgrade) {
            return Ok(Some(clients));
        }
        trusting.retain(|_, clients| clients.strong_count() > 0);
        let Some(memory) = grant(self.weight_with(ca)) else { return Ok(None) };
        let setup = Setup { ca: Some(ca.clone()), ..self.setup.clone() };
        let clients = Arc::new(Clients { _memory: Some(memory), ..Clients::new(setup)? });
        trusting.insert(hash, Arc::downgrade(&clients));
        Ok(Some(clients))
    }

    /// Returns the bytes that clients take which trust these authorities: the certificates once for all of them, and once for each,
    /// and as much again for clear text, or for a host that an admin wrote.
    fn weight_with(&self, ca: &CaBundle) -> u64 {
        let clients = 1 + self.by_port.len() + self.proxied.iter().len();
        2 * (ca.pem.len() + clients * (ca.pem.len() + CLIENT_BYTES)) as u64
    }

    fn apart(&self, what: ClientPurpose, change: impl FnOnce(&mut Setup)) -> Result<Arc<Clients>, reqwest::Error> {
        let mut apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clients) = apart.get(&what) {
            return Ok(clients.clone());
        }
        if apart.len() >= APART {
            apart.clear();
        }
        let mut setup = self.setup.clone();
        change(&mut setup);
        let clients = Arc::new(Clients::new(setup)?);
        apart.insert(what, clients.clone());
        Ok(clients)
    }
}

/// Returns a client that connects directly, to addresses that the policy admits at this port.
fn straight(setup: &Setup, port: Option<u16>) -> Result<Client, reqwest::Error> {
    let guard = Guard { policy: setup.policy.clone(), port, lookup: setup.lookup.clone() };
    client(setup).no_proxy().dns_resolver(guard).build()
}

fn client(setup: &Setup) -> ClientBuilder {
    let client = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        // Answers that nobody reads for a while stop no other answer of the same connection.
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .user_agent(concat!("batchjob-operator/", env!("CARGO_PKG_VERSION")));
    match &setup.ca {
        Some(ca) => client.tls_certs_only(ca.certificates.clone()),
        None => client,
    }
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
            // With port 0, the port of the URL is used.
            let addresses: Addrs = Box::new(open.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
