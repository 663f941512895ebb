//! The price list that the models of a provider object or of a table make.

use std::collections::HashSet;

use super::table::entry_path;
use super::{LongContextPrices, PriceList, Prices, Rates, TokenLimits, Usd};
use crate::api::{ModelPrices, ProviderModel, TokenPrices};

/// Largest limit of tokens.
const MOST_TOKENS: i64 = 1_000_000_000;

impl PriceList {
    /// Makes a list of `models`, which `field` names. Batches have `discount` percent off the prices of single calls where a model
    /// says nothing else.
    ///
    /// # Errors
    /// The first fault, with its entry, its field and the remedy.
    pub fn of_models(from: String, field: &str, models: &[ProviderModel], discount: i32) -> Result<PriceList, String> {
        let mut list = PriceList { from, ..PriceList::default() };
        let mut names = HashSet::new();
        for (index, model) in models.iter().enumerate() {
            let path = entry_path(field, index, &model.name);
            let fault = |why: &str| Err(format!("{path} {why}"));
            if !is_name(&model.name) {
                return fault(
                    "has a `name` that no model has: at most 253 characters, without spaces, `*` only at its end",
                );
            }
            if !names.insert(&model.name) {
                return fault("has the name of an earlier entry; remove one of the two");
            }
            if let Some(prices) = &model.prices {
                let prices = prices_of(prices, model.batch_discount_percent, discount);
                list.models.push((model.name.clone(), prices.map_err(|why| format!("{path}: {why}"))?));
            } else if model.batch_discount_percent.is_some() {
                return fault("has `batchDiscountPercent` and no `prices`; set these too, or remove it");
            }
            let limits =
                TokenLimits { max_input_tokens: model.max_input_tokens, max_output_tokens: model.max_output_tokens };
            for (name, limit) in
                [("maxInputTokens", limits.max_input_tokens), ("maxOutputTokens", limits.max_output_tokens)]
            {
                if limit.is_some_and(|limit| !(1..=MOST_TOKENS).contains(&limit)) {
                    return Err(format!("{path}: `{name}` is out of range; write a number from 1 to {MOST_TOKENS}"));
                }
            }
            if limits != TokenLimits::default() {
                list.limits.push((model.name.clone(), limits));
            } else if model.prices.is_none() && model.max_enqueued_tokens.is_none() {
                return fault("needs `prices`, `maxInputTokens` or `maxOutputTokens`");
            }
        }
        Ok(list)
    }
}

/// Returns whether requests can have the name, or begin with it if it ends in `*`.
fn is_name(name: &str) -> bool {
    let start = name.strip_suffix('*').unwrap_or(name);
    (1..=253).contains(&name.chars().count()) && !start.contains(|c: char| c == '*' || c.is_whitespace())
}

fn prices_of(prices: &ModelPrices, own_discount: Option<i32>, usual_discount: i32) -> Result<Prices, String> {
    if own_discount.is_some() && prices.batch.is_some() {
        return Err("`batchDiscountPercent` and `prices.batch` both say what batches cost; remove one of them".into());
    }
    let discount = own_discount.unwrap_or(usual_discount);
    if !(0..=100).contains(&discount) {
        return Err(format!("`batchDiscountPercent` is {discount}; write a number from 0 to 100"));
    }
    let long_context = match &prices.long_context {
        None => None,
        Some(long) if long.batch.is_some() != prices.batch.is_some() => {
            return Err("`batch` is needed both in `prices` and in `prices.longContext`, or in neither".into());
        }
        Some(long) if !(1..=MOST_TOKENS).contains(&long.above_input_tokens) => {
            return Err(format!(
                "`prices.longContext.aboveInputTokens` is {}; write a number from 1 to {MOST_TOKENS}",
                long.above_input_tokens
            ));
        }
        Some(long) => {
            let (batch, real_time) = both(&long.real_time, long.batch.as_ref(), discount, "prices.longContext")?;
            Some(LongContextPrices { above_input_tokens: long.above_input_tokens, batch, real_time })
        }
    };
    let (batch, real_time) = both(&prices.real_time, prices.batch.as_ref(), discount, "prices")?;
    Ok(Prices { batch, real_time, long_context })
}

/// Returns the prices of batches and of single calls.
fn both(
    real_time: &TokenPrices,
    batch: Option<&TokenPrices>,
    discount: i32,
    path: &str,
) -> Result<(Rates, Rates), String> {
    let real_time = rates(real_time, path)?;
    let less = |price: Usd| price.less_percent(i64::from(discount));
    let batch = match batch {
        Some(batch) => rates(batch, &format!("{path}.batch"))?,
        None => Rates {
            input: less(real_time.input),
            cached_input: less(real_time.cached_input),
            output: less(real_time.output),
        },
    };
    Ok((batch, real_time))
}

fn rates(prices: &TokenPrices, path: &str) -> Result<Rates, String> {
    let TokenPrices { input, cached_input, output } = prices;
    let amount = |field: &str, text: &str| {
        let digits = |part: &str| (1..=6).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let (whole, rest) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
        let price = Usd::parse(text).ok().filter(|_| digits(whole) && rest.is_none_or(digits));
        price.ok_or_else(|| {
            let text: String = text.chars().filter(|c| !c.is_control()).take(40).collect();
            format!(
                "`{path}.{field}` is '{text}'; write USD for a million tokens, such as '0.25', with at most six digits before and six \
                 behind the point"
            )
        })
    };
    let input = amount("inputUSDPerMillion", input)?;
    let cached_input = cached_input.as_deref().map(|text| amount("cachedInputUSDPerMillion", text)).transpose()?;
    Ok(Rates { input, cached_input: cached_input.unwrap_or(input), output: amount("outputUSDPerMillion", output)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::PriceTable;

    fn list(models: &str, discount: i32) -> Result<PriceList, String> {
        PriceList::of_models("t".into(), "models", &PriceTable::read(models)?.models, discount)
    }

    fn rates(input: &str, cached_input: &str, output: &str) -> Rates {
        let [input, cached_input, output] = [input, cached_input, output].map(|amount| Usd::parse(amount).unwrap());
        Rates { input, cached_input, output }
    }

    #[test]
    fn prices_of_batches_are_given_or_follow_from_the_discount_and_cached_tokens_cost_as_others_unless_it_says_so() {
        let table = r#"
version: '2026-11-30'
models:
  - name: plain
    prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '4.5'}
  - name: cached
    prices: {inputUSDPerMillion: '1', cachedInputUSDPerMillion: '0.1', outputUSDPerMillion: '4'}
    batchDiscountPercent: 20
  - name: given*
    prices:
      inputUSDPerMillion: '1'
      outputUSDPerMillion: '4'
      batch: {inputUSDPerMillion: '0.7', outputUSDPerMillion: '3'}
      longContext:
        aboveInputTokens: 272000
        inputUSDPerMillion: '2'
        outputUSDPerMillion: '6'
        batch: {inputUSDPerMillion: '1.4', outputUSDPerMillion: '4.5'}
    maxInputTokens: 400000
  - name: limits
    maxOutputTokens: 128000
"#;
        let list = list(table, 50).unwrap();
        let batch = |model| list.of(model).map(|prices| prices.batch);
        assert_eq!(batch("plain"), Some(rates("0.5", "0.5", "2.25")));
        assert_eq!(batch("cached"), Some(rates("0.8", "0.08", "3.2")));
        assert_eq!(batch("given-1"), Some(rates("0.7", "0.7", "3")));
        assert_eq!(list.of("given-1").unwrap().real_time, rates("1", "1", "4"));
        let long = list.of("given-1").unwrap().long_context.unwrap();
        assert_eq!(
            (long.above_input_tokens, long.batch, long.real_time),
            (272_000, rates("1.4", "1.4", "4.5"), rates("2", "2", "6"))
        );
        assert_eq!(batch("limits"), None);
        assert_eq!(
            (list.limits_of("given-1").max_input_tokens, list.limits_of("limits").max_output_tokens),
            (Some(400_000), Some(128_000))
        );
        assert_eq!(super::tests::list(table, 0).unwrap().of("plain").unwrap().batch, rates("1", "1", "4.5"));
    }

    /// The research that the example is made of has prices of batches for these.
    #[test]
    fn the_table_of_the_examples_is_read_and_has_the_batch_prices_of_its_sources() {
        let example: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(include_str!("../../examples/prices.yaml")).unwrap();
        let list = list(example[0]["data"]["prices.yaml"].as_str().unwrap(), 50).unwrap();
        for (model, input, output) in [
            ("gpt-6.1-terra", "0.50", "2.50"),
            ("gpt-5.6-terra", "1.00", "6.00"),
            ("gpt-5-nano", "0.025", "0.20"),
            ("gpt-4o-mini", "0.075", "0.30"),
            ("o4-mini", "0.55", "2.20"),
        ] {
            assert_eq!(list.of(model).unwrap().batch, rates(input, input, output), "{model}");
        }
    }

    #[test]
    fn each_fault_of_a_table_is_told_with_its_entry_its_field_and_its_remedy() {
        let good = "- {name: good, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2'}}";
        let long = "x".repeat(300);
        let entries = [
            "- {prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2'}}",
            "- {name: 5, maxInputTokens: 1}",
            "- a model",
            "- {name: m}",
            "- {name: good, maxInputTokens: 1}",
            "- {name: m, maxInputToken: 1}",
            "- {name: m, maxInputTokens: many}",
            "- {name: m, maxInputTokens: 0}",
            "- {name: m, maxOutputTokens: 1.5}",
            "- {name: 'a*b', maxInputTokens: 1}",
            "- {name: 'a b', maxInputTokens: 1}",
            &format!("- {{name: {long}, maxInputTokens: 1}}"),
            "- {name: m, batchDiscountPercent: 50}",
            "- {name: m, prices: }",
            "- {name: m, prices: {inputUSDPerMillion: '1'}}",
            "- {name: m, prices: {inputUSDPerMillion: 0.25, outputUSDPerMillion: '2'}}",
            "- {name: m, prices: {inputUSDPerMillion: '$1', outputUSDPerMillion: '2'}}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '1.1234567'}}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '1234567'}}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2', cachedInputUSDPerMillion: '.5'}}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2'}, batchDiscountPercent: 101}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2', batch: {inputUSDPerMillion: '1', outputUSDPerMillion: '2'}}, batchDiscountPercent: 1}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2', batch: {inputUSDPerMillion: '1'}}}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2', longContext: {inputUSDPerMillion: '1', outputUSDPerMillion: '2'}}}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2', longContext: {aboveInputTokens: 0, inputUSDPerMillion: '1', outputUSDPerMillion: '2'}}}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2', longContext: {aboveInputTokens: 1, inputUSDPerMillion: '1', outputUSDPerMillion: 'x'}}}",
            "- {name: m, prices: {inputUSDPerMillion: '1', outputUSDPerMillion: '2', longContext: {aboveInputTokens: 1, inputUSDPerMillion: '1', outputUSDPerMillion: '2', batch: {inputUSDPerMillion: '1', outputUSDPerMillion: '2'}}}}",
        ];
        let told = entries.map(|entry| list(&format!("models:\n{good}\n{entry}\n"), 50).expect_err(entry));
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn a_table_that_is_none_or_is_out_of_bounds_says_so() {
        let many: String = (0..513).map(|n| format!("- {{name: m{n}, maxInputTokens: 1}}\n")).collect();
        let deep = format!("models: {}{}", "[".repeat(50), "]".repeat(50));
        let bomb =
            format!("a: &a [{}]\nb: &b [{}]\nmodels: [{}]", "x, ".repeat(100), "*a, ".repeat(100), "*b, ".repeat(100));
        let tables = [
            "",
            "models",
            "[]",
            "version: '1'",
            "models: {}",
            "model: []",
            "version: 2026\nmodels: []",
            "version: ''\nmodels: []",
            "models: []\nmodels: []",
            "models: []\n---\nmodels: []",
            "models: [",
            &deep,
            &bomb,
            &format!("models:\n{many}"),
        ];
        let told = tables.map(|table| list(table, 50).expect_err(table));
        insta::assert_snapshot!(told.join("\n"));
        let large = format!("# {}\nmodels: []", "x".repeat(1 << 20));
        assert!(list(&large, 50).unwrap_err().contains("1048576"));
        let full: String = (0..512).map(|n| format!("- {{name: m{n}, maxInputTokens: 1}}\n")).collect();
        assert_eq!(list(&format!("models:\n{full}"), 50).unwrap().limits.len(), 512);
        assert_eq!(
            list(r#"{"models": [], "version": "1"}"#, 50),
            Ok(PriceList { from: "t".into(), ..PriceList::default() })
        );
    }
}
