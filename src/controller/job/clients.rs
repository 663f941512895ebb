//! The clients that the steps of a job work with: the folder of its output, its journal, and its account at the provider.

use std::sync::Arc;

use kube::ResourceExt;

use super::act::MemoryEdit;
use super::folders::output_folder;
use super::job_state::JobState;
use super::journal::JournalStore;
use crate::account;
use crate::api::BatchJob;
use crate::api::conditions::reasons;
use crate::controller::Context;
use crate::controller::provider::ReadFrom;
use crate::controller::provider::account::Account;
use crate::controller::runtime::cache::LIFETIME;
use crate::controller::runtime::missing::{Missing, blocked};
use crate::lifecycle::{JobView, Memory};
use crate::provider::BatchApi;
use crate::store::Folder;

/// The clients of one job, as they were opened for its spec.
pub(crate) struct Clients {
    read_at: i64,
    spec_hash: String,
    /// Whether the job was pinned to its provider before the provider was read.
    pinned: bool,
    /// The folder of the output.
    pub folder: Folder,
    /// The store of the journal.
    pub journals: JournalStore,
    /// The API of the provider.
    pub api: Arc<dyn BatchApi>,
    /// The account at the provider, with its credential.
    pub account: Account,
    /// The actor that runs the account's calls.
    pub calls: Arc<account::Account>,
    /// The places for batches, which all accounts of the provider object share.
    pub quota: Arc<account::Quota>,
    /// The keyed fingerprint of the account's credential.
    pub fingerprint: String,
    /// The fingerprint of the account's credential, and the version of the output's Secret. They change with the credentials.
    pub credentials: (String, Option<String>),
}

/// Bytes that clients take besides credentials and names.
const CLIENTS_BYTES: usize = 4 << 10;

impl Clients {
    /// Returns the bytes of memory that they take, without certificates, which have a budget of their own.
    pub fn weight(&self) -> usize {
        CLIENTS_BYTES + self.folder.weight() + self.account.weight()
    }

    /// Returns an edit of memory about a finding at the provider. It is skipped if the job's credential changed since these
    /// clients were opened: the finding may be that of another account.
    pub fn memory_edit(&self, learn: impl FnOnce(&mut Memory) + Send + 'static) -> MemoryEdit {
        let fingerprint = self.fingerprint.clone();
        Box::new(move |m| {
            if m.fingerprint == fingerprint {
                learn(m);
            }
        })
    }
}

/// Opens what the steps of a job are done with, or says what is missing. What was opened for the same spec is taken again while it
/// is young enough.
pub(crate) async fn open(
    ctx: &Context,
    job_state: &JobState,
    job: &BatchJob,
    view: &JobView,
    now: i64,
) -> Result<Arc<Clients>, Missing> {
    if let Some(blocked) = &view.blocked {
        return Err(Missing::Blocked(blocked.clone()));
    }
    let (spec_hash, pinned) = (view.spec_hash.clone(), view.pinned);
    // After a failure that another credential may fix, credentials that were read before it are too old.
    let since = job_state.distrusts().max(now - LIFETIME + 1);
    let earlier = job_state.clients().filter(|t| t.spec_hash == spec_hash && t.pinned == pinned);
    if let Some(clients) = earlier.as_ref().filter(|t| (since..=now).contains(&t.read_at)) {
        return Ok(clients.clone());
    }
    let namespace = job.namespace().unwrap_or_default();
    let (folder, secret_version) = output_folder(ctx, job, view, &namespace, since).await?;
    let seen = earlier.map(|clients| clients.account.seen());
    let known = match &seen {
        Some(seen) => ReadFrom::WatchSince(&seen.metadata),
        // It may be going since before it was pinned, and let go by somebody who did not see the pin.
        None if pinned => ReadFrom::ApiServer,
        None => ReadFrom::Watch,
    };
    let account =
        crate::controller::provider::account::account(ctx, &job.spec.provider_ref, &namespace, known, since).await?;
    let fingerprint = account.fingerprint();
    let key = account.key(&fingerprint);
    let (calls, quota) = (ctx.accounts.get(&key), ctx.accounts.quota(&key.provider));
    quota.set_limits(account.limits_in_flight());
    let api = match account.client(job.spec.provider_ref.kind) {
        Ok(api) => Arc::new(calls.client(api, &namespace)),
        Err(e) => return blocked(reasons::PROVIDER_NOT_FOUND, format!("{}: {e}", account.name)),
    };
    let journals = JournalStore::new(&folder, view.seal_at);
    let credentials = (fingerprint.clone(), secret_version);
    let clients = Arc::new(Clients {
        read_at: now,
        spec_hash,
        pinned,
        folder,
        journals,
        api,
        account,
        calls,
        quota,
        fingerprint,
        credentials,
    });
    job_state.keep_clients(clients.clone());
    Ok(clients)
}
