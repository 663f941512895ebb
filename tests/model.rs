//! The submission protocol, model-checked: two replicas without a lease run the production `decide` over one shard, from
//! the opening of the journal to a recorded batch, in a world where replicas crash, act on objects that they read long
//! ago, and lose replies of the provider and of the store; where POSTs arrive late and lists lag; where the object is
//! deleted, made again, edited, suspended and resumed.
//!
//! Shown: never are there two batches of the one line; whatever batch exists is in the journal or still looked for when
//! everything has come to rest; every write of the journal is one lawful step. The one assumption is that the provider's
//! list lags by at most a known time. Mutants of the world around `decide` show that the check can fail.

#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use batchjob_operator::api::{DeletionPolicy, InputStatus, Lock};
use batchjob_operator::lifecycle::{
    Attempt, AttemptState, JobView, Journal, Memory, Observed, Owner, Pass, Plan, Planned, Posted, Refusal, Search,
    Shard, Slot, Step, Timing, decide,
};
use stateright::{Checker, HasDiscoveries, Model, Path, Property};

/// How long the provider's list really lags, in the model's time.
const LAG: i64 = 2;
const TIMING: Timing = Timing { post_window: 1, send_timeout: 1, listing_lag: LAG, deletion_deadline: 1_000_000 };

/// How often the environment may do what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    crashes: u8,
    lost: u8,
    lost_writes: u8,
    recreations: u8,
    edits: u8,
    flips: u8,
    deletions: u8,
    refusals: u8,
    bad_proofs: u8,
    stalls: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    WriteOnCurrent,
    ReaderPosts,
    NoRevocation,
    ShortQuiet,
    LostIsRefused,
}

#[derive(Clone, Debug)]
struct Protocol {
    budget: Budget,
    policy: DeletionPolicy,
    attempts: u32,
    mutant: Option<Mutant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: i64,
    object: Option<Arc<JobView>>,
    journal: Option<Arc<Journal>>,
    replicas: [Replica; 2],
    late: Option<Write>,
    posts: Vec<Post>,
    batches: Vec<Batch>,
    deleted: BTreeSet<String>,
    left: Budget,
    history: History,
    keep: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    /// The uid of the job that the memory is about.
    of: String,
    memory: Arc<Memory>,
    /// An object that was read before it changed, and when.
    stale: Option<(Arc<JobView>, i64)>,
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
    LettingGo(Arc<JobView>),
}

/// A conditional write: the version that was judged, and what is to replace it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Write {
    judged: Option<Arc<Journal>>,
    next: Arc<Journal>,
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
    file: String,
    at: i64,
    listed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct History {
    crashed_with_permit: bool,
    reply_lost: bool,
    adopted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Act(usize),
    BadProof(usize),
    Write(usize),
    LoseWrite(usize),
    LateWrite,
    Reread(usize),
    LetGo(usize, u8),
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

fn attempt(journal: &Journal) -> Option<&Attempt> {
    journal.shards.first()?.attempt.as_ref()
}

/// The letter of the work that a file or shard carries.
fn work_of(file: &str) -> &str {
    &file[..1]
}

impl World {
    fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.journals().filter_map(|j| attempt(j))
    }

    /// The journal, and what it may become.
    fn journals(&self) -> impl Iterator<Item = &Arc<Journal>> {
        let writes = self.replicas.iter().filter_map(|r| match &r.doing {
            Doing::Writing(w) => Some(w),
            _ => None,
        });
        writes.chain(&self.late).map(|w| &w.next).chain(&self.journal)
    }

    fn in_use(&self, id: &str) -> bool {
        self.attempts().any(|a| a.intent_id == id || a.file_id == id)
            || self.posts.iter().any(|p| p.intent == id || p.file == id)
            || self.batches.iter().any(|b| b.intent == id || b.file == id)
            || self.replicas.iter().any(|r| matches!(&r.doing, Doing::Unsure(i) | Doing::Waiting(i) if i == id))
    }

    /// Random names are the smallest that nothing mentions any more: states that differ in names only are one.
    fn fresh(&self, prefix: &str) -> String {
        (1..).map(|n| format!("{prefix}{n}")).find(|id| !self.in_use(id)).unwrap()
    }

    fn memory(&mut self, r: usize) -> &mut Memory {
        Arc::make_mut(&mut self.replicas[r].memory)
    }

    fn decide(&self, r: usize, timing: &Timing, job: &JobView, now: i64) -> Step {
        let memory = &self.replicas[r].memory;
        decide(&Observed { now, nonce: "?", timing, job, journal: self.journal.as_deref(), memory })
    }

    fn submitted(&self) -> bool {
        self.journal.as_deref().and_then(attempt).is_some_and(|a| matches!(a.state, AttemptState::Submitted { .. }))
    }

    /// Replaces the object; the replicas in `stale` read it just before.
    fn replace(&mut self, new: Option<JobView>, stale: u8) {
        let old = std::mem::replace(&mut self.object, new.map(Arc::new));
        for (i, r) in self.replicas.iter_mut().enumerate().filter(|(i, _)| stale & 1 << i != 0) {
            let _ = i;
            r.stale = old.clone().map(|o| (o, self.now));
        }
    }

    /// Names are given when they get out: states that differ in names only are one.
    fn named(&self, mut write: Write) -> Write {
        if let Some(intent) = &mut write.intent {
            *intent = self.fresh("i");
            let a = Arc::make_mut(&mut write.next).shards[0].attempt.as_mut().unwrap();
            a.intent_id = intent.clone();
            if a.file_id.len() == 1 {
                a.file_id = self.fresh(&a.file_id);
            }
        }
        write
    }

    fn apply(&mut self, write: &Write, unconditional: bool) -> bool {
        let judged = match unconditional && self.journal.is_some() {
            true => write.judged.is_some(),
            false => self.journal == write.judged,
        };
        if judged {
            let kept = attempt(&write.next).is_some();
            self.history.adopted |= kept && self.journal.as_ref().is_some_and(|j| j.owner != write.next.owner);
            self.journal = Some(write.next.clone());
        }
        judged
    }

    /// Forgets what no decision can look at again, and gives symmetric states one shape.
    fn normalised(mut self) -> Self {
        let live: Vec<Attempt> = self.attempts().cloned().collect();
        let number = self.journal.as_deref().and_then(attempt).map_or(0, |a| a.number);
        let intent = |id: &String| live.iter().any(|a| a.intent_id == *id);
        let file = |id: &String| live.iter().any(|a| a.file_id == *id);
        for r in &mut self.replicas {
            let m = &r.memory;
            let kept = self.left.edits > 0 || self.keep;
            let dead = m.manifest.is_some()
                || m.pass.is_some()
                || m.resolvable.is_some()
                || m.store_proved == Some(Ok(()))
                || !m.files.is_empty()
                || !kept && !m.uploads.is_empty()
                || m.posted.keys().chain(m.searches.keys()).chain(&m.permit).any(|i| !intent(i))
                || m.files.keys().chain(m.revoked.keys()).any(|f| !file(f))
                || m.uploads.keys().any(|s| s.attempt <= number);
            if dead {
                let m = Arc::make_mut(&mut r.memory);
                m.posted.retain(|i, _| intent(i));
                m.searches.retain(|i, _| intent(i));
                m.permit = m.permit.take().filter(&intent);
                m.files.retain(|f, _| file(f));
                m.revoked.retain(|f, _| file(f));
                m.uploads.retain(|s, _| s.attempt > number && kept);
                m.files.clear();
                (m.manifest, m.pass, m.resolvable) = (None, None, None);
                m.store_proved = m.store_proved.take().filter(|p| p.is_err());
            }
        }
        if !self.deleted.is_empty() {
            let deleted = std::mem::take(&mut self.deleted);
            self.deleted = deleted.into_iter().filter(|f| self.in_use(f)).collect();
        }
        self.late = self.late.take().filter(|w| w.judged == self.journal);
        self.posts.sort();
        self.replicas.sort_by_cached_key(|r| {
            let mut hasher = DefaultHasher::new();
            r.hash(&mut hasher);
            hasher.finish()
        });
        self
    }
}

impl Protocol {
    fn timing(&self) -> Timing {
        let listing_lag = if self.mutant == Some(Mutant::ShortQuiet) { 0 } else { LAG };
        Timing { listing_lag, ..TIMING }
    }

    fn new_object(&self, uid: u32, work: &str) -> JobView {
        JobView {
            backoff_limit_per_batch: 100,
            backoff_limit_per_request: 2,
            max_failed: None,
            provider_file_policy: Default::default(),
            deadline: None,
            owner: Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: uid.to_string() },
            deleting_since: None,
            finalizer: false,
            suspend: false,
            spec_hash: work.into(),
            output_uri: "u/".into(),
            lock: None,
            parallelism: 1,
            poll_period: 1,
            deletion_policy: self.policy,
            finished: false,
            tidy: false,
            answer: None,
            fingerprint: "k".into(),
            stuck: None,
        }
    }

    fn act(&self, w: &mut World, r: usize, bad_proof: bool) -> Option<()> {
        let stale = w.replicas[r].stale.take();
        let mut learned = stale.is_some();
        let (job, now) = stale.or_else(|| Some((w.object.clone()?, w.now)))?;
        if w.replicas[r].of != job.owner.uid || job.lock.is_none() && job.deleting_since.is_none() {
            w.replicas[r].of = job.owner.uid.clone();
            *w.memory(r) = Memory::default();
        }
        let mut proved = false;
        loop {
            if self.mutant == Some(Mutant::ReaderPosts)
                && let Some(a) = w.journal.clone().as_deref().and_then(attempt)
                && !w.replicas[r].memory.posted.contains_key(&a.intent_id)
            {
                w.memory(r).permit = Some(a.intent_id.clone());
            }
            let step = w.decide(r, &self.timing(), &job, now);
            if step == Step::ProveStore {
                (proved, learned) = (true, true);
                let verdict = if bad_proof { Err("ignores conditions".into()) } else { Ok(()) };
                w.memory(r).store_proved = Some(verdict);
                continue;
            }
            if find_out(w, r, &job, &step, self.mutant) {
                learned = true;
                continue;
            }
            if bad_proof && !proved {
                return None;
            }
            if matches!(step, Step::Wait { .. } | Step::Poll(_)) {
                return learned.then_some(());
            }
            return execute(w, r, &job, step);
        }
    }

    fn peek(&self, w: &World, r: usize) -> Option<Step> {
        let job = w.object.as_ref()?;
        let mut w = w.clone();
        loop {
            let step = w.decide(r, &self.timing(), job, w.now);
            if matches!(step, Step::Search(_) | Step::Revoke(_)) {
                return Some(step);
            }
            if step == Step::ProveStore {
                w.memory(r).store_proved = Some(Ok(()));
            } else if !find_out(&mut w, r, job, &step, None) {
                return Some(step);
            }
        }
    }

    /// The next moment that somebody waits for, unless a batch would have to be listed before.
    fn next_moment(&self, w: &World) -> Option<(i64, bool)> {
        let waits =
            (0..2).filter(|r| w.replicas[*r].doing == Doing::Nothing).filter_map(|r| match self.peek(w, r)? {
                Step::Wait { until, .. } => until,
                _ => None,
            });
        let rights = w.replicas.iter().filter_map(|r| match &r.doing {
            Doing::Writing(Write { next, intent: Some(_), .. }) => attempt(next).map(|a| a.post_by),
            _ if r.memory.permit.is_some() => w.journal.as_deref().and_then(attempt).map(|a| a.post_by),
            _ => None,
        });
        let rights: Vec<i64> = rights.collect();
        let at = waits.chain(rights.iter().copied()).filter(|t| *t > w.now && *t < TIMING.deletion_deadline).min()?;
        w.batches
            .iter()
            .all(|b| b.listed || at < b.at + LAG)
            .then_some((at, rights.iter().any(|t| w.now < *t && *t <= at)))
    }

    fn at_rest(&self, w: &World) -> bool {
        w.late.is_none()
            && w.posts.is_empty()
            && w.batches.iter().all(|b| b.listed)
            && w.replicas.iter().all(|r| r.doing == Doing::Nothing && r.stale.is_none())
            && (0..2).all(|r| matches!(self.peek(w, r), None | Some(Step::Poll(_) | Step::Wait { until: None, .. })))
    }
}

/// Steps that only teach the replica something that nobody else changes.
fn find_out(w: &mut World, r: usize, job: &JobView, step: &Step, mutant: Option<Mutant>) -> bool {
    let journal = w.journal.clone();
    let current = |slot: Slot| journal.as_ref().unwrap().shards[slot.shard].attempt.clone().unwrap();
    match step {
        Step::LookForManifest => w.memory(r).manifest = Some(None),
        Step::Pass { stage } => {
            let work = &job.spec_hash;
            let input = InputStatus { sha256: work.clone(), size_bytes: 1 };
            let plan = Plan { work_hash: work.clone(), input, requests: 1 };
            let shard = Shard {
                sha256: work.clone(),
                bytes: 1,
                first: 0,
                requests: 1,
                failures: 0,
                attempt: None,
                round: 0,
                took: Default::default(),
            };
            let planned = Planned { staged: stage.clone(), plan, shards: vec![shard] };
            w.memory(r).pass = Some(Pass { spec_hash: work.clone(), result: Ok(planned) });
        }
        Step::Probe => w.memory(r).resolvable = Some(true),
        Step::Upload(slot) => {
            let file = w.journal.as_ref().unwrap().shards[slot.shard].sha256.clone();
            w.memory(r).uploads.insert(*slot, file);
        }
        Step::Search(slot) => {
            let a = current(*slot);
            let ours = |b: &&Batch| b.listed && (b.intent == a.intent_id || b.file == a.file_id);
            let found = w.batches.iter().filter(ours).map(|b| b.id.clone()).collect();
            let began = w.now;
            w.memory(r).searches.insert(a.intent_id.clone(), Search { began, found });
        }
        Step::CheckFile(slot) => {
            let file = current(*slot).file_id;
            let there = !w.deleted.contains(&file);
            w.memory(r).files.insert(file, there);
        }
        Step::Revoke(slot) => {
            let file = current(*slot).file_id;
            let now = w.now;
            w.memory(r).revoked.insert(file.clone(), now);
            if mutant != Some(Mutant::NoRevocation) {
                w.deleted.insert(file);
            }
        }
        _ => return false,
    }
    true
}

/// Everything else: one effect.
fn execute(w: &mut World, r: usize, job: &Arc<JobView>, step: Step) -> Option<()> {
    let now = w.now;
    let current = |slot: Slot| w.journal.as_ref().map(|j| j.shards[slot.shard].attempt.clone().unwrap());
    match step {
        Step::AddFinalizer | Step::Lock(_) | Step::Fail(_) if w.object.as_ref() != Some(job) => {}
        Step::AddFinalizer => w.replace(Some(JobView { finalizer: true, ..(**job).clone() }), 0),
        Step::Lock(lock) => w.replace(Some(JobView { lock: Some(lock), ..(**job).clone() }), 0),
        Step::Fail(_) => w.replace(Some(JobView { lock: None, finished: true, ..(**job).clone() }), 0),
        Step::RemoveFinalizer { abandoned: None } => w.replicas[r].doing = Doing::LettingGo(job.clone()),
        Step::Open(next) => write(w, r, None, next, None),
        Step::Swap(next) => write(w, r, w.journal.clone(), next, None),
        Step::WriteIntent { journal, intent_id } => write(w, r, w.journal.clone(), journal, Some(intent_id)),
        Step::Post(slot) => {
            let a = current(slot)?;
            w.memory(r).permit = None;
            if now >= a.post_by {
                w.memory(r).posted.insert(a.intent_id, Posted::Refused(Refusal::NotSent, "late".into()));
            } else {
                w.posts.push(Post { intent: a.intent_id.clone(), file: a.file_id });
                w.replicas[r].doing = Doing::Waiting(a.intent_id);
            }
        }
        _ => return None,
    }
    Some(())
}

fn write(w: &mut World, r: usize, judged: Option<Arc<Journal>>, next: Journal, intent: Option<String>) {
    w.replicas[r].doing = Doing::Writing(Write { judged, next: Arc::new(next), intent });
}

/// Whether the write is one step forward that forgets nothing.
fn lawful(write: &Write) -> bool {
    use AttemptState::{Intended, Refused, Revoked, Revoking, Submitted};
    let next = &*write.next;
    let Some(judged) = write.judged.as_deref() else { return next.rev == 1 && attempt(next).is_none() };
    let edge = match (attempt(judged), attempt(next)) {
        (None, None) => true,
        (None, Some(b)) => b.number == 1 && b.state == Intended && next.closing.is_none(),
        (Some(_), None) => false,
        (Some(a), Some(b)) if a == b => true,
        (Some(a), Some(b)) if b.number == a.number + 1 => {
            matches!(a.state, Revoked { .. } | Refused { .. }) && b.state == Intended && next.closing.is_none()
        }
        (Some(a), Some(b)) => {
            let ended = matches!(
                (&a.state, &b.state),
                (Intended, Submitted { .. } | Refused { .. } | Revoking)
                    | (Revoking, Submitted { .. } | Revoked { .. } | Refused { .. })
            );
            ended && (a.number, &a.intent_id, &a.file_id) == (b.number, &b.intent_id, &b.file_id)
        }
    };
    edge && next.rev == judged.rev + 1
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let lock = Some(Lock { spec_hash: "A".into(), output_uri: "u/".into() });
        let object = JobView { finalizer: true, lock, ..self.new_object(1, "A") };
        vec![World {
            now: 0,
            object: Some(Arc::new(object)),
            journal: None,
            replicas: Default::default(),
            late: None,
            posts: vec![],
            batches: vec![],
            deleted: BTreeSet::new(),
            left: self.budget,
            history: History::default(),
            keep: self.budget.edits > 0,
        }]
    }

    fn actions(&self, w: &World, out: &mut Vec<Action>) {
        for (i, r) in w.replicas.iter().enumerate() {
            match &r.doing {
                Doing::Nothing => {
                    out.push(Action::Act(i));
                    if w.left.bad_proofs > 0 && r.memory.store_proved.is_none() {
                        out.push(Action::BadProof(i));
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
                    if w.left.lost > 0 {
                        out.push(Action::LoseReply(i));
                    }
                }
                Doing::LettingGo(_) => out.extend(masks(w).map(|stale| Action::LetGo(i, stale))),
            }
            if w.left.crashes > 0 && (r.doing != Doing::Nothing || *r.memory != Memory::default()) {
                out.push(Action::Crash(i));
            }
        }
        if w.late.is_some() {
            out.push(Action::LateWrite);
        }
        for i in 0..w.posts.len() {
            out.push(Action::Arrive(i));
            if w.left.refusals > 0 && !w.deleted.contains(&w.posts[i].file) {
                out.push(Action::Refuse(i));
            }
        }
        out.extend((0..w.batches.len()).filter(|i| !w.batches[*i].listed).map(Action::List));
        out.push(Action::Tick);
        if w.left.recreations > 0 {
            out.extend(masks(w).map(|stale| Action::Recreate { edited: false, stale }));
            if w.left.edits > 0 && w.left.bad_proofs == 0 {
                out.extend(masks(w).map(|stale| Action::Recreate { edited: true, stale }));
            }
        }
        let Some(object) = &w.object else { return };
        if w.left.edits > 0 && object.finished {
            out.extend(masks(w).map(|stale| Action::Edit { stale }));
        }
        if w.left.flips > 0 {
            out.extend(masks(w).map(|stale| Action::Flip { stale }));
        }
        if w.left.deletions > 0 && object.deleting_since.is_none() && object.finalizer {
            out.extend(masks(w).map(|stale| Action::Delete { stale }));
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut w = last.clone();
        match action {
            Action::Act(r) => self.act(&mut w, r, false)?,
            Action::BadProof(r) => {
                w.left.bad_proofs -= 1;
                self.act(&mut w, r, true)?;
            }
            Action::Write(r) => {
                let Doing::Writing(write) = std::mem::take(&mut w.replicas[r].doing) else { return None };
                let write = w.named(write);
                if w.apply(&write, self.mutant == Some(Mutant::WriteOnCurrent)) && write.intent.is_some() {
                    w.memory(r).permit = write.intent;
                }
            }
            Action::LoseWrite(r) => {
                let Doing::Writing(write) = std::mem::take(&mut w.replicas[r].doing) else { return None };
                w.left.lost_writes -= 1;
                let write = w.named(write);
                if let Some(intent) = &write.intent {
                    w.replicas[r].doing = Doing::Unsure(intent.clone());
                }
                w.late = Some(write);
            }
            Action::LateWrite => {
                let write = w.late.take()?;
                w.apply(&write, false);
            }
            Action::Reread(r) => {
                let Doing::Unsure(intent) = std::mem::take(&mut w.replicas[r].doing) else { return None };
                if w.journal
                    .as_deref()
                    .and_then(attempt)
                    .is_some_and(|a| a.intent_id == intent && a.state == AttemptState::Intended)
                {
                    w.memory(r).permit = Some(intent);
                }
            }
            Action::LetGo(r, stale) => {
                let Doing::LettingGo(judged) = std::mem::take(&mut w.replicas[r].doing) else { return None };
                if w.object.as_ref() == Some(&judged) {
                    w.replace(None, stale);
                }
            }
            Action::Crash(r) => {
                w.left.crashes -= 1;
                w.history.crashed_with_permit |= w.replicas[r].memory.permit.is_some();
                w.replicas[r] = Replica::default();
            }
            Action::Arrive(i) => {
                let Post { intent, file } = w.posts.remove(i);
                if !w.deleted.contains(&file) {
                    let id = format!("b{}", w.batches.len());
                    w.batches.push(Batch { id, intent, file, at: w.now, listed: false });
                }
            }
            Action::Refuse(i) => {
                w.left.refusals -= 1;
                w.posts.remove(i);
            }
            Action::Reply(r) => {
                let Doing::Waiting(intent) = std::mem::take(&mut w.replicas[r].doing) else { return None };
                let reply = match w.batches.iter().find(|b| b.intent == intent) {
                    Some(b) => Posted::Created(b.id.clone()),
                    None if w.left.refusals < self.budget.refusals => Posted::Refused(Refusal::Capacity, "full".into()),
                    None => Posted::Refused(Refusal::Invalid, "no such file".into()),
                };
                w.memory(r).posted.insert(intent, reply);
            }
            Action::LoseReply(r) => {
                let Doing::Waiting(intent) = std::mem::take(&mut w.replicas[r].doing) else { return None };
                w.left.lost -= 1;
                w.history.reply_lost = true;
                let lost = match self.mutant == Some(Mutant::LostIsRefused) {
                    true => Posted::Refused(Refusal::Capacity, "any error".into()),
                    false => Posted::Unknown("time-out".into()),
                };
                w.memory(r).posted.insert(intent, lost);
            }
            Action::List(i) => w.batches[i].listed = true,
            Action::Tick => {
                let (at, stalls) = self.next_moment(&w)?;
                w.now = at;
                w.left.stalls = w.left.stalls.checked_sub(u8::from(stalls))?;
            }
            Action::Recreate { edited, stale } => {
                w.left.recreations -= 1;
                w.left.edits -= u8::from(edited);
                let uid = 1 + u32::from(self.budget.recreations - w.left.recreations);
                let object = self.new_object(uid, if edited { "B" } else { "A" });
                w.replace(Some(object), stale);
            }
            Action::Edit { stale } => {
                w.left.edits -= 1;
                let object = w.object.as_deref()?.clone();
                w.replace(Some(JobView { spec_hash: "B".into(), finished: false, ..object }), stale);
            }
            Action::Flip { stale } => {
                w.left.flips -= 1;
                let object = w.object.as_deref()?.clone();
                w.replace(Some(JobView { suspend: !object.suspend, ..object }), stale);
            }
            Action::Delete { stale } => {
                w.left.deletions -= 1;
                let object = w.object.as_deref()?.clone();
                w.replace(Some(JobView { deleting_since: Some(w.now), ..object }), stale);
            }
        }
        Some(w.normalised())
    }

    fn within_boundary(&self, w: &World) -> bool {
        w.attempts().all(|a| a.number <= self.attempts) && w.journal.as_ref().is_none_or(|j| j.rev <= 14)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::<Self>::always("never pays twice", |_, w| {
                let mut works: Vec<_> = w.batches.iter().map(|b| work_of(&b.file)).collect();
                works.sort_unstable();
                works.windows(2).all(|pair| pair[0] != pair[1])
            }),
            Property::<Self>::always("what is recorded exists and is what was planned", |_, w| {
                let Some(journal) = w.journal.as_deref() else { return true };
                let Some(a) = attempt(journal) else { return true };
                let AttemptState::Submitted { batch_id, .. } = &a.state else { return true };
                w.batches.iter().any(|b| {
                    b.id == *batch_id && b.intent == a.intent_id && work_of(&b.file) == journal.shards[0].sha256
                })
            }),
            Property::<Self>::always("never loses a batch", |m, w| {
                let refused = w.object.as_ref().is_some_and(|o| o.finished);
                let known = |b: &Batch| {
                    w.journal.as_deref().and_then(attempt).is_some_and(|a| match &a.state {
                        AttemptState::Submitted { batch_id, .. } => *batch_id == b.id,
                        _ => refused && a.intent_id == b.intent,
                    })
                };
                w.batches.iter().all(known) || !m.at_rest(w)
            }),
            Property::<Self>::always("rests only when submitted", |m, w| {
                let done = w.object.as_ref().is_none_or(|o| o.suspend || o.finished || o.deleting_since.is_some());
                done || w.submitted() || !m.at_rest(w)
            }),
            Property::<Self>::always("every write is one step forward", |_, w| {
                w.replicas.iter().all(|r| !matches!(&r.doing, Doing::Writing(write) if !lawful(write)))
            }),
            Property::<Self>::sometimes("submitted", |_, w| w.submitted()),
        ];
        if self.budget.crashes > 0 {
            all.push(Property::<Self>::sometimes("submitted after a crash between intent and POST", |m: &Self, w| {
                w.submitted() && w.history.crashed_with_permit && w.left.lost == m.budget.lost
            }));
        }
        if self.budget.lost > 0 {
            all.push(Property::<Self>::sometimes("submitted after a lost reply", |_, w| {
                w.submitted() && w.history.reply_lost
            }));
        }
        if self.budget.recreations > 0 {
            all.push(Property::<Self>::sometimes("adopted", |_, w| w.submitted() && w.history.adopted));
        }
        all
    }
}

/// Every choice of replicas that hold an old copy of the object.
fn masks(w: &World) -> impl Iterator<Item = u8> {
    let idle = |i: usize| w.replicas[i].doing == Doing::Nothing && w.replicas[i].stale.is_none();
    let free = u8::from(idle(0)) | u8::from(idle(1)) << 1;
    (0..4u8).filter(move |mask| mask & !free == 0)
}

fn check(name: &str, budget: Budget, policy: DeletionPolicy, attempts: u32) {
    let began = Instant::now();
    let model = Protocol { budget, policy, attempts, mutant: None };
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{name}: {} unique states ({} in all), depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    for (name, path) in checker.discoveries() {
        println!("  {name}: {} steps", path.clone().into_actions().len());
        if std::env::var("TRACE").is_ok() {
            trace(path);
        }
    }
    checker.assert_properties();
}

fn trace(path: Path<World, Action>) {
    for (w, action) in path.into_vec() {
        println!("    t={} {:?}", w.now, w.journal.as_deref().map(|j| (j.rev, &j.owner.uid, j.closing, attempt(j))));
        for r in &w.replicas {
            println!("        {r:?}");
        }
        println!("    -> {action:?}");
    }
}

fn refuted(mutant: Mutant, budget: Budget, property: &'static str) {
    let began = Instant::now();
    let model = Protocol { budget, policy: DeletionPolicy::Cancel, attempts: 3, mutant: Some(mutant) };
    let checker =
        model.checker().threads(2).finish_when(HasDiscoveries::AnyOf(["never pays twice"].into())).spawn_bfs().join();
    let path = checker.assert_any_discovery(property);
    println!(
        "{mutant:?}: {} unique states, {} steps, {:.1} s",
        checker.unique_state_count(),
        path.clone().into_actions().len(),
        began.elapsed().as_secs_f64()
    );
    println!("    {:?}", path.into_actions());
}

#[test]
fn crashes_and_lost_replies() {
    let budget = Budget { crashes: 2, lost: 1, ..Budget::default() };
    check("two crashes, one lost reply", budget, DeletionPolicy::Cancel, 2);
    let budget = Budget { crashes: 1, lost: 2, ..Budget::default() };
    check("one crash, two lost replies", budget, DeletionPolicy::Cancel, 2);
}

#[test]
fn suspended_and_resumed() {
    let budget = Budget { lost: 2, flips: 1, ..Budget::default() };
    check("two lost replies, suspended or resumed", budget, DeletionPolicy::Cancel, 2);
}

#[test]
fn deleted_and_made_again() {
    let budget = Budget { lost: 1, recreations: 1, ..Budget::default() };
    check("one lost reply, made again", budget, DeletionPolicy::Cancel, 2);
}

#[test]
fn deleted() {
    let budget = Budget { lost: 1, deletions: 1, ..Budget::default() };
    check("one lost reply, deleted", budget, DeletionPolicy::Cancel, 2);
}

#[test]
fn mutants() {
    let budget = Budget { crashes: 1, lost: 1, ..Budget::default() };
    for mutant in
        [Mutant::WriteOnCurrent, Mutant::ReaderPosts, Mutant::NoRevocation, Mutant::ShortQuiet, Mutant::LostIsRefused]
    {
        refuted(mutant, budget, "never pays twice");
    }
}
