//! Counts of requests without an answer, by error code.

use std::collections::BTreeMap;

use crate::api::ErrorSummary;

/// Most codes that are counted separately. Further ones are counted as one.
const CODES: usize = 50;
/// Most codes that a batch reports.
const KEPT: usize = 10;
const OTHER: &str = "other";

/// Counts of codes, with one request for each.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<String, (i64, i64)>);

impl Tally {
    /// Counts a request, by its index.
    pub fn add(&mut self, code: String, index: i64) {
        let known = self.0.contains_key(&code) || self.0.len() < CODES;
        self.0.entry(if known { code } else { OTHER.into() }).or_insert((0, index)).0 += 1;
    }

    /// Returns the most frequent codes, each with the index of one request.
    pub fn most(self) -> Vec<(ErrorSummary, i64)> {
        let mut all: Vec<(String, (i64, i64))> = self.0.into_iter().collect();
        all.sort_by_key(|(_, (count, _))| -count);
        let rest: i64 = all.iter().skip(KEPT).map(|(_, (count, _))| count).sum();
        all.truncate(KEPT);
        if let (Some((code, (count, _))), true) = (all.last_mut(), rest > 0) {
            (*code, *count) = (OTHER.into(), *count + rest);
        }
        let summary = |code, count| ErrorSummary { code, count, ..Default::default() };
        all.into_iter().map(|(code, (count, index))| (summary(code, count), index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_codes_are_kept_and_nothing_is_lost() {
        let mut tally = Tally::default();
        for index in 0..200 {
            tally.add(format!("code-{}", index % 60), index);
        }
        for index in 200..300 {
            tally.add("often".into(), index);
        }
        let most = tally.most();
        assert_eq!(most.len(), KEPT);
        assert_eq!(most.iter().map(|(e, _)| e.count).sum::<i64>(), 300);
        assert!(most.iter().any(|(e, _)| e.code == OTHER));
    }
}
