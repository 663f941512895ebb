//! The egress proxy of an admin, and the choice of the hosts that are reached through it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use reqwest::{Client, Url};
use url::Host;

use super::SendError;
use super::guard::Clients;
use super::hosts::{HostRefused, port_of};

/// An HTTP proxy that an admin named. [`Display`](fmt::Display) and [`Debug`](fmt::Debug) leave out its user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct EgressProxy(Arc<Url>);

impl FromStr for EgressProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| format!("{e}; write http://HOST:PORT"))?;
        let is_plain = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        match (url.scheme(), url.host()) {
            ("http" | "https", Some(_)) if is_plain => Ok(EgressProxy(Arc::new(url))),
            _ => Err("it is no URL of an HTTP proxy; write http://HOST:PORT".into()),
        }
    }
}

impl EgressProxy {
    pub(super) fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.0.port_or_known_default().unwrap_or_default();
        write!(f, "{}://{}:{port}", self.0.scheme(), self.0.host_str().unwrap_or_default())
    }
}

impl fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The client for one request.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub client: Client,
    proxy: Option<EgressProxy>,
}

impl Route {
    /// Returns the error of a request on this route. If nothing was sent, the message names the proxy, which may be the cause.
    pub fn with_proxy(&self, error: SendError) -> SendError {
        match (error, &self.proxy) {
            (SendError::NotSent(why), Some(proxy)) => SendError::NotSent(format!("through the proxy {proxy}: {why}")),
            (error, _) => error,
        }
    }
}

impl Clients {
    /// Returns the client for `url`: through the proxy, if there is one, unless the host is in a private network. The proxy gets the
    /// host's name, because rules of proxies are about names, and resolves it again. So every address that the name has here must be
    /// admitted. A name that cannot be resolved here is left to the proxy, except for requests in clear text.
    ///
    /// # Errors
    /// If the host may not be reached.
    pub async fn route(&self, url: &Url) -> Result<Route, HostRefused> {
        let straight = || Route { client: self.of(url).clone(), proxy: None };
        let Some((client, proxy)) = self.proxied() else { return Ok(straight()) };
        let (host, port) = (url.host_str().unwrap_or_default(), port_of(url));
        let ips = match url.host() {
            Some(Host::Ipv4(ip)) => vec![ip.into()],
            Some(Host::Ipv6(ip)) => vec![ip.into()],
            Some(Host::Domain(name)) => self.lookup(name).await,
            None => vec![],
        };
        match self.policy().is_inside(host, port, &ips)? {
            true => Ok(straight()),
            false => Ok(Route { client: client.clone(), proxy: Some(proxy.clone()) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_shown_without_its_password() {
        let proxy: EgressProxy = "http://user:s3cret@proxy.example:3128/".parse().unwrap();
        assert_eq!(format!("{proxy} {proxy:?}"), "http://proxy.example:3128 http://proxy.example:3128");
        assert_eq!("https://[fd00::1]".parse::<EgressProxy>().unwrap().to_string(), "https://[fd00::1]:443");
        for odd in ["proxy.example:3128", "socks5://u:s3cret@p:1", "http://p/path?s3cret", "http://", "3128"] {
            let error = odd.parse::<EgressProxy>().unwrap_err();
            assert!(error.contains("http://HOST:PORT") && !error.contains("s3cret"), "{odd}: {error}");
        }
    }
}
