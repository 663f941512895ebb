//! Tokens and cost as people read them.

use crate::api::TokenUsage;

/// Returns tokens of input and output, such as `1.2M + 400k tokens`. Those of embeddings are input.
pub fn tokens(usage: &TokenUsage) -> String {
    let input = compact(usage.input_tokens.saturating_add(usage.embedding_tokens));
    match usage.output_tokens {
        0 => format!("{input} tokens"),
        output => format!("{input} + {} tokens", compact(output)),
    }
}

fn compact(count: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")];
    let unit = UNITS.iter().find(|(unit, _)| count >= *unit - *unit / 2_000);
    let Some((unit, letter)) = unit.filter(|_| count >= 1_000) else { return count.to_string() };
    let tenths = (i128::from(count) * 10 + i128::from(*unit) / 2) / i128::from(*unit);
    match (tenths / 10, tenths % 10) {
        (whole, 1..) if whole < 10 => format!("{whole}.{}{letter}", tenths % 10),
        _ => format!("{}{letter}", (tenths + 5) / 10),
    }
}
