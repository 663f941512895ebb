//! What a step does.

use super::*;

pub(super) fn take_for_a_permit(w: &World, memory: &mut Memory) {
    let Some(a) = w.attempt() else { return };
    if !memory.posted.contains_key(&a.intent_id) {
        memory.permit = Some(a.intent_id.clone());
    }
}

/// When the replica's unspent right to POST ends.
pub(super) fn last_moment(w: &World, replica: &Replica) -> Option<i64> {
    match &replica.doing {
        Doing::Writing(Write { next, intent: Some(_), .. }) => attempt(next).map(|a| a.post_by),
        _ if replica.memory.permit.is_some() => w.attempt().map(|a| a.post_by),
        _ => None,
    }
}

/// Steps that teach the replica what nobody else changes.
pub(super) fn find_out(w: &World, memory: &mut Memory, job: &JobView, step: &Step) -> bool {
    match (step, w.attempt()) {
        (Step::LookForManifest, _) => memory.manifest = Some(None),
        (Step::Pass { stage }, _) => {
            let result = Ok(planned_for(&job.spec_hash, stage));
            memory.pass = Some(Pass { spec_hash: job.spec_hash.clone(), result });
        }
        (Step::ProveStore, _) => memory.store_proved = Some(Ok(())),
        (Step::Probe, _) => memory.resolvable = Some(true),
        (Step::CheckFile(_), Some(a)) => {
            memory.files.insert(a.file_id.clone(), !w.deleted_files.contains(&a.file_id));
        }
        (Step::Upload(slot), _) => {
            let Some(journal) = &w.journal else { return false };
            let content = journal.shards[slot.shard].sha256.clone();
            memory.uploads.insert((*slot, content.clone()), content);
        }
        _ => return false,
    }
    true
}

fn planned_for(work: &str, stage: &Option<String>) -> Planned {
    let plan = Plan {
        work_hash: work.into(),
        input: InputStatus { sha256: work.into(), size_bytes: 1 },
        requests: 1,
        too_large: Default::default(),
    };
    let shard = Shard {
        sha256: work.into(),
        bytes: 1,
        first: 0,
        requests: 1,
        failures: 0,
        attempt: None,
        round: 0,
        took: RequestCounts::default(),
        took_errors: vec![],
        model: String::new(),
    };
    Planned { staged: stage.clone(), plan, shards: vec![shard] }
}

/// The one effect.
pub(super) fn execute(
    w: &mut World,
    replica: usize,
    memory: &mut Memory,
    job: &Shared<JobView>,
    step: Step,
) -> Option<()> {
    let judged = w.journal.clone();
    let write = |judged, next, intent| Doing::Writing(Write { judged, next: Shared::new(next), intent });
    match step {
        Step::AddFinalizer | Step::Lock(_) | Step::Fail(_) if w.object.as_ref() != Some(job) => {}
        Step::AddFinalizer => w.edit_object(0, |o| o.finalizer = true)?,
        Step::Lock(lock) => w.edit_object(0, |o| o.lock = Some(lock))?,
        Step::Fail(_) => w.edit_object(0, |o| (o.lock, o.finished) = (None, true))?,
        Step::RemoveFinalizer { abandoned: None } => w.replicas[replica].doing = Doing::LettingGo(job.clone()),
        Step::Open(next) => w.replicas[replica].doing = write(None, next, None),
        Step::Swap(next) => w.replicas[replica].doing = write(judged, next, None),
        Step::WriteIntent { journal, intent_id } => {
            w.replicas[replica].doing = write(judged, journal, Some(intent_id));
        }
        Step::Post(_) => w.replicas[replica].doing = post(w, memory)?,
        _ => return None,
    }
    Some(())
}

pub(super) fn post(w: &mut World, memory: &mut Memory) -> Option<Doing> {
    let Attempt { intent_id: intent, file_id: file, post_by, .. } = w.attempt()?.clone();
    memory.permit = None;
    if w.now >= post_by {
        memory.posted.insert(intent, Posted::Refused(Refusal::NotSent, String::new()));
        return Some(Doing::Nothing);
    }
    w.history.asked_when_closed |= w.journal.as_ref()?.closing.is_some();
    w.posts.push(Post { intent: intent.clone(), file });
    Some(Doing::Waiting(intent))
}

/// Whether a write is one step forward and forgets nothing.
pub(super) fn is_lawful(write: &Write) -> bool {
    use AttemptState::{Intended, Refused, Revoked, Revoking, Submitted};
    let next = &*write.next;
    let Some(judged) = write.judged.as_deref() else { return next.rev == 1 && attempt(next).is_none() };
    let starts = |b: &Attempt, number| b.number == number && b.state == Intended && next.closing.is_none();
    let forward = match (attempt(judged), attempt(next)) {
        (None, None) => true,
        (None, Some(b)) => starts(b, 1),
        (Some(_), None) => false,
        (Some(a), Some(b)) if a == b => true,
        (Some(a), Some(b)) if a.intent_id == b.intent_id => match (&a.state, &b.state) {
            (Intended, Submitted { .. } | Revoking) => a.file_id == b.file_id,
            (Intended, Refused { .. }) | (Revoking, Submitted { .. } | Revoked { .. }) => true,
            (Revoking, Refused { refusal, .. }) => *refusal == Refusal::TooOften,
            _ => false,
        },
        (Some(a), Some(b)) => matches!(a.state, Revoked { .. } | Refused { .. }) && starts(b, a.number + 1),
    };
    forward && next.rev == judged.rev + 1
}
