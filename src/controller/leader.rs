//! One replica works at a time. The lease saves work; no promise depends on it.

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::text::clip;

/// Seconds that a lease lasts without renewal, and before its end that it is renewed.
const DURATION: u64 = 15;
const GRACE: u64 = 5;

/// This replica's part in the election.
pub struct Leadership {
    leads: watch::Receiver<bool>,
    manager: JoinHandle<kube_lease_manager::Result<LeaseManager>>,
}

/// Takes part in the election for the Lease `batchjob-operator` in `namespace`.
///
/// # Errors
/// When the Lease can neither be read nor created.
pub async fn lead(client: Client, namespace: &str, identity: &str) -> kube_lease_manager::Result<Leadership> {
    let manager = LeaseManagerBuilder::new(client, "batchjob-operator")
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(DURATION)
        .with_grace(GRACE)
        // One name for all would let two replicas apply over each other without a conflict.
        .with_field_manager(clip(format!("{}-{identity}", crate::api::FIELD_MANAGER), 128))
        .build()
        .await?;
    let (leads, manager) = manager.watch().await;
    Ok(Leadership { leads, manager })
}

impl Leadership {
    /// Returns true once this replica leads, false if the election ended without.
    pub async fn won(&mut self) -> bool {
        self.leads.wait_for(|leads| *leads).await.is_ok()
    }

    /// Returns once this replica no longer leads, as far as it knows.
    pub async fn lost(&mut self) {
        // An error means that the manager ended: nobody renews the lease any more.
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    pub async fn release(self) {
        drop(self.leads);
        let _ = self.manager.await;
    }
}
