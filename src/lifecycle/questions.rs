//! Questions to a person, in words: what is asked, how it is answered, and what of an answer was not understood.

use std::collections::BTreeMap;

use super::journal::Owner;
use super::observed::Observed;
use super::resolve::ID_TO_FILL_IN;
use crate::api::text::clip;
use crate::api::{Hold, annotations};

/// Parts of an annotation that are named as not understood.
const NAMED: usize = 5;
/// Questions that `status.holds` has room for.
pub(super) const SHOWN: usize = 8;

/// The first question with a command to copy for each answer, how the others are answered, and what of the annotation was not
/// understood; None where nothing is asked.
pub(super) fn asked(o: &Observed, holds: &[Hold]) -> Option<String> {
    let first = holds.first()?;
    let Owner { namespace, name, .. } = &o.job.owner;
    let annotate = format!("kubectl -n {namespace} annotate --overwrite bjob {name} ");
    let key = annotations::RESOLVE;
    let commands: Vec<String> = first.answers.iter().map(|answer| format!("`{annotate}{key}={answer}`")).collect();
    let mut asked = format!("{}. Answer with {}", first.message, commands.join(" or "));
    if holds.len() > 1 {
        let n = holds.len();
        let of_kinds: Vec<String> = kinds(holds).iter().map(|answer| format!("`{annotate}'{key}={answer}'`")).collect();
        let shown = if n > SHOWN { format!(", and `status.holds` has the first {SHOWN}") } else { String::new() };
        asked += &format!(". {n} questions are open{shown}: one annotation may hold several answers, apart by commas");
        if !of_kinds.is_empty() {
            asked += &format!("; all that are open now are answered with {}", of_kinds.join(" or "));
        }
    }
    if let Some(misunderstood) = misunderstood(o, holds) {
        asked += &format!(". The annotation `{key}` has what answers nothing: {misunderstood}");
    }
    Some(asked)
}

/// Answers to all open questions of a kind, of kinds that have several.
fn kinds(holds: &[Hold]) -> Vec<String> {
    let mut kinds: BTreeMap<&str, (usize, &Hold)> = BTreeMap::new();
    for hold in holds {
        let kind = hold.id.split_once('-').map_or("", |(kind, _)| kind);
        kinds.entry(kind).or_insert((0, hold)).0 += 1;
    }
    let several = kinds.into_iter().filter(|(_, (count, _))| *count > 1);
    let answers = several.flat_map(|(kind, (_, hold))| {
        let answers = hold.answers.iter().filter_map(|answer| answer.split_once('='));
        answers
            .filter(|(_, answer)| !answer.contains(ID_TO_FILL_IN))
            .map(move |(_, answer)| format!("{kind}-*={answer}"))
    });
    answers.collect()
}

/// Words that are no answers, ids that nothing is asked under, and answers that a question does not have.
fn misunderstood(o: &Observed, holds: &[Hold]) -> Option<String> {
    let answers = &o.job.answers;
    let mut told: Vec<String> =
        answers.unreadable().iter().map(|word| format!("'{}' is not ID=ANSWER", short(word))).collect();
    let heard = o.journal.and_then(|j| j.heard.as_ref()).map(|heard| heard.said.as_str());
    let again = heard.is_some_and(|heard| Some(heard) == answers.name_of_kinds().as_deref());
    for (id, answer) in answers.ids() {
        let kind = id.strip_suffix('*');
        let of = |hold: &&Hold| kind.map_or(hold.id == id, |kind| hold.id.starts_with(kind));
        let word = format!("'{}={}'", short(&id), short(answer));
        match holds.iter().find(of) {
            None => told.push(format!("{word}: no open question has this id")),
            Some(hold) if !hold.takes(answer) || (kind.is_some() && answer.contains(':')) => {
                let has: Vec<&str> = hold.answers.iter().filter_map(|a| Some(a.split_once('=')?.1)).collect();
                told.push(format!("{word}: the answers are {}", has.join(", ")));
            }
            Some(_) if kind.is_some() && again => told.push(format!(
                "{word} counted for what was open when it was read; take the annotation away and set it again, or answer by id"
            )),
            Some(_) => {}
        }
    }
    let more = told.len().saturating_sub(NAMED);
    told.truncate(NAMED);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    (!told.is_empty()).then(|| told.join("; "))
}

fn short(word: &str) -> String {
    clip(word.into(), 64)
}
