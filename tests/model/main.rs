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

mod actions;
mod decisions;
mod effects;
mod properties;
mod world;

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

use effects::{execute, find_out, is_lawful, last_moment, take_for_a_permit};
use world::{attempt, work_of};

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
