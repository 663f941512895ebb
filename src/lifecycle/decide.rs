//! The rules that choose the next step of a job.

use super::attempt::AttemptKey;
use super::findings::{ManifestView, PlanResult};
use super::journal::{Commit, Journal, Plan};
use super::observed::Observed;
use super::shard_list::Shards;
use super::step::{Blocked, Failure, Step, Waiting};
use super::task::Task;
use super::{adoption, completion, deleting, input_wait, job_budget, partial, reservation, settled};
use crate::api::conditions::reasons;
use crate::api::{Hold, Lock, NEWEST_PROTOCOL_VERSION, Outcome, RequestCounts, Spending, WorkHashVersion};

/// Milliseconds between two looks for something that a person must fix: Secrets are polled, not watched.
pub(super) const MENDED_CHECK: i64 = 15_000;

pub(super) const GONE: &str =
    "a batch was submitted, and its journal, _batchjob/journal.json at the destination, is gone";

const PUT_IT_BACK: &str = "put it back, from an earlier version of the object, and the job goes on; where it is lost, delete \
                           the BatchJob, so that the batches that status names are told to stop, and apply it again: its \
                           requests are then sent, and paid, anew";

/// Returns the next step of a job. Every state has one.
pub fn decide(o: &Observed) -> Step {
    let mut step = rules(o);
    if matches!(step, Step::Wait { .. }) && partial::is_due(o) {
        return Step::Publish;
    }
    if let Some(release) = reservation::release_first(o, &step) {
        return release;
    }
    if let Step::Swap(journal) | Step::WriteIntent { journal, .. } = &mut step {
        settled::forget_deleted_files(o, journal);
    }
    step
}

fn rules(o: &Observed) -> Step {
    if let Some(journal) = o.journal.filter(|j| j.protocol_version > NEWEST_PROTOCOL_VERSION) {
        return newer_protocol(journal);
    }
    if let Some(since) = o.job.deleting_since {
        return deleting::deleting(o, since);
    }
    if o.job.finished {
        return finished(o);
    }
    if !o.job.finalizer {
        return Step::AddFinalizer;
    }
    if let Some(message) = o.memory.unfit_store.as_ref().filter(|_| !may_have_been_sent(o)) {
        // The plan stays in the journal, because this process cannot write there. A changed spec drops it later.
        return Step::Fail(Failure::new(reasons::STORAGE_REJECTED, message));
    }
    let is_unopened = o.job.lock.is_none() && !o.job.submitted;
    if let Some(blocked) = &o.job.blocked {
        if o.job.stop.is_some() && is_unopened {
            return Step::Fail(completion::free_end(o));
        }
        let stage = if o.journal.is_some_and(Journal::has_intents) { reasons::IN_PROGRESS } else { reasons::PENDING };
        let why = Waiting { stage, blocked: Some(blocked.clone()), ..Default::default() };
        return Step::Wait { until: Some(o.now + MENDED_CHECK), why };
    }
    let Some(lock) = &o.job.lock else {
        if let (Some(blocked), false) = (provider_going(o), o.journal.is_some_and(Journal::has_intents)) {
            return match o.job.stop.is_some() && is_unopened {
                true => Step::Fail(completion::free_end(o)),
                false => no_new_job(o, blocked),
            };
        }
        return Step::Lock(Lock { spec_hash: o.job.spec_hash.clone(), output_uri: o.job.output_uri.clone() });
    };
    let Some(manifest) = &o.memory.manifest else {
        return Step::LookForManifest;
    };
    match o.journal {
        Some(journal) if journal.owner == o.job.owner => mine(o, journal, lock),
        Some(journal) => adoption::foreign(o, journal),
        None => match manifest {
            Some(manifest) => same_work(o, &manifest.work_hash, |_| reuse(manifest)),
            None if o.job.submitted => journal_gone(o),
            None if o.job.stop.is_some() => Step::Fail(completion::free_end(o)),
            None if o.memory.taken.is_some() => Step::Fail(Failure::new(reasons::OUTPUT_CONFLICT, in_the_way(o))),
            None => Step::Open(Journal::open(o.nonce.into(), o.job.owner.clone(), o.job.spec_hash.clone())),
        },
    }
}

/// Returns whether something of the work may have been sent, or its end is decided. A failure after that is not free.
fn may_have_been_sent(o: &Observed) -> bool {
    let unread = o.journal.is_none() && o.job.blocked.is_some() && o.job.lock.is_some();
    o.job.submitted || unread || o.journal.is_some_and(|j| j.has_intents() || j.commit.is_some())
}

/// Returns the obstacle to new jobs if the provider is being deleted. Jobs with an intent run to their end.
fn provider_going(o: &Observed) -> Option<Blocked> {
    let provider = o.job.provider.as_ref().filter(|p| p.terminating)?;
    let message = format!(
        "{} is being deleted and takes no new jobs; create it again once it is gone, or run the job with another one",
        provider.name
    );
    Some(Blocked { reason: reasons::PROVIDER_TERMINATING, message })
}

fn no_new_job(o: &Observed, blocked: Blocked) -> Step {
    let why = Waiting { stage: reasons::PENDING, blocked: Some(blocked), ..Default::default() };
    Step::Wait { until: Some(o.now + MENDED_CHECK), why }
}

/// Handles a lost journal. A batch was submitted, and opening another journal would pay for it again. Only a person can say
/// that the journal will not come back; after that, nothing more is sent under this work's identity.
fn journal_gone(o: &Observed) -> Step {
    let (stage, until) = (reasons::IN_PROGRESS, Some(o.now + MENDED_CHECK));
    let Some((work_id, plan)) = &o.job.remembered else {
        let blocked = Some(Blocked { reason: reasons::OUTPUT_CONFLICT, message: format!("{GONE}; {PUT_IT_BACK}") });
        return Step::Wait { until, why: Waiting { stage, blocked, ..Default::default() } };
    };
    let uid = &o.job.owner.uid;
    let id = format!("journal-{}", uid.get(..8).unwrap_or(uid));
    if o.job.answers.to(&id) == Some("abandon") {
        if o.memory.running.contains(&Task::CancelUnjournaled) {
            return wait(until, stage);
        }
        return deleting::unjournaled(o).unwrap_or_else(|| Step::Open(abandoned(o, work_id, plan)));
    }
    let message = format!(
        "{GONE}; put it back, from an earlier version of the object, and the job goes on. Where it is lost, answer 'abandon': the \
         batches that status names are told to stop, the job fails, and none of its requests is ever sent again for this work. \
         What was answered stays at the provider, and below _batchjob/{work_id}/ as far as it was fetched"
    );
    let answers = vec![format!("{id}=abandon")];
    Step::Wait {
        until,
        why: Waiting { stage, holds: vec![Hold { id, message, answers, annotation: None }], ..Default::default() },
    }
}

/// Returns a few of these names, for a person. None if there are none.
pub(super) fn named(names: &[String]) -> Option<String> {
    let some: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
    let more = match names.len() - some.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    (!some.is_empty()).then(|| format!("{}{more}", some.join(", ")))
}

/// Returns the journal of an end without a past, under an id of its own: the files under the earlier id are not deleted.
fn abandoned(o: &Observed, work_id: &str, plan: &Plan) -> Journal {
    let told = deleting::told_to_stop(o);
    let commit = Commit {
        outcome: Outcome::Failed,
        reason: reasons::JOURNAL_LOST.into(),
        message: format!(
            "the journal was lost and the work was given up on a person's word; {told}. What was answered is at the provider, \
             or below _batchjob/{work_id}/. To run it again, and pay again, change `runID`"
        ),
        at: o.now,
        requests: RequestCounts { total: plan.requests, missing: plan.requests, ..Default::default() },
        spending: Spending::default(),
    };
    Journal::abandoned(o.nonce.into(), o.job.owner.clone(), o.job.spec_hash.clone(), plan.clone(), commit)
}

fn newer_protocol(journal: &Journal) -> Step {
    let message = format!(
        "the journal was written by a newer version of the operator (protocol {}, this one knows {NEWEST_PROTOCOL_VERSION}); \
         upgrade the operator",
        journal.protocol_version
    );
    let blocked = Some(Blocked { reason: reasons::NEWER_PROTOCOL, message });
    Step::Wait { until: None, why: Waiting { stage: reasons::PENDING, blocked, ..Default::default() } }
}

fn finished(o: &Observed) -> Step {
    let me = &o.job.owner;
    let ours = |j: &&Journal| (j.owner.is_namesake(me) || j.owner.is_copy(me)) && j.commit.is_some();
    let Some(journal) = o.journal.filter(ours).filter(|_| !o.job.tidy) else {
        return expire(o);
    };
    // A process that still saw an earlier object of this name may have put that object's name back into the journal, or another
    // cluster took the work over when all was done.
    match &o.memory.manifest {
        _ if journal.owner == o.job.owner => tidy(o),
        None => Step::LookForManifest,
        Some(Some(manifest)) if manifest.work_id == journal.work_id => tidy(o),
        Some(_) => expire(o),
    }
}

/// Deletes the object of a job that is over once its time has come.
fn expire(o: &Observed) -> Step {
    match o.job.expires_at {
        Some(at) if o.now >= at => Step::DeleteObject,
        at => wait(at, reasons::FINISHED),
    }
}

/// Returns the step that deletes staged files. Tasks end first: a running one would stage files again that nobody deletes
/// later.
pub(super) fn tidy(o: &Observed) -> Step {
    if o.memory.running.is_empty() { Step::CleanUp } else { Step::EndTasks }
}

fn mine(o: &Observed, journal: &Journal, lock: &Lock) -> Step {
    if journal.commit.is_some() {
        return conclude(o, journal);
    }
    if journal.spec_hash != o.job.spec_hash && !journal.has_intents() {
        // The spec was changed after a failure that cost nothing, and the plan was made for the old one.
        return Step::Swap(journal.next(|j| {
            j.spec_hash = o.job.spec_hash.clone();
            j.plan = None;
            j.shards.clear();
        }));
    }
    if journal.closing.is_some() {
        // Only the deletion of an object closes a journal. The object was restored, or another one adopted the work.
        return Step::Swap(journal.next(|j| adoption::reopen(o, j)));
    }
    let sent = journal.has_intents();
    if let Some(Err(message)) = &o.memory.store_proved
        && !sent
    {
        return free_failure(journal, Failure::new(reasons::OUTPUT_CONFLICT, message.clone()));
    }
    if o.memory.taken.is_some() && !sent {
        return free_failure(journal, Failure::new(reasons::OUTPUT_CONFLICT, in_the_way(o)));
    }
    if journal.plan.is_none() {
        return unplanned(o, journal);
    }
    if let Some(message) = unfit(o, &journal.shards).filter(|_| !sent) {
        return free_failure(journal, Failure::new(reasons::INVALID_INPUT, message));
    }
    if let Some(Some(manifest)) = &o.memory.manifest
        && !sent
    {
        // Another job's results lie here, and this work was never sent. Compare the two.
        let hash = &manifest.work_hash;
        return match journal.plan.as_ref().is_some_and(|p| p.work_hash == *hash) || is_same_work(o, hash) {
            true => reuse(manifest),
            false => match journal.plan.as_ref().and_then(|p| other_version(&p.work_hash, hash)) {
                Some(version) if !has_hash_of(o, version) => pass_to_compare(o, version),
                _ => free_failure(journal, Failure::new(reasons::OUTPUT_CONFLICT, other_work())),
            },
        };
    }
    if let (Some(blocked), false) = (provider_going(o), sent || completion::is_to_stop(o)) {
        return no_new_job(o, blocked);
    }
    if !sent
        && !completion::is_to_stop(o)
        && let Some(failure) = job_budget::free_failure(o, &journal.shards)
    {
        return free_failure(journal, failure);
    }
    let drift = (journal.spec_hash != o.job.spec_hash || lock.spec_hash != o.job.spec_hash).then(|| Blocked {
        reason: reasons::SPEC_DRIFT,
        message: "the spec is no longer the one that was submitted, so no further batch is; apply the earlier spec \
                  again, or create another BatchJob"
            .into(),
    });
    let blocked = drift.or_else(|| output_taken(o));
    completion::go_on(o, journal, blocked)
}

/// Returns the obstacle at the destination that stops further batches once some were sent. An intent is never forgotten for it.
fn output_taken(o: &Observed) -> Option<Blocked> {
    let message = match (&o.memory.store_proved, &o.memory.manifest) {
        (Some(Err(message)), _) => message.clone(),
        (_, Some(Some(_))) => other_work(),
        _ => return None,
    };
    Some(Blocked { reason: reasons::OUTPUT_CONFLICT, message })
}

pub(super) fn conclude(o: &Observed, journal: &Journal) -> Step {
    match &o.memory.manifest {
        Some(Some(m)) if m.work_id == journal.work_id => match o.memory.marked.as_ref() == Some(&m.work_id) {
            true => Step::Conclude { manifest: m.clone(), reused: false },
            false => Step::WriteSuccess,
        },
        Some(Some(_)) if manifest_may_be_another(o) => Step::LookForManifest,
        Some(Some(_)) => {
            let message =
                "the destination holds another work's manifest although this work's batches ran for it; move \
                           the foreign files away, nothing is overwritten"
                    .into();
            let blocked = Some(Blocked { reason: reasons::OUTPUT_CONFLICT, message });
            let why = Waiting { stage: reasons::WRITING_RESULTS, blocked, ..Default::default() };
            Step::Wait { until: next_look(o), why }
        }
        _ if o.memory.running.contains(&Task::Write) => wait(None, reasons::WRITING_RESULTS),
        Some(None) if manifest_may_be_another(o) => Step::LookForManifest,
        Some(None) => Step::Write,
        None => Step::LookForManifest,
    }
}

/// Returns whether the next look for the manifest is due.
pub(super) fn manifest_may_be_another(o: &Observed) -> bool {
    next_look(o).is_some_and(|at| o.now >= at)
}

/// Returns the time of the next look for the manifest: a person may move it away, or put the right one back.
pub(super) fn next_look(o: &Observed) -> Option<i64> {
    o.memory.manifest_at.map(|at| at + MENDED_CHECK)
}

/// Plans the work. Every reason to take a plan back also prevents the next one, or the two would alternate for ever.
fn unplanned(o: &Observed, journal: &Journal) -> Step {
    if completion::is_to_stop(o) {
        return completion::stop(o, journal);
    }
    match &o.memory.manifest {
        Some(Some(manifest)) => same_work(o, &manifest.work_hash, |_| reuse(manifest)),
        _ => plan(o, journal),
    }
}

fn plan(o: &Observed, journal: &Journal) -> Step {
    if o.memory.running.contains(&Task::Plan) {
        return input_wait::answers_are_to_come(o).unwrap_or_else(|| wait(None, reasons::PLANNING));
    }
    let pass = o.memory.pass.as_ref().filter(|p| p.spec_hash == o.job.spec_hash);
    let invalid = |message: String| Step::Fail(Failure::new(reasons::INVALID_INPUT, message));
    match pass.map(|p| &p.result) {
        Some(Err(message)) => input_wait::not_there(o).unwrap_or_else(|| invalid(message.clone())),
        Some(Ok(planned)) if unfit(o, &planned.shards).is_some() => {
            invalid(unfit(o, &planned.shards).unwrap_or_default())
        }
        Some(Ok(planned)) if planned.staged.as_ref() == Some(&journal.work_id) => {
            planned_or_failed(o, journal, planned)
        }
        _ => input_wait::not_there(o).or_else(|| input_wait::answers_are_to_come(o)).unwrap_or_else(|| Step::Plan {
            stage: Some(journal.work_id.clone()),
            version: WorkHashVersion::default(),
        }),
    }
}

fn planned_or_failed(o: &Observed, journal: &Journal, planned: &PlanResult) -> Step {
    match job_budget::free_failure(o, &planned.shards) {
        Some(failure) => Step::Fail(failure),
        None => Step::Swap(journal.next(|j| {
            j.plan = Some(planned.plan.clone());
            j.shards = planned.shards.clone();
        })),
    }
}

/// Continues with `then` if this job's work has `hash`. Reads the input without staging if the hash is not known, and does not
/// wait for an input that is there: what was paid for is adopted. Only an input of other work is waited for, since it may not be
/// whole.
pub(super) fn same_work(o: &Observed, hash: &str, then: impl Fn(&PlanResult) -> Step) -> Step {
    if o.memory.running.contains(&Task::Plan) {
        return wait(None, reasons::PLANNING);
    }
    let wait_or_fail =
        |reason, message: String| input_wait::not_there(o).unwrap_or_else(|| Step::Fail(Failure::new(reason, message)));
    match o.memory.pass.as_ref().filter(|p| p.spec_hash == o.job.spec_hash).map(|p| &p.result) {
        None => pass_to_compare(o, WorkHashVersion::of(hash).unwrap_or_default()),
        Some(Ok(planned)) if planned.plan.work_hash == hash => then(planned),
        Some(Ok(planned)) => match other_version(&planned.plan.work_hash, hash) {
            Some(version) => pass_to_compare(o, version),
            None => wait_or_fail(reasons::OUTPUT_CONFLICT, other_work()),
        },
        Some(Err(message)) => wait_or_fail(reasons::INVALID_INPUT, message.clone()),
    }
}

/// Returns the version of `hash` if `known` is of another one, so that the two cannot be compared.
fn other_version(known: &str, hash: &str) -> Option<WorkHashVersion> {
    let version = WorkHashVersion::of(hash)?;
    (WorkHashVersion::of(known)? != version).then_some(version)
}

fn pass_to_compare(o: &Observed, version: WorkHashVersion) -> Step {
    match o.memory.running.contains(&Task::Plan) {
        true => wait(None, reasons::PLANNING),
        false => Step::Plan { stage: None, version },
    }
}

/// Returns the hash of this job's work, if its input was read.
fn hash_of_pass<'a>(o: &Observed<'a>) -> Option<&'a str> {
    let pass = o.memory.pass.as_ref().filter(|p| p.spec_hash == o.job.spec_hash)?;
    Some(pass.result.as_ref().ok()?.plan.work_hash.as_str())
}

fn is_same_work(o: &Observed, hash: &str) -> bool {
    hash_of_pass(o) == Some(hash)
}

/// Returns whether the input was read for a hash of this version, successfully or not.
fn has_hash_of(o: &Observed, version: WorkHashVersion) -> bool {
    let failed = o.memory.pass.as_ref().is_some_and(|p| p.spec_hash == o.job.spec_hash && p.result.is_err());
    failed || hash_of_pass(o).and_then(WorkHashVersion::of) == Some(version)
}

fn other_work() -> String {
    "the destination holds the results of other work; write to another URI, for example with `$(runID)` in it".into()
}

fn in_the_way(o: &Observed) -> String {
    format!(
        "{} exists and was not written by this work; it is not overwritten: write to another URI, or move it away",
        o.memory.taken.as_deref().unwrap_or_default()
    )
}

pub(super) fn reuse(manifest: &ManifestView) -> Step {
    Step::Conclude { manifest: manifest.clone(), reused: true }
}

/// Returns the provider's message when it refused a file of these shards for its content.
fn unfit(o: &Observed, shards: &Shards) -> Option<String> {
    let refused = |(attempt_key, sha256): &(AttemptKey, String)| {
        shards.get(attempt_key.shard).is_some_and(|s| s.sha256 == *sha256)
    };
    let ((attempt_key, _), said) = o.memory.unfit.iter().find(|(at, _)| refused(at))?;
    Some(format!(
        "the provider refuses the requests of batch {attempt_key}: {said}; correct them, or what the account may use"
    ))
}

/// Returns the step of a failure before the first intent. The plan is dropped first, so that no process acts on it once the
/// spec is unlocked.
pub(super) fn free_failure(journal: &Journal, failure: Failure) -> Step {
    match journal.plan {
        Some(_) => Step::Swap(journal.next(|j| {
            j.plan = None;
            j.shards.clear();
        })),
        None => Step::Fail(failure),
    }
}

pub(super) fn wait(until: Option<i64>, stage: &'static str) -> Step {
    Step::Wait { until, why: Waiting { stage, ..Default::default() } }
}
