use proptest::prelude::*;

use super::*;

fn claim(namespace: &str, lane: &str, size: u64) -> Claim {
    Claim { namespace: namespace.into(), lane: lane.into(), size, ..Claim::default() }
}

/// Enters `claims`, each with its place as its ticket, and grants those that can be granted.
fn met(limits: Limits, claims: impl IntoIterator<Item = Claim>) -> (FairQueue, Vec<u64>) {
    let mut queue = FairQueue::new(limits);
    let mut met = vec![];
    for (ticket, claim) in claims.into_iter().enumerate() {
        queue.enter(ticket as u64, claim);
        met.extend(queue.grant());
    }
    (queue, met)
}

const TURNS: Limits = Limits { total: 128, per_namespace: 16, keeps_last_shares: true };
const BYTES: Limits = Limits { total: 128, per_namespace: u64::MAX, keeps_last_shares: true };

#[test]
fn one_host_does_not_take_the_turns_of_its_namespace_and_one_namespace_not_those_of_others() {
    let claims = ["silent", "drips", "slow"].map(|lane| (0..100).map(move |_| claim("noisy", lane, 1)));
    let (mut queue, taken) = met(TURNS, claims.into_iter().flatten());
    let of = |lane: u64| taken.iter().filter(|ticket| **ticket / 100 == lane).count();
    assert_eq!([0, 1, 2].map(of), [8, 4, 2]);
    queue.enter(999, claim("noisy", "honest", 1));
    assert_eq!(queue.grant(), Some(999), "three silent stores of a namespace leave a place for a fourth");
    queue.enter(1_000, claim("quiet", "silent", 1));
    assert_eq!(queue.grant(), Some(1_000), "a lane is a namespace's own");
}

#[test]
fn a_dozen_namespaces_that_hold_on_to_all_that_they_get_leave_room_for_others() {
    let hostile = (0..64).flat_map(|_| (0..12).map(|n| claim(&format!("hostile-{n}"), "silent", 1)));
    let (mut queue, taken) = met(TURNS, hostile);
    assert!(taken.len() >= 90, "{} are used", taken.len());
    queue.enter(1_000, claim("quiet", "honest", 1));
    assert_eq!(queue.grant(), Some(1_000));
}

#[test]
fn large_claims_of_several_namespaces_leave_room_for_a_small_one() {
    let hostile = (0..16).flat_map(|_| (0..2).map(|n| claim(&format!("hostile-{n}"), "Plan", 20)));
    let (mut queue, taken) = met(BYTES, hostile);
    assert!(taken.len() >= 4, "{taken:?}");
    queue.enter(1_000, claim("quiet", "Write", 20));
    assert_eq!(queue.grant(), Some(1_000));
}

#[test]
fn retries_of_however_many_namespaces_leave_half_to_what_did_not_fail() {
    let retry = |n: u32| Claim { is_retry: true, ..claim(&format!("hostile-{}", n % 40), "silent", 1) };
    let (mut queue, taken) = met(TURNS, (0..800).map(retry));
    assert_eq!((taken.len(), queue.shortage()), (64, Shortage::None), "each of them has some");
    queue.enter(900, Claim { is_retry: true, ..claim("another", "slow", 1) });
    assert_eq!((queue.grant(), queue.shortage()), (None, Shortage::OfRetries));
    for ticket in 1_000..1_064 {
        queue.enter(ticket, claim(&format!("quiet-{ticket}"), "honest", 1));
        assert_eq!(queue.grant(), Some(ticket));
    }
    queue.enter(1_064, claim("more", "honest", 1));
    assert_eq!((queue.grant(), queue.shortage()), (None, Shortage::OfAll));
    queue.leave(1_064);
    queue.leave(taken[0]);
    assert!(queue.grant().is_some(), "and what they may have they get");
    taken[1..].iter().for_each(|ticket| queue.leave(*ticket));
    assert!(std::iter::from_fn(|| queue.grant()).count() > 50);
}

#[test]
fn a_large_claim_is_overtaken_by_smaller_ones_and_not_for_ever() {
    let mut queue = FairQueue::new(BYTES);
    for (ticket, namespace) in ["a", "b"].into_iter().enumerate() {
        queue.enter(ticket as u64, claim(namespace, "Upload", 60));
        assert_eq!(queue.grant(), Some(ticket as u64));
    }
    queue.enter(2, claim("large", "Write", 20));
    assert!(queue.grant().is_none() && queue.shortage() == Shortage::OfAll);
    let mut small = 3;
    while small < 100 {
        queue.enter(small, claim(&format!("small-{small}"), "Upload", 4));
        if queue.grant().is_none() {
            break;
        }
        queue.leave(small);
        small += 1;
    }
    assert!((5..50).contains(&small), "{small} overtook it");
    queue.leave(0);
    assert_eq!(queue.grant(), Some(2));
}

#[test]
fn what_grows_keeps_to_the_rules_of_what_is_taken() {
    let (mut queue, _) = met(BYTES, [claim("a", "Plan", 4), claim("a", "Plan", 4), claim("b", "Plan", 4)]);
    assert!(queue.grow(0, 40) && queue.grow(1, 40), "44 stay free, and it holds 40 besides");
    assert!(!queue.grow(1, 60) && queue.grow(2, 48), "who holds nothing else may have what is left");
    assert_eq!(queue.free, 0);
    (0..3).for_each(|ticket| queue.leave(ticket));
    assert_eq!((queue.free, queue.tenants.len()), (128, 0));
}

/// A change of a queue.
#[derive(Clone, Debug)]
enum Event {
    Enter(Claim),
    /// One of the present claims ends, by its place among them.
    Leave(usize),
    /// One of the granted claims asks for this size.
    Grow(usize, u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let urgency = prop_oneof![Just(Urgency::Urgent), Just(Urgency::Usual)];
    let enter = (0..5u8, 0..3u8, 1..40u64, urgency, prop::bool::weighted(0.3));
    let enter = enter.prop_map(|(namespace, lane, size, urgency, is_retry)| {
        let size = if is_retry { size.min(32) } else { size };
        Event::Enter(Claim { urgency, is_retry, ..claim(&namespace.to_string(), &lane.to_string(), size) })
    });
    let grow = (any::<usize>(), 1..50u64).prop_map(|(place, size)| Event::Grow(place, size));
    prop::collection::vec(prop_oneof![4 => enter, 2 => any::<usize>().prop_map(Event::Leave), 1 => grow], 1..200)
}

proptest! {
    #[test]
    fn limits_hold_nothing_lies_idle_and_everybody_is_served_in_the_end(
        events in events(), keeps_last_shares in any::<bool>()
    ) {
        let limits = Limits { total: 64, per_namespace: 40, keeps_last_shares };
        let mut queue = FairQueue::new(limits);
        let (mut waits, mut holds) = (BTreeMap::new(), BTreeMap::new());
        for (ticket, event) in events.into_iter().enumerate() {
            match event {
                Event::Enter(claim) => {
                    queue.enter(ticket as u64, claim.clone());
                    waits.insert(ticket as u64, claim);
                }
                Event::Leave(place) => {
                    let there: Vec<u64> = waits.keys().chain(holds.keys()).copied().collect();
                    if let Some(ticket) = there.get(place % there.len().max(1)) {
                        queue.leave(*ticket);
                        waits.remove(ticket);
                        holds.remove(ticket);
                    }
                }
                Event::Grow(place, size) => {
                    let there: Vec<u64> = holds.keys().copied().collect();
                    let Some(ticket) = there.get(place % there.len().max(1)) else { continue };
                    let mut claim: Claim = holds.remove(ticket).unwrap();
                    if queue.grow(*ticket, size) {
                        claim.size = claim.size.max(size);
                        keeps_to(&claim, &holds, limits)?;
                    }
                    holds.insert(*ticket, claim);
                }
            }
            settle(&mut queue, &mut waits, &mut holds, limits)?;
        }
        while !waits.is_empty() {
            prop_assert!(!holds.is_empty(), "somebody waits, and nobody holds anything");
            let (first, _) = holds.pop_first().unwrap();
            queue.leave(first);
            settle(&mut queue, &mut waits, &mut holds, limits)?;
        }
        holds.into_keys().for_each(|ticket| queue.leave(ticket));
        prop_assert!(queue.free == 64 && queue.tenants.is_empty(), "{queue:?}");
        prop_assert!(queue.order.urgent.is_empty() && queue.order.usual.is_empty(), "{queue:?}");
    }
}

type Claims = BTreeMap<u64, Claim>;

fn in_one_lane(a: &Claim, b: &Claim) -> bool {
    (&a.namespace, &a.lane, a.is_retry) == (&b.namespace, &b.lane, b.is_retry)
}

/// Checks that `claim` may be granted beside those that are.
fn keeps_to(claim: &Claim, holds: &Claims, limits: Limits) -> Result<(), TestCaseError> {
    let of = |same: &dyn Fn(&Claim) -> bool| holds.values().filter(|c| same(c)).map(|c| c.size).sum::<u64>();
    let all = of(&|_| true);
    let retries = of(&|c| c.is_retry);
    prop_assert!(!claim.is_retry || retries + claim.size <= limits.total / 2, "half is for what did not fail");
    let own = of(&|c| c.namespace == claim.namespace);
    let lane = of(&|c| in_one_lane(c, claim));
    prop_assert!(all + claim.size <= limits.total);
    prop_assert!(own == 0 || own + claim.size <= limits.per_namespace);
    if own > 0 && limits.keeps_last_shares {
        prop_assert!(own + claim.size + lane <= limits.per_namespace, "the last ones for other lanes");
        prop_assert!(limits.total - all - claim.size >= own, "the last places are for newcomers");
    }
    Ok(())
}

/// Checks that no urgent claim, and no claim of a namespace that holds less, could have been granted in place of this one.
fn comes_first(
    ticket: u64,
    claim: &Claim,
    waits: &Claims,
    holds: &Claims,
    limits: Limits,
) -> Result<(), TestCaseError> {
    let held = |c: &Claim| holds.values().filter(|o| o.namespace == c.namespace).map(|o| o.size).sum::<u64>();
    for (other, o) in waits {
        let same = |a: &Claim| in_one_lane(a, o) && a.urgency == o.urgency;
        let is_behind = same(claim) && ticket < *other || waits.iter().any(|(a, c)| a < other && same(c));
        if !is_behind && keeps_to(o, holds, limits).is_ok() {
            prop_assert!(o.urgency == claim.urgency || claim.urgency == Urgency::Urgent, "{o:?} is urgent");
            prop_assert!(o.urgency != claim.urgency || held(o) >= held(claim), "{o:?} holds less than {claim:?}");
        }
    }
    Ok(())
}

/// Grants all claims that can be granted, and checks that the rules were kept.
fn settle(q: &mut FairQueue, waits: &mut Claims, holds: &mut Claims, limits: Limits) -> Result<(), TestCaseError> {
    while let Some(ticket) = q.grant() {
        let claim = waits.remove(&ticket).unwrap();
        keeps_to(&claim, holds, limits)?;
        comes_first(ticket, &claim, waits, holds, limits)?;
        holds.insert(ticket, claim);
    }
    let free = limits.total - holds.values().map(|c| c.size).sum::<u64>();
    let new = |c: &&Claim| holds.values().all(|held| held.namespace != c.namespace);
    let largest = waits.values().filter(new).map(|c| c.size).max();
    prop_assert_eq!(q.shortage() == Shortage::None, largest.is_none());
    let overtaken = q.tenants.values().any(|tenant| tenant.overtaken >= OVERTAKINGS);
    let firsts = waits.iter().filter(|(ticket, c)| {
        let same = |o: &Claim| in_one_lane(o, c) && o.urgency == c.urgency;
        !waits.iter().any(|(other, o)| other < ticket && same(o))
    });
    let for_retries = limits.total / 2 - holds.values().filter(|c| c.is_retry).map(|c| c.size).sum::<u64>();
    let fits = |c: &&Claim| c.size <= free && (!c.is_retry || c.size <= for_retries);
    let mut idle = firsts.map(|(_, c)| c).filter(new).filter(fits);
    prop_assert!(overtaken || idle.next().is_none(), "there was room");
    Ok(())
}
