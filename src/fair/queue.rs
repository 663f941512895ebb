//! The order in which claims on something limited are met: by namespace in turns, and never all of it for one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::{Index, IndexMut};

use super::leaves_as_much;

/// Somebody's wish for a share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The tenant.
    pub namespace: String,
    /// What it is wanted for: claims of one lane are met in their order, and the lanes of a namespace in turns.
    pub lane: String,
    /// How much, in the unit of [`Limits`].
    pub size: u64,
    /// Whether it goes ahead of others.
    pub urgency: Urgency,
}

/// Which claims are met first, whosever they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Of what has a last moment, such as a POST.
    Urgent,
    /// Of everything else.
    #[default]
    Usual,
}

/// How much there is, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all.
    pub total: u64,
    /// For one namespace.
    pub per_namespace: u64,
    /// Whether the last shares are for namespaces that hold nothing: right where a share may be held for long. Where shares come back
    /// soon, whatever is free is given out.
    pub keeps_last_shares: bool,
}

/// Smaller claims that may overtake one for which there is no room yet.
const OVERTAKINGS: u32 = 16;

/// Claims that are met and claims that wait. Pure: who waits is told by the caller.
///
/// - Urgent claims come before all others.
/// - The namespace that holds the least comes first. Those that hold the same take turns, and so do the lanes of a namespace.
/// - Where [`Limits::keeps_last_shares`], a namespace that holds something gets more only while at least as much as it holds stays free. So one namespace gets about
///   half of all, a second one half of what is left, and the last places are for those that hold nothing.
/// - The same holds among the lanes of a namespace, for what is a namespace's at most.
/// - A claim of a namespace that holds nothing waits only where there is no room at all, and is overtaken a bounded number of times.
#[derive(Debug)]
pub(super) struct FairQueue {
    limits: Limits,
    free: u64,
    /// Those that wait and those that were met, by ticket. Tickets grow.
    claims: HashMap<u64, Claim>,
    tenants: HashMap<String, Tenant>,
    /// Namespaces in which somebody waits; of those that hold the same the first is next.
    order: ByUrgency<VecDeque<String>>,
}

#[derive(Debug, Default)]
struct Tenant {
    held: u64,
    lanes: HashMap<String, Lane>,
    /// Lanes in which somebody waits; the first is next.
    order: ByUrgency<VecDeque<String>>,
    overtaken: u32,
}

#[derive(Debug, Default)]
struct Lane {
    held: u64,
    waiting: ByUrgency<BTreeSet<u64>>,
}

#[derive(Debug, Default)]
struct ByUrgency<T> {
    urgent: T,
    usual: T,
}

impl<T> Index<Urgency> for ByUrgency<T> {
    type Output = T;

    fn index(&self, urgency: Urgency) -> &T {
        match urgency {
            Urgency::Urgent => &self.urgent,
            Urgency::Usual => &self.usual,
        }
    }
}

impl<T> IndexMut<Urgency> for ByUrgency<T> {
    fn index_mut(&mut self, urgency: Urgency) -> &mut T {
        match urgency {
            Urgency::Urgent => &mut self.urgent,
            Urgency::Usual => &mut self.usual,
        }
    }
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
            order: ByUrgency::default(),
        }
    }

    /// Queues a claim. What is larger than all there is becomes all there is.
    pub fn enter(&mut self, ticket: u64, mut claim: Claim) {
        claim.size = claim.size.min(self.limits.total);
        let tenant = self.tenants.entry(claim.namespace.clone()).or_default();
        if tenant.order[claim.urgency].is_empty() {
            self.order[claim.urgency].push_back(claim.namespace.clone());
        }
        let lane = tenant.lanes.entry(claim.lane.clone()).or_default();
        if lane.waiting[claim.urgency].is_empty() {
            tenant.order[claim.urgency].push_back(claim.lane.clone());
        }
        lane.waiting[claim.urgency].insert(ticket);
        self.claims.insert(ticket, claim);
    }

    /// Meets the next claim that can be met.
    pub fn grant(&mut self) -> Option<u64> {
        if self.free == 0 {
            return None;
        }
        let mut without_room = vec![];
        for (urgency, place) in self.in_order() {
            let namespace = self.order[urgency].get(place)?.clone();
            let tenant = self.tenants.get_mut(&namespace)?;
            match tenant.next(urgency, &self.claims, &self.limits, self.free) {
                Next::Ticket(lane, ticket) => {
                    let size = self.claims.get(&ticket).map_or(0, |claim| claim.size);
                    tenant.take(urgency, lane, ticket, size);
                    self.free -= size;
                    self.order[urgency].remove(place);
                    if !tenant.order[urgency].is_empty() {
                        self.order[urgency].push_back(namespace);
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

    /// Who waits, by the place in [`FairQueue::order`], the next one first.
    fn in_order(&self) -> Vec<(Urgency, usize)> {
        let mut all = vec![];
        for urgency in [Urgency::Urgent, Urgency::Usual] {
            let held = |place: &usize| {
                self.order[urgency].get(*place).and_then(|namespace| self.tenants.get(namespace)).map(|t| t.held)
            };
            let mut places: Vec<usize> = (0..self.order[urgency].len()).collect();
            places.sort_by_cached_key(held);
            all.extend(places.into_iter().map(|place| (urgency, place)));
        }
        all
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
        if !self.limits.leave(self.free, more, others) || (others > 0 && !self.limits.leave(left, more, others_of_lane))
        {
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
        let urgency = claim.urgency;
        if lane.waiting[urgency].remove(&ticket) {
            if lane.waiting[urgency].is_empty() {
                tenant.order[urgency].retain(|lane| *lane != claim.lane);
            }
            if tenant.order[urgency].is_empty() {
                self.order[urgency].retain(|namespace| *namespace != claim.namespace);
            }
        } else {
            lane.held -= claim.size;
            tenant.held -= claim.size;
            self.free += claim.size;
        }
        if lane.waiting() == 0 && lane.held == 0 {
            tenant.lanes.remove(&claim.lane);
        }
        if tenant.lanes.is_empty() {
            self.tenants.remove(&claim.namespace);
        }
    }

    /// Whether a namespace that holds nothing waits, once all that can be met is met.
    pub fn is_short(&self) -> bool {
        let mut waiting = self.order.urgent.iter().chain(&self.order.usual);
        waiting.any(|namespace| self.tenants.get(namespace).is_some_and(|tenant| tenant.held == 0))
    }

    /// Claims that wait, by lane.
    pub fn waiting(&self) -> BTreeMap<&str, usize> {
        let mut waiting = BTreeMap::new();
        for (name, lane) in self.tenants.values().flat_map(|tenant| &tenant.lanes) {
            *waiting.entry(name.as_str()).or_default() += lane.waiting();
        }
        waiting
    }
}

impl Limits {
    /// Whether who holds `held` may have `more` of what is free.
    fn leave(&self, free: u64, more: u64, held: u64) -> bool {
        leaves_as_much(free, more, if self.keeps_last_shares { held } else { 0 })
    }
}

impl Lane {
    fn waiting(&self) -> usize {
        self.waiting.urgent.len() + self.waiting.usual.len()
    }
}

impl Tenant {
    fn next(&self, urgency: Urgency, claims: &HashMap<u64, Claim>, limits: &Limits, free: u64) -> Next {
        let mut next = Next::Nothing;
        for (place, name) in self.order[urgency].iter().enumerate() {
            let Some(lane) = self.lanes.get(name) else { continue };
            let Some(ticket) = lane.waiting[urgency].first().copied() else { continue };
            let size = claims.get(&ticket).map_or(0, |claim| claim.size);
            if self.held > 0 && !limits.leave(limits.per_namespace.saturating_sub(self.held), size, lane.held) {
                continue;
            }
            match limits.leave(free, size, self.held) {
                true => return Next::Ticket(place, ticket),
                false if self.held == 0 => next = Next::NoRoom,
                false => {}
            }
        }
        next
    }

    fn take(&mut self, urgency: Urgency, place: usize, ticket: u64, size: u64) {
        self.held += size;
        self.overtaken = 0;
        let Some(name) = self.order[urgency].remove(place) else { return };
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        lane.held += size;
        lane.waiting[urgency].remove(&ticket);
        if !lane.waiting[urgency].is_empty() {
            self.order[urgency].push_back(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(namespace: &str, lane: &str, size: u64) -> Claim {
        Claim { namespace: namespace.into(), lane: lane.into(), size, urgency: Urgency::Usual }
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
        Enter(Claim),
        /// One of those that are there ends, by its place among them.
        Leave(usize),
        /// One of those that hold something wants to hold so much.
        Grow(usize, u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let urgency = prop_oneof![Just(Urgency::Urgent), Just(Urgency::Usual)];
        let enter = (0..5u8, 0..3u8, 1..40u64, urgency).prop_map(|(namespace, lane, size, urgency)| {
            Event::Enter(Claim { urgency, ..claim(&namespace.to_string(), &lane.to_string(), size) })
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

    /// Sees that `claim` may be met beside those that are.
    fn keeps_to(claim: &Claim, holds: &Claims, limits: Limits) -> Result<(), TestCaseError> {
        let of = |same: &dyn Fn(&Claim) -> bool| holds.values().filter(|c| same(c)).map(|c| c.size).sum::<u64>();
        let all = of(&|_| true);
        let own = of(&|c| c.namespace == claim.namespace);
        let lane = of(&|c| c.namespace == claim.namespace && c.lane == claim.lane);
        prop_assert!(all + claim.size <= limits.total);
        prop_assert!(own == 0 || own + claim.size <= limits.per_namespace);
        if own > 0 && limits.keeps_last_shares {
            prop_assert!(own + claim.size + lane <= limits.per_namespace, "the last ones for other lanes");
            prop_assert!(limits.total - all - claim.size >= own, "the last places are for newcomers");
        }
        Ok(())
    }

    /// Sees that no urgent claim, and no claim of a namespace that holds less, could have been met in the place of this one.
    fn comes_first(
        ticket: u64,
        claim: &Claim,
        waits: &Claims,
        holds: &Claims,
        limits: Limits,
    ) -> Result<(), TestCaseError> {
        let held = |c: &Claim| holds.values().filter(|o| o.namespace == c.namespace).map(|o| o.size).sum::<u64>();
        for (other, o) in waits {
            let same = |a: &Claim| (&a.namespace, &a.lane, a.urgency) == (&o.namespace, &o.lane, o.urgency);
            let is_behind = same(claim) && ticket < *other || waits.iter().any(|(a, c)| a < other && same(c));
            if !is_behind && keeps_to(o, holds, limits).is_ok() {
                prop_assert!(o.urgency == claim.urgency || claim.urgency == Urgency::Urgent, "{o:?} is urgent");
                prop_assert!(o.urgency != claim.urgency || held(o) >= held(claim), "{o:?} holds less than {claim:?}");
            }
        }
        Ok(())
    }

    /// Meets all that can be met, and sees that the rules were kept.
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
        prop_assert_eq!(q.is_short(), largest.is_some());
        let overtaken = q.tenants.values().any(|tenant| tenant.overtaken >= OVERTAKINGS);
        let firsts = waits.iter().filter(|(ticket, c)| {
            let same = |o: &Claim| (&o.namespace, &o.lane, o.urgency) == (&c.namespace, &c.lane, c.urgency);
            !waits.iter().any(|(other, o)| other < ticket && same(o))
        });
        let mut idle = firsts.map(|(_, c)| c).filter(new).filter(|c| c.size <= free);
        prop_assert!(overtaken || idle.next().is_none(), "there was room");
        Ok(())
    }
}
