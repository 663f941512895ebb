//! What holds from recorded batches, or from the opening, to results and an end, whatever happens within a budget.

use super::*;

const NONE: Budget = Budget::NONE;

fn ending(budget: Budget) {
    Protocol::ending(budget).holds();
}

/// The same with one shard.
pub(super) fn ending_one(budget: Budget) {
    Protocol { lines: 1, ..Protocol::ending(budget) }.holds();
}

/// Every scenario here, by its name.
pub(super) const ENDING: &[(&str, fn())] = &named![
    collected_and_written,
    settled_shards_that_leave_the_head_of_the_journal,
    another_round_of_what_has_no_answer,
    files_that_are_not_whole_yet,
    an_answer_that_nobody_can_read,
    a_batch_is_turned_away_as_a_whole,
    too_many_failures,
    a_limit_that_changes,
    batches_that_do_not_end_after_the_deadline,
    at_the_deadline,
    told_to_stop,
    suspended_between_two_rounds,
    deleted_while_batches_run,
    created_again_or_restored_while_batches_run_and_after,
    swept_once_it_is_done_and_created_again,
    the_credential_changes_while_batches_run,
    from_the_opening_to_results,
    an_end_can_always_be_reached,
    a_journal_is_lost_and_given_up_on_a_persons_word,
    answers_of_an_earlier_job_are_reused,
];

#[test]
fn answers_of_an_earlier_job_are_reused() {
    // Nothing is left to send.
    Protocol::reusing(2, 2, Budget { crashes: 1, deletions: 1, ..NONE }).holds();
    Protocol::reusing(2, 2, Budget { recreations: 1, edits: 1, ..NONE }).holds();
    Protocol { deadline: Some(1), seals: true, ..Protocol::reusing(2, 2, Budget { crashes: 1, ..NONE }) }.holds();
    Protocol { seals: true, ..Protocol::reusing(1, 2, Budget { failures: 1, ..NONE }) }.holds();
    if soak() {
        Protocol::reusing(1, 2, Budget { expiries: 1, ..NONE }).holds();
        Protocol { attempts: 2, ..Protocol::reusing(1, 2, Budget { crashes: 1, expiries: 1, ..NONE }) }.holds();
        Protocol::reusing(1, 2, Budget { deletions: 1, recreations: 1, ..NONE }).holds();
    }
}

#[test]
fn collected_and_written() {
    ending(Budget { crashes: 2, failures: 1, ..NONE });
    ending(Budget { lost_writes: 1, ..NONE });
}

#[test]
fn settled_shards_that_leave_the_head_of_the_journal() {
    Protocol::sealing(NONE).holds();
    Protocol { lines: 1, ..Protocol::sealing(Budget { expiries: 1, crashes: 1, ..NONE }) }.holds();
    if soak() {
        Protocol::sealing(Budget { expiries: 1, ..NONE }).holds();
        Protocol::sealing(Budget { crashes: 1, ..NONE }).holds();
        Protocol::sealing(Budget { expiries: 1, crashes: 1, ..NONE }).holds();
        Protocol::sealing(Budget { lost_writes: 1, failures: 1, ..NONE }).holds();
        Protocol::sealing(Budget { deletions: 1, recreations: 1, ..NONE }).holds();
    }
}

#[test]
fn another_round_of_what_has_no_answer() {
    Protocol { attempts: 1, ..Protocol::ending(Budget { expiries: 1, ..NONE }) }.holds();
    if soak() {
        ending(Budget { expiries: 1, ..NONE });
        ending_one(Budget { expiries: 1, crashes: 1, ..NONE });
        Protocol { attempts: 1, ..Protocol::ending(Budget { expiries: 1, crashes: 1, ..NONE }) }.holds();
        ending(Budget { expiries: 1, crashes: 1, ..NONE });
        ending_one(Budget { expiries: 1, failures: 1, crashes: 1, ..NONE });
        ending(Budget { expiries: 1, failures: 1, ..NONE });
    }
}

#[test]
fn files_that_are_not_whole_yet() {
    ending_one(Budget { short_readings: 2, crashes: 1, ..NONE });
    ending_one(Budget { short_readings: 1, deletions: 1, ..NONE });
    Protocol { attempts: 1, ..Protocol::ending(Budget { short_readings: 1, ..NONE }) }.holds();
}

#[test]
fn an_answer_that_nobody_can_read() {
    ending_one(Budget { garbles: 1, short_readings: 1, crashes: 1, ..NONE });
    Protocol { attempts: 1, ..Protocol::ending(Budget { garbles: 1, ..NONE }) }.holds();
}

#[test]
fn a_batch_is_turned_away_as_a_whole() {
    ending_one(Budget { rejections: 1, ..NONE });
    if soak() {
        ending(Budget { rejections: 1, crashes: 1, ..NONE });
    }
}

#[test]
fn too_many_failures() {
    let max_failed = Some(MaxFailed::Count(0));
    Protocol { max_failed, attempts: 1, ..Protocol::ending(Budget { failures: 1, expiries: 1, ..NONE }) }.holds();
}

#[test]
fn a_limit_that_changes() {
    ending(Budget { limits: 1, failures: 1, ..NONE });
    if soak() {
        ending(Budget { limits: 1, failures: 1, expiries: 1, ..NONE });
    }
}

#[test]
fn batches_that_do_not_end_after_the_deadline() {
    let model = |budget| Protocol { deadline: Some(1), abandon_after: 1, lines: 1, ..Protocol::ending(budget) };
    model(NONE).holds();
    model(Budget { crashes: 1, ..NONE }).holds();
    model(Budget { recreations: 1, ..NONE }).holds();
    if soak() {
        model(Budget { crashes: 1, recreations: 1, ..NONE }).holds();
        Protocol { lines: 2, ..model(Budget { expiries: 1, ..NONE }) }.holds();
        Protocol { start: Start::Planned, ..model(Budget { lost_replies: 1, ..NONE }) }.holds();
    }
}

#[test]
fn at_the_deadline() {
    let deadline = Some(1);
    Protocol { deadline, lines: 1, ..Protocol::ending(Budget { expiries: 1, ..NONE }) }.holds();
    Protocol { deadline, start: Start::Planned, ..Protocol::whole(NONE) }.holds();
    if soak() {
        Protocol { deadline, ..Protocol::ending(Budget { expiries: 1, ..NONE }) }.holds();
        Protocol { deadline, start: Start::Planned, ..Protocol::whole(Budget { lost_replies: 1, ..NONE }) }.holds();
    }
}

#[test]
fn told_to_stop() {
    for stop in [StopPolicy::Drain, StopPolicy::Cancel] {
        let one = |budget| Protocol { stop, lines: 1, ..Protocol::ending(budget) };
        Protocol { stop, ..Protocol::submitting(Budget { stops: 1, lost_replies: 1, ..NONE }) }.holds();
        Protocol { stop, ..Protocol::submitting(Budget { stops: 1, ..NONE }) }.always_may_end();
        one(Budget { stops: 1, failures: 1, crashes: 1, ..NONE }).holds();
        if stop == StopPolicy::Drain || soak() {
            Protocol { attempts: 1, ..one(Budget { stops: 1, expiries: 1, ..NONE }) }.holds();
        }
        one(Budget { stops: 1, ..NONE }).always_may_end();
        if soak() {
            one(Budget { stops: 1, expiries: 1, ..NONE }).holds();
            Protocol { stop, ..Protocol::submitting(Budget { stops: 1, crashes: 1, refusals: 1, ..NONE }) }.holds();
            Protocol { stop, ..Protocol::submitting(Budget { stops: 1, flips: 1, ..NONE }) }.holds();
            // That a file which the earlier object's end deleted is missed before the POST (`Call::post`) is no part of the model.
            Protocol { stop, ..Protocol::submitting(Budget { stops: 1, recreations: 1, ..NONE }) }.keeps(NO_DOUBLE_PAY);
            one(Budget { stops: 1, recreations: 1, ..NONE }).holds();
            one(Budget { stops: 1, rejections: 1, ..NONE }).holds();
            one(Budget { stops: 1, deletions: 1, ..NONE }).holds();
            Protocol { stop, ..Protocol::ending(Budget { stops: 1, ..NONE }) }.holds();
        }
    }
    // Drain, and then Cancel.
    Protocol { lines: 1, ..Protocol::ending(Budget { stops: 2, ..NONE }) }.holds();
}

#[test]
fn suspended_between_two_rounds() {
    Protocol { attempts: 1, lines: 1, ..Protocol::ending(Budget { expiries: 1, flips: 1, ..NONE }) }.holds();
    if soak() {
        ending(Budget { expiries: 1, flips: 1, ..NONE });
    }
}

#[test]
fn deleted_while_batches_run() {
    for policy in [DeletionPolicy::Cancel, DeletionPolicy::Orphan] {
        let one = |budget| Protocol { policy, lines: 1, ..Protocol::ending(budget) };
        one(Budget { deletions: 1, crashes: 1, ..NONE }).holds();
        if soak() {
            one(Budget { deletions: 1, recreations: 1, ..NONE }).holds();
            Protocol { policy, ..Protocol::ending(Budget { deletions: 1, crashes: 1, ..NONE }) }.holds();
        }
    }
}

#[test]
fn created_again_or_restored_while_batches_run_and_after() {
    ending_one(Budget { recreations: 1, crashes: 1, ..NONE });
    ending_one(Budget { restores: 1, crashes: 1, ..NONE });
    if soak() {
        ending(Budget { recreations: 1, crashes: 1, ..NONE });
        ending(Budget { restores: 1, crashes: 1, ..NONE });
    }
}

#[test]
fn swept_once_it_is_done_and_created_again() {
    Protocol { lines: 1, ..Protocol::ending(Budget { sweeps: 1, recreations: 1, crashes: 1, ..NONE }) }.holds();
}

#[test]
fn the_credential_changes_while_batches_run() {
    ending_one(Budget { rotations: 1, answers: 1, ..NONE });
    ending_one(Budget { rotations: 2, ..NONE });
}

#[test]
fn from_the_opening_to_results() {
    Protocol::whole(Budget { lost_replies: 1, ..NONE }).holds();
    Protocol { other: Some(Other::Clone), ..Protocol::whole(NONE) }.holds();
    Protocol { other: Some(Other::Copy), ..Protocol::whole(NONE) }.holds();
    if soak() {
        Protocol::whole(Budget { crashes: 1, ..NONE }).holds();
        Protocol::whole(Budget { failures: 1, ..NONE }).holds();
        Protocol { attempts: 1, ..Protocol::whole(Budget { expiries: 1, ..NONE }) }.holds();
        Protocol::whole(Budget { expiries: 1, ..NONE }).holds();
        Protocol::whole(Budget { recreations: 1, ..NONE }).holds();
    }
}

#[test]
fn an_end_can_always_be_reached() {
    let one = |budget| Protocol { lines: 1, ..Protocol::ending(budget) };
    Protocol::submitting(NONE).always_may_end();
    one(Budget { crashes: 1, failures: 1, ..NONE }).always_may_end();
    one(Budget { deletions: 1, failures: 1, ..NONE }).always_may_end();
    if soak() {
        Protocol::submitting(Budget { crashes: 1, lost_replies: 1, ..NONE }).always_may_end();
        Protocol::submitting(Budget { recreations: 1, ..NONE }).always_may_end();
        Protocol::ending(Budget { expiries: 1, crashes: 1, ..NONE }).always_may_end();
    }
}

#[test]
fn a_journal_is_lost_and_given_up_on_a_persons_word() {
    ending(Budget { lost_journals: 1, answers: 1, ..NONE });
    ending_one(Budget { lost_journals: 1, answers: 1, crashes: 1, ..NONE });
    if soak() {
        ending_one(Budget { lost_journals: 1, answers: 1, crashes: 1, expiries: 1, ..NONE });
        ending(Budget { lost_journals: 1, answers: 1, crashes: 1, ..NONE });
        ending(Budget { lost_journals: 1, answers: 1, expiries: 1, ..NONE });
        ending(Budget { lost_journals: 1, answers: 1, crashes: 1, expiries: 1, ..NONE });
    }
}
