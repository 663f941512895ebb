//! Values by the names of a namespace, a provider and a model. Tenants choose these names, so the number of values is bounded, and no
//! tenant pushes out those of others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The name that stands for all that find no room.
pub const OTHER: &str = "other";

/// The names that a value belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    /// Namespace of the jobs.
    pub namespace: String,
    /// Kind and name of the provider object, such as `ClusterBatchProvider/openai`.
    pub provider: String,
    /// Model that the requests ask for.
    pub model: String,
}

impl Names {
    /// Returns them as labels.
    pub(super) fn labels(&self) -> [(&'static str, &str); 3] {
        [("namespace", &self.namespace), ("provider", &self.provider), ("model", &self.model)]
    }

    fn all_others() -> Names {
        Names { namespace: OTHER.into(), provider: OTHER.into(), model: OTHER.into() }
    }

    fn other_models(&self) -> Names {
        Names { model: OTHER.into(), ..self.clone() }
    }

    fn others_here(&self) -> Names {
        Names { namespace: self.namespace.clone(), ..Names::all_others() }
    }
}

/// The largest numbers of values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// In all, without the one for all that find no room.
    pub total: usize,
    /// Of one namespace; at least 3. The last one is for models of all providers that find no room, those before it are for models of
    /// one.
    pub of_namespace: usize,
}

/// Values by names, at most as many as the limits allow.
#[derive(Debug)]
pub(super) struct ByNames<V> {
    limits: Limits,
    values: BTreeMap<Names, Used<V>>,
}

#[derive(Debug)]
struct Used<V> {
    value: V,
    last: Instant,
}

impl<V: Default> ByNames<V> {
    pub fn new(limits: Limits) -> ByNames<V> {
        ByNames { limits, values: BTreeMap::new() }
    }

    /// Returns the value of these names, or of the coarser ones that they count under. If there is no room, the namespace with the most
    /// values loses the one that was not used for the longest time, unless this one would then have as many.
    pub fn of(&mut self, names: &Names, now: Instant) -> &mut V {
        let place = self.place(names);
        let used = self.values.entry(place).or_insert_with(|| Used { value: V::default(), last: now });
        used.last = now;
        &mut used.value
    }

    fn place(&mut self, names: &Names) -> Names {
        let (count, most) = (self.count(&names.namespace), self.limits.of_namespace);
        let places = [
            (names.clone(), most.saturating_sub(2)),
            (names.other_models(), most.saturating_sub(1)),
            (names.others_here(), most),
        ];
        for (place, most) in places {
            if self.values.contains_key(&place) || (count < most && self.has_room_beside(count)) {
                return place;
            }
        }
        Names::all_others()
    }

    fn count(&self, namespace: &str) -> usize {
        self.values.keys().filter(|names| names.namespace == namespace).count()
    }

    /// Returns whether a namespace with `count` values may have one more, for which another one may have lost one.
    fn has_room_beside(&mut self, count: usize) -> bool {
        let all_others = Names::all_others();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let counted = self.values.keys().filter(|names| **names != all_others);
        counted.for_each(|names| *counts.entry(&names.namespace).or_default() += 1);
        if counts.values().sum::<usize>() < self.limits.total {
            return true;
        }
        let Some((largest, most)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return false };
        let of_largest = self.values.iter().filter(|(names, _)| names.namespace == largest && **names != all_others);
        let oldest = of_largest.min_by_key(|(_, used)| used.last).map(|(names, _)| names.clone());
        let gives_way = oldest.filter(|_| most > count + 1);
        gives_way.and_then(|names| self.values.remove(&names)).is_some()
    }

    /// Drops the values that were not used for at least `idle` and whose names are not known any more.
    pub fn drop_unknown(&mut self, now: Instant, idle: Duration, is_known: impl Fn(&Names) -> bool) {
        self.values.retain(|names, used| {
            now.saturating_duration_since(used.last) < idle || *names == Names::all_others() || is_known(names)
        });
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Names, &V)> {
        self.values.iter().map(|(names, used)| (names, &used.value))
    }
}

/// Returns at most `most` rows, and the others. Each namespace has its first row kept before any has its second one, and so on.
pub(super) fn share_out<T>(rows: Vec<T>, most: usize, namespace: impl Fn(&T) -> &str) -> (Vec<T>, Vec<T>) {
    let mut ranks: BTreeMap<String, usize> = BTreeMap::new();
    let rank = |row: &T| {
        let next = ranks.entry(namespace(row).into()).or_default();
        *next += 1;
        *next
    };
    let of_rows: Vec<usize> = rows.iter().map(rank).collect();
    let mut ranked: Vec<(usize, T)> = of_rows.into_iter().zip(rows).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let others = ranked.split_off(most.min(ranked.len()));
    let rows = |ranked: Vec<(usize, T)>| ranked.into_iter().map(|(_, row)| row).collect();
    (rows(ranked), rows(others))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { total: 12, of_namespace: 5 };

    fn names(namespace: &str, provider: &str, model: &str) -> Names {
        Names { namespace: namespace.into(), provider: provider.into(), model: model.into() }
    }

    fn count(values: &ByNames<u64>, namespace: &str) -> usize {
        values.iter().filter(|(names, _)| names.namespace == namespace).count()
    }

    proptest! {
        #[test]
        fn values_stay_within_the_limits_and_each_count_is_somewhere(
            counted in prop::collection::vec((0..8u8, 0..4u8, 0..8u8), 1..200)
        ) {
            let (mut values, now) = (ByNames::<u64>::new(LIMITS), Instant::now());
            for (i, (namespace, provider, model)) in counted.into_iter().enumerate() {
                let of = names(&format!("n{namespace}"), &format!("p{provider}"), &format!("m{model}"));
                let before: BTreeMap<Names, u64> = values.iter().map(|(names, n)| (names.clone(), *n)).collect();
                *values.of(&of, now + Duration::from_secs(i as u64)) += 1;
                let grown: Vec<_> = values.iter().filter(|(names, n)| before.get(names) != Some(n)).collect();
                prop_assert_eq!(grown.len(), 1, "{:?}", grown);
                let (place, n) = grown[0];
                prop_assert_eq!(*n, before.get(place).copied().unwrap_or_default() + 1);
                prop_assert!([&of, &of.other_models(), &of.others_here(), &Names::all_others()].contains(&place));
                prop_assert!(values.iter().count() <= LIMITS.total + 1);
                let largest = (0..8).map(|n| count(&values, &format!("n{n}"))).max();
                prop_assert!(largest <= Some(LIMITS.of_namespace), "{:?}", largest);
            }
        }

        /// With four namespaces or fewer, each has three values to itself, whatever the others do.
        #[test]
        fn a_namespace_within_its_share_loses_nothing_to_others(
            others in prop::collection::vec((0..3u8, 0..4u8, 0..50u8), 0..200), at in 0..200usize
        ) {
            let (mut values, began) = (ByNames::<u64>::new(LIMITS), Instant::now());
            let own = ["m1", "m2", "m3"].map(|model| names("own", "p", model));
            for (i, (namespace, provider, model)) in others.iter().enumerate() {
                let now = began + Duration::from_secs(i as u64);
                if i == at % others.len() {
                    own.iter().for_each(|own| *values.of(own, now) += 1);
                }
                *values.of(&names(&format!("n{namespace}"), &format!("p{provider}"), &format!("m{model}")), now) += 1;
            }
            let kept: Vec<u64> = values.iter().filter(|(names, _)| own.contains(names)).map(|(_, n)| *n).collect();
            prop_assert!(others.is_empty() || kept == [1, 1, 1], "{:?}", kept);
        }
    }

    #[test]
    fn rows_are_shared_out_among_namespaces() {
        let rows = ["a1", "a2", "a3", "a4", "b1", "c1", "c2"].to_vec();
        let (kept, others) = share_out(rows, 5, |row| &row[..1]);
        assert_eq!((kept, others), (vec!["a1", "b1", "c1", "a2", "c2"], vec!["a3", "a4"]));
    }

    #[test]
    fn a_tenant_with_many_names_has_them_summed_under_other_beside_its_provider() {
        let (mut values, now) = (ByNames::<u64>::new(LIMITS), Instant::now());
        (0..100).for_each(|n| *values.of(&names("shop", "p", &format!("m{n}")), now) += 1);
        assert_eq!(values.iter().last().map(|(names, n)| (names.clone(), *n)), Some((names("shop", "p", OTHER), 97)));
        (0..100).for_each(|n| *values.of(&names("shop", &format!("q{n}"), "m"), now) += 1);
        let all: Vec<_> = values.iter().map(|(names, n)| (names.provider.as_str(), names.model.as_str(), *n)).collect();
        assert_eq!(all, [(OTHER, OTHER, 100), ("p", "m0", 1), ("p", "m1", 1), ("p", "m2", 1), ("p", OTHER, 97)]);
    }

    #[test]
    fn values_of_names_that_are_gone_end_when_nobody_used_them_for_a_while() {
        let (mut values, now) = (ByNames::<u64>::new(LIMITS), Instant::now());
        let (gone, old) = (names("gone", "p", "m"), names("here", "p", "m"));
        let hour = Duration::from_secs(3_600);
        [&gone, &old, &names("new", "p", "m")].into_iter().for_each(|names| *values.of(names, now) += 1);
        values.drop_unknown(now + hour / 2, hour, |_| false);
        assert_eq!(values.iter().count(), 3);
        *values.of(&names("new", "p", "m"), now + hour) += 1;
        values.drop_unknown(now + hour, hour, |names| *names == old);
        let left: Vec<&str> = values.iter().map(|(names, _)| names.namespace.as_str()).collect();
        assert_eq!(left, ["here", "new"]);
    }
}
