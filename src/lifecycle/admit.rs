//! Admission: which of the jobs that share an account may request a further batch, and in which order.
//!
//! Namespaces with the fewest batches in flight come first, then those admitted least recently; within a namespace, the highest
//! priority, then the oldest job. A batch that does not fit keeps its place in this order: nobody behind it takes more of what it
//! lacks, so that it fits once enough of the others end. Batches of other models, for which its own tokens do not matter, pass.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::load::{BatchLoad, Load};
use crate::api::EnqueuedTokenLimits;
use crate::fair::leaves_as_much;

/// The room of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Maximum number of batches in flight; None for no limit.
    pub batches: Option<usize>,
    /// Maximum number of batches of a model in flight, of models for which the account takes no more for now.
    pub batches_of_models: BTreeMap<String, usize>,
    /// Maximum number of requests in flight; None for no limit. A batch with more goes alone.
    pub requests: Option<u64>,
    /// Maximum number of input tokens in flight. A batch with more goes when no other of the same entry is in flight.
    pub tokens: EnqueuedTokenLimits,
    /// Maximum number of jobs that are about to request a batch. With more, permits would expire while they wait for each
    /// other.
    pub submitting: usize,
}

/// The use of an account's room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Batches in flight by namespace, including those that were admitted and not requested yet.
    pub batches: BTreeMap<String, usize>,
    /// The share that these batches take.
    pub load: Load,
    /// Jobs that are about to request a batch, by namespace.
    pub submitting: BTreeMap<String, usize>,
    /// Of these, jobs that made no progress for long, for example because a store hangs. They keep no place from a namespace
    /// that has none.
    pub stalled: usize,
    /// The order in which namespaces were last admitted: the lowest has waited longest. A namespace that was never admitted has
    /// no entry.
    pub served: BTreeMap<String, u64>,
}

/// A job that waits to request a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applicant {
    /// The job's namespace.
    pub namespace: String,
    /// `spec.priority`
    pub priority: i32,
    /// Time of the job's creation (Unix seconds): the older one goes first.
    pub created: i64,
    /// Number in the order of arrival: of jobs of one second, the lowest goes first.
    pub turn: u64,
    /// The share that the batch takes.
    pub load: BatchLoad,
}

impl Applicant {
    /// Returns the rank within the namespace: the lowest goes first.
    pub fn rank(&self) -> (Reverse<i32>, i64, u64) {
        (Reverse(self.priority), self.created, self.turn)
    }
}

/// The limit that keeps a batch back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// The number of batches in flight.
    Batches,
    /// The number of requests in flight.
    Requests,
    /// The number of batches of its model that the account takes for now.
    BatchesOfModel(String),
    /// The input tokens in flight of an entry of [`Room::tokens`].
    Tokens(String),
}

impl Room {
    /// Returns what one more batch lacks; None if it fits.
    pub fn lacks(&self, load: &Load, batch: &BatchLoad) -> Option<Lack> {
        let fits = |used: u64, more: u64, limit: u64| used == 0 || used.saturating_add(more) <= limit;
        if self.batches.is_some_and(|most| load.batches >= most) {
            return Some(Lack::Batches);
        }
        if self.requests.is_some_and(|most| !fits(load.requests, batch.requests, most)) {
            return Some(Lack::Requests);
        }
        let of_model = load.models.get(&batch.model).map_or(0, |model| model.batches);
        if self.batches_of_models.get(&batch.model).is_some_and(|most| of_model >= *most) {
            return Some(Lack::BatchesOfModel(batch.model.clone()));
        }
        let (entry, most) = self.tokens.of_model(&batch.model)?;
        let same =
            load.models.iter().filter(|(model, _)| self.tokens.of_model(model).is_some_and(|(of, _)| of == entry));
        let used = same.fold(0u64, |sum, (_, model)| sum.saturating_add(model.tokens));
        (!fits(used, batch.tokens, most)).then(|| Lack::Tokens(entry.into()))
    }

    /// Returns the value of the limit that a batch of `model` lacks.
    pub fn limit(&self, lack: &Lack, model: &str) -> Option<u64> {
        match lack {
            Lack::Batches => self.batches.map(|most| most as u64),
            Lack::Requests => self.requests,
            Lack::BatchesOfModel(model) => self.batches_of_models.get(model).map(|most| *most as u64),
            Lack::Tokens(_) => self.tokens.of_model(model).map(|(_, most)| most),
        }
    }

    /// Returns the limits that a batch of `model` takes from, besides those of all batches.
    fn own_limits(&self, model: &str) -> [Option<Lack>; 2] {
        let of_model = self.batches_of_models.contains_key(model).then(|| Lack::BatchesOfModel(model.into()));
        [of_model, self.tokens.of_model(model).map(|(entry, _)| Lack::Tokens(entry.into()))]
    }
}

impl InFlight {
    /// Returns whether there is a place for one more submitting job of this namespace. A namespace with submitting jobs gets
    /// another place only while as many places stay free as it has, so that the last ones are left for namespaces that have
    /// none.
    pub fn may_submit(&self, room: &Room, namespace: &str) -> bool {
        let (submitting, of_namespace) = (self.submitting.values().sum::<usize>(), self.submitting_of(namespace));
        let counted = if of_namespace == 0 { submitting.saturating_sub(self.stalled) } else { submitting };
        leaves_as_much(room.submitting.saturating_sub(counted) as u64, 1, of_namespace as u64)
    }

    fn submitting_of(&self, namespace: &str) -> usize {
        self.submitting.get(namespace).copied().unwrap_or(0)
    }

    /// Adds an admitted batch.
    pub fn add(&mut self, namespace: &str, batch: &BatchLoad) {
        self.load.add(batch);
        *self.batches.entry(namespace.into()).or_insert(0) += 1;
        *self.submitting.entry(namespace.into()).or_insert(0) += 1;
        let last = self.served.values().max().copied().unwrap_or(0);
        self.served.insert(namespace.into(), last + 1);
    }
}

/// Returns the indexes of `waiting` that are admitted, as long as there is room, in the order of admission.
pub fn admit(room: &Room, mut in_flight: InFlight, waiting: &[Applicant]) -> Vec<usize> {
    let (mut admitted, mut waits) = (vec![], (0..waiting.len()).collect::<Vec<_>>());
    while let Some(i) = next(room, &in_flight, waiting, &waits) {
        waits.retain(|other| *other != i);
        in_flight.add(&waiting[i].namespace, &waiting[i].load);
        admitted.push(i);
    }
    admitted
}

/// Returns the one of `waits` that is admitted next.
fn next(room: &Room, in_flight: &InFlight, waiting: &[Applicant], waits: &[usize]) -> Option<usize> {
    if room.batches.is_some_and(|most| in_flight.load.batches >= most) {
        return None;
    }
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    for applicant in waits.iter().map(|i| &waiting[*i]) {
        let turn = first.entry(&applicant.namespace).or_insert(u64::MAX);
        *turn = applicant.turn.min(*turn);
    }
    let mut order = waits.to_vec();
    order.sort_by_cached_key(|i| {
        let (applicant, namespace) = (&waiting[*i], waiting[*i].namespace.as_str());
        let (has, served) = (in_flight.batches.get(namespace).copied().unwrap_or(0), in_flight.served.get(namespace));
        (has, served.copied(), first.get(namespace).copied(), applicant.rank())
    });
    let mut kept = BTreeSet::new();
    for i in order {
        let Applicant { namespace, load, .. } = &waiting[i];
        // Such places are free within moments, and nobody is kept back for one.
        if !in_flight.may_submit(room, namespace) {
            continue;
        }
        match room.lacks(&in_flight.load, load) {
            // Everybody behind it takes of these.
            Some(Lack::Batches | Lack::Requests) => return None,
            Some(lack) => _ = kept.insert(lack),
            None if room.own_limits(&load.model).iter().flatten().any(|limit| kept.contains(limit)) => {}
            None => return Some(i),
        }
    }
    None
}

#[cfg(test)]
mod tests;
