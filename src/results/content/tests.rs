//! Bodies of each endpoint: the kinds of their answers, and what their requests used.

use serde_json::{Value, json};

use super::super::ending::RequestEnd;
use super::super::line::{LineOutcome, ProviderLine};
use crate::api::{AnswerCounts, TokenUsage};

fn end_of(row: &str) -> RequestEnd {
    serde_json::from_str::<ProviderLine>(row).unwrap().end()
}

fn row(status: u16, body: &str) -> String {
    format!(r#"{{"custom_id":"a","response":{{"status_code":{status},"body":{body}}},"error":null}}"#)
}

/// The kinds of an answer with this body: empty, refused, truncated, filtered.
fn kinds(body: &str) -> [i64; 4] {
    let end = end_of(&row(200, body));
    assert_eq!(end.outcome, LineOutcome::Succeeded, "{body}");
    let AnswerCounts { empty, refused, truncated, filtered } = end.answers;
    [empty, refused, truncated, filtered]
}

fn message(message: Value, finish_reason: &str) -> Value {
    json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason})
}

fn chat(content: impl Into<Value>, finish_reason: &str) -> Value {
    message(json!({"role": "assistant", "content": content.into(), "refusal": null}), finish_reason)
}

const PLAIN: [i64; 4] = [0, 0, 0, 0];
const EMPTY: [i64; 4] = [1, 0, 0, 0];
const REFUSED: [i64; 4] = [0, 1, 0, 0];
const TRUNCATED: [i64; 4] = [0, 0, 1, 0];
const FILTERED: [i64; 4] = [0, 0, 0, 1];

#[test]
fn choices_that_are_no_answers_are_told_apart() {
    let said = chat("yes", "stop");
    for (what, choices, wanted) in [
        ("an answer", json!([said]), PLAIN),
        ("an answer that begins with white space", json!([chat("\n\n\u{2003}é", "stop")]), PLAIN),
        ("no choice", json!([]), EMPTY),
        ("an empty text", json!([chat("", "stop")]), EMPTY),
        ("white space", json!([chat(" \n\t\u{a0}\r\n", "stop")]), EMPTY),
        ("null", json!([chat(Value::Null, "stop")]), EMPTY),
        ("no content", json!([message(json!({"role": "assistant"}), "stop")]), EMPTY),
        ("no message", json!([{"index": 0}]), EMPTY),
        ("reasoning alone", json!([message(json!({"content": null, "reasoning_content": "so"}), "stop")]), EMPTY),
        (
            "a call of a tool",
            json!([message(json!({"content": null, "tool_calls": [{"id": "c"}]}), "tool_calls")]),
            PLAIN,
        ),
        ("no calls of tools", json!([message(json!({"content": null, "tool_calls": []}), "stop")]), EMPTY),
        (
            "a call of a function",
            json!([message(json!({"content": null, "function_call": {"name": "f"}}), "stop")]),
            PLAIN,
        ),
        ("audio", json!([message(json!({"content": null, "audio": {"id": "a"}}), "stop")]), PLAIN),
        ("a refusal", json!([message(json!({"content": null, "refusal": "no"}), "stop")]), REFUSED),
        ("a refusal by its reason", json!([chat("I cannot", "refusal")]), REFUSED),
        ("a refusal as a part", json!([chat(json!([{"type": "refusal", "refusal": "no"}]), "stop")]), REFUSED),
        ("a part of text", json!([chat(json!([{"type": "text", "text": "yes"}]), "stop")]), PLAIN),
        ("a text in a list", json!([chat(json!(["yes"]), "stop")]), PLAIN),
        ("a part of blank text", json!([chat(json!([{"type": "text", "text": " "}]), "stop")]), EMPTY),
        ("an image as a part", json!([chat(json!([{"type": "image_url", "image_url": {}}]), "stop")]), PLAIN),
        ("a part of reasoning alone", json!([chat(json!([{"type": "thinking", "thinking": [{}]}]), "stop")]), EMPTY),
        ("no parts", json!([chat(json!([]), "stop")]), EMPTY),
        ("a cut at a limit", json!([chat("ye", "length")]), TRUNCATED),
        ("a cut at Mistral's limit", json!([chat("ye", "model_length")]), TRUNCATED),
        ("a filtered answer", json!([chat("ye", "content_filter")]), FILTERED),
        ("an answer that a filter withheld", json!([chat(Value::Null, "content_filter")]), [1, 0, 0, 1]),
        ("a limit that reasoning took up", json!([chat("", "length")]), [1, 0, 1, 0]),
        ("one of two choices empty", json!([said, chat("", "stop")]), PLAIN),
        ("both choices empty", json!([chat("", "stop"), chat("", "stop")]), EMPTY),
        ("one of two choices truncated", json!([said, chat("ye", "length")]), TRUNCATED),
        (
            "choices of all kinds",
            json!([said, chat("ye", "length"), chat("", "content_filter"), message(json!({"refusal": "no"}), "stop")]),
            [0, 1, 1, 1],
        ),
        ("a completion", json!([{"text": "yes", "finish_reason": "stop"}]), PLAIN),
        ("an empty completion", json!([{"text": "", "finish_reason": "length"}]), [1, 0, 1, 0]),
        ("choices of another shape", json!({"0": said}), PLAIN),
        ("choices that are text", json!("yes"), PLAIN),
    ] {
        assert_eq!(kinds(&json!({"object": "x", "id": "y", "choices": choices}).to_string()), wanted, "{what}");
    }
}

#[test]
fn output_that_is_no_answer_is_told_apart() {
    let text = |text: &str| json!({"type": "message", "content": [{"type": "output_text", "text": text}]});
    let refusal = json!({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]});
    let reasoning = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]});
    for (what, output, reason, wanted) in [
        ("an answer", json!([reasoning, text("yes")]), json!(null), PLAIN),
        ("a call of a tool", json!([{"type": "function_call", "name": "f"}]), json!(null), PLAIN),
        ("blank text", json!([text(" ")]), json!(null), EMPTY),
        ("reasoning alone", json!([reasoning]), json!(null), EMPTY),
        ("a refusal", json!([refusal]), json!(null), REFUSED),
        ("a cut at a limit", json!([text("ye")]), json!({"reason": "max_output_tokens"}), TRUNCATED),
        ("a cut before any text", json!([]), json!({"reason": "max_output_tokens"}), [1, 0, 1, 0]),
        ("a filtered answer", json!([text("ye")]), json!({"reason": "content_filter"}), FILTERED),
        ("details of another shape", json!([text("ye")]), json!("max_output_tokens"), PLAIN),
        ("content that is text", json!([{"type": "message", "content": "yes"}]), json!(null), PLAIN),
    ] {
        // Servers write the details before the output, and after it.
        for [first, last] in [["incomplete_details", "output"], ["output", "incomplete_details"]] {
            let value = |key: &str| if key == "output" { &output } else { &reason };
            let body = format!(r#"{{"object":"response","{first}":{},"{last}":{}}}"#, value(first), value(last));
            assert_eq!(kinds(&body), wanted, "{what}: {body}");
        }
    }
}

#[test]
fn answers_of_no_known_shape_are_of_no_kind() {
    for body in [
        r#"{"data":[{"embedding":[0.5]}],"object":"list"}"#,
        r#"{"results":[{"flagged":false}]}"#,
        r#"{"of":1}"#,
        r#"{"message":{"role":"assistant","content":""},"done":true}"#,
        "[[]]",
    ] {
        assert_eq!(kinds(body), PLAIN, "{body}");
    }
    let failed = end_of(&row(500, r#"{"choices":[]}"#));
    assert!(failed.answers.is_zero(), "failed requests are counted as such");
}

/// JSON that the reader of content cannot hold is an answer all the same.
#[test]
fn content_that_cannot_be_read_is_an_answer_with_its_usage() {
    let usage = r#""usage":{"prompt_tokens":7,"completion_tokens":3}"#;
    for choices in [
        r#""choices":"\ud83d""#,
        r#""choices":[1e999]"#,
        r#""choices":["\ud83d"]"#,
        r#""choices":[{"message":"\ud83d"}]"#,
        r#""choices":[{"\ud83d":1}]"#,
        r#""choices":[{"message":{"content":"\ud83d"}}]"#,
        r#""choices":[{"message":{"content":["\ud83d"]}}]"#,
        r#""output":[{"content":1e999}]"#,
        r#""incomplete_details":"\ud83d","choices":[{}]"#,
    ] {
        let body = format!("{{{choices},{usage}}}");
        for body in [body.clone(), Value::from(body).to_string()] {
            let end = end_of(&row(200, &body));
            assert_eq!(
                (end.outcome, end.tokens.input_tokens, end.tokens.output_tokens),
                (LineOutcome::Succeeded, 7, 3),
                "{body}"
            );
        }
    }
}

/// The tokens of a line, or 1 for one that should state them and does not.
fn used(row: &str) -> TokenUsage {
    end_of(row).tokens
}

#[test]
fn each_endpoint_tells_its_tokens() {
    let text = TokenUsage { input_tokens: 7, output_tokens: 3, ..Default::default() };
    let embedded = TokenUsage { embedding_tokens: 7, ..Default::default() };
    let unknown = TokenUsage { answers_without_usage: 1, ..Default::default() };
    let of_chat = json!({"choices": [chat("x", "stop")], "usage": {"prompt_tokens": 7, "completion_tokens": 3}});
    for (what, status, body, wanted) in [
        ("chat", 200, of_chat.clone(), text),
        ("chat, as the text of JSON", 200, of_chat.to_string().into(), text),
        ("a response", 200, json!({"usage": {"input_tokens": 7, "output_tokens": 3}, "output": [{}]}), text),
        ("embeddings", 200, json!({"data": [{}], "usage": {"prompt_tokens": 7, "total_tokens": 7}}), embedded),
        (
            "embeddings, usage first",
            200,
            json!({"usage": {"total_tokens": 7, "prompt_tokens": 7}, "data": [{}]}),
            embedded,
        ),
        (
            "an answer of no known shape",
            200,
            json!({"of": 1, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}),
            text,
        ),
        (
            "a failure that was billed",
            500,
            json!({"error": {"code": "x"}, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}),
            text,
        ),
        ("no usage", 200, json!({"choices": [{}]}), unknown),
        ("usage of null", 200, json!({"choices": [{}], "usage": null}), unknown),
        (
            "absurd usage",
            200,
            json!({"choices": [{}], "usage": {"prompt_tokens": 1e12, "completion_tokens": 3}}),
            unknown,
        ),
        (
            "negative usage",
            200,
            json!({"choices": [{}], "usage": {"prompt_tokens": -7, "completion_tokens": 3}}),
            unknown,
        ),
        ("embeddings without usage", 200, json!({"data": [{}]}), unknown),
        ("a failure with an answer and no usage", 500, json!({"choices": [{}]}), unknown),
        ("a failure with unusable usage", 400, json!({"error": {"code": "x"}, "usage": "some"}), unknown),
        ("a refusal, which is not executed", 400, json!({"error": {"code": "x"}}), TokenUsage::default()),
        (
            "an overload, which is not executed",
            503,
            json!({"error": {"code": "x"}, "usage": null}),
            TokenUsage::default(),
        ),
        ("a moderation, which is free", 200, json!({"results": [{}]}), TokenUsage::default()),
    ] {
        assert_eq!(used(&row(status, &body.to_string())), wanted, "{what}");
    }
    for code in ["batch_expired", "batch_cancelled"] {
        let row = format!(r#"{{"custom_id":"a","response":null,"error":{{"code":"{code}"}}}}"#);
        assert!(used(&row).is_zero(), "{code}: it was not executed");
    }
}
