use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::future::join_all;

use super::*;
use crate::account::{AccountKey, Accounts};
use crate::api::BatchEnd;
use crate::provider::State;
use crate::provider::fake::Provider;

fn batch(id: &str) -> Batch {
    Batch {
        id: id.into(),
        status: "in_progress".into(),
        input_file_id: Some(format!("file-of-{id}")),
        metadata: vec![("intent".into(), format!("intent-of-{id}"))],
        ..Default::default()
    }
}

/// Milliseconds between two looks: long, for the clock of these tests moves by hand.
const PERIOD: i64 = 60_000;

struct World {
    provider: Arc<Provider>,
    api: Arc<dyn BatchApi>,
    account: Arc<Account>,
    now: Arc<AtomicI64>,
    /// Time at which a list showed each batch to run, by its name.
    shown: Arc<Mutex<BTreeMap<String, i64>>>,
}

impl World {
    /// An account with this number of running batches, the newest first.
    fn with(batches: usize) -> World {
        let provider = Arc::new(Provider::default());
        *provider.batches.lock().unwrap() = (0..batches).rev().map(|i| batch(&id(i))).collect();
        let now = Arc::new(AtomicI64::new(1_000_000));
        let clock = now.clone();
        let accounts = Accounts::new(Arc::new(move || clock.load(Ordering::Relaxed)), Arc::new(|_| {}));
        let account =
            accounts.get(&AccountKey { provider: "uid".into(), namespace: "ns".into(), fingerprint: "f".into() });
        World { api: provider.clone(), provider, account, now, shown: Arc::default() }
    }

    /// Takes one look at a batch of a job of ten, as a job does, and returns the source of the answer.
    async fn look(&self, i: usize) -> AnsweredBy {
        let seen = self.shown.lock().unwrap().get(&id(i)).copied();
        let shown = self.shown.clone();
        let on_listed: OnListed = Arc::new(move |batch, at| {
            let runs = !batch.has_ended();
            if runs {
                shown.lock().unwrap().insert(batch.id.clone(), at);
            }
            runs
        });
        let (namespace, job) = ("shop".into(), format!("job-{}", i / 10));
        let due = DueLook { namespace, job, batch: id(i), seen, made: 0, period: PERIOD, on_listed };
        let answer = self.account.look(&self.api, due).await.unwrap();
        if answer == AnsweredBy::Itself {
            let got = self.api.get(&id(i)).await;
            if got.is_ok_and(|batch| !batch.has_ended()) {
                self.shown.lock().unwrap().insert(id(i), self.now.load(Ordering::Relaxed));
            }
        }
        answer
    }

    /// Lets a period pass, and looks at every batch that is due.
    async fn period(&self, batches: usize) {
        self.now.fetch_add(PERIOD, Ordering::Relaxed);
        let now = self.now.load(Ordering::Relaxed);
        let is_due = |i: &usize| self.shown.lock().unwrap().get(&id(*i)).is_none_or(|seen| now >= seen + PERIOD);
        join_all((0..batches).filter(is_due).map(|i| self.look(i))).await;
    }

    /// Returns the number of calls since the last count.
    fn calls(&self) -> usize {
        self.provider.pages.swap(0, Ordering::Relaxed) + self.provider.gets.swap(0, Ordering::Relaxed)
    }

    async fn find(&self, i: usize) -> Result<SearchResult, ApiError> {
        let wanted = SearchQuery {
            metadata: ("intent", format!("intent-of-{}", id(i))),
            file: format!("file-of-{}", id(i)),
            since: 0,
            period: 0,
        };
        self.account.find(&self.api, wanted).await
    }
}

fn id(i: usize) -> String {
    format!("batch-{i:05}")
}

#[tokio::test]
async fn one_list_a_period_serves_the_polls_of_all_jobs() {
    let world = World::with(5_000);
    // Each batch becomes known, by itself or by a list.
    world.period(5_000).await;
    world.period(5_000).await;
    world.calls();
    for _ in 0..3 {
        world.period(5_000).await;
        let calls = world.calls();
        assert!((50..=60).contains(&calls), "{calls} calls in a period");
    }
}

#[tokio::test]
async fn a_single_batch_is_looked_at_by_itself_and_at_once() {
    let world = World::with(3_000);
    for _ in 0..3 {
        world.now.fetch_add(PERIOD, Ordering::Relaxed);
        assert_eq!(world.look(7).await, AnsweredBy::Itself);
        assert_eq!(world.calls(), 1, "its list has thirty pages");
    }
}

#[tokio::test]
async fn what_a_list_shows_as_ended_or_not_at_all_is_asked_for_by_itself() {
    let world = World::with(200);
    world.period(200).await;
    world.period(200).await;
    {
        let mut batches = world.provider.batches.lock().unwrap();
        batches[5].state = State::Ended(BatchEnd::Completed);
        batches.remove(17);
    }
    world.calls();
    world.period(200).await;
    assert_eq!(world.calls(), 2 + 2, "two pages, and two batches");
}

#[tokio::test]
async fn a_list_that_breaks_off_is_the_end_of_no_batch() {
    let world = World::with(300);
    world.period(300).await;
    world.period(300).await;
    let hidden = world.provider.batches.lock().unwrap().split_off(200);
    let broken = ApiError::new(ErrorKind::Transient, "the connection was cut");
    *world.provider.list.lock().unwrap() = Some(broken.clone());
    world.now.fetch_add(PERIOD, Ordering::Relaxed);
    let due = |i: usize| DueLook {
        namespace: "shop".into(),
        job: format!("job-{}", i / 10),
        batch: id(i),
        seen: Some(0),
        made: 0,
        period: PERIOD,
        on_listed: Arc::new(|_, _| true),
    };
    let looks = join_all((0..300).map(|i| world.account.look(&world.api, due(i)))).await;
    assert_eq!(looks[250], Ok(AnsweredBy::List), "what was seen is so");
    assert_eq!(looks[50], Err(broken), "what was not seen is tried again, and not a hundred times by itself");
    // A server whose list cannot be paged at all is asked about each batch.
    *world.provider.list.lock().unwrap() = Some(ApiError::new(ErrorKind::Unsupported, "it repeats a page"));
    let looks = join_all((0..300).map(|i| world.account.look(&world.api, due(i)))).await;
    assert_eq!(looks[50], Ok(AnsweredBy::Itself));
    assert_eq!(hidden.len(), 100);
    assert_eq!(world.account.look(&world.api, due(250)).await, Ok(AnsweredBy::Itself), "for a while");
}

#[tokio::test]
async fn searches_share_a_list_that_was_begun_after_they_were_asked_for() {
    let world = World::with(1_000);
    let asked = world.now.load(Ordering::Relaxed);
    let found = join_all((0..500).map(|i| world.find(i))).await;
    for (i, found) in found.into_iter().enumerate() {
        let found = found.unwrap();
        assert_eq!(found.batches, [id(i)]);
        assert!(found.began >= asked);
    }
    assert_eq!(world.calls(), 10, "one list of ten pages");
    // A later search gets a list of its own, because the last list proves nothing about it.
    world.now.fetch_add(1, Ordering::Relaxed);
    world.provider.batches.lock().unwrap().insert(0, Batch { id: "twin".into(), ..batch(&id(3)) });
    let found = world.find(3).await.unwrap();
    assert_eq!((found.batches, found.began), (vec![id(3), "twin".into()], asked + 1));
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_up_no_search_and_no_list() {
    let world = World::with(1_000);
    *world.provider.list.lock().unwrap() = Some(ApiError::new(ErrorKind::Unsupported, "it repeats a page"));
    assert!(world.find(0).await.is_err());
    *world.provider.list.lock().unwrap() = None;
    world.period(1_000).await;
    world.now.fetch_sub(100 * PERIOD, Ordering::Relaxed);
    let wanted = SearchQuery {
        metadata: ("intent", format!("intent-of-{}", id(3))),
        file: String::new(),
        since: 0,
        period: PERIOD,
    };
    let found = tokio::time::timeout(Duration::from_secs(20), world.account.find(&world.api, wanted)).await;
    assert_eq!(found.unwrap().unwrap().batches, [id(3)]);
    world.shown.lock().unwrap().clear();
    world.calls();
    world.period(1_000).await;
    assert!(world.calls() < 100, "the list serves the polls");
}

#[tokio::test]
async fn a_list_that_shows_too_many_batches_of_one_submission_is_not_believed() {
    let world = World::with(1);
    let twins = |n: usize| (0..n).map(|i| Batch { id: format!("twin-{i}"), ..batch(&id(0)) });
    *world.provider.batches.lock().unwrap() = twins(TWINS).chain(twins(TWINS)).collect();
    assert_eq!(world.find(0).await.unwrap().batches.len(), TWINS, "a batch that is shown twice is one");
    world.now.fetch_add(1, Ordering::Relaxed);
    *world.provider.batches.lock().unwrap() = twins(1_000).collect();
    let error = world.find(0).await.unwrap_err();
    assert!(!error.is_permanent() && error.message.contains("more than 100 batches"), "{error:?}");
}

#[tokio::test]
async fn a_search_through_a_list_that_says_nothing_finds_nothing_out() {
    let world = World::with(250);
    let blind = ApiError::new(ErrorKind::Unsupported, "it repeats a page");
    *world.provider.list.lock().unwrap() = Some(blind.clone());
    assert_eq!(world.find(3).await, Err(blind), "although it was on the first pages");
}

#[tokio::test]
async fn searches_through_a_long_list_wait_until_the_last_one_is_a_period_ago() {
    let world = World::with(5_000);
    world.find(1).await.unwrap();
    let (asked, now) = (world.now.load(Ordering::Relaxed), world.now.clone());
    let wanted = |i: usize| SearchQuery {
        metadata: ("intent", format!("intent-of-{}", id(i))),
        file: String::new(),
        since: 0,
        period: 100,
    };
    let later = tokio::spawn(async move {
        // Its 50 pages are all that searches may read in a period.
        tokio::time::sleep(Duration::from_millis(5)).await;
        now.fetch_add(100, Ordering::Relaxed);
    });
    let found = join_all((0..20).map(|i| world.account.find(&world.api, wanted(i)))).await;
    later.await.unwrap();
    assert!(found.iter().all(|found| found.as_ref().is_ok_and(|f| f.began == asked + 100)), "{:?}", found[0]);
    assert_eq!(world.provider.lists.load(Ordering::Relaxed), 2, "one for all twenty");
}

#[tokio::test]
async fn what_a_job_follows_no_more_is_forgotten() {
    let world = World::with(40);
    join_all((0..40).map(|i| world.look(i))).await;
    world.account.keep("job-0", |batch| batch == id(3));
    (1..4).for_each(|job| world.account.keep(&format!("job-{job}"), |_| false));
    let followed: Vec<String> = world.account.lists.lock().followed.values().flat_map(HashMap::keys).cloned().collect();
    assert_eq!(followed, [id(3)]);
}

/// Looks at so many batches of a namespace, whose names are as long as a provider may give, and counts those that are followed.
async fn followed(account: &Arc<Account>, api: &Arc<dyn BatchApi>, namespace: &str, batches: usize) -> usize {
    for i in 0..batches {
        let due = DueLook {
            namespace: namespace.into(),
            job: format!("job-of-{namespace}"),
            batch: format!("{i:02048}"),
            seen: None,
            made: 0,
            period: PERIOD,
            on_listed: Arc::new(|_, _| true),
        };
        assert_eq!(account.look(api, due).await, Ok(AnsweredBy::Itself), "few are asked for one by one");
        // Not due again, so that no list is read.
        let mut state = account.lists.lock();
        state.followed.values_mut().flat_map(HashMap::values_mut).for_each(|f| f.by_itself = true);
    }
    account.lists.lock().followed.get(&format!("job-of-{namespace}")).map_or(0, HashMap::len)
}

#[tokio::test]
async fn batches_beyond_the_memory_of_their_namespace_are_asked_for_by_themselves_and_others_are_followed() {
    let provider = Arc::new(Provider::default());
    let api: Arc<dyn BatchApi> = provider;
    let accounts = Accounts::new(Arc::new(|| 1_000_000), Arc::new(|_| {}));
    let of =
        |uid: &str| accounts.get(&AccountKey { provider: uid.into(), namespace: "ns".into(), fingerprint: "f".into() });
    let (first, second, quiet) = (of("first"), of("second"), of("quiet"));
    let hostile = followed(&first, &api, "hostile", 3_000).await + followed(&second, &api, "hostile", 3_000).await;
    assert!((1_800..2_000).contains(&hostile), "{hostile}: half of the memory, over all accounts");
    assert_eq!(followed(&quiet, &api, "quiet", 100).await, 100);
    accounts.forget("job-of-hostile");
    assert_eq!(followed(&second, &api, "hostile", 100).await, 100, "what is forgotten makes room");
}
