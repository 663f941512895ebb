//! Evidence of paying twice at once: the same request in two batches that are alive together.
//!
//! It knows the hash of each request of each batch that has not ended, and forgets them with the
//! batch: about 20 bytes a request.

use std::collections::HashMap;
use std::sync::Arc;

/// The start of a request's hash: enough that two different ones are never taken for one.
pub type Short = u64;

/// Requests, and whether each was billed.
type Lines = HashMap<Short, bool>;

/// All batches that have not ended.
#[derive(Debug, Default)]
pub struct Overlaps {
    alive: HashMap<String, Alive>,
    most: usize,
    count: u64,
}

#[derive(Debug)]
enum Alive {
    /// Its file is being read: it has been alive together with these, which ended meanwhile.
    Unread(Vec<Arc<Lines>>),
    /// Its requests are known.
    Read(Lines),
}

impl Overlaps {
    /// How often a request was billed in one batch while another that also has it was alive. A
    /// request counts once for each pair of batches.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The most batches that were ever alive at once.
    pub fn most(&self) -> usize {
        self.most
    }

    /// A batch was created.
    pub fn create(&mut self, batch: &str) {
        self.alive.insert(batch.to_owned(), Alive::Unread(Vec::new()));
        self.most = self.most.max(self.alive.len());
    }

    /// A batch's file was read and is good.
    pub fn start(&mut self, batch: &str, requests: impl Iterator<Item = Short>) {
        let Some(Alive::Unread(missed)) = self.alive.remove(batch) else { return };
        let own: Lines = requests.map(|request| (request, false)).collect();
        let living = self.alive.values().filter_map(|other| match other {
            Alive::Read(lines) => Some(lines),
            Alive::Unread(_) => None,
        });
        for other in living.chain(missed.iter().map(Arc::as_ref)) {
            let paid = own.keys().filter(|request| other.get(request) == Some(&true));
            self.count += paid.count() as u64;
        }
        self.alive.insert(batch.to_owned(), Alive::Read(own));
    }

    /// Requests of a batch were billed.
    pub fn bill(&mut self, batch: &str, requests: &[Short]) {
        for request in requests {
            let Some(Alive::Read(own)) = self.alive.get_mut(batch) else { return };
            // The same request may stand in one batch more than once.
            if own.insert(*request, true) == Some(true) {
                continue;
            }
            // Where the other batch has billed it, the pair is counted already.
            let others = self.alive.iter().filter(|(id, other)| {
                *id != batch && matches!(other, Alive::Read(lines) if lines.get(request) == Some(&false))
            });
            self.count += others.count() as u64;
        }
    }

    /// A batch has ended, in whatever state.
    pub fn end(&mut self, batch: &str) {
        let Some(Alive::Read(lines)) = self.alive.remove(batch) else { return };
        let lines = Arc::new(lines);
        for other in self.alive.values_mut() {
            if let Alive::Unread(missed) = other {
                missed.push(Arc::clone(&lines));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(overlaps: &mut Overlaps, batch: &str, requests: &[Short]) {
        overlaps.create(batch);
        overlaps.start(batch, requests.iter().copied());
    }

    #[test]
    fn a_request_counts_once_for_each_pair_however_they_meet() {
        let mut overlaps = Overlaps::default();
        started(&mut overlaps, "a", &[1, 2, 2, 3]);
        overlaps.bill("a", &[1, 2, 2]);
        started(&mut overlaps, "b", &[1, 3, 4]);
        assert_eq!(overlaps.count(), 1);
        overlaps.bill("b", &[1, 4]);
        assert_eq!(overlaps.count(), 1);
        overlaps.bill("b", &[3]);
        overlaps.bill("a", &[3]);
        assert_eq!(overlaps.count(), 2);
        started(&mut overlaps, "c", &[3]);
        assert_eq!(overlaps.count(), 4);
    }

    #[test]
    fn one_after_the_other_is_no_overlap_unless_the_second_was_waiting() {
        let mut overlaps = Overlaps::default();
        started(&mut overlaps, "a", &[1]);
        overlaps.bill("a", &[1]);
        overlaps.create("b");
        overlaps.end("a");
        started(&mut overlaps, "c", &[1]);
        overlaps.end("c");
        assert_eq!(overlaps.count(), 0);
        overlaps.start("b", [1].into_iter());
        assert_eq!(overlaps.count(), 1);
        overlaps.end("b");
        assert!(overlaps.alive.is_empty());
        assert_eq!(overlaps.most(), 2);
    }

    #[test]
    fn what_nobody_pays_for_is_no_overlap() {
        let mut overlaps = Overlaps::default();
        started(&mut overlaps, "a", &[1]);
        started(&mut overlaps, "b", &[1]);
        overlaps.create("refused");
        overlaps.end("refused");
        overlaps.end("a");
        overlaps.bill("b", &[1]);
        assert_eq!(overlaps.count(), 0);
    }
}
