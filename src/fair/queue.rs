//! The order in which claims on a limited resource are granted: namespaces take turns, and none gets all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::{Index, IndexMut};

use super::leaves_as_much;

/// A request for a share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The tenant.
    pub namespace: String,
    /// Purpose of the share. Claims of one lane are granted in their order, and the lanes of a namespace take turns.
    pub lane: String,
    /// Amount, in the unit of [`Limits`].
    pub size: u64,
    /// Rank before other claims.
    pub urgency: Urgency,
    /// Whether the work failed the last time. All such claims together get at most half of the total, except
    /// those that are known to need more.
    pub is_retry: bool,
}

impl Claim {
    /// Returns this claim for work that needs all of `size`. A retry that needs more than retries get together is none any
    /// more: as one, it would get too little each time.
    pub fn of_known_need(self, size: u64, limits: &Limits) -> Claim {
        Claim { size, is_retry: self.is_retry && size <= limits.for_retries(), ..self }
    }
}

/// Rank of a claim, before any order among namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// A call with a last moment, such as a POST.
    Urgent,
    /// Every other call.
    #[default]
    Usual,
}

/// Holders that have to make room, if they are slow, for a namespace that holds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shortage {
    /// Nobody.
    #[default]
    None,
    /// Retries only: the claims that wait are retries, and the half of all retries is used up.
    OfRetries,
    /// Everybody.
    OfAll,
}

/// Amounts that a queue may hand out.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Amount in all.
    pub total: u64,
    /// Amount for one namespace.
    pub per_namespace: u64,
    /// Whether the last shares are kept for namespaces that hold nothing. True for shares that may be held for long; shares that are
    /// given back soon are all handed out.
    pub keeps_last_shares: bool,
}

/// Maximum number of smaller claims that may overtake one for which there is no room yet.
const OVERTAKINGS: u32 = 16;

/// The queue of claims: those that wait, and those that were granted. It is pure; the caller wakes the tasks whose claims are granted.
///
/// - Urgent claims come before all others.
/// - The namespace that holds the least comes first. Namespaces that hold the same take turns, and so do the lanes of a namespace.
/// - With [`Limits::keeps_last_shares`], a namespace that holds something gets more only if at least as much as it holds stays free. So one
///   namespace gets about half of all, a second one half of the rest, and the last shares are for namespaces that hold nothing.
/// - The same rule holds among the lanes of a namespace, within [`Limits::per_namespace`]. Retries have lanes of their own.
/// - Retries of all namespaces together get at most half of the total, except those that are known to need more. Work that failed before may fail again, slowly, and must leave the
///   other half to new work and to work that succeeds.
/// - A claim of a namespace that holds nothing waits only if it does not fit into the free amount, and at most [`OVERTAKINGS`] claims
///   overtake it meanwhile. A retry may also wait for other retries.
#[derive(Debug)]
pub(super) struct FairQueue {
    limits: Limits,
    free: u64,
    held_by_retries: u64,
    /// Waiting and granted claims, by ticket. A later claim has a higher ticket.
    claims: HashMap<u64, Claim>,
    tenants: HashMap<String, Tenant>,
    /// Namespaces with waiting claims. Among namespaces that hold the same, the first is next.
    order: ByUrgency<VecDeque<String>>,
}

#[derive(Debug, Default)]
struct Tenant {
    held: u64,
    lanes: HashMap<String, Lane>,
    /// Lanes with waiting claims; the first is next.
    order: ByUrgency<VecDeque<String>>,
    /// Number of claims that overtook this namespace since its last grant.
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

/// The next claim of a namespace that can be granted.
enum Next {
    /// The ticket of a claim, with the place of its lane in [`Tenant::order`].
    Ticket(usize, u64),
    /// None: the namespace holds nothing, and its claim does not fit into the free amount.
    NoRoom,
    /// None: the limits allow the namespace nothing more now.
    Nothing,
}

impl FairQueue {
    pub fn new(limits: Limits) -> FairQueue {
        FairQueue {
            limits,
            free: limits.total,
            held_by_retries: 0,
            claims: HashMap::new(),
            tenants: HashMap::new(),
            order: ByUrgency::default(),
        }
    }

    /// Queues a claim. A claim that is larger than the total is reduced to the total, and a retry to half of it.
    pub fn enter(&mut self, ticket: u64, mut claim: Claim) {
        claim.size = claim.size.min(if claim.is_retry { self.limits.for_retries() } else { self.limits.total });
        if claim.is_retry {
            claim.lane += ", again";
        }
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

    /// Grants the next claim that can be granted, and returns its ticket.
    pub fn grant(&mut self) -> Option<u64> {
        if self.free == 0 {
            return None;
        }
        let mut without_room = vec![];
        for (urgency, place) in self.in_order() {
            let namespace = self.order[urgency].get(place)?.clone();
            let tenant = self.tenants.get_mut(&namespace)?;
            let for_retries = self.limits.for_retries() - self.held_by_retries;
            match tenant.next(urgency, &self.claims, &self.limits, (self.free, for_retries)) {
                Next::Ticket(lane, ticket) => {
                    let (size, is_retry) =
                        self.claims.get(&ticket).map_or((0, false), |claim| (claim.size, claim.is_retry));
                    tenant.take(urgency, lane, ticket, size);
                    self.free -= size;
                    self.held_by_retries += if is_retry { size } else { 0 };
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

    /// Returns the waiting namespaces by their place in [`FairQueue::order`], the next one first.
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

    /// Returns the size of a claim; 0 if it ended.
    pub fn size(&self, ticket: u64) -> u64 {
        self.claims.get(&ticket).map_or(0, |claim| claim.size)
    }

    /// Enlarges a granted claim to `size`, or to the total, if the rules allow it now. Returns false if the claim is unchanged.
    pub fn grow(&mut self, ticket: u64, size: u64) -> bool {
        let Some(claim) = self.claims.get_mut(&ticket) else { return false };
        let more = size.min(self.limits.total).saturating_sub(claim.size);
        let Some(tenant) = self.tenants.get_mut(&claim.namespace) else { return false };
        let Some(lane) = tenant.lanes.get_mut(&claim.lane) else { return false };
        let (others, others_of_lane) = (tenant.held - claim.size, lane.held - claim.size);
        let left = self.limits.per_namespace.saturating_sub(tenant.held);
        if !self.limits.leave(self.free, more, others)
            || (others > 0 && !self.limits.leave(left, more, others_of_lane))
            || (claim.is_retry && self.held_by_retries + more > self.limits.for_retries())
        {
            return false;
        }
        self.held_by_retries += if claim.is_retry { more } else { 0 };
        claim.size += more;
        lane.held += more;
        tenant.held += more;
        self.free -= more;
        true
    }

    /// Ends a claim, whether it waits or was granted.
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
            self.held_by_retries -= if claim.is_retry { claim.size } else { 0 };
        }
        if lane.waiting() == 0 && lane.held == 0 {
            tenant.lanes.remove(&claim.lane);
        }
        if tenant.lanes.is_empty() {
            self.tenants.remove(&claim.namespace);
        }
    }

    /// Returns the holders that have to make room for a waiting namespace that holds nothing, once no more claims can be
    /// granted.
    pub fn shortage(&self) -> Shortage {
        let left = self.limits.for_retries() - self.held_by_retries;
        let waiting = self.order.urgent.iter().chain(&self.order.usual).filter_map(|name| self.tenants.get(name));
        let lanes = waiting.filter(|tenant| tenant.held == 0).flat_map(|tenant| tenant.lanes.values());
        let tickets = lanes.flat_map(|lane| lane.waiting.urgent.first().into_iter().chain(lane.waiting.usual.first()));
        let mut shortage = Shortage::None;
        for claim in tickets.filter_map(|ticket| self.claims.get(ticket)) {
            match claim.is_retry && claim.size > left {
                true => shortage = Shortage::OfRetries,
                false => return Shortage::OfAll,
            }
        }
        shortage
    }

    /// Returns the number of waiting claims, by lane.
    pub fn waiting(&self) -> BTreeMap<&str, usize> {
        let mut waiting = BTreeMap::new();
        for (name, lane) in self.tenants.values().flat_map(|tenant| &tenant.lanes) {
            *waiting.entry(name.as_str()).or_default() += lane.waiting();
        }
        waiting
    }
}

impl Limits {
    /// Returns the amount that retries get together.
    pub fn for_retries(&self) -> u64 {
        self.total / 2
    }

    /// Returns whether a holder of `held` may get `more` of the `free` amount under these limits.
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
    fn next(
        &self,
        urgency: Urgency,
        claims: &HashMap<u64, Claim>,
        limits: &Limits,
        (free, for_retries): (u64, u64),
    ) -> Next {
        let mut next = Next::Nothing;
        for (place, name) in self.order[urgency].iter().enumerate() {
            let Some(lane) = self.lanes.get(name) else { continue };
            let Some(ticket) = lane.waiting[urgency].first().copied() else { continue };
            let Some(Claim { size, is_retry, .. }) = claims.get(&ticket) else { continue };
            let size = *size;
            if *is_retry && size > for_retries {
                continue;
            }
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
mod tests;
