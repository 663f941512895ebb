//! Small objects that many jobs refer to, read once for all of them: Secrets, which the operator may not watch, and labels of
//! namespaces. Each value has an age; a reader says how old it may be.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Milliseconds for which a value is good if nothing contradicts it.
pub(crate) const LIFETIME: i64 = 15_000;
/// Most values that are kept. A full cache drops a value that nobody is reading, of the namespace that has the most.
const MOST: usize = 1_000;

/// A key that says to which namespace its value belongs.
pub(crate) trait Key: Eq + Hash + Clone {
    /// Returns the namespace.
    fn namespace(&self) -> &str;
}

/// A namespace.
impl Key for String {
    fn namespace(&self) -> &str {
        self
    }
}

/// Namespace and name of an object.
impl Key for (String, String) {
    fn namespace(&self) -> &str {
        &self.0
    }
}

/// A value, and when its read began (Unix milliseconds).
type Read<V> = Option<(V, i64)>;

/// Values by key; the readers of one key wait for one read of it.
pub(crate) struct Cache<K, V> {
    entries: Mutex<HashMap<K, Arc<tokio::sync::Mutex<Read<V>>>>>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Cache { entries: Mutex::default() }
    }
}

impl<K: Key, V: Clone> Cache<K, V> {
    /// Returns the value of `key` as it was read at `since` (Unix milliseconds) or later. Otherwise calls `read`; its value is
    /// not kept with [`Keep::No`].
    ///
    /// # Errors
    /// The errors of `read`; nothing is kept then.
    pub async fn get<E, F: Future<Output = Result<(V, Keep), E>>>(
        &self,
        key: &K,
        since: i64,
        clock: impl Fn() -> i64,
        read: impl FnOnce() -> F,
    ) -> Result<V, E> {
        let entry = self.entry(key);
        let mut kept = entry.lock().await;
        if let Some((value, at)) = &*kept
            // A time in the future was read before the clock was set back.
            && (since..=clock()).contains(at)
        {
            return Ok(value.clone());
        }
        *kept = None;
        let began = clock();
        // On the heap: the futures of all who read a cache would hold that of a call, of kilobytes, several times.
        let (value, keep) = Box::pin(read()).await?;
        if keep == Keep::Yes {
            *kept = Some((value.clone(), began));
        }
        Ok(value)
    }

    fn entry(&self, key: &K) -> Arc<tokio::sync::Mutex<Read<V>>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MOST && !entries.contains_key(key) {
            let unread: Vec<&K> =
                entries.iter().filter(|(_, entry)| Arc::strong_count(entry) == 1).map(|(key, _)| key).collect();
            let mut counts: HashMap<&str, usize> = HashMap::new();
            unread.iter().for_each(|key| *counts.entry(key.namespace()).or_default() += 1);
            let given_up = unread.iter().max_by_key(|key| counts.get(key.namespace())).map(|key| K::clone(key));
            given_up.and_then(|key| entries.remove(&key));
        }
        entries.entry(key.clone()).or_default().clone()
    }
}

/// Tells if a value that was read may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Yes,
    /// The object does not exist, or is too large for a cache.
    No,
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    /// A reader of one Secret that counts its reads.
    #[derive(Default)]
    struct Reader {
        cache: Cache<String, i64>,
        reads: AtomicI64,
    }

    impl Reader {
        async fn get(&self, key: &str, since: i64, now: i64, keep: Keep) -> i64 {
            let read = || async {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>((self.reads.fetch_add(1, Ordering::Relaxed) + 1, keep))
            };
            self.cache.get(&key.to_string(), since, || now, read).await.unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn a_thousand_jobs_that_share_a_secret_read_it_once_and_a_reader_who_distrusts_it_reads_it_anew() {
        let reader = Reader::default();
        let all = futures::future::join_all((0..1_000).map(|_| reader.get("s3", 0, 100, Keep::Yes))).await;
        assert!(all.iter().all(|read| *read == 1), "one read for all");
        assert_eq!(reader.get("s3", 100, 115, Keep::Yes).await, 1, "as old as it may be");
        assert_eq!(reader.get("s3", 101, 115, Keep::Yes).await, 2, "older than a failure that another key may mend");
        assert_eq!(reader.get("s3", 101, 120, Keep::Yes).await, 2, "the new one serves the others");
        assert_eq!(reader.get("other", 0, 120, Keep::Yes).await, 3);
        assert_eq!(
            reader.get("s3", -15, 0, Keep::Yes).await,
            4,
            "the clock was set back, so that nobody knows its age"
        );
    }

    #[tokio::test]
    async fn an_object_that_is_not_there_is_looked_for_each_time() {
        let reader = Reader::default();
        assert_eq!(reader.get("s3", 0, 100, Keep::No).await, 1);
        assert_eq!(reader.get("s3", 0, 100, Keep::No).await, 2);
    }

    #[tokio::test]
    async fn more_keys_than_there_is_room_for_push_out_those_of_the_namespace_that_has_the_most() {
        let cache: Cache<(String, String), i64> = Cache::default();
        let read = async |namespace: &str, name: usize| {
            let value = || async { Ok::<_, Infallible>((1, Keep::Yes)) };
            let key = (namespace.to_string(), name.to_string());
            cache.get(&key, 0, || 1, value).await.unwrap_or_default();
        };
        for quiet in 0..10 {
            read("quiet", quiet).await;
        }
        for name in 0..2 * MOST {
            read("hostile", name).await;
        }
        let entries = cache.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = entries.keys().filter(|(namespace, _)| namespace == "quiet").count();
        assert_eq!((entries.len(), quiet), (MOST, 10));
    }
}
