//! Each combination of what providers can do, within the budget of crashes and lost replies; and the rules without which one of
//! them pays twice.

use super::mutants::without;
use super::*;

const NONE: Budget = Budget::NONE;
const PAYLOADS: [PayloadKind; 3] = [PayloadKind::File, PayloadKind::Inline, PayloadKind::Object];
const RECOVERIES: [Recovery; 6] = [
    Recovery::Metadata,
    Recovery::InputFile,
    Recovery::DisplayName,
    Recovery::RepeatedPost,
    Recovery::ChosenName,
    Recovery::Nothing,
];
const REVOCATIONS: [Revocation; 3] = [Revocation::DeletedPayload, Revocation::Nothing, Revocation::NotNeeded];

/// Every scenario here, by its name.
pub(super) const CAPABILITIES: &[(&str, fn())] =
    &named![requests_in_files, requests_inline, requests_in_objects, a_post_that_is_sent_again_without_room];

fn at(payload: PayloadKind, recovery: Recovery, revocation: Revocation, budget: Budget) -> Protocol {
    let capabilities = Capabilities { payload, recovery, revocation };
    Protocol { capabilities, ..Protocol::submitting(budget) }
}

fn each_combination_of(payload: PayloadKind) {
    assert!(PAYLOADS.contains(&payload));
    for recovery in RECOVERIES {
        for revocation in REVOCATIONS {
            at(payload, recovery, revocation, Budget { crashes: 1, lost_replies: 1, ..NONE }).holds();
        }
    }
}

#[test]
fn requests_in_files() {
    each_combination_of(PayloadKind::File);
}

#[test]
fn requests_inline() {
    each_combination_of(PayloadKind::Inline);
}

#[test]
fn requests_in_objects() {
    each_combination_of(PayloadKind::Object);
}

#[test]
fn a_post_that_is_sent_again_without_room() {
    let again = |budget| at(PayloadKind::Inline, Recovery::RepeatedPost, Revocation::NotNeeded, budget);
    again(Budget { lost_replies: 1, refusals: 1, ..NONE }).holds();
    again(Budget { lost_replies: 1, rotations: 1, ..NONE }).keeps(NO_DOUBLE_PAY);
    again(Budget { lost_replies: 1, deletions: 1, ..NONE }).holds();
}

#[test]
fn a_post_is_sent_again_only_where_it_makes_no_second_batch() {
    let budget = Budget { lost_replies: 1, ..NONE };
    let usual = at(PayloadKind::File, Recovery::Metadata, Revocation::DeletedPayload, budget);
    without(Mutant::RepeatsAnyPost, usual, NO_DOUBLE_PAY);
}

#[test]
fn what_a_post_that_is_sent_again_is_told_ends_nothing() {
    let budget = Budget { lost_replies: 1, refusals: 1, ..NONE };
    let again = at(PayloadKind::Inline, Recovery::RepeatedPost, Revocation::NotNeeded, budget);
    without(Mutant::BelievesRepeat, again, NO_DOUBLE_PAY);
}

#[test]
fn a_post_is_sent_again_under_the_same_credential() {
    let budget = Budget { lost_replies: 1, rotations: 1, ..NONE };
    let again = at(PayloadKind::Inline, Recovery::RepeatedPost, Revocation::NotNeeded, budget);
    without(Mutant::AnyCredential, again, NO_DOUBLE_PAY);
}

#[test]
fn what_shows_nothing_is_no_evidence() {
    let budget = Budget { lost_replies: 1, ..NONE };
    let silent = at(PayloadKind::File, Recovery::Nothing, Revocation::DeletedPayload, budget);
    without(Mutant::NothingIsAList, silent, NO_DOUBLE_PAY);
}

#[test]
fn a_name_that_several_batches_may_have_keeps_no_second_one_away() {
    let budget = Budget { crashes: 1, ..NONE };
    let named = at(PayloadKind::Inline, Recovery::ChosenName, Revocation::Nothing, budget);
    without(Mutant::NamesAreUnique, named, NO_DOUBLE_PAY);
}
