//! Without any one rule a promise is broken: the rule is taken from the executor around `decide`, or from what it is shown.

use super::*;

const NONE: Budget = Budget::NONE;

/// Those that explore all of a space.
pub(super) const MUTANTS: &[(&str, fn())] = &named![closing_before_deletion];

pub(super) fn without(mutant: Mutant, model: Protocol, promise: &'static str) {
    Protocol { mutant: Some(mutant), ..model }.breaks(promise);
}

fn pays_twice(mutant: Mutant, budget: Budget) {
    without(mutant, Protocol::submitting(budget), NO_DOUBLE_PAY);
}

#[test]
fn decide_on_the_version_that_is_swapped() {
    pays_twice(Mutant::WritesUnjudged, NONE);
}

#[test]
fn the_permit_is_in_memory() {
    pays_twice(Mutant::ReaderPosts, NONE);
}

#[test]
fn a_fresh_file_for_each_attempt() {
    pays_twice(Mutant::SameFile, NONE);
}

#[test]
fn a_post_is_not_repeated() {
    pays_twice(Mutant::RetriesPost, NONE);
}

#[test]
fn a_lost_reply_is_no_refusal() {
    pays_twice(Mutant::LostIsRefused, Budget { lost_replies: 1, ..NONE });
}

#[test]
fn a_gateways_refusal_is_no_proof() {
    pays_twice(Mutant::DeclinedIsRefused, Budget { declines: 1, ..NONE });
}

#[test]
fn a_shard_is_replaced_by_both_of_its_halves_and_sent_no_more() {
    let once = Budget { token_limits: 1, ..NONE };
    let to_the_end = Protocol { until: Until::Finished, parallelism: 1, ..Protocol::halving(once) };
    without(Mutant::ForgetsHalf, to_the_end, SUMS_UP);
    without(Mutant::KeepsWhole, Protocol::halving(once), NO_DOUBLE_PAY);
    without(Mutant::HalvesNoFile, Protocol::halving(Budget { crashes: 1, ..once }), NO_DOUBLE_PAY);
}

#[test]
fn wait_until_no_post_can_start_before_revoking() {
    let deleted = Deleted::TakenUnseen;
    without(Mutant::RevokesTooSoon, Protocol { deleted, ..Protocol::submitting(NONE) }, NO_DOUBLE_PAY);
}

#[test]
fn the_file_goes_before_the_next_attempt() {
    pays_twice(Mutant::RevokesNothing, NONE);
}

#[test]
fn wait_out_the_lists_lag() {
    pays_twice(Mutant::ListsTooSoon, NONE);
}

#[test]
fn list_again_once_the_file_is_gone() {
    pays_twice(Mutant::ListsOnce, NONE);
}

#[test]
fn seen_and_gone_under_the_same_credential() {
    pays_twice(Mutant::AnyCredential, Budget { rotations: 1, ..NONE });
}

#[test]
fn closing_before_deletion() {
    let model = Protocol::submitting(Budget { deletions: 1, ..NONE });
    without(Mutant::ClosesNothing, model, NO_LOST_BATCH);
    Protocol { mutant: Some(Mutant::PostsBlindly), ..model }.keeps(NO_LOST_BATCH);
}

#[test]
fn results_are_written_before_what_was_staged_goes() {
    let model = Protocol { lines: 1, ..Protocol::ending(Budget { deletions: 1, recreations: 1, ..NONE }) };
    without(Mutant::TidiesUnwritten, model, NEEDED);
    without(Mutant::TidiesUnwritten, model, GOES_ON);
}

#[test]
fn who_opens_a_closed_journal_stages_anew() {
    let model = Protocol::submitting(Budget { deletions: 1, recreations: 1, ..NONE });
    without(Mutant::KeepsWork, model, NEEDED);
    without(Mutant::KeepsWork, model, GOES_ON);
}

#[test]
fn an_answer_is_for_its_question() {
    let budget = Budget { losses: 1, answers: 1, rotations: 1, ..NONE };
    without(Mutant::AnswersAny, Protocol { lines: 1, attempts: 3, ..Protocol::ending(budget) }, NO_DOUBLE_PAY);
}

#[test]
fn a_work_is_taken_over_with_what_was_sent() {
    let model = Protocol { other: Some(Other::Copy), ..Protocol::submitting(Budget { answers: 1, ..NONE }) };
    without(Mutant::TakesAnew, model, NO_DOUBLE_PAY);
}

#[test]
fn who_gave_a_work_up_looks_before_a_post() {
    let model = Protocol { other: Some(Other::Copy), ..Protocol::submitting(Budget { answers: 1, ..NONE }) };
    without(Mutant::PostsBlindly, model, GIVEN_UP);
}

#[test]
fn who_opens_a_closed_journal_uploads_anew() {
    let model = Protocol::submitting(Budget { deletions: 1, answers: 1, ..NONE });
    without(Mutant::KeepsFiles, Protocol { other: Some(Other::Copy), ..model }, GOES_ON);
}

#[test]
fn no_clock_stands_for_the_file_that_is_gone() {
    let apart = |ahead| Protocol { ahead, ..Protocol::submitting(NONE) };
    without(Mutant::RevokesNothing, apart(5), NO_DOUBLE_PAY);
    // Where the file does not matter, the allowance does.
    Protocol { deleted: Deleted::TakenUnseen, allowance: 2, ..apart(4) }.breaks(NO_DOUBLE_PAY);
}

#[test]
fn a_clock_that_is_set_ends_no_wait() {
    let (once, mutant) = (Budget { clock_sets: 1, ..NONE }, Mutant::BelievesAnyClock);
    pays_twice(mutant, once);
    let one = |budget| Protocol { lines: 1, ..Protocol::ending(budget) };
    without(mutant, one(Budget { doubles: 1, rejections: 1, ..once }), NO_DOUBLE_PAY);
    without(mutant, one(Budget { short_readings: 1, ..once }), NO_DOUBLE_PAY);
}

#[test]
fn another_round_is_staged_before_its_intent() {
    let model = Protocol::ending(Budget { expiries: 2, crashes: 1, ..NONE });
    without(Mutant::StagesAfter, model, GOES_ON);
}

#[test]
fn a_segment_is_stored_before_the_journal_names_it() {
    let model = Protocol::sealing(Budget { expiries: 1, crashes: 1, ..NONE });
    without(Mutant::SealsAfter, model, GOES_ON);
    // What nobody finds is sent, and paid, again.
    without(Mutant::AbsentIsNothing, model, NO_DOUBLE_PAY);
}

#[test]
fn the_manifest_is_read_first() {
    let model = Protocol { lines: 1, ..Protocol::ending(Budget { sweeps: 1, recreations: 1, ..NONE }) };
    without(Mutant::ManifestUnread, model, NO_DOUBLE_PAY);
}

#[test]
fn parts_are_not_replaced() {
    without(Mutant::PartsOverwritten, Protocol::ending(NONE), NO_LOST_LINE);
}

#[test]
fn the_end_is_fixed_before_the_join() {
    let model = Protocol::ending(Budget { expiries: 1, failures: 1, limits: 1, ..NONE });
    let model = Protocol { max_failed: Some(MaxFailed::Count(0)), ..model };
    // What is asked for now is paid and in no results.
    without(Mutant::JoinsBeforeCommit, model, NOTHING_AFTER);
}

#[test]
fn files_that_may_grow_are_read_again() {
    let model = Protocol { lines: 1, ..Protocol::ending(Budget { short_readings: 1, ..NONE }) };
    without(Mutant::ShortIsWhole, model, NO_DOUBLE_PAY);
}

#[test]
fn what_nobody_can_read_is_not_missing() {
    let model = Protocol { lines: 1, ..Protocol::ending(Budget { garbles: 1, ..NONE }) };
    without(Mutant::UnreadableIsMissing, model, NO_DOUBLE_PAY);
}

#[test]
fn a_journal_that_is_gone_is_no_evidence() {
    let model = Protocol { lines: 1, ..Protocol::ending(Budget { lost_journals: 1, ..NONE }) };
    without(Mutant::AbsenceIsEvidence, model, NO_DOUBLE_PAY);
}

#[test]
fn what_was_given_up_on_is_not_sent_again() {
    let budget = Budget { recreations: 1, ..NONE };
    let model = Protocol { deadline: Some(1), abandon_after: 1, lines: 1, attempts: 3, ..Protocol::ending(budget) };
    without(Mutant::SendsAbandoned, model, NO_DOUBLE_PAY);
}

#[test]
fn a_job_that_was_told_to_stop_sends_nothing_more() {
    for stop in [StopPolicy::Drain, StopPolicy::Cancel] {
        let first = Protocol { stop, ..Protocol::submitting(Budget { stops: 1, ..NONE }) };
        without(Mutant::SendsAfterStop, first, STOPPED);
        let round = Protocol { stop, lines: 1, ..Protocol::ending(Budget { stops: 1, expiries: 1, ..NONE }) };
        without(Mutant::SendsAfterStop, round, STOPPED);
    }
}

#[test]
fn batches_that_are_cancelled_are_awaited_for_what_they_answered() {
    let model = Protocol { lines: 1, ..Protocol::ending(Budget { stops: 1, ..NONE }) };
    without(Mutant::AwaitsNoEnd, Protocol { stop: StopPolicy::Cancel, ..model }, PAID);
}

#[test]
fn the_journal_says_which_answers_are_those_of_earlier_jobs() {
    without(Mutant::ForgetsReuse, Protocol::reusing(1, 2, NONE), NO_DOUBLE_PAY);
}

#[test]
fn a_permit_that_is_in_use_is_at_hand_for_nothing_else() {
    let model = Protocol { beside: true, ..Protocol::submitting(Budget { deletions: 1, ..NONE }) };
    without(Mutant::KeepsPermit, model, NO_LOST_BATCH);
}
