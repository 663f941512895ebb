use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

use super::super::variable::ValueSource;
use super::*;
use crate::api::{RequestTemplate, Written};

fn template(body: &str) -> Template {
    let template = format!(r#"{{"customID": "a", "body": {body}}}"#);
    Template::parse(&serde_json::from_str::<RequestTemplate>(&template).unwrap(), ValueSource::Rows).unwrap()
}

fn defaults(json: &str) -> Defaults {
    Defaults::of_field(&Written { field: "requestDefaultsJSON", json }).unwrap()
}

fn shape() -> Shape {
    let defaults = defaults(r#"{"max_tokens": 5, "temperature": 0}"#);
    Shape::new("/v1/chat/completions", "https://llm.test/v1", Some("m"), defaults, vec!["m".into()])
}

/// A shape without defaults and without a model.
fn bare() -> Shape {
    Shape::new("/v1/chat/completions", "https://llm.test/v1", None, Defaults::default(), vec![])
}

fn with(defaults_: &str) -> Shape {
    Shape::new("/v1/chat/completions", "https://llm.test/v1", Some("m"), defaults(defaults_), vec![])
}

fn body(shape: &Shape, body: &str) -> Result<Request<'static>, String> {
    let line = format!(r#"{{"custom_id": "a", "body": {body}}}"#);
    shape.line(line.as_bytes(), InputFormat::Requests).map(Request::into_owned)
}

fn check(line: &str) -> Result<Request<'_>, String> {
    shape().line(line.as_bytes(), InputFormat::OpenAIBatch)
}

#[test]
fn a_line_of_many_small_values_is_read_within_bounds() {
    let line = |input: String| format!("{{\"custom_id\": \"a\", \"body\": {{\"model\": \"m\", \"input\": {input}}}}}");
    let list = |of: &str, n: usize| format!("[{}0]", format!("{of},").repeat(n));
    for text in [list("{\"\":0}", 1 << 18), list("[]", 1 << 18), list("1", 1 << 18), list("\"{[\\\",\"", 1 << 18)] {
        let line = line(text.clone());
        let request = bare().line(line.as_bytes(), InputFormat::Requests).unwrap();
        assert!(request.body.contains(&text), "it is sent as it is");
    }
    let keys: String = (0..500_001).map(|i| format!("\"{i:x}\":0,")).collect();
    let refused = bare().line(line(format!("{{{keys}\"\":0}}")).as_bytes(), InputFormat::Requests).unwrap_err();
    assert!(refused.contains("500,000 keys"), "{refused}");
}

#[test]
fn keys_are_keys_whatever_they_are_called() {
    let template = template(r#"{"model": "m", "x": "$(row.x)"}"#);
    let bomb = format!("[{}0]", "{\\\"\\\":0},".repeat(1 << 18));
    for content in ["1", "\"[1]\"", &format!("\"{bomb}\"")] {
        let marked = format!(r#"{{"$serde_json::private::RawValue":{content}}}"#);
        let body = format!(r#"{{"model": "m", "x": {marked}}}"#);
        let line = format!(r#"{{"custom_id": "a", "more": 1, "body": {body}}}"#);
        let as_line = bare().line(line.as_bytes(), InputFormat::Requests).unwrap();
        assert_eq!(as_line.body, body);
        let as_row = bare().row_line(format!(r#"{{"x": {marked}}}"#).as_bytes(), &template).unwrap();
        assert_eq!((&*as_row.body, as_row.hash), (body.as_str(), as_line.hash));
        let id = format!(r#"{{"custom_id": {marked}, "body": {{}}}}"#);
        let refused = bare().line(id.as_bytes(), InputFormat::Requests).unwrap_err();
        assert!(refused.contains("not a string"), "{refused}");
    }
}

/// Case 17-schema-key-order: the order of a schema's fields is the order in which a model writes them.
#[test]
fn a_body_is_sent_as_it_is_written() {
    let schema = r#"{ "messages": [], "response_format" : {"type":"json_schema", "json_schema": {"schema": {"properties": {"reasoning": {"type": "string"}, "label": {"enum": ["b", "a"]}, "confidence": {}}}}}, "model": "m", "price": [19.90, 1e3, 1.0, 12345678901234567890123, -0], "text": "\u00e9\/\u2028é" }"#;
    assert_eq!(body(&bare(), schema).unwrap().body, schema);
    let line = format!(r#"{{"body":{schema} , "custom_id": "a"}}"#);
    assert_eq!(bare().line(line.as_bytes(), InputFormat::Auto).unwrap().body, schema);
    let added = format!("{},\"z\":[1.0],\"a\":{{}} }}", schema.strip_suffix(" }").unwrap());
    assert_eq!(
        body(&with(r#"{"z":[1.0],"a":{}}"#), schema).unwrap().body,
        added,
        "defaults come after, in their order"
    );
    let broken = "{\"model\" :\r \"m\\\" \\\\\",\t\"x\": [1, \" \"] }";
    assert_eq!(body(&bare(), broken).unwrap().body, r#"{"model":"m\" \\","x":[1," "]}"#, "a line has no break in it");
}

#[test]
fn defaults_go_under_the_body_and_the_model_is_filled_in() {
    let line =
        r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"max_tokens":9,"messages":[]}}"#;
    let request = check(line).unwrap();
    assert_eq!(request.body, r#"{"max_tokens":9,"messages":[],"temperature":0,"model":"m"}"#);
    for (defaults, written, sent) in [
        ("{}", "{}", r#"{"model":"m"}"#),
        ("{}", "{ }", r#"{"model":"m" }"#),
        (r#"{"model": "d"}"#, "{}", r#"{"model":"d"}"#),
        (r#"{"model": null}"#, "{}", r#"{"model":"m"}"#),
        (r#"{"model": "d"}"#, r#"{"mod\u0065l": "x"}"#, r#"{"mod\u0065l": "x"}"#),
        (r#"{"a": {"x": 1}}"#, r#"{"a": {"y": 2}}"#, r#"{"a": {"y": 2},"model":"m"}"#),
        ("{\n  \"a\": [1,\n 2]\n}", "{}", r#"{"a":[1,2],"model":"m"}"#),
        (r#"{"\u0061\"": 1.50}"#, r#"{"n":7}"#, r#"{"n":7,"a\"":1.50,"model":"m"}"#),
    ] {
        assert_eq!(body(&with(defaults), written).unwrap().body, sent, "{defaults} under {written}");
    }
}

/// Case 04-stream-null: clients that serialize a whole request object write null for each field that is not set.
#[test]
fn null_is_absent_where_vendors_document_it_as_unset() {
    for (written, sent) in [
        (
            r#"{"messages": [], "stream": null, "stop": null, "temperature": null, "tools": null}"#,
            r#"{"messages": [],"temperature":0.2,"model":"m"}"#,
        ),
        (
            r#"{"stream": null, "temperature": null, "messages": []}"#,
            r#"{"temperature": 0.2, "messages": [],"model":"m"}"#,
        ),
        (r#"{"model": null, "stream": null}"#, r#"{"model": "m","temperature":0.2}"#),
        (r#"{ "stop": null }"#, r#"{"temperature":0.2,"model":"m" }"#),
        (
            r#"{"mine": null, "messages": [{"content": null, "tool_calls": null}], "temperature": 1}"#,
            r#"{"mine": null, "messages": [{"content": null, "tool_calls": null}], "temperature": 1,"model":"m"}"#,
        ),
    ] {
        let shape = with(r#"{"stop": null, "temperature": 0.2, "stream": null}"#);
        // "temperature" takes the place of the body's null, or follows the body's own fields.
        let request = body(&shape, written).unwrap();
        let sent: Value = serde_json::from_str(sent).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&request.body).unwrap(), sent, "{written}: {}", request.body);
    }
    assert_eq!(
        body(&with("{}"), r#"{ "a": 1, "stop": null, "b": 2}"#).unwrap().body,
        r#"{ "a": 1, "b": 2,"model":"m"}"#
    );
    assert_eq!(
        body(&with("{}"), r#"{"stop": null , "model": null, "b": 2 }"#).unwrap().body,
        r#"{"model": "m", "b": 2 }"#
    );
    let known = |shape: &Shape, written: &str| body(shape, written).unwrap().hash;
    assert_eq!(known(&with("{}"), r#"{"stream": null, "model": null}"#), known(&with("{}"), r#"{"model": "m"}"#));
    let hash = r#"{"custom_id": "a", "body": {"model": "m", "temperature": null}}"#;
    let bare = bare().hashed_as(WorkHashVersion::V1);
    let hash = crate::api::text::hex(&bare.line(hash.as_bytes(), InputFormat::Auto).unwrap().hash);
    let as_ever = "5dcec54e7d2af675a6e05518e144d0f1b4ba7a2cb4575cc5a6d55388dbe9ca32";
    assert_eq!(hash, as_ever, "null was always sent, and a request is known as ever");
    let refused = body(&Shape { allowed_models: vec![], ..bare }, r#"{"model": null}"#).unwrap_err();
    assert!(refused.contains("names no `model`"), "{refused}");
}

/// Case 14-azure-lines, and other vendors' spellings.
#[test]
fn the_endpoint_is_known_with_and_without_version_and_base() {
    let at = |base: &str, method: &str, url: &str| {
        let shape = Shape::new("/v1/chat/completions", base, Some("m"), Defaults::default(), vec![]);
        let line = format!(r#"{{"custom_id": "a", "method": "{method}", "url": "{url}", "body": {{}}}}"#);
        shape.line(line.as_bytes(), InputFormat::OpenAIBatch).map(|request| request.body.into_owned())
    };
    let groq = "https://api.groq.com/openai/v1";
    for (base, method, url) in [
        (groq, "POST", "/v1/chat/completions"),
        (groq, "post", "/chat/completions"),
        (groq, "Post", "chat/completions"),
        (groq, "POST", "v1/chat/completions/"),
        (groq, "POST", "/openai/v1/chat/completions"),
        (groq, "POST", "/openai/chat/completions"),
        (groq, "POST", "https://api.groq.com/openai/v1/chat/completions"),
        ("http://10.0.0.1:8000/v1/", "POST", "http://10.0.0.1:8000/v1/chat/completions"),
        ("http://10.0.0.1:8000", "POST", "/v1/chat/completions"),
    ] {
        assert!(at(base, method, url).is_ok(), "{method} {url} at {base}: {:?}", at(base, method, url));
    }
    for (method, url, words) in [
        ("GET", "/v1/chat/completions", "`method`"),
        ("POST", "/v1/completions", "`url`"),
        ("POST", "/completions", "`url`"),
        ("POST", "/v2/chat/completions", "`url`"),
        ("POST", "/other/v1/chat/completions", "`url`"),
        ("POST", "https://elsewhere.test/v1/chat/completions", "`url`"),
        ("POST", "/xchat/completions", "`url`"),
        ("POST", "", "`url`"),
    ] {
        let refused = at(groq, method, url).unwrap_err();
        assert!(refused.contains(words), "{method} {url}: {refused}");
    }
}

/// The fields of an object as text: spaces, escapes, numbers and keys of every kind, some of them faulty.
fn fields_text() -> impl Strategy<Value = String> {
    let usual = vec!["a", "é", "😀", r#"\""#, r"\\", r"\n", r"\t"];
    let unusual = vec![r"\/", r"\u00e9", r"\ud83d\ude00", r"\u0000", r"\u001F", "\u{7f}"];
    let faulty = vec![r"\ud800", r"\x", "\u{1}"];
    let piece = prop_oneof![40 => select(usual), 20 => select(unusual), 1 => select(faulty)];
    let string = vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
    let number = prop_oneof![
        2 => "-?(0|[1-9][0-9]{0,20})",
        2 => "-?(0|[1-9][0-9]{0,3})\\.[0-9]{1,3}([eE][-+]?[0-9]{1,2})?",
        1 => "-?[0-9]{1,3}(\\.[0-9]{0,3})?([eE][-+]?[0-9]{0,3})?",
    ];
    let word = select(&["true", "false", "null", "{}", "[]"][..]).prop_map(String::from);
    let value = prop_oneof![3 => string, 2 => number, 1 => word].prop_recursive(4, 16, 4, |inner| {
        let list = vec((space(), inner.clone()), 0..4).prop_map(|all| {
            all.into_iter().map(|(space, value)| format!("{space}{value}{space}")).collect::<Vec<_>>().join(",")
        });
        prop_oneof![list.prop_map(|l| format!("[{l}]")), fields(inner).prop_map(|f| format!("{{{f}}}"))]
    });
    fields(value)
}

fn fields(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let keys = vec![r#""a""#, r#""b""#, r#""é""#, r#""""#, r#""max_tokens""#, r#""n""#, r#""aa""#];
    let odd = vec![r#""model""#, r#""stream""#, r#""\u0061""#];
    let key = prop_oneof![30 => select(keys), 1 => select(odd)];
    vec((space(), key, value), 0..4).prop_map(|all| {
        let field = |(space, key, value)| format!("{space}{key}{space}:{space}{value}{space}");
        all.into_iter().map(field).collect::<Vec<_>>().join(",")
    })
}

/// Returns whether a 64-bit float holds each number of a text exactly, in any reading.
fn is_exact(text: &str) -> bool {
    let is_digit = |b: &u8| b.is_ascii_digit() || *b == b'.';
    let long = text.as_bytes().windows(16).any(|window| window.iter().all(is_digit));
    let scaled = text.as_bytes().windows(2).any(|window| is_digit(&window[0]) && matches!(window[1], b'e' | b'E'));
    !long && !scaled
}

fn space() -> impl Strategy<Value = &'static str> {
    select(&["", "", "", " ", "\t\r\n "][..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

    /// Compares with `serde_json`: a body is JSON for both readers or for neither, is sent as it is written, and is
    /// known by the text that `serde_json` writes, as long as that loses nothing.
    #[test]
    fn a_body_is_known_by_its_content(
        fields in fields_text(), more in fields_text(), addressed in any::<bool>(), cut in proptest::option::of(0usize..200)
    ) {
        let mut body = format!("{{{fields}}}");
        if let Some(cut) = cut.filter(|at| *at < body.len() && body.is_char_boundary(*at)) {
            body.remove(cut);
        }
        let line = match addressed {
            true => format!(r#"{{"body": {body},"method":"POST","url":"/v1/chat/completions","custom_id":"b"}}"#),
            false => format!(r#"{{"custom_id":"a\t","body":{body}}}"#),
        };
        let read = Line::read(&line);
        let value = json::object(&body).map(Value::Object);
        match (&read, &value) {
            (Ok(Line { body: Body::Object(object), .. }), Ok(value)) => {
                prop_assert_eq!(object.written().trim(), body.trim());
                if is_exact(&body) {
                    prop_assert_eq!(object.known_by(), value.to_string());
                }
                let known = object.known_by();
                prop_assert_eq!(Object::read_and_spell(&known).unwrap().known_by(), known.as_str(), "{}", body);
            }
            (Ok(_), _) => prop_assert!(false, "read, and is none: {}", line),
            (Err(Fault::Twice), Ok(_)) => {}
            (Err(fault), Ok(_)) => prop_assert!(false, "{fault:?}: {}", line),
            (Err(_), Err(_)) => {}
        }
        let shape = with(&format!("{{{}}}", if Object::read(&format!("{{{more}}}")).is_ok() { &more } else { "" }));
        if let Ok(request) = shape.line(line.as_bytes(), InputFormat::Auto) {
            prop_assert!(Object::read(&request.body).is_ok(), "{} of {}", request.body, line);
            prop_assert!(!request.body.contains(['\n', '\r']));
        }
    }
}

#[test]
fn each_fault_has_its_own_words() {
    let with = |id: &str, method: &str, url: &str, body: &str| {
        format!(r#"{{"custom_id":{id},"method":{method},"url":{url},"body":{body}}}"#)
    };
    let (id, method, url) = (r#""a""#, r#""POST""#, r#""/v1/chat/completions""#);
    for (line, words) in [
        ("{".to_string(), "ends too early"),
        ("nonsense".into(), "not JSON"),
        ("[1]".into(), "not a JSON object"),
        (r#"{"method":"POST","url":"/v1/chat/completions","body":{}}"#.into(), "no `custom_id`"),
        (with("7", method, url, "{}"), "not a string"),
        (with(r#""""#, method, url, "{}"), "0 bytes"),
        (with(id, r#""GET""#, url, "{}"), "`method`"),
        (with(id, method, r#""/v1/embeddings""#, "{}"), "`url`"),
        (with(id, method, url, "[]"), "not an object"),
        (with(id, method, url, r#"{"stream":true}"#), "`stream`"),
        (with(id, method, url, r#"{"model":3}"#), "`model`"),
        (with(id, method, url, r#"{"model":"n"}"#), "allowed: m"),
        (with(id, method, url, &format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200))), "deep"),
    ] {
        let error = check(&line).unwrap_err();
        assert!(error.contains(words), "{line}: {error}");
    }
    assert!(shape().line(b"{\xff", InputFormat::Auto).unwrap_err().contains("not UTF-8 (byte 2)"));
    let twice = r#"{"custom_id":"a","custom_id":"b","body":{}}"#;
    assert!(shape().line(twice.as_bytes(), InputFormat::Auto).unwrap_err().contains("twice"));
    assert!(shape().line(b"\xff\xfe{\0", InputFormat::Auto).unwrap_err().contains("UTF-16"));
}

/// Case 05-lone-surrogate and its neighbours, in the body of a request and in a row, with the column of the line.
#[test]
fn what_is_not_json_is_named_at_its_column_of_the_line() {
    let template = template(r#"{"x": "$(row.x)"}"#);
    for (value, within, words) in [
        (r#""cut \ud83d""#, 5, r"is not JSON (half of a surrogate pair, `\ud83d`, at column {})"),
        ("\"a\0b\"", 2, "is not JSON (a NUL byte at column {})"),
        ("NaN", 0, "is not JSON (`NaN`, which JSON does not have, at column {})"),
        ("-Infinity", 0, "is not JSON (`-Infinity`, which JSON does not have, at column {})"),
        ("1e400", 0, "is not JSON (a number that is too large, `1e400`, at column {})"),
        ("'a'", 0, "is not JSON (a quote that JSON does not have, ', at column {})"),
        (r#"{"a": 1, "a": 2}"#, 9, "has the key `a` twice in one object, again at column {}; "),
    ] {
        let line = format!(r#"{{"custom_id": "é", "body": {{"x": {value}}}}}"#);
        let row = format!(r#"{{"id": "é", "x": {value}}}"#);
        for (text, refused) in [
            (&line, shape().line(line.as_bytes(), InputFormat::Auto)),
            (&row, shape().row_line(row.as_bytes(), &template)),
        ] {
            let column = text[..text.find(value).unwrap() + within].chars().count() + 1;
            let (refused, wanted) = (refused.unwrap_err(), words.replace("{}", &column.to_string()));
            assert!(refused.starts_with(&wanted), "{text}: {refused}");
        }
    }
    let twice = r#"{"custom_id": "a", "custom_id": "b"}"#;
    let refused = shape().line(twice.as_bytes(), InputFormat::Auto).unwrap_err();
    assert!(refused.starts_with("has the key `custom_id` twice in one object, again at column 20; "), "{refused}");
}

#[test]
fn lines_say_their_format_unless_the_job_does() {
    let bare = br#"{"custom_id":"a","body":{}}"#;
    let addressed = br#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}"#;
    let read = |line: &[u8], format| shape().line(line, format).map(|r| r.custom_id);
    assert_eq!(read(bare, InputFormat::Auto).unwrap(), "a");
    assert_eq!(read(bare, InputFormat::Requests).unwrap(), "a");
    assert!(read(bare, InputFormat::OpenAIBatch).unwrap_err().contains("no `method`"));
    assert_eq!(read(addressed, InputFormat::Auto).unwrap(), "a");
    assert_eq!(read(addressed, InputFormat::OpenAIBatch).unwrap(), "a");
    assert!(read(addressed, InputFormat::Requests).unwrap_err().contains("OpenAIBatch"));
    assert!(read(br#"{"custom_id":"a","url":"/v1/x","body":{}}"#, InputFormat::Auto).is_err());
    assert!(read(br#"{"messages":[]}"#, InputFormat::Auto).unwrap_err().contains("no `custom_id`"));
}
