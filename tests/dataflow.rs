//! Whatever is cut, whatever comes back in whatever order, and however often: the results are in the order of the requests,
//! every request has one outcome, and the journal's counts say the same.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "dataflow/estimates.rs"]
mod estimates;
#[path = "dataflow/fates.rs"]
mod fates;
#[path = "dataflow/reuse.rs"]
mod reuse;
#[path = "support/recipe.rs"]
mod support;

use std::sync::Arc;

use batchjob_operator::api::{
    Endpoint, EnqueuedTokenLimits, InlineRequest, Outcome, OutputCompression, ProviderModel, ProviderType,
    ResultSelection, TokenHints,
};
use batchjob_operator::lifecycle::{
    Attempt, AttemptState, Journal, Owner, PartRef, Payload, RequestHistory, Shard, error_summary,
};
use batchjob_operator::provider::Dialect;
use batchjob_operator::requests::{PlanOptions, Source, pass};
use batchjob_operator::results::{
    self, Collection, Columns, Manifest, PartialResults, ResultForm, ResultSet, SettledShard,
};
use batchjob_operator::store::{Folder, ShardWriter, Sorted, StagedShard, hints_of_line, layout, staged};
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use fates::{Fate, ROUNDS, answers, billed, ends_answered, fate, limit};

const WORK: &str = "0123456789abcdef0123456789abcdef";
fn folder() -> Folder {
    Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/")
}

fn options(max_requests: i64, max_bytes: u64) -> PlanOptions {
    PlanOptions { max_requests, max_bytes, ..support::options() }
}

async fn read(folder: &Folder, name: &str) -> String {
    let mut text = String::new();
    staged::open(folder, name).await.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

/// Halves the last round's shards until none has more requests than the account takes, as the journal does it.
async fn halve(folder: &Folder, journal: &mut Journal, round: u32, most: i64) {
    let too_large = |j: &Journal| j.shards.iter().position(|s| s.round == round && s.requests > most);
    while let Some(at) = too_large(journal) {
        let whole = journal.shards[at].clone();
        let (half, spool) = (whole.requests / 2 + whole.requests % 2, std::env::temp_dir());
        let writer = ShardWriter::new(folder, WORK, &spool, half, u64::MAX);
        let earlier = sorted(journal.shards.iter().filter(|s| s.round < round));
        let halves = results::halve(writer, folder, (&whole).into(), earlier).await.unwrap();
        let [first, second] = halves.map(|half| Shard { round, ..half.into() });
        assert_eq!((first.requests, second.requests), (half, whole.requests - half));
        assert_eq!(first.bytes + second.bytes, whole.bytes, "what is sent is the same");
        journal.shards[at] = first;
        journal.shards.push(second);
    }
}

/// Sends a shard, and stages what comes back.
async fn settle(folder: &Folder, shard: &mut Shard, fates: &[Vec<Fate>], n: usize) {
    let sent = read(folder, &layout::shard(WORK, &shard.sha256)).await;
    assert_eq!((sent.len() as u64, sent.lines().count() as i64), (shard.bytes, shard.requests));
    for request in sent.lines() {
        let request: Value = serde_json::from_str(request).unwrap();
        assert_eq!(request["body"]["model"], shard.model, "one model a batch");
    }
    let mut hints = TokenHints::default();
    sent.lines().for_each(|line| hints += hints_of_line(line.as_bytes()));
    assert!(hints == shard.hints && hints.text_bytes > 0, "in each round, the hints are those of the requests");
    let back = answers(&sent, fates, shard.round as usize);
    collect(folder, shard, &back, n).await;
    let AttemptState::Settled { usage, .. } = &shard.attempt.as_ref().unwrap().state else {
        panic!("it was collected")
    };
    let usage = usage.tokens;
    let (input, answers) = billed(&sent, fates, shard.round as usize);
    assert_eq!((usage.input_tokens, usage.output_tokens), (input, answers), "what was billed, each answer once");
    assert_eq!(usage.answers_without_usage, 0);
}

/// Stages what came back for a shard.
async fn collect(folder: &Folder, shard: &mut Shard, back: &str, n: usize) {
    // In two pieces, cut anywhere.
    let (a, b) = back.split_at(back.len() / 3);
    let chunks: Vec<Result<Bytes, String>> = vec![Ok(a.to_string().into()), Ok(b.to_string().into())];
    let collection = Collection {
        folder,
        work_id: WORK,
        attempt_key: format!("{n:05}-1"),
        index: &shard.index_sha256,
        requests: shard.requests,
        files: vec![futures::stream::iter(chunks).boxed()],
        long_context_above: None,
        may_be_unreadable: &|_| false,
        unusable: "",
    };
    let part = results::collect(collection, &std::env::temp_dir()).await.unwrap();
    let state = AttemptState::Settled {
        batch_id: format!("b{n}"),
        ended: "completed".into(),
        part: Some(PartRef { name: part.name, sha256: part.sha256 }),
        counts: part.counts,
        usage: Box::new(part.usage),
        cost: None,
        retryable: part.retryable,
        errors: part.errors,
        files: vec![],
    };
    shard.attempt = Some(Attempt { state, ..Attempt::intended(1, "i", Payload::file("f"), 0, "") });
}

async fn send(folder: &Folder, journal: &mut Journal, round: usize, most: &[i64], fates: &[Vec<Fate>]) {
    halve(folder, journal, round as u32, most[round % most.len()]).await;
    for (n, shard) in journal.shards.iter_mut().enumerate().filter(|(_, s)| s.round == round as u32) {
        settle(folder, shard, fates, n).await;
    }
}

/// Shards as the join takes them, given in another order than theirs.
fn sorted<'a>(shards: impl DoubleEndedIterator<Item = &'a Shard>) -> Sorted<SettledShard> {
    let mut sorter = SettledShard::sorter(&std::env::temp_dir());
    shards.rev().for_each(|shard| sorter.push(shard.into()).unwrap());
    sorter.finish().unwrap()
}

/// The lines of a result file, read back and checked against the manifest.
async fn lines(set: &ResultSet, name: &str) -> Vec<Value> {
    json_lines(set.content(name)).await
}

async fn json_lines(mut content: impl AsyncRead + Unpin) -> Vec<Value> {
    let mut text = String::new();
    content.read_to_string(&mut text).await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| line["custom_id"].as_str().unwrap().to_string()).collect()
}

/// `most`: requests of one batch that the account takes, by round.
async fn flow(
    fates: Vec<Vec<Fate>>,
    limits: Vec<u32>,
    models: Vec<u8>,
    (max_requests, max_bytes, max_inputs, max_tokens): (i64, u64, u64, i64),
    most: Vec<i64>,
    form: ResultForm,
) {
    let folder = folder();
    let name = |i: usize| format!("request {i}");
    let body = |i: usize| {
        let model = format!("m{}", models[i % models.len()]);
        let input = (0..=i % 3).map(|n| "x".repeat(i % 17 + n)).collect::<Vec<_>>();
        Map::from_iter([("input".to_string(), json!(input)), ("model".to_string(), json!(model))])
    };
    let requests = (0..fates.len())
        .map(|i| InlineRequest { custom_id: name(i), body: Some(body(i).into()), ..Default::default() })
        .collect();
    let line = (Dialect::of(ProviderType::OpenAI).line)(Endpoint::Embeddings).unwrap();
    let limited = ProviderModel { name: "m1*".into(), max_enqueued_tokens: Some(max_tokens), ..Default::default() };
    let max_text = EnqueuedTokenLimits::of(&[limited]).text_of_batches(&[]);
    let fits = |shard: &StagedShard| {
        shard.requests == 1 || max_text.of_model(&shard.model).is_none_or(|most| shard.hints.text_bytes <= most)
    };
    let options = options(max_requests, max_bytes);
    let options =
        PlanOptions { endpoint: Endpoint::Embeddings, line, max_inputs, max_text: max_text.clone(), ..options };
    let spool = std::env::temp_dir();
    let passed = pass(Source::Inline(requests), &options, Some((&folder, WORK)), &spool).await.unwrap();
    let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: "u".into() };
    let mut journal = Journal::open(WORK.into(), owner, "s".into());
    for staged in passed.shards.map(Result::unwrap) {
        assert!(staged.requests <= max_requests && staged.bytes <= max_bytes && fits(&staged));
        assert!(inputs(&folder, &staged).await <= max_inputs);
        journal.shards.push(staged.into());
    }
    send(&folder, &mut journal, 0, &most, &fates).await;
    publish(&folder, &journal, 0).await;
    for round in 1..ROUNDS {
        let writer = ShardWriter::new(&folder, WORK, &spool, max_requests, max_bytes)
            .of_inputs(Some(max_inputs))
            .of_text(max_text.clone());
        let shards = sorted(journal.shards.iter());
        let again = results::follow_up(writer, &folder, shards, |asked| {
            RequestHistory::from(asked).may_be_sent_again(limit(&limits, round))
        });
        let again = again.await.unwrap();
        for follow_up in again.map(Result::unwrap) {
            assert_eq!(follow_up.prior_counts.total, follow_up.shard.requests);
            assert!(inputs(&folder, &follow_up.shard).await <= max_inputs && fits(&follow_up.shard));
            journal.shards.push(Shard { round: round as u32, ..follow_up.into() });
        }
        send(&folder, &mut journal, round, &most, &fates).await;
        publish(&folder, &journal, round).await;
    }
    let counts = journal.counts();
    assert!(
        [counts.succeeded, counts.failed, counts.expired, counts.cancelled, counts.missing].iter().all(|n| *n >= 0)
    );
    assert_eq!(
        counts.total,
        counts.succeeded + counts.failed + counts.expired + counts.cancelled + counts.missing,
        "every request has one outcome"
    );
    let told: i64 = error_summary(&journal).iter().map(|e| e.count).sum();
    assert_eq!(told, counts.failed + counts.expired + counts.cancelled, "every failure has a code");
    write(&folder, &journal, passed.work_hash, form).await;
    let (answered, without): (Vec<usize>, Vec<usize>) =
        (0..fates.len()).partition(|i| ends_answered(&fates[*i], &limits));
    let set = ResultSet::open(folder.clone()).await.unwrap().unwrap();
    let named = |indexes: &[usize]| indexes.iter().map(|i| name(*i)).collect::<Vec<_>>();
    assert_eq!(ids(&lines(&set, layout::RESULTS).await), named(&answered));
    assert_eq!(ids(&lines(&set, layout::ERRORS).await), named(&without));
    assert_eq!(ids(&lines(&set, layout::UNSUCCESSFUL).await), named(&without));
    let all: Vec<usize> = if form.requests { (0..fates.len()).collect() } else { vec![] };
    assert_eq!(ids(&lines(&set, layout::REQUESTS).await), named(&all));
    assert_eq!(counts.succeeded, answered.len() as i64);
    own_answers(&set, &answered).await;
    are_the_results(&folder, &set, &journal).await;
    let in_order = if form.requests { all } else { [answered.clone(), without.clone()].concat() };
    for (select, wanted) in [
        (ResultSelection::Succeeded, &answered),
        (ResultSelection::Unsuccessful, &without),
        (ResultSelection::All, &in_order),
    ] {
        let rows = rows(&set, select, form.requests || answered.is_empty()).await;
        assert_eq!(ids(&rows), named(wanted), "{select:?}");
        for (row, i) in rows.iter().zip(wanted) {
            let is_answered = answered.contains(i);
            assert!(row["response"]["of"] == json!(i) || (row["response"].is_null() && !is_answered), "{row}");
            assert_eq!(row.get("error").is_none_or(Value::is_null), is_answered, "{row}");
            if let Some(request) = row.get("request") {
                assert_eq!(*request, Value::Object(body(*i)), "{row}");
            }
        }
    }
}

/// Rows with all columns that the selection has.
async fn rows(set: &ResultSet, select: ResultSelection, has_requests: bool) -> Vec<Value> {
    let columns = Columns {
        custom_id: true,
        answer: select != ResultSelection::Unsuccessful,
        request: has_requests || select == ResultSelection::Unsuccessful,
        response: true,
        error: select != ResultSelection::Succeeded,
    };
    json_lines(set.rows(select, columns, &std::env::temp_dir()).unwrap()).await
}

/// Publishes the answers of a round's shards, as a process does that knows what is published.
async fn publish(folder: &Folder, journal: &Journal, round: usize) {
    let (spool, total) = (std::env::temp_dir(), journal.counts().total);
    let mut partial = PartialResults::open(folder, WORK, total, Default::default(), &spool).await.unwrap();
    for (index, shard) in journal.shards.entries().filter(|(_, shard)| shard.round == round as u32) {
        if shard.settled().unwrap().succeeded > 0 {
            partial.publish(index, shard.into()).await.unwrap();
        }
    }
    partial.finish().await.unwrap();
}

/// The published files hold each line of the results once and as it is there, the list says so, and a file that is published
/// again is the same.
async fn are_the_results(folder: &Folder, set: &ResultSet, journal: &Journal) {
    let text = async |name: &str| {
        let bytes = folder.read(name, 1 << 30).await.unwrap().unwrap_or_default();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    let index: Value = serde_json::from_str(&text(layout::PARTIAL_INDEX).await).unwrap();
    let mut lines = vec![];
    for file in index["files"].as_array().unwrap() {
        let content = text(&format!("{}/{}", layout::PARTIAL, file["name"].as_str().unwrap())).await;
        assert_eq!(file["lines"], content.lines().count());
        assert_eq!(file["bytes"], content.len());
        lines.extend(content.lines().map(String::from));
    }
    assert_eq!(index["requests"], json!({"total": journal.counts().total, "succeeded": lines.len()}));
    let mut content = String::new();
    set.content(layout::RESULTS).read_to_string(&mut content).await.unwrap();
    let mut results: Vec<String> = content.lines().map(String::from).collect();
    lines.sort();
    results.sort();
    assert_eq!(lines, results);
    let spool = std::env::temp_dir();
    let first = journal.shards.entries().find(|(_, shard)| shard.settled().unwrap().succeeded > 0);
    if let Some((at, shard)) = first {
        let name = format!("{}/{}", layout::PARTIAL, layout::partial(at));
        let before = text(&name).await;
        let mut again = PartialResults::open(folder, WORK, 0, Default::default(), &spool).await.unwrap();
        again.publish(at, shard.into()).await.unwrap();
        assert_eq!(text(&name).await, before);
    }
    results::delete_partial(folder, WORK).await.unwrap();
    assert!(!folder.exists(layout::PARTIAL_INDEX).await.unwrap());
}

/// Writes the results of a work that ended.
async fn write(folder: &Folder, journal: &Journal, work_hash: String, form: ResultForm) {
    let manifest = Manifest {
        manifest_version: 1,
        work_id: WORK.into(),
        work_hash,
        outcome: Outcome::Succeeded,
        reason: String::new(),
        message: String::new(),
        requests: journal.counts(),
        spending: Default::default(),
        errors: error_summary(journal),
        files: vec![],
        batches: vec![],
        billed_twice: 0,
        repeated_rows: 0,
        abandoned_batches: vec![],
        completed_at: 0,
    };
    let all = sorted(journal.shards.iter());
    results::write(&std::env::temp_dir(), folder, all, manifest, form).await.unwrap();
}

/// Inputs of all embeddings requests of a shard.
async fn inputs(folder: &Folder, shard: &StagedShard) -> u64 {
    let text = read(folder, &layout::shard(WORK, &shard.sha256)).await;
    let inputs = |line: &str| serde_json::from_str::<Value>(line).unwrap()["body"]["input"].as_array().unwrap().len();
    text.lines().map(inputs).sum::<usize>() as u64
}

/// Each answer is the one to its own request.
async fn own_answers(set: &ResultSet, answered: &[usize]) {
    let lines = lines(set, layout::RESULTS).await;
    let of: Vec<usize> = lines.iter().map(|l| l["response"]["body"]["of"].as_u64().unwrap() as usize).collect();
    assert_eq!(of, answered);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..Default::default() })]

    #[test]
    fn cut_sent_and_joined_is_the_identity_on_order_and_ids(
        fates in proptest::collection::vec(proptest::collection::vec(fate(), 1..5), 1..60),
        limits in proptest::collection::vec(0..3u32, 1..4),
        models in proptest::collection::vec(0..12u8, 1..14),
        max_requests in 1..20i64,
        max_bytes in 300..5_000u64,
        max_inputs in 3..20u64,
        max_tokens in 1..100i64,
        most in proptest::collection::vec(1..20i64, 1..4),
        compression in proptest::sample::select(vec![OutputCompression::None, OutputCompression::Gzip, OutputCompression::Zstd]),
        requests in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(flow(fates, limits, models, (max_requests, max_bytes, max_inputs, max_tokens), most, ResultForm { compression, requests }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..Default::default() })]

    #[test]
    fn a_canary_is_the_first_requests_alone_and_does_not_change_the_work(
        models in proptest::collection::vec(0..4u8, 1..40), max_requests in 1..12i64, canary in 1..45i64
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let requests = || {
            let body = |model: &u8| Map::from_iter([("model".to_string(), json!(format!("m{model}")))]);
            let request = |(i, model): (usize, &u8)| InlineRequest {
                custom_id: i.to_string(),
                body: Some(body(model).into()),
                ..Default::default()
            };
            Source::Inline(models.iter().enumerate().map(request).collect())
        };
        runtime.block_on(async {
            let (folder, spool, total) = (folder(), std::env::temp_dir(), models.len() as i64);
            let usual = options(max_requests, 10_000);
            let options = PlanOptions { canary: Some(canary), ..usual.clone() };
            let passed = pass(requests(), &options, Some((&folder, WORK)), &spool).await.unwrap();
            assert_eq!(passed.behind_canary, (canary < total).then_some(canary), "all requests are to be sent");
            let behind = passed.behind_canary.unwrap_or(0);
            let (mut of_canary, mut firsts) = (0, vec![]);
            for shard in passed.shards.map(Result::unwrap) {
                let index = read(&folder, &layout::index(WORK, &shard.index_sha256)).await;
                let indexes = index.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["index"].as_i64().unwrap());
                let is_of_canary = shard.first < behind;
                assert!(indexes.into_iter().all(|index| (index < behind) == is_of_canary), "a batch holds both");
                of_canary += if is_of_canary { shard.requests } else { 0 };
                firsts.push(shard.first);
            }
            assert_eq!(of_canary, behind);
            assert!(firsts.is_sorted(), "the canary comes first");
            let whole = pass(requests(), &usual, None, &spool).await.unwrap();
            assert_eq!(passed.work_hash, whole.work_hash);
        });
    }
}

#[tokio::test]
async fn the_same_requests_are_the_same_work_however_they_are_cut() {
    let hash = async |max_requests, n: usize| {
        let requests = (0..n)
            .map(|i| InlineRequest { custom_id: i.to_string(), body: Some(Default::default()), ..Default::default() })
            .collect();
        let options = options(max_requests, 10_000);
        pass(Source::Inline(requests), &options, None, &std::env::temp_dir()).await.unwrap().work_hash
    };
    assert_eq!(hash(1, 5).await, hash(100, 5).await);
    assert_ne!(hash(100, 5).await, hash(100, 6).await);
}

#[tokio::test]
async fn a_body_that_cannot_be_used_is_named_and_nothing_is_staged() {
    let deep = (0..200).fold(json!(1), |inner, _| json!({"a": inner})).to_string();
    let request = |id: &str, body: &str| {
        serde_json::from_str::<InlineRequest>(&format!(r#"{{"customID": "{id}", "body": {body}}}"#)).unwrap()
    };
    let (folder, requests) = (folder(), vec![request("a", "{}"), request("b", &deep)]);
    let spool = std::env::temp_dir();
    let passed = pass(Source::Inline(requests), &options(100, 10_000), Some((&folder, WORK)), &spool).await;
    let said = passed.unwrap_err().to_string();
    for words in ["`spec.input.inline.requests`", "request 2", "has a `body` that", "nested more than 127 deep"] {
        assert!(said.contains(words), "{said}");
    }
}

/// What is sent does not name the users' ids, so the same shard may be staged again under other ones: by a pass after one
/// that found a fault, or that was cut short.
#[tokio::test]
async fn requests_that_are_renamed_between_two_passes_are_answered_under_their_new_names() {
    let folder = folder();
    let staged = async |prefix: &str| {
        let request = |i: usize| InlineRequest {
            custom_id: format!("{prefix}-{i}"),
            body: Some(Default::default()),
            ..Default::default()
        };
        let requests = (0..5).map(request).collect();
        let (options, spool) = (options(100, 10_000), std::env::temp_dir());
        let passed = pass(Source::Inline(requests), &options, Some((&folder, WORK)), &spool).await.unwrap();
        passed.shards.clone().next().unwrap().unwrap()
    };
    let (old, new) = (staged("old").await, staged("new").await);
    assert_eq!(old.sha256, new.sha256, "what is sent is the same");
    let index = read(&folder, &layout::index(WORK, &new.index_sha256)).await;
    assert!(index.contains("new-4") && !index.contains("old"), "{index}");
}
