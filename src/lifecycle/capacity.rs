//! The number of batches that an account takes at a time, learned from its refusals for want of room.
//!
//! A provider may have less room than the limits of its object say. A refusal shows that the batches in flight are as many as it
//! takes, so no more are tried for a while. Then one more is, and after it more and more at a time while none is refused. Fewer
//! than are in flight would say nothing: they run for hours, and no room is gained before they end.

use std::collections::BTreeMap;

use super::admit::Room;
use super::attempt::{AttemptState, Refusal};
use super::journal::Journal;
use super::load::Load;
use super::shard::Shard;

/// The first pause after a refusal, in milliseconds, as for a refused shard. Each refusal in a row doubles it.
const PAUSE: i64 = 4_000;
/// The longest pause, in milliseconds.
const LONGEST_PAUSE: i64 = 300_000;
/// Milliseconds after its last refusal for which an account counts as smaller than its limits.
const REMEMBERED: i64 = 3_600_000;
/// The most batches by which the number is raised at a time.
const LARGEST_STEP: usize = 64;
/// Most models of an account whose refusals are remembered.
const MODELS: usize = 64;

/// News of a change of a journal about the room of the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CapacityNews {
    /// A batch was refused: there is no room for one more.
    Refused,
    /// A batch of this model was refused: there is no room for its tokens.
    TokensRefused(String),
    /// A batch of this model ran to its end.
    Ran(String),
}

impl CapacityNews {
    /// Returns whether a batch was refused.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, CapacityNews::Ran(_))
    }
}

/// Returns what a change of the journal from `old` to `new` says about the room of the account.
pub fn capacity_news(old: &Journal, new: &Journal) -> Vec<CapacityNews> {
    let refusal = |(index, shard): (usize, &Shard)| {
        let attempt = shard.attempt.as_ref()?;
        let before = old.shards.get(index).and_then(|shard| shard.attempt.as_ref());
        if before.is_some_and(|before| (before.number, &before.state) == (attempt.number, &attempt.state)) {
            return None;
        }
        match attempt.state {
            AttemptState::Refused { refusal: Refusal::Capacity, .. } => Some(CapacityNews::Refused),
            AttemptState::Refused { refusal: Refusal::TokenLimit, .. } => {
                Some(CapacityNews::TokensRefused(shard.model.clone()))
            }
            _ => None,
        }
    };
    let ran = new.settled_since(old).map(|(_, shard)| CapacityNews::Ran(shard.model.clone()));
    new.shards.entries().filter_map(refusal).chain(ran).collect()
}

/// The room that an account showed to have, as far as it is less than its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownRoom {
    /// Batches of all models.
    all: Option<Most>,
    /// Batches of a model, whose tokens were too many.
    models: BTreeMap<String, Most>,
}

/// The most batches that are tried at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Most {
    batches: usize,
    /// Refusals in a row.
    refusals: u32,
    /// Time of the next raise (Unix milliseconds).
    raise_at: i64,
    /// The number by which it is raised.
    step: usize,
    /// Whether it was raised since the last refusal.
    is_raised: bool,
    /// Time from which the refusal no longer counts (Unix milliseconds).
    forget_at: i64,
}

impl ShownRoom {
    /// Takes in news at `now` (Unix milliseconds). `in_flight` is what the account runs without the batches that were refused.
    pub fn learn(&mut self, news: &CapacityNews, in_flight: &Load, now: i64) {
        self.models.retain(|_, most| now < most.forget_at);
        match news {
            CapacityNews::Refused => self.all = Some(Most::refused(self.all.as_ref(), in_flight.batches, now)),
            CapacityNews::TokensRefused(model) => {
                let beside = in_flight.models.get(model).map_or(0, |model| model.batches);
                // With nothing else in flight, the batch itself is too large, which is its job's affair.
                if beside > 0 && (self.models.contains_key(model) || self.models.len() < MODELS) {
                    let most = Most::refused(self.models.get(model), beside, now);
                    self.models.insert(model.clone(), most);
                }
            }
            CapacityNews::Ran(model) => {
                let of_model = self.models.get_mut(model);
                self.all.iter_mut().chain(of_model).for_each(|most| most.ran(now));
            }
        }
    }

    /// Raises the numbers that are in use and due, and forgets old refusals. `in_flight` is what the account runs.
    pub fn update(&mut self, in_flight: &Load, now: i64) {
        self.all.take_if(|most| now >= most.forget_at);
        self.models.retain(|_, most| now < most.forget_at);
        // A batch that is too large by its tokens may fail long after it was taken: nothing but its end says that there was room.
        self.all.iter_mut().for_each(|most| most.raise(in_flight.batches, now, true));
        for (model, most) in &mut self.models {
            most.raise(in_flight.models.get(model).map_or(0, |model| model.batches), now, false);
        }
    }

    /// Returns the fewest batches that are tried at a time, in all or of one model; None if the account showed no lack of room.
    pub fn least(&self) -> Option<usize> {
        self.all.iter().chain(self.models.values()).map(|most| most.batches).min()
    }

    /// Returns `room` as far as the account showed to have it.
    pub fn of(&self, room: Room) -> Room {
        let batches = self.all.map(|most| most.batches).into_iter().chain(room.batches).min();
        let of_models = self.models.iter().map(|(model, most)| (model.clone(), most.batches));
        Room { batches, batches_of_models: of_models.collect(), ..room }
    }
}

impl Most {
    fn refused(before: Option<&Most>, in_flight: usize, now: i64) -> Most {
        let refusals = before.filter(|most| now < most.forget_at).map_or(0, |most| most.refusals).saturating_add(1);
        let (raise_at, forget_at) = (now.saturating_add(pause(refusals)), now.saturating_add(REMEMBERED));
        Most { batches: in_flight.max(1), refusals, raise_at, step: 1, is_raised: false, forget_at }
    }

    fn ran(&mut self, now: i64) {
        (self.batches, self.refusals) = (self.batches.saturating_add(1), 0);
        self.raise_at = self.raise_at.min(now.saturating_add(pause(0)));
    }

    /// Raises the number if all of it is in use. If that was raised before, `shows_room` says whether its use shows that there was room.
    fn raise(&mut self, in_flight: usize, now: i64, shows_room: bool) {
        if now < self.raise_at || in_flight < self.batches {
            return;
        }
        if self.is_raised && shows_room {
            (self.refusals, self.step) = (0, (2 * self.step).min(LARGEST_STEP));
        }
        self.batches = in_flight.saturating_add(self.step);
        (self.is_raised, self.raise_at) = (true, now.saturating_add(pause(self.refusals)));
    }
}

/// Returns the pause after so many refusals in a row, in milliseconds.
fn pause(refusals: u32) -> i64 {
    (PAUSE << refusals.saturating_sub(1).min(8)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lifecycle::BatchLoad;

    fn load(batches: usize) -> Load {
        std::iter::repeat_n(BatchLoad { requests: 1, model: "m".into(), tokens: 1 }, batches).collect()
    }

    /// An account that is asked whenever it may be, for an hour, and that takes `capacity` batches, which never end. Returns the
    /// number of batches that it runs in the end, and that of its refusals.
    fn run(capacity: usize, begin: usize) -> (usize, usize) {
        let (mut shown, mut running, mut refusals) = (ShownRoom::default(), begin, 0);
        for now in (0..3_600_000).step_by(1_000) {
            shown.update(&load(running), now);
            while shown.of(Room::default()).batches.is_none_or(|most| running < most) {
                if running == capacity {
                    refusals += 1;
                    shown.learn(&CapacityNews::Refused, &load(running), now);
                    break;
                }
                running += 1;
            }
        }
        (running, refusals)
    }

    proptest! {
        #[test]
        fn an_account_is_used_to_its_capacity_and_refuses_few(capacity in 1..200usize) {
            let (running, refusals) = run(capacity, 0);
            prop_assert_eq!(running, capacity);
            prop_assert!((2..=20).contains(&refusals), "{}", refusals);
        }

        #[test]
        fn no_more_is_tried_than_the_limit_and_at_least_one(
            news in prop::collection::vec((0..3u8, 0..30usize, 0..400_000i64), 0..50), limit in prop::option::of(1..20usize)
        ) {
            let (mut shown, mut now) = (ShownRoom::default(), 0);
            for (kind, in_flight, later) in news {
                now += later;
                let news = match kind {
                    0 => CapacityNews::Refused,
                    1 => CapacityNews::TokensRefused("m".into()),
                    _ => CapacityNews::Ran("m".into()),
                };
                shown.learn(&news, &load(in_flight), now);
                let room = shown.of(Room { batches: limit, ..Room::default() });
                prop_assert!(limit.is_none_or(|limit| room.batches.is_some_and(|most| most <= limit)));
                prop_assert!(room.batches.is_none_or(|most| most >= 1));
                prop_assert!(room.batches_of_models.values().all(|most| *most >= 1));
                shown.update(&load(in_flight), now);
            }
        }
    }

    #[test]
    fn a_capacity_that_grows_is_found_within_minutes() {
        let mut shown = ShownRoom::default();
        shown.learn(&CapacityNews::Refused, &load(4), 0);
        let (mut running, mut now) = (4, 0);
        while running < 300 {
            now += 1_000;
            shown.update(&load(running), now);
            running = running.max(shown.of(Room::default()).batches.unwrap());
        }
        assert!(now <= 60_000, "{now}");
    }

    #[test]
    fn tokens_of_one_model_keep_no_other_back_and_raise_by_one_until_a_batch_ran() {
        let mut shown = ShownRoom::default();
        let refused = CapacityNews::TokensRefused("m".into());
        shown.learn(&refused, &Load::default(), 0);
        assert_eq!(shown, ShownRoom::default(), "nothing else was in flight");
        shown.learn(&refused, &load(3), 0);
        let most = |shown: &ShownRoom| shown.of(Room::default()).batches_of_models.get("m").copied();
        assert_eq!((most(&shown), shown.of(Room::default()).batches), (Some(3), None));
        for (now, running, expected) in [(3_999, 3, 3), (4_000, 3, 4), (8_000, 4, 5), (12_000, 5, 6)] {
            shown.update(&load(running), now);
            assert_eq!(most(&shown), Some(expected), "{now}");
        }
        shown.learn(&refused, &load(3), 12_000);
        shown.update(&load(3), 19_999);
        assert_eq!(most(&shown), Some(3), "the second pause is longer");
        shown.learn(&CapacityNews::Ran("m".into()), &load(2), 20_000);
        assert_eq!(most(&shown), Some(4));
        shown.update(&Load::default(), 12_000 + REMEMBERED);
        assert_eq!(shown, ShownRoom::default());
    }
}
