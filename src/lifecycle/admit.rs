//! Admission: which of the jobs that share an account may request a further batch, and in which order.

use std::collections::BTreeMap;

use crate::fair::leaves_as_much;

/// The room of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Maximum number of batches in flight (`limits.maxBatchesInFlight`); None for no limit.
    pub batches: Option<usize>,
    /// Maximum number of jobs that are about to request a batch. With more, permits would expire while they wait for each
    /// other.
    pub submitting: usize,
}

/// The use of an account's room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Batches in flight by namespace, including those that were admitted and not requested yet.
    pub batches: BTreeMap<String, usize>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// The job's namespace.
    pub namespace: String,
    /// Number in the order of arrival: the first job has the lowest.
    pub turn: u64,
}

impl InFlight {
    /// Returns whether there is room for one more batch of this namespace. A namespace with submitting jobs gets another place
    /// only while as many places stay free as it has, so that the last ones are left for namespaces that have none.
    pub fn has_room(&self, room: Room, namespace: &str) -> bool {
        self.left(room).is_enough_for(self.submitting_of(namespace))
    }

    fn submitting_of(&self, namespace: &str) -> usize {
        self.submitting.get(namespace).copied().unwrap_or(0)
    }

    fn left(&self, room: Room) -> Left {
        let batches: usize = self.batches.values().sum();
        let submitting: usize = self.submitting.values().sum();
        Left {
            has_batches: room.batches.is_none_or(|most| batches < most),
            places: room.submitting.saturating_sub(submitting),
            with_those_of_the_stalled: room.submitting.saturating_sub(submitting.saturating_sub(self.stalled)),
        }
    }

    /// Adds an admitted batch.
    pub fn add(&mut self, namespace: &str) {
        *self.batches.entry(namespace.into()).or_insert(0) += 1;
        *self.submitting.entry(namespace.into()).or_insert(0) += 1;
        let last = self.served.values().max().copied().unwrap_or(0);
        self.served.insert(namespace.into(), last + 1);
    }
}

/// The remaining room of an account.
struct Left {
    has_batches: bool,
    /// Places for submitting jobs.
    places: usize,
    /// Places for submitting jobs if no job were stalled.
    with_those_of_the_stalled: usize,
}

impl Left {
    /// Returns whether the rest is enough for one more job of a namespace with this many submitting jobs.
    fn is_enough_for(&self, submitting: usize) -> bool {
        let places = if submitting == 0 { self.with_those_of_the_stalled } else { self.places };
        self.has_batches && leaves_as_much(places as u64, 1, submitting as u64)
    }
}

/// Returns the indexes of `waiting` that are admitted, as long as there is room. Namespaces with the fewest batches in flight
/// come first, then those admitted least recently; within a namespace, the order of arrival counts.
pub fn admit(room: Room, mut in_flight: InFlight, waiting: &[Applicant]) -> Vec<usize> {
    let (mut admitted, mut waits) = (vec![], (0..waiting.len()).collect::<Vec<_>>());
    loop {
        let (left, namespace) = (in_flight.left(room), |i: &usize| &waiting[*i].namespace);
        let has = |i: &usize| in_flight.batches.get(namespace(i)).copied().unwrap_or(0);
        let served = |i: &usize| in_flight.served.get(namespace(i)).copied();
        let fit = waits.iter().enumerate().filter(|(_, i)| left.is_enough_for(in_flight.submitting_of(namespace(i))));
        let next = fit.min_by_key(|(_, i)| (has(i), served(i), waiting[**i].turn));
        let Some((at, _)) = next else { return admitted };
        let i = waits.swap_remove(at);
        in_flight.add(&waiting[i].namespace);
        admitted.push(i);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn namespaces() -> impl Strategy<Value = String> {
        (0..4u8).prop_map(|n| format!("ns-{n}"))
    }

    prop_compose! {
        fn rooms()(batches in prop::option::of(0..12usize), submitting in 0..8usize) -> Room {
            Room { batches, submitting }
        }
    }

    prop_compose! {
        fn usage()(
            batches in prop::collection::btree_map(namespaces(), 0..6usize, 0..4),
            submitting in prop::collection::btree_map(namespaces(), 0..4usize, 0..4),
            stalled in 0..6usize,
        ) -> InFlight {
            let stalled = stalled.min(submitting.values().sum());
            InFlight { batches, submitting, stalled, served: BTreeMap::new() }
        }
    }

    fn applicants(of: Vec<String>) -> Vec<Applicant> {
        of.into_iter().enumerate().map(|(i, namespace)| Applicant { namespace, turn: i as u64 }).collect()
    }

    /// Returns the jobs that `admit` admits, and the use of the account with them.
    fn after(room: Room, before: &InFlight, waiting: &[Applicant]) -> (Vec<usize>, InFlight) {
        let (admitted, mut after) = (admit(room, before.clone(), waiting), before.clone());
        admitted.iter().for_each(|i| after.add(&waiting[*i].namespace));
        (admitted, after)
    }

    proptest! {
        #[test]
        fn the_limit_is_kept_and_no_room_is_left_while_somebody_waits(
            room in rooms(), before in usage(), of in prop::collection::vec(namespaces(), 0..20)
        ) {
            let waiting = applicants(of);
            let (admitted, after) = after(room, &before, &waiting);
            let total: usize = after.batches.values().sum();
            if !admitted.is_empty() {
                prop_assert!(room.batches.is_none_or(|most| total <= most), "{total} of {room:?}");
                let submitting: usize = after.submitting.values().sum();
                prop_assert!(submitting <= room.submitting + before.stalled, "{after:?} in {room:?}");
            }
            for (i, left) in waiting.iter().enumerate().filter(|(i, _)| !admitted.contains(i)) {
                prop_assert!(!after.has_room(room, &left.namespace), "{i} of {waiting:?}: {after:?} in {room:?}");
            }
            let mut once = admitted.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), admitted.len(), "each is admitted once");
        }

        /// One job after the other, each admitted for good: jobs that hang.
        #[test]
        fn a_namespace_that_submits_gets_another_place_only_while_as_many_stay_free(
            submitting in 1..40usize, of in prop::collection::vec(namespaces(), 0..80)
        ) {
            let room = Room { batches: None, submitting };
            let mut in_flight = InFlight::default();
            for applicant in applicants(of) {
                let held = in_flight.submitting_of(&applicant.namespace);
                let free = submitting - in_flight.submitting.values().sum::<usize>();
                let expected = if held == 0 { free > 0 } else { free > held };
                let (admitted, after) = after(room, &in_flight, &[applicant]);
                prop_assert_eq!(!admitted.is_empty(), expected, "{} are held and {} free", held, free);
                in_flight = after;
            }
        }

        /// However many places stalled jobs hold.
        #[test]
        fn stalled_jobs_keep_no_place_from_a_namespace_that_has_none_and_every_place_from_one_that_has(
            before in usage(), more in 0..4usize
        ) {
            let stalled: usize = before.submitting.values().sum();
            prop_assume!(stalled > 0);
            let in_flight = InFlight { stalled, ..before };
            let room = Room { batches: None, submitting: stalled + more };
            prop_assert!(in_flight.has_room(room, "quiet"));
            for (namespace, held) in in_flight.submitting.iter().filter(|(_, held)| **held > 0) {
                prop_assert_eq!(in_flight.has_room(room, namespace), more > *held, "{}", namespace);
            }
        }

        #[test]
        fn no_namespace_gets_ahead_of_one_that_waits(
            room in rooms(), before in usage(), of in prop::collection::vec(namespaces(), 0..20)
        ) {
            let (room, waiting) = (Room { submitting: 1_000, ..room }, applicants(of));
            let (admitted, after) = after(room, &before, &waiting);
            let has = |namespace: &String| after.batches.get(namespace).copied().unwrap_or(0);
            for (i, left) in waiting.iter().enumerate().filter(|(i, _)| !admitted.contains(i)) {
                for other in admitted.iter().map(|other| &waiting[*other]) {
                    prop_assert!(has(&other.namespace) <= has(&left.namespace) + 1, "{other:?} before {left:?} of {i}");
                    let same = other.namespace == left.namespace;
                    prop_assert!(!same || other.turn < left.turn, "who came first goes first");
                }
            }
        }

        /// Batches end one at a time, whichever, and the others always ask for more than there is, from before this one came: a
        /// namespace that has nothing in flight waits for one end for each of the others, at most.
        #[test]
        fn a_namespace_with_nothing_in_flight_gets_its_turn(
            limit in 1..6usize, ends in prop::collection::vec(any::<prop::sample::Index>(), 12), greedy in 1..4usize
        ) {
            let room = Room { batches: Some(limit), submitting: 1_000 };
            let others = |turn: u64| Applicant { namespace: format!("ns-{}", turn as usize % greedy), turn };
            let mut waiting: Vec<Applicant> = (0..100).map(others).collect();
            waiting.push(Applicant { namespace: "quiet".into(), turn: 100 });
            let mut running: Vec<String> = vec!["ns-0".into(); limit];
            let mut served = BTreeMap::new();
            for (waited, end) in ends.into_iter().enumerate() {
                prop_assert!(waited <= greedy, "it waited for {waited} ends");
                running.swap_remove(end.index(running.len()));
                waiting.push(others(101 + waited as u64));
                let mut in_flight = InFlight { served: std::mem::take(&mut served), ..Default::default() };
                running.iter().for_each(|namespace| *in_flight.batches.entry(namespace.clone()).or_insert(0) += 1);
                let mut admitted = admit(room, in_flight.clone(), &waiting);
                admitted.iter().for_each(|i| in_flight.add(&waiting[*i].namespace));
                served = in_flight.served;
                admitted.sort_unstable_by(|a, b| b.cmp(a));
                running.extend(admitted.into_iter().map(|i| waiting.remove(i).namespace));
                prop_assert_eq!(running.len(), limit);
                if running.iter().any(|namespace| namespace == "quiet") {
                    return Ok(());
                }
            }
            prop_assert!(false, "it waits for ever");
        }
    }
}
