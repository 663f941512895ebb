//! Which of the jobs that share an account may ask for a further batch, and in which order.

use std::collections::BTreeMap;

/// What an account has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Batches in flight, `limits.maxBatchesInFlight`; None: no limit.
    pub batches: Option<usize>,
    /// Jobs that are about to ask for a batch: a right to ask runs out while it waits for others.
    pub submitting: usize,
}

/// What takes room of an account now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Batches in flight by namespace, with those that were admitted and not asked for yet.
    pub batches: BTreeMap<String, usize>,
    /// Jobs that are about to ask for a batch.
    pub submitting: usize,
    /// In which order namespaces were admitted last: who has waited longest has the lowest, who never was has none.
    pub served: BTreeMap<String, u64>,
}

/// A job that waits to ask for a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// The job's namespace.
    pub namespace: String,
    /// Who came first has the lowest.
    pub turn: u64,
}

impl InFlight {
    /// Whether there is room for one more.
    pub fn has_room(&self, room: Room) -> bool {
        self.submitting < room.submitting
            && room.batches.is_none_or(|batches| self.batches.values().sum::<usize>() < batches)
    }

    /// Takes in a batch that was admitted.
    pub fn add(&mut self, namespace: &str) {
        *self.batches.entry(namespace.into()).or_insert(0) += 1;
        self.submitting += 1;
        let last = self.served.values().max().copied().unwrap_or(0);
        self.served.insert(namespace.into(), last + 1);
    }
}

/// Who of `waiting` is admitted, by index, as long as there is room: of the namespace that has the fewest batches in flight, or
/// of several the one that was admitted least recently, who came first.
pub fn admit(room: Room, mut in_flight: InFlight, waiting: &[Applicant]) -> Vec<usize> {
    let (mut admitted, mut left) = (vec![], (0..waiting.len()).collect::<Vec<_>>());
    while in_flight.has_room(room) {
        let has = |i: &usize| in_flight.batches.get(&waiting[*i].namespace).copied().unwrap_or(0);
        let served = |i: &usize| in_flight.served.get(&waiting[*i].namespace).copied();
        let next = left.iter().enumerate().min_by_key(|(_, i)| (has(i), served(i), waiting[**i].turn));
        let Some((at, _)) = next else { break };
        let i = left.swap_remove(at);
        in_flight.add(&waiting[i].namespace);
        admitted.push(i);
    }
    admitted
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
        fn usage()(batches in prop::collection::btree_map(namespaces(), 0..6usize, 0..4), submitting in 0..6usize) -> InFlight {
            InFlight { batches, submitting, served: BTreeMap::new() }
        }
    }

    fn applicants(of: Vec<String>) -> Vec<Applicant> {
        of.into_iter().enumerate().map(|(i, namespace)| Applicant { namespace, turn: i as u64 }).collect()
    }

    proptest! {
        #[test]
        fn the_limit_is_kept_and_no_room_is_left_while_somebody_waits(
            room in rooms(), before in usage(), of in prop::collection::vec(namespaces(), 0..20)
        ) {
            let waiting = applicants(of);
            let admitted = admit(room, before.clone(), &waiting);
            let mut after = before.clone();
            admitted.iter().for_each(|i| after.add(&waiting[*i].namespace));
            let total: usize = after.batches.values().sum();
            if !admitted.is_empty() {
                prop_assert!(room.batches.is_none_or(|most| total <= most), "{total} of {room:?}");
                prop_assert!(after.submitting <= room.submitting);
            }
            prop_assert!(admitted.len() == waiting.len() || !after.has_room(room), "{after:?} in {room:?}");
            let mut once = admitted.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), admitted.len(), "each is admitted once");
        }

        #[test]
        fn no_namespace_gets_ahead_of_one_that_waits(
            room in rooms(), before in usage(), of in prop::collection::vec(namespaces(), 0..20)
        ) {
            let waiting = applicants(of);
            let admitted = admit(room, before.clone(), &waiting);
            let mut after = before.clone();
            admitted.iter().for_each(|i| after.add(&waiting[*i].namespace));
            let has = |namespace: &String| after.batches.get(namespace).copied().unwrap_or(0);
            for (i, left) in waiting.iter().enumerate().filter(|(i, _)| !admitted.contains(i)) {
                for other in &admitted {
                    let other = &waiting[*other];
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
            let room = Room { batches: Some(limit), submitting: usize::MAX };
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
