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
    /// A webhook that is told of jobs.
    Webhook,
}

/// A request that was answered or given up.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Kind of the server.
    pub peer: Peer,
    /// Method of the request.
    pub method: Method,
    /// Status of the answer. None if the request could not be sent, was not answered in time, or was abandoned.
    pub status: Option<StatusCode>,
    /// Time from the start of the request to the head of its answer, or until the request was given up.
    pub took: Duration,
}

/// An observer of requests, which is called once for each.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// Called when a request was answered or given up.
    fn ended(&self, exchange: Exchange);
}

/// A request that is under way. Its observer is called when this is dropped, also if the future of the request is.
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
