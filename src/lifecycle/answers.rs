//! Answers of a person to the questions of a job, in one annotation.

use std::collections::BTreeMap;

/// Answers a person gave: the value of the annotation `llmbatch.dev/resolve`.
///
/// `ID=ANSWER` answers one question; several are separated by commas or spaces. `lost-*=ANSWER` answers every question of the
/// kind `lost` that is open when it is read, and none that is asked later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Answers {
    by_id: BTreeMap<String, String>,
    by_kind: BTreeMap<String, String>,
    unreadable: Vec<String>,
}

impl Answers {
    /// Reads the annotation's value. A word that cannot be read answers nothing, nor do two different answers to one question.
    pub fn parse(text: &str) -> Answers {
        let mut answers = Answers::default();
        let mut twice = vec![];
        for word in words(text) {
            let Some((id, answer)) = word.split_once('=').filter(|(id, answer)| !id.is_empty() && !answer.is_empty())
            else {
                answers.unreadable.push(word);
                continue;
            };
            let (of, name) = answers.named(id);
            if of.get(name).is_some_and(|earlier| earlier != answer) {
                twice.push((id.to_string(), word.clone()));
            } else {
                of.insert(name.into(), answer.into());
            }
        }
        for (id, word) in twice {
            let (of, name) = answers.named(&id);
            of.remove(name);
            answers.unreadable.push(word);
        }
        answers
    }

    /// Returns the answers among which those to `id` are, and the name of the question or kind there.
    fn named<'a>(&mut self, id: &'a str) -> (&mut BTreeMap<String, String>, &'a str) {
        match id.strip_suffix("-*") {
            Some(kind) if !kind.is_empty() => (&mut self.by_kind, kind),
            _ => (&mut self.by_id, id),
        }
    }

    /// Returns the answer to one question, as if it was read.
    pub fn one(id: &str, answer: &str) -> Answers {
        Answers { by_id: [(id.into(), answer.into())].into(), ..Default::default() }
    }

    /// Returns the answer that names this very question.
    pub fn to(&self, id: &str) -> Option<&str> {
        self.by_id.get(id).map(String::as_str)
    }

    /// Returns the answer to all open questions of a kind, such as `lost`.
    pub fn to_kind(&self, kind: &str) -> Option<&str> {
        self.by_kind.get(kind).map(String::as_str)
    }

    /// Returns the answers to kinds as one text, so that each set of them is applied once; None if there are none.
    pub fn name_of_kinds(&self) -> Option<String> {
        let words = self.by_kind.iter().map(|(kind, answer)| format!("{kind}-*={answer}"));
        (!self.by_kind.is_empty()).then(|| words.collect::<Vec<_>>().join(","))
    }

    /// Returns the ids and kinds that are answered, as they were written, with their answers.
    pub fn ids(&self) -> impl Iterator<Item = (String, &str)> {
        let of_ids = self.by_id.iter().map(|(id, answer)| (id.clone(), answer.as_str()));
        of_ids.chain(self.by_kind.iter().map(|(kind, answer)| (format!("{kind}-*"), answer.as_str())))
    }

    /// Returns the words that are no answer, or that contradict another one.
    pub fn unreadable(&self) -> &[String] {
        &self.unreadable
    }
}

/// Splits a text into words at commas and spaces; spaces around `=` do not split.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![];
    for some in text.split(',') {
        let mut joins = false;
        for (i, part) in some.split_whitespace().enumerate() {
            match words.last_mut().filter(|_| i > 0 && (joins || part.starts_with('='))) {
                Some(last) => last.push_str(part),
                None => words.push(part.into()),
            }
            joins = part.ends_with('=');
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_answers_stand_apart_by_commas_or_spaces() {
        for text in [
            "lost-1=resend,unknown-2=adopt:b=7",
            " lost-1 = resend\n unknown-2=adopt:b=7 ",
            "lost-1=resend , unknown-2= adopt:b=7,",
        ] {
            let answers = Answers::parse(text);
            assert_eq!((answers.to("lost-1"), answers.to("unknown-2")), (Some("resend"), Some("adopt:b=7")), "{text}");
            assert!(answers.unreadable().is_empty() && answers.name_of_kinds().is_none(), "{answers:?}");
        }
        assert_eq!(Answers::parse(""), Answers::default());
    }

    #[test]
    fn a_kind_is_answered_as_a_whole_and_is_no_id() {
        let answers = Answers::parse("lost-*=resend,lost-1=lost");
        assert_eq!(
            (answers.to_kind("lost"), answers.to("lost-1"), answers.to("lost-2")),
            (Some("resend"), Some("lost"), None)
        );
        assert_eq!(answers.name_of_kinds().as_deref(), Some("lost-*=resend"));
        assert_eq!(Answers::parse("-*=resend").to_kind(""), None);
    }

    #[test]
    fn what_cannot_be_read_or_says_two_things_answers_nothing_and_is_named() {
        let answers = Answers::parse("lost-1 resend,lost-2=,=lost,lost-3=lost,lost-3=resend,lost-*=lost,lost-*=resend");
        assert_eq!(answers.ids().count(), 0, "{answers:?}");
        assert_eq!(answers.unreadable(), ["lost-1", "resend", "lost-2=", "=lost", "lost-3=resend", "lost-*=resend"]);
        // An id that is the name of a kind, or ends like several, is no answer to the kind.
        for (text, left) in [("lost=a,lost=b,lost-*=c", "lost-*"), ("lost-*-*=a,lost-*-*=b,lost-*=c", "lost-*")] {
            let answers = Answers::parse(text);
            assert_eq!(answers.ids().collect::<Vec<_>>(), [(left.to_string(), "c")], "{text}");
        }
    }
}
