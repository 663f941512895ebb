//! The one way out to hosts that a user can name: providers and object stores.
//!
//! A [`Transport`] follows no redirects, uses no proxy except an admin's, and never retries on its own. Every wait and every body is
//! bounded. [`HostPolicy`] alone decides which hosts a request may reach. It judges the addresses of a name when a connection is made,
//! and only addresses that it admits are connected to. An admin's proxy gets the name instead, if all addresses of the name are
//! admitted. Tests put an [`Interceptor`] between the transport and the network.

mod egress;
mod guard;
mod hosts;
mod meter;
mod objects;
mod observer;
mod patience;
mod redirect;
mod retry_after;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::{Method, Request, Response, Url};

pub use egress::EgressProxy;
pub use guard::{CaBundle, Granted, Lookup, SystemLookup};
pub use hosts::{AllowedHost, HostPolicy};
pub use meter::{Meter, ReservedMemory, StoreCall, UsedDisk, measured_here};
pub use objects::{ObjectConnector, is_list};
pub use observer::{Exchange, Observer, Peer};
pub use patience::Patience;
pub use redirect::Redirect;
pub use retry_after::retry_after;

use egress::Route;
use guard::{Clients, Setup};
use observer::Watch;
use patience::{PacedBody, Progress};

/// A client for hosts that a user can name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transport {
    clients: Arc<Clients>,
    tap: Option<Arc<dyn Interceptor>>,
    peer: Peer,
    observer: Option<Arc<dyn Observer>>,
}

/// The reason why a request has no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Nothing reached the other side: no name, no connection, or no TLS.
    #[error("{0}")]
    NotSent(String),
    /// Nothing was sent, because the host may not be reached. The message names the host, the reason, and the flag that would admit it.
    #[error("{0}")]
    NotAllowed(String),
    /// The request may have been received and acted on.
    #[error("{0}")]
    MaybeSent(String),
    /// The request may have been received and acted on, and then the exchange stalled. The message says what was awaited, and how long.
    #[error("{0}")]
    TimedOut(String),
    /// The body of the response is larger than its limit, in bytes.
    #[error("the response is larger than {0} bytes, the limit for it")]
    TooLarge(u64),
}

/// Intercepts every exchange of a transport. It may prevent, delay or answer it. For tests.
#[async_trait]
pub trait Interceptor: std::fmt::Debug + Send + Sync {
    /// Answers `request`. Whatever is to reach the other side is sent through `wire`.
    async fn exchange(&self, request: Request, wire: Wire) -> Result<Response, SendError>;
}

/// The network behind an [`Interceptor`].
#[derive(Clone, Debug)]
pub struct Wire(Route);

impl Wire {
    /// Sends `request` once and waits for the response's head.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub async fn pass(self, request: Request) -> Result<Response, SendError> {
        let response = self.0.client.execute(request).await;
        response.map_err(|error| self.0.with_proxy(send_error(error)))
    }
}

/// Time for DNS, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Transport {
    /// Returns a client that reaches the hosts that `policy` admits.
    ///
    /// # Errors
    /// If the TLS back-end cannot be set up.
    pub fn new(policy: HostPolicy) -> Result<Self, reqwest::Error> {
        Self::with(policy, Arc::new(SystemLookup), None)
    }

    /// Returns a client with a resolver of its own and, optionally, an interceptor.
    ///
    /// # Errors
    /// If the TLS back-end cannot be set up.
    pub fn with(
        policy: HostPolicy,
        lookup: Arc<dyn Lookup>,
        tap: Option<Arc<dyn Interceptor>>,
    ) -> Result<Self, reqwest::Error> {
        let setup = Setup { policy, lookup, proxy: None, ca: None };
        Ok(Transport { clients: Arc::new(Clients::new(setup)?), tap, peer: Peer::Provider, observer: None })
    }

    /// Returns the same client through a proxy, except for hosts in private networks.
    ///
    /// # Errors
    /// If the TLS back-end cannot be set up.
    pub fn through(self, proxy: Option<EgressProxy>) -> Result<Self, reqwest::Error> {
        Ok(Transport { clients: Arc::new(self.clients.through(proxy)?), ..self })
    }

    /// Returns a client that trusts only servers with a certificate of these authorities. It shares no connection with clients that trust
    /// others. Its memory, in bytes, has to be granted, unless it shares that of a client in use; None if it is not.
    ///
    /// # Errors
    /// If one of the certificates is unusable.
    pub fn trusting_authorities(
        &self,
        authorities: &CaBundle,
        grant: impl FnOnce(u64) -> Option<Granted>,
    ) -> Result<Option<Self>, reqwest::Error> {
        let clients = self.clients.trusting_authorities(authorities, grant)?;
        Ok(clients.map(|clients| Transport { clients, ..self.clone() }))
    }

    /// Returns a client that also reaches the host of `url`, at its port, in a private network, for a URL that an admin wrote. It
    /// shares no connection with clients that may not reach that host.
    ///
    /// # Errors
    /// If the TLS back-end cannot be set up.
    pub fn trusting(&self, url: &Url) -> Result<Self, reqwest::Error> {
        Ok(Transport { clients: self.clients.trusting(url)?, ..self.clone() })
    }

    /// Returns the same client with an observer, which is also called for clients that are made of it.
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Transport { observer: Some(observer), ..self }
    }

    /// Returns the same client for webhooks, as its observer sees them.
    pub fn for_webhooks(self) -> Self {
        self.to(Peer::Webhook)
    }

    /// Returns the same client for servers of this kind, as its observer sees them.
    fn to(self, peer: Peer) -> Self {
        Transport { peer, ..self }
    }

    /// Returns a client for `http://` URLs to which a credential is sent. It reaches the private networks that this client reaches, and
    /// public addresses only in networks that an admin allows.
    ///
    /// # Errors
    /// If the TLS back-end cannot be set up.
    pub fn in_clear_text(&self) -> Result<Self, reqwest::Error> {
        Ok(Transport { clients: self.clients.in_clear_text()?, ..self.clone() })
    }

    /// Returns a request to be filled in and given to [`Transport::send`].
    pub fn request(&self, method: Method, url: Url) -> reqwest::RequestBuilder {
        self.clients.of(&url).request(method, url)
    }

    /// Sends `request` once and waits for the response's head, with [`Patience::USUAL`].
    ///
    /// # Errors
    /// [`SendError::NotSent`] and [`SendError::NotAllowed`] guarantee that nothing reached the other side.
    pub async fn send(&self, request: Request) -> Result<Response, SendError> {
        self.send_patiently(request, Patience::USUAL).await
    }

    /// Sends `request` as [`Transport::send`] does, with a patience of its own.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub async fn send_patiently(&self, mut request: Request, patience: Patience) -> Result<Response, SendError> {
        let watch = self.observer.as_deref().map(|observer| Watch::new(observer, self.peer, request.method()));
        self.clients.policy().check(request.url()).map_err(|refused| SendError::NotAllowed(refused.to_string()))?;
        let route =
            self.clients.route(request.url()).await.map_err(|refused| SendError::NotAllowed(refused.to_string()))?;
        let wire = Wire(route);
        let progress = Progress::of(&mut request, patience);
        let answered = match &self.tap {
            Some(tap) => progress.watch(tap.exchange(request, wire)).await,
            None => progress.watch(wire.pass(request)).await,
        };
        if let (Some(watch), Ok(response)) = (watch, &answered) {
            watch.answered(response.status());
        }
        answered
    }
}

/// End of the message about a certificate that is not trusted: the remedy where a private authority can be named.
pub const PRIVATE_AUTHORITY: &str = "; where a private authority signed it, name that in `tls.caBundleRef`";

fn send_error(error: reqwest::Error) -> SendError {
    if let Some(refused) = cause::<hosts::HostRefused>(&error) {
        return SendError::NotAllowed(refused.to_string());
    }
    let (sent, timed_out) = (!(error.is_connect() || error.is_builder()), error.is_timeout());
    let mut message = chain(&error.without_url());
    if message.contains("invalid peer certificate") {
        message += PRIVATE_AUTHORITY;
    }
    match (sent, timed_out) {
        (false, _) => SendError::NotSent(message),
        (true, true) => SendError::TimedOut(message),
        (true, false) => SendError::MaybeSent(message),
    }
}

/// Returns the cause of this type, at any depth.
pub fn cause<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.into_iter().find_map(|e| e.downcast_ref())
}

/// Returns the text of an error with its causes, for people.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Returns the body as it arrives. The stream ends with an error if the body exceeds `limit` bytes or stalls; see [`Patience::USUAL`].
pub fn stream(response: Response, limit: u64) -> impl Stream<Item = Result<Bytes, SendError>> + Send + Sync + 'static {
    stream_patiently(response, limit, Patience::USUAL)
}

/// Returns the body as [`stream`] does, with a patience of its own.
pub fn stream_patiently(
    response: Response,
    limit: u64,
    patience: Patience,
) -> impl Stream<Item = Result<Bytes, SendError>> + Send + Sync + 'static {
    let mut left = limit;
    let body = response.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(send_error)?;
        left = left.checked_sub(chunk.len() as u64).ok_or(SendError::TooLarge(limit))?;
        Ok(chunk)
    });
    PacedBody::new(body, patience)
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    fn transport() -> Transport {
        Transport::new(HostPolicy::allowing(["127.0.0.1".parse().unwrap()])).unwrap()
    }

    #[tokio::test]
    async fn a_refused_connection_is_certain_not_to_be_sent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let transport = transport();
        let request = transport.request(Method::POST, url).body("x").build().unwrap();
        assert!(matches!(transport.send(request).await, Err(SendError::NotSent(_))));
    }

    #[tokio::test]
    async fn a_connection_cut_after_the_request_may_have_been_acted_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            use tokio::io::AsyncReadExt;
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 64]).await;
        });
        let transport = transport();
        let request = transport.request(Method::POST, url).body("x").build().unwrap();
        assert!(matches!(transport.send(request).await, Err(SendError::MaybeSent(_))));
    }

    #[tokio::test]
    async fn a_body_over_its_limit_is_cut_off() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 1024]).await;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n").await;
            let _ = socket.write_all(&[b'x'; 100]).await;
        });
        let transport = transport();
        let response = transport.send(transport.request(Method::GET, url).build().unwrap()).await.unwrap();
        let read: Result<Vec<Bytes>, SendError> = stream(response, 99).try_collect().await;
        assert!(matches!(read, Err(SendError::TooLarge(99))));
    }

    #[derive(Debug, Default)]
    struct Seen(std::sync::Mutex<Vec<(Peer, Method, Option<u16>)>>);

    impl Observer for Seen {
        fn ended(&self, Exchange { peer, method, status, .. }: Exchange) {
            self.0.lock().unwrap().push((peer, method, status.map(|status| status.as_u16())));
        }
    }

    #[tokio::test]
    async fn an_observer_is_told_of_each_request_once_whether_it_is_answered_refused_or_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = socket.read(&mut request).await;
                match request.starts_with(b"GET") {
                    true => {
                        _ = socket
                            .write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                            .await
                    }
                    // No answer.
                    false => _ = tokio::spawn(async move { socket.read(&mut [0; 64]).await }),
                }
            }
        });
        let seen = Arc::new(Seen::default());
        let provider = transport().observed_by(seen.clone());
        let store = ObjectConnector::new(provider.trusting(&url).unwrap()).into_transport();
        for transport in [&provider, &store] {
            let request = transport.request(Method::GET, url.clone()).build().unwrap();
            assert_eq!(transport.send(request).await.unwrap().status(), 503);
        }
        let refused = provider.request(Method::PUT, "http://10.0.0.1/".parse().unwrap()).build().unwrap();
        assert!(matches!(provider.send(refused).await, Err(SendError::NotAllowed(_))));
        let unanswered = provider.request(Method::POST, url).build().unwrap();
        let given_up = tokio::time::timeout(Duration::from_millis(200), provider.send(unanswered)).await;
        assert!(given_up.is_err());
        let with_proxy = [
            (Peer::Provider, Method::GET, Some(503)),
            (Peer::Store, Method::GET, Some(503)),
            (Peer::Provider, Method::PUT, None),
            (Peer::Provider, Method::POST, None),
        ];
        assert_eq!(*seen.0.lock().unwrap(), with_proxy);
    }
}
