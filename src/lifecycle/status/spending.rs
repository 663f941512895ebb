//! Tokens, kinds of answers and cost in status.

use crate::api::text::clip;
use crate::api::{AnswerCounts, BatchJobStatus, CostStatus, Display, Spending, TokenUsage};
use crate::money::{Usd, for_people};

/// Maximum number of models in status.
const MODELS: usize = 16;
/// Maximum length of a model's name, in bytes.
const NAME_LIMIT: usize = 253;
/// Maximum length of the origin of prices, in bytes.
const ORIGIN_LIMIT: usize = 1_200;
/// The largest count that status shows, which keeps its size bounded.
const COUNT_LIMIT: i64 = 1_000_000_000_000_000;

/// What the cost in status is that of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CostOf {
    /// A job that runs, so far.
    Running,
    /// A job that ended.
    Ended,
    /// The job whose results were reused: nothing was paid again.
    Earlier,
}

/// Puts what a job used and cost into status. Journal and manifest are the user's to write, so that values are bounded here.
pub(super) fn show(status: &mut BatchJobStatus, spending: Spending, of: CostOf) {
    let Spending { usage, answers, cost } = spending;
    status.usage = usage.map(|usage| {
        let mut usage = usage.with_at_most(MODELS);
        bound(&mut usage.tokens);
        for model in &mut usage.models {
            bound(&mut model.tokens);
            model.name = clip(std::mem::take(&mut model.name), NAME_LIMIT);
        }
        usage
    });
    status.answers = Some(bounded(answers)).filter(|answers| !answers.is_zero());
    status.cost = cost.map(checked);
    let cost = status.cost.clone().unwrap_or_default();
    let display = status.display.get_or_insert_with(Display::default);
    display.cost = shown(&cost, None, of);
    display.saved = match of {
        CostOf::Earlier => String::new(),
        _ => for_people::amount(cost.saved_usd.as_deref()).map(|saved| saved.to_string()).unwrap_or_default(),
    };
    display.suspect = suspect(status.answers.unwrap_or_default());
}

/// Returns the cost that status says was expected of the batches, and their cost at most.
pub(super) fn expected(status: &BatchJobStatus) -> (Option<Usd>, Option<Usd>) {
    let amount = |of: fn(&CostStatus) -> Option<&str>| for_people::amount(status.cost.as_ref().and_then(of));
    (amount(|cost| cost.estimated_usd.as_deref()), amount(|cost| cost.ceiling_usd.as_deref()))
}

/// Puts the cost that is expected of the batches, and their cost at most, into status.
pub(super) fn expect(status: &mut BatchJobStatus, (estimated, ceiling): (Option<Usd>, Option<Usd>), of: CostOf) {
    if estimated.is_none() && ceiling.is_none() {
        return;
    }
    let cost = status.cost.get_or_insert_default();
    (cost.estimated_usd, cost.ceiling_usd) = (estimated.map(Usd::rounded), ceiling.map(Usd::rounded));
    status.display.get_or_insert_default().cost = shown(cost, estimated, of);
}

/// Returns the text of the column COST; empty if nothing is known.
fn shown(cost: &CostStatus, estimated: Option<Usd>, of: CostOf) -> String {
    let actual = for_people::amount(cost.actual_usd.as_deref());
    match (of, actual, estimated) {
        (CostOf::Running, Some(actual), Some(estimated)) => format!("{actual} of ~{estimated}"),
        (CostOf::Running, None, Some(estimated)) => format!("~{estimated}"),
        (CostOf::Earlier, Some(actual), _) => format!("{} (was {actual})", Usd::ZERO),
        (_, Some(actual), _) => actual.to_string(),
        (_, None, _) => String::new(),
    }
}

/// Returns the text of the column SUSPECT: the kinds of answers that may not be what was asked for, the most frequent first.
fn suspect(AnswerCounts { empty, refused, truncated, filtered }: AnswerCounts) -> String {
    let mut kinds = [(truncated, "truncated"), (empty, "empty"), (refused, "refused"), (filtered, "filtered")];
    kinds.sort_by_key(|(count, _)| -count);
    let told: Vec<String> =
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}")).collect();
    told.join(", ")
}

/// Returns the cost without amounts that cannot be read.
fn checked(cost: CostStatus) -> CostStatus {
    let amount = |written: Option<String>| for_people::amount(written.as_deref()).map(Usd::rounded);
    CostStatus {
        actual_usd: amount(cost.actual_usd),
        real_time_usd: amount(cost.real_time_usd),
        saved_usd: amount(cost.saved_usd),
        unconfirmed_usd: amount(cost.unconfirmed_usd),
        prices_from: cost.prices_from.map(|from| clip(from, ORIGIN_LIMIT)),
        ..CostStatus::default()
    }
}

fn bound(tokens: &mut TokenUsage) {
    for count in [
        &mut tokens.input_tokens,
        &mut tokens.cached_input_tokens,
        &mut tokens.output_tokens,
        &mut tokens.reasoning_tokens,
        &mut tokens.embedding_tokens,
        &mut tokens.answers_without_usage,
    ] {
        *count = (*count).clamp(0, COUNT_LIMIT);
    }
}

fn bounded(AnswerCounts { empty, refused, truncated, filtered }: AnswerCounts) -> AnswerCounts {
    let [empty, refused, truncated, filtered] =
        [empty, refused, truncated, filtered].map(|count| count.clamp(0, COUNT_LIMIT));
    AnswerCounts { empty, refused, truncated, filtered }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_shown_with_what_is_expected_while_a_job_runs_and_alone_at_its_end() {
        let usd = |amount| Usd::parse(amount).ok();
        let cost = |amount: &str| CostStatus { actual_usd: Some(amount.into()), ..CostStatus::default() };
        for (cost, estimated, of, text) in [
            (cost("3.12"), usd("7.4"), CostOf::Running, "$3.12 of ~$7.40"),
            (cost("3.12"), None, CostOf::Running, "$3.12"),
            (CostStatus::default(), usd("7.4"), CostOf::Running, "~$7.40"),
            (cost("7.38"), usd("7.4"), CostOf::Ended, "$7.38"),
            (cost("7.38"), None, CostOf::Earlier, "$0.00 (was $7.38)"),
            (CostStatus::default(), None, CostOf::Running, ""),
            (CostStatus::default(), usd("7.4"), CostOf::Ended, ""),
            (CostStatus::default(), usd("7.4"), CostOf::Earlier, ""),
        ] {
            assert_eq!(shown(&cost, estimated, of), text, "{cost:?} {estimated:?} {of:?}");
        }
    }

    #[test]
    fn suspect_answers_are_named_by_kind_the_most_frequent_first() {
        let answers = AnswerCounts { empty: 3, truncated: 12, ..AnswerCounts::default() };
        assert_eq!(suspect(answers), "12 truncated, 3 empty");
        assert_eq!(suspect(AnswerCounts::default()), "");
    }
}
