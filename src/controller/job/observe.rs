//! Takes the snapshot for one decision.

use std::sync::Arc;

use super::cached_job::{self, CachedJob};
use super::clients::{Clients, open};
use super::job_state::JobState;
use super::journal::{JournalStore, VersionedJournal};
use super::view::view;
use crate::api::BatchJob;
use crate::api::conditions::reasons;
use crate::controller::Context;
use crate::controller::provider::account::watched_subscriptions;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::missing::{Absent, Missing, is_going};
use crate::lifecycle::{self, Blocked, Freshness, InputWait, JobView, Subscription, Timing, applying, cost_nothing};
use crate::store::{Reservation, reserve};

/// Copies of a journal that a visit holds, as a multiple of its weight: as read, as written, and its text.
const VERSIONS: usize = 3;

/// A snapshot of everything that a decision depends on.
pub(crate) struct Snapshot {
    /// The clock, read before the object was.
    pub now: i64,
    /// Fresh random bits.
    pub nonce: String,
    /// The object, without the content of its requests.
    pub job: Arc<BatchJob>,
    /// The view of the object for decisions.
    pub view: JobView,
    /// The journal and its version.
    pub journal: Option<VersionedJournal>,
    /// The clients for steps; None if something is missing.
    pub clients: Option<Arc<Clients>>,
    /// The error that kept the journal from being read, so that nothing can be decided.
    pub unread: Option<StepError>,
    /// The memory for the journal and its copies.
    _held: Reservation,
}

/// Looks at everything that a decision may depend on, as fresh as `wanted` requires; None if the object is gone. With `anew`, a
/// failure that cost nothing does not end the job.
pub(crate) async fn observe(
    ctx: &Context,
    job_state: &JobState,
    key: &BatchJob,
    anew: bool,
    wanted: Freshness,
) -> Result<Option<Snapshot>, StepError> {
    let now = ctx.clock.now();
    job_state.clock_runs_since(ctx.clock_watch.since(now));
    let seen = cached_job::look(ctx, key, job_state.seen(), wanted, now).await?;
    job_state.keep_seen(seen.clone());
    let Some(CachedJob { job, spec_hash, .. }) = seen else { return Ok(None) };
    let nonce = ctx.clock.nonce()?;
    let mut view = view(ctx, &job, spec_hash);
    view.finished &= !(anew && cost_nothing(&job));
    view.reevaluated = job.status.as_ref().is_some_and(|s| s.outcome.is_some()) && !view.finished;
    if view.reevaluated {
        view.deadline = None;
        view.input_wait.iter_mut().for_each(InputWait::start_anew);
    }
    let clients = match open(ctx, job_state, &job, &view, now).await {
        Ok(clients) => {
            knows(ctx, &mut view, &clients);
            Some(clients)
        }
        Err(missing) => {
            let missing = decidable(missing, view.deleting_since.is_some())?;
            // The webhooks are needed even if the provider cannot be used, for example without its Secret.
            let told = watched_subscriptions(ctx, &job.spec.provider_ref, &view.owner.namespace).await;
            subscribe(&mut view, &told);
            // A namespace that is being deleted loses its Secrets first; the clients that are still open are good enough to
            // settle.
            let kept = job_state.clients().filter(|_| view.deleting_since.is_some());
            match (&kept, missing) {
                (Some(clients), _) => knows(ctx, &mut view, clients),
                (None, Missing::Absent(absent)) if view.deleting_since.is_some() && is_going(ctx, &absent).await? => {
                    let Absent { what, namespace, .. } = absent;
                    let message = format!("namespace '{namespace}' is being deleted, and {what} went before the job");
                    view.blocked = Some(Blocked { reason: reasons::NAMESPACE_TERMINATING, message });
                    view.is_lost = true;
                }
                (None, Missing::Unknown(error)) => {
                    (view.store_is_away, view.blocked) = (error.retryable, Some(error.blocked));
                }
                (None, missing) => view.blocked = Some(missing.blocked()?),
            }
            kept
        }
    };
    let mut unread = None;
    let journal = match &clients {
        Some(clients) => match journal(ctx, job_state, (clients, &view), wanted, now).await {
            Ok(journal) => journal,
            Err(error) => {
                if error.is_unfit_store {
                    job_state.remember(|m| m.unfit_store = Some(error.blocked.message.clone()));
                }
                match error.retryable && view.deleting_since.is_none() {
                    true => unread = Some(error),
                    false => (view.store_is_away, view.blocked) = (error.retryable, Some(error.blocked)),
                }
                None
            }
        },
        None => None,
    };
    let weight = journal.as_ref().map_or(0, |(journal, _)| journal.weight());
    let _held = reserve(VERSIONS * weight).await;
    Ok(Some(Snapshot { now, nonce, job, view, journal, clients, unread, _held }))
}

/// Returns what is missing, if a decision can be made without it. A deletion is decided whatever cannot be read now, because it has a
/// deadline; only the API server has to answer.
///
/// # Errors
/// The error that keeps it from being known what is missing.
fn decidable(missing: Missing, is_deleting: bool) -> Result<Missing, StepError> {
    match missing {
        Missing::Unknown(error) if !is_deleting || error.api_server_unavailable => Err(error),
        missing => Ok(missing),
    }
}

/// Reads the credentials of a job again that waits for its next try. Calls that failed with others are tried at once, see
/// [`JobState::keep_clients`].
pub(crate) async fn look_for_credentials(ctx: &Context, job_state: &JobState) {
    if let Some(CachedJob { job, spec_hash, .. }) = job_state.seen() {
        let view = view(ctx, &job, spec_hash);
        // The next try reports any error.
        let _ = open(ctx, job_state, &job, &view, ctx.clock.now()).await;
    }
}

/// Returns the journal, as fresh as `wanted` requires of a look that begins at `began`.
async fn journal(
    ctx: &Context,
    job_state: &JobState,
    (clients, view): (&Clients, &JobView),
    wanted: Freshness,
    began: i64,
) -> Result<Option<VersionedJournal>, StepError> {
    let known = job_state.journal();
    // After a write of ours, the next shards to send may be in a segment that was not read yet.
    let is_short = known.as_ref().is_some_and(|(journal, _)| JournalStore::is_short(journal, view.parallelism));
    if cached_job::is_fresh_journal(job_state.journal_at(), wanted, began) && !is_short {
        return Ok(known);
    }
    let at = ctx.clock.now();
    job_state.journal_is_old();
    let journal = read_journal(clients, job_state, view).await?;
    job_state.journal_is_of(at);
    Ok(journal)
}

fn knows(ctx: &Context, view: &mut JobView, clients: &Clients) {
    view.fingerprint = clients.fingerprint.clone();
    let mut provider = clients.account.view();
    provider.models = ctx.experience.of(&provider.pin.uid);
    view.provider = Some(provider);
    subscribe(view, &clients.account.subscriptions);
}

/// Adds the webhooks of the provider to those that are told of the job.
fn subscribe(view: &mut JobView, of_provider: &[Subscription]) {
    let all = applying(&view.subscriptions, of_provider, |one| &one.name).map(|(one, _)| one.clone());
    view.subscriptions = all.collect();
}

/// Reads the journal, or confirms that the known one is current, and keeps it in the state of the job.
async fn read_journal(
    clients: &Clients,
    job_state: &JobState,
    view: &JobView,
) -> Result<Option<VersionedJournal>, StepError> {
    let known = job_state.journal();
    let read = clients.journals.read(known.as_ref(), view.parallelism).await;
    job_state.keep_journal(read.as_ref().ok().cloned().flatten());
    Ok(read?)
}

impl Snapshot {
    /// Returns the input of [`lifecycle::decide`].
    pub fn observed<'a>(&'a self, timing: &'a Timing, memory: &'a lifecycle::Memory) -> lifecycle::Observed<'a> {
        lifecycle::Observed {
            now: self.now,
            nonce: &self.nonce,
            timing,
            job: &self.view,
            journal: self.journal.as_ref().map(|(j, _)| &**j),
            memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_now_does_not_keep_a_deletion_from_its_deadline() {
        let unknown = |api_server_unavailable| {
            let error = StepError::passing(reasons::CA_BUNDLE_NOT_FOUND, "there is no memory for the certificates");
            Missing::Unknown(StepError { api_server_unavailable, ..error })
        };
        for (is_deleting, api_server_unavailable, is_decided) in
            [(true, false, true), (true, true, false), (false, false, false), (false, true, false)]
        {
            let decidable = decidable(unknown(api_server_unavailable), is_deleting);
            assert_eq!(decidable.is_ok(), is_decided, "{is_deleting} {api_server_unavailable}");
        }
    }
}
