//! The shards of a work: those that decisions read one by one, and the totals of the sealed ones.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::shard::Shard;
use super::totals::{ErrorTotals, Totals};
use super::usage_by_model::UsageByModel;

/// The shards of a work, in the order in which they are sent.
///
/// A shard is in one of three places, so that a decision does not read more for a larger work:
/// - *resident*: in the journal's head, as a whole;
/// - *planned*: it is to be sent and has no attempt, and is in a segment of the plan. The next planned shards are read so that they can be sent;
///   they are resident here and not in the head;
/// - *sealed*: it is settled and nothing will change it; it is in a sealed segment and counts in [`Totals`].
///
/// Segments are immutable objects that are named by the hash of their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shards {
    /// Number of all shards.
    pub(super) len: usize,
    /// Resident shards by index. Versions of one journal share those that did not change.
    pub(super) resident: BTreeMap<usize, Arc<Shard>>,
    /// Index of the first planned shard.
    pub(super) next: usize,
    /// Segments that hold the shards from `next` on, without a gap.
    pub(super) plan: Vec<PlanSegment>,
    pub(super) sealed: Sealed,
}

/// A segment of shards without an attempt, all of one round.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSegment {
    /// SHA-256 of its bytes; also its name.
    pub name: String,
    /// Index of the first shard in it.
    pub from: usize,
    /// Number of shards in it.
    pub count: usize,
    /// Requests of its shards from [`Shards::next_planned`] on.
    pub requests: i64,
    /// Of these requests, those that failed before the round.
    #[serde(default)]
    pub failed_before: i64,
    /// Round of its shards.
    pub round: u32,
}

impl PlanSegment {
    /// Returns the index after its last shard.
    pub(super) fn end(&self) -> usize {
        self.from.saturating_add(self.count)
    }
}

/// A segment of sealed shards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct SealedSegment {
    /// SHA-256 of its bytes; also its name.
    pub name: String,
    /// Number of shards in it.
    pub count: usize,
}

/// Summary of the sealed shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct Sealed {
    pub segments: Vec<SealedSegment>,
    pub totals: Totals,
    pub errors: ErrorTotals,
    #[serde(skip_serializing_if = "UsageByModel::is_empty")]
    pub usage: UsageByModel,
    /// The last sealed shards by index, for people.
    pub recent: Vec<SealedBatch>,
}

/// A sealed shard as status lists it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct SealedBatch {
    /// Index of the shard.
    pub shard: usize,
    /// Number of its last attempt.
    pub attempt: u32,
    /// The provider's last state of the batch, or `Refused`.
    pub state: String,
    /// The provider's name for the batch, if there was one.
    #[serde(rename = "batchID", default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<String>,
    /// Requests in it.
    pub requests: i64,
    /// The model that all of them asked for.
    #[serde(default)]
    pub model: String,
}

impl Shards {
    /// Returns the number of all shards.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no shards.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all shards.
    pub fn clear(&mut self) {
        *self = Shards::default();
    }

    /// Returns the shard of this index if it is resident.
    pub fn get(&self, index: usize) -> Option<&Shard> {
        self.resident.get(&index).map(Arc::as_ref)
    }

    /// Returns the shard of this index for a change. A planned shard leaves the plan, with those before it: from then on they
    /// are in the head.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Shard> {
        if self.is_planned(index) {
            self.leave_plan_through(index)?;
        }
        self.resident.get_mut(&index).map(Arc::make_mut)
    }

    /// Returns the resident shards with their index, in order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (usize, &Shard)> + Clone {
        self.resident.iter().map(|(index, shard)| (*index, &**shard))
    }

    /// Returns the resident shards, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Shard> + Clone {
        self.resident.values().map(Arc::as_ref)
    }

    /// Returns the resident shards that are not in the plan, in order, for changes.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Shard> {
        let planned = self.next..self.planned_end();
        self.resident
            .iter_mut()
            .filter(move |(index, _)| !planned.contains(index))
            .map(|(_, shard)| Arc::make_mut(shard))
    }

    /// Adds a shard behind all others.
    pub fn push(&mut self, shard: Shard) {
        self.resident.insert(self.len, Arc::new(shard));
        self.len += 1;
    }

    /// Adds the first shards of `more` behind all others, as many as there is `room` for; segments are only added whole.
    pub fn append(&mut self, more: &Shards, room: usize) {
        let (limit, before) = (self.len + room, self.len);
        for segment in more.plan.iter().take_while(|s| before + s.end() <= limit) {
            if self.plan.is_empty() {
                self.next = before + more.next;
            }
            self.plan.push(PlanSegment { from: before + segment.from, ..segment.clone() });
        }
        let planned_end = self.plan.last().map_or(before, PlanSegment::end).max(before);
        let is_held = |index: usize| index < limit && (index < planned_end || more.plan.is_empty());
        for (index, shard) in more.resident.iter().filter(|(index, _)| is_held(before + **index)) {
            self.resident.insert(before + index, shard.clone());
        }
        self.len = if more.plan.is_empty() { before + more.len.min(room) } else { planned_end };
    }

    /// Returns whether every shard is settled.
    pub fn are_settled(&self) -> bool {
        self.plan.is_empty() && self.iter().all(|s| s.settled().is_some())
    }

    /// Returns whether a batch may ever have been requested. Of sealed shards, only those with reused answers have no attempt.
    pub fn have_attempts(&self) -> bool {
        let sealed: usize = self.sealed.segments.iter().map(|segment| segment.count).sum();
        sealed > self.sealed.totals.reused || self.iter().any(|s| s.attempt.is_some())
    }

    /// Returns whether shards have answers of earlier jobs.
    pub fn have_reused(&self) -> bool {
        self.sealed.totals.reused > 0 || self.iter().any(|s| s.reused.is_some())
    }

    /// Returns the index of the first planned shard; the number of shards if none is planned.
    pub fn next_planned(&self) -> usize {
        if self.plan.is_empty() { self.len } else { self.next }
    }

    /// Returns the segments of sealed shards.
    pub fn sealed_segments(&self) -> &[SealedSegment] {
        &self.sealed.segments
    }

    /// Returns the segments of planned shards, in order.
    pub fn plan_segments(&self) -> &[PlanSegment] {
        &self.plan
    }

    /// Returns the last sealed shards, by index.
    pub fn recently_sealed(&self) -> &[SealedBatch] {
        &self.sealed.recent
    }

    /// Returns the sums over all shards.
    pub fn totals(&self) -> Totals {
        let mut totals = self.sealed.totals;
        self.in_head().for_each(|(_, shard)| totals.add(shard));
        for segment in &self.plan {
            totals.add_planned(segment.round, segment.requests, segment.failed_before);
        }
        totals
    }

    /// Returns the errors of requests without an answer, over all shards.
    pub fn errors(&self) -> ErrorTotals {
        let mut errors = self.sealed.errors.clone();
        self.entries().for_each(|(index, shard)| errors.add(index, shard));
        errors
    }

    /// Returns the sums of tokens and cost, over all shards.
    pub fn usage(&self) -> UsageByModel {
        let mut usage = self.sealed.usage.clone();
        self.in_head().for_each(|(_, shard)| usage.add(shard));
        usage
    }

    /// Returns the shards that the head holds, with their index, in order.
    pub fn in_head(&self) -> impl Iterator<Item = (usize, &Shard)> {
        self.entries().filter(|(index, _)| !self.is_planned(*index))
    }

    pub(super) fn planned_end(&self) -> usize {
        self.plan.last().map_or(self.next, PlanSegment::end)
    }

    pub(super) fn is_planned(&self, index: usize) -> bool {
        (self.next..self.planned_end()).contains(&index)
    }

    /// Moves the planned shards up to this one out of the plan; None if one of them was not read.
    fn leave_plan_through(&mut self, index: usize) -> Option<()> {
        let leaving = self.next..index + 1;
        if self.resident.range(leaving.clone()).count() != leaving.len() {
            return None;
        }
        for segment in &mut self.plan {
            let gone =
                self.resident.range(leaving.start.max(segment.from)..leaving.end.clamp(segment.from, segment.end()));
            for (_, shard) in gone {
                segment.requests -= shard.requests;
                segment.failed_before -= shard.prior_counts.failed;
            }
        }
        self.next = leaving.end;
        self.plan.retain(|segment| segment.end() > leaving.end);
        Some(())
    }
}

impl From<Vec<Shard>> for Shards {
    fn from(shards: Vec<Shard>) -> Self {
        let len = shards.len();
        Shards { len, resident: shards.into_iter().map(Arc::new).enumerate().collect(), ..Default::default() }
    }
}

impl FromIterator<Shard> for Shards {
    fn from_iter<I: IntoIterator<Item = Shard>>(shards: I) -> Self {
        shards.into_iter().collect::<Vec<_>>().into()
    }
}

/// # Panics
/// If the shard is not resident.
impl Index<usize> for Shards {
    type Output = Shard;

    fn index(&self, index: usize) -> &Shard {
        &self.resident[&index]
    }
}

/// # Panics
/// If the shard is not resident.
impl IndexMut<usize> for Shards {
    fn index_mut(&mut self, index: usize) -> &mut Shard {
        match self.get_mut(index) {
            Some(shard) => shard,
            None => panic!("shard {index} is not resident"),
        }
    }
}

impl<'a> IntoIterator for &'a Shards {
    type Item = &'a Shard;
    type IntoIter = Box<dyn DoubleEndedIterator<Item = &'a Shard> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}
