//! Questions to a person: their words, their answers, and the answers that were not understood.

use std::collections::{BTreeMap, BTreeSet};

use super::attempt::Attempt;
use super::findings::PolledState;
use super::journal::{Journal, Owner, RecordedAnswers};
use super::observed::Observed;
use super::resolve::ID_TO_FILL_IN;
use super::step::Step;
use super::submission::attempts;
use crate::api::text::clip;
use crate::api::{Hold, annotations};

/// Maximum number of parts of an annotation that are named as not understood.
const NAMED: usize = 5;
/// Maximum number of questions in `status.holds`.
pub(super) const SHOWN: usize = 8;

/// Returns the first question with a command to copy for each answer, the way to answer the others, and the parts of the
/// annotation that were not understood; None if nothing is asked.
pub(super) fn asked(o: &Observed, holds: &[Hold]) -> Option<String> {
    let first = holds.first()?;
    let Owner { namespace, name, .. } = &o.job.owner;
    let annotate = format!("kubectl -n {namespace} annotate --overwrite bjob {name} ");
    let key = first.annotation.as_deref().unwrap_or(annotations::RESOLVE);
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
        asked += &format!(". The annotation `{}` has what answers nothing: {misunderstood}", annotations::RESOLVE);
    }
    Some(asked)
}

/// Returns the answers to all open questions of a kind, for kinds that have several.
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

/// Describes words that are no answers, ids without a question, and answers that a question does not have.
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

pub(super) fn hold_id(kind: &str, attempt: &Attempt) -> String {
    format!("{kind}-{}", attempt.intent_id.get(..8).unwrap_or(&attempt.intent_id))
}

/// Returns a person's answer to this very question, or to all questions of its kind while it was open.
pub(super) fn said<'a>(o: &'a Observed, journal: &'a Journal, id: &str) -> Option<&'a str> {
    let to_all = || journal.heard.as_ref()?.to.get(id).map(String::as_str);
    o.job.answers.to(id).or_else(to_all)
}

/// Returns the step that records a person's answer to all questions of a kind, for each that is open. A batch that is sent
/// again because of it, and lost again, is asked about again.
pub(super) fn hear(o: &Observed, journal: &Journal, holds: &[Hold]) -> Option<Step> {
    let heard = journal.heard.clone().unwrap_or_default();
    let said = o.job.answers.name_of_kinds().unwrap_or_default();
    if said == heard.said || holds.is_empty() {
        return None;
    }
    let answer = |hold: &Hold| {
        let (kind, _) = hold.id.split_once('-')?;
        let answer = o.job.answers.to_kind(kind)?;
        hold.takes(answer).then(|| (hold.id.clone(), answer.to_string()))
    };
    let new: Vec<_> = holds.iter().filter_map(answer).collect();
    // Answers that are withdrawn can be given again.
    if new.is_empty() && !said.is_empty() {
        return None;
    }
    let open: BTreeSet<String> =
        attempts(journal).flat_map(|(_, a)| ["lost", "unknown"].map(|kind| hold_id(kind, a))).collect();
    let to = heard.to.into_iter().filter(|(id, _)| open.contains(id)).chain(new).collect();
    Some(Step::Swap(journal.next(|j| j.heard = Some(RecordedAnswers { said, to }))))
}

impl Hold {
    /// Returns whether this is one of its answers, with the placeholder filled in.
    pub(super) fn takes(&self, answer: &str) -> bool {
        let blank = |one: &str| one.split_once(ID_TO_FILL_IN).map(|(before, _)| before.to_string());
        let fits = |one: &str| match blank(one) {
            Some(before) => answer.strip_prefix(&before).is_some_and(|id| !id.is_empty() && id != ID_TO_FILL_IN),
            None => answer == one,
        };
        self.answers.iter().filter_map(|a| a.strip_prefix(&self.id)?.strip_prefix('=')).any(fits)
    }
}

/// Explains why the answers of a recorded batch cannot be had, and how a person may answer.
pub(super) fn why_lost(seen: &PolledState, batch_id: &str) -> String {
    match seen {
        PolledState::NotOurs => format!(
            "batch {batch_id} carries nothing that says that it belongs to this job, so it is not touched; give its \
             answers up ('lost'), or, if no batch of this job runs, have its requests sent, and paid, again ('resend')"
        ),
        PolledState::Unnamed { why, .. } => format!(
            "batch {batch_id} ended, and its answers cannot be fetched: {why}; the batch is looked at again; or give its \
             answers up ('lost'), or have its requests sent, and paid, again ('resend')"
        ),
        PolledState::Gone { .. } => format!(
            "batch {batch_id} ended and the provider no longer has the answers that it names; if they come back they are \
             fetched; or give them up ('lost'), or have its requests sent, and paid, again ('resend')"
        ),
        _ => format!(
            "the provider does not know batch {batch_id} under this credential; put back the credential of the account \
             that it runs in; or give its answers up ('lost'); or, if it does not exist, have its requests sent, and \
             paid, again ('resend')"
        ),
    }
}

fn short(word: &str) -> String {
    clip(word.into(), 64)
}
