//! Leader election: one replica works at a time. The lease saves work; no promise depends on it.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::FIELD_MANAGER;

/// Name of the Lease.
pub(crate) const NAME: &str = "batchjob-operator";
/// Time for which a lease lasts that is not renewed, by the clock of the replica that waits for its end: clocks need not agree.
const DURATION: Duration = Duration::from_secs(12);
/// Time between two looks at the lease, each of which renews one's own.
const PAUSE: Duration = Duration::from_millis(1_500);
/// Time-out of one look.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Annotation of the Lease with the address at which the leader takes webhooks.
const WEBHOOKS: &str = "llmbatch.dev/webhooks";

/// Addresses of webhooks: a replica on standby passes those that reach it on to the leader.
pub(crate) struct WebhookAddresses {
    /// This replica's; None if others cannot reach it.
    pub own: Option<SocketAddr>,
    /// The leader's, if it is another replica.
    pub leaders: watch::Sender<Option<SocketAddr>>,
}

impl Default for WebhookAddresses {
    fn default() -> Self {
        WebhookAddresses { own: None, leaders: watch::Sender::new(None) }
    }
}

/// This replica's part in the election.
pub struct Leadership {
    leads: watch::Receiver<bool>,
    stop: CancellationToken,
    candidate: JoinHandle<()>,
}

/// Takes part in the election for the Lease `batchjob-operator` in `namespace`. A leader leads until it sees that another
/// replica does: while the API server is unavailable, no replica can take over, and none could do any work.
///
/// # Errors
/// When the Lease can neither be read nor written.
pub async fn lead(client: Client, namespace: &str, identity: &str) -> kube::Result<Leadership> {
    lead_and_tell(client, namespace, identity, WebhookAddresses::default()).await
}

/// Does the same as [`lead`], and exchanges addresses of webhooks with the other replicas.
pub(crate) async fn lead_and_tell(
    client: Client,
    namespace: &str,
    identity: &str,
    webhooks: WebhookAddresses,
) -> kube::Result<Leadership> {
    let leases = Api::namespaced(client, namespace);
    let mut candidate = Candidate { leases, identity: identity.into(), unchanged: None, webhooks };
    let (sender, leads) = watch::channel(candidate.look().await?);
    let stop = CancellationToken::new();
    let candidate = tokio::spawn(candidate.stand(sender, stop.clone()));
    Ok(Leadership { leads, stop, candidate })
}

impl Leadership {
    /// Waits until this replica leads, and returns true; returns false if the election ended before.
    pub async fn won(&mut self) -> bool {
        self.leads.wait_for(|leads| *leads).await.is_ok()
    }

    /// Waits until this replica no longer leads, as far as it knows.
    pub async fn lost(&mut self) {
        // An error means that the lease is no longer renewed.
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Releases the lease, so that another replica need not wait for its end.
    pub async fn release(self) {
        self.stop.cancel();
        let _ = self.candidate.await;
    }
}

struct Candidate {
    leases: Api<Lease>,
    identity: String,
    /// The lease of another replica, and the time since which each look found it unchanged.
    unchanged: Option<(Option<String>, Instant)>,
    webhooks: WebhookAddresses,
}

impl Candidate {
    async fn stand(mut self, leads: watch::Sender<bool>, stop: CancellationToken) {
        let mut away = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = leads.closed() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
            let looked = tokio::select! {
                () = stop.cancelled() => break,
                looked = tokio::time::timeout(TIMEOUT, self.look()) => looked,
            };
            let why = match looked {
                Ok(Ok(now)) => {
                    leads.send_if_modified(|leads| std::mem::replace(leads, now) != now);
                    away = false;
                    continue;
                }
                Ok(Err(error)) => crate::transport::chain(&error),
                Err(late) => late.to_string(),
            };
            // The lease may have changed while it could not be read.
            self.unchanged = None;
            if !std::mem::replace(&mut away, true) {
                warn!(why, "the lease can neither be read nor written now");
            }
        }
        if *leads.borrow()
            && let Err(error) = self.give_back().await
        {
            warn!(%error, "the lease is not given back; another replica waits for its end");
        }
    }

    /// Reads the lease, and takes or renews it if this replica may. Returns true if this replica leads.
    async fn look(&mut self) -> kube::Result<bool> {
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            return won(self.leases.create(&params(), &self.taken(named())).await);
        };
        let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).filter(|h| !h.is_empty());
        let ours = holder == Some(&self.identity);
        let told = lease.annotations().get(WEBHOOKS).filter(|_| holder.is_some() && !ours);
        let leaders = told.and_then(|address| address.parse().ok());
        self.webhooks.leaders.send_if_modified(|known| std::mem::replace(known, leaders) != leaders);
        if holder.is_some() && !ours && !self.is_over(&lease) {
            return Ok(false);
        }
        let written = won(self.leases.replace(NAME, &params(), &self.taken(lease)).await)?;
        Ok(written || ours)
    }

    fn is_over(&mut self, lease: &Lease) -> bool {
        let version = lease.resource_version();
        match &self.unchanged {
            Some((seen, since)) if *seen == version => since.elapsed() >= DURATION,
            _ => {
                self.unchanged = Some((version, Instant::now()));
                false
            }
        }
    }

    fn taken(&self, mut lease: Lease) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        lease.metadata.managed_fields = None;
        match self.webhooks.own {
            Some(own) => _ = lease.annotations_mut().insert(WEBHOOKS.into(), own.to_string()),
            None => _ = lease.annotations_mut().remove(WEBHOOKS),
        }
        lease
    }

    async fn give_back(&self) -> kube::Result<()> {
        let mut lease = self.leases.get(NAME).await?;
        let transitions = match &lease.spec {
            Some(spec) if spec.holder_identity.as_ref() == Some(&self.identity) => spec.lease_transitions,
            _ => return Ok(()),
        };
        lease.spec = Some(LeaseSpec { lease_transitions: transitions, ..Default::default() });
        lease.metadata.managed_fields = None;
        won(self.leases.replace(NAME, &params(), &lease).await).map(drop)
    }
}

fn named() -> Lease {
    let mut lease = Lease::default();
    lease.metadata.name = Some(NAME.into());
    lease
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() }
}

/// Returns true if a write won: of two at a time, one does.
fn won(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(e) => Err(e),
    }
}
