//! Observation of every outgoing request.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};

/// The kind of server that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A provider.
    Provider,
    /// An object store.
    Store,
}

/// A request whose answer began, or of which none will be waited for.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Kind of server that it was for.
    pub peer: Peer,
    /// Method of the request.
    pub method: Method,
    /// Status of the answer. None: it could not be sent, there was no answer in time, or nobody waits for one any more.
    pub status: Option<StatusCode>,
    /// Time until the head of the answer came, with all that was sent, or until it was given up.
    pub took: Duration,
}

/// An observer of requests, called once for each.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// Called when a request was answered or given up.
    fn ended(&self, exchange: Exchange);
}

/// A request that is under way; its observer is told when this is dropped, however that comes.
pub(super) struct Watch<'a> {
    observer: &'a dyn Observer,
    peer: Peer,
    method: Method,
    status: Option<StatusCode>,
    began: Instant,
}

impl<'a> Watch<'a> {
    pub fn new(observer: &'a dyn Observer, peer: Peer, method: &Method) -> Watch<'a> {
        Watch { observer, peer, method: method.clone(), status: None, began: Instant::now() }
    }

    pub fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let Watch { peer, status, began, .. } = *self;
        self.observer.ended(Exchange { peer, method: self.method.clone(), status, took: began.elapsed() });
    }
}
