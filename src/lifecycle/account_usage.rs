//! The use of an account in the status of its provider object.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::ProviderStatus;

/// Least change of the time of the next capacity that is written, in milliseconds.
const NEXT_CAPACITY: i64 = 60_000;

/// The use of an account by all jobs of this operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountUsage {
    /// Batches in flight, including those that are about to be requested.
    pub batches: usize,
    /// Requests in these batches.
    pub requests: u64,
    /// Estimated input tokens in these batches.
    pub tokens: u64,
    /// Jobs that wait for a place.
    pub waiting: usize,
    /// Batches that are tried at a time, if the account showed to have less room than its limits say.
    pub tried: Option<usize>,
    /// Whether a batch waits for room.
    pub is_full: bool,
    /// Time at which the next batch is expected to end (Unix milliseconds).
    pub next_end: Option<i64>,
}

impl AccountUsage {
    /// Returns whether status would say the same of both, but for the time of the next capacity.
    pub fn is_same(&self, other: &AccountUsage) -> bool {
        let shown = |usage: &AccountUsage| (usage.batches, usage.requests, usage.tokens, usage.tried, usage.is_full);
        shown(self) == shown(other)
    }

    /// Writes the use into the status `new` at `now` (Unix milliseconds). If `is_left`, it stays as it is in `old`: another install of
    /// the operator may have written it, and the two would overwrite each other for ever.
    pub fn report(&self, old: &ProviderStatus, new: &mut ProviderStatus, is_left: bool, now: i64) {
        let next_capacity_time = match is_left {
            true => {
                new.batches_in_flight = old.batches_in_flight;
                (new.enqueued_requests, new.enqueued_tokens) = (old.enqueued_requests, old.enqueued_tokens);
                new.tried_batches_in_flight = old.tried_batches_in_flight;
                old.next_capacity_time.clone()
            }
            false => {
                new.batches_in_flight = i64::try_from(self.batches).ok();
                new.enqueued_requests = Some(i64::try_from(self.requests).unwrap_or(i64::MAX));
                new.enqueued_tokens = Some(i64::try_from(self.tokens).unwrap_or(i64::MAX));
                new.tried_batches_in_flight = self.tried.and_then(|tried| i64::try_from(tried).ok());
                self.next_capacity(old, now)
            }
        };
        new.next_capacity_time = next_capacity_time;
    }

    /// Returns the time to show. Estimates move a little with each look; one that still holds is kept.
    fn next_capacity(&self, old: &ProviderStatus, now: i64) -> Option<Time> {
        let next = self.next_end.filter(|_| self.is_full)?;
        let shown = old.next_capacity_time.as_ref().filter(|shown| {
            let shown = shown.0.as_millisecond();
            shown > now && shown.abs_diff(next) <= NEXT_CAPACITY.max((shown - now) / 4).unsigned_abs()
        });
        shown.cloned().or_else(|| Timestamp::from_second(next / 1_000).ok().map(Time))
    }
}

/// Returns the words for a change of the room that an account showed to have, and whether it is less than before; None if nothing
/// changed that is worth an event.
pub fn use_changed(old: &ProviderStatus, new: &ProviderStatus) -> Option<(bool, String)> {
    match (old.tried_batches_in_flight, new.tried_batches_in_flight) {
        (None, Some(1)) => Some((true, "the provider takes one batch at a time for now: it refused more".into())),
        (None, Some(n)) => Some((
            true,
            format!("the provider takes {n} batches at a time for now: it refused more; more are tried later"),
        )),
        (Some(_), None) => Some((false, "the provider has room again for as many batches as its limits allow".into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(batches: usize, next_end: i64) -> AccountUsage {
        AccountUsage {
            batches,
            requests: 100,
            tokens: 9_000,
            is_full: true,
            next_end: Some(next_end),
            ..AccountUsage::default()
        }
    }

    fn report(old: &ProviderStatus, usage: &AccountUsage, is_left: bool, now: i64) -> ProviderStatus {
        let mut new = old.clone();
        usage.report(old, &mut new, is_left, now);
        new
    }

    #[test]
    fn the_use_of_an_account_is_shown_and_an_unchanged_one_is_not_written_again() {
        let status = report(&ProviderStatus::default(), &full(3, 3_600_000), false, 0);
        assert_eq!(
            (status.batches_in_flight, status.enqueued_requests, status.enqueued_tokens),
            (Some(3), Some(100), Some(9_000))
        );
        assert_eq!(status.next_capacity_time, Timestamp::from_second(3_600).ok().map(Time));
        assert_eq!(report(&status, &full(3, 3_700_000), false, 300_000), status, "the estimate moved a little");
        let later = report(&status, &full(3, 9_000_000), false, 300_000);
        assert_ne!(later.next_capacity_time, status.next_capacity_time);
        let past = report(&status, &full(3, 3_610_000), false, 3_600_000);
        assert_ne!(past.next_capacity_time, status.next_capacity_time, "never in the past");
        let free = AccountUsage { is_full: false, ..full(3, 3_600_000) };
        assert_eq!(report(&status, &free, false, 0).next_capacity_time, None, "there is room now");
    }

    #[test]
    fn of_two_installs_the_one_without_news_leaves_the_report_of_the_other() {
        let other = report(&ProviderStatus::default(), &full(7, 3_600_000), false, 0);
        assert_eq!(report(&other, &AccountUsage::default(), true, 60_000), other);
    }

    #[test]
    fn less_room_and_all_of_it_are_told_once() {
        let of = |tried| ProviderStatus { tried_batches_in_flight: tried, ..ProviderStatus::default() };
        let told = |old, new| use_changed(&of(old), &of(new)).map(|(is_less, _)| is_less);
        assert_eq!([told(None, Some(5)), told(Some(5), Some(6)), told(Some(6), None)], [Some(true), None, Some(false)]);
    }
}
