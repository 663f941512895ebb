//! The protocol, model-checked: the production [`decide`] run by two replicas without a lease, through every
//! interleaving within a budget of faults.
//!
//! Two stretches of a job's life are explored, and both together in smaller budgets: *submitting*, one shard from the
//! opening of the journal to a recorded batch; and *ending*, two shards from recorded batches over collecting,
//! settling, another round and the commit to a manifest, a status that says so, and nothing staged.
//!
//! Proved within the budgets (`properties`): at most one live batch bills a line, and a line with an answer is never
//! sent again; every batch is recorded, told to stop, or asked about; every answer that came back is in the results;
//! the outcomes of all lines sum up; results are written once; what is staged stays for as long as somebody needs it;
//! no batch is stopped that its job wants, no file deleted that a running one is made of, and nothing let go that would run on unseen;
//! nothing rests but at an end or where somebody is told, and from every state an end can be reached; every write of
//! the journal is one step forward. `mutants` breaks each rule of the protocol in the executor around `decide`, or in
//! what it is shown, and the shortest way to a broken promise is found.
//!
//! What may happen at any time (`config::Budget`): a replica crashes, pauses between any two effects, or decides on an object or a
//! journal that has changed since it was read; a reply of the provider or of the storage is lost; a POST stays in the network for
//! however long and arrives after its sender gave up, or twice; a gateway says that it refused it, whatever became of it; the provider
//! has no room, or turns a batch away, as a whole or for its size; a batch shows late in the list; a replica takes the storage for
//! careless; the object is created again, restored, edited, suspended, told to stop or deleted, or lives in a cluster that is copied,
//! where people have the work taken over; the input changes; the credential becomes another account's; a person answers; what lies
//! below `_batchjob/` is emptied once the job is done, or the journal is lost before.
//!
//! A replica decides on its last look, which may be an older one: of the object, of the journal, or of both (`Budget::old_looks`). Steps
//! for which production makes a fresh look ([`Step::freshness`]) are decided on one here, and all others on the old one. In
//! `old_looks` the fresh look is taken from each kind of step that has one.
//!
//! A provider with budgets has a ledger (`reservations`), each write of which is one effect: it is conditional, so that a slow writer
//! judges again.
//!
//! Calls at the provider run beside decisions: that is explored where a scenario says so (`Protocol::beside`), with what a search
//! or a deletion found known at any later time, or never; elsewhere a call is over before its replica decides again.
//!
//! Assumed: the storage keeps the conditions of conditional writes; a batch is listed before `listing_lag` is over; a credential stays
//! with its account; a create on a deleted file is refused, or else, `Deleted::TakenUnseen`, a POST arrives before its sender gives up
//! or never; a person who answers has looked. Clocks move only to moments that somebody waits for, and are one but in
//! `clocks_further_apart_than_a_right_to_post_lasts` and `the_clock_of_a_replica_is_set`. What a replica found out and what can be
//! found out again for nothing is forgotten between two of its effects. Left out: deletions that are let through unfinished, and what
//! `tests/in_use.rs` and `tests/decide/` hold up.
//!
//! `MODEL_SOAK=1` explores larger budgets. `cargo test --test model -- --nocapture` prints states, depth and seconds;
//! `docs/states.md` says how many states there are, and a scenario that explores another number fails.
//!
//! The interleavings that broke an early draft of the protocol, and what has each now:
//!
//! | | what went wrong | held up by |
//! |---|---|---|
//! | 1 | intents in status are lost with it | `status_is_lost_or_an_older_one_comes_back`, `created_again`, `a_cluster_is_cloned` |
//! | 2 | two passes stage one shard differently | `a_source_that_changes_between_two_passes` |
//! | 3 | lines of a batch in flight are in another round | `another_round_of_what_has_no_answer` |
//! | 4 | a rotated credential's 404 and empty list are believed | `the_credential_becomes_another_accounts_and_comes_back`, `the_credential_changes_while_batches_run`, mutant `AnyCredential` |
//! | 5 | a decision on old state is written over new | mutant `WritesUnjudged` |
//! | 6 | what one job leaves, another takes, and a late write lands | `a_journal_is_left_and_taken_by_a_neighbour` |
//! | 7 | absence is read as evidence | mutants `PartsOverwritten`, `ManifestUnread` and `AbsenceIsEvidence`, `swept_once_it_is_done_and_created_again`; e2e `a_journal_that_is_gone_is_missed_and_nothing_is_paid_again` |
//! | 8 | a batch that is wanted is cancelled | `a_gateway_that_repeats_a_post`; e2e `an_orphaned_batch_is_picked_up_by_the_same_job_applied_again` |
//! | 9 | results are replaced before there are others | e2e `other_work_does_not_overwrite_what_lies_there` (nothing replaces results) |
//! | 10 | CEL lets a locked spec change | `a_spec_that_changes_under_its_lock`; e2e `once_started_what_shapes_requests_is_locked_and_the_rest_is_not` |
//! | 11 | the work's hash is needed before it is known | `created_again_for_other_work`; e2e `deleted_and_applied_again_it_is_adopted_and_nothing_is_billed` |
//! | 12 | an end without a manifest buys again | `at_the_deadline`, `deleted_while_batches_run`; e2e `at_its_deadline_a_job_is_cancelled_collected_and_failed` |
//! | 13 | a provider starts batches of deleted files | `a_provider_that_takes_deleted_files`; e2e `what_an_account_cannot_do_is_said_with_what_that_means` |
//! | 14 | without object storage paid parts are lost | e2e `answers_that_find_no_room_stay_at_the_provider_until_there_is`, `a_journal_in_a_config_map_survives_kills_and_lost_replies` |

#![allow(clippy::unwrap_used)]

/// Tests with their names.
macro_rules! named {
    ($($test:ident),* $(,)?) => { [$((stringify!($test), $test as fn())),*] };
}

#[path = "../support/beginnings.rs"]
mod beginnings;

mod actions;
mod around;
mod beginning;
mod capabilities;
mod config;
mod counts;
mod decisions;
mod effects;
mod endings;
mod explore;
mod forget;
mod lawful;
mod looks;
mod money;
mod mutants;
mod old_looks;
mod properties;
mod reservations;
mod rest;
mod results;
mod scenarios;
mod shared;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use batchjob_operator::api::{
    BatchEnd, CanaryApproval, Capabilities, DeletionPolicy, Hold, InputStatus, Lock, Outcome, PayloadKind, Recovery,
    RequestCounts, Revocation, StopPolicy, TokenHints,
};
use batchjob_operator::lifecycle::{
    Answers, Attempt, AttemptKey, AttemptState, CleanUpResult, CollectResult, Commit, Freshness, HalveResult, JobView,
    Journal, LaterRevision, ManifestView, MaxFailed, Memory, Observed, Owner, PartRef, Pass, Payload, Plan, PlanResult,
    PlannedCanary, PollResult, PolledState, PostResult, ProviderView, ReadCounts, Refusal, Rejection, RequestHistory,
    ReserveRequest, ReserveResult, Search, Shard, ShortRead, Step, Task, Timing, Unanswered, decide,
};
use batchjob_operator::money::{Ledger, PriceList, Prices, Rates, Reservation, Unbilled, Usd, day_of, shard_key};
use stateright::{Model, Property};

use actions::{Action, readers};
use around::How;
use capabilities::CAPABILITIES;
use config::{Budget, Deleted, FAR, LAG, Mutant, NEVER, Other, PATIENCE, Protocol, Start, Until};
use decisions::remembered;
use effects::{UNSTORED, last_moment, note_post, post, shard, take_for_a_permit};
use endings::ENDING;
use explore::soak;
use lawful::is_lawful;
use looks::{LastLook, Unread};
use money::PAYING;
use mutants::MUTANTS;
use old_looks::OLD_LOOKS;
use properties::{
    APPROVED, ASKS_ONCE, COUNTED, FOR_FREE, GIVEN_UP, GOES_ON, IN_USE, LOOKED_AFTER, NEEDED, NO_DOUBLE_PAY,
    NO_LOST_BATCH, NO_LOST_LINE, NOTHING_AFTER, PAID, STOPPED, SUMS_UP, WANTED, WITHIN_BUDGET, WITHIN_LIMITS,
};
use reservations::{RESERVATIONS, priced, without_budgets};
use results::{LIMIT_PER_REQUEST, follow_up, halves, joined};
use scenarios::SUBMITTING;
use shared::Shared;
use world::{Batch, BatchState, Beside, Doing, Finding, Folder, History, Post, Replica, Results, World, Write};
use world::{answers_of, attempts, content, credential_of, parse};
