//! Everything that jobs share at a provider: one [`Account`] for each provider object and credential runs all of its calls,
//! beside the reconcile loop. So a server that never answers holds up its own account and nobody else.

mod gate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

pub use gate::{Gate, Place, Urgency};

use crate::provider::{ApiError, Class, Pace};

/// Calls of one account that are in flight at a time.
const CALLS: usize = 8;

/// What an account is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountKey {
    /// uid of the provider object.
    pub provider: String,
    /// Keyed fingerprint of the credential.
    pub fingerprint: String,
}

/// The accounts of this process.
#[derive(Debug, Default)]
pub struct Accounts(Mutex<HashMap<AccountKey, Weak<Account>>>);

impl Accounts {
    /// The account of this key, the same one for all who ask while anybody uses it.
    pub fn get(&self, key: &AccountKey) -> Arc<Account> {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(key).and_then(Weak::upgrade) {
            return account;
        }
        accounts.retain(|_, account| account.strong_count() > 0);
        let account = Arc::new(Account { gate: Gate::new(CALLS, usize::MAX), pace: Arc::default() });
        accounts.insert(key.clone(), Arc::downgrade(&account));
        account
    }
}

/// One provider object under one credential.
#[derive(Debug)]
pub struct Account {
    gate: Arc<Gate>,
    pace: Arc<Pace>,
}

impl Account {
    /// When the account may be called; clients are given it.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Runs `call` for a job of `namespace` once it is its turn and the provider does not ask to be left alone, for at most
    /// `deadline`. Dropping the future takes it out of the queue.
    ///
    /// # Errors
    /// The call's own, or that it took too long.
    pub async fn call<T, E: From<ApiError>>(
        &self,
        namespace: &str,
        urgency: Urgency,
        deadline: Duration,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let _place = self.turn(namespace, urgency).await;
        match tokio::time::timeout(deadline, call).await {
            Ok(called) => called,
            Err(_) => {
                let why = format!("no answer of the provider within {} s", deadline.as_secs());
                Err(ApiError::new(Class::Transient, why).into())
            }
        }
    }

    /// Waits for the turn of a call of `namespace`, and until the provider does not ask to be left alone.
    pub async fn turn(&self, namespace: &str, urgency: Urgency) -> Place {
        loop {
            self.pace.ready().await;
            let place = self.gate.place(namespace, urgency).await;
            if self.pace.is_ready() {
                return place;
            }
        }
    }
}
