//! The submission protocol, model-checked: the production [`decide`] run by two replicas without a lease, over one shard,
//! from the opening of the journal to a recorded batch, through every interleaving within a budget of faults.
//!
//! Proved within the budgets: nobody pays twice, no batch is lost, nothing gets stuck, and every write of the journal is
//! one step forward. Each rule of the protocol that the executor around `decide` breaks on purpose ends in a second paid
//! batch.
//!
//! What may happen at any time: a replica crashes, pauses between any two effects, or decides on an object that has
//! changed since it was read; a reply of the provider or of the storage is lost; a POST stays in the network for however
//! long and arrives after its sender gave up; the provider has no room; a batch shows late in the list; a replica takes
//! the storage for careless; the object is created again, edited, suspended or deleted.
//!
//! Assumed: the storage keeps the conditions of conditional writes, a create on a deleted file is refused, and a batch is
//! listed before `listing_lag` is over. The clock is one for both replicas and moves only to moments that somebody waits
//! for. Left out: gateways that repeat a POST, rotated credentials, people's answers, deadlines, several shards, and what
//! comes after a batch is recorded.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use batchjob_operator::api::{DeletionPolicy, InputStatus, Lock, Outcome, ProviderFilePolicy, RequestCounts};
use batchjob_operator::lifecycle::{
    Attempt, AttemptState, JobView, Journal, Memory, Observed, Owner, Pass, Plan, Planned, Posted, Refusal, Search,
    Shard, Step, Timing, decide,
};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// How long the provider's list really lags.
const LAG: i64 = 2;
/// Beyond the clock: that a deletion is let through, loudly, is not modelled.
const NEVER: i64 = 1_000_000;
/// Replicas that judge differently may undo each other's plan for as long as they like.
const REVISIONS: u64 = 14;
const NO_DOUBLE_PAY: &str = "never pays twice";

/// How often what may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    crashes: u8,
    /// Replies to a POST.
    lost_replies: u8,
    /// Replies to a write of the journal; the write itself may still land at any time.
    lost_writes: u8,
    /// A right to POST outlives its last moment.
    stalls: u8,
    /// The provider has no room.
    refusals: u8,
    /// A replica takes the storage for careless.
    bad_proofs: u8,
    /// The object goes without its finalizer and is created again under its name.
    recreations: u8,
    /// The spec becomes another work's: when the object is created again, or after a failure that cost nothing.
    edits: u8,
    deletions: u8,
    flips: u8,
}

/// A rule that the executor around `decide` breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// The journal is written over the version of the moment, not over the one that was judged.
    WritesUnjudged,
    /// Whoever reads an intent takes it for a permit.
    ReaderPosts,
    /// The next attempt starts although the file is still there.
    RevokesNothing,
    /// The list is believed too soon after the file is gone.
    ListsTooSoon,
    /// A lost reply is taken for a refusal.
    LostIsRefused,
}

#[derive(Clone, Copy, Debug)]
struct Protocol {
    budget: Budget,
    policy: DeletionPolicy,
    attempts: u32,
    mutant: Option<Mutant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: i64,
    object: Option<Shared<JobView>>,
    journal: Option<Shared<Journal>>,
    replicas: [Replica; 2],
    /// A write whose reply was lost and that has not landed yet.
    late: Option<Write>,
    /// POSTs in the network.
    posts: Vec<Post>,
    batches: Vec<Batch>,
    deleted_files: BTreeSet<String>,
    left: Budget,
    history: History,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    memory: Shared<Memory>,
    /// The uid of the object that the memory is about.
    of: String,
    /// An object that was read before it changed, and when.
    stale: Option<(Shared<JobView>, i64)>,
    doing: Doing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Doing {
    #[default]
    Nothing,
    Writing(Write),
    /// The reply to the write of this intent was lost.
    Unsure(String),
    /// For the reply to the POST of this intent.
    Waiting(String),
    /// Takes the finalizer off the object that was judged.
    LettingGo(Shared<JobView>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Write {
    judged: Option<Shared<Journal>>,
    next: Shared<Journal>,
    intent: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Post {
    intent: String,
    file: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Batch {
    id: String,
    intent: String,
    /// Begins with the letter of the work that it carries.
    file: String,
    at: i64,
    listed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct History {
    crashed_with_permit: bool,
    reply_lost: bool,
    adopted: bool,
    asked_when_closed: bool,
}

/// `stale` is a set of replicas, by bits: those that read the object just before it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Act { replica: usize, bad_proof: bool },
    Write(usize),
    LoseWrite(usize),
    LateWrite,
    Reread(usize),
    LetGo { replica: usize, stale: u8 },
    Crash(usize),
    Arrive(usize),
    Refuse(usize),
    Reply(usize),
    LoseReply(usize),
    List(usize),
    Tick,
    Recreate { edited: bool, stale: u8 },
    Edit { stale: u8 },
    Flip { stale: u8 },
    Delete { stale: u8 },
}

/// A value that many states share, and whose hash is computed once.
#[derive(Clone, Debug)]
struct Shared<T>(Arc<(u64, T)>);

impl<T: Hash> Shared<T> {
    fn new(value: T) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Shared(Arc::new((hasher.finish(), value)))
    }
}

impl<T: Hash + Default> Default for Shared<T> {
    fn default() -> Self {
        Shared::new(T::default())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.0 == other.0.0 && self.0.1 == other.0.1
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.0.0);
    }
}

fn attempt(journal: &Journal) -> Option<&Attempt> {
    journal.shards.first()?.attempt.as_ref()
}

fn work_of(file: &str) -> &str {
    &file[..1]
}

impl World {
    fn attempt(&self) -> Option<&Attempt> {
        self.journal.as_deref().and_then(attempt)
    }

    /// The journal's attempt, and those that may yet become it.
    fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        let writes = self.replicas.iter().filter_map(|r| match &r.doing {
            Doing::Writing(write) => Some(write),
            _ => None,
        });
        writes.chain(&self.late).map(|w| &w.next).chain(&self.journal).filter_map(|j| attempt(j))
    }

    fn is_submitted(&self) -> bool {
        self.attempt().is_some_and(|a| matches!(a.state, AttemptState::Submitted { .. }))
    }

    fn is_in_use(&self, id: &str) -> bool {
        self.attempts().any(|a| a.intent_id == id || a.file_id == id)
            || self.posts.iter().any(|p| p.intent == id || p.file == id)
            || self.batches.iter().any(|b| b.intent == id || b.file == id)
            || self.replicas.iter().any(|r| matches!(&r.doing, Doing::Unsure(i) | Doing::Waiting(i) if i == id))
    }

    fn fresh(&self, prefix: &str) -> String {
        (1..).map(|n| format!("{prefix}{n}")).find(|id| !self.is_in_use(id)).unwrap()
    }

    fn learn(&mut self, replica: usize, learn: impl FnOnce(&mut Memory)) {
        let mut memory = Memory::clone(&self.replicas[replica].memory);
        learn(&mut memory);
        self.replicas[replica].memory = Shared::new(memory);
    }

    fn replace(&mut self, object: Option<JobView>, stale: u8) {
        let old = std::mem::replace(&mut self.object, object.map(Shared::new));
        for (i, replica) in self.replicas.iter_mut().enumerate() {
            if stale & 1 << i != 0 {
                replica.stale = old.clone().map(|object| (object, self.now));
            }
        }
    }

    fn edit_object(&mut self, stale: u8, edit: impl FnOnce(&mut JobView)) -> Option<()> {
        let mut object = JobView::clone(self.object.as_ref()?);
        edit(&mut object);
        self.replace(Some(object), stale);
        Some(())
    }

    fn decide(&self, memory: &Memory, timing: &Timing, job: &JobView, now: i64) -> Step {
        decide(&Observed { now, nonce: "?", timing, job, journal: self.journal.as_deref(), memory })
    }

    /// Random names are given when they get out, and are the first that nothing mentions: states that differ in names
    /// only are one.
    fn named(&self, mut write: Write) -> Write {
        if let Some(intent) = &mut write.intent {
            *intent = self.fresh("i");
            let mut next = Journal::clone(&write.next);
            let attempt = next.shards[0].attempt.as_mut().unwrap();
            attempt.intent_id = intent.clone();
            if attempt.file_id == work_of(&attempt.file_id) {
                attempt.file_id = self.fresh(&attempt.file_id);
            }
            write.next = Shared::new(next);
        }
        write
    }

    fn apply(&mut self, write: &Write, mutant: Option<Mutant>) -> bool {
        let unjudged = mutant == Some(Mutant::WritesUnjudged) && self.journal.is_some() && write.judged.is_some();
        let applied = unjudged || self.journal == write.judged;
        if applied {
            let taken = self.journal.as_ref().is_some_and(|j| j.owner != write.next.owner);
            self.history.adopted |= taken && attempt(&write.next).is_some();
            self.journal = Some(write.next.clone());
        }
        applied
    }

    /// Whether a memory holds what is found out again for nothing, or what no decision can look at any more.
    fn has_chaff(&self, memory: &Memory) -> bool {
        let dead_intent = |id: &String| self.attempts().all(|a| a.intent_id != *id);
        let dead_file = |id: &String| self.attempts().all(|a| a.file_id != *id);
        let found_again = memory.manifest.is_some()
            || memory.pass.is_some()
            || memory.resolvable.is_some()
            || memory.store_proved == Some(Ok(()))
            || !memory.files.is_empty()
            || !memory.uploads.is_empty();
        found_again
            || memory.posted.keys().chain(memory.searches.keys()).chain(&memory.permit).any(dead_intent)
            || memory.revoked.keys().any(dead_file)
    }

    fn without_chaff(&self, memory: &Memory, keep_uploads: bool) -> Memory {
        let mut memory = memory.clone();
        let is_live = |id: &String| self.attempts().any(|a| a.intent_id == *id || a.file_id == *id);
        memory.posted.retain(|intent, _| is_live(intent));
        memory.searches.retain(|intent, _| is_live(intent));
        memory.permit = memory.permit.take().filter(is_live);
        memory.revoked.retain(|file, _| is_live(file));
        memory.store_proved = memory.store_proved.take().filter(Result::is_err);
        memory.files.clear();
        (memory.manifest, memory.pass, memory.resolvable) = (None, None, None);
        let number = self.attempt().map_or(0, |a| a.number);
        memory.uploads.retain(|(slot, _), _| keep_uploads && slot.attempt > number);
        memory
    }

    /// Forgets chaff and gives symmetric states one shape: states that no property can tell apart are one.
    fn normalised(mut self, keep_uploads: bool) -> Self {
        self.late = self.late.take().filter(|write| write.judged == self.journal);
        for i in 0..2 {
            let replica = &self.replicas[i];
            if self.has_chaff(&replica.memory) {
                self.replicas[i].memory = Shared::new(self.without_chaff(&replica.memory, keep_uploads));
            }
            let replica = &mut self.replicas[i];
            if replica.doing == Doing::Nothing && *replica.memory == Memory::default() {
                replica.of.clear();
            }
        }
        if !self.deleted_files.is_empty() {
            let deleted = std::mem::take(&mut self.deleted_files);
            self.deleted_files = deleted.into_iter().filter(|file| self.is_in_use(file)).collect();
        }
        self.posts.sort();
        self.replicas.sort_by_cached_key(|replica| {
            let mut hasher = DefaultHasher::new();
            replica.hash(&mut hasher);
            hasher.finish()
        });
        self
    }
}

impl Protocol {
    fn timing(&self) -> Timing {
        let listing_lag = if self.mutant == Some(Mutant::ListsTooSoon) { 0 } else { LAG };
        Timing { post_window: 1, send_timeout: 1, listing_lag, deletion_deadline: NEVER }
    }

    fn new_object(&self, uid: u8, work: &str) -> JobView {
        JobView {
            owner: Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: uid.to_string() },
            deleting_since: None,
            finalizer: false,
            suspend: false,
            spec_hash: work.into(),
            output_uri: "u".into(),
            lock: None,
            parallelism: 1,
            backoff_limit_per_batch: 100,
            backoff_limit_per_request: 0,
            max_failed: None,
            deadline: None,
            poll_period: 1,
            deletion_policy: self.policy,
            pinned: true,
            provider: None,
            submitted: false,
            provider_file_policy: ProviderFilePolicy::Delete,
            batches: vec![],
            finished: false,
            tidy: false,
            answer: None,
            fingerprint: "k".into(),
            stuck: None,
        }
    }

    /// One decision on the object, perhaps an old copy of it, and the journal as it is now. What only teaches the replica
    /// something is done on the way to the one effect: nobody else can tell when that happened.
    fn act(&self, w: &mut World, replica: usize, bad_proof: bool) -> Option<()> {
        let stale = w.replicas[replica].stale.take();
        let mut learned = stale.is_some();
        let (job, now) = stale.or_else(|| Some((w.object.clone()?, w.now)))?;
        let judged_anew = job.lock.is_none() && job.deleting_since.is_none();
        let same = w.replicas[replica].of == job.owner.uid && !judged_anew;
        let mut memory = if same { Memory::clone(&w.replicas[replica].memory) } else { Memory::default() };
        let mut unproved = bad_proof;
        let done = loop {
            if self.mutant == Some(Mutant::ReaderPosts) {
                take_for_a_permit(w, &mut memory);
            }
            match w.decide(&memory, &self.timing(), &job, now) {
                Step::ProveStore if bad_proof => {
                    unproved = false;
                    memory.store_proved = Some(Err("careless".into()));
                }
                Step::Wait { .. } | Step::Poll(_) => break learned.then_some(()),
                step if find_out(w, &mut memory, &job, &step) || self.look(w, &mut memory, &step) => {}
                step => break execute(w, replica, &mut memory, &job, step),
            }
            learned = true;
        };
        w.replicas[replica].of.clone_from(&job.owner.uid);
        w.replicas[replica].memory = Shared::new(memory);
        done.filter(|()| !unproved)
    }

    /// Looks at the provider, and deletes files there.
    fn look(&self, w: &mut World, memory: &mut Memory, step: &Step) -> bool {
        let Some(a) = w.attempt().cloned() else { return false };
        match step {
            Step::Search(_) => {
                let ours = |b: &&Batch| b.listed && (b.intent == a.intent_id || b.file == a.file_id);
                let found = w.batches.iter().filter(ours).map(|b| b.id.clone()).collect();
                memory.searches.insert(a.intent_id, Search { began: w.now, found });
            }
            Step::Revoke(_) => {
                memory.revoked.insert(a.file_id.clone(), w.now);
                if self.mutant != Some(Mutant::RevokesNothing) {
                    w.deleted_files.insert(a.file_id);
                }
            }
            _ => return false,
        }
        true
    }

    /// What the replica would do next, once it knows what is found out for nothing.
    fn intends(&self, w: &World, replica: usize) -> Option<Step> {
        let job = w.object.as_ref()?;
        let mut memory = Memory::clone(&w.replicas[replica].memory);
        loop {
            let step = w.decide(&memory, &self.timing(), job, w.now);
            if !find_out(w, &mut memory, job, &step) {
                return Some(step);
            }
        }
    }

    /// The next moment that somebody waits for; none if a batch would have to be listed before.
    fn tick(&self, w: &mut World) -> Option<()> {
        let idle = (0..2).filter(|r| w.replicas[*r].doing == Doing::Nothing);
        let waits = idle.filter_map(|r| match self.intends(w, r)? {
            Step::Wait { until, .. } => until,
            _ => None,
        });
        let rights: Vec<i64> = w.replicas.iter().filter_map(|r| last_moment(w, r)).collect();
        let now = waits.chain(rights.iter().copied()).filter(|t| *t > w.now && *t < NEVER).min()?;
        if w.batches.iter().any(|b| !b.listed && now >= b.at + LAG) {
            return None;
        }
        let stalls = rights.iter().any(|t| *t > w.now && *t <= now);
        w.left.stalls = w.left.stalls.checked_sub(u8::from(stalls))?;
        w.now = now;
        Some(())
    }

    /// Nothing is under way and nobody has anything to do.
    fn is_at_rest(&self, w: &World) -> bool {
        w.late.is_none()
            && w.posts.is_empty()
            && w.batches.iter().all(|b| b.listed)
            && w.replicas.iter().all(|r| r.doing == Doing::Nothing && r.stale.is_none())
            && (0..2).all(|r| match self.intends(w, r) {
                // Where the model ends: the job has its batch, or goes on to its end without one.
                None | Some(Step::Poll(_) | Step::DeleteFiles(_) | Step::Write) => true,
                Some(step) => matches!(step, Step::Wait { until: None, .. }),
            })
    }
}

fn take_for_a_permit(w: &World, memory: &mut Memory) {
    let Some(a) = w.attempt() else { return };
    if !memory.posted.contains_key(&a.intent_id) {
        memory.permit = Some(a.intent_id.clone());
    }
}

/// When the replica's unspent right to POST ends.
fn last_moment(w: &World, replica: &Replica) -> Option<i64> {
    match &replica.doing {
        Doing::Writing(Write { next, intent: Some(_), .. }) => attempt(next).map(|a| a.post_by),
        _ if replica.memory.permit.is_some() => w.attempt().map(|a| a.post_by),
        _ => None,
    }
}

/// Steps that teach the replica what nobody else changes.
fn find_out(w: &World, memory: &mut Memory, job: &JobView, step: &Step) -> bool {
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
fn execute(w: &mut World, replica: usize, memory: &mut Memory, job: &Shared<JobView>, step: Step) -> Option<()> {
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

fn post(w: &mut World, memory: &mut Memory) -> Option<Doing> {
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
fn is_lawful(write: &Write) -> bool {
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

/// What replicas do, and what becomes of it.
impl Protocol {
    fn replica_actions(&self, w: &World, i: usize, out: &mut Vec<Action>) {
        let replica = &w.replicas[i];
        match &replica.doing {
            Doing::Nothing => {
                out.push(Action::Act { replica: i, bad_proof: false });
                if w.left.bad_proofs > 0 && replica.memory.store_proved.is_none() {
                    out.push(Action::Act { replica: i, bad_proof: true });
                }
            }
            Doing::Writing(_) => {
                out.push(Action::Write(i));
                if w.left.lost_writes > 0 && w.late.is_none() {
                    out.push(Action::LoseWrite(i));
                }
            }
            Doing::Unsure(_) => out.push(Action::Reread(i)),
            Doing::Waiting(intent) => {
                if w.posts.iter().all(|p| p.intent != *intent) {
                    out.push(Action::Reply(i));
                }
                if w.left.lost_replies > 0 {
                    out.push(Action::LoseReply(i));
                }
            }
            Doing::LettingGo(_) => out.extend(readers(w).map(|stale| Action::LetGo { replica: i, stale })),
        }
        if w.left.crashes > 0 && (replica.doing != Doing::Nothing || *replica.memory != Memory::default()) {
            out.push(Action::Crash(i));
        }
    }

    fn write(&self, w: &mut World, replica: usize, write: Write) {
        let write = w.named(write);
        if w.apply(&write, self.mutant) && write.intent.is_some() {
            w.learn(replica, |m| m.permit = write.intent);
        }
    }

    fn lose_write(&self, w: &mut World, replica: usize, write: Write) {
        w.left.lost_writes -= 1;
        let write = w.named(write);
        if let Some(intent) = &write.intent {
            w.replicas[replica].doing = Doing::Unsure(intent.clone());
        }
        w.late = Some(write);
    }

    fn reply(&self, w: &mut World, replica: usize, intent: String) {
        let batch = w.batches.iter().find(|b| b.intent == intent);
        let reply = match batch {
            Some(batch) => Posted::Created(batch.id.clone()),
            None if w.left.refusals < self.budget.refusals => Posted::Refused(Refusal::Capacity, String::new()),
            None => Posted::Refused(Refusal::Invalid, String::new()),
        };
        w.learn(replica, |m| _ = m.posted.insert(intent, reply));
    }

    fn lose_reply(&self, w: &mut World, replica: usize, intent: String) {
        w.left.lost_replies -= 1;
        w.history.reply_lost = true;
        let reply = match self.mutant {
            Some(Mutant::LostIsRefused) => Posted::Refused(Refusal::Capacity, String::new()),
            _ => Posted::Unknown(String::new()),
        };
        w.learn(replica, |m| _ = m.posted.insert(intent, reply));
    }

    /// What a replica was doing comes to its end.
    fn finish(&self, w: &mut World, replica: usize, action: Action) -> Option<()> {
        match (std::mem::take(&mut w.replicas[replica].doing), action) {
            (Doing::Writing(write), Action::Write(_)) => self.write(w, replica, write),
            (Doing::Writing(write), Action::LoseWrite(_)) => self.lose_write(w, replica, write),
            (Doing::Unsure(intent), Action::Reread(_)) => {
                if w.attempt().is_some_and(|a| a.intent_id == intent && a.state == AttemptState::Intended) {
                    w.learn(replica, |m| m.permit = Some(intent));
                }
            }
            (Doing::Waiting(intent), Action::Reply(_)) => self.reply(w, replica, intent),
            (Doing::Waiting(intent), Action::LoseReply(_)) => self.lose_reply(w, replica, intent),
            (Doing::LettingGo(judged), Action::LetGo { stale, .. }) if w.object.as_ref() == Some(&judged) => {
                w.replace(None, stale);
            }
            (Doing::LettingGo(_), Action::LetGo { .. }) => {}
            _ => return None,
        }
        Some(())
    }
}

/// What happens around them.
impl Protocol {
    fn provider_actions(&self, w: &World, out: &mut Vec<Action>) {
        out.extend((0..w.posts.len()).map(Action::Arrive));
        if w.left.refusals > 0 {
            out.extend((0..w.posts.len()).filter(|i| !w.deleted_files.contains(&w.posts[*i].file)).map(Action::Refuse));
        }
        out.extend((0..w.batches.len()).filter(|i| !w.batches[*i].listed).map(Action::List));
    }

    fn people_actions(&self, w: &World, out: &mut Vec<Action>) {
        if w.left.recreations > 0 {
            out.extend(readers(w).map(|stale| Action::Recreate { edited: false, stale }));
            if w.left.edits > 0 {
                out.extend(readers(w).map(|stale| Action::Recreate { edited: true, stale }));
            }
        }
        let Some(object) = &w.object else { return };
        if w.left.edits > 0 && object.finished {
            out.extend(readers(w).map(|stale| Action::Edit { stale }));
        }
        if w.left.flips > 0 {
            out.extend(readers(w).map(|stale| Action::Flip { stale }));
        }
        if w.left.deletions > 0 && object.deleting_since.is_none() && object.finalizer {
            out.extend(readers(w).map(|stale| Action::Delete { stale }));
        }
    }

    fn happen(&self, w: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Crash(replica) => {
                w.left.crashes -= 1;
                w.history.crashed_with_permit |= w.replicas[replica].memory.permit.is_some();
                w.replicas[replica] = Replica::default();
            }
            Action::LateWrite => {
                let write = w.late.take()?;
                w.apply(&write, None);
            }
            Action::Arrive(i) => {
                let Post { intent, file } = w.posts.remove(i);
                if !w.deleted_files.contains(&file) {
                    let id = format!("b{}", w.batches.len());
                    w.batches.push(Batch { id, intent, file, at: w.now, listed: false });
                }
            }
            Action::Refuse(i) => {
                w.left.refusals -= 1;
                w.posts.remove(i);
            }
            Action::List(i) => w.batches[i].listed = true,
            Action::Tick => self.tick(w)?,
            Action::Recreate { edited, stale } => {
                w.left.recreations -= 1;
                w.left.edits -= u8::from(edited);
                let uid = 1 + self.budget.recreations - w.left.recreations;
                w.replace(Some(self.new_object(uid, if edited { "B" } else { "A" })), stale);
            }
            Action::Edit { stale } => {
                w.left.edits -= 1;
                w.edit_object(stale, |o| (o.spec_hash, o.finished) = ("B".into(), false))?;
            }
            Action::Flip { stale } => {
                w.left.flips -= 1;
                w.edit_object(stale, |o| o.suspend = !o.suspend)?;
            }
            Action::Delete { stale } => {
                w.left.deletions -= 1;
                let now = w.now;
                w.edit_object(stale, |o| o.deleting_since = Some(now))?;
            }
            _ => return None,
        }
        Some(())
    }
}

/// Every choice of replicas that may have read the object just before it changes.
fn readers(w: &World) -> impl Iterator<Item = u8> {
    let may = |i: usize| w.replicas[i].doing == Doing::Nothing && w.replicas[i].stale.is_none();
    let able = u8::from(may(0)) | u8::from(may(1)) << 1;
    (0..4u8).filter(move |set| set & !able == 0)
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut object = self.new_object(1, "A");
        object.finalizer = true;
        object.lock = Some(Lock { spec_hash: "A".into(), output_uri: "u".into() });
        vec![World {
            now: 0,
            object: Some(Shared::new(object)),
            journal: None,
            replicas: Default::default(),
            late: None,
            posts: vec![],
            batches: vec![],
            deleted_files: BTreeSet::new(),
            left: self.budget,
            history: History::default(),
        }]
    }

    fn actions(&self, w: &World, out: &mut Vec<Action>) {
        (0..2).for_each(|i| self.replica_actions(w, i, out));
        out.extend(w.late.as_ref().map(|_| Action::LateWrite));
        self.provider_actions(w, out);
        out.push(Action::Tick);
        self.people_actions(w, out);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut w = last.clone();
        match action {
            Action::Act { replica, bad_proof } => {
                w.left.bad_proofs -= u8::from(bad_proof);
                self.act(&mut w, replica, bad_proof)?;
            }
            Action::Write(r) | Action::LoseWrite(r) | Action::Reread(r) | Action::Reply(r) | Action::LoseReply(r) => {
                self.finish(&mut w, r, action)?;
            }
            Action::LetGo { replica, .. } => self.finish(&mut w, replica, action)?,
            _ => self.happen(&mut w, action)?,
        }
        Some(w.normalised(self.budget.edits > 0))
    }

    fn within_boundary(&self, w: &World) -> bool {
        let rev = w.journal.as_ref().map_or(0, |j| j.rev);
        w.attempts().all(|a| a.number <= self.attempts) && rev <= REVISIONS
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::<Self>::always(NO_DOUBLE_PAY, |_, w| {
                let of = |work| w.batches.iter().filter(|b| work_of(&b.file) == work).count();
                of("A") <= 1 && of("B") <= 1
            }),
            Property::<Self>::always("what is recorded exists, and is what was planned", |_, w| {
                let Some(Attempt { intent_id, state: AttemptState::Submitted { batch_id, .. }, .. }) = w.attempt()
                else {
                    return true;
                };
                let planned = &w.journal.as_ref().unwrap().shards[0].sha256;
                w.batches.iter().any(|b| b.id == *batch_id && b.intent == *intent_id && work_of(&b.file) == planned)
            }),
            Property::<Self>::always("never loses a batch", |m, w| {
                w.batches.iter().all(|b| is_known(w, b)) || !m.is_at_rest(w)
            }),
            Property::<Self>::always("rests only when submitted", |m, w| {
                let waits = w.object.as_ref().is_none_or(|o| o.suspend || o.finished || o.deleting_since.is_some());
                let cancelled = w.journal.as_ref().and_then(|j| j.commit.as_ref());
                let ended = cancelled.is_some_and(|c| c.outcome == Outcome::Cancelled);
                waits || ended || w.is_submitted() || !m.is_at_rest(w)
            }),
            Property::<Self>::always("asks for nothing once the journal is closed", |_, w| {
                !w.history.asked_when_closed
            }),
            Property::<Self>::always("every write is one step forward", |_, w| {
                w.replicas.iter().all(|r| !matches!(&r.doing, Doing::Writing(write) if !is_lawful(write)))
            }),
            Property::<Self>::sometimes("submitted", |_, w| w.is_submitted()),
        ];
        if self.budget.crashes > 0 {
            all.push(Property::<Self>::sometimes("submitted after a crash between intent and POST", |_, w| {
                w.is_submitted() && w.history.crashed_with_permit && !w.history.reply_lost
            }));
        }
        if self.budget.lost_replies > 0 {
            all.push(Property::<Self>::sometimes("submitted after a lost reply", |_, w| {
                w.is_submitted() && w.history.reply_lost
            }));
        }
        if self.budget.recreations > 0 {
            all.push(Property::<Self>::sometimes("adopted by an object that was created again", |_, w| {
                w.is_submitted() && w.history.adopted
            }));
        }
        all
    }
}

/// Recorded; or, where the object was created again for other work and refused, still named by the journal's intent.
fn is_known(w: &World, batch: &Batch) -> bool {
    let refused = w.object.as_ref().is_some_and(|o| o.finished);
    w.attempt().is_some_and(|a| match &a.state {
        AttemptState::Submitted { batch_id, .. } => *batch_id == batch.id,
        _ => refused && a.intent_id == batch.intent,
    })
}

fn holds(budget: Budget) {
    Protocol { budget, policy: DeletionPolicy::Cancel, attempts: 2, mutant: None }.holds();
}

impl Protocol {
    fn holds(self) {
        let began = Instant::now();
        let checker = self.checker().threads(2).spawn_bfs().join();
        let (states, depth, seconds) =
            (checker.unique_state_count(), checker.max_depth(), began.elapsed().as_secs_f64());
        println!("{states} unique states, depth {depth}, {seconds:.1} s: {:?}", self.budget);
        checker.assert_properties();
    }
}

/// The shortest way to a second paid batch.
fn pays_twice(mutant: Mutant, budget: Budget) {
    let began = Instant::now();
    let model = Protocol { budget, policy: DeletionPolicy::Cancel, attempts: 2, mutant: Some(mutant) };
    let found = HasDiscoveries::AnyOf([NO_DOUBLE_PAY].into());
    let path = (1..40).find_map(|depth| {
        model.checker().target_max_depth(depth).finish_when(found.clone()).spawn_bfs().join().discovery(NO_DOUBLE_PAY)
    });
    let path = path.unwrap_or_else(|| panic!("{mutant:?} goes unnoticed")).into_actions();
    println!("{mutant:?}: pays twice in {} steps, {:.1} s: {path:?}", path.len(), began.elapsed().as_secs_f64());
}

#[test]
fn crashes_and_lost_replies() {
    holds(Budget { crashes: 2, lost_replies: 2, ..Budget::default() });
}

#[test]
fn lost_replies_of_the_storage() {
    holds(Budget { lost_writes: 1, lost_replies: 1, ..Budget::default() });
}

#[test]
fn rights_that_outlive_their_last_moment() {
    holds(Budget { stalls: 1, crashes: 1, ..Budget::default() });
}

#[test]
fn a_provider_without_room() {
    holds(Budget { refusals: 1, lost_replies: 1, ..Budget::default() });
}

#[test]
fn a_storage_taken_for_careless() {
    holds(Budget { bad_proofs: 1, crashes: 1, ..Budget::default() });
    holds(Budget { bad_proofs: 1, edits: 1, ..Budget::default() });
}

#[test]
fn suspended_and_resumed() {
    holds(Budget { flips: 1, lost_replies: 2, ..Budget::default() });
}

#[test]
fn created_again() {
    holds(Budget { recreations: 1, crashes: 1, ..Budget::default() });
    holds(Budget { recreations: 1, lost_replies: 1, ..Budget::default() });
}

#[test]
fn created_again_for_other_work() {
    holds(Budget { recreations: 1, edits: 1, ..Budget::default() });
}

#[test]
fn deleted() {
    holds(Budget { deletions: 1, lost_replies: 1, ..Budget::default() });
}

#[test]
fn deleted_and_created_again() {
    let budget = Budget { deletions: 1, recreations: 1, ..Budget::default() };
    for policy in [DeletionPolicy::Cancel, DeletionPolicy::Orphan] {
        Protocol { budget, policy, attempts: 1, mutant: None }.holds();
    }
}

#[test]
fn without_any_one_rule_it_pays_twice() {
    let none = Budget::default();
    pays_twice(Mutant::WritesUnjudged, none);
    pays_twice(Mutant::ReaderPosts, none);
    pays_twice(Mutant::RevokesNothing, none);
    pays_twice(Mutant::ListsTooSoon, none);
    pays_twice(Mutant::LostIsRefused, Budget { lost_replies: 1, ..none });
}
