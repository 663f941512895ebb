//! Kinds of answers that succeeded and may not be what was asked for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::AnswerCounts;

/// A kind of answers that succeeded and may not be what was asked for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnswerKind {
    /// Answers without any content.
    Empty,
    /// Answers in which the model refused.
    Refused,
    /// Answers that were cut at a limit of tokens.
    Truncated,
    /// Answers that a content filter cut or withheld.
    Filtered,
}

impl AnswerKind {
    /// All kinds.
    pub const ALL: [AnswerKind; 4] =
        [AnswerKind::Empty, AnswerKind::Refused, AnswerKind::Truncated, AnswerKind::Filtered];

    fn bit(self) -> usize {
        1 << self as usize
    }
}

impl AnswerCounts {
    /// Returns the number of answers of a kind.
    pub fn of(&self, kind: AnswerKind) -> i64 {
        match kind {
            AnswerKind::Empty => self.empty,
            AnswerKind::Refused => self.refused,
            AnswerKind::Truncated => self.truncated,
            AnswerKind::Filtered => self.filtered,
        }
    }
}

/// Numbers of answers of several kinds, by their exact kinds: a reasoning model whose tokens ran out gives an answer that is both
/// empty and truncated. They tell how many answers are of one kind or another. Part of the journal, as an object with a
/// sum of 1 (empty), 2 (refused), 4 (truncated) and 8 (filtered) as keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MixedAnswers([i64; 16]);

impl MixedAnswers {
    /// Returns whether there are none.
    pub fn is_zero(&self) -> bool {
        *self == MixedAnswers::default()
    }

    /// Counts one answer, if it is of several kinds.
    pub fn add(&mut self, answer: &AnswerCounts) {
        let kinds: usize = AnswerKind::ALL.into_iter().filter(|kind| answer.of(*kind) > 0).map(AnswerKind::bit).sum();
        if kinds.count_ones() > 1 {
            self.0[kinds] = self.0[kinds].saturating_add(1);
        }
    }

    /// Returns how many of the answers in `counts`, which these are among, are of any of `kinds`.
    pub fn any_of(&self, counts: &AnswerCounts, kinds: &[AnswerKind]) -> i64 {
        let wanted = kinds.iter().fold(0, |wanted, kind| wanted | kind.bit());
        let is_wanted = |kind: &AnswerKind| wanted & kind.bit() != 0;
        let sum = AnswerKind::ALL.iter().filter(|kind| is_wanted(kind)).map(|kind| counts.of(*kind));
        let sum = sum.fold(0, i64::saturating_add);
        let twice = |(kinds, count): (usize, &i64)| {
            i64::from((kinds & wanted).count_ones().saturating_sub(1)).saturating_mul(*count)
        };
        self.0.iter().enumerate().map(twice).fold(sum, i64::saturating_sub)
    }

    /// Returns the numbers.
    pub fn counts(&self) -> impl Iterator<Item = i64> {
        self.0.into_iter()
    }
}

impl std::ops::AddAssign for MixedAnswers {
    fn add_assign(&mut self, MixedAnswers(more): MixedAnswers) {
        for (sum, more) in self.0.iter_mut().zip(more) {
            *sum = sum.saturating_add(more);
        }
    }
}

impl Serialize for MixedAnswers {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().enumerate().filter(|(_, count)| **count != 0))
    }
}

impl<'de> Deserialize<'de> for MixedAnswers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut mixed = MixedAnswers::default();
        // Within a tagged enum, keys are texts and no numbers.
        for (kinds, count) in BTreeMap::<String, i64>::deserialize(from)? {
            let of_kinds = kinds.parse().ok().and_then(|kinds: usize| mixed.0.get_mut(kinds));
            *of_kinds.ok_or_else(|| D::Error::custom("unknown kinds of answers"))? = count;
        }
        Ok(mixed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer() -> impl Strategy<Value = AnswerCounts> {
        prop::array::uniform4(0..2i64).prop_map(|[empty, refused, truncated, filtered]| AnswerCounts {
            empty,
            refused,
            truncated,
            filtered,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

        #[test]
        fn an_answer_of_several_kinds_counts_once(
            answers in prop::collection::vec(answer(), 0..40),
            kinds in prop::sample::subsequence(AnswerKind::ALL.to_vec(), 0..=4),
        ) {
            let (mut counts, mut mixed) = (AnswerCounts::default(), MixedAnswers::default());
            // As two batches have them.
            let (first, second) = answers.split_at(answers.len() / 2);
            for of_batch in [first, second] {
                let mut of_this = MixedAnswers::default();
                for answer in of_batch {
                    counts += *answer;
                    of_this.add(answer);
                }
                mixed += serde_json::from_str(&serde_json::to_string(&of_this).unwrap()).unwrap();
            }
            let wanted = answers.iter().filter(|answer| kinds.iter().any(|kind| answer.of(*kind) > 0)).count();
            prop_assert_eq!(mixed.any_of(&counts, &kinds), wanted as i64);
        }
    }

    #[test]
    fn kinds_that_do_not_exist_are_not_read() {
        assert!(serde_json::from_str::<MixedAnswers>(r#"{"16":1}"#).is_err());
        assert_eq!(serde_json::to_string(&MixedAnswers::default()).unwrap(), "{}");
    }
}
