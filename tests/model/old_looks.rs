//! Decisions on a look that is older than the world: what holds, and which promise falls where a step that is to be decided on a
//! look of its own is not.

use super::mutants::without;
use super::*;

const NONE: Budget = Budget::NONE;

/// Those that explore all of a space.
pub(super) const OLD_LOOKS: &[(&str, fn())] = &named![
    looks_are_older_than_the_world_until_a_batch_is_recorded,
    looks_are_older_than_the_world_until_there_are_results,
    whoever_decides_on_an_old_look_can_reach_an_end,
    what_the_store_or_the_api_server_refuses_needs_no_look_of_its_own,
    a_file_that_a_person_gave_up_may_go_on_any_look,
];

/// One attempt, with a look that may be old.
fn submitting(budget: Budget) -> Protocol {
    Protocol { attempts: 1, ..Protocol::submitting(Budget { old_looks: 1, ..budget }) }
}

/// One shard, from its recorded batch to results.
fn ending(budget: Budget) -> Protocol {
    Protocol { lines: 1, ..Protocol::ending(Budget { old_looks: 1, ..budget }) }
}

fn copied(model: Protocol) -> Protocol {
    Protocol { other: Some(Other::Copy), ..model }
}

#[test]
fn looks_are_older_than_the_world_until_a_batch_is_recorded() {
    Protocol { attempts: 2, ..submitting(NONE) }.holds();
    Protocol { attempts: 2, ..submitting(Budget { crashes: 1, ..NONE }) }.holds();
    submitting(Budget { bad_proofs: 1, ..NONE }).holds();
    submitting(Budget { deletions: 1, ..NONE }).holds();
    copied(submitting(Budget { answers: 1, ..NONE })).holds();
    submitting(Budget { stops: 1, ..NONE }).holds();
    if soak() {
        Protocol { attempts: 2, ..submitting(Budget { crashes: 1, bad_proofs: 1, ..NONE }) }.holds();
        Protocol { attempts: 2, ..submitting(Budget { crashes: 1, lost_replies: 1, ..NONE }) }.holds();
        Protocol { attempts: 2, ..submitting(Budget { refusals: 1, deletions: 1, ..NONE }) }.holds();
        submitting(Budget { recreations: 1, ..NONE }).holds();
        submitting(Budget { rotations: 1, answers: 1, ..NONE }).holds();
        copied(submitting(Budget { answers: 1, deletions: 1, ..NONE })).holds();
    }
}

#[test]
fn looks_are_older_than_the_world_until_there_are_results() {
    ending(NONE).holds();
    ending(Budget { deletions: 1, ..NONE }).holds();
    if soak() {
        Protocol::ending(Budget { old_looks: 2, ..NONE }).holds();
        ending(Budget { expiries: 1, ..NONE }).holds();
        ending(Budget { rejections: 1, ..NONE }).holds();
        ending(Budget { losses: 1, answers: 1, ..NONE }).holds();
        Protocol { attempts: 1, ..ending(Budget { deletions: 1, recreations: 1, ..NONE }) }.holds();
        Protocol { attempts: 1, ..copied(ending(Budget { deletions: 1, answers: 1, ..NONE })) }.holds();
        Protocol { lines: 1, ..Protocol::sealing(Budget { old_looks: 1, crashes: 1, ..NONE }) }.holds();
    }
}

#[test]
fn whoever_decides_on_an_old_look_can_reach_an_end() {
    Protocol { attempts: 2, ..submitting(NONE) }.always_may_end();
    ending(NONE).always_may_end();
}

fn unread(of: Unread, model: Protocol, promise: &'static str) {
    without(Mutant::Unread(of), model, promise);
}

/// What is at most a second old replaces the journal that was judged, or follows from a decided end: older looks break nothing either.
#[test]
fn what_the_store_or_the_api_server_refuses_needs_no_look_of_its_own() {
    let on_any_look = |model| Protocol { mutant: Some(Mutant::Unread(Unread::Recent)), ..model };
    on_any_look(Protocol { attempts: 2, ..submitting(NONE) }).holds();
    on_any_look(submitting(Budget { bad_proofs: 1, ..NONE })).holds();
    on_any_look(ending(NONE)).holds();
}

/// That a job failed at no cost is in its status and not in the journal, so that the store lets the intent through.
#[test]
fn an_intent_needs_a_look_of_its_own_and_the_journal_that_was_judged() {
    unread(Unread::Intent, submitting(Budget { bad_proofs: 1, ..NONE }), FOR_FREE);
    without(Mutant::UnreadAndUnjudged(Unread::Intent), submitting(NONE), NO_DOUBLE_PAY);
}

#[test]
fn a_file_that_a_person_gave_up_may_go_on_any_look() {
    if soak() {
        let model = ending(Budget { losses: 1, answers: 1, ..NONE });
        Protocol { mutant: Some(Mutant::Unread(Unread::DeleteFile)), ..model }.holds();
    }
}

#[test]
fn who_posts_looks_whether_the_work_is_still_to_be_sent() {
    unread(Unread::Post, copied(submitting(Budget { answers: 1, ..NONE })), GIVEN_UP);
    unread(Unread::Post, submitting(Budget { deletions: 1, ..NONE }), NOTHING_AFTER);
    unread(Unread::Post, submitting(Budget { stops: 1, ..NONE }), STOPPED);
}

#[test]
fn who_deletes_a_file_to_revoke_an_intent_looks_whether_its_batch_is_known() {
    unread(Unread::Revoke, submitting(NONE), IN_USE);
}

#[test]
fn who_stops_a_batch_looks_whether_its_job_wants_it() {
    let model = ending(Budget { deletions: 1, recreations: 1, ..NONE });
    unread(Unread::Cancel, Protocol { attempts: 1, ..model }, WANTED);
}

#[test]
fn who_fails_a_job_at_no_cost_looks_whether_something_was_sent() {
    unread(Unread::Fail, submitting(Budget { bad_proofs: 1, ..NONE }), FOR_FREE);
}

#[test]
fn who_lets_an_object_go_looks_whether_something_would_run_on() {
    unread(Unread::LetGo, submitting(Budget { deletions: 1, ..NONE }), LOOKED_AFTER);
    unread(Unread::LetGo, submitting(Budget { deletions: 1, ..NONE }), NO_LOST_BATCH);
}
