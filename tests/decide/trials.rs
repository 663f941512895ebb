//! Jobs at an account whose queue takes only so many requests, from the first upload to the end.

use proptest::prelude::*;

use super::*;

const TIMES: Timing = Timing {
    post_window: 10_000,
    send_timeout: 60_000,
    listing_lag: 300_000,
    deletion_deadline: 3_600_000,
    abandon_after: 3_600_000,
};
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A provider's account. It judges a batch 20 s after its create: it rejects the batch if the queue has no room for it.
struct Account {
    /// Number of requests that the queue takes.
    room: i64,
    /// Time that a batch runs, in milliseconds.
    runs: i64,
    batches: BTreeMap<String, Batch>,
    /// Whether a call fails at this time, for as long as it is tried.
    fails: Fails,
}

type Fails = Box<dyn Fn(&Step, i64) -> bool>;

struct Batch {
    requests: i64,
    created: i64,
    /// None until the batch is judged.
    taken: Option<bool>,
}

impl Account {
    const VERDICT: i64 = 20_000;

    /// Judges the batches whose verdict is due, in the order of their creation.
    fn judge(&mut self, now: i64) {
        let mut due: Vec<(i64, String)> = self
            .batches
            .iter()
            .filter(|(_, b)| b.taken.is_none() && now >= b.created + Self::VERDICT)
            .map(|(id, b)| (b.created, id.clone()))
            .collect();
        due.sort();
        for (created, id) in due {
            let at = created + Self::VERDICT;
            let queued = |b: &&Batch| b.taken == Some(true) && at < b.created + Self::VERDICT + self.runs;
            let queue: i64 = self.batches.values().filter(queued).map(|b| b.requests).sum();
            let batch = self.batches.get_mut(&id).unwrap();
            batch.taken = Some(queue + batch.requests <= self.room);
        }
    }

    fn seen(&mut self, id: &str, now: i64) -> PolledState {
        self.judge(now);
        let batch = &self.batches[id];
        match batch.taken {
            None => PolledState::Running { state: "validating".into(), done: 0 },
            Some(true) if now < batch.created + Self::VERDICT + self.runs => {
                PolledState::Running { state: "in_progress".into(), done: 0 }
            }
            Some(true) => PolledState::Ended { state: BatchEnd::Completed, done: batch.requests, rejected: None },
            Some(false) => PolledState::Ended {
                state: BatchEnd::Failed,
                done: 0,
                rejected: Some((Refusal::TokenLimit, "too many".into())),
            },
        }
    }
}

/// The course of a job.
#[derive(Debug, Default)]
struct Course {
    /// Milliseconds until the end.
    ended: Option<i64>,
    posts: usize,
    /// Numbers of requests of the shards that were halved, and the times of that in milliseconds.
    halves: Vec<(i64, i64)>,
    /// Shards that were sent, and the times of that in milliseconds.
    sent: Vec<(usize, i64)>,
}

/// Runs the decisions about a job of these shards for at most so many milliseconds.
fn run(shards: &[i64], parallelism: usize, account: Account, time: i64) -> Course {
    run_as(shards, JobView { parallelism, ..job() }, account, time)
}

fn run_as(shards: &[i64], job: JobView, mut account: Account, time: i64) -> Course {
    let mut journal = journal(owner("j", "u"), None);
    journal.plan.as_mut().unwrap().requests = shards.iter().sum();
    journal.shards = shards
        .iter()
        .enumerate()
        .map(|(i, n)| Shard { requests: *n, sha256: format!("s{i}"), attempt: None, ..shard(None) })
        .collect();
    let (mut memory, mut course) = (memory(), Course::default());
    let (mut now, mut steps) = (NOW, 0);
    while now < NOW + time {
        steps += 1;
        assert!(steps < 200_000, "no step makes progress: {course:?}");
        let nonce = format!("{steps:032}");
        let mut held_back = memory.clone();
        let next_try = held_back.hold_back(now);
        let step = decide(&Observed {
            now,
            nonce: &nonce,
            timing: &TIMES,
            job: &job,
            journal: Some(&journal),
            memory: &held_back,
        });
        let attempt = |key: &AttemptKey| journal.shards[key.shard].attempt.clone().unwrap();
        let batch_id = |key: &AttemptKey| match attempt(key).state {
            AttemptState::Submitted { batch_id, .. } => batch_id,
            state => panic!("no batch: {state:?}"),
        };
        now += 100;
        let task = match &step {
            Step::Upload(key) => Some(Task::Upload(*key)),
            step => step.call(),
        };
        if let Some(task) = task.filter(|_| (account.fails)(&step, now)) {
            memory.failed_calls.insert(task, now + 5 * MINUTE);
            continue;
        }
        match step {
            Step::Upload(key) => {
                memory.uploads.insert((key, journal.shards[key.shard].sha256.clone()), format!("file-{steps}"));
            }
            Step::WriteIntent { journal: next, intent_id } => {
                memory.permit = Some(intent_id);
                journal = next;
            }
            Step::Swap(next) if next.commit.is_some() => {
                assert_eq!(next.counts().succeeded, shards.iter().sum::<i64>(), "{course:?}");
                course.ended = Some(now - NOW);
                return course;
            }
            Step::Swap(next) => journal = next,
            Step::Post(key) => {
                memory.permit = None;
                course.posts += 1;
                course.sent.push((key.shard, now - NOW));
                let id = format!("batch-{steps}");
                let requests = journal.shards[key.shard].requests;
                account.batches.insert(id.clone(), Batch { requests, created: now, taken: None });
                memory.posted.insert(attempt(&key).intent_id, PostResult::Created(id));
            }
            Step::Search(key) => {
                let found = Some(vec![batch_id(&key)]);
                memory.searches.insert(attempt(&key).intent_id, Search { began: now, found });
            }
            Step::Poll(key) => {
                let id = batch_id(&key);
                let seen = account.seen(&id, now);
                memory.looks.insert(id, PollResult { at: now, seen });
            }
            Step::Collect { attempt_key, .. } => {
                let requests = journal.shards[attempt_key.shard].requests;
                let part = PartRef { name: format!("part-{steps}"), sha256: "p".into() };
                let collected = CollectResult { part, ..collected(all_succeeded(requests)) };
                memory.collected.insert(batch_id(&attempt_key), collected);
            }
            Step::DeleteFiles { files, .. } => memory.deleted.extend(files),
            Step::Wait { until, .. } => {
                now = until.into_iter().chain(next_try).min().expect("something is due").max(now);
            }
            Step::Halve(key) => {
                let whole = journal.shards[key.shard].clone();
                course.halves.push((whole.requests, now - NOW));
                let half = |name: &str, requests| Shard {
                    requests,
                    sha256: format!("{}{name}", whole.sha256),
                    attempt: None,
                    streaks: Default::default(),
                    ..whole.clone()
                };
                let halves = [half("a", whole.requests - whole.requests / 2), half("b", whole.requests / 2)];
                memory.halved = Some(HalveResult { attempt_key: key, sha256: whole.sha256.clone(), halves });
            }
            step => panic!("{step:?}"),
        }
    }
    course
}

fn account(room: i64, runs: i64) -> Account {
    Account { room, runs, batches: BTreeMap::new(), fails: Box::new(|_, _| false) }
}

#[test]
fn the_first_of_several_batches_that_exceed_the_account_is_halved_as_soon_as_a_single_one_is() {
    for (shards, parallelism) in
        [(&[8][..], 4), (&[8, 8], 1), (&[8, 8], 2), (&[8, 8], 4), (&[8; 5], 4), (&[8; 40], 4), (&[8; 40], 40)]
    {
        let course = run(shards, parallelism, account(4, HOUR), HOUR);
        let (_, halved) = *course.halves.first().expect("a batch is halved within an hour");
        // All shards are sent together once, at first.
        assert!(halved <= 27 * MINUTE, "{shards:?}, parallelism {parallelism}: {} min", halved / MINUTE);
        assert!(course.halves.iter().all(|(n, _)| *n == 8), "{course:?}");
    }
}

/// A rejection is seen an hour after it.
#[test]
fn batches_of_a_job_that_polls_once_an_hour_are_halved_too() {
    let course = run_as(&[8, 8], JobView { poll_period: HOUR, ..job() }, account(4, HOUR), 2 * DAY);
    assert!(course.halves.first().is_some_and(|(_, halved)| *halved <= 8 * HOUR), "{course:?}");
}

#[test]
fn a_half_that_still_exceeds_the_account_is_halved_after_one_more_refusal() {
    for parallelism in [1, 4] {
        let course = run(&[16], parallelism, account(4, HOUR), 2 * DAY);
        let [(16, first), (8, second), (8, _)] = course.halves[..] else { panic!("{course:?}") };
        assert!(second - first <= 8 * MINUTE, "{course:?}");
        assert!(course.ended.is_some_and(|ended| ended <= 6 * HOUR), "four batches of an hour each: {course:?}");
        assert!(course.posts <= 60, "{course:?}");
    }
}

#[test]
fn a_half_whose_upload_fails_does_not_hold_up_the_other_half() {
    let (_, halved) = run(&[8], 4, account(4, HOUR), DAY).halves[0];
    let fails = move |step: &Step, now: i64| matches!(step, Step::Upload(key) if key.shard == 0) && now >= NOW + halved;
    let course = run(&[8], 4, Account { fails: Box::new(fails), ..account(4, HOUR) }, DAY);
    let other = course.sent.iter().find(|(shard, _)| *shard == 1);
    assert!(other.is_some_and(|(_, sent)| sent - halved <= 15 * MINUTE), "{course:?}");
}

#[test]
fn a_batch_that_cannot_be_looked_at_does_not_hold_up_a_shard_that_was_refused_beside_it() {
    let fails = |step: &Step, now: i64| matches!(step, Step::Poll(key) if key.shard == 0) && now > NOW + MINUTE;
    let course = run(&[4, 8], 2, Account { fails: Box::new(fails), ..account(8, 5 * HOUR) }, DAY);
    let sent: Vec<i64> = course.sent.iter().filter(|(shard, _)| *shard == 1).map(|(_, sent)| *sent).collect();
    assert!(matches!(sent[..], [_, again, ..] if again <= HOUR), "{course:?}");
    assert!(course.halves.is_empty(), "{course:?}");
}

/// Batches of hours, of which the account takes several at a time: waiting for one another would multiply the time.
#[test]
fn batches_that_the_account_takes_are_not_sent_one_by_one_for_the_refusal_of_some() {
    let course = run(&[1; 12], 12, account(4, 5 * HOUR), 3 * DAY);
    let ended = course.ended.expect("an end within three days");
    assert!(course.halves.is_empty(), "{course:?}");
    assert!(ended <= 18 * HOUR, "three times four batches of five hours: {} h", ended / HOUR);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No shard that fits is halved, and the job ends with all answers.
    #[test]
    fn a_job_ends_at_any_account_that_takes_one_request(
        shards in prop::collection::vec(2..9i64, 1..7), room in 2..9i64, parallelism in 1..6usize, runs in 1..300i64
    ) {
        let course = run(&shards, parallelism, account(room, runs * MINUTE), 30 * DAY);
        prop_assert!(course.ended.is_some(), "{course:?}");
        prop_assert!(course.halves.iter().all(|(n, _)| *n > room), "{course:?}");
    }
}
