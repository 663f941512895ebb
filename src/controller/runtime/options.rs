//! How the operator is to run, and why it does not.

use std::path::PathBuf;

use crate::lifecycle::Timing;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to look after; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Our own namespace: where the Lease is, and the Secrets of cluster-wide providers.
    pub namespace: String,
    /// Whether to take part in an election first.
    pub leader_election: bool,
    /// This replica's name in the election and in events.
    pub identity: String,
    /// Local disk for transfers; may vanish at any time.
    pub spool_dir: PathBuf,
    /// ConfigMaps that the results of one job may take.
    pub output_config_maps: usize,
    /// Milliseconds between two looks at what a job refers to that failed before anything was paid.
    pub recheck: i64,
    /// Milliseconds between two looks through the lists of providers for batches that nobody follows; 0: never.
    pub orphan_check: i64,
    /// Where probes and metrics are served.
    pub health_addr: std::net::SocketAddr,
    /// How long things may take.
    pub timing: Timing,
}

/// Why the operator does not start, or ends; each says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    #[error("no Kubernetes cluster to work with: {0}; set KUBECONFIG, or run in a Pod with a ServiceAccount")]
    NoCluster(String),
    #[error("the Kubernetes API does not answer: {0}")]
    NoAnswer(String),
    #[error("the {0} CRD is not installed; install it with `kubectl apply -k crds`")]
    NoCrd(&'static str),
    #[error("the ServiceAccount may not {0}; apply the RBAC rules of deploy/kustomize")]
    Forbidden(String),
    #[error("cannot serve probes and metrics on {0}: {1}; choose another --health-addr")]
    Listen(std::net::SocketAddr, std::io::Error),
    #[error("the spool folder {0} cannot be written: {1}; choose another --spool-dir")]
    Spool(PathBuf, std::io::Error),
    #[error("the lease could not be taken part in: {0}")]
    Lease(String),
    #[error("another replica took the lease; this one ends, to start afresh")]
    LostLease,
    #[error("{0}")]
    Other(String),
}

impl Options {
    /// The namespaces to watch; None: all.
    pub(crate) fn scopes(&self) -> Vec<Option<String>> {
        match self.watch_namespaces.as_slice() {
            [] => vec![None],
            names => names.iter().cloned().map(Some).collect(),
        }
    }

    /// Sees what can be judged without a cluster.
    ///
    /// # Errors
    /// When the spool folder cannot be written.
    pub fn check(&self) -> Result<(), StartError> {
        let unfit = |e| StartError::Spool(self.spool_dir.clone(), e);
        tempfile::tempfile_in(&self.spool_dir).map(drop).map_err(unfit)
    }
}
