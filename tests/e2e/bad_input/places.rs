//! Objects: where they are, what they are compressed with, and what they hold.

use async_compression::tokio::write::ZstdEncoder;

use super::*;

/// More than a gigabyte of nothing, in a few kilobytes.
async fn bomb() -> Vec<u8> {
    let mut encoder = ZstdEncoder::new(vec![]);
    encoder.write_all(&vec![0; 64 << 20]).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner().repeat(17)
}

pub async fn places() -> Vec<Case> {
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
        file(
            "more",
            "gz",
            [&packed[..], b"more"].concat(),
            none(),
            &["in/more.gz: is followed by bytes that are not compr"],
        ),
        file("sheet", "jsonl", b"PK\x03\x04\x14\0", none(), &["in/sheet.jsonl: is a ZIP archive or an Excel workbook"]),
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

/// Output and input lie within each other.
pub fn within(name: &'static str, key: &str, path: &str) -> Case {
    let output = json!({"output": {"path": path}});
    place(name, key, &[], output, &["lie within each other", "write to a folder of its own"])
}
