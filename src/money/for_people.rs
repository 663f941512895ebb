//! Tokens and cost as people read them.

use super::Usd;
use crate::api::{CostStatus, TokenUsage};

/// Returns tokens of input and output, such as `1.2M + 400k tokens`. Those of embeddings are input.
pub fn tokens(usage: &TokenUsage) -> String {
    let input = compact(usage.input_tokens.saturating_add(usage.embedding_tokens));
    match usage.output_tokens {
        0 => format!("{input} tokens"),
        output => format!("{input} + {} tokens", compact(output)),
    }
}

/// Returns the actual cost, the estimate and the savings, such as `$3.12 (estimated $7.40, saved $3.12)`; None if the actual cost is
/// not known.
pub fn cost(cost: &CostStatus) -> Option<String> {
    let actual = amount(cost.actual_usd.as_deref())?;
    let saved = amount(cost.saved_usd.as_deref()).filter(|saved| *saved != Usd::ZERO);
    let others = [("estimated", amount(cost.estimated_usd.as_deref())), ("saved", saved)];
    let others: Vec<String> = others.into_iter().filter_map(|(what, usd)| Some(format!("{what} {}", usd?))).collect();
    Some(if others.is_empty() { actual.to_string() } else { format!("{actual} ({})", others.join(", ")) })
}

/// Reads an amount of status; None if there is none.
pub fn amount(written: Option<&str>) -> Option<Usd> {
    Usd::parse(written?).ok()
}

/// Returns a count with at most three digits, such as `999`, `1.2k`, `400k` or `12M`, rounded half up.
fn compact(count: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")];
    // What rounds to a thousand of a unit is one of the next.
    let unit = UNITS.iter().find(|(unit, _)| count >= *unit - *unit / 2_000);
    let Some((unit, letter)) = unit.filter(|_| count >= 1_000) else { return count.to_string() };
    let rounded = |times: i128| (i128::from(count) * times + i128::from(*unit) / 2) / i128::from(*unit);
    match rounded(10) {
        tenths if tenths < 100 && tenths % 10 > 0 => format!("{}.{}{letter}", tenths / 10, tenths % 10),
        _ => format!("{}{letter}", rounded(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_three_digits_at_most() {
        for (count, shown) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1k"),
            (1_249, "1.2k"),
            (1_250, "1.3k"),
            (9_949, "9.9k"),
            (9_950, "10k"),
            (12_345, "12k"),
            (399_500, "400k"),
            (999_499, "999k"),
            (999_500, "1M"),
            (1_234_567, "1.2M"),
            (45_000_000, "45M"),
            (2_000_000_000, "2B"),
            (i64::MAX, "9223372T"),
        ] {
            assert_eq!(compact(count), shown, "{count}");
        }
    }

    #[test]
    fn tokens_and_cost_fit_into_a_line() {
        let usage = TokenUsage { input_tokens: 1_200_000, output_tokens: 400_000, ..TokenUsage::default() };
        assert_eq!(tokens(&usage), "1.2M + 400k tokens");
        let embedded = TokenUsage { embedding_tokens: 1_200, ..TokenUsage::default() };
        assert_eq!(tokens(&embedded), "1.2k tokens");
        let written = |text: &str| Some(text.to_string());
        let whole = CostStatus { actual_usd: written("3.124"), saved_usd: written("3.12"), ..CostStatus::default() };
        assert_eq!(cost(&whole).as_deref(), Some("$3.12 (saved $3.12)"));
        let estimated = CostStatus { estimated_usd: written("7.4"), ..whole.clone() };
        assert_eq!(cost(&estimated).as_deref(), Some("$3.12 (estimated $7.40, saved $3.12)"));
        let alone = CostStatus { saved_usd: written("0.00"), ..whole };
        assert_eq!(cost(&alone).as_deref(), Some("$3.12"));
        assert_eq!(cost(&CostStatus::default()), None);
    }
}
