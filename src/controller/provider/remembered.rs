//! A memory of a bounded number of provider objects.

use std::collections::HashMap;

/// Values by uid of the provider object. When there are too many, the namespace with the most objects loses the value that was
/// unused for the longest time, so that nobody who makes many objects pushes out those of others.
pub(super) struct Remembered<V> {
    by_uid: HashMap<String, Entry<V>>,
    most: usize,
    /// Number of uses so far.
    uses: u64,
}

struct Entry<V> {
    /// Namespace of the object; empty for a ClusterBatchProvider.
    namespace: String,
    /// The number of its last use.
    used: u64,
    value: V,
}

impl<V> Remembered<V> {
    /// Remembers `most` objects.
    pub fn new(most: usize) -> Remembered<V> {
        Remembered { by_uid: HashMap::new(), most, uses: 0 }
    }

    /// Returns the value of an object.
    pub fn get(&mut self, uid: &str) -> Option<&mut V> {
        self.uses += 1;
        let entry = self.by_uid.get_mut(uid)?;
        entry.used = self.uses;
        Some(&mut entry.value)
    }

    /// Returns the value of an object of this namespace, a new one if there is none.
    pub fn entry(&mut self, uid: &str, namespace: Option<&str>) -> &mut V
    where
        V: Default,
    {
        self.uses += 1;
        if self.by_uid.len() >= self.most && !self.by_uid.contains_key(uid) {
            self.make_room(namespace.unwrap_or_default());
        }
        let entry = self.by_uid.entry(uid.into()).or_insert_with(|| Entry {
            namespace: namespace.unwrap_or_default().into(),
            used: 0,
            value: V::default(),
        });
        entry.used = self.uses;
        &mut entry.value
    }

    /// Forgets an object, so that one of this namespace has its place.
    fn make_room(&mut self, namespace: &str) {
        let mut objects = HashMap::from([(namespace, 1)]);
        self.by_uid.values().for_each(|entry| *objects.entry(&entry.namespace).or_default() += 1);
        let rank = |entry: &Entry<V>| (objects.get(entry.namespace.as_str()).copied(), u64::MAX - entry.used);
        let uid = self.by_uid.iter().max_by_key(|(_, entry)| rank(entry)).map(|(uid, _)| uid.clone());
        uid.map(|uid| self.by_uid.remove(&uid));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_unused_of_the_namespace_with_the_most_objects_is_forgotten() {
        let mut remembered: Remembered<u8> = Remembered::new(4);
        *remembered.entry("admin's", None) = 1;
        for uid in ["a1", "a2", "a3"] {
            *remembered.entry(uid, Some("a")) = 2;
        }
        assert_eq!(remembered.get("a1"), Some(&mut 2), "it is used");
        remembered.entry("b1", Some("b"));
        let known = ["admin's", "a1", "a2", "a3", "b1"].map(|uid| remembered.get(uid).copied());
        assert_eq!(known, [Some(1), Some(2), None, Some(2), Some(0)]);
    }

    proptest! {
        #[test]
        fn a_namespace_of_few_objects_loses_none_to_one_of_many(
            uses in prop::collection::vec((0..200u32, any::<bool>()), 0..400),
        ) {
            let mut remembered: Remembered<()> = Remembered::new(8);
            (0..4).for_each(|n| _ = remembered.entry(&format!("few-{n}"), Some("few")));
            for (n, is_read) in uses {
                let uid = format!("many-{n}");
                match is_read {
                    true => _ = remembered.get(&uid),
                    false => *remembered.entry(&uid, Some("many")) = (),
                }
                prop_assert!(remembered.by_uid.len() <= 8);
            }
            let is_known = (0..4).all(|n| remembered.get(&format!("few-{n}")).is_some());
            prop_assert!(is_known);
        }
    }
}
