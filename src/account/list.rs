//! The shared list of an account: polls and searches of all its jobs are collected, and one reading of the provider's list answers
//! them.
//!
//! - **Polls.** A list costs one call per page; a look at a single batch costs one call. So the list is read if more batches are due than
//!   it has pages. It then renews every followed batch that it shows as running, so all of these are due again at the same time. A batch
//!   that the list does not show, or shows as ended, is asked for by itself.
//! - **Searches.** A search needs a list that is begun after the search was asked for, and read to its end or far enough back. Searches
//!   share lists. If the list is long, they wait until some time has passed since the last one.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::Account;
use crate::fair::{Grant, Urgency};
use crate::provider::{ApiError, Batch, BatchApi, ErrorKind};

/// Number of pages that searches alone read in a poll period. A longer list is read once in a period.
const PAGES_A_PERIOD: i64 = 50;
/// Number of batches on a page.
const PAGE: usize = 100;
/// Number of batches up to which they are polled one by one, however short the list is.
const FEW: usize = 8;
/// Maximum number of batches that a list may show of one submission. Gateways make a few; a list with more is not believed.
const TWINS: usize = 100;
/// Bytes that followed batches of all accounts take. A batch beyond the share of its namespace is always asked for by itself.
pub(super) const FOLLOWED: u64 = 32 << 20;
/// Bytes that a followed batch takes besides its names.
const FOLLOWED_ENTRY: usize = 512;
/// How often its names are held: by the map, by its callback, and by the list that is being read.
const NAMES_HELD: usize = 4;
/// Milliseconds for which requests for the same list are gathered.
const GATHER: u64 = 20;
/// Milliseconds for which an account with an unusable list is asked about each batch by itself.
const UNLISTED: i64 = 600_000;

/// Called with a followed batch, as shown by a list that was begun at this moment (Unix milliseconds). Returns false if that is
/// not enough, and the batch has to be asked for by itself.
pub type OnListed = Arc<dyn Fn(&Batch, i64) -> bool + Send + Sync>;

/// A look at a batch that is due.
pub struct DueLook {
    /// The job's namespace.
    pub namespace: String,
    /// The job's uid.
    pub job: String,
    /// The provider's name for the batch.
    pub batch: String,
    /// Time of the last look (Unix milliseconds), if there was one.
    pub seen: Option<i64>,
    /// Time at which the batch was made, or later (Unix milliseconds).
    pub made: i64,
    /// Milliseconds between two looks at it.
    pub period: i64,
    /// The callback for a list that shows the batch.
    pub on_listed: OnListed,
}

/// The source of the answer to a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnsweredBy {
    /// A list answered.
    List,
    /// Nothing answered yet: the batch has to be asked for by itself.
    Itself,
}

/// The batches of one submission, as a list may show them.
#[derive(Clone, Debug)]
pub struct SearchQuery {
    /// Key and value of metadata that they have.
    pub metadata: (&'static str, String),
    /// The file that they were made from.
    pub file: String,
    /// Earliest time at which one may have been made (Unix seconds); a day more is read.
    pub since: i64,
    /// Milliseconds between two looks at the job's batches.
    pub period: i64,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchResult {
    /// Time at which the list that answered it was begun (Unix milliseconds).
    pub began: i64,
    /// The provider's names, oldest first.
    pub batches: Vec<String>,
}

#[derive(Default)]
pub(super) struct Lists {
    state: Mutex<State>,
    /// Notified when a list is wanted.
    come: Notify,
}

#[derive(Default)]
struct State {
    /// Followed batches by the job's uid and the provider's name.
    followed: HashMap<String, HashMap<String, FollowedBatch>>,
    searches: Vec<Search>,
    is_reading: bool,
    /// Time at which the last list was begun, and the number of pages read of it.
    last: Option<(i64, usize)>,
    /// Time at which the list turned out to be unusable.
    unlisted: Option<i64>,
}

struct FollowedBatch {
    _memory: Grant,
    seen: Option<i64>,
    made: i64,
    on_listed: OnListed,
    /// Whether the list no longer answers: it showed the batch as ended, or not at all.
    by_itself: bool,
    waiting: Vec<oneshot::Sender<Result<AnsweredBy, ApiError>>>,
}

struct Search {
    wanted: SearchQuery,
    answer: oneshot::Sender<Result<SearchResult, ApiError>>,
}

impl Lists {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all batches of a job but those that it still follows.
    pub fn keep(&self, job: &str, follows: impl Fn(&str) -> bool) {
        let mut state = self.lock();
        if let Some(followed) = state.followed.get_mut(job) {
            followed.retain(|batch, _| follows(batch));
            if followed.is_empty() {
                state.followed.remove(job);
            }
        }
    }
}

impl State {
    /// Returns the number of pages of a list, as far as it is known before the list is read.
    fn pages(&self) -> usize {
        let followed: usize = self.followed.values().map(HashMap::len).sum();
        self.last.map_or(0, |(_, pages)| pages).max(followed.div_ceil(PAGE)).max(1)
    }

    /// Returns the number of batches for which a list would save a call each: their last look is at least half a period ago.
    fn spared(&self, period: i64, now: i64) -> usize {
        let is_due = |f: &&FollowedBatch| !f.by_itself && f.seen.is_none_or(|seen| passed(seen, now) >= period / 2);
        self.followed.values().flat_map(HashMap::values).filter(is_due).count()
    }

    /// Returns the milliseconds until the waiting searches may have their list; None if none waits.
    fn search_in(&self, now: i64) -> Option<i64> {
        let period = self.searches.iter().map(|s| s.wanted.period).min()?;
        Some(self.last.map_or(0, |(began, pages)| {
            let pages = i64::try_from(pages).unwrap_or(i64::MAX).min(PAGES_A_PERIOD);
            period.saturating_mul(pages) / PAGES_A_PERIOD - passed(began, now)
        }))
    }

    fn waits(&self) -> bool {
        self.followed.values().flat_map(HashMap::values).any(|f| !f.waiting.is_empty())
    }
}

/// Returns the milliseconds from `earlier` to `now`. A time in the future was read before the clock was set back: nobody knows how long
/// ago that was, so it counts as long.
fn passed(earlier: i64, now: i64) -> i64 {
    if earlier > now { i64::MAX } else { now.saturating_sub(earlier) }
}

impl Account {
    /// Looks at a batch that is due, by a list if that costs less. Otherwise returns [`AnsweredBy::Itself`], and the caller asks for
    /// the batch.
    ///
    /// # Errors
    /// If the list could not be read now.
    pub async fn look(self: &Arc<Self>, api: &Arc<dyn BatchApi>, due: DueLook) -> Result<AnsweredBy, ApiError> {
        let now = (self.clock)();
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.lists.lock();
            let is_followed = state.followed.get(&due.job).is_some_and(|batches| batches.contains_key(&due.batch));
            if !is_followed {
                let bytes = (FOLLOWED_ENTRY + NAMES_HELD * (due.job.len() + due.batch.len())) as u64;
                let Some(memory) = self.followed.take(&due.namespace, bytes) else { return Ok(AnsweredBy::Itself) };
                let (seen, made, on_listed) = (due.seen, due.made, due.on_listed.clone());
                let followed =
                    FollowedBatch { _memory: memory, seen, made, on_listed, by_itself: false, waiting: vec![] };
                state.followed.entry(due.job.clone()).or_default().insert(due.batch.clone(), followed);
            }
            let followed = state.followed.get_mut(&due.job).and_then(|batches| batches.get_mut(&due.batch));
            let Some(followed) = followed else { return Ok(AnsweredBy::Itself) };
            (followed.seen, followed.made, followed.on_listed) = (due.seen, due.made, due.on_listed);
            if std::mem::take(&mut followed.by_itself) {
                return Ok(AnsweredBy::Itself);
            }
            followed.waiting.push(tell);
            let is_unusable = state.unlisted.is_some_and(|since| passed(since, now) < UNLISTED);
            if is_unusable || state.spared(due.period, now) <= state.pages().max(FEW) {
                // The receiver is dropped, so the next reading of the list removes the sender.
                return Ok(AnsweredBy::Itself);
            }
        }
        self.lists.come.notify_one();
        self.read_list(api);
        told.await.unwrap_or(Ok(AnsweredBy::Itself))
    }

    /// Returns the batches of a submission, by a list that is begun from now on and read whole.
    ///
    /// # Errors
    /// If the list could not be read, or is unusable.
    pub async fn find(
        self: &Arc<Self>,
        api: &Arc<dyn BatchApi>,
        wanted: SearchQuery,
    ) -> Result<SearchResult, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.lists.lock().searches.push(Search { wanted, answer });
        self.lists.come.notify_one();
        self.read_list(api);
        let gone = || ApiError::new(ErrorKind::Transient, "the reading of the provider's list was broken off");
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Forgets all batches of a job but those that it still follows.
    pub fn keep(&self, job: &str, follows: impl Fn(&str) -> bool) {
        self.lists.keep(job, follows);
    }

    /// Reads lists as long as one is waited for, unless a reader is already running.
    fn read_list(self: &Arc<Self>, api: &Arc<dyn BatchApi>) {
        if std::mem::replace(&mut self.lists.lock().is_reading, true) {
            return;
        }
        let (account, api) = (self.clone(), api.clone());
        tokio::spawn(async move {
            let mut reading = ReadingGuard(&account.lists, true);
            loop {
                tokio::time::sleep(Duration::from_millis(GATHER)).await;
                let wait = {
                    let mut state = account.lists.lock();
                    state.searches.retain(|s| !s.answer.is_closed());
                    for followed in state.followed.values_mut().flat_map(HashMap::values_mut) {
                        followed.waiting.retain(|waiting| !waiting.is_closed());
                    }
                    match (state.waits(), state.search_in((account.clock)())) {
                        (true, _) => 0,
                        (false, Some(wait)) => wait,
                        (false, None) => {
                            state.is_reading = false;
                            reading.1 = false;
                            return;
                        }
                    }
                };
                match u64::try_from(wait) {
                    Ok(wait @ 1..) => {
                        let _ = tokio::time::timeout(Duration::from_millis(wait), account.lists.come.notified()).await;
                    }
                    _ => account.read_once(&*api).await,
                }
            }
        });
    }

    async fn read_once(&self, api: &dyn BatchApi) {
        let _place = self.turn("", Urgency::Usual).await;
        let began = (self.clock)();
        let (mut round, since) = ListReading::of(&mut self.lists.lock());
        let mut see = |page: &[Batch]| round.see(page, began);
        let read = api.list(since, &mut see).await;
        round.end(&mut self.lists.lock(), read, began, (self.clock)());
    }
}

/// Marks the reading as over when it is dropped, even after a panic.
struct ReadingGuard<'a>(&'a Lists, bool);

impl Drop for ReadingGuard<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.lock().is_reading = false;
        }
    }
}

/// One reading of the list.
struct ListReading {
    /// The jobs and their callbacks, by the provider's name for the batch.
    followed: HashMap<String, Vec<(String, OnListed)>>,
    /// Names on the list, and whether the list's entry was enough.
    shown: HashMap<String, bool>,
    searches: Vec<Search>,
    /// Indices of searches by metadata, and by file.
    by_metadata: HashMap<String, Vec<usize>>,
    by_file: HashMap<String, Vec<usize>>,
    keys: HashSet<&'static str>,
    found: Vec<Vec<(i64, String)>>,
    pages: usize,
    /// Number of pages after which single looks cost less.
    worth: usize,
}

impl ListReading {
    /// Returns the round of a list that begins now, for all searches that were asked for before, and how far back it has to reach (Unix
    /// seconds).
    fn of(state: &mut State) -> (ListReading, i64) {
        let mut followed: HashMap<String, Vec<(String, OnListed)>> = HashMap::new();
        let mut since = i64::MAX;
        for (job, batches) in &state.followed {
            for (batch, f) in batches.iter().filter(|(_, f)| !f.by_itself) {
                since = since.min(f.made / 1000);
                followed.entry(batch.clone()).or_default().push((job.clone(), f.on_listed.clone()));
            }
        }
        let searches = std::mem::take(&mut state.searches);
        let (mut by_metadata, mut by_file, mut keys) = (HashMap::new(), HashMap::new(), HashSet::new());
        for (i, Search { wanted, .. }) in searches.iter().enumerate() {
            since = since.min(wanted.since);
            keys.insert(wanted.metadata.0);
            by_metadata.entry(wanted.metadata.1.clone()).or_insert_with(Vec::new).push(i);
            if !wanted.file.is_empty() {
                by_file.entry(wanted.file.clone()).or_insert_with(Vec::new).push(i);
            }
        }
        let (found, worth) = (vec![vec![]; searches.len()], followed.len());
        let shown = HashMap::new();
        (ListReading { followed, shown, searches, by_metadata, by_file, keys, found, pages: 0, worth }, since)
    }

    fn see(&mut self, page: &[Batch], began: i64) -> ControlFlow<()> {
        self.pages += 1;
        for batch in page {
            if let Some(followers) = self.followed.get(&batch.id) {
                let enough = followers.iter().fold(true, |enough, (_, on_listed)| on_listed(batch, began) && enough);
                self.shown.insert(batch.id.clone(), enough);
            }
            let said = self.keys.iter().filter_map(|key| self.by_metadata.get(batch.said(key)?));
            let made_of = batch.input_file_id.as_ref().and_then(|file| self.by_file.get(file));
            for i in said.chain(made_of).flatten() {
                let found = &mut self.found[*i];
                // A list that grows while it is read shows a batch twice. One batch more than allowed shows that there are too many.
                if found.len() <= TWINS && !found.iter().any(|(_, id)| *id == batch.id) {
                    found.push((batch.created_at, batch.id.clone()));
                }
            }
        }
        let seen_enough = self.shown.len() == self.followed.len() || self.pages >= self.worth;
        if self.searches.is_empty() && seen_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(self, state: &mut State, read: Result<(), ApiError>, began: i64, now: i64) {
        state.last = Some((began, self.pages.max(1)));
        if read.as_ref().is_err_and(ApiError::is_permanent) {
            state.unlisted = Some(now);
        }
        for (batch, followers) in &self.followed {
            let shown = self.shown.get(batch);
            for (job, _) in followers {
                let Some(f) = state.followed.get_mut(job).and_then(|batches| batches.get_mut(batch)) else { continue };
                let answer = match (shown, &read) {
                    (Some(true), _) => {
                        f.seen = Some(began);
                        Ok(AnsweredBy::List)
                    }
                    (None, Err(error)) if !error.is_permanent() => Err(error.clone()),
                    _ => {
                        // A waiting caller asks at once; any other asks next time.
                        f.by_itself = f.waiting.is_empty();
                        Ok(AnsweredBy::Itself)
                    }
                };
                f.waiting.drain(..).for_each(|waiting| _ = waiting.send(answer.clone()));
            }
        }
        for (search, mut found) in self.searches.into_iter().zip(self.found) {
            found.sort();
            let answer = match read.clone() {
                Ok(()) if found.len() > TWINS => Err(ApiError::new(
                    ErrorKind::Transient,
                    format!("the provider's list shows more than {TWINS} batches of one submission"),
                )),
                read => read.map(|()| SearchResult { began, batches: found.into_iter().map(|(_, id)| id).collect() }),
            };
            let _ = search.answer.send(answer);
        }
    }
}

#[cfg(test)]
mod tests;
