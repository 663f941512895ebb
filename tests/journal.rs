//! The journal: whatever becomes of its shards, none is lost or counted twice, and a head stays small.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/counting_store.rs"]
mod counting_store;
#[path = "support/work.rs"]
mod work;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use batchjob_operator::api::{DeletionPolicy, ErrorSummary, InputStatus, PROTOCOL_VERSION, RequestCounts};
use batchjob_operator::controller::{JournalStore, Judged};
use batchjob_operator::lifecycle::{
    Attempt, AttemptState, Journal, Owner, PartRef, Plan, Refusal, SEAL_AT, SEGMENT_SHARDS, SealedSegment, Segment,
    SegmentKind, Shard, Shards, Totals, read_sealed,
};
use batchjob_operator::store::{Folder, StoreError, SwapError, layout};
use counting_store::CountingStore;
use proptest::prelude::*;

const WORK: &str = "0123456789abcdef0123456789abcdef";

fn owner() -> Owner {
    Owner { cluster: "c".into(), namespace: "shop".into(), name: "j".into(), uid: "u".into() }
}

fn unsent(index: usize, round: u32, took: RequestCounts) -> Shard {
    Shard {
        sha256: format!("{index:064x}"),
        index_sha256: format!("{:064x}", index + (1 << 40)),
        bytes: 10,
        first: index as i64 * 10,
        requests: 10,
        failures: 0,
        attempt: None,
        round,
        took,
        took_errors: vec![],
        model: "gpt-5-mini".into(),
        streaks: Default::default(),
    }
}

fn attempt(index: usize, number: u32, state: AttemptState) -> Attempt {
    Attempt {
        number,
        intent_id: format!("{index:030x}{number:02x}"),
        file_id: format!("file-{index:024x}"),
        post_by: 1_795_990_475_783,
        fingerprint: "6b2ea0e170e4cd3f".into(),
        declined: None,
        billed_again: i64::from(index.is_multiple_of(7)),
        state,
    }
}

fn settled(index: usize, number: u32, ends: [i64; 5]) -> Attempt {
    let [succeeded, failed, expired, cancelled, missing] = ends;
    let counts = RequestCounts { total: ends.iter().sum(), succeeded, failed, expired, cancelled, missing };
    let error = |code: &str, count| ErrorSummary {
        code: code.into(),
        count,
        sample_custom_id: format!("r-{index}"),
        message: String::new(),
    };
    let sha256 = format!("{:064x}", index + (1 << 41));
    let state = AttemptState::Settled {
        batch_id: format!("batch_{index:032x}"),
        ended: "completed".into(),
        part: Some(PartRef { name: layout::part(WORK, &format!("{index:05}-{number}"), &sha256), sha256 }),
        counts,
        may_pass: failed / 2,
        errors: vec![error("http_500", failed), error("batch_expired", expired)],
        files: vec![],
    };
    attempt(index, number, state)
}

fn planned(shards: usize) -> Journal {
    let mut journal = Journal::open(WORK.into(), owner(), "spec".into());
    journal.plan = Some(Plan {
        work_hash: "h".into(),
        input: InputStatus::default(),
        requests: 10 * shards as i64,
        too_large: Default::default(),
        left_out: Default::default(),
    });
    journal.shards = (0..shards).map(|index| unsent(index, 0, RequestCounts::default())).collect();
    journal
}

/// What becomes of the shards of a work, some of it only for the journal.
#[derive(Clone, Debug)]
enum Event {
    /// One of the next that can be sent gets an attempt.
    Start(usize),
    /// One that has an attempt comes to an end.
    Settle(usize, [i64; 5]),
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
        8 => (0..6usize, ends).prop_map(|(at, ends)| Event::Settle(at, ends)),
        1 => (0..6usize).prop_map(Event::Refuse),
        1 => (0..6usize).prop_map(Event::Abandon),
        1 => (0..6usize).prop_map(Event::Halve),
        1 => (1..80usize).prop_map(Event::Resend),
        2 => (1..20usize).prop_map(Event::Written),
        2 => (1..20usize).prop_map(Event::Packed),
        1 => Just(Event::Merged),
    ]
}

/// A work as a plain list, and as the journal keeps it.
struct Both {
    plain: Vec<Shard>,
    shards: Shards,
    stored: HashMap<String, Vec<u8>>,
}

impl Both {
    fn new(count: usize) -> Both {
        let plain: Vec<Shard> = (0..count).map(|index| unsent(index, 0, RequestCounts::default())).collect();
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
                if let Some(index) = self.pick(at, |s| s.attempt.is_none()) {
                    self.edit(index, |s| s.attempt = Some(attempt(index, 1, AttemptState::Intended)));
                }
            }
            Event::Settle(at, ends) => {
                if let Some(index) = self.pick(at, is_open) {
                    self.edit(index, |s| s.attempt = Some(settled(index, 1, ends)));
                }
            }
            Event::Refuse(at) => {
                if let Some(index) = self.pick(at, is_open) {
                    let refusal = Refusal::TooLarge;
                    let state = AttemptState::Refused { refusal, message: "m".into(), at: 1, retry_at: None };
                    let attempt = Attempt { file_id: String::new(), ..attempt(index, 2, state) };
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
                    let (round, took) = (self.plain[index].round, self.plain[index].took);
                    let half = Shard { requests: 5, ..unsent(self.plain.len(), round, took) };
                    self.plain.push(half.clone());
                    self.shards.push(half);
                }
            }
            Event::Resend(count) => {
                if self.shards.are_settled() && self.plain.len() < 400 {
                    let took = RequestCounts { total: 3, failed: 1, expired: 2, ..Default::default() };
                    let (round, first) = (self.shards.totals().round + 1, self.plain.len());
                    let more: Vec<Shard> = (first..first + count).map(|index| unsent(index, round, took)).collect();
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
        attempt.file_id.clear();
        attempt.fingerprint.clear();
    }
    shard
}

fn sum(shards: &[Shard]) -> Totals {
    let mut totals = Totals::default();
    shards.iter().for_each(|shard| totals.add(shard));
    totals
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_shard_is_lost_or_counted_twice_whatever_becomes_of_it(
        count in 1..350usize,
        events in prop::collection::vec(event(), 1..250),
    ) {
        let mut both = Both::new(count);
        both.happens(Event::Packed(16));
        for event in events {
            both.happens(event);
            prop_assert_eq!(both.shards.len(), both.plain.len());
            prop_assert_eq!(both.shards.totals(), sum(&both.plain));
            prop_assert_eq!(both.shards.are_settled(), both.plain.iter().all(|s| s.settled().is_some()));
            prop_assert_eq!(both.shards.have_attempts(), both.plain.iter().any(|s| s.attempt.is_some()));
        }
        let everywhere: Vec<(usize, Shard)> = both.everywhere().iter().map(|(i, s)| (*i, essence(s))).collect();
        let plain: Vec<(usize, Shard)> = both.plain.iter().map(essence).enumerate().collect();
        prop_assert_eq!(everywhere, plain);
        let mut errors = batchjob_operator::lifecycle::ErrorTotals::default();
        both.plain.iter().enumerate().for_each(|(index, shard)| errors.add(index, shard));
        prop_assert_eq!(both.shards.errors(), errors);
    }
}

fn stores() -> (Arc<CountingStore>, Folder) {
    let store = CountingStore::new();
    (store.clone(), Folder::of(store, "memory:///out/", "out/"))
}

async fn put(folder: &Folder, name: &str, bytes: impl Into<bytes::Bytes>) {
    folder.delete(name).await.unwrap();
    assert!(folder.put_new(name, bytes.into()).await.unwrap());
}

/// Writes the journal's next version, as `edit` makes it, and reads it as another process does.
async fn write(store: &JournalStore, judged: &Judged, edit: impl FnOnce(&mut Journal)) -> Judged {
    store.swap(&judged.1, &judged.0.next(edit)).await.unwrap();
    store.read(None, 4).await.unwrap().unwrap()
}

async fn opened(folder: &Folder, shards: usize) -> (JournalStore, Judged) {
    let store = JournalStore::new(folder, SEAL_AT);
    store.create(&Journal::open(WORK.into(), owner(), "spec".into())).await.unwrap();
    let judged = store.read(None, 4).await.unwrap().unwrap();
    let judged = write(&store, &judged, |j| (j.plan, j.shards) = (planned(shards).plan, planned(shards).shards)).await;
    (store, judged)
}

async fn all(store: &JournalStore, journal: &Journal) -> Result<BTreeMap<usize, Shard>, StoreError> {
    let mut all = BTreeMap::new();
    let see = |index, shard: &Shard| {
        assert!(all.insert(index, shard.clone()).is_none(), "{index} twice");
        Ok(())
    };
    store.each(journal, see).await?;
    Ok(all)
}

fn settle(journal: &mut Journal, indices: std::ops::Range<usize>) {
    for index in indices {
        journal.shards.get_mut(index).unwrap().attempt = Some(settled(index, 1, [9, 1, 0, 0, 0]));
    }
}

/// Journals that were written by the version before segments: opened, planned, and at every later state.
#[tokio::test]
async fn a_journal_of_the_first_version_is_read_and_carried_on() {
    let mut read = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/journals")).unwrap() {
        let path = entry.unwrap().path();
        let written = std::fs::read(&path).unwrap();
        let plain: serde_json::Value = serde_json::from_slice(&written).unwrap();
        let shards: Vec<Shard> = serde_json::from_value(plain["shards"].clone()).unwrap();
        let (_, folder) = stores();
        put(&folder, layout::JOURNAL, written).await;
        let store = JournalStore::new(&folder, SEAL_AT);
        let before = store.read(None, 4).await.unwrap().unwrap();
        assert_eq!(before.0.protocol_version, 1, "{path:?}");
        assert_eq!(before.0.shards.iter().cloned().collect::<Vec<_>>(), shards, "{path:?}");
        assert_eq!(before.0.shards.totals(), sum(&shards), "{path:?}");
        let after = write(&store, &before, |journal| {
            // As decisions have it once the files are deleted.
            journal.shards.iter_mut().for_each(|shard| {
                if let Some(AttemptState::Settled { files, .. }) = shard.attempt.as_mut().map(|a| &mut a.state) {
                    files.clear();
                }
            });
        })
        .await;
        assert_eq!((after.0.protocol_version, after.0.rev), (PROTOCOL_VERSION, before.0.rev + 1), "{path:?}");
        let ids = |shard: &Shard| {
            (shard.sha256.clone(), shard.settled(), shard.attempt.as_ref().map(|a| a.intent_id.clone()))
        };
        let there = all(&store, &after.0).await.unwrap();
        assert_eq!(there.values().map(ids).collect::<Vec<_>>(), shards.iter().map(ids).collect::<Vec<_>>(), "{path:?}");
        assert_eq!(after.0.shards.totals(), sum(&shards), "{path:?}");
        assert_eq!(
            (&after.0.owner, &after.0.commit, &after.0.plan),
            (&before.0.owner, &before.0.commit, &before.0.plan)
        );
        read += 1;
    }
    assert!(read >= 11, "{read} journals");
}

#[tokio::test]
async fn a_journal_of_a_newer_version_is_not_taken_for_one_of_ours_whatever_it_holds() {
    let (_, folder) = stores();
    let store = JournalStore::new(&folder, SEAL_AT);
    let newer = PROTOCOL_VERSION + 1;
    put(&folder, layout::JOURNAL, format!(r#"{{"protocolVersion":{newer},"shards":{{"tree":[{{}}]}}}}"#)).await;
    let (journal, _) = store.read(None, 4).await.unwrap().unwrap();
    assert_eq!(journal.protocol_version, newer);
    assert!(journal.shards.is_empty() && journal.plan.is_none());
}

/// The first version takes what is written now for no journal: it acts on none of it.
#[test]
fn the_first_version_cannot_read_a_journal_of_this_one() {
    #[derive(serde::Deserialize)]
    struct First {
        #[allow(dead_code)]
        shards: Vec<serde::de::IgnoredAny>,
    }
    for journal in [Journal::open(WORK.into(), owner(), "spec".into()), planned(3)] {
        let text = serde_json::to_string(&journal).unwrap();
        assert!(serde_json::from_str::<First>(&text).is_err(), "{text}");
    }
}

/// A crash leaves segments that no head names; a head never names one that is not there.
#[tokio::test]
async fn a_crash_between_a_segment_and_its_head_loses_nothing() {
    let (counts, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    counts.loses_swaps.store(true, SeqCst);
    let next = judged.0.next(|j| settle(j, 0..20));
    assert!(matches!(store.swap(&judged.1, &next).await, Err(SwapError::Store(_))));
    counts.loses_swaps.store(false, SeqCst);
    let after = store.read(None, 4).await.unwrap().unwrap();
    assert_eq!(after.0, judged.0, "nothing was written");
    let after = write(&store, &after, |j| settle(j, 0..20)).await;
    assert_eq!(after.0.shards.sealed_segments().len(), 1);
    let there = all(&store, &after.0).await.unwrap();
    assert_eq!((there.len(), there.values().filter(|s| s.settled().is_some()).count()), (600, 20));
}

#[tokio::test]
async fn of_two_that_seal_at_the_same_time_one_wins_and_the_journal_is_whole() {
    let (_, folder) = stores();
    let (one, judged) = opened(&folder, 600).await;
    let other = JournalStore::new(&folder, SEAL_AT);
    let first = judged.0.next(|j| settle(j, 0..16));
    let second = judged.0.next(|j| settle(j, 0..40));
    assert!(one.swap(&judged.1, &first).await.is_ok());
    assert!(matches!(other.swap(&judged.1, &second).await, Err(SwapError::Lost)));
    // The same content has the same name, whoever stored it first.
    let after = other.read(None, 4).await.unwrap().unwrap();
    assert_eq!(after.0.shards.totals().settled, 16);
    let after = write(&other, &after, |j| settle(j, 16..40)).await;
    let there = all(&one, &after.0).await.unwrap();
    assert_eq!((there.len(), after.0.shards.totals()), (600, sum(&there.values().cloned().collect::<Vec<_>>())));
}

#[tokio::test]
async fn segments_that_are_gone_or_changed_are_never_taken_for_nothing() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    let judged = write(&store, &judged, |j| settle(j, 0..16)).await;
    let plan = layout::plan_segment(WORK, &judged.0.shards.plan_segments()[0].name);
    let sealed = layout::sealed_segment(WORK, &judged.0.shards.sealed_segments()[0].name);
    for name in [plan, sealed] {
        let whole = folder.read(&name, 1 << 20).await.unwrap().unwrap();
        let changed = String::from_utf8(whole.to_vec()).unwrap().replacen("\"requests\":10", "\"requests\":11", 1);
        for broken in [None, Some(changed), Some("[]".into()), Some("{}".into())] {
            folder.delete(&name).await.unwrap();
            if let Some(broken) = broken {
                put(&folder, &name, broken).await;
            }
            assert!(matches!(all(&store, &judged.0).await, Err(StoreError::Corrupt(why)) if why.contains(&name)));
            if name.contains("/plan/") {
                assert!(matches!(store.read(None, 4).await, Err(StoreError::Corrupt(why)) if why.contains(&name)));
                // What is sent already is followed on from what is known.
                assert!(store.read(Some(&judged), 4).await.is_ok());
            }
        }
        put(&folder, &name, whole).await;
        assert_eq!(all(&store, &judged.0).await.unwrap().len(), 600);
    }
}

fn first_open(head: &serde_json::Value) -> serde_json::Value {
    head["shards"]["open"].as_object().unwrap().values().next().unwrap().clone()
}

/// A journal is its owner's to write: what it says is bounded, and every shard is in one place.
#[tokio::test]
async fn a_head_that_contradicts_itself_or_has_no_end_is_refused() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    let judged = write(&store, &judged, |j| settle(j, 0..20)).await;
    let head: serde_json::Value =
        serde_json::from_slice(&folder.read(layout::JOURNAL, 1 << 20).await.unwrap().unwrap()).unwrap();
    type Edit = Box<dyn Fn(&mut serde_json::Value)>;
    let edits: Vec<(&str, Edit)> = vec![
        ("one more", Box::new(|j| j["shards"]["count"] = 601.into())),
        ("a shard twice", Box::new(|j| j["shards"]["open"]["300"] = first_open(j))),
        ("a shard behind the last", Box::new(|j| j["shards"]["open"]["700"] = first_open(j))),
        ("a plan that begins elsewhere", Box::new(|j| j["shards"]["next"] = 30.into())),
        ("a segment less", Box::new(|j| _ = j["shards"]["plan"].as_array_mut().unwrap().remove(1))),
        ("a sealed segment less", Box::new(|j| _ = j["shards"]["sealed"]["segments"].as_array_mut().unwrap().pop())),
        ("a number without end", Box::new(|j| j["shards"]["plan"][0]["requests"] = i64::MAX.into())),
        ("a sum without end", Box::new(|j| j["shards"]["sealed"]["totals"]["mayPass"] = i64::MAX.into())),
        (
            "a name without end",
            Box::new(|j| {
                let open = j["shards"]["open"].as_object_mut().unwrap().values_mut().next().unwrap();
                open["attempt"]["fileID"] = "f".repeat(5_000).into();
            }),
        ),
        ("a list without end", Box::new(|j| j["shards"] = vec![first_open(j); 2_001].into())),
        ("no shards at all", Box::new(|j| j["shards"] = "none".into())),
    ];
    for (what, edit) in edits {
        let mut changed = head.clone();
        edit(&mut changed);
        put(&folder, layout::JOURNAL, serde_json::to_vec(&changed).unwrap()).await;
        let read = store.read(None, 4).await;
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{what}: {read:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    put(&folder, layout::JOURNAL, format!(r#"{{"protocolVersion":2,"shards":{deep}}}"#)).await;
    assert!(matches!(store.read(None, 4).await, Err(StoreError::Corrupt(_))));
    put(&folder, layout::JOURNAL, serde_json::to_vec(&head).unwrap()).await;
    assert_eq!(store.read(None, 4).await.unwrap().unwrap().0, judged.0);
}

#[tokio::test]
async fn a_head_that_nobody_could_read_again_is_not_written() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 30).await;
    let next = judged.0.next(|j| {
        let attempt = attempt(0, 1, AttemptState::Revoked { message: "m".repeat(17 << 20) });
        j.shards.get_mut(0).unwrap().attempt = Some(attempt);
    });
    let refused = store.swap(&judged.1, &next).await;
    assert!(matches!(&refused, Err(SwapError::Store(StoreError::TooLarge(_)))), "{refused:?}");
    assert_eq!(store.read(None, 4).await.unwrap().unwrap().0, judged.0);
}

/// A batch is asked for only where what may come of it, with the longest names that are taken, finds room.
#[tokio::test]
async fn an_intent_is_written_only_where_there_is_room_for_what_comes_of_it() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 30).await;
    let with = |bytes: usize| {
        judged.0.next(|j| {
            let told = attempt(0, 1, AttemptState::Revoked { message: "m".repeat(bytes) });
            j.shards.get_mut(0).unwrap().attempt = Some(told);
            j.shards.get_mut(1).unwrap().attempt = Some(attempt(1, 1, AttemptState::Intended));
        })
    };
    assert!(store.pack_intent(&with(1 << 20)).await.is_ok());
    let full = with((16 << 20) - (60 << 10));
    assert!(store.pack(&full).await.is_ok());
    assert!(matches!(store.pack_intent(&full).await, Err(StoreError::TooLarge(_))));
}

#[tokio::test]
async fn a_head_that_did_not_change_is_not_fetched_again() {
    let (counts, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    let before = counts.bytes();
    let again = store.read(Some(&judged), 4).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&again.0, &judged.0));
    assert_eq!(counts.bytes(), before);
    let other = write(&store, &judged, |j| settle(j, 0..1)).await;
    let again = store.read(Some(&judged), 4).await.unwrap().unwrap();
    assert_eq!(again.0, other.0);
}

/// The head did not change, and what is sent next lies in a segment that this process has not read.
#[tokio::test]
async fn what_is_sent_next_is_read_although_the_head_did_not_change() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    assert!(!JournalStore::is_short(&judged.0, 4));
    let next = judged.0.next(|j| settle(j, 0..254));
    let (written, swapped) = store.swap(&judged.1, &next).await.unwrap();
    let known = (Arc::new(written), swapped.version().unwrap());
    assert!(JournalStore::is_short(&known.0, 4), "two are left of the first segment");
    let read = store.read(Some(&known), 4).await.unwrap().unwrap();
    assert_eq!(read.1, known.1, "the same version");
    assert!(!JournalStore::is_short(&read.0, 4) && (254..258).all(|index| read.0.shards.get(index).is_some()));
    let closed = Journal { closing: Some(DeletionPolicy::Cancel), ..Journal::clone(&known.0) };
    assert!(!JournalStore::is_short(&closed, 4), "nothing is sent any more");
}

/// Runs `shards` of a work from their intent to their end, four at a time. Bytes a transition.
async fn run(store: &JournalStore, judged: &mut Judged, counts: &CountingStore, shards: std::ops::Range<usize>) -> f64 {
    let (before, mut writes) = (counts.bytes(), 0.0);
    let states = |index: usize| {
        let batch_id = format!("batch_{index:032x}");
        [
            attempt(index, 1, AttemptState::Intended),
            attempt(index, 1, AttemptState::Submitted { batch_id, at: 1_795_990_475_783 }),
            settled(index, 1, [9, 1, 0, 0, 0]),
        ]
    };
    for index in shards {
        for (behind, state) in [(0, 0), (0, 1), (4, 2)] {
            let Some(index) = index.checked_sub(behind) else { continue };
            let next = judged.0.next(|j| {
                if let Some(shard) = j.shards.get_mut(index) {
                    shard.attempt = Some(states(index)[state].clone());
                }
            });
            let (written, swapped) = store.swap(&judged.1, &next).await.unwrap();
            *judged = (Arc::new(written), swapped.version().unwrap());
            *judged = store.read(Some(judged), 4).await.unwrap().unwrap();
            writes += 1.0;
        }
    }
    (counts.bytes() - before) as f64 / writes
}

#[tokio::test]
async fn a_transition_costs_the_same_at_shard_10_and_at_shard_10_000() {
    let (counts, folder) = stores();
    let (store, mut judged) = opened(&folder, 10_400).await;
    run(&store, &mut judged, &counts, 0..10).await;
    let early = run(&store, &mut judged, &counts, 10..266).await;
    // What would take long one by one.
    judged = store.read(None, 10_000).await.unwrap().unwrap();
    judged = write(&store, &judged, |j| settle(j, 266..9_990)).await;
    run(&store, &mut judged, &counts, 9_990..10_000).await;
    let late = run(&store, &mut judged, &counts, 10_000..10_256).await;
    assert!(late / early <= 2.0, "{early:.0} bytes a transition, then {late:.0}");
    let head = folder.read(layout::JOURNAL, 1 << 20).await.unwrap().unwrap();
    assert!(head.len() < 64 << 10, "{} bytes", head.len());
    assert!(judged.0.shards.iter().count() <= 2 * SEGMENT_SHARDS, "{} resident", judged.0.shards.iter().count());
    let there = all(&store, &judged.0).await.unwrap();
    assert_eq!((there.len(), judged.0.shards.totals()), (10_400, sum(&there.values().cloned().collect::<Vec<_>>())));
    println!("{early:.0} bytes a transition at shard 10, {late:.0} at shard 10,000, head {} bytes", head.len());
}

/// Decided by the production rules, visit by visit. What a process remembers and what a head holds do not grow with the work.
#[tokio::test]
async fn a_work_of_many_batches_is_sent_once_each_and_neither_head_nor_memory_grows() {
    let (_, folder) = stores();
    let mut work = work::Work::planned(&folder, 400).await;
    let mut largest = [0, 0];
    for settled in (50..=400).step_by(50) {
        work.run_until_settled(settled).await;
        let m = &work.memory;
        let remembered = [m.uploads.len(), m.posted.len(), m.looks.len(), m.collected.len(), m.deleted.len() / 3];
        let in_head = work.judged.0.shards.in_head().count();
        largest = [largest[0].max(*remembered.iter().max().unwrap()), largest[1].max(in_head)];
    }
    assert!(largest.iter().all(|n| *n <= 2 * SEAL_AT), "{largest:?} remembered, and in the head");
    let there = all(&JournalStore::new(&folder, SEAL_AT), &work.judged.0).await.unwrap();
    let once = |s: &Shard| s.attempt.as_ref().is_some_and(|a| a.number == 1) && s.settled().is_some();
    assert!(there.len() == 400 && there.values().all(once));
}

#[test]
fn a_small_job_is_a_head_alone() {
    let mut shards = planned(SEAL_AT).shards;
    assert!(shards.pack(SEAL_AT).unwrap().is_empty());
    let kinds = |segments: Vec<Segment>| segments.iter().map(|s| s.kind).collect::<Vec<_>>();
    assert_eq!(kinds(planned(600).shards.pack(SEAL_AT).unwrap()), [SegmentKind::Plan; 3]);
}
