//! Looks at the world, once, for one decision.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::account::Account;
use super::cache::LIFETIME;
use super::journal::{JournalStore, Judged};
use super::missing::{Absent, Missing, is_going, stuck};
use super::providers::Known;
use super::secrets::{secret, value};
use super::session::Session;
use super::snapshot::{self, Seen};
use super::trouble::Trouble;
use super::{Context, trust};
use crate::account;
use crate::api::conditions::{self, reasons};
use crate::api::text::clip;
use crate::api::{BatchJob, FINALIZER, ObjectStoreLocation, Outcome, annotations};
use crate::lifecycle::{self, Answers, Freshness, JobView, MaxFailed, Owner, Plan, Stuck, Timing};
use crate::provider::BatchApi;
use crate::store::{ConfigMaps, Credentials, Folder};

/// One look at the world.
pub(super) struct World {
    /// The clock, read before the object was.
    pub now: i64,
    /// Fresh random bits.
    pub nonce: String,
    /// The object, without what its requests are made of.
    pub job: Arc<BatchJob>,
    /// What decisions need of it.
    pub view: JobView,
    /// The journal and its version.
    pub journal: Option<Judged>,
    /// What steps are done with; none where something is missing.
    pub tools: Option<Arc<Tools>>,
    /// Why the journal could not be read, so that nothing can be decided.
    pub unread: Option<Trouble>,
}

/// What steps are done with.
pub(super) struct Tools {
    read_at: i64,
    spec_hash: String,
    /// Whether the job was pinned to its provider before the provider was read.
    pinned: bool,
    /// The output's folder.
    pub folder: Folder,
    /// The journal.
    pub journals: JournalStore,
    /// The provider.
    pub api: Arc<dyn BatchApi>,
    /// The account that it is used with.
    pub account: Account,
    /// Who runs its calls.
    pub calls: Arc<account::Account>,
    /// Its places for batches.
    pub quota: Arc<account::Quota>,
    /// Keyed fingerprint of its credential.
    pub fingerprint: String,
    /// Changes when a credential does: the account's, or the output's.
    pub credentials: (String, Option<String>),
}

/// Looks at everything that a decision may depend on, as freshly as is `wanted`; None when the object is gone.
/// With `anew`, a failure that cost nothing is no end.
pub(super) async fn observe(
    ctx: &Context,
    session: &Session,
    key: &BatchJob,
    anew: bool,
    wanted: Freshness,
) -> Result<Option<World>, Trouble> {
    let now = ctx.clock.now();
    let seen = snapshot::look(ctx, key, session.seen(), wanted, now).await?;
    session.keep_seen(seen.clone());
    let Some(Seen { job, spec_hash, .. }) = seen else { return Ok(None) };
    let nonce = ctx.clock.nonce()?;
    let mut view = view(ctx, &job, spec_hash);
    view.finished &= !(anew && cost_nothing(&job));
    view.mended = job.status.as_ref().is_some_and(|s| s.outcome.is_some()) && !view.finished;
    if view.mended {
        view.deadline = None;
    }
    let tools = match open(ctx, session, &job, &view, now).await {
        Ok(tools) => {
            knows(&mut view, &tools);
            Some(tools)
        }
        Err(Missing::Unknown(trouble)) => return Err(trouble),
        Err(missing) => {
            // A namespace that is being deleted loses its Secrets first; what we still hold is good enough to settle.
            let kept = session.tools().filter(|_| view.deleting_since.is_some());
            match (&kept, missing) {
                (Some(tools), _) => knows(&mut view, tools),
                (None, Missing::Absent(absent)) if view.deleting_since.is_some() && is_going(ctx, &absent).await? => {
                    let Absent { what, namespace, .. } = absent;
                    let message = format!("namespace '{namespace}' is being deleted, and {what} went before the job");
                    view.stuck = Some(Stuck { reason: reasons::NAMESPACE_TERMINATING, message });
                    view.is_lost = true;
                }
                (None, missing) => view.stuck = Some(missing.stuck()?),
            }
            kept
        }
    };
    let mut unread = None;
    let journal = match &tools {
        Some(tools) => match journal(ctx, session, (tools, &view), wanted, now).await {
            Ok(journal) => journal,
            Err(trouble) => {
                if trouble.is_unfit_store {
                    session.remember(|m| m.unfit_store = Some(trouble.stuck.message.clone()));
                }
                match trouble.may_pass && view.deleting_since.is_none() {
                    true => unread = Some(trouble),
                    false => view.stuck = Some(trouble.stuck),
                }
                None
            }
        },
        None => None,
    };
    Ok(Some(World { now, nonce, job, view, journal, tools, unread }))
}

/// Reads the credentials of a job again that waits for its next try; what failed with others is tried at once, see
/// [`Session::keep_tools`].
pub(super) async fn look_for_credentials(ctx: &Context, session: &Session) {
    if let Some(Seen { job, spec_hash, .. }) = session.seen() {
        let view = view(ctx, &job, spec_hash);
        // Whatever is in the way now is told by the next try.
        let _ = open(ctx, session, &job, &view, ctx.clock.now()).await;
    }
}

/// The journal, as freshly as is `wanted` of a look that begins at `began`.
async fn journal(
    ctx: &Context,
    session: &Session,
    (tools, view): (&Tools, &JobView),
    wanted: Freshness,
    began: i64,
) -> Result<Option<Judged>, Trouble> {
    let known = session.journal();
    // After a write of ours, what is sent next may lie in a segment that was not read yet.
    let is_short = known.as_ref().is_some_and(|(journal, _)| JournalStore::is_short(journal, view.parallelism));
    if snapshot::is_fresh_journal(session.journal_at(), wanted, began) && !is_short {
        return Ok(known);
    }
    let at = ctx.clock.now();
    session.journal_is_old();
    let journal = read_journal(tools, session, view).await?;
    session.journal_is_of(at);
    Ok(journal)
}

fn knows(view: &mut JobView, tools: &Tools) {
    view.fingerprint = tools.fingerprint.clone();
    view.provider = Some(tools.account.view());
}

/// Reads the journal, or sees that it is still the one that this process knows, and remembers it.
async fn read_journal(tools: &Tools, session: &Session, view: &JobView) -> Result<Option<Judged>, Trouble> {
    let known = session.journal();
    let read = tools.journals.read(known.as_ref(), view.parallelism).await;
    session.keep_journal(read.as_ref().ok().cloned().flatten());
    Ok(read?)
}

impl World {
    /// For [`lifecycle::decide`].
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

fn view(ctx: &Context, job: &BatchJob, spec_hash: String) -> JobView {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let spec = &job.spec;
    let (output_uri, stuck) = match lifecycle::output_uri(&spec.output, &namespace, &name, spec.run_id.as_deref()) {
        Ok(uri) => (uri, None),
        Err(message) => (String::new(), Some(Stuck { reason: reasons::INVALID_INPUT, message })),
    };
    JobView {
        owner: Owner { cluster: ctx.cluster.clone(), namespace, name, uid: job.uid().unwrap_or_default() },
        deleting_since: job.metadata.deletion_timestamp.as_ref().map(|t| t.0.as_millisecond()),
        finalizer: job.finalizers().iter().any(|f| f == FINALIZER),
        suspend: spec.suspend,
        spec_hash,
        output_uri,
        lock: job.status.as_ref().and_then(|s| s.lock.clone()),
        shard_limit: match spec.output.config_map {
            Some(_) => lifecycle::SHARD_LIMIT_IN_CONFIG_MAPS,
            None => lifecycle::SHARD_LIMIT,
        },
        seal_at: match spec.output.config_map {
            Some(_) => usize::MAX,
            None => lifecycle::SEAL_AT,
        },
        parallelism: usize::try_from(spec.parallelism).unwrap_or(1),
        backoff_limit_per_batch: spec.backoff_limit_per_batch.unsigned_abs(),
        backoff_limit_per_request: spec.backoff_limit_per_request.unsigned_abs(),
        max_failed: spec.max_failed_requests.as_ref().and_then(max_failed),
        deadline: deadline(job),
        poll_period: i64::from(spec.poll_period_seconds) * 1000,
        deletion_policy: spec.deletion_policy,
        provider_file_policy: spec.provider_file_policy,
        pinned: job.status.as_ref().is_some_and(|s| s.provider.is_some()),
        provider: None,
        submitted: job.status.as_ref().is_some_and(lifecycle::may_be_submitted),
        batches: job.status.iter().flat_map(|s| &s.batches).filter_map(|b| b.provider_id.clone()).collect(),
        remembered: remembered(job),
        finished: is_finished(job),
        mended: false,
        tidy: is_tidy(job),
        answers: job.annotations().get(annotations::RESOLVE).map(|text| Answers::parse(text)).unwrap_or_default(),
        fingerprint: String::new(),
        stuck,
        is_lost: false,
    }
}

fn remembered(job: &BatchJob) -> Option<(String, Plan)> {
    let status = job.status.as_ref()?;
    let (work, requests) = (status.work.as_ref()?, status.requests?.total);
    let (work_hash, input) = (work.hash.clone()?, status.input.clone()?);
    Some((
        work.id.clone(),
        Plan { work_hash, input, requests, too_large: Default::default(), left_out: Default::default() },
    ))
}

/// The schema lets nothing else through than a number or a percentage.
fn max_failed(value: &IntOrString) -> Option<MaxFailed> {
    match value {
        IntOrString::Int(count) => Some(MaxFailed::Count(i64::from(*count))),
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok().map(MaxFailed::Percent),
    }
}

fn deadline(job: &BatchJob) -> Option<i64> {
    let start = job.status.as_ref()?.start_time.as_ref()?.0.as_millisecond();
    Some(start + job.spec.active_deadline_seconds? * 1000)
}

/// Whether status tells of a failure before anything was paid.
pub(super) fn cost_nothing(job: &BatchJob) -> bool {
    job.status.as_ref().is_some_and(|s| s.outcome == Some(Outcome::Failed) && s.lock.is_none())
}

/// Whether status says how it ended and nothing about the object asks for another look: a failure that cost nothing is
/// judged again when the spec or the annotation changes; what else it is judged again for, `references` tells.
pub(super) fn is_finished(job: &BatchJob) -> bool {
    let Some(status) = &job.status else { return false };
    if status.outcome.is_none() {
        return false;
    }
    let changed = status.observed_generation != job.metadata.generation
        || status.last_handled_reconcile_at != reconcile_requested_at(job);
    !(cost_nothing(job) && changed)
}

/// What asks for another look, as far as status has room for it.
pub(super) fn reconcile_requested_at(job: &BatchJob) -> Option<String> {
    job.annotations().get(annotations::RECONCILE_REQUESTED_AT).map(|asked| clip(asked.clone(), 253))
}

/// Whether nothing is left to do for a finished job.
pub(super) fn is_tidy(job: &BatchJob) -> bool {
    let conditions = job.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    conditions
        .iter()
        .any(|c| c.type_ == conditions::RECONCILING && c.status == "False" && c.reason == reasons::FINISHED)
}

async fn open(
    ctx: &Context,
    session: &Session,
    job: &BatchJob,
    view: &JobView,
    now: i64,
) -> Result<Arc<Tools>, Missing> {
    if let Some(stuck) = &view.stuck {
        return Err(Missing::Stuck(stuck.clone()));
    }
    let (spec_hash, pinned) = (view.spec_hash.clone(), view.pinned);
    // A failure that another credential may mend makes those that were read before it too old.
    let since = session.distrusts().max(now - LIFETIME + 1);
    let earlier = session.tools().filter(|t| t.spec_hash == spec_hash && t.pinned == pinned);
    if let Some(tools) = earlier.as_ref().filter(|t| t.read_at >= since) {
        return Ok(tools.clone());
    }
    let namespace = job.namespace().unwrap_or_default();
    let (folder, secret_version) = output_folder(ctx, job, view, &namespace, since).await?;
    let seen = earlier.map(|tools| tools.account.seen());
    let known = match &seen {
        Some(seen) => Known::Since(seen),
        // It may be going since before it was pinned, and let go by somebody who did not see the pin.
        None if pinned => Known::Not,
        None => Known::ByWatch,
    };
    let account = super::account::account(ctx, &job.spec.provider_ref, &namespace, known, since).await?;
    let fingerprint = account.fingerprint();
    let key = account.key(&fingerprint);
    let (calls, quota) = (ctx.accounts.get(&key), ctx.accounts.quota(&key.provider));
    quota.set_limit(account.spec.limits.max_batches_in_flight.and_then(|limit| usize::try_from(limit).ok()));
    let api = match account.client(job.spec.provider_ref.kind) {
        Ok(api) => Arc::new(api.at_pace(calls.pace().clone())),
        Err(e) => return stuck(reasons::PROVIDER_NOT_FOUND, format!("{}: {e}", account.name)),
    };
    let journals = JournalStore::new(&folder, view.seal_at);
    let credentials = (fingerprint.clone(), secret_version);
    let tools = Arc::new(Tools {
        read_at: now,
        spec_hash,
        pinned,
        folder,
        journals,
        api,
        account,
        calls,
        quota,
        fingerprint,
        credentials,
    });
    session.keep_tools(tools.clone());
    Ok(tools)
}

/// The output's folder, and the version of the Secret that opens it.
async fn output_folder(
    ctx: &Context,
    job: &BatchJob,
    view: &JobView,
    namespace: &str,
    since: i64,
) -> Result<(Folder, Option<String>), Missing> {
    let output = &job.spec.output;
    if let Some(location) = &output.object_store {
        let (credentials, version) =
            storage_credentials(ctx, namespace, &location.secret_ref.name, "spec.output", since).await?;
        let transport = trust::transport(ctx, location.tls.as_ref(), namespace, "`spec.output`").await?;
        return Folder::open(location, &view.output_uri, &credentials, &transport)
            .map(|folder| (folder.keeping(ctx.copies.of(namespace)).seeing(ctx.checks.clone()), version))
            .or_else(|e| stuck(reasons::INVALID_INPUT, format!("`spec.output`: {e}")));
    }
    let name = output.config_map.as_ref().map(|map| map.name.as_str()).unwrap_or_default();
    let maps = ConfigMaps::new(ctx.client.clone(), namespace, name, &job.name_any(), ctx.output_config_maps);
    Ok((Folder::of_config_maps(maps, &view.output_uri), None))
}

/// Reads what opens a bucket from a Secret, and the Secret's version; for inputs and outputs alike.
async fn storage_credentials(
    ctx: &Context,
    namespace: &str,
    name: &str,
    user: &str,
    since: i64,
) -> Result<(Credentials, Option<String>), Missing> {
    let user = format!("`{user}`");
    let secret = secret(ctx, namespace, name, &user, since).await?;
    let credentials = Credentials {
        access_key_id: value(&secret, "aws_access_key_id", name, &user)?,
        secret_access_key: value(&secret, "aws_secret_access_key", name, &user)?,
        session_token: value(&secret, "aws_session_token", name, &user).ok(),
    };
    Ok((credentials, secret.resource_version()))
}

/// Opens the folder that the input's URI points into; with it, what the URI names there.
pub(super) async fn input_folder(
    ctx: &Context,
    namespace: &str,
    location: &ObjectStoreLocation,
) -> Result<(Folder, String), Trouble> {
    let since = ctx.clock.now() - LIFETIME;
    let (credentials, _) = storage_credentials(ctx, namespace, &location.secret_ref.name, "spec.input", since).await?;
    let transport = trust::transport(ctx, location.tls.as_ref(), namespace, "`spec.input`").await?;
    Ok(Folder::open(location, &location.uri, &credentials, &transport)?.split_last())
}
