use proptest::prelude::*;

use super::*;
use crate::api::ProviderModel;

fn namespaces() -> impl Strategy<Value = String> {
    (0..4u8).prop_map(|n| format!("ns-{n}"))
}

fn tokens(models: &[(&str, i64)]) -> EnqueuedTokenLimits {
    let model = |(name, limit): &(&str, i64)| ProviderModel {
        name: (*name).into(),
        max_enqueued_tokens: Some(*limit),
        ..ProviderModel::default()
    };
    EnqueuedTokenLimits::of(&models.iter().map(model).collect::<Vec<_>>())
}

prop_compose! {
    fn loads()(requests in 0..60u64, model in 0..3u8, tokens in 0..60u64) -> BatchLoad {
        BatchLoad { requests, model: format!("m-{model}"), tokens }
    }
}

prop_compose! {
    fn rooms()(
        batches in prop::option::of(0..12usize), submitting in 0..8usize, requests in prop::option::of(1..80u64),
        limit in prop::option::of(1..80i64), of_model in prop::option::of(1..4usize)
    ) -> Room {
        let tokens = limit.map(|limit| tokens(&[("m-0", limit), ("*", limit)])).unwrap_or_default();
        let batches_of_models = of_model.map(|most| ("m-1".to_string(), most)).into_iter().collect();
        Room { batches, submitting, requests, tokens, batches_of_models }
    }
}

prop_compose! {
    fn usage()(
        batches in prop::collection::vec((namespaces(), loads()), 0..8),
        submitting in prop::collection::btree_map(namespaces(), 0..4usize, 0..4),
        stalled in 0..6usize,
    ) -> InFlight {
        let stalled = stalled.min(submitting.values().sum());
        let mut in_flight = InFlight { submitting, stalled, ..InFlight::default() };
        for (namespace, load) in batches {
            *in_flight.batches.entry(namespace).or_default() += 1;
            in_flight.load.add(&load);
        }
        in_flight
    }
}

fn small(namespace: String, turn: u64) -> Applicant {
    let load = BatchLoad { requests: 1, model: "m".into(), tokens: 1 };
    Applicant { namespace, turn, load, ..Applicant::default() }
}

fn many() -> impl Strategy<Value = Vec<Applicant>> {
    let one = (namespaces(), loads(), -2..3i32, 0..3i64);
    prop::collection::vec(one, 0..20).prop_map(|all| {
        let applicant = |(turn, (namespace, load, priority, created))| Applicant {
            namespace,
            load,
            priority,
            created,
            turn: turn as u64,
        };
        all.into_iter().enumerate().map(applicant).collect()
    })
}

/// Returns the jobs that `admit` admits, and the use of the account with them.
fn after(room: &Room, before: &InFlight, waiting: &[Applicant]) -> (Vec<usize>, InFlight) {
    let (admitted, mut after) = (admit(room, before.clone(), waiting), before.clone());
    admitted.iter().for_each(|i| after.add(&waiting[*i].namespace, &waiting[*i].load));
    (admitted, after)
}

/// Returns whether a load keeps the limits, or exceeds one by a batch that is the only one of its kind.
fn is_within(room: &Room, before: &Load, load: &Load) -> bool {
    let of_entry = |load: &Load, name: &str| {
        let same =
            load.models.iter().filter(|(model, _)| room.tokens.of_model(model).is_some_and(|(of, _)| of == name));
        same.fold((0, 0), |sum, (_, of)| (sum.0 + of.batches, sum.1 + of.tokens))
    };
    let entries: BTreeSet<&str> =
        load.models.keys().filter_map(|model| room.tokens.of_model(model)).map(|(name, _)| name).collect();
    let kept = |used: u64, limit: u64, before: u64| used <= limit.max(before) || before == 0;
    room.batches.is_none_or(|most| load.batches <= most.max(before.batches))
        && room.requests.is_none_or(|most| kept(load.requests, most, before.requests))
        && entries.into_iter().all(|name| {
            let limit = room
                .tokens
                .of_model(
                    load.models
                        .keys()
                        .find(|model| room.tokens.of_model(model).is_some_and(|(of, _)| of == name))
                        .unwrap(),
                )
                .unwrap()
                .1;
            kept(of_entry(load, name).1, limit, of_entry(before, name).1)
        })
}

proptest! {
    #[test]
    fn every_limit_is_kept_by_each_admission_and_what_exceeds_one_goes_alone(
        room in rooms(), before in usage(), waiting in many()
    ) {
        let mut load = before.load.clone();
        let admitted = admit(&room, before.clone(), &waiting);
        for i in &admitted {
            let with = { let mut with = load.clone(); with.add(&waiting[*i].load); with };
            prop_assert!(is_within(&room, &load, &with), "{:?} on top of {load:?} in {room:?}", waiting[*i]);
            if let Some(most) = room.batches_of_models.get(&waiting[*i].load.model) {
                prop_assert!(with.models[&waiting[*i].load.model].batches <= *most);
            }
            load = with;
        }
        let (_, after) = after(&room, &before, &waiting);
        let submitting: usize = after.submitting.values().sum();
        prop_assert!(admitted.is_empty() || submitting <= room.submitting + before.stalled, "{after:?} in {room:?}");
        let mut once = admitted.clone();
        once.sort_unstable();
        once.dedup();
        prop_assert_eq!(once.len(), admitted.len(), "each is admitted once");
    }

    /// Either it does not fit, or it takes of what another one waits for that comes before it.
    #[test]
    fn no_room_is_left_without_a_reason_while_somebody_waits(room in rooms(), before in usage(), waiting in many()) {
        let (admitted, after) = after(&room, &before, &waiting);
        let left: Vec<&Applicant> =
            waiting.iter().enumerate().filter(|(i, _)| !admitted.contains(i)).map(|(_, one)| one).collect();
        let lacks = |one: &Applicant| room.lacks(&after.load, &one.load);
        for one in left.iter().filter(|one| after.may_submit(&room, &one.namespace) && lacks(one).is_none()) {
            let is_kept = left.iter().any(|other| match lacks(other) {
                Some(Lack::Batches | Lack::Requests) => true,
                Some(lack) => room.own_limits(&one.load.model).contains(&Some(lack)),
                None => false,
            });
            prop_assert!(is_kept, "{one:?} of {left:?}: {after:?} in {room:?}");
        }
    }

    /// Small batches of other namespaces and of its own always ask for more than there is, and end in any order.
    #[test]
    fn a_batch_as_large_as_the_limit_goes_once_those_in_flight_when_it_came_first_have_ended(
        ends in prop::collection::vec(any::<prop::sample::Index>(), 60), greedy in 1..4usize, by_tokens in any::<bool>()
    ) {
        let room = Room {
            requests: (!by_tokens).then_some(10),
            tokens: if by_tokens { tokens(&[("m", 10)]) } else { EnqueuedTokenLimits::default() },
            submitting: 1_000,
            ..Room::default()
        };
        let large = BatchLoad { requests: 10, model: "m".into(), tokens: 10 };
        let others = |turn: u64| small(format!("ns-{}", turn as usize % greedy), turn);
        let mut waiting: Vec<Applicant> = (0..50).map(others).collect();
        waiting.push(Applicant { namespace: "large".into(), turn: 50, load: large.clone(), ..Applicant::default() });
        let mut running: Vec<(String, BatchLoad)> = vec![];
        let mut served = BTreeMap::new();
        for (round, end) in ends.into_iter().enumerate() {
            if !running.is_empty() {
                running.swap_remove(end.index(running.len()));
            }
            waiting.push(others(51 + round as u64));
            let mut in_flight = InFlight { served: std::mem::take(&mut served), ..InFlight::default() };
            for (namespace, load) in &running {
                *in_flight.batches.entry(namespace.clone()).or_default() += 1;
                in_flight.load.add(load);
            }
            let mut admitted = admit(&room, in_flight.clone(), &waiting);
            admitted.iter().for_each(|i| in_flight.add(&waiting[*i].namespace, &waiting[*i].load));
            served = in_flight.served;
            admitted.sort_unstable_by(|a, b| b.cmp(a));
            running.extend(admitted.into_iter().map(|i| waiting.remove(i)).map(|one| (one.namespace, one.load)));
            prop_assert!(running.iter().map(|(_, load)| load.requests).sum::<u64>() <= 10);
            if running.iter().any(|(namespace, _)| namespace == "large") {
                return Ok(());
            }
            prop_assert!(round <= 10 + greedy, "it waits for ever");
        }
    }

    #[test]
    fn a_batch_that_lacks_tokens_keeps_back_its_own_model_alone(waiting in many(), limit in 1..40i64) {
        let room = Room { tokens: tokens(&[("m-0", limit)]), submitting: 1_000, ..Room::default() };
        let mut before = InFlight::default();
        before.load.add(&BatchLoad { requests: 1, model: "m-0".into(), tokens: limit.unsigned_abs() });
        let (admitted, _) = after(&room, &before, &waiting);
        for (i, one) in waiting.iter().enumerate().filter(|(_, one)| one.load.model != "m-0") {
            prop_assert!(admitted.contains(&i), "{one:?}");
        }
    }

    #[test]
    fn priority_decides_within_a_namespace_and_takes_no_place_from_another(
        room in rooms(), before in usage(), waiting in many()
    ) {
        // Batches of one kind, so that places alone decide.
        let alike = |priority: fn(i32) -> i32| -> Vec<Applicant> {
            let load = BatchLoad { requests: 1, model: "m".into(), tokens: 1 };
            waiting.iter().map(|one| Applicant { load: load.clone(), priority: priority(one.priority), ..one.clone() }).collect()
        };
        let (with, without) = (alike(|priority| priority), alike(|_| 0));
        let of_namespaces = |admitted: &[usize]| admitted.iter().map(|i| waiting[*i].namespace.clone()).collect::<Vec<_>>();
        let admitted = admit(&room, before.clone(), &with);
        prop_assert_eq!(of_namespaces(&admitted), of_namespaces(&admit(&room, before, &without)));
        for (i, left) in with.iter().enumerate().filter(|(i, _)| !admitted.contains(i)) {
            for other in admitted.iter().map(|other| &with[*other]).filter(|other| other.namespace == left.namespace) {
                prop_assert!(other.rank() < left.rank(), "{other:?} before {left:?} of {i}");
            }
        }
    }

    /// One job after the other, each admitted for good: jobs that hang.
    #[test]
    fn a_namespace_that_submits_gets_another_place_only_while_as_many_stay_free(
        submitting in 1..40usize, of in prop::collection::vec(namespaces(), 0..80)
    ) {
        let room = Room { submitting, ..Room::default() };
        let mut in_flight = InFlight::default();
        for (turn, namespace) in of.into_iter().enumerate() {
            let applicant = small(namespace, turn as u64);
            let held = in_flight.submitting_of(&applicant.namespace);
            let free = submitting - in_flight.submitting.values().sum::<usize>();
            let expected = if held == 0 { free > 0 } else { free > held };
            let (admitted, after) = after(&room, &in_flight, &[applicant]);
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
        let room = Room { submitting: stalled + more, ..Room::default() };
        prop_assert!(in_flight.may_submit(&room, "quiet"));
        for (namespace, held) in in_flight.submitting.iter().filter(|(_, held)| **held > 0) {
            prop_assert_eq!(in_flight.may_submit(&room, namespace), more > *held, "{}", namespace);
        }
    }

    #[test]
    fn no_namespace_gets_ahead_of_one_that_waits(
        batches in 0..12usize, before in usage(), of in prop::collection::vec(namespaces(), 0..20)
    ) {
        let room = Room { batches: Some(batches), submitting: 1_000, ..Room::default() };
        let waiting: Vec<_> = of.into_iter().enumerate().map(|(turn, of)| small(of, turn as u64)).collect();
        let (admitted, after) = after(&room, &before, &waiting);
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
        let room = Room { batches: Some(limit), submitting: 1_000, ..Room::default() };
        let others = |turn: u64| small(format!("ns-{}", turn as usize % greedy), turn);
        let mut waiting: Vec<Applicant> = (0..100).map(others).collect();
        waiting.push(small("quiet".into(), 100));
        let mut running: Vec<String> = vec!["ns-0".into(); limit];
        let mut served = BTreeMap::new();
        for (waited, end) in ends.into_iter().enumerate() {
            prop_assert!(waited <= greedy, "it waited for {waited} ends");
            running.swap_remove(end.index(running.len()));
            waiting.push(others(101 + waited as u64));
            let mut in_flight = InFlight { served: std::mem::take(&mut served), ..Default::default() };
            running.iter().for_each(|namespace| *in_flight.batches.entry(namespace.clone()).or_insert(0) += 1);
            in_flight.load.batches = running.len();
            let mut admitted = admit(&room, in_flight.clone(), &waiting);
            admitted.iter().for_each(|i| in_flight.add(&waiting[*i].namespace, &waiting[*i].load));
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
