//! Whatever becomes of shards, wherever they lie, none is lost or counted twice.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// What becomes of the shards of a work, some of it only for the journal.
#[derive(Clone, Debug)]
enum Event {
    /// One of the next that can be sent gets an attempt.
    Start(usize),
    /// One that has an attempt comes to an end.
    Settle(usize, [i64; 5]),
    /// So many that can be sent next are sent and come to the same end.
    SettleNext(usize, [i64; 5]),
    /// One that has an attempt can never be run, or is given up.
    Refuse(usize),
    Abandon(usize),
    /// One that has an attempt becomes two.
    Halve(usize),
    /// Another round, of so many shards, once all are settled.
    Resend(usize),
    /// The journal is written, sealing as soon as so many are settled, and read by another process.
    Written(usize),
    /// It is written, and this process goes on.
    Packed(usize),
    Merged,
}

fn event() -> impl Strategy<Value = Event> {
    let ends = prop::array::uniform5(0..9_i64);
    prop_oneof![
        8 => (0..6usize).prop_map(Event::Start),
        8 => (0..6usize, ends.clone()).prop_map(|(at, ends)| Event::Settle(at, ends)),
        1 => (20..120usize, ends).prop_map(|(count, ends)| Event::SettleNext(count, ends)),
        1 => (0..6usize).prop_map(Event::Refuse),
        1 => (0..6usize).prop_map(Event::Abandon),
        1 => (0..6usize).prop_map(Event::Halve),
        1 => (1..80usize).prop_map(Event::Resend),
        2 => (1..20usize).prop_map(Event::Written),
        2 => (1..20usize).prop_map(Event::Packed),
        1 => Just(Event::Merged),
    ]
}

fn model(index: usize) -> String {
    format!("m{}", index % 5)
}

/// A work as a plain list, and as the journal keeps it.
struct Both {
    plain: Vec<Shard>,
    shards: Shards,
    stored: HashMap<String, Vec<u8>>,
}

impl Both {
    /// The first shards have answers of earlier jobs.
    fn new(reused: usize, count: usize) -> Both {
        let part = PartRef { name: "p".into(), sha256: "s".into() };
        let shard = |index| Shard {
            reused: (index < reused).then(|| part.clone()),
            model: model(index),
            ..unsent(index, 0, RequestCounts::default())
        };
        let plain: Vec<Shard> = (0..reused + count).map(shard).collect();
        Both { shards: plain.clone().into(), plain, stored: HashMap::new() }
    }

    fn store(&mut self, segments: Vec<Segment>) {
        self.stored.extend(segments.into_iter().map(|segment| (segment.name, segment.bytes)));
    }

    fn read_window(&mut self) {
        while let Some(segment) = self.shards.segment_to_read(8) {
            let name = segment.name.clone();
            self.shards.take_in(&name, &self.stored[&name]).unwrap();
        }
    }

    fn edit(&mut self, index: usize, edit: impl Fn(&mut Shard)) {
        edit(&mut self.plain[index]);
        edit(self.shards.get_mut(index).unwrap());
    }

    /// Of the resident shards for which `of` holds, one.
    fn pick(&self, at: usize, of: impl Fn(&Shard) -> bool) -> Option<usize> {
        let some: Vec<usize> = self.shards.entries().filter(|(_, s)| of(s)).map(|(index, _)| index).take(6).collect();
        some.get(at % some.len().max(1)).copied()
    }

    fn happens(&mut self, event: Event) {
        let is_open = |s: &Shard| s.attempt.is_some() && s.settled().is_none();
        match event {
            Event::Start(at) => {
                if let Some(index) = self.pick(at, Shard::is_unsent) {
                    self.edit(index, |s| s.attempt = Some(attempt(index, 1, AttemptState::Intended)));
                }
            }
            Event::Settle(at, ends) => {
                if let Some(index) = self.pick(at, is_open) {
                    self.edit(index, |s| s.attempt = Some(settled(index, 1, ends)));
                }
            }
            Event::SettleNext(count, ends) => {
                for _ in 0..count {
                    self.happens(Event::Start(0));
                    self.happens(Event::Settle(0, ends));
                }
            }
            Event::Refuse(at) => {
                if let Some(index) = self.pick(at, is_open) {
                    let refusal = Refusal::TooLarge;
                    let state = AttemptState::Refused { refusal, message: "m".into(), at: 1, retry_at: None };
                    let attempt = Attempt { payload: Payload::default(), ..attempt(index, 2, state) };
                    self.edit(index, |s| s.attempt = Some(attempt.clone()));
                }
            }
            Event::Abandon(at) => {
                if let Some(index) = self.pick(at, is_open) {
                    let state = AttemptState::Abandoned { batch_id: Some(format!("batch-{index}")) };
                    self.edit(index, |s| s.attempt = Some(attempt(index, 1, state.clone())));
                }
            }
            Event::Halve(at) => {
                if let Some(index) = self.pick(at, is_open) {
                    self.edit(index, |s| s.requests /= 2);
                    let (round, prior_counts) = (self.plain[index].round, self.plain[index].prior_counts);
                    let half = Shard { requests: 5, ..unsent(self.plain.len(), round, prior_counts) };
                    self.plain.push(half.clone());
                    self.shards.push(half);
                }
            }
            Event::Resend(count) => {
                if self.shards.are_settled() && self.plain.len() < 400 {
                    let prior_counts = RequestCounts { total: 3, failed: 1, expired: 2, ..Default::default() };
                    let (round, first) = (self.shards.totals().round + 1, self.plain.len());
                    let more: Vec<Shard> =
                        (first..first + count).map(|index| unsent(index, round, prior_counts)).collect();
                    let mut packed: Shards = more.clone().into();
                    let segments = packed.pack(16).unwrap();
                    self.store(segments);
                    self.shards.append(&packed, count);
                    self.plain.extend(more);
                }
            }
            Event::Packed(seal_at) => {
                let segments = self.shards.pack(seal_at).unwrap();
                self.store(segments);
            }
            Event::Written(seal_at) => {
                self.happens(Event::Packed(seal_at));
                let bytes = serde_json::to_vec(&self.shards).unwrap();
                let read: Shards = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(serde_json::to_vec(&read).unwrap(), bytes, "read and written again it is the same");
                let known = std::mem::replace(&mut self.shards, read);
                if seal_at.is_multiple_of(2) {
                    self.shards.take_over(&known);
                }
            }
            Event::Merged => self.merge(),
        }
        self.read_window();
    }

    fn merge(&mut self) {
        let small = self.shards.segments_to_merge();
        if small.is_empty() {
            return;
        }
        let mut all = BTreeMap::new();
        small.iter().for_each(|s| all.extend(read_sealed(s, &self.stored[&s.name]).unwrap()));
        let whole = Segment::of_sealed(&all).unwrap();
        self.shards.merged(&small, SealedSegment { name: whole.name.clone(), count: all.len() });
        self.store(vec![whole]);
    }

    /// Every shard of the journal with its index, wherever it is.
    fn everywhere(&self) -> Vec<(usize, Shard)> {
        let mut all: Vec<(usize, Shard)> = self.shards.in_head().map(|(i, s)| (i, s.clone())).collect();
        for segment in self.shards.plan_segments() {
            all.extend(self.shards.planned_in(segment, &self.stored[&segment.name]).unwrap());
        }
        for segment in self.shards.sealed_segments() {
            all.extend(read_sealed(segment, &self.stored[&segment.name]).unwrap());
        }
        all.sort_by_key(|(index, _)| *index);
        all
    }
}

/// Without what a sealed shard does not keep.
fn essence(shard: &Shard) -> Shard {
    let mut shard = shard.clone();
    if let Some(attempt) = shard.attempt.as_mut() {
        attempt.payload.forget();
        attempt.fingerprint.clear();
    }
    shard
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_shard_is_lost_or_counted_twice_whatever_becomes_of_it(
        reused in prop_oneof![Just(0), 1..40usize],
        count in 1..350usize,
        events in prop::collection::vec(event(), 1..250),
    ) {
        let mut both = Both::new(reused, count);
        both.happens(Event::Packed(16));
        for event in events {
            both.happens(event);
            prop_assert_eq!(both.shards.len(), both.plain.len());
            prop_assert_eq!(both.shards.totals(), sum(&both.plain));
            prop_assert_eq!(both.shards.are_settled(), both.plain.iter().all(|s| s.settled().is_some()));
            prop_assert_eq!(both.shards.have_reused(), reused > 0);
            prop_assert_eq!(both.shards.have_attempts(), both.plain.iter().any(|s| s.attempt.is_some()));
        }
        let everywhere: Vec<(usize, Shard)> = both.everywhere().iter().map(|(i, s)| (*i, essence(s))).collect();
        let plain: Vec<(usize, Shard)> = both.plain.iter().map(essence).enumerate().collect();
        prop_assert_eq!(everywhere, plain);
        let mut errors = batchjob_operator::lifecycle::ErrorTotals::default();
        both.plain.iter().enumerate().for_each(|(index, shard)| errors.add(index, shard));
        prop_assert_eq!(both.shards.errors(), errors);
        prop_assert_eq!(both.shards.usage(), usage(&both.plain));
        let answered: i64 = both.plain.iter().filter(|s| s.reused.is_none()).map(succeeded).sum();
        prop_assert_eq!(both.shards.usage().all().answered, answered);
        prop_assert_eq!(both.shards.totals().counts.succeeded - both.shards.totals().counts.reused, answered);
    }

    /// The order in which shards are sealed decides which models have sums of their own, and no sum.
    #[test]
    fn of_many_models_few_have_sums_of_their_own_and_nothing_is_left_out(
        events in prop::collection::vec(event(), 1..40),
    ) {
        let mut both = Both::new(0, 200);
        for (index, shard) in both.plain.iter_mut().enumerate() {
            shard.model = format!("m{}", index % 90);
        }
        both.shards = both.plain.clone().into();
        both.happens(Event::Packed(16));
        for event in events {
            both.happens(event);
            both.happens(Event::SettleNext(3, [9, 1, 0, 0, 2]));
            let sums = both.shards.usage();
            prop_assert_eq!(sums.all(), both.plain.iter().fold(UsageByModel::default(), |mut sums, shard| {
                sums.add(shard);
                sums
            }).all());
            prop_assert!(sums.by_model().count() <= 33);
            prop_assert!(sums.by_model().count() <= 32 || sums.by_model().any(|(model, _)| model == OTHER_MODELS));
        }
    }
}

fn usage(shards: &[Shard]) -> UsageByModel {
    let mut sums = UsageByModel::default();
    shards.iter().for_each(|shard| sums.add(shard));
    sums
}

fn succeeded(shard: &Shard) -> i64 {
    shard.settled().map_or(0, |counts| counts.succeeded)
}

#[test]
fn a_small_job_is_a_head_alone() {
    let mut shards = planned(SEAL_AT).shards;
    assert!(shards.pack(SEAL_AT).unwrap().is_empty());
    let kinds = |segments: Vec<Segment>| segments.iter().map(|s| s.kind).collect::<Vec<_>>();
    assert_eq!(kinds(planned(600).shards.pack(SEAL_AT).unwrap()), [SegmentKind::Plan; 3]);
}
