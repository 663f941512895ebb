//! One list for all: polls and searches of an account are collected, and one reading of the provider's list answers them.
//!
//! A list costs a call a page, a look a call. So a list is read where more batches are to be looked at than it has pages, and
//! then it renews what is known of every batch that anybody follows, which is therefore due again at one time. What the list
//! does not show, or shows as ended, is asked for by itself. Searches need a list that was read whole and begun after they
//! were asked for; they share it, and where a list is long they wait until the last one is some time ago.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::Account;
use crate::fair::Urgency;
use crate::provider::{ApiError, Batch, BatchApi, ErrorKind};

/// Pages of lists that searches alone read in a poll period, at most.
const PAGES_A_PERIOD: i64 = 50;
/// Batches on a page.
const PAGE: usize = 100;
/// Batches that are asked for by themselves, however short the list is: that is soonest done.
const FEW: usize = 8;
/// Milliseconds in which those gather who want the same list.
const GATHER: u64 = 20;
/// Milliseconds for which an account whose list says nothing is asked about each batch by itself.
const UNLISTED: i64 = 600_000;

/// Who follows a batch: told what a list that was begun at this moment (Unix milliseconds) shows of it. False: that is not
/// enough to go by, and the batch is to be asked for by itself.
pub type Sees = Arc<dyn Fn(&Batch, i64) -> bool + Send + Sync>;

/// A look at a batch that is due.
pub struct Due {
    /// The job's uid.
    pub job: String,
    /// The provider's name for the batch.
    pub batch: String,
    /// When it was looked at last (Unix milliseconds), if it was.
    pub seen: Option<i64>,
    /// When it was made, or later (Unix milliseconds).
    pub made: i64,
    /// Milliseconds between two looks at it.
    pub period: i64,
    /// Who is told.
    pub sees: Sees,
}

/// Who answers a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A list did.
    List,
    /// Nobody yet: the batch is to be asked for by itself.
    Itself,
}

/// The batches of one submission, as a list may show them.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Key and value of metadata that they have.
    pub metadata: (&'static str, String),
    /// The file that they were made from.
    pub file: String,
    /// When the oldest may have been made (Unix seconds); a day more is read.
    pub since: i64,
    /// Milliseconds between two looks at the job's batches.
    pub period: i64,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// When the list was begun that answered it (Unix milliseconds).
    pub began: i64,
    /// The provider's names, oldest first.
    pub batches: Vec<String>,
}

#[derive(Default)]
pub(super) struct Lists {
    state: Mutex<State>,
    /// Somebody wants a list.
    come: Notify,
}

#[derive(Default)]
struct State {
    /// By the job's uid and the provider's name.
    followed: HashMap<String, HashMap<String, Followed>>,
    searches: Vec<Search>,
    is_reading: bool,
    /// When the last list was begun, and how many pages were read of it.
    last: Option<(i64, usize)>,
    /// Until when the list is of no use.
    unlisted: i64,
}

struct Followed {
    seen: Option<i64>,
    made: i64,
    sees: Sees,
    /// The list is no answer any more: it showed the batch as ended, or not at all.
    by_itself: bool,
    waiting: Vec<oneshot::Sender<Result<Answer, ApiError>>>,
}

struct Search {
    wanted: Wanted,
    asked: i64,
    answer: oneshot::Sender<Result<Found, ApiError>>,
}

impl Lists {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the batches of a job but those that it still follows.
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
    /// Pages of a list, as far as that is known before it is read.
    fn pages(&self) -> usize {
        let followed: usize = self.followed.values().map(HashMap::len).sum();
        self.last.map_or(0, |(_, pages)| pages).max(followed.div_ceil(PAGE)).max(1)
    }

    /// Batches that a list would spare a call each: those whose last look is at least half a period ago.
    fn spared(&self, period: i64, now: i64) -> usize {
        let is_due = |f: &&Followed| !f.by_itself && f.seen.is_none_or(|seen| now >= seen + period / 2);
        self.followed.values().flat_map(HashMap::values).filter(is_due).count()
    }

    /// When the searches that wait may have their list; None: nobody waits.
    fn search_at(&self) -> Option<i64> {
        let period = self.searches.iter().map(|s| s.wanted.period).min()?;
        let asked = self.searches.iter().map(|s| s.asked).min()?;
        let pause = self.last.map_or(i64::MIN, |(began, pages)| {
            let pages = i64::try_from(pages).unwrap_or(i64::MAX).min(PAGES_A_PERIOD);
            began.saturating_add(period.saturating_mul(pages) / PAGES_A_PERIOD)
        });
        Some(asked.max(pause))
    }

    fn waits(&self) -> bool {
        self.followed.values().flat_map(HashMap::values).any(|f| !f.waiting.is_empty())
    }
}

impl Account {
    /// A look at a batch that is due: by a list, where one costs less, or else by itself, which is then the caller's to do.
    ///
    /// # Errors
    /// When the list could not be read now.
    pub async fn look(self: &Arc<Self>, api: &Arc<dyn BatchApi>, due: Due) -> Result<Answer, ApiError> {
        let now = (self.clock)();
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.lists.lock();
            let followed = state.followed.entry(due.job).or_default();
            let followed = followed.entry(due.batch).or_insert_with(|| Followed {
                seen: None,
                made: due.made,
                sees: due.sees.clone(),
                by_itself: false,
                waiting: vec![],
            });
            (followed.seen, followed.made, followed.sees) = (due.seen, due.made, due.sees);
            if std::mem::take(&mut followed.by_itself) {
                return Ok(Answer::Itself);
            }
            followed.waiting.push(tell);
            if now < state.unlisted || state.spared(due.period, now) <= state.pages().max(FEW) {
                // Nobody waits for it: it goes when the next list is read.
                return Ok(Answer::Itself);
            }
        }
        self.lists.come.notify_one();
        self.read_list(api);
        told.await.unwrap_or(Ok(Answer::Itself))
    }

    /// The batches of a submission, by a list that is begun from now on and read whole.
    ///
    /// # Errors
    /// When the list could not be read, or says nothing.
    pub async fn find(self: &Arc<Self>, api: &Arc<dyn BatchApi>, wanted: Wanted) -> Result<Found, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.lists.lock().searches.push(Search { wanted, asked: (self.clock)(), answer });
        self.lists.come.notify_one();
        self.read_list(api);
        let gone = || ApiError::new(ErrorKind::Transient, "the reading of the provider's list was broken off");
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Forgets the batches of a job but those that it still follows.
    pub fn keep(&self, job: &str, follows: impl Fn(&str) -> bool) {
        self.lists.keep(job, follows);
    }

    /// Reads lists for as long as somebody waits for one, unless that is being done.
    fn read_list(self: &Arc<Self>, api: &Arc<dyn BatchApi>) {
        if std::mem::replace(&mut self.lists.lock().is_reading, true) {
            return;
        }
        let (account, api) = (self.clone(), api.clone());
        tokio::spawn(async move {
            let mut reading = Reading(&account.lists, true);
            loop {
                tokio::time::sleep(Duration::from_millis(GATHER)).await;
                let wait = {
                    let mut state = account.lists.lock();
                    state.searches.retain(|s| !s.answer.is_closed());
                    for followed in state.followed.values_mut().flat_map(HashMap::values_mut) {
                        followed.waiting.retain(|waiting| !waiting.is_closed());
                    }
                    match (state.waits(), state.search_at()) {
                        (true, _) => 0,
                        (false, Some(at)) => at - (account.clock)(),
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
        let (mut round, since) = Round::of(&mut self.lists.lock(), began);
        let mut see = |page: &[Batch]| round.see(page, began);
        let read = api.list(since, &mut see).await;
        round.end(&mut self.lists.lock(), read, began, (self.clock)());
    }
}

/// Says that nobody reads, also where the reading panics.
struct Reading<'a>(&'a Lists, bool);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.lock().is_reading = false;
        }
    }
}

/// One reading of the list.
struct Round {
    /// By the provider's name: the job, and who is told.
    followed: HashMap<String, Vec<(String, Sees)>>,
    /// The names that were on the list, and whether that was enough.
    shown: HashMap<String, bool>,
    searches: Vec<Search>,
    /// Indices of searches by metadata, and by file.
    by_metadata: HashMap<String, Vec<usize>>,
    by_file: HashMap<String, Vec<usize>>,
    keys: HashSet<&'static str>,
    found: Vec<Vec<(i64, String)>>,
    pages: usize,
    /// Pages after which looks cost less.
    worth: usize,
}

impl Round {
    /// What is wanted of a list that begins now, and how far back (Unix seconds).
    fn of(state: &mut State, began: i64) -> (Round, i64) {
        let mut followed: HashMap<String, Vec<(String, Sees)>> = HashMap::new();
        let mut since = i64::MAX;
        for (job, batches) in &state.followed {
            for (batch, f) in batches.iter().filter(|(_, f)| !f.by_itself) {
                since = since.min(f.made / 1000);
                followed.entry(batch.clone()).or_default().push((job.clone(), f.sees.clone()));
            }
        }
        let (searches, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.searches).into_iter().partition(|s| s.asked <= began);
        state.searches = later;
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
        (Round { followed, shown, searches, by_metadata, by_file, keys, found, pages: 0, worth }, since)
    }

    fn see(&mut self, page: &[Batch], began: i64) -> ControlFlow<()> {
        self.pages += 1;
        for batch in page {
            if let Some(followers) = self.followed.get(&batch.id) {
                let enough = followers.iter().fold(true, |enough, (_, sees)| sees(batch, began) && enough);
                self.shown.insert(batch.id.clone(), enough);
            }
            let said = self.keys.iter().filter_map(|key| self.by_metadata.get(batch.said(key)?));
            let made_of = batch.input_file_id.as_ref().and_then(|file| self.by_file.get(file));
            for i in said.chain(made_of).flatten() {
                self.found[*i].push((batch.created_at, batch.id.clone()));
            }
        }
        let seen_enough = self.shown.len() == self.followed.len() || self.pages >= self.worth;
        if self.searches.is_empty() && seen_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(self, state: &mut State, read: Result<(), ApiError>, began: i64, now: i64) {
        state.last = Some((began, self.pages.max(1)));
        if read.as_ref().is_err_and(ApiError::is_permanent) {
            state.unlisted = now + UNLISTED;
        }
        for (batch, followers) in &self.followed {
            let shown = self.shown.get(batch);
            for (job, _) in followers {
                let Some(f) = state.followed.get_mut(job).and_then(|batches| batches.get_mut(batch)) else { continue };
                let answer = match (shown, &read) {
                    (Some(true), _) => {
                        f.seen = Some(began);
                        Ok(Answer::List)
                    }
                    (None, Err(error)) if !error.is_permanent() => Err(error.clone()),
                    _ => {
                        // Who waits asks at once, and who does not, next time.
                        f.by_itself = f.waiting.is_empty();
                        Ok(Answer::Itself)
                    }
                };
                f.waiting.drain(..).for_each(|waiting| _ = waiting.send(answer.clone()));
            }
        }
        for (search, mut found) in self.searches.into_iter().zip(self.found) {
            found.sort();
            // A list that grows while it is read shows a batch twice.
            found.dedup_by(|a, b| a.1 == b.1);
            let batches = || found.into_iter().map(|(_, id)| id).collect();
            let answer = read.clone().map(|()| Found { began, batches: batches() });
            let _ = search.answer.send(answer);
        }
    }
}

#[cfg(test)]
mod tests;
