//! Usage of tokens that is absurd, odd or lacking: no sum is negative or larger than the requests can have used.

use batchjob_operator::api::{AnswerCounts, BatchUsage, MOST_TOKENS, TokenUsage};
use batchjob_operator::results::CollectedPart;
use proptest::prelude::*;

use super::lines::part_of;
use super::lines::support::REQUESTS;

/// An answer to request `index` with this usage.
fn answer(index: usize, usage: &str) -> String {
    let body = format!(r#"{{"choices":[{{"message":{{"content":"x"}}}}],"usage":{usage}}}"#);
    format!(
        "{{\"custom_id\":\"r{index}-01234567\",\"response\":{{\"status_code\":200,\"body\":{body}}},\"error\":null}}\n"
    )
}

/// The part of answers with these usages.
async fn part(usages: [&str; REQUESTS]) -> CollectedPart {
    let file: String = usages.iter().enumerate().map(|(index, usage)| answer(index, usage)).collect();
    part_of(vec![file.into_bytes()], false, "").await.0
}

const SOUND: &str = r#"{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}"#;

#[tokio::test]
async fn absurd_counts_are_no_usage_and_leave_the_others_as_they_are() {
    for absurd in [
        "null".into(),
        "{}".into(),
        "[]".into(),
        "7".into(),
        r#""{\"prompt_tokens\":7,\"completion_tokens\":3}""#.into(),
        SOUND.replace('7', "-7"),
        SOUND.replace('7', "9223372036854775807"),
        SOUND.replace('7', "99999999999999999999999999"),
        SOUND.replace('7', "1e999"),
        SOUND.replace('7', "100000001"),
        SOUND.replace('7', "[[[[7]]]]"),
        SOUND.replace('7', "\"\\ud83d\""),
        SOUND.replace("\"prompt_tokens\"", "\"\\ud83d\""),
        SOUND.replace('7', &format!("{}7{}", "[".repeat(50_000), "]".repeat(50_000))),
        SOUND.replace("\"total_tokens\"", "\"prompt_tokens\""),
    ] {
        let part = part([SOUND, &absurd, SOUND, SOUND]).await;
        let wanted = TokenUsage { input_tokens: 21, output_tokens: 9, answers_without_usage: 1, ..Default::default() };
        assert_eq!((part.counts.succeeded, part.usage.tokens), (4, wanted), "{absurd:.100}");
        assert_eq!(part.usage.tokens, part.succeeded, "{absurd:.100}");
    }
    let most = SOUND.replace('7', &MOST_TOKENS.to_string()).replace(":3", &format!(":{MOST_TOKENS}"));
    let part = part([&most; REQUESTS]).await;
    assert_eq!(part.usage.tokens.input_tokens, REQUESTS as i64 * MOST_TOKENS, "the largest that is believed");
}

#[tokio::test]
async fn answers_that_cannot_be_read_count_as_answers_without_usage() {
    let (cut, other) = (answer(0, SOUND), answer(1, SOUND));
    let file = format!("{}\n{other}<html>\n", &cut[..40]);
    let used = async |may_be_unreadable| {
        let (part, _) = part_of(vec![file.clone().into_bytes()], may_be_unreadable, "").await;
        assert_eq!((part.usage.tokens.input_tokens, part.succeeded.answers_without_usage), (7, 0));
        part.usage.tokens.answers_without_usage
    };
    assert_eq!(used(false).await, 1, "that of the line that names its request");
    assert_eq!(used(true).await, 3, "and those of requests whose lines may be the unreadable one");
}

/// Any JSON whatever, of the kinds that usage is made of.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| serde_json::json!(n).to_string()),
        (0..300_000_000_i64).prop_map(|n| format!("\"{n}\"")),
        (0..100_i64).prop_map(|n| format!("{n}.0")),
        Just("null".to_string()),
        Just("true".to_string()),
        ".{0,4}".prop_map(|text| serde_json::json!(text).to_string()),
    ];
    let keys = [
        "prompt_tokens",
        "completion_tokens",
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "cached_tokens",
        "reasoning_tokens",
    ];
    leaf.prop_recursive(3, 16, 6, move |inner| {
        let pair = (prop::sample::select(keys.to_vec()), inner.clone());
        let object = prop::collection::vec(pair, 0..6).prop_map(|pairs| {
            let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", pairs.join(","))
        });
        prop_oneof![4 => object, 1 => prop::collection::vec(inner, 0..3).prop_map(|list| format!("[{}]", list.join(",")))]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_usage_says_the_sums_are_what_the_requests_can_have_used(usages in prop::array::uniform4(any_json())) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let part = runtime.block_on(part([&usages[0], &usages[1], &usages[2], &usages[3]]));
        prop_assert_eq!(part.counts.succeeded, REQUESTS as i64, "no usage makes an answer a failure");
        let BatchUsage { tokens, long_context, answers, mixed_answers: _, repeated_rows } = part.usage;
        prop_assert_eq!((long_context, answers, repeated_rows), (TokenUsage::default(), AnswerCounts::default(), 0));
        prop_assert_eq!(part.succeeded, tokens);
        let most = REQUESTS as i64 * MOST_TOKENS;
        prop_assert!((0..=most).contains(&tokens.input_tokens) && (0..=2 * most).contains(&tokens.output_tokens));
        prop_assert!((0..=tokens.input_tokens).contains(&tokens.cached_input_tokens));
        prop_assert!((0..=tokens.output_tokens).contains(&tokens.reasoning_tokens));
        prop_assert!((0..=REQUESTS as i64).contains(&tokens.answers_without_usage));
    }
}
