//! Files of answers: what can be read is kept as it came, and the rest is counted, never guessed.

#[path = "../support/sent.rs"]
pub mod support;

use batchjob_operator::api::RequestCounts;
use batchjob_operator::results::{self, CollectedPart, Collection};
use batchjob_operator::store::staged;
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use serde::Deserialize;
use support::{REQUESTS, WORK, sent};
use tokio::io::AsyncReadExt;

/// A line of a part; what came may hold numbers that no one can hold.
#[derive(Deserialize)]
struct Head {
    index: i64,
}

/// What is made of these files; and the part's lines. Where `unreadable`, requests that no line names may be in what cannot
/// be read, and `unusable` says why a file is not there.
pub async fn part_of(files: Vec<Vec<u8>>, unreadable: bool, unusable: &str) -> (CollectedPart, String) {
    let (folder, shard) = sent().await;
    let file = |bytes: Vec<u8>| futures::stream::iter([Ok(Bytes::from(bytes))]).boxed();
    let collection = Collection {
        folder: &folder,
        work_id: WORK,
        attempt_key: "00000-1".into(),
        index: &shard.index_sha256,
        requests: shard.requests,
        files: files.into_iter().map(file).collect(),
        long_context_above: None,
        may_be_unreadable: &|_| unreadable,
        unusable,
    };
    let part = results::collect(collection, &std::env::temp_dir()).await.unwrap();
    let mut text = String::new();
    staged::open(&folder, &part.name).await.unwrap().read_to_string(&mut text).await.unwrap();
    (part, text)
}

/// What is made of these files; and the indexes of the part's lines.
async fn collected(files: Vec<Vec<u8>>) -> (CollectedPart, Vec<i64>) {
    let (part, text) = part_of(files, false, "").await;
    let lines = text.lines().map(|l| serde_json::from_str::<Head>(l).unwrap().index).collect();
    (part, lines)
}

/// An answer to request `index`.
fn answer(index: usize) -> String {
    format!(
        r#"{{"id":"x","custom_id":"r{index}-01234567","response":{{"status_code":200,"body":{{"n":{index}}}}},"error":null}}"#
    )
}

fn sums(counts: &RequestCounts) -> i64 {
    counts.succeeded + counts.failed + counts.expired + counts.cancelled + counts.missing
}

/// Case 25-nan-in-answers, and its kind.
#[tokio::test]
async fn answers_are_kept_and_what_is_none_is_counted() {
    let (a, b) = (answer(0), answer(1));
    let big = format!(
        r#"{{"custom_id":"r0-01234567","response":{{"status_code":200,"body":{{"y":"{}"}}}}}}"#,
        "y".repeat(5 << 20)
    );
    let deep = format!(
        r#"{{"custom_id":"r0-01234567","response":{{"status_code":200,"body":{}1{}}}}}"#,
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    let too_long = "z".repeat((32 << 20) + 1);
    let with = |head: &str, rest: &str| {
        format!(r#"{{"custom_id":{head},"response":{{"status_code":200,"body":{{"n":1}}}}{rest}}}"#)
    };
    // Succeeded, failed, foreign, unreadable.
    let cases: Vec<(&str, Vec<u8>, [i64; 4])> = vec![
        ("nothing", b"".to_vec(), [0, 0, 0, 0]),
        ("empty lines", b"\n\r\n \t\n".to_vec(), [0, 0, 0, 0]),
        ("two answers", format!("{a}\n{b}\n").into(), [2, 0, 0, 0]),
        ("the last without an end", format!("{a}\n{b}").into(), [2, 0, 0, 0]),
        ("lines that end as on Windows", format!("{a}\r\n{b}\r\n").into(), [2, 0, 0, 0]),
        ("a byte-order mark", format!("\u{feff}{a}\n{b}\n").into(), [2, 0, 0, 0]),
        ("spaces around", format!("  {a}  \n\t{b}\n").into(), [2, 0, 0, 0]),
        ("one twice", format!("{a}\n{a}\n{b}\n").into(), [2, 0, 0, 0]),
        ("the last cut off, its id too", format!("{a}\n{}", &b[..30]).into(), [1, 0, 0, 1]),
        ("the last cut off after its id", format!("{a}\n{}", &b[..40]).into(), [1, 1, 0, 0]),
        ("a page of HTML", b"<!doctype html>\n<h1>Sign in</h1>\n".to_vec(), [0, 0, 0, 2]),
        ("a list instead of lines", format!("[{a},{b}]").into(), [2, 0, 0, 0]),
        ("a list over several lines", format!("[\n{a},\n{b}\n]\n").into(), [2, 0, 0, 0]),
        ("two in one line", format!("{a}{b}\n").into(), [2, 0, 0, 0]),
        ("two in one line, and a third cut off", format!("{a}{b}{}\n", &answer(2)[..40]).into(), [2, 1, 0, 0]),
        ("one over several lines", a.replace(',', ",\n").into(), [1, 0, 0, 0]),
        ("two over several lines", format!("{a}\n{b}\n").replace(',', ",\n").into(), [2, 0, 0, 0]),
        ("events of a stream", format!("data: {a}\n\ndata: {b}\n\ndata: [DONE]\n").into(), [2, 0, 0, 1]),
        ("an object that Python shows", a.replace('"', "'").replace("null", "None").into(), [0, 1, 0, 0]),
        ("bytes that Python shows", format!("b'{a}'\n").into(), [1, 0, 0, 0]),
        ("the text of a line", serde_json::to_string(&a).unwrap().into(), [0, 1, 0, 0]),
        ("words about a request", b"Traceback: r0-01234567 failed\n".to_vec(), [0, 1, 0, 0]),
        ("two requests in one that is no JSON", format!("{a}{b}").replace("}{", "").into(), [0, 2, 0, 0]),
        ("an id under another key", a.replace("custom_id", "customId").into(), [0, 1, 0, 0]),
        (
            "numbers that are none",
            answer(0).replace(r#""n":0"#, r#""n":[NaN,-Infinity,Infinity]"#).into(),
            [1, 0, 0, 0],
        ),
        (
            "numbers that are none, and a failure",
            answer(0).replace(r#""n":0"#, r#""n":NaN"#).replace("200", "500").into(),
            [0, 1, 0, 0],
        ),
        ("a lone surrogate", answer(0).replace(r#""n":0"#, r#""n":"\ud83d""#).into(), [1, 0, 0, 0]),
        ("a comma too many", answer(0).replace(r#""n":0"#, r#""n":0,"#).into(), [0, 1, 0, 0]),
        (
            "keys twice",
            with(r#""r0-01234567""#, r#","error":null,"error":{},"response":{"status_code":200,"body":{"n":1,"n":2}}"#)
                .into(),
            [1, 0, 0, 0],
        ),
        (
            "an error of nulls",
            answer(0).replace("null", r#"{"code":null,"message":null,"param":[]}"#).into(),
            [1, 0, 0, 0],
        ),
        (
            "no response and an error in words",
            br#"{"custom_id":"r0-01234567","response":null,"error":"it broke"}"#.to_vec(),
            [0, 1, 0, 0],
        ),
        (
            "an error where an answer was due",
            answer(0).replace(r#"{"n":0}"#, r#"{"error":{"message":"m"}}"#).into(),
            [0, 1, 0, 0],
        ),
        ("no status", answer(0).replace(r#""status_code":200,"#, "").into(), [1, 0, 0, 0]),
        ("another work's", answer(0).replace("01234567", "ffffffff").into(), [0, 0, 1, 0]),
        ("an index out of range", answer(4).into(), [0, 0, 1, 0]),
        ("an index that overflows", answer(0).replace("r0-", "r99999999999999999999-").into(), [0, 0, 1, 0]),
        ("an index below zero", answer(0).replace("r0-", "r-1-").into(), [0, 0, 1, 0]),
        ("an index with a sign", answer(1).replace("r1-", "r+1-").into(), [0, 0, 1, 0]),
        ("an index with zeros", answer(1).replace("r1-", "r01-").into(), [0, 0, 1, 0]),
        ("the user's own id", with(r#""0""#, "").into(), [0, 0, 1, 0]),
        ("no id", br#"{"response":{"status_code":200}}"#.to_vec(), [0, 0, 1, 0]),
        ("an id that is null", with("null", "").into(), [0, 0, 1, 0]),
        ("an id that is a number", with("0", "").into(), [0, 0, 1, 0]),
        ("an id that is a list", with("[]", "").into(), [0, 0, 1, 0]),
        ("an id twice", with(r#""r0-01234567","custom_id":"r1-01234567""#, "").into(), [0, 2, 0, 0]),
        ("the same id twice", with(r#""r0-01234567","custom_id":"r0-01234567""#, "").into(), [1, 0, 0, 0]),
        ("an id in escapes", with(r#""\u0072\u0030-01234567""#, "").into(), [1, 0, 0, 0]),
        (
            "keys that nobody knows",
            with(r#""r0-01234567""#, r#","extra":{"deep":[{}]},"created":1"#).into(),
            [1, 0, 0, 0],
        ),
        ("a body that is text", answer(0).replace(r#"{"n":0}"#, r#""{\"n\":0}""#).into(), [1, 0, 0, 0]),
        ("a body that is null", answer(0).replace(r#"{"n":0}"#, "null").into(), [0, 1, 0, 0]),
        ("a body that is empty", answer(0).replace(r#"{"n":0}"#, "{}").into(), [0, 1, 0, 0]),
        ("a body that is a page", answer(0).replace(r#"{"n":0}"#, r#""<html>""#).into(), [0, 1, 0, 0]),
        ("a status as text", answer(0).replace("200", "\"200\"").into(), [1, 0, 0, 0]),
        ("a status of zero", answer(0).replace("200", "0").into(), [0, 1, 0, 0]),
        ("a status below zero", answer(0).replace("200", "-200").into(), [0, 1, 0, 0]),
        ("a status that overflows", answer(0).replace("200", "1e400").into(), [0, 1, 0, 0]),
        ("a status that is an object", answer(0).replace("200", "{}").into(), [0, 1, 0, 0]),
        ("an error that is empty", answer(0).replace("null", "{}").into(), [1, 0, 0, 0]),
        ("an error that is false", answer(0).replace("null", "false").into(), [1, 0, 0, 0]),
        ("an error beside an answer", answer(0).replace("null", r#""no""#).into(), [0, 1, 0, 0]),
        (
            "an error of a million values",
            answer(0).replace("null", &format!("[{}0]", "[[]],".repeat(300_000))).into(),
            [0, 1, 0, 0],
        ),
        ("a refusal", answer(0).replace("200", "400").into(), [0, 1, 0, 0]),
        ("a response that is text", br#"{"custom_id":"r0-01234567","response":"x"}"#.to_vec(), [0, 1, 0, 0]),
        ("an id alone", br#"{"custom_id":"r0-01234567"}"#.to_vec(), [0, 1, 0, 0]),
        ("something that is not UTF-8", [&a.as_bytes()[..1], b"\xff\xfe", &a.as_bytes()[1..]].concat(), [0, 1, 0, 0]),
        (
            "an answer that is not UTF-8",
            answer(0).replace(r#""n":0"#, r#""n":"caf#""#).bytes().map(|b| if b == b'#' { 0xe9 } else { b }).collect(),
            [1, 0, 0, 0],
        ),
        ("a NUL between", format!("{a}\n\0\n{b}\n").into(), [2, 0, 0, 1]),
        ("a line end in a text", answer(0).replace(r#""n":0"#, "\"n\":\"a\nb\"").into(), [1, 0, 0, 0]),
        ("5 MB in one line", big.into(), [1, 0, 0, 0]),
        ("a body 50,000 deep", deep.into(), [1, 0, 0, 0]),
        ("a line over its limit", format!("{too_long}\n{b}\n").into(), [1, 0, 0, 1]),
        (
            "numbers that no one can hold",
            answer(0).replace(r#""n":0"#, r#""n":1e999,"m":123456789012345678901234567890"#).into(),
            [1, 0, 0, 0],
        ),
        (
            "separators of other alphabets",
            answer(0).replace(r#""n":0"#, "\"n\":\"a\u{2028}b\u{85}c\"").into(),
            [1, 0, 0, 0],
        ),
    ];
    for (what, bytes, wanted) in cases {
        let (part, lines) = collected(vec![bytes]).await;
        let counts = &part.counts;
        let got = [counts.succeeded, counts.failed, part.foreign as i64, part.found.unreadable];
        assert_eq!(got, wanted, "{what}");
        assert_eq!(part.usage.repeated_rows, i64::from(what == "one twice"), "{what}");
        assert_eq!((sums(counts), counts.total), (REQUESTS as i64, REQUESTS as i64), "{what}");
        assert_eq!(lines.len() as i64, counts.succeeded + counts.failed, "{what}");
    }
}

#[tokio::test]
async fn a_file_does_not_run_on_in_the_next() {
    let (part, _) = collected(vec![answer(0).into_bytes(), answer(1).into_bytes()]).await;
    assert_eq!((part.counts.succeeded, part.found.unreadable), (2, 0));
    let whole = answer(2).into_bytes();
    let (part, _) = collected(vec![whole[..30].to_vec(), whole[30..].to_vec()]).await;
    assert_eq!((part.counts.succeeded, part.found.unreadable), (0, 3), "halves of two files are no answer");
}

/// What may happen to a file on its way.
#[derive(Clone, Debug)]
enum Harm {
    Cut(usize),
    Set(usize, u8),
    Drop(usize, usize),
    Double(usize, usize),
    Insert(usize, Vec<u8>),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        any::<usize>().prop_map(Harm::Cut),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        (any::<usize>(), 0..80usize).prop_map(|(at, n)| Harm::Drop(at, n)),
        (any::<usize>(), 0..200usize).prop_map(|(at, n)| Harm::Double(at, n)),
        (any::<usize>(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(at, bytes)| Harm::Insert(at, bytes)),
    ]
}

fn harmed(mut file: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        let within = |at: usize| at % (file.len() + 1);
        match harm {
            Harm::Cut(at) => file.truncate(within(*at)),
            Harm::Set(at, byte) => {
                let at = at % file.len().max(1);
                if let Some(there) = file.get_mut(at) {
                    *there = *byte;
                }
            }
            Harm::Drop(at, n) => {
                let at = within(*at);
                file.drain(at..(at + n).min(file.len()));
            }
            Harm::Double(at, n) => {
                let at = within(*at);
                let copy = file[at..(at + n).min(file.len())].to_vec();
                file.splice(at..at, copy);
            }
            Harm::Insert(at, bytes) => {
                let at = within(*at);
                file.splice(at..at, bytes.iter().copied());
            }
        }
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_happens_to_a_file_every_request_ends_once(harms in proptest::collection::vec(harm(), 1..6)) {
        let whole: String = (0..REQUESTS).map(|i| answer(i) + "\n").collect();
        let file = harmed(whole.clone().into_bytes(), &harms);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (part, lines) = runtime.block_on(collected(vec![file]));
        prop_assert_eq!(sums(&part.counts), REQUESTS as i64);
        let mut indexes = lines.clone();
        prop_assert_eq!(indexes.len() as i64, REQUESTS as i64 - part.counts.missing);
        indexes.dedup();
        prop_assert_eq!(indexes.len(), lines.len(), "each once, in order");
        prop_assert!(indexes.is_sorted());
    }
}

/// Requests that no line names are not left as missing where something cannot be read: a person finds what there is.
#[tokio::test]
async fn what_cannot_be_fetched_is_named_where_no_line_names_a_request() {
    let explained = async |unusable: &str, file: String| {
        let (part, text) = part_of(vec![file.into_bytes()], true, unusable).await;
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!((part.counts.succeeded, part.counts.failed, part.counts.missing), (2, 2, 0));
        assert_eq!((part.errors[0].code.as_str(), part.errors[0].count), ("unreadable_answer", 2));
        assert_eq!(part.incomplete, 2, "the provider keeps its files");
        lines
    };
    let file = format!("{}\n<html>\n{}\n", answer(0), answer(2));
    let lines = explained("", file.clone()).await;
    assert_eq!(lines[1]["line"]["error"]["raw_line"], "<html>");
    assert!(lines[3]["line"]["error"].get("raw_line").is_none(), "{}", lines[3]);
    let lines = explained("its `error_file_id` is a list", file).await;
    assert!(lines[1]["line"]["error"]["message"].as_str().unwrap().ends_with("its `error_file_id` is a list"));
}
