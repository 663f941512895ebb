//! Answers of earlier result sets, and those of the requests that none of them answers, make one whole result set.

use batchjob_operator::results::{ReuseCounts, add_answers, write_reused};
use batchjob_operator::store::{KeyedLines, KeyedLinesWriter};

use super::*;

/// A request is known by its content; the same content may be asked for several times.
type Content = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Answered,
    Refused,
    /// Answered in the second round.
    ExpiredOnce,
}

/// A job that ended.
struct Ran {
    folder: Folder,
    journal: Journal,
    /// What was sent, however often.
    sent: Vec<Content>,
}

/// Runs a job, whose answers name it. It reuses `answers`.
async fn run(
    job: &str,
    requests: &[(Content, Then)],
    models: u8,
    max_requests: i64,
    answers: Option<Arc<KeyedLines>>,
) -> Ran {
    let (folder, spool) = (folder(), std::env::temp_dir());
    let body =
        |n: Content| Map::from_iter([("n".to_string(), json!(n)), ("model".into(), json!(format!("m{}", n % models)))]);
    let inline = requests.iter().enumerate().map(|(i, (n, _))| InlineRequest {
        custom_id: format!("{job}-{i}"),
        body: Some(body(*n).into()),
        ..Default::default()
    });
    let options = PlanOptions { answers: answers.clone(), ..options(max_requests, 1 << 20) };
    let passed = pass(Source::Inline(inline.collect()), &options, Some((&folder, WORK)), &spool).await.unwrap();
    let owner = Owner { cluster: "c".into(), namespace: "n".into(), name: job.into(), uid: "u".into() };
    let mut journal = Journal::open(WORK.into(), owner, "s".into());
    for shard in passed.reused.map(Result::unwrap) {
        assert!(shard.requests <= max_requests);
        let reused = write_reused(&folder, WORK, shard, answers.as_ref().unwrap(), &spool).await.unwrap();
        journal.shards.push(reused.into());
    }
    passed.shards.map(Result::unwrap).for_each(|shard| journal.shards.push(shard.into()));
    let mut sent = vec![];
    for round in 0..2 {
        for (n, shard) in journal.shards.iter_mut().enumerate().filter(|(_, s)| s.is_unsent() && s.round == round) {
            let text = read(&folder, &layout::shard(WORK, &shard.sha256)).await;
            let (contents, back): (Vec<_>, Vec<_>) = text.lines().map(|line| play(job, line, requests, round)).unzip();
            sent.extend(contents);
            collect(&folder, shard, &back.concat(), n).await;
        }
        if round == 0 {
            let writer = ShardWriter::new(&folder, WORK, &spool, max_requests, 1 << 20);
            let shards = sorted(journal.shards.iter().filter(|s| s.reused.is_none()));
            let again = |asked: &results::RequestRounds| RequestHistory::from(asked).may_be_sent_again(0);
            for follow_up in results::follow_up(writer, &folder, shards, again).await.unwrap().map(Result::unwrap) {
                journal.shards.push(Shard { round: 1, ..follow_up.into() });
            }
        }
    }
    let form = ResultForm { requests: true, ..Default::default() };
    write(&folder, &journal, passed.work_hash, form).await;
    Ran { folder, journal, sent }
}

/// The content of a request, and the line that comes back for it.
fn play(job: &str, line: &str, requests: &[(Content, Then)], round: u32) -> (Content, String) {
    let line: Value = serde_json::from_str(line).unwrap();
    let (id, n) = (line["custom_id"].as_str().unwrap(), &line["body"]["n"]);
    let index: usize = id[1..id.find('-').unwrap()].parse().unwrap();
    let response =
        |status: u16| json!({"custom_id": id, "response": {"status_code": status, "body": {"of": n, "by": job}}});
    let back = match (requests[index].1, round) {
        (Then::Answered, _) | (Then::ExpiredOnce, 1..) => response(200),
        (Then::Refused, _) => response(400),
        (Then::ExpiredOnce, 0) => json!({"custom_id": id, "error": {"code": "batch_expired"}}),
    };
    (requests[index].0, format!("{back}\n"))
}

/// The id, the content and the author of each answer, in order.
async fn answers_of(folder: &Folder) -> Vec<(String, Content, String)> {
    let bytes = folder.read(layout::RESULTS, 1 << 30).await.unwrap().unwrap_or_default();
    let answer = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let (id, body) = (line["custom_id"].as_str().unwrap(), &line["response"]["body"]);
        (id.to_string(), body["of"].as_u64().unwrap() as Content, body["by"].as_str().unwrap().to_string())
    };
    std::str::from_utf8(&bytes).unwrap().lines().map(answer).collect()
}

async fn reused(sets: &[(String, Vec<(Content, Then)>)], tonight: &[(Content, Then)], models: u8, max_requests: i64) {
    let mut answers = KeyedLinesWriter::new(&std::env::temp_dir()).await.unwrap();
    for (job, requests) in sets {
        let ran = run(job, requests, models, 3, None).await;
        let set = ResultSet::open(ran.folder).await.unwrap().unwrap();
        let counts = add_answers(&set, Default::default(), &mut answers, &std::env::temp_dir()).await.unwrap();
        assert_eq!(counts, ReuseCounts { answers: ran.journal.counts().succeeded, incomparable: 0 });
    }
    let answers = Arc::new(answers.finish().await.unwrap());
    let ran = run("tonight", tonight, models, max_requests, Some(answers)).await;

    let is_answered =
        |n: &Content, all: &[(Content, Then)]| all.iter().any(|(m, then)| m == n && *then != Then::Refused);
    let of_a_set = |n: &Content| sets.iter().find(|(_, all)| is_answered(n, all)).map(|(job, _)| job.clone());
    let wanted: Vec<_> = tonight
        .iter()
        .enumerate()
        .filter_map(|(i, (n, then))| {
            let by = of_a_set(n).or_else(|| (*then != Then::Refused).then(|| "tonight".to_string()))?;
            Some((format!("tonight-{i}"), *n, by))
        })
        .collect();
    assert_eq!(answers_of(&ran.folder).await, wanted, "whole, in order, under the names of tonight");
    let counts = ran.journal.counts();
    let of_sets = tonight.iter().filter(|(n, _)| of_a_set(n).is_some()).count() as i64;
    assert_eq!((counts.total, counts.succeeded, counts.reused), (tonight.len() as i64, wanted.len() as i64, of_sets));
    assert!(ran.sent.iter().all(|n| of_a_set(n).is_none()), "{:?} was sent", ran.sent);
    // Tomorrow's job can reuse tonight's results.
    let set = ResultSet::open(ran.folder).await.unwrap().unwrap();
    let failed = ids(&lines(&set, layout::UNSUCCESSFUL).await);
    assert_eq!(failed, ids(&lines(&set, layout::ERRORS).await));
    assert_eq!(failed.len(), tonight.len() - wanted.len());
    let requests: Vec<Value> =
        lines(&set, layout::REQUESTS).await.iter().map(|line| line["body"]["n"].clone()).collect();
    assert_eq!(requests, tonight.iter().map(|(n, _)| json!(n)).collect::<Vec<_>>(), "each as it would be sent");
    let mut answers = KeyedLinesWriter::new(&std::env::temp_dir()).await.unwrap();
    add_answers(&set, Default::default(), &mut answers, &std::env::temp_dir()).await.unwrap();
    let answered: Vec<_> =
        tonight.iter().filter(|(n, then)| of_a_set(n).is_some() || *then != Then::Refused).copied().collect();
    if answered.is_empty() {
        // A job without requests is refused.
        return;
    }
    let tomorrow =
        run("tomorrow", &answered, models, max_requests, Some(Arc::new(answers.finish().await.unwrap()))).await;
    assert_eq!(tomorrow.sent, Vec::<Content>::new(), "all answers are reused");
    assert_eq!(answers_of(&tomorrow.folder).await.len(), answered.len());
}

#[tokio::test]
async fn a_shard_of_requests_with_the_same_long_answer_has_no_more_of_it_than_the_local_disk_has_room_for() {
    let ran = run("set", &[(1, Then::Answered)], 1, 3, None).await;
    let set = ResultSet::open(ran.folder).await.unwrap().unwrap();
    let hash = lines(&set, layout::RESULTS).await[0]["request_blake3"].as_str().unwrap().to_string();
    let key = std::array::from_fn(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).unwrap());
    let mut answers = KeyedLinesWriter::new(&std::env::temp_dir()).await.unwrap();
    answers.push(key, &vec![b' '; 20 << 20]).await.unwrap();
    let options = PlanOptions { answers: Some(Arc::new(answers.finish().await.unwrap())), ..options(1_000, 1 << 20) };
    let body = Map::from_iter([("n".to_string(), json!(1)), ("model".into(), json!("m0"))]);
    let inline = (0..20).map(|i| InlineRequest {
        custom_id: format!("tonight-{i}"),
        body: Some(body.clone().into()),
        ..Default::default()
    });
    let source = Source::Inline(inline.collect());
    let passed = pass(source, &options, Some((&folder(), WORK)), &std::env::temp_dir()).await.unwrap();
    let requests: Vec<i64> = passed.reused.map(|shard| shard.unwrap().requests).collect();
    assert_eq!(requests, [6, 6, 6, 2], "of 128 MiB at most");
}

fn requests() -> impl Strategy<Value = Vec<(Content, Then)>> {
    let then = prop_oneof![5 => Just(Then::Answered), 1 => Just(Then::Refused), 1 => Just(Then::ExpiredOnce)];
    proptest::collection::vec((0..40u8, then), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn reused_and_new_answers_are_joined_whole_and_in_order_and_what_is_reused_is_not_sent(
        sets in proptest::collection::vec(requests(), 0..4),
        tonight in requests(),
        models in 1..14u8,
        max_requests in 1..20i64,
    ) {
        let sets: Vec<_> = sets.into_iter().enumerate().map(|(k, requests)| (format!("set {k}"), requests)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(reused(&sets, &tonight, models, max_requests));
    }
}
