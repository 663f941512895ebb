//! Lines of all kinds, and the requests that they are assigned to.

use bytes::Bytes;
use futures::StreamExt;

use super::super::collect::download;
use super::*;
use crate::api::AnswerKind;
use crate::store::staged;

const WORK: &str = "0123456789abcdef";

async fn scanned(text: &str, asked: &[i64]) -> (File, ScanResult) {
    let mut raw = staged::scratch(&std::env::temp_dir()).unwrap();
    let file = futures::stream::iter([Ok(Bytes::from(text.to_string()))]).boxed();
    let ends = download(&mut raw, &mut Default::default(), vec![file]).await.unwrap();
    let scanned = scan(&mut raw, &ends, WORK, asked, Some(100), &std::env::temp_dir()).await.unwrap();
    (raw, scanned)
}

fn answer(index: i64) -> String {
    format!(r#"{{"custom_id":"r{index}-01234567","response":{{"status_code":200,"body":{{"n":1}}}}}}"#)
}

#[tokio::test]
async fn an_answer_that_is_too_long_to_be_read_has_failed_and_is_not_missing() {
    let long = |head: &str| format!("{{{head}\"x\":\"{}\"}}\n", "x".repeat(LINE_LIMIT));
    let text = [answer(0) + "\n", long(r#""custom_id" : "r2-01234567","#), long("")].concat();
    let (_, scanned) = scanned(&text, &[0, 1, 2]).await;
    assert_eq!((scanned.unreadable, scanned.unanswered), (1, vec![1]));
    let ends: Vec<_> = scanned.places.iter().map(|p| (p.index, p.ended)).collect();
    assert_eq!(ends, [(0, LineOutcome::Succeeded), (2, LineOutcome::Failed)]);
    assert!(matches!(scanned.places[1].kind, LineKind::TooLong(size) if size > LINE_LIMIT as u64));
}

#[tokio::test]
async fn lines_are_found_where_they_are_whoever_they_are_of() {
    let text = [
        answer(2) + "\r\n",
        "\n<html>\n".into(),
        "{\"custom_id\":\"r0-01234567\",\"error\":{\"code\":\"batch_expired\"}}\n".into(),
        answer(0) + "\n" + &answer(1).replace("01234567", "ffffffff") + "\n" + &answer(9) + "\n",
        "{\"custom_id\":\"r1-01234567\",\"resp".into(),
    ];
    let (mut raw, scanned) = scanned(&text.concat(), &[0, 1, 2]).await;
    let ends: Vec<_> = scanned.places.iter().map(|p| (p.index, p.ended)).collect();
    assert_eq!(ends, [(0, LineOutcome::Expired), (1, LineOutcome::Failed), (2, LineOutcome::Succeeded)]);
    assert_eq!((scanned.foreign, scanned.usage.repeated_rows, scanned.unreadable, scanned.cut_off), (2, 1, 1, 1));
    for place in &scanned.places {
        let line = read(&mut raw, place.offset, place.len.into()).await.unwrap();
        assert!(line.starts_with(b"{\"custom_id\"") && line.len() == place.len as usize);
    }
}

#[tokio::test]
async fn each_request_counts_once_and_long_prompts_apart() {
    let answer = |index: usize, input: i64| {
        let usage = format!(r#"{{"prompt_tokens":{input},"completion_tokens":1}}"#);
        answer(index as i64).replace(r#""n":1"#, &format!(r#""choices":[],"usage":{usage}"#)) + "\n"
    };
    let failed = answer(3, 50).replace("200", "500");
    let text = [
        // The readable line is the one that counts.
        "{'custom_id': 'r0-01234567'}\n".into(),
        answer(0, 100),
        answer(1, 101),
        answer(1, 7_000),
        "{'custom_id': 'r2-01234567'}\n".into(),
        failed,
        answer(9, 9_000),
    ];
    let (_, scanned) = scanned(&text.concat(), &[0, 1, 2, 3, 4]).await;
    let tokens = |input_tokens, output_tokens, answers_without_usage| TokenUsage {
        input_tokens,
        output_tokens,
        answers_without_usage,
        ..Default::default()
    };
    assert_eq!((scanned.foreign, scanned.usage.repeated_rows, scanned.unanswered), (1, 1, vec![4]));
    assert_eq!(scanned.usage.tokens, tokens(251, 3, 1));
    assert_eq!(scanned.usage.long_context, tokens(101, 1, 0));
    assert_eq!(scanned.succeeded, tokens(201, 2, 0));
    assert_eq!(scanned.usage.answers.empty, 2, "of answers that succeeded");
}

/// A reasoning model whose tokens ran out.
#[tokio::test]
async fn an_answer_that_is_empty_and_truncated_is_one_answer_of_either_kind() {
    let cut = r#""choices":[{"finish_reason":"length","message":{"role":"assistant","content":""}}]"#;
    let text: String = (0..3).map(|index| answer(index).replace(r#""n":1"#, cut) + "\n").collect();
    let (_, ScanResult { usage, .. }) = scanned(&text, &[0, 1, 2]).await;
    assert_eq!((usage.answers.empty, usage.answers.truncated), (3, 3));
    let kinds = [AnswerKind::Empty, AnswerKind::Truncated];
    assert_eq!(usage.mixed_answers.any_of(&usage.answers, &kinds), 3);
}

#[tokio::test]
async fn an_answer_that_can_be_read_wins_over_one_that_cannot() {
    let broken = "{'custom_id': 'r0-01234567'}\n";
    for text in [format!("{broken}{}\n", answer(0)), format!("{}\n{broken}", answer(0))] {
        let (_, scanned) = scanned(&text, &[0]).await;
        assert_eq!(
            (scanned.places[0].ended, scanned.places[0].kind),
            (LineOutcome::Succeeded, LineKind::Plain),
            "{text}"
        );
    }
}
