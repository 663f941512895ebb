//! Everything that jobs share at a provider: one [`Account`] for each provider object and credential runs all of its calls,
//! beside the reconcile loop. So a server that never answers holds up its own account and nobody else.

mod list;
mod quota;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

pub use list::{AnsweredBy, DueLook, OnListed, SearchQuery, SearchResult};
pub use quota::{AccountLimits, JobUse, Quota, QuotaFull, Submission, UsedPlace};

use crate::fair::{Budget, Claim, Limits, Share, Shares, Urgency};
use crate::lifecycle::Load;
use crate::provider::{ANSWERS, AnswerMemory, ApiError, ErrorKind, OpenAi, Pace};
use list::Lists;

/// Limits of the calls of one account that are in flight at a time. Each has a deadline, and all wait for the same server, so
/// none is kept free.
const CALLS: Limits = Limits { total: 8, per_namespace: u64::MAX, keeps_last_shares: false };

/// Limits of the calls of all accounts that are on their way at a time. While its answer begins, a call may hold 408 KiB of head,
/// which is as much as hyper reads, or as much of a body that nobody has read yet. An account has a lane of its own.
const ON_THEIR_WAY: Limits = Limits { total: 128, per_namespace: 64, keeps_last_shares: true };

/// Limits of the uploads of all accounts that are on their way at a time, until they are answered. They take minutes, and calls never
/// wait for them. A slow one makes room for a namespace that has none (`controller/job/transfers.rs`).
const UPLOADS: Limits = Limits { total: 64, per_namespace: 32, keeps_last_shares: true };

/// Number of quotas below which none is dropped.
const FEW_QUOTAS: usize = 64;

/// The identity of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountKey {
    /// uid of the provider object.
    pub provider: String,
    /// Its namespace; empty if it has none.
    pub namespace: String,
    /// Keyed fingerprint of the credential.
    pub fingerprint: String,
}

/// Returns the time in Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Called with the time for which a call waited for its turn.
pub type OnWait = Arc<dyn Fn(Duration) + Send + Sync>;

/// The accounts of this process.
pub struct Accounts {
    clock: Clock,
    waited: OnWait,
    accounts: Mutex<HashMap<AccountKey, Weak<Account>>>,
    quotas: Mutex<Quotas>,
    /// The memory for followed batches.
    followed: Arc<Budget>,
    on_their_way: Arc<Shares>,
    uploads: Arc<Shares>,
    answers: Arc<Shares>,
}

/// The quotas of provider objects.
#[derive(Default)]
struct Quotas {
    /// Quotas by uid of the provider object. A status may name any uid, so those that count no job are dropped again.
    by_provider: HashMap<String, Arc<Quota>>,
    /// The provider at which a job counts, by the job's uid. A job counts at one.
    of_jobs: HashMap<String, String>,
    /// Number of quotas at which the unused ones are dropped.
    drop_at: usize,
}

impl Quotas {
    fn get(&mut self, provider: &str, clock: &Clock) -> Arc<Quota> {
        if let Some(quota) = self.by_provider.get(provider) {
            return quota.clone();
        }
        if self.by_provider.len() >= self.drop_at {
            self.by_provider.retain(|_, quota| Arc::strong_count(quota) > 1 || quota.counts_jobs());
            self.drop_at = FEW_QUOTAS.max(2 * self.by_provider.len());
        }
        let quota = Quota::new(clock.clone());
        self.by_provider.insert(provider.into(), quota.clone());
        quota
    }

    /// Lets the job count at this provider.
    fn count_at(&mut self, provider: &str, job: &str, clock: &Clock) -> Arc<Quota> {
        self.of_jobs.insert(job.into(), provider.into());
        self.get(provider, clock)
    }

    /// Returns the quota at which the job counts.
    fn of_job(&self, job: &str) -> Option<Arc<Quota>> {
        self.by_provider.get(self.of_jobs.get(job)?).cloned()
    }
}

impl Accounts {
    /// Returns a set without accounts.
    pub fn new(clock: Clock, waited: OnWait) -> Accounts {
        Accounts {
            clock,
            waited,
            accounts: Mutex::default(),
            quotas: Mutex::default(),
            followed: Budget::new(list::FOLLOWED),
            on_their_way: Shares::new(ON_THEIR_WAY),
            uploads: Shares::new(UPLOADS),
            answers: Shares::new(ANSWERS),
        }
    }

    /// Returns the account of this key; the same one for all callers while anybody uses it.
    pub fn get(&self, key: &AccountKey) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(key).and_then(Weak::upgrade) {
            return account;
        }
        accounts.retain(|_, account| account.strong_count() > 0);
        let account = Arc::new(Account {
            key: key.clone(),
            turns: Shares::new(CALLS),
            on_their_way: self.on_their_way.clone(),
            uploads: self.uploads.clone(),
            answers: self.answers.clone(),
            pace: Arc::default(),
            lists: Lists::default(),
            clock: self.clock.clone(),
            waited: self.waited.clone(),
            followed: self.followed.clone(),
        });
        accounts.insert(key.clone(), Arc::downgrade(&account));
        account
    }

    /// Returns the places for batches of a provider object, by its uid.
    pub fn quota(&self, provider: &str) -> Arc<Quota> {
        self.quotas().get(provider, &self.clock)
    }

    /// Takes in a job's status, for as long as its journal was not read; see [`Quota::guess`]. A status can name any provider.
    pub fn guess(&self, provider: &str, job: &str, namespace: &str, live: Load) {
        let mut quotas = self.quotas();
        let before = quotas.of_job(job);
        if before.as_ref().is_some_and(|quota| quota.has_reported(job)) || (before.is_none() && live.batches == 0) {
            return;
        }
        let quota = quotas.count_at(provider, job, &self.clock);
        quota.guess(job, namespace, live);
        forget_elsewhere(before, &quota, job);
    }

    /// Takes in the journal of a job that uses this provider; see [`Quota::report`].
    pub fn report(&self, provider: &str, job: &str, namespace: &str, takes: JobUse) {
        let mut quotas = self.quotas();
        let before = quotas.of_job(job);
        let quota = quotas.count_at(provider, job, &self.clock);
        // Under the lock, so that a job that is forgotten meanwhile counts nowhere.
        quota.report(job, namespace, takes);
        forget_elsewhere(before, &quota, job);
    }

    /// Returns what is in flight, or has a place, by uid of the provider object and by namespace.
    pub fn in_flight(&self) -> BTreeMap<(String, String), Load> {
        let quotas: Vec<_> =
            self.quotas().by_provider.iter().map(|(uid, quota)| (uid.clone(), quota.clone())).collect();
        let of = |(uid, quota): (String, Arc<Quota>)| {
            quota.in_flight().into_iter().map(move |(namespace, load)| ((uid.clone(), namespace), load))
        };
        quotas.into_iter().flat_map(of).collect()
    }

    /// Returns the uids of the jobs that count at a provider object.
    pub fn jobs_at(&self, provider: &str) -> Vec<String> {
        let quota = self.quotas().by_provider.get(provider).cloned();
        quota.map_or(vec![], |quota| quota.jobs())
    }

    /// Forgets a job that is over.
    pub fn forget(&self, job: &str) {
        let quota = {
            let mut quotas = self.quotas();
            let quota = quotas.of_job(job);
            quotas.of_jobs.remove(job);
            quota
        };
        if let Some(quota) = quota {
            quota.forget(job);
        }
        let accounts: Vec<Arc<Account>> = {
            let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            accounts.values().filter_map(Weak::upgrade).collect()
        };
        accounts.iter().for_each(|account| account.keep(job, |_| false));
    }

    fn quotas(&self) -> MutexGuard<'_, Quotas> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a job at the provider at which it counted before, if that is another one.
fn forget_elsewhere(before: Option<Arc<Quota>>, now: &Arc<Quota>, job: &str) {
    if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, now)) {
        before.forget(job);
    }
}

/// A provider object under one credential.
pub struct Account {
    key: AccountKey,
    turns: Arc<Shares>,
    /// The places of calls on their way, of all accounts.
    on_their_way: Arc<Shares>,
    /// The places of uploads, of all accounts.
    uploads: Arc<Shares>,
    /// The memory for larger answers of all accounts.
    answers: Arc<Shares>,
    pace: Arc<Pace>,
    lists: Lists,
    clock: Clock,
    waited: OnWait,
    /// The memory for followed batches of all accounts.
    followed: Arc<Budget>,
}

/// The turn of a call, which is given back when it is dropped.
#[derive(Debug)]
pub struct CallTurn {
    _of_account: Share,
    _on_its_way: Share,
}

impl Account {
    /// Returns the pace at which the account may be called.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Returns `client` with the account's pace and with memory for the answers to calls for jobs of `namespace`, or to the account's own
    /// calls if that is empty. The memory counts for the namespace of the provider object, whose server decides how large answers are.
    pub fn client(&self, client: OpenAi, namespace: &str) -> OpenAi {
        let AccountKey { provider, namespace: own, .. } = &self.key;
        let answers = AnswerMemory::of(&self.answers, own, provider, self.lane(namespace));
        client.at_pace(self.pace.clone()).reading_in(answers)
    }

    /// Returns the lane of calls for jobs of `namespace`: an account that many namespaces use leaves room for each of them.
    fn lane<'a>(&'a self, namespace: &'a str) -> &'a str {
        if self.key.namespace.is_empty() { namespace } else { &self.key.provider }
    }

    /// Waits for a place among the uploads that are on their way, for a job of `namespace`. `is_retry` tells whether this upload failed
    /// the last time.
    pub async fn upload_turn(&self, namespace: &str, is_retry: bool) -> Share {
        self.uploads.take(Claim { is_retry, ..self.claim(namespace, Urgency::Usual) }).await
    }

    /// Returns the claim for a place of a call for a job of `namespace`. It counts for the namespace of the provider object or, if
    /// that has none, for the job's.
    fn claim(&self, namespace: &str, urgency: Urgency) -> Claim {
        let AccountKey { provider, namespace: own, .. } = &self.key;
        let namespace = if own.is_empty() { namespace } else { own };
        Claim { namespace: namespace.into(), lane: provider.clone(), size: 1, urgency, ..Claim::default() }
    }

    /// Runs `call` for a job of `namespace` once it is its turn and the provider does not ask for a pause, for at most
    /// `deadline`. Dropping the future takes the call out of the queue.
    ///
    /// # Errors
    /// The call's own error, or a time-out.
    pub async fn call<T, E: From<ApiError>>(
        &self,
        namespace: &str,
        urgency: Urgency,
        deadline: Duration,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let _turn = self.turn(namespace, urgency).await;
        match tokio::time::timeout(deadline, call).await {
            Ok(called) => called,
            Err(_) => {
                let why = format!("no answer of the provider within {} s", deadline.as_secs());
                Err(ApiError::new(ErrorKind::Transient, why).into())
            }
        }
    }

    /// Waits for the turn of a call of `namespace`, and until the provider does not ask for a pause.
    pub async fn turn(&self, namespace: &str, urgency: Urgency) -> CallTurn {
        let asked = Instant::now();
        loop {
            self.pace.ready().await;
            let claim = Claim { namespace: namespace.into(), size: 1, urgency, ..Claim::default() };
            let of_account = self.turns.take(claim).await;
            let on_its_way = self.on_their_way.take(self.claim(namespace, urgency)).await;
            if self.pace.is_ready() {
                (self.waited)(asked.elapsed());
                return CallTurn { _of_account: of_account, _on_its_way: on_its_way };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::lifecycle::Applicant;

    fn one() -> Load {
        Load { batches: 1, ..Load::default() }
    }

    fn accounts() -> Accounts {
        Accounts::new(Arc::new(|| 0), Arc::new(|_| {}))
    }

    fn account(accounts: &Accounts, namespace: &str, provider: &str) -> Arc<Account> {
        accounts.get(&AccountKey { provider: provider.into(), namespace: namespace.into(), fingerprint: "f".into() })
    }

    #[test]
    fn calls_of_accounts_that_never_answer_leave_places_to_other_accounts_and_namespaces() {
        let accounts = accounts();
        let call = |account: &Arc<Account>| account.turn("job's", Urgency::Usual).now_or_never();
        let silent: Vec<_> = (0..6).map(|n| account(&accounts, "a", &format!("silent-{n}"))).collect();
        let calls: Vec<CallTurn> = silent.iter().flat_map(|account| (0..20).filter_map(|_| call(account))).collect();
        assert_eq!(calls.len(), 6 * 8);
        for (namespace, provider) in [("a", "honest"), ("b", "b's"), ("", "everybody's")] {
            assert!(call(&account(&accounts, namespace, provider)).is_some(), "{namespace}, {provider}");
        }
    }

    #[test]
    fn uploads_to_an_account_that_many_namespaces_use_leave_places_to_each_of_them_and_to_calls() {
        let accounts = accounts();
        let shared = account(&accounts, "", "everybody's");
        let upload = |namespace| shared.upload_turn(namespace, false).now_or_never();
        let uploads: Vec<Share> = (0..100).filter_map(|_| upload("a")).collect();
        assert_eq!(uploads.len(), 16);
        assert!(upload("b").is_some() && shared.turn("a", Urgency::Urgent).now_or_never().is_some());
    }

    #[test]
    fn uploads_that_failed_before_have_half_of_the_places_whoever_they_are_of() {
        let accounts = accounts();
        let upload = |namespace: &str, is_retry| {
            account(&accounts, namespace, "their own").upload_turn("job's", is_retry).now_or_never()
        };
        let namespaces: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        let retries: Vec<Share> =
            namespaces.iter().flat_map(|namespace| (0..20).filter_map(|_| upload(namespace, true))).collect();
        assert_eq!(retries.len(), 32);
        assert!(upload("quiet", true).is_none() && upload("quiet", false).is_some());
    }

    #[test]
    fn a_job_counts_at_the_provider_that_it_uses_whatever_its_status_names() {
        let accounts = accounts();
        let is_full = |provider: &str| {
            let quota = accounts.quota(provider);
            quota.set_limits(AccountLimits { batches: Some(1), ..AccountLimits::default() });
            quota.full("other", &Applicant { namespace: "ns".into(), ..Applicant::default() }).is_some()
        };
        accounts.guess("named", "job", "ns", one());
        assert!(is_full("named"));
        accounts.guess("named-later", "job", "ns", one());
        assert!(!is_full("named") && is_full("named-later"));
        let takes = JobUse { live: one(), next_end: None, submission: Submission::None };
        accounts.report("used", "job", "ns", takes);
        accounts.guess("named", "job", "ns", one());
        assert!(!is_full("named") && !is_full("named-later") && is_full("used"));
        accounts.forget("job");
        assert!(!is_full("used"));
    }

    #[test]
    fn providers_that_statuses_make_up_take_no_memory_for_long() {
        let accounts = accounts();
        for number in 0..10_000 {
            accounts.guess(&format!("made-up-{number}"), "job", "ns", one());
            accounts.guess(&format!("made-up-again-{number}"), &format!("gone-{number}"), "ns", one());
            accounts.forget(&format!("gone-{number}"));
        }
        let quotas = accounts.quotas();
        assert!(quotas.by_provider.len() <= FEW_QUOTAS, "{}", quotas.by_provider.len());
        assert_eq!(quotas.of_jobs.len(), 1);
    }
}
