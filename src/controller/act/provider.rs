//! Steps at the provider.

use kube::ResourceExt;
use tracing::warn;

use super::Act;
use crate::api::conditions::reasons;
use crate::controller::backoff::TOLD_FROM;
use crate::controller::permit::{Ask, refusal, send_timeout};
use crate::controller::trouble::Trouble;
use crate::controller::{events::News, names};
use crate::lifecycle::{Attempt, AttemptState, Journal, Look, Posted, Refusal, Rejection, Search, Seen, Slot, Task};
use crate::provider::{self, ApiError, Batch, BatchApi, Class, Trial};

/// Failures in a row, of some five minutes, after which nobody waits any longer for what is wanted and not needed.
const TRIES: u32 = 10;

impl Act<'_> {
    fn attempt(&self, slot: Slot) -> Result<&Attempt, Trouble> {
        let attempt = self.journal()?.shards.get(slot.shard).and_then(|s| s.attempt.as_ref());
        attempt.ok_or_else(|| Trouble::passing(reasons::PENDING, format!("batch {slot} has no attempt")))
    }

    /// Uses the permit up, whatever comes of it.
    pub(super) async fn post(&self, slot: Slot) -> Result<(), Trouble> {
        let (journal, attempt, tools) = (self.journal()?, self.attempt(slot)?, self.tools()?);
        let file = &attempt.file_id;
        let ours = if self.uploaded(file) { Some(true) } else { self.is_our_file(file).await? };
        let Some(permit) = self.session.take_permit() else { return Ok(()) };
        if ours != Some(true) {
            let refused = match ours {
                Some(_) => Rejection::new(
                    Refusal::Invalid,
                    format!("file {file}, which the journal names, is not this job's; it is not sent"),
                ),
                None => Rejection::new(
                    Refusal::NotSent,
                    format!("the provider no longer has file {file}; its requests are uploaded again"),
                ),
            };
            self.session.remember(|m| {
                m.posted.insert(permit.intent_id().into(), Posted::Refused(refused));
                // The next attempt gets a file of its own.
                m.deleted.insert(file.clone());
            });
            return Ok(());
        }
        let spec = &self.world.job.spec;
        let ask = Ask {
            file_id: attempt.file_id.clone(),
            endpoint: spec.endpoint.path(),
            window_hours: spec.completion_window_seconds.unsigned_abs() / 3600,
            metadata: names::metadata(journal, slot, &attempt.intent_id),
            timeout: send_timeout(&self.ctx.timing),
        };
        let intent_id = permit.intent_id().to_string();
        let posted = permit.post(&*tools.api, ask, self.ctx.clock.now()).await;
        match &posted {
            Posted::Created(_) => {
                self.ctx.metrics.batches_created.inc();
            }
            Posted::Unknown(why) | Posted::Declined(Rejection { message: why, .. }) => {
                warn!(%slot, why, "nobody can tell whether a batch was created; it is looked for");
            }
            Posted::Refused(..) => {}
        }
        self.session.remember(|m| {
            m.posted.insert(intent_id, posted);
        });
        Ok(())
    }

    /// Whether this process uploaded the file itself.
    fn uploaded(&self, file_id: &str) -> bool {
        self.session.memory().uploads.values().any(|uploaded| uploaded == file_id)
    }

    async fn is_our_file(&self, file_id: &str) -> Result<Option<bool>, Trouble> {
        Ok(is_our_file(&*self.tools()?.api, self.journal()?, file_id).await?)
    }

    pub(super) async fn search(&self, slot: Slot) -> Result<(), Trouble> {
        let attempt = self.attempt(slot)?;
        let began = self.ctx.clock.now();
        let is_ours = |b: &Batch| {
            b.said(names::INTENT) == Some(&attempt.intent_id) || b.input_file_id.as_deref() == Some(&attempt.file_id)
        };
        // What is recorded is followed all the same; of what was turned away a person is asked, unless the list can be read soon.
        let may_fail = |error: &ApiError| match &attempt.state {
            AttemptState::Submitted { batch_id, .. } if self.session.memory().is_turned_away(batch_id) => {
                error.class != Class::NotSent && self.session.backoff(Some(Task::Call(slot))).failures >= TRIES
            }
            AttemptState::Submitted { .. } => true,
            _ => false,
        };
        let found: Option<Vec<String>> = match self.tools()?.api.find(attempt.post_by / 1000, &is_ours).await {
            Ok(batches) => Some(batches.into_iter().map(|b| b.id).collect()),
            Err(error) if error.is_for_good() || may_fail(&error) => {
                warn!(%slot, %error, "the provider's batches cannot be searched");
                None
            }
            Err(e) => return Err(e.into()),
        };
        let earlier = self.session.memory().searches.get(&attempt.intent_id).and_then(|search| search.found.clone());
        if let Some(found) = found.as_ref().filter(|found| found.len() > 1 && earlier.as_ref() != Some(found)) {
            let note = format!(
                "the provider made {} batches of the submission of {slot}: {}; one is followed, and the others are told to stop",
                found.len(),
                found.join(", ")
            );
            self.tell(News::warning("DuplicateBatches", note)).await;
        }
        self.session.remember(|m| {
            m.searches.insert(attempt.intent_id.clone(), Search { began, found });
        });
        Ok(())
    }

    pub(super) async fn check_file(&self, slot: Slot) -> Result<(), Trouble> {
        let file_id = self.attempt(slot)?.file_id.clone();
        let ours = self.is_our_file(&file_id).await? == Some(true);
        self.session.remember(|m| {
            m.files.insert(file_id, ours);
        });
        Ok(())
    }

    /// What cannot be tried out for good is not there, and whoever needs it asks a person.
    pub(super) async fn probe(&self, slot: Slot) -> Result<(), Trouble> {
        let journal = self.journal()?;
        let models: Vec<String> = journal.shards.get(slot.shard).map(|s| s.model.clone()).into_iter().collect();
        let trial = Trial {
            file_name: &format!("{}probe.jsonl", names::file_prefix(journal)),
            endpoint: self.world.job.spec.endpoint,
            models: &models,
            timeout: send_timeout(&self.ctx.timing),
        };
        let probe = provider::probe(&*self.tools()?.api, &trial).await?;
        if let Some(error) = probe.untried.filter(|error| !error.is_for_good() && error.class != Class::Auth) {
            return Err(error.into());
        }
        self.session.remember(|m| m.resolvable = Some(probe.can.can_resolve()));
        Ok(())
    }

    /// A call that helps to find out what became of a submission. Once it failed several times in a row a person is asked.
    pub(super) async fn settles(
        &self,
        slot: Slot,
        call: impl Future<Output = Result<(), Trouble>>,
    ) -> Result<(), Trouble> {
        let intent_id = self.attempt(slot)?.intent_id.clone();
        let called = call.await;
        let failures = self.session.backoff(Some(Task::Call(slot))).failures + 1;
        self.session.remember(|m| match &called {
            Err(trouble) if failures >= TOLD_FROM => _ = m.unsettled.insert(intent_id, trouble.stuck.message.clone()),
            Err(_) => {}
            Ok(()) => _ = m.unsettled.remove(&intent_id),
        });
        called
    }

    pub(super) async fn revoke(&self, slot: Slot) -> Result<(), Trouble> {
        let file_id = self.attempt(slot)?.file_id.clone();
        match self.is_our_file(&file_id).await? {
            Some(false) => {
                let message = format!("file {file_id}, which the journal names, is not this job's; it is not deleted");
                return Err(Trouble::lasting(reasons::OUTPUT_CONFLICT, message));
            }
            Some(true) => self.tools()?.api.delete_file(&file_id).await?,
            None => {}
        }
        if self.is_our_file(&file_id).await?.is_some() {
            return Err(Trouble::passing(reasons::PROVIDER_UNAVAILABLE, "a deleted input file is still there"));
        }
        let gone = self.ctx.clock.now();
        self.session.remember(|m| {
            m.revoked.insert(file_id, gone);
        });
        Ok(())
    }

    pub(super) async fn poll(&self, slot: Slot) -> Result<(), Trouble> {
        match &self.attempt(slot)?.state {
            AttemptState::Submitted { batch_id, .. } => self.look_at(batch_id).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn look_at(&self, batch_id: &str) -> Result<(), Trouble> {
        let tools = self.tools()?;
        let seen = match tools.api.get(batch_id).await {
            Ok(batch) if !self.is_ours(&batch).await? => Seen::NotOurs,
            Ok(batch) => seen(&batch),
            Err(e) if e.class == Class::NotFound => Seen::NotFound,
            Err(e) => return Err(e.into()),
        };
        let look = Look { at: self.ctx.clock.now(), seen };
        self.session.remember(|m| {
            m.looks.insert(batch_id.into(), look);
        });
        Ok(())
    }

    /// Whether the provider's own record says that the batch is this work's: its metadata, or, where a server keeps none,
    /// the name of the file it was made from.
    async fn is_ours(&self, batch: &Batch) -> Result<bool, Trouble> {
        let journal = self.journal()?;
        if batch.said(names::WORK).is_some() {
            return Ok(names::is_said_by(batch, journal.named_after(), &journal.owner, &journal.work_id));
        }
        match &batch.input_file_id {
            Some(file) => Ok(self.is_our_file(file).await? == Some(true)),
            None => Ok(false),
        }
    }

    /// Only the batch's own metadata can say whose it is; one that says nothing is left alone.
    pub(super) async fn cancel_unjournaled(&self, batch_id: String) -> Result<(), Trouble> {
        let api = &self.tools()?.api;
        let owner = &self.world.view.owner;
        let work = self.world.job.status.as_ref().and_then(|s| s.work.as_ref());
        let work_id = work.map(|w| w.id.as_str()).unwrap_or_default();
        match api.get(&batch_id).await {
            Ok(batch) if names::is_said_by(&batch, &owner.cluster, owner, work_id) => api.cancel(&batch_id).await?,
            Ok(_) => {}
            Err(e) if e.class == Class::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        self.session.remember(|m| {
            m.cancelled.insert(batch_id);
        });
        Ok(())
    }

    /// A search goes by what the journal says of an intent, so what it found may be somebody else's.
    pub(super) async fn cancel(&self, batch_id: &str) -> Result<(), Trouble> {
        let api = &self.tools()?.api;
        match api.get(batch_id).await {
            Ok(batch) if batch.has_ended() && self.is_ours(&batch).await? => {
                let (state, done) = (&batch.status, batch.done.unwrap_or(0));
                let note = format!(
                    "batch {batch_id} ended as '{state}' before it could be told to stop, {done} requests done"
                );
                self.tell(News::warning("NotCancelled", note)).await;
            }
            Ok(batch) if self.is_ours(&batch).await? => match api.cancel(batch_id).await {
                Err(error) if error.is_for_good() => {
                    let note = format!("batch {batch_id} cannot be told to stop, and runs to its end: {error}");
                    self.tell(News::warning("NotCancelled", note)).await;
                }
                cancelled => cancelled?,
            },
            Ok(_) => {
                let note =
                    format!("batch {batch_id} carries nothing that says that it is this job's; it is left alone");
                self.tell(News::warning("NotOurs", note)).await;
            }
            Err(e) if e.class == Class::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        self.session.remember(|m| {
            m.cancelled.insert(batch_id.to_string());
            m.looks.remove(batch_id);
        });
        Ok(())
    }

    /// Deletes what is ours by the provider's own word. Where a batch could come of it, only a provider that does not delete at
    /// all is let off; else a file that cannot be deleted costs nothing and goes by itself.
    pub(super) async fn delete_files(&self, files: Vec<String>, slot: Option<Slot>, must: bool) -> Result<(), Trouble> {
        let (journal, owner) = (self.journal()?, &self.world.view.owner);
        let tried = self.session.backoff(slot.map(Task::Call)).failures;
        match self.delete_ours(journal, &files, must).await {
            Err(t) if must || (t.may_pass && tried < TRIES) => return Err(t),
            Err(Trouble { stuck, .. }) => {
                let why = stuck.message;
                warn!(owner.namespace, owner.name, why, "files at the provider are left there until they expire");
            }
            Ok(()) => {}
        }
        self.session.remember(|m| m.deleted.extend(files));
        Ok(())
    }

    async fn delete_ours(&self, journal: &Journal, files: &[String], must: bool) -> Result<(), Trouble> {
        let (api, of_batches) = (&*self.tools()?.api, self.files_of_batches(journal).await?);
        for file in files {
            match delete_if_ours(api, journal, file, of_batches.contains(file)).await {
                Err(error) if must && !error.is_for_good() => return Err(error.into()),
                Err(error) => {
                    let job = self.world.job.name_any();
                    warn!(job, file, %error, "a file at the provider could not be deleted; it expires by itself");
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn files_of_batches(&self, journal: &Journal) -> Result<Vec<String>, Trouble> {
        let mut files = vec![];
        for attempt in journal.shards.iter().filter_map(|s| s.attempt.as_ref()) {
            let collected = matches!(attempt.state, AttemptState::Settled { part: Some(_), .. });
            let (AttemptState::Settled { batch_id, .. } | AttemptState::Submitted { batch_id, .. }) = &attempt.state
            else {
                continue;
            };
            match self.tools()?.api.get(batch_id).await {
                // Files that an earlier look at it does not name would be left.
                Ok(batch) if collected && !batch.has_ended() => {
                    let message = format!("batch {batch_id} ended, and the provider shows it as {} now", batch.status);
                    return Err(Trouble::passing(reasons::PROVIDER_UNAVAILABLE, message));
                }
                Ok(batch) if self.is_ours(&batch).await? => files.extend(names::files_of(&batch)),
                Ok(_) => {}
                Err(e) if e.class == Class::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(files)
    }
}

/// Whether the file is this work's, by the name that the provider has for it: the journal's word is not enough. None where
/// there is no such file under this credential.
async fn is_our_file(api: &dyn BatchApi, journal: &Journal, file_id: &str) -> Result<Option<bool>, ApiError> {
    match api.file_name(file_id).await {
        Ok(name) => Ok(Some(name.starts_with(&names::file_prefix(journal)))),
        Err(e) if e.class == Class::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

async fn delete_if_ours(api: &dyn BatchApi, journal: &Journal, file: &str, of_batch: bool) -> Result<(), ApiError> {
    match of_batch || is_our_file(api, journal, file).await? == Some(true) {
        true => api.delete_file(file).await,
        false => Ok(()),
    }
}

pub(super) fn seen(batch: &Batch) -> Seen {
    let (state, done) = (batch.status.clone(), batch.done.unwrap_or(0));
    match (batch.has_ended(), batch.unnamed_answers()) {
        (false, _) => Seen::Running { state, done },
        (true, Some(why)) => Seen::Unnamed { state, why },
        (true, None) => Seen::Ended {
            state,
            done,
            rejected: batch.rejection().map(|e| match e.class {
                Class::Transient => (Refusal::Failed, e.message),
                class => (refusal(class), e.message),
            }),
        },
    }
}
