//! Whatever a person can get wrong in an input: one clear line with source, place and remedy, and nothing sent or paid.

use std::collections::BTreeSet;

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::quiet::CANARY;
use crate::support::scene::{Scene, batch_lines, condition};
use crate::support::shared::{cluster, storage};

/// A job over objects, and what it is told.
struct Case {
    name: &'static str,
    /// What its input's URI ends in.
    key: String,
    /// Objects to put, by key.
    objects: Vec<(String, Vec<u8>)>,
    spec: Value,
    /// Parts of the message: the place, and what to do.
    words: &'static [&'static str],
}

/// Over one object of this content.
fn case(name: &'static str, bytes: impl AsRef<[u8]>, spec: Value, words: &'static [&'static str]) -> Case {
    file(name, "jsonl", bytes, spec, words)
}

/// The same with another name.
fn file(
    name: &'static str,
    extension: &str,
    bytes: impl AsRef<[u8]>,
    spec: Value,
    words: &'static [&'static str],
) -> Case {
    let key = format!("{name}.{extension}");
    Case { name, objects: vec![(key.clone(), bytes.as_ref().to_vec())], key, spec, words }
}

/// Over whatever lies where.
fn place(
    name: &'static str,
    key: &str,
    objects: &[(&str, &[u8])],
    spec: Value,
    words: &'static [&'static str],
) -> Case {
    let objects = objects.iter().map(|(key, bytes)| (key.to_string(), bytes.to_vec())).collect();
    Case { name, key: key.into(), objects, spec, words }
}

fn template(content: &str) -> Value {
    json!({"customID": "$(row.id)", "body": {"messages": [{"role": "user", "content": content}]}})
}

/// Rows with this content.
fn rows(content: &str) -> Value {
    json!({"input": {"template": template(content)}})
}

/// Objects with this content, read like this.
fn objects(content: &str, change: Value) -> Value {
    let mut input = json!({"format": "Objects", "template": {"customID": "$(object.key)", "body": {"text": content}}});
    input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"input": input})
}

fn input(change: Value) -> Value {
    json!({"input": change})
}

fn none() -> Value {
    json!({})
}

/// A line without a model of its own.
fn line(id: &Value, body: &str) -> String {
    format!("{{\"custom_id\":{id},\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{body}}}\n")
}

async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(vec![]);
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

/// More than a gigabyte of nothing, in a few kilobytes.
async fn bomb() -> Vec<u8> {
    let mut encoder = ZstdEncoder::new(vec![]);
    encoder.write_all(&vec![0; 64 << 20]).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner().repeat(17)
}

fn utf16(text: &str) -> Vec<u8> {
    [vec![0xff, 0xfe], text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat()
}

/// Lines of OpenAI's format, and bare requests.
fn lines() -> Vec<Case> {
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
            &["line 1: has a field twice; write"],
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
        case("post", good.replace("POST", "post"), none(), &["line 1: has another `method` than \"POST\""]),
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
        case("longline", [b"\n", &[b'x'; 9 << 20][..]].concat(), none(), &["line 2: has 9437184 bytes; 8388608 are"]),
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

/// A provider with small limits.
fn small() -> Value {
    json!({"providerRef": {"name": "small"}})
}

fn tiny(change: Value) -> Value {
    let mut spec = small();
    spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    spec
}

/// Tables and rows.
fn tables() -> Vec<Case> {
    let text = "$(row.text)";
    let repeated = json!({"messages": (0..10).map(|_| text).collect::<Vec<_>>()});
    let repeated = input(json!({"template": {"customID": "$(row.id)", "body": repeated}}));
    vec![
        file(
            "ragged",
            "csv",
            "id,text\n1,x\n\n2\n",
            rows(text),
            &["line 4: begins a row of 1 fields; the header has 2"],
        ),
        file("commas", "csv", "id,text\n1,a, b\n", rows(text), &["line 2: begins a row of 3 fields", "in quotes"]),
        file("open", "csv", "id,text\n1,\"x\n2,y\n", rows(text), &["line 2: begins a row with a quote that is never"]),
        file(
            "column",
            "csv",
            format!("id,text\n1,{CANARY}\n"),
            rows("$(row.txt)"),
            &["line 2: has no column `txt`, which the template uses; it has `id`, `text`"],
        ),
        file("semicolon", "csv", "id;text\n1;x\n", rows(text), &["line 2: has no column `id`", "it has `id;text`"]),
        file(
            "columntwice",
            "csv",
            "id,id\n1,2\n",
            rows("x"),
            &["line 1: names the column `id` twice; give each column"],
        ),
        file(
            "latin",
            "csv",
            b"id,text\n1,caf\xe9\n",
            rows(text),
            &["line 2: begins a row that is not UTF-8; store it"],
        ),
        file("wide", "csv", utf16("id,text\n1,x\n"), rows(text), &["line 1: begins a row that is not UTF-8; store it"]),
        file(
            "norowid",
            "csv",
            "id,text\n,x\n",
            rows(text),
            &["line 2: has a custom id of 0 bytes; 1 to 512 are allowed"],
        ),
        file("sameid", "csv", "id,text\n1,x\n1,y\n", rows(text), &["line 3: has a custom id that an earlier request"]),
        file("header", "csv", "id,text\n", rows(text), &["holds no requests; put some there"]),
        file("notemplate", "csv", "id\n1\n", none(), &["is CSV by its name", "set `spec.input.template`"]),
        file("variable", "csv", "id\n1\n", rows("$(txt)"), &["`body.messages[0].content` uses the variable `$(txt)`"]),
        file("unclosed", "csv", "id\n1\n", rows("$(row.id"), &["without its `)`; write `$$(` for a literal `$(`"]),
        file(
            "objectvar",
            "csv",
            "id\n1\n",
            rows("$(object.key)"),
            &["`$(object.key)`, which is for `spec.input.format"],
        ),
        case("norow", "[1]\n", rows(text), &["line 1: is not a JSON object of columns such as"]),
        case("brokenrow", "{\"id\": 1,}\n", rows(text), &["line 1: is not JSON", "write one request a line"]),
        case(
            "objectid",
            "{\"id\":{},\"text\":1}\n",
            rows(text),
            &["line 1: has a column `id` that is no custom id; text"],
        ),
        case(
            "repeated",
            json!({"id": "a", "text": "x".repeat(1 << 20)}).to_string(),
            repeated,
            &["line 1: makes a request of more than 9437184 bytes; shorten it"],
        ),
    ]
}

/// Objects: where they are, what they are compressed with, and what they hold.
async fn places() -> Vec<Case> {
    let one = batch_lines("s", 1);
    let packed = gzip(batch_lines("g", 500).as_bytes()).await;
    let other = gzip(batch_lines("h", 500).as_bytes()).await;
    let (cut, cut_too, again) = (&packed[..packed.len() - 20], &other[..other.len() - 20], format!("\n{one}"));
    let text = "$(object.text)";
    let cuts = objects("$(object.base64)", json!({"onTooLarge": "Truncate"}));
    let same: &[(&str, &[u8])] = &[("same/a.jsonl", one.as_bytes()), ("same/b.jsonl", again.as_bytes())];
    let damaged: &[(&str, &[u8])] = &[("damaged/a.gz", cut), ("damaged/b", b"{"), ("damaged/c.gz", cut_too)];
    let ids: &[(&str, &[u8])] = &[("ids/a", b"x"), ("ids/b", b"x")];
    let fixed = input(json!({"format": "Objects", "template": {"customID": "x", "body": {}}}));
    vec![
        place("same", "same/", same, none(), &["in/same/b.jsonl: line 2: has a custom id that an earlier"]),
        place("damaged", "damaged/", damaged, none(), &["in/damaged/a.gz: as gzip", "b: line 1", "c.gz: as gzip"]),
        place("nothing", "nothing/", &[], none(), &["in/nothing/ holds no requests; put some there"]),
        place("nomatch", "same/*.csv", &[], none(), &["in/same/*.csv holds no requests"]),
        place("star", "*/x.jsonl", &[], none(), &["only the last part of the URI may hold one"]),
        place(
            "missing",
            "none.jsonl",
            &[],
            none(),
            &["in/none.jsonl does not exist; put the requests there, or correct"],
        ),
        place("noobjects", "none/", &[], objects(text, none()), &["in/none/ holds no requests"]),
        place(
            "noobject",
            "none.txt",
            &[],
            objects(text, none()),
            &["in/none.txt does not exist; put the requests there"],
        ),
        file("cut", "gz", cut, none(), &["in/cut.gz: as gzip it is cut short; put it there again"]),
        file("magic", "gz", &packed[..2], none(), &["in/magic.gz: as gzip it is cut short"]),
        file(
            "bomb",
            "zst",
            bomb().await,
            none(),
            &["in/bomb.zst: becomes more than 1000 times as large", "right object"],
        ),
        case(
            "nogzip",
            &one,
            input(json!({"compression": "Gzip"})),
            &["as gzip it is damaged", "`spec.input.compression`"],
        ),
        case(
            "nozstd",
            &one,
            input(json!({"compression": "Zstd"})),
            &["as zstd it is damaged", "`spec.input.compression`"],
        ),
        case("packed", &packed, input(json!({"compression": "None"})), &["line 1: is not UTF-8"]),
        file(
            "binary",
            "png",
            b"\x89PNG",
            objects(text, none()),
            &["binary.png: is not UTF-8 (byte 1)", "object.base64"],
        ),
        file(
            "toolarge",
            "txt",
            "x".repeat(9),
            objects(text, json!({"maxObjectBytes": 8})),
            &["txt: has more than the 8"],
        ),
        file(
            "unpacked",
            "zst",
            bomb().await,
            objects(text, none()),
            &["unpacked.zst: has more than the 1048576 bytes"],
        ),
        file("rowvar", "txt", "x", objects("$(row.text)", none()), &["`$(row.text)`, which is for rows"]),
        file(
            "part",
            "txt",
            "x",
            objects("$(object.size)", none()),
            &["`$(object.key)`, `$(object.text)`, `$(object.base"],
        ),
        file("cutbase64", "txt", "x", cuts, &["cuts text, and `$(object.base64)` is none; set Fail or Skip"]),
        place(
            "fixedid",
            "ids/",
            ids,
            fixed,
            &["in/ids/b: has a custom id that an earlier request has; give each its own"],
        ),
    ]
}

/// The API server refuses these at once; with the words that it says.
fn refused(scene: &Scene) -> Vec<(Value, &'static str)> {
    let over = |change: Value| scene.job("refused", json!({"inputKey": "x.csv", "spec": {"input": change}}));
    let inline = |change: Value| scene.job("refused", json!({"spec": {"input": change}}));
    let requests = |requests: Value| inline(json!({"inline": {"requests": requests}}));
    let uri = |uri: &str| over(json!({"objectStore": {"uri": uri}}));
    let maps = |maps: Value| inline(json!({"inline": null, "configMaps": maps}));
    let of_maps =
        json!({"inline": null, "configMaps": [{"name": "a"}], "format": "Objects", "template": template("x")});
    let many: Vec<Value> = (0..501).map(|i| json!({"customID": format!("c{i}"), "body": {}})).collect();
    vec![
        (over(json!({"format": "CSV"})), "set `template` with the formats Rows, CSV and Objects"),
        (over(json!({"format": "Objects"})), "set `template` with the formats Rows, CSV and Objects"),
        (over(json!({"format": "Requests", "template": template("x")})), "set `template` with the formats"),
        (over(json!({"maxObjectBytes": 5})), "with the format Objects only"),
        (over(json!({"onTooLarge": "Skip"})), "with the format Objects only"),
        (over(json!({"format": "Objects", "template": template("x"), "maxObjectBytes": 0})), "maxObjectBytes"),
        (over(json!({"format": "Objects", "template": template("x"), "maxObjectBytes": 7_000_000})), "maxObjectBytes"),
        (over(json!({"format": "Objects", "template": template("x"), "onTooLarge": "Cut"})), "\"Truncate\""),
        (over(json!({"format": "Xml"})), "\"OpenAIBatch\""),
        (over(json!({"compression": "Bzip2"})), "\"Zstd\""),
        (over(json!({"template": {"body": {}}})), "template.customID"),
        (over(json!({"template": {"customID": "", "body": {}}})), "template.customID"),
        (inline(of_maps), "so it needs `objectStore`"),
        (inline(json!({"compression": "Gzip"})), "`inline` requests are whole as they are"),
        (inline(json!({"template": template("x")})), "`inline` requests are whole as they are"),
        (inline(json!({"configMaps": [{"name": "a"}]})), "set exactly one of"),
        (requests(json!(many)), "500"),
        (requests(json!([])), "spec.input.inline.requests"),
        (requests(json!([{"customID": "i".repeat(513), "body": {}}])), "512"),
        (requests(json!([{"customID": "a", "body": "x"}])), "body"),
        (requests(json!([{"body": {}}])), "customID"),
        (maps(json!([])), "configMaps"),
        (maps(json!([{"name": "a", "key": "b/c"}])), "key"),
        (uri("https://bucket/x"), "objectStore.uri"),
        (uri("s3://bucket"), "objectStore.uri"),
        (uri("s3://Bucket/x"), "objectStore.uri"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_inputs_are_refused_with_their_place_and_a_remedy_before_anything_is_sent() {
    let scene = Scene::new("bad-input", &[]).await;
    let limits = json!({"allowedModels": ["tiny"], "limits": {"maxBytesPerBatch": 1024}});
    scene.apply(&provider(&scene, "small", limits).to_string());
    scene.provider_judged("small").await;
    scene.sim.begin().await;
    let without_model = lines().into_iter().map(|mut case| {
        case.spec.as_object_mut().unwrap().entry("model").or_insert(Value::Null);
        case
    });
    let mut cases: Vec<Case> = without_model.chain(tables()).chain(places().await).collect();
    cases.push(within("below", "same/", "in/same/out/"));
    cases.push(within("pattern", "same/*.jsonl", "in/same/"));
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "each has its own name");
    for (key, bytes) in cases.iter().flat_map(|case| &case.objects) {
        scene.put(&format!("in/{key}"), bytes.clone()).await;
    }
    let mut jobs: Vec<Value> =
        cases.iter().map(|c| scene.job(c.name, json!({"inputKey": c.key, "spec": c.spec}))).collect();
    let uri = |path: &str| Value::from(format!("s3://tests/{}/{path}", scene.namespace));
    for job in &mut jobs {
        if let Some(path) = job["spec"]["output"].as_object_mut().unwrap().remove("path") {
            job["spec"]["output"]["objectStore"]["uri"] = uri(path.as_str().unwrap());
        }
    }
    let same = json!([{"customID": "a", "body": {}}, {"customID": "a", "body": {}}]);
    jobs.push(scene.job("inline", json!({"spec": {"input": {"inline": {"requests": same}}}})));
    let streams = json!([{"customID": "a", "body": {"stream": true}}]);
    jobs.push(scene.job("inlinestream", json!({"spec": {"input": {"inline": {"requests": streams}}}})));
    let inline = [
        ("inline", "`spec.input.inline.requests`: request 2: has a custom id that an earlier request has; give each"),
        ("inlinestream", "`spec.input.inline.requests`: request 1: asks for `stream`"),
    ];
    scene.apply(&list(jobs));
    let all = cases.iter().map(|c| (c.name, c.words.to_vec())).chain(inline.map(|(name, words)| (name, vec![words])));
    for (name, words) in all {
        let job = scene.wait_condition(name, "Failed", "True", 120).await;
        let (_, reason, message) = condition(&job, "Failed").unwrap();
        assert_eq!(reason, "InvalidInput", "{name}: {message}");
        for words in words {
            assert!(message.contains(words), "{name}: wanted {words:?}: {message}");
        }
        let placed = message.contains(&format!("s3://tests/{}/in/", scene.namespace)) || message.contains("`spec.");
        assert!(placed && !message.contains(CANARY), "{name}: {message}");
        assert!(job.status.unwrap().lock.is_none(), "the spec can be mended");
    }
    let report = scene.get("out/many/_batchjob/report.jsonl").await.expect("a report beside the journal");
    assert_eq!(report.lines().count(), 30);
    nothing_was_sent(&scene).await;
}

/// Output and input lie within each other.
fn within(name: &'static str, key: &str, path: &str) -> Case {
    let output = json!({"output": {"path": path}});
    place(name, key, &[], output, &["lie within each other", "write to a folder of its own"])
}

fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn provider(scene: &Scene, name: &str, change: Value) -> Value {
    let mut spec = json!({"type": "OpenAICompatible", "baseURL": scene.base_url,
        "auth": {"secretKeyRef": {"name": "llm-key", "key": "api-key"}}});
    spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchProvider", "metadata": {"name": name}, "spec": spec})
}

async fn nothing_was_sent(scene: &Scene) {
    assert_eq!(scene.sim.spent().await, (0, 0));
    assert_eq!(scene.sim.ledger().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_odd_is_taken() {
    let scene = Scene::new("odd-input", &[]).await;
    let (x, y) = (batch_lines("x", 1), batch_lines("y", 1));
    let quoted = "\u{feff}id,text\r\n\r\n1,\"a, \"\"b\"\"\r\nc\"\r\n2,\r\n3,\"\"";
    let cases = [
        (case("bom", format!("\u{feff}{x}"), none(), &[]), 1),
        (case("crlf", format!("{x}{y}").replace('\n', "\r\n"), none(), &[]), 2),
        (case("gaps", format!("\n\n{x}  \n\t\n{}", y.trim_end()), none(), &[]), 2),
        (case("extra", x.replace("{\"body\"", "{\"note\":1,\"body\""), none(), &[]), 1),
        (case("nostream", line(&json!("a"), "{\"stream\":false}"), none(), &[]), 1),
        (case("longest", line(&json!("i".repeat(512)), "{}"), none(), &[]), 1),
        (case("odd", line(&json!("ä/ \u{1f600}"), "{}"), none(), &[]), 1),
        (file("quoted", "csv", quoted, rows("$(row.text)"), &[]), 3),
        (file("packed", "dat", gzip(format!("\u{feff}{x}").as_bytes()).await, none(), &[]), 1),
        (file("object", "txt", "\u{feff}x", objects("$(object.text)", none()), &[]), 1),
    ];
    let mut jobs = vec![];
    for (case, _) in &cases {
        let mut spec = json!({"suspend": true});
        spec.as_object_mut().unwrap().extend(case.spec.as_object().unwrap().clone());
        jobs.push(scene.job(case.name, json!({"inputKey": case.key, "spec": spec})));
        for (key, bytes) in &case.objects {
            scene.put(&format!("in/{key}"), bytes.clone()).await;
        }
    }
    scene.apply(&list(jobs));
    for (case, requests) in &cases {
        let job = scene.wait_condition(case.name, "Planned", "True", 60).await;
        assert_eq!(job.status.unwrap().requests.unwrap().total, *requests, "{}", case.name);
    }
    nothing_was_sent(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_and_its_arrival_noticed() {
    let scene = Scene::new("missing", &["--batch-duration", "200ms"]).await;
    let changed = |path: &str, value: &str| {
        let mut job = scene.job("x", json!({"inputKey": "there.jsonl"}));
        *job["spec"].pointer_mut(path).unwrap() = value.into();
        job
    };
    let (input, output) = ("/input/objectStore", "/output/objectStore");
    let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    let auth = |name: &str, key: &str| json!({"auth": {"secretKeyRef": {"name": name, "key": key}}});
    let maps = |maps: Value| scene.job("x", json!({"spec": {"input": {"inline": null, "configMaps": maps}}}));
    let wrong = json!({"aws_access_key_id": storage().access_key, "aws_secret_access_key": "wrong"});
    scene.put("in/there.jsonl", batch_lines("t", 1)).await;
    scene.apply(&list(vec![
        secret("wrong", wrong),
        secret("half", json!({"aws_access_key_id": "a"})),
        secret("hollow", json!({"aws_access_key_id": "a", "aws_secret_access_key": " "})),
        provider(&scene, "nosecret", auth("none", "api-key")),
        provider(&scene, "nokey", auth("llm-key", "none")),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"a": "x"}}),
    ]));
    let cases: Vec<(&str, Value, &str, &[&str])> = vec![
        (
            "provider",
            changed("/providerRef/name", "nope"),
            "ProviderNotFound",
            &["BatchProvider 'nope' was not found in namespace", "create it, or correct `spec.providerRef`"],
        ),
        (
            "later",
            changed(&format!("{output}/secretRef/name"), "later"),
            "SecretNotFound",
            &["Secret 'later', which `spec.output` names, was not found", "create it"],
        ),
        (
            "inputsecret",
            changed(&format!("{input}/secretRef/name"), "none"),
            "SecretNotFound",
            &["Secret 'none', which `spec.input` names, was not found", "create it"],
        ),
        (
            "half",
            changed(&format!("{input}/secretRef/name"), "half"),
            "SecretNotFound",
            &["Secret 'half', which `spec.input` names, has no key 'aws_secret_access_key'; add it"],
        ),
        (
            "hollow",
            changed(&format!("{output}/secretRef/name"), "hollow"),
            "SecretNotFound",
            &["key 'aws_secret_access_key' of Secret 'hollow'", "is empty or not text"],
        ),
        (
            "nosecret",
            changed("/providerRef/name", "nosecret"),
            "SecretNotFound",
            &["Secret 'none', which BatchProvider 'nosecret' names, was not found", "create it"],
        ),
        (
            "nokey",
            changed("/providerRef/name", "nokey"),
            "SecretNotFound",
            &["Secret 'llm-key', which BatchProvider 'nokey' names, has no key 'none'; add it"],
        ),
        (
            "bucket",
            changed(&format!("{output}/uri"), "s3://no-such-bucket/out/"),
            "StorageUnavailable",
            &["the bucket of s3://no-such-bucket/out/", "does not exist; create it, or correct the URI"],
        ),
        (
            "inputbucket",
            changed(&format!("{input}/uri"), "s3://no-such-bucket/in/"),
            "StorageUnavailable",
            &["the bucket of s3://no-such-bucket/in/", "does not exist; create it, or correct the URI"],
        ),
        (
            "wrong",
            changed(&format!("{input}/secretRef/name"), "wrong"),
            "CredentialsRejected",
            &["access to s3://tests/", "check the credentials in the Secret and the bucket's policy"],
        ),
        (
            "slashes",
            changed(&format!("{input}/uri"), "s3://tests/a//b.jsonl"),
            "StorageUnavailable",
            &["'s3://tests/a//b.jsonl' is not a URI of the form s3://BUCKET/KEY", "correct the URI"],
        ),
        (
            "dots",
            changed(&format!("{input}/uri"), "s3://tests/a/../b.jsonl"),
            "StorageUnavailable",
            &["'s3://tests/a/../b.jsonl' is not a URI of the form s3://BUCKET/KEY"],
        ),
        (
            "variable",
            changed(&format!("{output}/uri"), "s3://tests/$(runID)/"),
            "InvalidInput",
            &["`spec.output` uses `$(runID)`, but `spec.runID` is not set"],
        ),
        (
            "unknown",
            changed(&format!("{output}/uri"), "s3://tests/$(uid)/"),
            "InvalidInput",
            &["`spec.output` uses `$(uid)`; only `$(namespace)`, `$(name)` and `$(runID)` are known"],
        ),
        (
            "unclosed",
            changed(&format!("{output}/uri"), "s3://tests/$(name/"),
            "InvalidInput",
            &["`spec.output` has a `$(` without its `)`"],
        ),
        (
            "map",
            maps(json!([{"name": "map", "key": "a"}, {"name": "none"}])),
            "ConfigMapNotFound",
            &["ConfigMap 'none', which `spec.input` names, was not found in namespace", "create it"],
        ),
        (
            "key",
            maps(json!([{"name": "map", "key": "b"}])),
            "ConfigMapNotFound",
            &["ConfigMap 'map', which `spec.input` names, has no key 'b'; add it"],
        ),
    ];
    let named = cases.iter().map(|(name, job, ..)| {
        let mut job = job.clone();
        job["metadata"]["name"] = (*name).into();
        if job["spec"]["output"]["objectStore"]["uri"].as_str().unwrap().ends_with("/out/x/") {
            job["spec"]["output"]["objectStore"]["uri"] = format!("s3://tests/{}/out/{name}/", scene.namespace).into();
        }
        job
    });
    scene.apply(&list(named.collect()));
    for (name, _, wanted, words) in &cases {
        let job = scene.wait_condition(name, "Stalled", "True", 60).await;
        let (_, reason, message) = condition(&job, "Stalled").unwrap();
        assert_eq!(reason, *wanted, "{name}: {message}");
        assert!(words.iter().all(|words| message.contains(words)), "{name}: {message}");
    }
    nothing_was_sent(&scene).await;
    scene.apply(&scene.manifest("storage.yaml").replace("name: s3", "name: later"));
    scene.wait_complete("later").await;
    // What never started is not held back when it is deleted.
    let never: Vec<&str> = cases.iter().map(|(name, ..)| *name).filter(|name| *name != "later").collect();
    scene.kubectl(&[&["delete", "bjob", "--timeout=60s"], &never[..]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_that_a_schema_sees_are_refused_at_once() {
    let scene = Scene::set("bad-schema", &[]).await;
    let refused = refused(&scene);
    let named = refused.iter().enumerate().map(|(i, (job, _))| {
        let mut job = job.clone();
        job["metadata"]["name"] = format!("refused-{i}").into();
        if job["spec"]["input"]["configMaps"].is_array() && job["spec"]["input"]["inline"].is_null() {
            job["spec"]["input"].as_object_mut().unwrap().remove("inline");
        }
        job
    });
    // What kubectl sees by itself, it says of the first one only.
    let apply = ["-n", &scene.namespace, "apply", "--validate=false", "-f", "-"];
    let (ok, said) = cluster().try_kubectl(&apply, Some(&list(named.collect())));
    assert!(!ok && !said.contains(" created"), "{said}");
    for (i, (_, words)) in refused.iter().enumerate() {
        let about = said.split("\"refused-").find(|about| about.starts_with(&format!("{i}\" is invalid")));
        assert!(about.is_some_and(|about| about.contains(words)), "refused-{i}: {words}: {about:?}: {said}");
    }
}
