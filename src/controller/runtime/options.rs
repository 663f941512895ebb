//! Options of the operator, and the errors that keep it from starting.

use std::path::PathBuf;

use crate::lifecycle::Timing;

/// Options of the operator.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to watch; empty for all.
    pub watch_namespaces: Vec<String>,
    /// The operator's own namespace, which has the Lease and the Secrets of cluster-wide providers.
    pub namespace: String,
    /// Takes part in a leader election first.
    pub leader_election: bool,
    /// This replica's name in the election and in events.
    pub identity: String,
    /// Folder on local disk for transfers. Its content may vanish at any time.
    pub spool_dir: PathBuf,
    /// ConfigMaps that the results of one job may take.
    pub output_config_maps: usize,
    /// Milliseconds between two looks at the references of a job that failed before anything was paid.
    pub recheck: i64,
    /// Milliseconds between two searches of the providers' lists for batches that nobody follows; 0 for none.
    pub orphan_check: i64,
    /// Address of the probes and the metrics.
    pub health_addr: std::net::SocketAddr,
    /// Time limits.
    pub timing: Timing,
}

/// The reason why the operator does not start, or ends. Each message says what to do.
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
    /// Returns the namespaces to watch; None stands for all.
    pub(crate) fn scopes(&self) -> Vec<Option<String>> {
        match self.watch_namespaces.as_slice() {
            [] => vec![None],
            names => names.iter().cloned().map(Some).collect(),
        }
    }

    /// Checks all that can be checked without a cluster.
    ///
    /// # Errors
    /// When the spool folder cannot be written.
    pub fn check(&self) -> Result<(), StartError> {
        let unfit = |e| StartError::Spool(self.spool_dir.clone(), e);
        tempfile::tempfile_in(&self.spool_dir).map(drop).map_err(unfit)
    }
}
