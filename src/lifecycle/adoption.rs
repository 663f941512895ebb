//! The decision about a journal of another owner: to take its work over, to wait for it, or to report a conflict.

use super::completion;
use super::decide::{MENDED_CHECK, manifest_may_be_another, reuse, same_work};
use super::journal::{Journal, Takeover};
use super::observed::Observed;
use super::provider_files::forget_refused_files;
use super::shard::Shard;
use super::step::{Failure, Step, Waiting};
use crate::api::conditions::reasons;
use crate::api::{DeletionPolicy, Hold};

/// Returns the step for a job whose destination has another object's journal.
pub(super) fn foreign(o: &Observed, journal: &Journal) -> Step {
    if let Some(Some(manifest)) = &o.memory.manifest {
        return same_work(o, &manifest.work_hash, |_| reuse(manifest));
    }
    let (me, owner) = (&o.job.owner, &journal.owner);
    let namesake = owner.is_namesake(me);
    let alive = o.memory.owner_alive.as_ref().filter(|(of, _)| of == owner).map(|(_, alive)| *alive);
    let gone = match (namesake, owner.cluster == me.cluster, alive) {
        (true, ..) => true, // Two objects of one name cannot exist at the same time, and this job does exist.
        (_, false, _) => false,
        (_, _, None) => return Step::FindOwner(owner.clone()),
        (_, _, Some(alive)) => !alive,
    };
    let taken = |j: &mut Journal| take(o, j);
    if gone && !journal.has_intents() && journal.commit.is_none() {
        return Step::Swap(journal.next(|j| {
            taken(j);
            j.plan = None;
            j.shards.clear();
        }));
    }
    match &journal.plan {
        Some(plan) if namesake => match same_work(o, &plan.work_hash, |_| Step::Swap(journal.next(taken))) {
            Step::Fail(mut failure) => {
                failure.message.push_str(&left_running(journal));
                Step::Fail(failure)
            }
            Step::Wait { until, mut why } => {
                why.note.iter_mut().for_each(|note| note.push_str(&left_running(journal)));
                Step::Wait { until, why }
            }
            step => step,
        },
        Some(plan) if owner.is_copy(me) => same_work(o, &plan.work_hash, |_| copied(o, journal)),
        None if owner.is_copy(me) => copied(o, journal),
        _ => {
            let whose = if owner.cluster == me.cluster { "" } else { " of another cluster" };
            let message = format!(
                "the destination is in use by BatchJob {}/{}{whose}; write to another URI, for example with `$(name)` and \
                 `$(runID)` in it",
                owner.namespace, owner.name,
            );
            Step::Fail(Failure::new(reasons::OUTPUT_CONFLICT, message))
        }
    }
}

fn take(o: &Observed, journal: &mut Journal) {
    journal.owner = o.job.owner.clone();
    journal.spec_hash = o.job.spec_hash.clone();
    // A stop of the earlier object does not apply to this one.
    journal.out_of_time_since = None;
    reopen(o, journal);
}

/// Reopens a closed journal. The process that closed it may still delete staged and uploaded files that a closed work does not need. So
/// the work gets a new id and is staged anew if nothing was sent, and the files of refused attempts are uploaded anew.
pub(super) fn reopen(o: &Observed, journal: &mut Journal) {
    if journal.closing.take().is_none() || journal.commit.is_some() {
        return;
    }
    if !journal.has_intents() {
        journal.work_id = o.nonce.into();
        journal.plan = None;
        journal.shards.clear();
    }
    forget_refused_files(journal);
}

/// Returns the step for work that a job of the same namespace and name in another cluster owns. This cluster cannot see whether that job
/// still exists. The work is taken over if it was released there or if a person says so; until then, its results are looked for.
fn copied(o: &Observed, journal: &Journal) -> Step {
    let owner = &journal.owner;
    let times = journal.taken_over.as_ref().map_or(0, |t| t.times);
    let id = format!("owner-{}-{times}", owner.uid.get(..8).unwrap_or(&owner.uid));
    let told_to = o.job.answers.to(&id) == Some("take");
    if told_to || journal.closing == Some(DeletionPolicy::Orphan) {
        let from = journal.named_after().to_string();
        return Step::Swap(journal.next(|j| {
            take(o, j);
            j.taken_over = Some(Takeover { from, times: times + 1 });
        }));
    }
    if o.job.stop.is_some() && !o.job.submitted {
        return Step::Fail(completion::free_end(o));
    }
    if manifest_may_be_another(o) {
        return Step::LookForManifest;
    }
    let message = format!(
        "this work belongs to BatchJob {}/{} of another cluster (its kube-system has the uid {}): nothing is sent from here, and \
         once that one has written its results they are this one's, too. If that cluster is gone, or is to give the work up, \
         answer 'take': its batches are adopted and nothing is paid twice",
        owner.namespace, owner.name, owner.cluster
    );
    let answers = vec![format!("{id}=take")];
    let stage = if o.job.submitted { reasons::IN_PROGRESS } else { reasons::PENDING };
    let why = Waiting { stage, holds: vec![Hold { id, message, answers, annotation: None }], ..Default::default() };
    Step::Wait { until: Some(o.now + MENDED_CHECK), why }
}

/// Returns a message about the running batches of an earlier object of this name, which this job does not follow yet.
fn left_running(journal: &Journal) -> String {
    let running: Vec<&str> = journal.shards.iter().filter_map(Shard::batch_in_flight).take(3).collect();
    if running.is_empty() {
        return String::new();
    }
    format!(
        "; batches that an earlier BatchJob of this name left behind may still run and cost ({}): apply its spec again to have their \
         answers, or cancel them at the provider",
        running.join(", ")
    )
}
