//! The order in which claims on something limited are met: by namespace in turns, and never all of it for one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Somebody's wish for a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The tenant.
    pub namespace: String,
    /// What it is wanted for: claims of one lane are met in their order, and the lanes of a namespace in turns.
    pub lane: String,
    /// How much, in the unit of [`Limits`].
    pub size: u64,
}

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// In all.
    pub total: u64,
    /// For one namespace.
    pub per_namespace: u64,
}

/// Smaller claims that may overtake one for which there is no room yet.
const OVERTAKINGS: u32 = 16;

/// Claims that are met and claims that wait. Pure: who waits is told by the caller.
///
/// - Namespaces take turns, and the lanes of a namespace within its turn.
/// - A namespace that holds something gets more only while at least as much as it holds stays free. So one namespace gets about
///   half of all, a second one half of what is left, and the last places are for those that hold nothing.
/// - The same holds among the lanes of a namespace, for what is a namespace's at most.
/// - A claim of a namespace that holds nothing waits only where there is no room at all, and is overtaken a bounded number of times.
#[derive(Debug)]
pub(crate) struct FairQueue {
    limits: Limits,
    free: u64,
    /// Those that wait and those that were met, by ticket. Tickets grow.
    claims: HashMap<u64, Claim>,
    tenants: HashMap<String, Tenant>,
    /// Namespaces in which somebody waits; the first is next.
    order: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Tenant {
    held: u64,
    lanes: HashMap<String, Lane>,
    /// Lanes in which somebody waits; the first is next.
    order: VecDeque<String>,
    overtaken: u32,
}

#[derive(Debug, Default)]
struct Lane {
    held: u64,
    waiting: BTreeSet<u64>,
}

/// What a namespace can have now.
enum Next {
    /// What the lane at this place of the order waits for.
    Ticket(usize, u64),
    /// It holds nothing, and there is no room.
    NoRoom,
    /// It holds all that it may.
    Nothing,
}

impl FairQueue {
    pub fn new(limits: Limits) -> FairQueue {
        FairQueue {
            limits,
            free: limits.total,
            claims: HashMap::new(),
            tenants: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Queues a claim. What is larger than all there is becomes all there is.
    pub fn enter(&mut self, ticket: u64, mut claim: Claim) {
        claim.size = claim.size.min(self.limits.total);
        let tenant = self.tenants.entry(claim.namespace.clone()).or_default();
        if tenant.order.is_empty() {
            self.order.push_back(claim.namespace.clone());
        }
        let lane = tenant.lanes.entry(claim.lane.clone()).or_default();
        if lane.waiting.is_empty() {
            tenant.order.push_back(claim.lane.clone());
        }
        lane.waiting.insert(ticket);
        self.claims.insert(ticket, claim);
    }

    /// Meets the next claim that can be met.
    pub fn grant(&mut self) -> Option<u64> {
        let mut without_room = vec![];
        for place in 0..self.order.len() {
            let namespace = self.order.get(place)?.clone();
            let tenant = self.tenants.get_mut(&namespace)?;
            match tenant.next(&self.claims, &self.limits, self.free) {
                Next::Ticket(lane, ticket) => {
                    let size = self.claims.get(&ticket).map_or(0, |claim| claim.size);
                    tenant.take(lane, ticket, size);
                    self.free -= size;
                    self.order.remove(place);
                    if !tenant.order.is_empty() {
                        self.order.push_back(namespace);
                    }
                    self.overtake(&without_room);
                    return Some(ticket);
                }
                Next::NoRoom if tenant.overtaken >= OVERTAKINGS => return None,
                Next::NoRoom => without_room.push(namespace),
                Next::Nothing => {}
            }
        }
        None
    }

    fn overtake(&mut self, namespaces: &[String]) {
        for namespace in namespaces {
            if let Some(tenant) = self.tenants.get_mut(namespace) {
                tenant.overtaken += 1;
            }
        }
    }

    /// Makes a claim that was met larger, if the rules allow it now. False: it stays as it is.
    pub fn grow(&mut self, ticket: u64, size: u64) -> bool {
        let Some(claim) = self.claims.get_mut(&ticket) else { return false };
        let more = size.min(self.limits.total).saturating_sub(claim.size);
        let Some(tenant) = self.tenants.get_mut(&claim.namespace) else { return false };
        let Some(lane) = tenant.lanes.get_mut(&claim.lane) else { return false };
        let (others, others_of_lane) = (tenant.held - claim.size, lane.held - claim.size);
        let left = self.limits.per_namespace.saturating_sub(tenant.held);
        if !leaves(self.free, more, others) || (others > 0 && !leaves(left, more, others_of_lane)) {
            return false;
        }
        claim.size += more;
        lane.held += more;
        tenant.held += more;
        self.free -= more;
        true
    }

    /// Ends a claim, whether it waits or was met.
    pub fn leave(&mut self, ticket: u64) {
        let Some(claim) = self.claims.remove(&ticket) else { return };
        let Some(tenant) = self.tenants.get_mut(&claim.namespace) else { return };
        let Some(lane) = tenant.lanes.get_mut(&claim.lane) else { return };
        if lane.waiting.remove(&ticket) {
            if lane.waiting.is_empty() {
                tenant.order.retain(|lane| *lane != claim.lane);
            }
            if tenant.order.is_empty() {
                self.order.retain(|namespace| *namespace != claim.namespace);
            }
        } else {
            lane.held -= claim.size;
            tenant.held -= claim.size;
            self.free += claim.size;
        }
        if lane.waiting.is_empty() && lane.held == 0 {
            tenant.lanes.remove(&claim.lane);
        }
        if tenant.lanes.is_empty() {
            self.tenants.remove(&claim.namespace);
        }
    }

    /// Whether a namespace that holds nothing waits, once all that can be met is met.
    pub fn is_short(&self) -> bool {
        self.order.iter().any(|namespace| self.tenants.get(namespace).is_some_and(|tenant| tenant.held == 0))
    }

    /// Claims that wait, by lane.
    pub fn waiting(&self) -> BTreeMap<&str, usize> {
        let mut waiting = BTreeMap::new();
        for (name, lane) in self.tenants.values().flat_map(|tenant| &tenant.lanes) {
            *waiting.entry(name.as_str()).or_default() += lane.waiting.len();
        }
        waiting
    }
}

/// Whether who holds `held` may have `more` of what is free: at least as much as it holds stays.
fn leaves(free: u64, more: u64, held: u64) -> bool {
    free.checked_sub(more).is_some_and(|left| left >= held)
}

impl Tenant {
    fn next(&self, claims: &HashMap<u64, Claim>, limits: &Limits, free: u64) -> Next {
        let mut next = Next::Nothing;
        for (place, name) in self.order.iter().enumerate() {
            let Some((lane, ticket)) = self.lanes.get(name).and_then(|lane| Some((lane, *lane.waiting.first()?)))
            else {
                continue;
            };
            let size = claims.get(&ticket).map_or(0, |claim| claim.size);
            if self.held > 0 && !leaves(limits.per_namespace.saturating_sub(self.held), size, lane.held) {
                continue;
            }
            match leaves(free, size, self.held) {
                true => return Next::Ticket(place, ticket),
                false if self.held == 0 => next = Next::NoRoom,
                false => {}
            }
        }
        next
    }

    fn take(&mut self, place: usize, ticket: u64, size: u64) {
        self.held += size;
        self.overtaken = 0;
        let Some(name) = self.order.remove(place) else { return };
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        lane.held += size;
        lane.waiting.remove(&ticket);
        if !lane.waiting.is_empty() {
            self.order.push_back(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(namespace: &str, lane: &str, size: u64) -> Claim {
        Claim { namespace: namespace.into(), lane: lane.into(), size }
    }

    /// Enters `claims`, each with its place as its ticket, and meets what can be met.
    fn met(limits: Limits, claims: impl IntoIterator<Item = Claim>) -> (FairQueue, Vec<u64>) {
        let mut queue = FairQueue::new(limits);
        let mut met = vec![];
        for (ticket, claim) in claims.into_iter().enumerate() {
            queue.enter(ticket as u64, claim);
            met.extend(queue.grant());
        }
        (queue, met)
    }

    const TURNS: Limits = Limits { total: 128, per_namespace: 16 };
    const BYTES: Limits = Limits { total: 128, per_namespace: u64::MAX };

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
        let hostile = (0..16).flat_map(|_| (0..2).map(|n| claim(&format!("hostile-{n}"), "Pass", 20)));
        let (mut queue, taken) = met(BYTES, hostile);
        assert!(taken.len() >= 4, "{taken:?}");
        queue.enter(1_000, claim("quiet", "Write", 20));
        assert_eq!(queue.grant(), Some(1_000));
    }

    #[test]
    fn a_large_claim_is_overtaken_by_smaller_ones_and_not_for_ever() {
        let mut queue = FairQueue::new(BYTES);
        for (ticket, namespace) in ["a", "b"].into_iter().enumerate() {
            queue.enter(ticket as u64, claim(namespace, "Upload", 60));
            assert_eq!(queue.grant(), Some(ticket as u64));
        }
        queue.enter(2, claim("large", "Write", 20));
        assert!(queue.grant().is_none() && queue.is_short());
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
        let (mut queue, _) = met(BYTES, [claim("a", "Pass", 4), claim("a", "Pass", 4), claim("b", "Pass", 4)]);
        assert!(queue.grow(0, 40) && queue.grow(1, 40), "44 stay free, and it holds 40 besides");
        assert!(!queue.grow(1, 60) && queue.grow(2, 48), "who holds nothing else may have what is left");
        assert_eq!(queue.free, 0);
        (0..3).for_each(|ticket| queue.leave(ticket));
        assert_eq!((queue.free, queue.tenants.len()), (128, 0));
    }

    /// What happens to a queue.
    #[derive(Clone, Debug)]
    enum Event {
        Enter(u8, u8, u64),
        /// One of those that are there ends, by its place among them.
        Leave(usize),
        /// One of those that hold something wants to hold so much.
        Grow(usize, u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let enter = (0..5u8, 0..3u8, 1..40u64).prop_map(|(namespace, lane, size)| Event::Enter(namespace, lane, size));
        let grow = (any::<usize>(), 1..50u64).prop_map(|(place, size)| Event::Grow(place, size));
        prop::collection::vec(prop_oneof![4 => enter, 2 => any::<usize>().prop_map(Event::Leave), 1 => grow], 1..200)
    }

    proptest! {
        #[test]
        fn limits_hold_nothing_lies_idle_and_everybody_is_served_in_the_end(events in events()) {
            let limits = Limits { total: 64, per_namespace: 40 };
            let mut queue = FairQueue::new(limits);
            let (mut waits, mut holds) = (BTreeMap::new(), BTreeMap::new());
            for (ticket, event) in events.into_iter().enumerate() {
                match event {
                    Event::Enter(namespace, lane, size) => {
                        let claim = claim(&namespace.to_string(), &lane.to_string(), size);
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
            prop_assert!(queue.free == 64 && queue.tenants.is_empty() && queue.order.is_empty(), "{queue:?}");
        }
    }

    type Claims = BTreeMap<u64, Claim>;

    /// Sees that `claim` may be met beside those that are.
    fn keeps_to(claim: &Claim, holds: &Claims, limits: Limits) -> Result<(), TestCaseError> {
        let of = |same: &dyn Fn(&Claim) -> bool| holds.values().filter(|c| same(c)).map(|c| c.size).sum::<u64>();
        let all = of(&|_| true);
        let own = of(&|c| c.namespace == claim.namespace);
        let lane = of(&|c| c.namespace == claim.namespace && c.lane == claim.lane);
        prop_assert!(all + claim.size <= limits.total);
        prop_assert!(own == 0 || own + claim.size + lane <= limits.per_namespace, "the last ones for other lanes");
        prop_assert!(own == 0 || limits.total - all - claim.size >= own, "the last places are for newcomers");
        Ok(())
    }

    /// Meets all that can be met, and sees that the rules were kept.
    fn settle(q: &mut FairQueue, waits: &mut Claims, holds: &mut Claims, limits: Limits) -> Result<(), TestCaseError> {
        while let Some(ticket) = q.grant() {
            let claim = waits.remove(&ticket).unwrap();
            keeps_to(&claim, holds, limits)?;
            holds.insert(ticket, claim);
        }
        let free = limits.total - holds.values().map(|c| c.size).sum::<u64>();
        let new = |c: &&Claim| holds.values().all(|held| held.namespace != c.namespace);
        let largest = waits.values().filter(new).map(|c| c.size).max();
        prop_assert_eq!(q.is_short(), largest.is_some());
        let overtaken = q.tenants.values().any(|tenant| tenant.overtaken >= OVERTAKINGS);
        let firsts = waits.iter().filter(|(ticket, c)| {
            !waits.iter().any(|(other, o)| other < ticket && (&o.namespace, &o.lane) == (&c.namespace, &c.lane))
        });
        let mut idle = firsts.map(|(_, c)| c).filter(new).filter(|c| c.size <= free);
        prop_assert!(overtaken || idle.next().is_none(), "there was room");
        Ok(())
    }
}
