//! Tables and rows.

use super::*;

pub fn tables() -> Vec<Case> {
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
        file(
            "semicolon",
            "csv",
            "ID;text\n1;x\n",
            rows("x"),
            &["line 2: has no column `id`", "it has `ID;text`", "by `;`?"],
        ),
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
        file(
            "wide",
            "csv",
            utf16("id,text\n1,x\n").split_off(2),
            rows(text),
            &["line 2: has no column `id`", "is the file UTF-16? set `spec.input.csv.encoding: UTF-16`"],
        ),
        file(
            "encoding",
            "csv",
            "id,text\n1,x\n",
            input(json!({"template": template(text), "csv": {"encoding": "Klingon"}})),
            &["`spec.input.csv.encoding` is none that is known"],
        ),
        file(
            "norowid",
            "csv",
            "id,text\n,x\n",
            rows(text),
            &["line 2: has a custom id of 0 bytes; 1 to 512 are allowed"],
        ),
        file("sameid", "csv", "id,text\n1,x\n1,y\n", rows(text), &["line 3: has a custom id that an earlier request"]),
        file("header", "csv", "id,text\n", rows(text), &["holds no requests; put some there"]),
        file("notemplate", "csv", "id\n1\n", none(), &["is a table by its name", "set `spec.input.template`"]),
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
        case(
            "brokenrow",
            "{\"id\": 1,}\n",
            rows(text),
            &["line 1: is not JSON (a comma with nothing behind it", "take it out"],
        ),
        case(
            "objectid",
            "{\"id\":{},\"text\":1}\n",
            rows(text),
            &["line 1: has a column `id` that is no custom id; text"],
        ),
        case(
            "repeated",
            json!({"id": "a", "text": "x".repeat(4 << 20)}).to_string(),
            repeated,
            &["line 1: makes a request of more than 33554432 bytes; shorten it"],
        ),
    ]
}
