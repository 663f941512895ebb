//! Lines of OpenAI's format, and bare requests.

use super::*;

pub fn lines() -> Vec<Case> {
    let good = batch_lines("x", 1);
    let id = json!("a");
    let models: String = (0..17).map(|i| line(&json!(i.to_string()), &format!("{{\"model\":\"m{i}\"}}"))).collect();
    vec![
        case(
            "broken",
            format!("{good}{{\n"),
            none(),
            &["line 2: is not JSON (it ends too early); write one request a"],
        ),
        case("many", "nonsense\n".repeat(30), none(), &["line 20: is not JSON", "; and 10 more, all in s3://tests/"]),
        case("nonsense", "hello\n", none(), &["line 1: is not JSON (error at column 1)"]),
        case("python", "{'custom_id': 'a'}\n", none(), &["line 1: is not JSON"]),
        case("comma", good.replace("}\n", "},\n"), none(), &["line 1: is not JSON"]),
        case("pretty", "{\n  \"custom_id\": \"a\"\n}\n", none(), &["line 1: is not JSON (it ends too early)"]),
        case("list", format!("[\n{good}]\n"), none(), &["line 1: is not JSON", "line 3: is not JSON"]),
        case("array", "[]\n", none(), &["line 1: is not a JSON object such as {\"custom_id\""]),
        case("number", format!("{good}7\n"), none(), &["line 2: is not a JSON object"]),
        case("nul", "\0\0\0\n", none(), &["line 1: is not JSON"]),
        case(
            "fieldtwice",
            "{\"custom_id\":\"a\",\"custom_id\":\"b\"}\n",
            none(),
            &["line 1: has the key `custom_id` twice in one object, again at column 18"],
        ),
        case("utf8", [good.as_bytes(), b"\xff\xfe\n"].concat(), none(), &["line 2: is not UTF-8", "store it as UTF-8"]),
        case(
            "latin1",
            b"{\"custom_id\":\"caf\xe9\"}\n",
            none(),
            &["line 1: is not UTF-8 (byte 18); store it as UTF-8"],
        ),
        case("utf16", utf16(&good), none(), &["line 1: is not UTF-8 (it looks like UTF-16); store it as UTF-8"]),
        case(
            "blank",
            "\n\n",
            none(),
            &["blank.jsonl holds no requests; put some there, or set `spec.input.emptyPolicy"],
        ),
        case("zero", "", none(), &["zero.jsonl holds no requests"]),
        case(
            "twice",
            good.repeat(2),
            none(),
            &["line 2: has a custom id that an earlier request has; give each its own"],
        ),
        case("get", good.replace("POST", "GET"), none(), &["line 1: has another `method` than \"POST\""]),
        case("put", good.replace("POST", "put"), none(), &["line 1: has another `method` than \"POST\""]),
        case(
            "nomethod",
            good.replace("\"method\"", "\"m\""),
            none(),
            &["line 1: has no `method`; it must be \"POST\""],
        ),
        case(
            "url",
            good.replace("chat/completions", "embeddings"),
            none(),
            &["line 1: has another `url` than \"/v1/chat/completions\", the job's `spec.endpoint`"],
        ),
        case("nourl", good.replace("\"url\"", "\"u\""), none(), &["line 1: has no `url`; it must be \"/v1/chat/comp"]),
        case("noid", good.replace("custom_id", "id"), none(), &["line 1: has no `custom_id`; every request needs one"]),
        case("numberid", line(&json!(7), "{}"), none(), &["line 1: has a `custom_id` that is not a string; put it in"]),
        case("emptyid", line(&json!(""), "{}"), none(), &["line 1: has a custom id of 0 bytes; 1 to 512 are allowed"]),
        case(
            "longid",
            line(&json!("i".repeat(600)), "{}"),
            none(),
            &["line 1: has a custom id of 600 bytes; 1 to 512"],
        ),
        case("nobody", good.replace("\"body\"", "\"b\""), none(), &["line 1: has no `body`; put there"]),
        case("nullbody", line(&id, "null"), none(), &["line 1: has no `body`"]),
        case("textbody", line(&id, "\"x\""), none(), &["line 1: has a `body` that is not an object such as"]),
        case("listbody", line(&id, "[]"), none(), &["line 1: has a `body` that is not an object such as"]),
        case("stream", line(&id, "{\"stream\":true}"), none(), &["line 1: asks for `stream`", "take it out"]),
        case("streamtext", line(&id, "{\"stream\":\"no\"}"), none(), &["line 1: asks for `stream`", "take it out"]),
        case(
            "modelnumber",
            line(&id, "{\"model\":5}"),
            none(),
            &["line 1: has a `model` that is not a name; write it"],
        ),
        case(
            "modellong",
            line(&id, &format!("{{\"model\":\"{}\"}}", "m".repeat(254))),
            none(),
            &["line 1: names a model of 254 bytes; the name of one has at most 253"],
        ),
        case("modelempty", line(&id, "{\"model\":\"\"}"), none(), &["line 1: has a `model` that is not a name"]),
        case("nomodel", line(&id, "{}"), none(), &["line 1: names no `model`, and neither does `spec.model`; set one"]),
        case("models", models, none(), &["line 17: names another model", "split them over several BatchJobs"]),
        case("notallowed", line(&id, "{\"model\":\"m\"}"), small(), &["line 1: names a model", "allowed: tiny"]),
        case("specmodel", line(&id, "{}"), tiny(json!({"model": "m"})), &["line 1: names a model", "allowed: tiny"]),
        case(
            "large",
            line(&id, &format!("{{\"model\":\"tiny\",\"t\":\"{}\"}}", "x".repeat(2000))),
            small(),
            &["line 1: takes 21", "the provider takes 1024 in a whole batch; shorten it"],
        ),
        case("longline", ["\n", &"x".repeat(33 << 20)].concat(), none(), &["line 2: has 34603008 bytes; 33554432 are"]),
        case(
            "nan",
            line(&id, "{\"t\":NaN}"),
            none(),
            &["line 1: is not JSON (`NaN`, which JSON does not have, at column 75)"],
        ),
        case(
            "deep",
            line(&id, &format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200))),
            none(),
            &["line 1:", "nested more than 127 deep"],
        ),
        case(
            "addressed",
            &good,
            input(json!({"format": "Requests"})),
            &["line 1: has a `method`", "format OpenAIBatch"],
        ),
        case(
            "bare",
            "{\"custom_id\":\"a\",\"body\":{}}\n",
            input(json!({"format": "OpenAIBatch"})),
            &["has no `method`"],
        ),
    ]
}
