//! Options of the operator, and the errors that keep it from starting.

use std::path::PathBuf;

use crate::lifecycle::Timing;
use crate::telemetry::OtlpEndpoint;

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
    /// Bytes of local disk that it takes at most.
    pub spool_size: u64,
    /// ConfigMaps that the results of one job may take.
    pub output_config_maps: usize,
    /// Milliseconds between two looks at the references of a job that failed before anything was paid.
    pub recheck: i64,
    /// Milliseconds between two searches of the providers' lists for batches that nobody follows; 0 for none.
    pub orphan_check: i64,
    /// Address of the probes and the metrics.
    pub health_addr: std::net::SocketAddr,
    /// Address of the webhooks of providers; None where they are not served.
    pub provider_webhook_addr: Option<std::net::SocketAddr>,
    /// Address of this Pod, at which other replicas reach it.
    pub pod_ip: Option<std::net::IpAddr>,
    /// The collector that takes traces; None for no traces.
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Time limits.
    pub timing: Timing,
}

/// Least size of the spool, in bytes.
const LEAST_SPOOL: u64 = 64 << 20;

/// Reads a size as Kubernetes spells it, such as `2Gi`, in bytes.
///
/// # Errors
/// If the text is no such size, or too small for a spool; the message says what is wanted.
pub fn spool_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => f64::NAN,
    };
    let bytes = number.parse::<f64>().ok().map(|number| number * unit).filter(|bytes| bytes.is_finite());
    let bytes = bytes.ok_or_else(|| format!("'{text}' is no size; write one such as 2Gi"))? as u64;
    if bytes < LEAST_SPOOL {
        return Err(format!("{text} is too little; transfers need {} MiB", LEAST_SPOOL >> 20));
    }
    Ok(bytes)
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
    #[error("cannot serve webhooks of providers on {0}: {1}; choose another --provider-webhook-addr")]
    ListenForWebhooks(std::net::SocketAddr, std::io::Error),
    #[error("the spool folder {0} cannot be written: {1}; choose another --spool-dir")]
    Spool(PathBuf, std::io::Error),
    #[error("traces cannot be sent to {0}: {1}; correct --otlp-endpoint, or the variables OTEL_EXPORTER_OTLP_*")]
    Traces(OtlpEndpoint, String),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_spells_them() {
        for (text, bytes) in [
            ("2Gi", 2 << 30),
            ("1.5Gi", 3 << 29),
            ("500M", 500_000_000),
            ("67108864", 64 << 20),
            ("1Ti", 1 << 40),
            ("100000k", 100_000_000),
        ] {
            assert_eq!(spool_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "Gi", "2GiB", "-1Gi", "1.2.3Gi", "plenty", "1Mi"] {
            assert!(spool_size(text).is_err(), "{text}");
        }
    }
}
