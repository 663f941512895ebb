//! Everything that jobs share at a provider: one [`Account`] for each provider object and credential runs all of its calls,
//! beside the reconcile loop. So a server that never answers holds up its own account and nobody else.

mod list;
mod quota;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

pub use list::{Answer, Due, Found, Sees, Wanted};
pub use quota::{Full, Quota, Submission};

use crate::fair::{Claim, Limits, Share, Shares, Urgency};
use crate::provider::{ApiError, ErrorKind, Pace};
use list::Lists;

/// Limits of the calls of one account that are in flight at a time. Each has a deadline, and all wait for the same server, so
/// none is kept free.
const CALLS: Limits = Limits { total: 8, per_namespace: u64::MAX, keeps_last_shares: false };

/// The identity of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountKey {
    /// uid of the provider object.
    pub provider: String,
    /// Keyed fingerprint of the credential.
    pub fingerprint: String,
}

/// Returns the time in Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Called with the time for which a call waited for its turn.
pub type Waited = Arc<dyn Fn(Duration) + Send + Sync>;

/// The accounts of this process.
pub struct Accounts {
    clock: Clock,
    waited: Waited,
    accounts: Mutex<HashMap<AccountKey, Weak<Account>>>,
    /// Quotas by uid of the provider object. They outlive the current jobs, because a job's status is reported only once.
    quotas: Mutex<HashMap<String, Arc<Quota>>>,
}

impl Accounts {
    /// Returns a set without accounts.
    pub fn new(clock: Clock, waited: Waited) -> Accounts {
        Accounts { clock, waited, accounts: Mutex::default(), quotas: Mutex::default() }
    }

    /// Returns the account of this key; the same one for all callers while anybody uses it.
    pub fn get(&self, key: &AccountKey) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(key).and_then(Weak::upgrade) {
            return account;
        }
        accounts.retain(|_, account| account.strong_count() > 0);
        let account = Arc::new(Account {
            turns: Shares::new(CALLS),
            pace: Arc::default(),
            lists: Lists::default(),
            clock: self.clock.clone(),
            waited: self.waited.clone(),
        });
        accounts.insert(key.clone(), Arc::downgrade(&account));
        account
    }

    /// Returns the places for batches of a provider object, by its uid.
    pub fn quota(&self, provider: &str) -> Arc<Quota> {
        let mut quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        quotas.entry(provider.into()).or_insert_with(|| Quota::new(self.clock.clone())).clone()
    }

    /// Takes in the journal of a job that uses this provider; see [`Quota::report`].
    pub fn report(&self, provider: &str, job: &str, namespace: &str, live: usize, submission: Submission) {
        let others: Vec<Arc<Quota>> = {
            let quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
            quotas.iter().filter(|(of, _)| *of != provider).map(|(_, quota)| quota.clone()).collect()
        };
        // A status can name any provider.
        others.iter().for_each(|quota| quota.forget_guess(job));
        self.quota(provider).report(job, namespace, live, submission);
    }

    /// Forgets a job that is over.
    pub fn forget(&self, job: &str) {
        let quotas: Vec<Arc<Quota>> =
            self.quotas.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        quotas.iter().for_each(|quota| quota.forget(job));
        let accounts: Vec<Arc<Account>> = {
            let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            accounts.values().filter_map(Weak::upgrade).collect()
        };
        accounts.iter().for_each(|account| account.keep(job, |_| false));
    }
}

/// A provider object under one credential.
pub struct Account {
    turns: Arc<Shares>,
    pace: Arc<Pace>,
    lists: Lists,
    clock: Clock,
    waited: Waited,
}

impl Account {
    /// Returns the pace at which the account may be called; clients are given it.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
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
    pub async fn turn(&self, namespace: &str, urgency: Urgency) -> Share {
        let asked = Instant::now();
        loop {
            self.pace.ready().await;
            let claim = Claim { namespace: namespace.into(), size: 1, urgency, ..Claim::default() };
            let turn = self.turns.take(claim).await;
            if self.pace.is_ready() {
                (self.waited)(asked.elapsed());
                return turn;
            }
        }
    }
}
