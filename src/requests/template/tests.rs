use serde_json::{Map, Value, json};

use super::super::variable::PARTS;
use super::*;

fn template(custom_id: &str, body: Value) -> Result<Template, String> {
    parse(ValueSource::Rows, custom_id, body)
}

fn parse(of: ValueSource, custom_id: &str, body: Value) -> Result<Template, String> {
    Template::parse(&serde_json::from_value(json!({"customID": custom_id, "body": body})).unwrap(), of)
}

fn expand(body: Value, row: Value) -> Result<Value, String> {
    let (_, body) = fill(&template("x", body)?, &row.to_string())?;
    Ok(serde_json::from_str(&body).unwrap())
}

/// Fills a template from a row of JSON, and returns the custom id and the body.
fn fill(template: &Template, row: &str) -> Result<(String, String), String> {
    template.expand(&Row::Json(&Object::read(row).unwrap()))
}

/// Fills a template whose body is text from a row of JSON, and returns the body.
fn fill_json(body: &str, row: &str) -> Result<String, String> {
    let template = RequestTemplate { custom_id: "x".into(), body: None, body_json: Some(body.into()) };
    fill(&Template::parse(&template, ValueSource::Rows)?, row).map(|(_, body)| body)
}

/// Fills a template from a row of texts, and returns the body.
fn fill_texts(content: &str, row: &[(&str, &str)]) -> Result<String, String> {
    let row = row.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    let body = format!("{{\"c\":{}}}", Value::from(content));
    let template = RequestTemplate { custom_id: "x".into(), body: None, body_json: Some(body) };
    Template::parse(&template, ValueSource::Rows)?.expand(&Row::Texts(&row)).map(|(_, body)| body)
}

#[test]
fn whole_strings_keep_their_type_and_parts_become_text() {
    let row = json!({"id": 7, "o": {"k": [1], "d": {"e": "deep"}}, "t": "text", "n": null, "a.b": "dotted"});
    for (written, wanted) in [
        ("$(row.id)", json!(7)),
        ("$(row.o)", json!({"k": [1], "d": {"e": "deep"}})),
        ("$(row.o.d.e)", json!("deep")),
        ("$(row.a.b)", json!("dotted")),
        ("$(row.n)", json!(null)),
        ("<$(row.id)>", json!("<7>")),
        ("$(row.t)$(row.id)", json!("text7")),
        ("$(row.o.k)!", json!("[1]!")),
        ("costs $5, $$ and $", json!("costs $5, $$ and $")),
        ("$$(row.t)", json!("$(row.t)")),
        ("é$$(x) $(row.t) $$(", json!("é$(x) text $(")),
        ("", json!("")),
    ] {
        let body = json!({"m": [{"c": written}], "fixed": 1});
        assert_eq!(expand(body, row.clone()).unwrap(), json!({"m": [{"c": wanted}], "fixed": 1}), "{written}");
    }
}

#[test]
fn what_is_put_in_is_never_read_again() {
    let row = json!({"a": "$(row.b) $$( $(row.", "b": "secret"});
    assert_eq!(
        expand(json!({"x": "$(row.a)", "y": "-$(row.a)"}), row).unwrap(),
        json!({"x": "$(row.b) $$( $(row.", "y": "-$(row.b) $$( $(row."})
    );
}

#[test]
fn custom_ids_are_text_or_numbers() {
    let id = |custom_id: &str, row: &str| {
        let template = template(custom_id, json!({})).unwrap();
        fill(&template, row).map(|(id, _)| id)
    };
    assert_eq!(id("$(row.id)", r#"{"id": 7}"#).unwrap(), "7");
    assert_eq!(id("r-$(row.id)", r#"{"id": "x"}"#).unwrap(), "r-x");
    assert_eq!(id("$(row.id)", r#"{"id": "\u00e9\"$(row.id)"}"#).unwrap(), "é\"$(row.id)");
    for (row, text) in [("{}", "{}"), ("[]", "[]"), ("true", "true"), ("null", "null")] {
        assert!(id("$(row.id)", &format!(r#"{{"id": {row}}}"#)).unwrap_err().contains("no custom id"), "{text}");
    }
}

/// Case 03-big-integer-ids: ids, values and texts have the digits of the source.
#[test]
fn digits_are_put_in_as_they_are_written() {
    let row =
        r#"{"id": 89490200001234567890, "price": 19.90, "volume": 1e3, "one": 1.0, "serial": 12345678901234567890123}"#;
    let template = template(
        "$(row.id)",
        json!({"c": "$(row.price) $(row.volume) $(row.one) $(row.serial)", "seed": "$(row.serial)"}),
    );
    let (id, body) = fill(&template.unwrap(), row).unwrap();
    assert_eq!(id, "89490200001234567890");
    assert_eq!(body, r#"{"c":"19.90 1e3 1.0 12345678901234567890123","seed":12345678901234567890123}"#);
    let mixed = fill(&self::template("n-$(row.id)-$(row.price)", json!({})).unwrap(), row).unwrap();
    assert_eq!(mixed.0, "n-89490200001234567890-19.90");
}

/// Case 17-schema-key-order, for a template as text.
#[test]
fn a_body_as_text_is_filled_as_it_is_written() {
    let body = "{\n  \"z\": \"\\u00e9 \\/ $(row.t) $$(row.t) \\u0024(row.n)\",\n  \"a\": {\"$(row.t)\": 1.50, \"b\": [\"$(row.n)\", \"$(row.o)\", \"\"]}\n}\n";
    let row = r#"{"t": "\u00fc\"\/", "n": 1e3, "o": {"y": 1.0,  "x": [ ]}}"#;
    let filled =
        r#"{"z":"\u00e9 \/ \u00fc\"\/ $(row.t) 1e3","a":{"$(row.t)":1.50,"b":[1e3,{"y": 1.0,  "x": [ ]},""]}}"#;
    assert_eq!(fill_json(body, row).unwrap(), filled);
    let in_one_line = r#"{ "z" : "$(row.o)", "a": "\ud83d\ude00$(row.n)\ud83d\ude00 😀" }"#;
    let filled = r#"{ "z" : {"y": 1.0,  "x": [ ]}, "a": "\ud83d\ude001e3\ud83d\ude00 😀" }"#;
    assert_eq!(fill_json(in_one_line, row).unwrap(), filled);
    let text_of_an_object = r#"{"a": "<$(row.o)>"}"#;
    assert_eq!(fill_json(text_of_an_object, row).unwrap(), r#"{"a": "<{\"y\": 1.0,  \"x\": [ ]}>"}"#);
}

#[test]
fn a_body_as_text_that_is_not_json_is_named_with_line_and_column() {
    for (body, words) in [
        ("{\n  \"a\": [1,\n 2,,]}", "`bodyJSON` is not JSON (error at line 3, column 4)"),
        ("{\"a\": 1", "`bodyJSON` is not JSON (it ends too early)"),
        ("[]", "`bodyJSON` is not an object"),
        (r#"{"a": 1, "a": 2}"#, "`bodyJSON` has the key `a` twice in one object, again at column 10"),
        ("{\n\"m\": [{\"c\": \"$(id)\"}]}", "`bodyJSON.m[0].c` uses the variable `$(id)`"),
    ] {
        let refused = fill_json(body, "{}").unwrap_err();
        assert!(refused.starts_with("`spec.input.template`: ") && refused.contains(words), "{body}: {refused}");
    }
    let both = json!({"customID": "x", "body": {}, "bodyJSON": "{}"});
    let refused = Template::parse(&serde_json::from_value(both).unwrap(), ValueSource::Rows).unwrap_err();
    assert!(refused.contains("has both `body` and `bodyJSON`"), "{refused}");
}

/// Case 15-csv-numbers-are-text.
#[test]
fn texts_are_converted_where_the_template_says_so() {
    for (content, text, filled) in [
        ("$(row.x:number)", "40", "40"),
        ("$(row.x:number)", " 19.90 ", "19.90"),
        ("$(row.x:number)", "12345678901234567890123", "12345678901234567890123"),
        ("$(row.x)", "40", r#""40""#),
        ("up to $(row.x:number)", "1e3", r#""up to 1e3""#),
        ("$(row.x:boolean)", "TRUE", "true"),
        ("$(row.x:boolean)", "false", "false"),
        ("$(row.x:json)", r#" {"b": 1.0, "a": ["é"]} "#, r#"{"b": 1.0, "a": ["é"]}"#),
        ("$(row.x:json)", "null", "null"),
        ("$(row.x:json)", r#""text""#, r#""text""#),
        ("$(row['x']:number)", "7", "7"),
    ] {
        assert_eq!(fill_texts(content, &[("x", text)]).unwrap(), format!("{{\"c\":{filled}}}"), "{content} of {text}");
    }
    for (content, text, words) in [
        (
            "$(row.x:number)",
            "about 40",
            "has a column `x` that is not a number such as 40 or 0.5, as `:number` in the template asks for",
        ),
        ("$(row.x:number)", "", "has a column `x` that is empty, which is not a number"),
        ("$(row.x:number)", "1,5", "`x` that is not a number"),
        ("$(row.x:number)", "007", "`x` that is not a number"),
        ("$(row.x:number)", "NaN", "`x` that is not a number"),
        ("$(row.x:boolean)", "yes", "`x` that is not `true` or `false`"),
        ("$(row.x:json)", "{a: 1}", "`x` that is not JSON"),
        (
            "$(row.x:float)",
            "1",
            "has no column `x:float`, which the template uses; of conversions there are `:number`, `:boolean`",
        ),
        ("$(row['x']:float)", "1", "has a conversion that is none"),
    ] {
        let refused = fill_texts(content, &[("x", text)]).unwrap_err();
        assert!(refused.contains(words), "{content} of {text}: {refused}");
        assert!(text.len() < 4 || !refused.contains(text), "content is not repeated: {refused}");
    }
    assert_eq!(
        fill_texts("$(row.x:number)", &[("x:number", "n"), ("x", "1")]).unwrap(),
        r#"{"c":"n"}"#,
        "a name as ever"
    );
    let row = r#"{"n": 1.0, "s": "2.50", "b": true, "nil": null}"#;
    let filled = fill_json(r#"["$(row.n:number)", "$(row.s:number)", "$(row.b:boolean)", "$(row.nil:json)"]"#, row);
    assert!(filled.unwrap_err().contains("not an object"), "a body is one");
    let filled =
        fill_json(r#"{"a": ["$(row.n:number)", "$(row.s:number)", "$(row.b:boolean)", "$(row.nil:json)"]}"#, row);
    assert_eq!(filled.unwrap(), r#"{"a": [1.0, 2.50, true, null]}"#);
    assert!(fill_json(r#"{"a": "$(row.nil:number)"}"#, row).unwrap_err().contains("not a number"));
}

/// Case 01-column-with-parenthesis, and columns of other names.
#[test]
fn a_column_of_any_name_can_be_named() {
    for (content, column) in [
        ("$(row['Price (EUR)'])", "Price (EUR)"),
        (r#"$(row["Price (EUR)"])"#, "Price (EUR)"),
        ("$(row['a]b'])", "a]b"),
        ("$(row['a)b.c d'])", "a)b.c d"),
        ("$(row['$(row.x)'])", "$(row.x)"),
        (r"$(row['it\'s'])", "it's"),
        (r#"$(row["it's"])"#, "it's"),
        (r#"$(row['5" pipe'])"#, "5\" pipe"),
        (r#"$(row["5\" pipe"])"#, "5\" pipe"),
        (r"$(row['C:\\x'])", r"C:\x"),
        ("$(row['ä€😀<&>'])", "ä€😀<&>"),
        ("$(row[''])", ""),
        ("$(row.Product name)", "Product name"),
        ("$(row.a:b)", "a:b"),
        ("$(row.tags[0])", "tags[0]"),
    ] {
        assert_eq!(fill_texts(content, &[(column, "here")]).unwrap(), r#"{"c":"here"}"#, "{content}");
        assert_eq!(fill_texts(&format!("<{content}>"), &[(column, "\"\n")]).unwrap(), r#"{"c":"<\"\n>"}"#, "{content}");
    }
    let row = r#"{"a": {"b c": {"d.e": 1.50}}, "a.x": 2}"#;
    for content in ["$(row.a['b c'][\"d.e\"])", "$(row['a']['b c']['d.e'])", "$(row.a['b c']['d.e']:number)"] {
        assert_eq!(
            fill_json(&format!("{{\"c\": {}}}", Value::from(content)), row).unwrap(),
            r#"{"c": 1.50}"#,
            "{content}"
        );
    }
    assert_eq!(fill_json(r#"{"c": "$(row.a.x) and $(row['a.x'])"}"#, row).unwrap(), r#"{"c": "2 and 2"}"#);
    for (content, words) in [
        ("$(row['a'", "without the `]`"),
        ("$(row['a)", "without its closing '"),
        ("$(row['a']", "without a `)`"),
        ("$(row['a']x)", "without a `)`"),
        (r"$(row['a\b'])", "single backslash"),
    ] {
        let refused = fill_texts(content, &[("a", "x")]).unwrap_err();
        assert!(refused.contains(words), "{content}: {refused}");
    }
    let refused = fill_texts("Is $(row.Price (EUR)) fair?", &[("Notes", ""), ("Price (EUR)", "29,90")]).unwrap_err();
    assert_eq!(
        refused,
        "has no column `Price (EUR`, which the template uses; a name with parentheses is written \
         `$(row['Price (EUR)'])`; it has `Notes`, `Price (EUR)`"
    );
}

#[test]
fn faults_are_named_before_any_row() {
    for (of, written, words) in [
        (ValueSource::Rows, "$(id)", "`body.m[0].c` uses the variable `$(id)`; `$(row.COLUMN)` is known"),
        (ValueSource::Rows, "$(object.key)", "`$(object.key)`, which is for `spec.input.format: Objects`"),
        (ValueSource::Rows, "$(row.)", "`$(row.)`"),
        (ValueSource::Rows, "$(row.id", "without its `)`"),
        (ValueSource::Objects, "$(row.id)", "`$(row.id)`, which is for rows, and the format Objects has none"),
        (ValueSource::Objects, "$(object.size)", "`$(object.key)`, `$(object.text)`, `$(object.base64)` are known"),
        (ValueSource::Objects, "$(object.key.x)", "`$(object.key.x)`; `$(object.key)`"),
    ] {
        let error = parse(of, "x", json!({"m": [{"c": written}]})).unwrap_err();
        assert!(error.starts_with("`spec.input.template`: ") && error.contains(words), "{written}: {error}");
    }
    assert!(template("$(id)", json!({})).unwrap_err().contains("`customID` uses"));
}

#[test]
fn what_is_used_is_known() {
    let template = parse(ValueSource::Objects, "$(object.key)", json!({"m": [{"c": "- $(object.text)"}]})).unwrap();
    assert_eq!(PARTS.map(|part| template.uses(part)), [true, true, false]);
}

#[test]
fn an_unknown_column_is_named_with_those_there_are() {
    let error = expand(json!({"c": "$(row.txt)"}), json!({"id": 1, "text": "private"})).unwrap_err();
    assert_eq!(error, "has no column `txt`, which the template uses; it has `id`, `text`");
    let error = expand(json!({"c": "$(row.id.x)"}), json!({"id": 1})).unwrap_err();
    assert!(error.contains("no column `id.x`"), "{error}");
    let long = json!({"a headerless file has content where names should be": 1});
    assert!(!expand(json!({"c": "$(row.x)"}), long).unwrap_err().contains("headerless"));
}

#[test]
fn a_template_that_repeats_a_long_row_is_bounded() {
    let body: Map<String, Value> = (0..40).map(|i| (i.to_string(), json!("$(row.t)"))).collect();
    let error = expand(Value::Object(body), json!({"t": "x".repeat(1 << 20)})).unwrap_err();
    assert!(error.contains("more than 33554432 bytes"), "{error}");
}

#[test]
fn a_body_that_cannot_be_used_is_named() {
    let deep = (0..200).fold(json!("$(row.t)"), |inner, _| json!([inner]));
    let error = template("x", json!({"m": deep})).unwrap_err();
    assert!(error.starts_with("`spec.input.template`: `body` ") && error.contains("127 deep"), "{error}");
}
