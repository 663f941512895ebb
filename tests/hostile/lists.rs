//! Lists of batches: what is looked for is found, or it is said that nothing can be concluded.

use std::sync::Arc;
use std::time::Duration;

use batchjob_operator::api::ProviderType;
use batchjob_operator::provider::{BatchApi, ErrorKind};
use futures::future::join_all;
use serde_json::{Value, json};

use super::answers;
use super::client_of;
use super::server::{Answer, Server};

const NOW: i64 = 2_000_000_000;

fn batch(id: &str) -> Value {
    json!({"id": id, "status": "completed", "created_at": NOW, "input_file_id": "f", "metadata": {"i": id}})
}

fn other(n: usize) -> Value {
    json!({"id": format!("x{n}"), "status": "completed", "created_at": NOW, "input_file_id": "g"})
}

/// Ids of the batches of file `f`; or the class of the error, and how many requests it took. In every dialect the same.
async fn find(page: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> (Result<Vec<String>, ErrorKind>, usize) {
    let page = Arc::new(page);
    let found = join_all(ProviderType::ALL.map(|type_| find_as(type_, page.clone()))).await;
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
    found[0].clone()
}

type Pages = Arc<dyn Fn(usize, &str) -> Answer + Send + Sync>;

async fn find_as(type_: ProviderType, page: Pages) -> (Result<Vec<String>, ErrorKind>, usize) {
    let server = Server::start(move |n, first| page(n, first)).await;
    let api = client_of(type_, &server, true);
    let wanted = |b: &batchjob_operator::provider::Batch| b.input_file_id.as_deref() == Some("f");
    let found = tokio::time::timeout(Duration::from_secs(60), api.find(NOW, &wanted)).await.expect("an end");
    (found.map(|all| all.into_iter().map(|b| b.id).collect()).map_err(|e| e.kind), server.seen().len())
}

async fn find_in(pages: Vec<Value>) -> Result<Vec<String>, ErrorKind> {
    let last = pages.len() - 1;
    find(move |n, _| answers::json(200, &pages[n.min(last)].to_string())).await.0
}

fn ids(ids: &[&str]) -> Result<Vec<String>, ErrorKind> {
    Ok(ids.iter().map(|id| id.to_string()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_found_however_the_list_is_dressed() {
    let page = |data: Value, more: Value, last: &str| json!({"data": data, "has_more": more, "last_id": last});
    let empty = json!({"data": []});
    for (what, pages, wanted) in [
        ("one page", vec![page(json!([other(1), batch("b")]), json!(false), "b")], ids(&["b"])),
        ("a bare list that ends", vec![json!([batch("b")]), json!([])], ids(&["b"])),
        ("nothing", vec![empty.clone()], ids(&[])),
        ("nothing, as null at the end", vec![json!({"data": [], "has_more": null, "last_id": null})], ids(&[])),
        (
            "two pages",
            vec![page(json!([other(1)]), json!(true), "x1"), page(json!([batch("b")]), json!(false), "b")],
            ids(&["b"]),
        ),
        (
            "pages of a server that does not say whether there are more",
            vec![json!({"data": [other(1)]}), json!({"data": [batch("b")]}), empty.clone()],
            ids(&["b"]),
        ),
        (
            "more, said in words",
            vec![page(json!([other(1)]), json!("true"), "x1"), page(json!([batch("b")]), json!("false"), "b"), empty],
            ids(&["b"]),
        ),
        (
            "a cursor that is a number",
            vec![
                json!({"data": [other(1)], "has_more": true, "last_id": 7}),
                page(json!([batch("b")]), json!(false), "b"),
            ],
            ids(&["b"]),
        ),
        (
            "a cursor that has to be taken from the last batch",
            vec![json!({"data": [other(1)], "has_more": true}), page(json!([batch("b")]), json!(false), "b")],
            ids(&["b"]),
        ),
        (
            "an old batch that says nothing",
            vec![page(json!([batch("b"), {"id": "old", "created_at": NOW - 200_000}]), json!(false), "b")],
            ids(&["b"]),
        ),
        (
            "times as text",
            vec![page(json!([{"id": "b", "created_at": "2000000000", "input_file_id": "f"}]), json!(false), "b")],
            ids(&["b"]),
        ),
        (
            "twice in a list that shifted meanwhile",
            vec![page(json!([batch("b")]), json!(true), "b"), page(json!([batch("b")]), json!(false), "c")],
            ids(&["b"]),
        ),
    ] {
        assert_eq!(find_in(pages).await, wanted, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_to_its_end_unless_it_shows_that_the_newest_come_first() {
    let old = |n: i64| json!({"id": format!("o{n}"), "created_at": NOW - 200_000 + n, "input_file_id": "g"});
    let page = |olds: &[i64], last: &str| {
        let data: Vec<Value> = olds.iter().map(|n| old(*n)).collect();
        json!({"data": data, "has_more": true, "last_id": last})
    };
    let ours = json!({"data": [batch("b")], "has_more": false, "last_id": "b"});
    for (what, pages, wanted) in [
        ("oldest first", vec![page(&[1, 2, 3], "o3"), ours.clone()], ids(&["b"])),
        ("by id", vec![page(&[3, 1, 2], "o2"), ours.clone()], ids(&["b"])),
        ("all of one time", vec![page(&[1, 1], "o1"), ours.clone()], ids(&["b"])),
        ("by id, seen on the second page", vec![page(&[5], "x"), page(&[9, 7], "o7"), ours.clone()], ids(&["b"])),
        ("newest first", vec![page(&[3, 2, 1], "o1"), ours], ids(&[])),
    ] {
        assert_eq!(find_in(pages).await, wanted, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_in_which_a_batch_could_hide_is_no_answer() {
    let page = |data: Value, more: Value, last: Value| json!({"data": data, "has_more": more, "last_id": last});
    for (what, pages) in [
        ("ids alone", vec![page(json!(["b1", "b2"]), json!(false), json!("b2"))]),
        ("ids alone, as objects", vec![page(json!([{"id": "b1"}, {"id": "b2"}]), json!(false), json!("b2"))]),
        ("no ids", vec![page(json!([{"status": "completed", "input_file_id": "f"}]), json!(false), json!(null))]),
        (
            "an id that nobody can use",
            vec![page(json!([{"id": "a b", "input_file_id": "f"}]), json!(false), json!(null))],
        ),
        ("null among batches", vec![page(json!([batch("b"), null]), json!(false), json!("b"))]),
        ("a list among batches", vec![page(json!([[batch("b")]]), json!(false), json!("b"))]),
        ("more, and not where", vec![page(json!([]), json!(true), json!(null))]),
        (
            "more, after an id that nobody can use",
            vec![page(json!([{"id": "", "input_file_id": "g", "created_at": 1}]), json!(true), json!(null))],
        ),
        ("the same page again", vec![page(json!([other(1)]), json!(true), json!("x1"))]),
        ("the same page again, unsaid", vec![json!([other(1)])]),
        ("a page of 1,000", vec![page((0..1_000).map(other).collect(), json!(false), json!("x"))]),
        ("a page of 5,000", vec![page((0..5_000).map(other).collect(), json!(false), json!("x"))]),
    ] {
        assert_eq!(find_in(pages).await, Err(ErrorKind::Unsupported), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_read_means_that_nothing_is_known() {
    let first = json!({"data": [batch("b")], "has_more": true, "last_id": "b"});
    for odd in
        [json!(null), json!({}), json!("x"), json!({"data": {}}), json!({"data": null}), json!({"object": "list"})]
    {
        let first = first.clone();
        let (found, requests) =
            find(move |n, _| answers::json(200, &if n == 0 { &first } else { &odd }.to_string())).await;
        assert_eq!(found, Err(ErrorKind::Transient));
        assert!(requests <= 5, "{requests}");
    }
    for status in [401, 403, 404, 429, 500, 503] {
        let first = first.clone();
        let (found, requests) = find(move |n, _| match n {
            0 => answers::json(200, &first.to_string()),
            _ => answers::json(status, "{}"),
        })
        .await;
        assert!(found.is_err(), "{status}");
        assert!(requests <= 5, "{status}: {requests}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_goes_round_or_never_ends_is_left() {
    let round = |n: usize, _: &str| {
        let i = n % 3;
        answers::json(200, &json!({"data": [other(i)], "has_more": true, "last_id": format!("x{i}")}).to_string())
    };
    let (found, requests) = find(round).await;
    assert_eq!(
        (found, requests),
        (Err(ErrorKind::Unsupported), 4),
        "a round of three pages is noticed at its second turn"
    );
    let endless = |n: usize, _: &str| {
        answers::json(200, &json!({"data": [other(n)], "has_more": true, "last_id": format!("x{n}")}).to_string())
    };
    let (found, requests) = find(endless).await;
    assert_eq!((found, requests), (Err(ErrorKind::Unsupported), 1_000));
}
