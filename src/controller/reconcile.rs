//! One job, from where it is to where it has to wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use tracing::{debug, info, warn};

use super::Context;
use super::act::{Act, Flow};
use super::backoff::Failed;
use super::observe::{World, cost_nothing, is_finished, is_tidy, look_for_credentials, observe};
use super::record::{record, record_seen, record_trouble};
use super::references;
use super::session::{References, Session};
use super::snapshot;
use super::trouble::Trouble;
use super::turns::Turn;
use crate::account::{Full, Submission};
use crate::api::conditions::reasons;
use crate::api::text::clock_time;
use crate::api::{BatchJob, FINALIZER, annotations};
use crate::lifecycle::{Freshness, Memory, Owner, Place, Shard, Step, Stuck, Task, decide};

/// Steps of one visit; then others get their turn.
const STEPS_A_VISIT: usize = 64;
/// Where nothing is due, the world is looked at again all the same.
const RESYNC: Duration = Duration::from_secs(600);
/// What seemed gone is looked for once more: an answer can be older than the watch, which then has no more to say. Where it
/// is really gone, this costs nothing.
const GONE: Duration = Duration::from_secs(10);
/// Milliseconds between two looks at the credentials of a job that waits for a person: Secrets are polled, not watched.
const MENDED: i64 = 15_000;
/// The pause before another try to say of a job that ended that a change was seen.
const NOT_SEEN: Duration = Duration::from_secs(2);

/// Never fails: whatever goes wrong is remembered, shown where it lasts, and tried again later.
pub(super) async fn reconcile(job: Arc<BatchJob>, ctx: Arc<Context>) -> Result<Action, std::convert::Infallible> {
    let Some(turn) = Turn::of(&ctx, &job).await else { return Ok(Action::await_change()) };
    // On the heap from here on: of thousands that wait for their turn each is small.
    Box::pin(look_after(job, ctx, turn)).await
}

/// A last visit while we stop, when nobody takes turns any more.
pub(super) async fn finish(job: Arc<BatchJob>, ctx: Arc<Context>) {
    let Ok(_) = Box::pin(look_after(job, ctx, Turn::last())).await;
}

async fn look_after(job: Arc<BatchJob>, ctx: Arc<Context>, turn: Turn) -> Result<Action, std::convert::Infallible> {
    let mut turn = Some(turn);
    let uid = job.uid().unwrap_or_default();
    if job.metadata.deletion_timestamp.is_some() && !job.finalizers().iter().any(|f| f == FINALIZER) {
        // Others let it go, and nobody tells of that.
        ctx.end_session(&uid);
        return Ok(Action::await_change());
    }
    let mut anew = false;
    if job.metadata.deletion_timestamp.is_none() && is_finished(&job) && is_tidy(&job) {
        ctx.end_session(&uid);
        if !cost_nothing(&job) {
            return Ok(match record_seen(&ctx, &job).await {
                Ok(true) => Action::await_change(),
                Ok(false) | Err(_) => Action::requeue(NOT_SEEN),
            });
        }
        anew = refers_to_other(&ctx, &job).await;
        if !anew {
            return Ok(requeue(Some(recheck_at(&ctx)), ctx.clock.now()));
        }
    }
    let session = ctx.sessions.get(&uid, &job);
    session.asked(asked(&job), ctx.clock.now());
    if matches!(session.references(), References::NotLooked) && !is_sent(&job) {
        let mark = mark(&ctx, &session, &job).await;
        session.refers(mark.map_or(References::Unknown, References::Mark));
    }
    for _ in 0..STEPS_A_VISIT {
        if turn.as_ref().is_none_or(Turn::is_over) {
            drop(turn.take());
            turn = Turn::of(&ctx, &job).await;
        }
        let Some(held) = &turn else { return Ok(Action::await_change()) };
        let now = ctx.clock.now();
        if now < session.backoff(None).until && session.may_be_mended() {
            look_for_credentials(&ctx, &session).await;
        }
        let until = session.backoff(None).until;
        if now < until {
            return Ok(requeue(Some(soon_if_mended(&session, until, now)), now));
        }
        let mut doing = "Observe";
        let failures = session.backoff(None).failures;
        match held.keep(failures, visit(&ctx, &session, &job, anew, &mut doing)).await {
            Ok(Flow::Again) => anew = false,
            Ok(Flow::Wait(until)) => return Ok(requeue(until, ctx.clock.now())),
            Ok(Flow::Gone) => {
                ctx.end_session(&uid);
                return Ok(Action::requeue(GONE));
            }
            Err(trouble) => {
                let took = ctx.clock.now().saturating_sub(now);
                failed(&ctx, &session, &job, None, Failed { call: doing, trouble, took });
            }
        }
    }
    Ok(Action::requeue(Duration::from_millis(50)))
}

fn failed(ctx: &Context, session: &Session, job: &BatchJob, what: Option<Task>, failed: Failed) {
    let (namespace, name) = (job.namespace(), job.name_any());
    let (step, trouble) = (failed.call, &failed.trouble);
    warn!(
        namespace,
        name,
        step,
        reason = trouble.category(),
        why = trouble.stuck.message,
        "a step failed and is tried again"
    );
    ctx.failed(session, what, failed);
}

/// What a person may have mended is looked at before the next try is due.
fn soon_if_mended(session: &Session, until: i64, now: i64) -> i64 {
    if session.may_be_mended() { until.min(now + MENDED) } else { until }
}

/// Looks at what a job refers to that failed before anything was paid: is it no longer what it was then?
async fn refers_to_other(ctx: &Context, job: &BatchJob) -> bool {
    ctx.metrics.step("Recheck");
    let Some(seen) = job.status.as_ref().and_then(|s| s.observed_references.as_ref()) else { return false };
    match references::mark(ctx, job).await {
        Ok(mark) => mark != *seen,
        Err(trouble) => {
            debug!(namespace = job.namespace(), name = job.name_any(), why = trouble.stuck.message, "cannot look now");
            false
        }
    }
}

/// The mark of what the job refers to, by a look at the object that its first visit goes on with.
async fn mark(ctx: &Context, session: &Session, job: &BatchJob) -> Result<String, Trouble> {
    let seen = snapshot::look(ctx, job, session.seen(), Freshness::Any, ctx.clock.now()).await?;
    session.keep_seen(seen.clone());
    match seen {
        Some(seen) => references::mark(ctx, &seen.job).await,
        None => Err(Trouble::passing(reasons::PENDING, "the object is gone")),
    }
}

/// From before anything was read, so that no change goes unnoticed; else as late as now.
async fn references_of(ctx: &Context, session: &Session, job: &BatchJob) -> Result<String, Trouble> {
    match session.references() {
        References::Mark(mark) => Ok(mark),
        References::NotLooked | References::Unknown => references::mark(ctx, job).await,
    }
}

fn recheck_at(ctx: &Context) -> i64 {
    ctx.clock.now() + ctx.recheck + ctx.recheck * i64::from(ctx.clock.jitter()) / 1024
}

fn is_sent(job: &BatchJob) -> bool {
    job.status.as_ref().is_some_and(|s| s.submission_time.is_some())
}

/// What a person asks for: changes with the spec, the annotations that we read, and deletion.
fn asked(job: &BatchJob) -> String {
    let said = [annotations::RESOLVE, annotations::RECONCILE_REQUESTED_AT].map(|a| job.annotations().get(a));
    format!("{:?} {:?} {said:?}", job.metadata.generation, job.metadata.deletion_timestamp)
}

fn requeue(until: Option<i64>, now: i64) -> Action {
    let pause = until.map(|until| Duration::from_millis((until - now).max(1).unsigned_abs()));
    Action::requeue(pause.map_or(RESYNC, |p| p.min(RESYNC)))
}

/// One decision on a look that is fresh enough for it, and one effect.
async fn visit(
    ctx: &Arc<Context>,
    session: &Arc<Session>,
    key: &BatchJob,
    anew: bool,
    doing: &mut &'static str,
) -> Result<Flow, Trouble> {
    let mut wanted = Freshness::Any;
    let (world, judged) = loop {
        let Some(world) = observe(ctx, session, key, anew, wanted).await? else { return Ok(Flow::Gone) };
        if let Some(trouble) = world.unread.clone() {
            return unread(ctx, session, &world, trouble).await;
        }
        let judged = judge(ctx, session, &world);
        // What pays, destroys or writes is judged again on a look that was made for it.
        match judged.step.freshness() {
            fresher if fresher > wanted => wanted = fresher,
            _ => break (world, judged),
        }
    };
    let Judged { step, memory, stuck, is_brief } = judged;
    if let Some(told) = stuck {
        record_trouble(ctx, &world, session, &memory, told).await?;
    }
    if ctx.stop.is_cancelled() && matches!(step, Step::WriteIntent { .. }) {
        // A POST that is cut off would be a question.
        return Ok(Flow::Wait(None));
    }
    debug!(namespace = world.view.owner.namespace, name = world.view.owner.name, step = name_of(&step), "decided");
    ctx.metrics.step(name_of(&step));
    *doing = name_of(&step);
    let act = Act { ctx, session, world: &world };
    if step == Step::Tidy {
        act.tidy().await?;
    }
    let references = match &step {
        Step::Fail(_) => Some(references_of(ctx, session, &world.job).await?),
        _ => None,
    };
    // A stage that is over within a few seconds is not worth a write.
    if !is_brief && !record(ctx, session, &world, &memory, &step, references).await? {
        return Ok(Flow::Again);
    }
    let ran = act.run(step.clone()).await?;
    let flow = match ran {
        Flow::Wait(None) if world.view.finished && cost_nothing(&world.job) => Flow::Wait(Some(recheck_at(ctx))),
        flow => flow,
    };
    match step {
        Step::Wait { .. } => session.waits_for(&memory.running),
        // Whether a transfer succeeds is known when it ends.
        Step::Pass { .. }
        | Step::Upload(_)
        | Step::Collect { .. }
        | Step::FollowUp { .. }
        | Step::Halve(_)
        | Step::Write => {}
        // The same of a call.
        _ if step.call().is_some() => {}
        _ => {
            ctx.succeeded(session, None);
            if flow != Flow::Again || !matches!(step, Step::RemoveFinalizer { .. }) {
                told(&world, &step);
            }
        }
    }
    Ok(flow)
}

/// The journal cannot be read: nothing can be decided, and where that lasts a person is told.
async fn unread(ctx: &Context, session: &Session, world: &World, trouble: Trouble) -> Result<Flow, Trouble> {
    let took = ctx.clock.now().saturating_sub(world.now);
    failed(ctx, session, &world.job, None, Failed { call: "Observe", trouble, took });
    let ended = world.job.status.as_ref().is_some_and(|s| s.outcome.is_some());
    if let Some(told) = session.lasting(Option::is_none).and_then(|b| b.told()).filter(|_| !ended) {
        record_trouble(ctx, world, session, &session.memory(), told).await?;
    }
    Ok(Flow::Again)
}

/// A decision, and what it was made on.
struct Judged {
    step: Step,
    memory: Memory,
    /// What keeps failing and is told beside the step.
    stuck: Option<Stuck>,
    /// Whether it is a wait at a stage that may be over at once.
    is_brief: bool,
}

/// Stages that a small job passes in less than a few seconds.
const BRIEF: [&str; 4] = [reasons::PLANNING, reasons::SUBMITTING, reasons::COLLECTING, reasons::WRITING_RESULTS];
/// Milliseconds after which such a stage is told.
const TOLD_AFTER: i64 = 5_000;

fn judge(ctx: &Context, session: &Session, world: &World) -> Judged {
    if world.view.mended && world.view.deleting_since.is_none() {
        session.remember(|m| *m = Memory { running: std::mem::take(&mut m.running), ..Default::default() });
    }
    // Where something is missing there is no credential; what was found out under the last one still counts.
    if !world.view.fingerprint.is_empty() {
        session.remember(|m| m.under(&world.view.fingerprint));
    }
    let lasting = session.lasting(|_| true).filter(|_| !world.view.finished);
    let (held_back, task_due) = session.held_back(world.now);
    account_for(ctx, session, world);
    let mut memory = Memory {
        place: place(world),
        trouble: lasting.as_ref().and_then(|b| Some(b.trouble()?.stuck.message.clone())),
        in_vain: session.in_vain(),
        stumbled: session.backoff(None).failures > 0,
        ..session.memory()
    };
    // What is tried again later is under way, as far as it matters here.
    memory.running.extend(held_back);
    let mut step = decide(&world.observed(&ctx.timing, &memory));
    let Step::Wait { until, why } = &mut step else {
        return Judged { step, memory, stuck: lasting.and_then(|b| b.told()), is_brief: false };
    };
    if let Some(tools) = &world.tools {
        tools.quota.release(&world.view.owner.uid);
    }
    let is_tried = |what: &Option<Task>| what.is_some_and(|task| memory.running.contains(&task));
    let told = session.lasting(is_tried).filter(|_| !world.view.finished).and_then(|b| b.told());
    *until = until.iter().copied().chain(task_due).min();
    if session.may_be_mended() {
        *until = Some(until.unwrap_or(i64::MAX).min(world.now + MENDED));
    }
    let tell_at = session.waits(why, world.now) + TOLD_AFTER;
    why.stuck = why.stuck.take().or(told);
    let has_words = !why.holds.is_empty() || why.stuck.is_some() || why.note.is_some();
    // How a new batch stands is known as soon as the first look at it ends.
    let is_looked_at = why.stage == reasons::IN_PROGRESS && memory.running.iter().any(|t| matches!(t, Task::Call(_)));
    let is_brief = !has_words && (BRIEF.contains(&why.stage) || is_looked_at) && world.now < tell_at;
    if is_brief {
        *until = Some(until.unwrap_or(i64::MAX).min(tell_at));
    }
    Judged { step, memory, stuck: None, is_brief }
}

/// Tells the account what the job has in flight, and what it follows.
fn account_for(ctx: &Context, session: &Session, world: &World) {
    let (Some(tools), Some((journal, _))) = (&world.tools, &world.journal) else { return };
    let Owner { uid, namespace, .. } = &world.view.owner;
    if journal.owner.uid != *uid {
        return;
    }
    let memory = session.memory();
    let live = journal.shards.iter().filter(|shard| shard.is_live()).count();
    let submission = match memory.running.iter().any(|task| matches!(task, Task::Post(_))) {
        true => Submission::Posting,
        false if memory.permit.is_some() => Submission::Begun,
        false => Submission::None,
    };
    ctx.accounts.report(&tools.account.key("").provider, uid, namespace, live, submission);
    let recorded: BTreeSet<&str> = journal.shards.iter().filter_map(Shard::batch_in_flight).collect();
    tools.calls.keep(uid, |batch| recorded.contains(batch));
}

/// Whether the account has a place for one more batch.
fn place(world: &World) -> Place {
    let Some(tools) = &world.tools else { return Place::Free };
    if let Some(left) = tools.calls.pace().pause() {
        let until = world.now.saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
        // Whole minutes, so that an unchanged wait says nothing new.
        let until = clock_time(until.saturating_add(59_999) / 60_000 * 60_000);
        return Place::Full(format!(
            "the provider asked for a pause of all calls of its account, until {until} at most"
        ));
    }
    let Owner { uid, namespace, .. } = &world.view.owner;
    match tools.quota.full(uid, namespace) {
        None => Place::Free,
        Some(Full::Submitting) => Place::Soon,
        Some(Full::Batches(limit)) => Place::Full(format!(
            "{limit} batches are in flight at {}, and its `limits.maxBatchesInFlight` allows no more; the next one is sent when \
             one of them ends, of the namespace that has the fewest",
            tools.account.name
        )),
    }
}

fn told(world: &World, step: &Step) {
    let owner = &world.view.owner;
    match step {
        Step::Conclude { manifest, reused } => {
            info!(owner.namespace, owner.name, outcome = ?manifest.outcome, reused, "the job is done");
        }
        Step::Fail(failure) => {
            info!(owner.namespace, owner.name, reason = failure.reason, "the job failed before anything was paid");
        }
        Step::RemoveFinalizer { abandoned, untidy } => {
            if let Some(why) = abandoned {
                warn!(owner.namespace, owner.name, why, "let an object go");
            }
            if let Some(why) = untidy {
                let what =
                    "what was staged for a deleted job is left; delete the folder of its work below `_batchjob/`";
                warn!(owner.namespace, owner.name, output = world.view.output_uri, why, "{what}");
            }
        }
        _ => {}
    }
}

pub(super) fn name_of(step: &Step) -> &'static str {
    match step {
        Step::Wait { .. } => "Wait",
        Step::AddFinalizer => "AddFinalizer",
        Step::RemoveFinalizer { .. } => "RemoveFinalizer",
        Step::Lock(_) => "Lock",
        Step::Pin => "Pin",
        Step::KeepProvider => "KeepProvider",
        Step::LookForManifest => "LookForManifest",
        Step::FindOwner(_) => "FindOwner",
        Step::Pass { .. } => "Pass",
        Step::Open(_) => "Open",
        Step::Swap(_) => "Swap",
        Step::WriteIntent { .. } => "WriteIntent",
        Step::ProveStore => "ProveStore",
        Step::Upload(_) => "Upload",
        Step::WaitForPlace => "WaitForPlace",
        Step::Post(_) => "Post",
        Step::Search(_) => "Search",
        Step::CheckFile(_) => "CheckFile",
        Step::Probe(_) => "Probe",
        Step::Revoke(_) => "Revoke",
        Step::Poll(_) => "Poll",
        Step::PollTwin { .. } => "PollTwin",
        Step::Cancel { .. } => "Cancel",
        Step::CancelUnjournaled { .. } => "CancelUnjournaled",
        Step::Collect { .. } => "Collect",
        Step::DeleteFiles { .. } => "DeleteFiles",
        Step::FollowUp { .. } => "FollowUp",
        Step::Halve(_) => "Halve",
        Step::Write => "Write",
        Step::Mark => "Mark",
        Step::EndTasks => "EndTasks",
        Step::Conclude { .. } => "Conclude",
        Step::Fail(_) => "Fail",
        Step::Tidy => "Tidy",
    }
}
