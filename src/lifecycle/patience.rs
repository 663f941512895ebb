//! The number of failures of a call after which the job goes on without its result.

use super::attempt::AttemptState;

/// Failures in a row, over some five minutes, after which a result that is wanted but not needed is no longer waited for.
const TRIES: u32 = 10;

/// Returns whether the job goes on without the result of a failed search of the provider's list. Otherwise the search is
/// retried.
///
/// - A recorded batch is followed without a search, which is repeated later.
/// - If the recorded batch was rejected as a whole (`turned_away`), the search is retried until it was sent (`is_sent`) and
///   failed after several other `failures` in a row. The job then goes on by asking a person.
/// - For a submission without a recorded batch, the search is retried until the list is read.
pub fn goes_on_without_search(state: &AttemptState, turned_away: bool, is_sent: bool, failures: u32) -> bool {
    match state {
        AttemptState::Submitted { .. } if turned_away => is_sent && failures >= TRIES,
        AttemptState::Submitted { .. } => true,
        _ => false,
    }
}

/// Returns whether files are left at the provider that could not be deleted after `failures` others in a row. Never if a file
/// that stays could become a batch (`must`); at once if retrying is of no use.
pub fn leaves_files(must: bool, retryable: bool, failures: u32) -> bool {
    !must && (!retryable || failures >= TRIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submitted() -> AttemptState {
        AttemptState::Submitted { batch_id: "b".into(), at: 0 }
    }

    #[test]
    fn a_submission_without_a_batch_is_searched_for_until_the_list_is_read() {
        for state in [AttemptState::Intended, AttemptState::Revoking] {
            assert!(!goes_on_without_search(&state, false, true, u32::MAX));
        }
    }

    #[test]
    fn a_batch_that_was_turned_away_is_searched_for_ten_times_before_a_person_is_asked() {
        assert!(!goes_on_without_search(&submitted(), true, true, TRIES - 1));
        assert!(goes_on_without_search(&submitted(), true, true, TRIES));
        assert!(!goes_on_without_search(&submitted(), true, false, TRIES), "a search that was not sent says nothing");
        assert!(goes_on_without_search(&submitted(), false, true, 0), "a recorded batch is followed");
    }

    #[test]
    fn a_file_that_a_batch_could_come_of_is_never_left() {
        assert!(!leaves_files(true, false, u32::MAX));
        assert!(leaves_files(false, false, 0));
        assert!(!leaves_files(false, true, TRIES - 1));
        assert!(leaves_files(false, true, TRIES));
    }
}
