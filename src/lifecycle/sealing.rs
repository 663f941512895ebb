//! The movement of shards between a journal's head and its segments, and the format of a segment.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::attempt::{Attempt, AttemptState};
use super::shard::Shard;
use super::shard_list::{PlanSegment, SealedBatch, SealedSegment, Shards};
use crate::api::text::hex;
use crate::api::weight;

/// Number of shards in a full segment.
pub const SEGMENT_SHARDS: usize = 256;
/// Maximum number of shards without an attempt in the head; if there are more, they go into segments of the plan.
const UNSENT_IN_HEAD: usize = 32;
/// Maximum number of sealed shards that status can list.
const RECENT: usize = 32;

const OTHER_SHARDS: &str = "it does not hold the shards that the journal says";

/// An immutable piece of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The kind of its shards.
    pub kind: SegmentKind,
    /// SHA-256 of its bytes, in hex.
    pub name: String,
    /// The stored bytes.
    pub bytes: Vec<u8>,
}

/// The kind of shards that a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// Shards without an attempt.
    Plan,
    /// Settled shards.
    Sealed,
}

impl Segment {
    fn new(kind: SegmentKind, content: &impl serde::Serialize) -> serde_json::Result<Segment> {
        let bytes = serde_json::to_vec(content)?;
        Ok(Segment { kind, name: hex(digest(&SHA256, &bytes).as_ref()), bytes })
    }

    /// Returns a segment of sealed shards, by index.
    ///
    /// # Errors
    /// None in practice: every shard serializes as JSON.
    pub fn of_sealed(shards: &BTreeMap<usize, Shard>) -> serde_json::Result<Segment> {
        Segment::new(SegmentKind::Sealed, shards)
    }

    /// Returns whether these are the bytes of the segment of this name.
    pub fn is_named(name: &str, bytes: &[u8]) -> bool {
        hex(digest(&SHA256, bytes).as_ref()) == name
    }
}

impl Shards {
    /// Moves shards that no decision needs into segments: settled ones once `seal_at` of them have gathered, and planned ones
    /// beyond those of a small job. The segments have to be stored before the head that names them.
    ///
    /// # Errors
    /// None in practice: every shard serializes as JSON.
    pub fn pack(&mut self, seal_at: usize) -> serde_json::Result<Vec<Segment>> {
        let mut segments = self.seal(seal_at.max(1))?;
        segments.extend(self.plan_unsent()?);
        Ok(segments)
    }

    fn seal(&mut self, seal_at: usize) -> serde_json::Result<Vec<Segment>> {
        let done: Vec<usize> = self.in_head().filter(|(_, s)| s.is_done_with()).map(|(index, _)| index).collect();
        let mut segments = vec![];
        let mut done = done.as_slice();
        while done.len() >= seal_at {
            let full = if done.len() >= SEGMENT_SHARDS { SEGMENT_SHARDS } else { seal_at };
            let (now, later) = done.split_at(full);
            let shards = now
                .iter()
                .filter_map(|index| Some((*index, Arc::unwrap_or_clone(self.resident.remove(index)?).sealed())));
            let shards: BTreeMap<usize, Shard> = shards.collect();
            let segment = Segment::of_sealed(&shards)?;
            self.count_sealed(&shards);
            self.sealed.segments.push(SealedSegment { name: segment.name.clone(), count: shards.len() });
            segments.push(segment);
            done = later;
        }
        Ok(segments)
    }

    fn count_sealed(&mut self, shards: &BTreeMap<usize, Shard>) {
        let sealed = &mut self.sealed;
        for (index, shard) in shards {
            sealed.totals.add(shard);
            sealed.errors.add(*index, shard);
            sealed.usage.add(shard);
            sealed.recent.extend(SealedBatch::of(*index, shard));
        }
        sealed.errors.bound();
        sealed.recent.sort_by_key(|batch| batch.shard);
        let old = sealed.recent.len().saturating_sub(RECENT);
        sealed.recent.drain(..old);
    }

    /// Moves the last shards into segments of the plan, if they have no attempt and are many.
    fn plan_unsent(&mut self) -> serde_json::Result<Vec<Segment>> {
        if !self.plan.is_empty() {
            return Ok(vec![]);
        }
        let round = self.resident.last_key_value().map(|(_, shard)| shard.round);
        let is_unsent = |at: usize| self.get(at).is_some_and(|s| s.is_unsent() && Some(s.round) == round);
        let next = (0..self.len).rev().take_while(|at| is_unsent(*at)).last().unwrap_or(self.len);
        if self.len - next <= UNSENT_IN_HEAD {
            return Ok(vec![]);
        }
        self.next = next;
        let mut segments = vec![];
        while self.planned_end() < self.len {
            segments.extend(self.cut_planned()?);
        }
        Ok(segments)
    }

    /// Adds a shard with reused answers. All shards before it have reused answers as well. Returns a segment whenever one is
    /// full. The segment has to be stored before a head names it; its shards are no longer held.
    ///
    /// # Errors
    /// None in practice: every shard serializes as JSON.
    pub fn push_reused(&mut self, shard: Shard) -> serde_json::Result<Option<Segment>> {
        self.push(shard);
        // The plan begins behind them.
        self.next = self.len;
        match self.resident.len() < SEGMENT_SHARDS {
            true => Ok(None),
            false => Ok(self.seal(SEGMENT_SHARDS)?.pop()),
        }
    }

    /// Adds a shard that is to be sent. The shards before it are of the same round or have reused answers. Returns a segment whenever
    /// one is full. The segment has to be stored before a head names it; except for those of the first segment, its shards are no
    /// longer held.
    ///
    /// # Errors
    /// None in practice: every shard serializes as JSON.
    pub fn push_planned(&mut self, shard: Shard) -> serde_json::Result<Option<Segment>> {
        self.push(shard);
        match self.len - self.planned_end() < SEGMENT_SHARDS {
            true => Ok(None),
            false => self.cut_planned(),
        }
    }

    /// Cuts the next segment of the plan from the shards that are in none so far. The shards of the first segment stay
    /// resident.
    fn cut_planned(&mut self) -> serde_json::Result<Option<Segment>> {
        let from = self.planned_end();
        let end = self.len.min(from + SEGMENT_SHARDS);
        if from == end {
            return Ok(None);
        }
        let shards: Vec<&Shard> = self.resident.range(from..end).map(|(_, shard)| &**shard).collect();
        let segment = Segment::new(SegmentKind::Plan, &shards)?;
        self.plan.push(PlanSegment {
            name: segment.name.clone(),
            from,
            count: shards.len(),
            requests: shards.iter().map(|s| s.requests).sum(),
            failed_before: shards.iter().map(|s| s.prior_counts.failed).sum(),
            round: shards.first().map(|shard| shard.round).unwrap_or_default(),
        });
        if self.plan.len() > 1 {
            let behind = self.resident.split_off(&end);
            self.resident.split_off(&from);
            self.resident.extend(behind);
        }
        Ok(Some(segment))
    }

    /// Returns the rest of a plan that was made shard by shard, if it is enough for a segment.
    ///
    /// # Errors
    /// None in practice: every shard serializes as JSON.
    pub fn end_plan(&mut self) -> serde_json::Result<Option<Segment>> {
        if self.plan.is_empty() && self.len - self.next <= UNSENT_IN_HEAD {
            self.next = 0;
            return Ok(None);
        }
        self.cut_planned()
    }

    /// Returns the segment of the plan to read next, if fewer than `wanted` planned shards are resident.
    pub fn segment_to_read(&self, wanted: usize) -> Option<&PlanSegment> {
        let first_unread = self.next + self.resident.range(self.next..self.planned_end()).count();
        let short = first_unread - self.next < wanted;
        self.plan.iter().find(|s| short && (s.from..s.end()).contains(&first_unread))
    }

    /// Adds the shards of a segment of the plan that was read.
    ///
    /// # Errors
    /// If its bytes are not those that the journal names, or hold something else.
    pub fn take_in(&mut self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let segment = self.plan.iter().find(|s| s.name == name).cloned();
        let shards = segment.map(|segment| self.planned_in(&segment, bytes)).transpose()?;
        self.resident.extend(shards.unwrap_or_default().into_iter().map(|(index, shard)| (index, Arc::new(shard))));
        Ok(())
    }

    /// Returns the shards of a segment of the plan that are still planned, by index.
    ///
    /// # Errors
    /// If its bytes are not those that the journal names, or hold something else.
    pub fn planned_in(&self, segment: &PlanSegment, bytes: &[u8]) -> Result<Vec<(usize, Shard)>, String> {
        let shards: Vec<Shard> = read(&segment.name, bytes)?;
        let is_unsent = |s: &Shard| s.is_unsent() && s.round == segment.round && s.is_sane();
        if shards.len() != segment.count || !shards.iter().all(is_unsent) {
            return Err(OTHER_SHARDS.into());
        }
        let planned: Vec<_> = (segment.from..).zip(shards).filter(|(index, _)| *index >= self.next).collect();
        match planned.iter().map(|(_, shard)| shard.requests).sum::<i64>() == segment.requests {
            true => Ok(planned),
            false => Err(OTHER_SHARDS.into()),
        }
    }

    /// Takes over the planned shards that an earlier version of the same journal had read.
    pub fn take_over(&mut self, earlier: &Shards) {
        let known =
            |segment: &PlanSegment| earlier.plan.iter().any(|e| (&e.name, e.from) == (&segment.name, segment.from));
        for segment in self.plan.clone().iter().filter(|s| known(s)) {
            let from = segment.from.max(self.next);
            // The shards that are read are consecutive from the next one on.
            let unbroken = from == self.next || self.resident.contains_key(&(from - 1));
            let read = earlier.resident.range(from..segment.end().max(from)).filter(|_| unbroken);
            let read = (from..).zip(read).take_while(|(at, (index, _))| at == *index);
            self.resident.extend(read.map(|(index, (_, shard))| (index, shard.clone())));
        }
    }

    /// Returns small segments of sealed shards that together make a full one.
    pub fn segments_to_merge(&self) -> Vec<SealedSegment> {
        let (mut some, mut shards) = (vec![], 0);
        for segment in self.sealed.segments.iter().filter(|s| s.count < SEGMENT_SHARDS) {
            some.push(segment.clone());
            shards += segment.count;
            if shards >= SEGMENT_SHARDS {
                return some;
            }
        }
        vec![]
    }

    /// Replaces the segments that were merged by the one that holds their shards.
    pub fn merged(&mut self, small: &[SealedSegment], whole: SealedSegment) {
        self.sealed.segments.retain(|s| !small.contains(s));
        self.sealed.segments.push(whole);
    }
}

/// Returns the shards of a sealed segment, by index.
///
/// # Errors
/// If its bytes are not those that the journal names, or hold something else.
pub fn read_sealed(segment: &SealedSegment, bytes: &[u8]) -> Result<BTreeMap<usize, Shard>, String> {
    let shards: BTreeMap<usize, Shard> = read(&segment.name, bytes)?;
    match shards.len() == segment.count && shards.values().all(|s| s.settled().is_some() && s.is_sane()) {
        true => Ok(shards),
        false => Err(OTHER_SHARDS.into()),
    }
}

fn read<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, String> {
    if !Segment::is_named(name, bytes) {
        return Err("its content is not what was stored".into());
    }
    weight::read(bytes).map_err(|why| format!("it is no segment ({why})"))
}

impl Shard {
    /// Returns whether nothing will change the shard, and nobody needs it before the end: it is settled, and no file of it is
    /// left to delete. An abandoned batch may still run, and is kept in view.
    fn is_done_with(&self) -> bool {
        let abandoned = matches!(self.attempt.as_ref().map(|a| &a.state), Some(AttemptState::Abandoned { .. }));
        self.settled().is_some() && !abandoned && self.files_left().next().is_none()
    }

    /// Returns the files at the provider that nothing needs once the shard is settled.
    pub fn files_left(&self) -> impl Iterator<Item = &str> {
        let (files, payload): (&[String], &str) = match self.attempt.as_ref() {
            Some(Attempt { state: AttemptState::Settled { files, .. }, .. }) => (files, ""),
            Some(a) if matches!(a.state, AttemptState::Refused { .. }) => (&[], a.payload.name()),
            _ => (&[], ""),
        };
        files.iter().map(String::as_str).chain(Some(payload).filter(|name| !name.is_empty()))
    }

    /// Clears the names of files that are left.
    pub(super) fn forget_files(&mut self) {
        match &mut self.attempt {
            Some(Attempt { state: AttemptState::Settled { files, .. }, .. }) => files.clear(),
            Some(a) if matches!(a.state, AttemptState::Refused { .. }) => a.payload.forget(),
            _ => {}
        }
    }

    /// Returns the shard without the fields that only matter while it can be sent.
    fn sealed(mut self) -> Shard {
        if let Some(attempt) = &mut self.attempt {
            attempt.fingerprint.clear();
            attempt.payload.forget();
            attempt.declined = None;
        }
        self
    }
}

impl SealedBatch {
    fn of(shard: usize, of: &Shard) -> Option<SealedBatch> {
        let attempt = of.attempt.as_ref()?;
        let (state, batch_id) = match &attempt.state {
            AttemptState::Settled { batch_id, ended, .. } => (ended.clone(), Some(batch_id.clone())),
            _ => ("Refused".into(), None),
        };
        let (requests, model) = (of.requests, of.model.clone());
        Some(SealedBatch { shard, attempt: attempt.number, state, batch_id, requests, model })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reused(index: usize) -> Shard {
        let part = crate::lifecycle::PartRef { name: format!("p{index}"), sha256: "s".into() };
        Shard { reused: Some(part), ..shard(index) }
    }

    fn shard(index: usize) -> Shard {
        let unsent = serde_json::json!({"sha256": format!("{index:064x}"), "bytes": 1, "first": index, "requests": 1, "failures": 0});
        serde_json::from_value(unsent).unwrap()
    }

    /// Returns a plan that is made shard by shard, the first ones with reused answers, its segments, and the largest number of
    /// shards that were held at once.
    fn planned(first: usize, count: usize) -> (Shards, Vec<Segment>, usize) {
        let (mut shards, mut segments, mut held) = (Shards::default(), vec![], 0);
        for index in 0..first {
            segments.extend(shards.push_reused(reused(index)).unwrap());
            held = held.max(shards.iter().count());
        }
        for index in first..first + count {
            segments.extend(shards.push_planned(shard(index)).unwrap());
            held = held.max(shards.iter().count());
        }
        segments.extend(shards.end_plan().unwrap());
        (shards, segments, held)
    }

    #[test]
    fn a_plan_that_is_made_shard_by_shard_is_the_same_and_few_of_its_shards_are_held() {
        let full = SEGMENT_SHARDS;
        for count in
            [0, 1, UNSENT_IN_HEAD, UNSENT_IN_HEAD + 1, full - 1, full, full + 1, 3 * full, 3 * full + 9, 20_000]
        {
            let mut whole: Shards = (0..count).map(shard).collect();
            let segments = whole.pack(1).unwrap();
            let (shards, made, held) = planned(0, count);
            assert!(shards == whole && made == segments, "of {count} shards");
            assert!(held < 2 * full, "{held} of {count} shards are held");
        }
    }

    /// A shard with reused answers in the plan would be taken for one that is still to be sent.
    #[test]
    fn shards_with_reused_answers_are_in_no_plan_and_no_attempts_of_them_are_seen() {
        let full = SEGMENT_SHARDS;
        for first in [1, full - 1, full, 2 * full + 3] {
            for count in [0, 1, UNSENT_IN_HEAD, UNSENT_IN_HEAD + 1, full + 1] {
                let mut whole: Shards = (0..first).map(reused).chain((first..first + count).map(shard)).collect();
                let segments = whole.pack(full).unwrap();
                let (mut shards, made, held) = planned(first, count);
                assert!(shards == whole && made == segments, "{first} before {count}");
                assert!(held < 3 * full, "{held} shards are held of {first} and {count}");
                assert_eq!(shards.next_planned(), if count > UNSENT_IN_HEAD { first } else { first + count });
                let written = serde_json::to_string(&shards).unwrap();
                let read: Shards = serde_json::from_str(&written).unwrap();
                assert_eq!((read.totals(), read.have_reused()), (shards.totals(), true));
                // Settled shards that gather in the head are sealed by the next write.
                shards.pack(1).unwrap();
                assert!(!shards.have_attempts(), "{first} before {count}");
                let (totals, counts) = (shards.totals(), shards.totals().counts);
                assert_eq!((totals.reused, totals.settled, totals.open), (first, first, count as i64));
                assert_eq!(
                    (counts.total, counts.succeeded, counts.reused),
                    ((first + count) as i64, first as i64, first as i64)
                );
                assert_eq!(shards.are_settled(), count == 0);
            }
        }
    }
}
