//! What holds from the opening of the journal to a recorded batch, whatever happens within a budget.

use super::endings::ending_one;
use super::*;

fn submitting(budget: Budget) {
    Protocol::submitting(budget).holds();
}

const NONE: Budget = Budget::NONE;

/// Every scenario here, by its name.
pub(super) const SUBMITTING: &[(&str, fn())] = &named![
    crashes_and_lost_replies,
    lost_replies_of_the_storage,
    rights_that_outlive_their_last_moment,
    a_provider_without_room,
    a_gateway_that_refuses_what_it_may_have_made,
    a_batch_that_is_more_than_the_account_takes_is_halved,
    a_storage_taken_for_careless,
    suspended_and_resumed,
    created_again,
    created_again_for_other_work,
    deleted,
    deleted_and_created_again,
    deleted_in_two_minds,
    calls_run_beside_further_decisions,
    two_shards_side_by_side,
    a_gateway_that_repeats_a_post,
    the_credential_becomes_another_accounts_and_comes_back,
    a_person_answers,
    a_provider_that_takes_deleted_files,
    a_spec_that_changes_under_its_lock,
    a_source_that_changes_between_two_passes,
    status_is_lost_or_an_older_one_comes_back,
    copied_to_another_cluster,
    taken_over_by_another_cluster_and_taken_back,
    clocks_further_apart_than_a_right_to_post_lasts,
    the_clock_of_a_replica_is_set,
    a_batch_that_the_provider_forgot_is_sent_again_on_a_persons_word,
    a_cluster_is_cloned,
    a_journal_is_left_and_taken_by_a_neighbour,
];

#[test]
fn crashes_and_lost_replies() {
    submitting(Budget { crashes: 1, lost_replies: 1, ..NONE });
    submitting(Budget { lost_replies: 2, ..NONE });
    if soak() {
        submitting(Budget { crashes: 2, lost_replies: 2, ..NONE });
    }
}

#[test]
fn lost_replies_of_the_storage() {
    submitting(Budget { lost_writes: 1, lost_replies: 1, ..NONE });
}

#[test]
fn rights_that_outlive_their_last_moment() {
    submitting(Budget { stalls: 1, crashes: 1, ..NONE });
}

#[test]
fn a_provider_without_room() {
    submitting(Budget { refusals: 1, lost_replies: 1, ..NONE });
}

#[test]
fn a_gateway_that_refuses_what_it_may_have_made() {
    submitting(Budget { declines: 1, crashes: 1, ..NONE });
    submitting(Budget { declines: 1, doubles: 1, ..NONE });
    submitting(Budget { declines: 1, refusals: 1, ..NONE });
    if soak() {
        submitting(Budget { declines: 2, crashes: 1, ..NONE });
        submitting(Budget { declines: 1, deletions: 1, ..NONE });
    }
}

#[test]
fn a_batch_that_is_more_than_the_account_takes_is_halved() {
    Protocol::halving(Budget { token_limits: 1, ..NONE }).holds();
    if soak() {
        Protocol::halving(Budget { token_limits: 1, crashes: 1, ..NONE }).holds();
        Protocol::halving(Budget { token_limits: 2, ..NONE }).holds();
    }
}

#[test]
fn a_storage_taken_for_careless() {
    submitting(Budget { bad_proofs: 1, crashes: 1, ..NONE });
    submitting(Budget { bad_proofs: 1, edits: 1, ..NONE });
}

#[test]
fn suspended_and_resumed() {
    submitting(Budget { flips: 1, lost_replies: 2, ..NONE });
}

#[test]
fn created_again() {
    submitting(Budget { recreations: 1, ..NONE });
    if soak() {
        submitting(Budget { recreations: 1, crashes: 1, ..NONE });
        submitting(Budget { recreations: 1, lost_replies: 1, ..NONE });
    }
}

#[test]
fn created_again_for_other_work() {
    submitting(Budget { recreations: 1, edits: 1, ..NONE });
}

#[test]
fn deleted() {
    submitting(Budget { deletions: 1, ..NONE });
    if soak() {
        submitting(Budget { deletions: 1, lost_replies: 1, ..NONE });
        submitting(Budget { deletions: 1, crashes: 1, ..NONE });
    }
}

#[test]
fn deleted_and_created_again() {
    let budget = Budget { deletions: 1, recreations: 1, ..NONE };
    let policies = [DeletionPolicy::Orphan, DeletionPolicy::Cancel];
    for policy in policies.into_iter().take(if soak() { 2 } else { 1 }) {
        Protocol { policy, attempts: 1, ..Protocol::submitting(budget) }.holds();
    }
}

#[test]
fn deleted_in_two_minds() {
    Protocol { attempts: 1, ..Protocol::submitting(Budget { deletions: 1, changes_of_mind: 1, ..NONE }) }.holds();
}

#[test]
fn calls_run_beside_further_decisions() {
    let beside = |budget| Protocol { beside: true, ..Protocol::submitting(budget) };
    beside(Budget { lost_replies: 1, ..NONE }).holds();
    beside(Budget { rotations: 1, ..NONE }).keeps(NO_DOUBLE_PAY);
    if soak() {
        beside(Budget { deletions: 1, ..NONE }).holds();
        beside(Budget { crashes: 1, lost_replies: 1, ..NONE }).holds();
        beside(Budget { declines: 1, ..NONE }).holds();
        beside(Budget { rotations: 2, ..NONE }).keeps(NO_DOUBLE_PAY);
        beside(Budget { recreations: 1, ..NONE }).holds();
    }
}

#[test]
fn two_shards_side_by_side() {
    let two = |budget| Protocol { lines: 2, parallelism: 2, start: Start::Planned, ..Protocol::submitting(budget) };
    two(NONE).holds();
    if soak() {
        two(Budget { crashes: 1, ..NONE }).holds();
    }
}

#[test]
fn a_gateway_that_repeats_a_post() {
    submitting(Budget { doubles: 1, lost_replies: 1, ..NONE });
    ending_one(Budget { doubles: 1, rejections: 1, ..NONE });
}

#[test]
fn the_credential_becomes_another_accounts_and_comes_back() {
    submitting(Budget { rotations: 2, ..NONE });
    if soak() {
        submitting(Budget { rotations: 1, crashes: 1, ..NONE });
        submitting(Budget { rotations: 2, lost_replies: 1, ..NONE });
    }
}

#[test]
fn a_person_answers() {
    submitting(Budget { rotations: 1, answers: 1, ..NONE });
    let deleted = Deleted::Taken;
    Protocol { deleted, ..Protocol::submitting(Budget { answers: 1, ..NONE }) }.holds();
}

#[test]
fn a_provider_that_takes_deleted_files() {
    for deleted in [Deleted::Taken, Deleted::TakenUnseen] {
        Protocol { deleted, ..Protocol::submitting(NONE) }.holds();
        if soak() {
            Protocol { deleted, ..Protocol::submitting(Budget { crashes: 1, ..NONE }) }.holds();
        }
    }
}

#[test]
fn a_spec_that_changes_under_its_lock() {
    submitting(Budget { drifts: 1, ..NONE });
    if soak() {
        submitting(Budget { drifts: 2, ..NONE });
        submitting(Budget { drifts: 1, crashes: 1, ..NONE });
    }
}

#[test]
fn a_source_that_changes_between_two_passes() {
    submitting(Budget { new_sources: 1, ..NONE });
    if soak() {
        submitting(Budget { new_sources: 1, recreations: 1, ..NONE });
        submitting(Budget { new_sources: 1, crashes: 1, ..NONE });
    }
}

#[test]
fn status_is_lost_or_an_older_one_comes_back() {
    submitting(Budget { restores: 1, ..NONE });
    if soak() {
        submitting(Budget { restores: 1, crashes: 1, ..NONE });
        submitting(Budget { restores: 1, lost_replies: 1, ..NONE });
    }
}

#[test]
fn copied_to_another_cluster() {
    let copy = |budget| Protocol { other: Some(Other::Copy), ..Protocol::submitting(budget) };
    copy(Budget { lost_replies: 1, ..NONE }).holds();
    copy(Budget { recreations: 1, ..NONE }).holds();
}

#[test]
fn taken_over_by_another_cluster_and_taken_back() {
    let copy = |budget| Protocol { other: Some(Other::Copy), ..Protocol::submitting(budget) };
    copy(Budget { answers: 1, lost_replies: 1, ..NONE }).holds();
    copy(Budget { answers: 2, crashes: 1, ..NONE }).holds();
    copy(Budget { answers: 1, deletions: 1, ..NONE }).holds();
    Protocol { policy: DeletionPolicy::Orphan, ..copy(Budget { deletions: 1, ..NONE }) }.holds();
    Protocol { lines: 1, other: Some(Other::Copy), ..Protocol::ending(Budget { answers: 2, expiries: 1, ..NONE }) }
        .holds();
}

#[test]
fn clocks_further_apart_than_a_right_to_post_lasts() {
    let apart = |budget| Protocol { ahead: 5, ..Protocol::submitting(budget) };
    apart(Budget { crashes: 1, ..NONE }).holds();
    apart(Budget { stalls: 1, ..NONE }).holds();
    Protocol { ahead: 2, allowance: 2, deleted: Deleted::TakenUnseen, ..Protocol::submitting(NONE) }.holds();
    if soak() {
        apart(Budget { crashes: 1, lost_replies: 1, ..NONE }).holds();
        apart(Budget { stalls: 1, lost_writes: 1, ..NONE }).holds();
        apart(Budget { deletions: 1, ..NONE }).holds();
    }
}

#[test]
fn the_clock_of_a_replica_is_set() {
    let once = Budget { clock_sets: 1, ..NONE };
    submitting(once);
    ending_one(Budget { doubles: 1, rejections: 1, ..once });
    ending_one(Budget { short_readings: 1, ..once });
    if soak() {
        submitting(Budget { crashes: 1, lost_replies: 1, ..once });
    }
}

#[test]
fn a_batch_that_the_provider_forgot_is_sent_again_on_a_persons_word() {
    ending_one(Budget { losses: 1, answers: 1, crashes: 1, ..NONE });
    Protocol { attempts: 1, ..Protocol::ending(Budget { losses: 1, answers: 1, ..NONE }) }.holds();
    if soak() {
        // A batch is too new to be asked about while the clock here goes.
        let rotated = Budget { losses: 1, answers: 1, rotations: 1, ..NONE };
        Protocol { lines: 1, attempts: 3, ..Protocol::ending(rotated) }.keeps(NO_DOUBLE_PAY);
    }
}

#[test]
fn a_cluster_is_cloned() {
    let clone = |budget| Protocol { other: Some(Other::Clone), ..Protocol::submitting(budget) };
    clone(Budget { crashes: 1, lost_replies: 1, ..NONE }).holds();
    clone(Budget { deletions: 1, ..NONE }).holds();
}

#[test]
fn a_journal_is_left_and_taken_by_a_neighbour() {
    let neighbour = |budget| Protocol { other: Some(Other::Neighbour), ..Protocol::submitting(budget) };
    neighbour(Budget { deletions: 1, lost_replies: 1, ..NONE }).holds();
    neighbour(Budget { bad_proofs: 1, recreations: 1, ..NONE }).holds();
}
