//! Steps at the provider: each runs beside the reconcile loop, in its turn at the account, and teaches the session what it found.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use tracing::warn;

use super::Act;
use super::transfer::{Learned, Outcome, learned};
use crate::account::{Answer, Due, Found, Sees, Wanted};
use crate::api::conditions::reasons;
use crate::api::{BatchJob, Endpoint};
use crate::controller::backoff::TOLD_FROM;
use crate::controller::events::{self, News};
use crate::controller::observe::Tools;
use crate::controller::permit::{Ask, PostPermit, refusal, send_timeout};
use crate::controller::reconcile::name_of;
use crate::controller::session::Session;
use crate::controller::trouble::Trouble;
use crate::controller::{Context, names, tasks};
use crate::fair::Urgency;
use crate::lifecycle::{
    Attempt, AttemptState, Journal, Look, Memory, Owner, Posted, Refusal, Rejection, Search, Seen, Slot, Step, Task,
};
use crate::provider::{self, ApiError, Batch, BatchApi, Class, Trial};

/// Failures in a row, of some five minutes, after which nobody waits any longer for what is wanted and not needed.
const TRIES: u32 = 10;
/// Calls of one job that delete its files at a time; its account and namespace are asked for each.
const DELETIONS: usize = 4;
/// For a few small calls, each of which has a time-out of its own.
const A_FEW_CALLS: Duration = Duration::from_secs(120);
/// For a trial, which uploads a file.
const A_TRIAL: Duration = Duration::from_secs(400);

impl Act<'_> {
    /// Starts the call that `step` is.
    pub(super) fn call(&self, step: Step) -> Result<(), Trouble> {
        let (Some(task), name) = (step.call(), name_of(&step)) else { return Ok(()) };
        if self.session.memory().running.contains(&task) {
            return Ok(());
        }
        let call = Call {
            ctx: self.ctx.clone(),
            session: self.session.clone(),
            tools: self.tools()?.clone(),
            task,
            job: self.world.job.object_ref(&()),
            uid: self.world.view.owner.uid.clone(),
            whose: Arc::new(Whose::of(
                &self.world.view.owner,
                self.world.journal.as_ref().map(|(journal, _)| &**journal),
            )),
        };
        let start = |work: Work| tasks::start_call(self.ctx, self.session, &self.world.job, (task, name), work);
        match step {
            Step::Post(slot) => {
                let ask = self.ask(slot)?;
                // From now on it is this call's alone.
                if let Some(permit) = self.session.take_permit() {
                    start(Box::pin(async move { call.post(permit, ask).await }));
                }
            }
            Step::Search(slot) => {
                let (attempt, period) = (self.attempt(slot)?.clone(), self.world.view.poll_period);
                start(Box::pin(
                    async move { call.settles(&attempt.intent_id, call.search(slot, &attempt, period)).await },
                ));
            }
            Step::CheckFile(slot) => {
                let attempt = self.attempt(slot)?.clone();
                start(Box::pin(
                    async move { call.settles(&attempt.intent_id, call.check_file(&attempt.file_id)).await },
                ));
            }
            Step::Revoke(slot) => {
                let attempt = self.attempt(slot)?.clone();
                start(Box::pin(async move { call.settles(&attempt.intent_id, call.revoke(&attempt.file_id)).await }));
            }
            Step::Probe(slot) => {
                let (attempt, endpoint) = (self.attempt(slot)?.clone(), self.world.job.spec.endpoint);
                let models: Vec<String> =
                    self.journal()?.shards.get(slot.shard).map(|s| s.model.clone()).into_iter().collect();
                start(Box::pin(async move { call.settles(&attempt.intent_id, call.probe(endpoint, &models)).await }));
            }
            Step::Poll(slot) => {
                if let AttemptState::Submitted { batch_id, at } = &self.attempt(slot)?.state {
                    let (batch_id, made, period) = (batch_id.clone(), *at, self.world.view.poll_period);
                    start(Box::pin(async move { call.poll(batch_id, made, period).await }));
                }
            }
            Step::WaitForPlace => start(Box::pin(async move {
                call.tools.calls.pace().ready().await;
                call.tools.quota.place(&call.uid, &call.whose.owner.namespace).await;
                Ok(learned(|_| {}))
            })),
            Step::PollTwin { batch_id, .. } => start(Box::pin(async move { call.look_at(batch_id).await })),
            Step::Cancel { batch_id, .. } => start(Box::pin(async move { call.cancel(batch_id).await })),
            Step::CancelUnjournaled { batch_id } => {
                let work = self.world.job.status.as_ref().and_then(|s| s.work.as_ref());
                let work_id = work.map(|w| w.id.clone()).unwrap_or_default();
                start(Box::pin(async move { call.cancel_unjournaled(batch_id, work_id).await }));
            }
            Step::DeleteFiles { files, must, .. } => {
                let of_batches = batches_of_files(self.journal()?, &files);
                start(Box::pin(async move { call.delete_files(files, of_batches, must).await }));
            }
            _ => {}
        }
        Ok(())
    }

    fn attempt(&self, slot: Slot) -> Result<&Attempt, Trouble> {
        let attempt = self.journal()?.shards.get(slot.shard).and_then(|s| s.attempt.as_ref());
        attempt.ok_or_else(|| Trouble::passing(reasons::PENDING, format!("batch {slot} has no attempt")))
    }

    fn ask(&self, slot: Slot) -> Result<Ask, Trouble> {
        let (journal, attempt, spec) = (self.journal()?, self.attempt(slot)?, &self.world.job.spec);
        Ok(Ask {
            file_id: attempt.file_id.clone(),
            endpoint: spec.endpoint.path(),
            window_hours: spec.completion_window_seconds.unsigned_abs() / 3600,
            metadata: names::metadata(journal, slot, &attempt.intent_id),
            timeout: send_timeout(&self.ctx.timing),
        })
    }
}

type Work = std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Whose a batch or a file has to be for the job to touch it.
struct Whose {
    owner: Owner,
    /// The cluster that the work was begun in, by which it is known at the provider.
    cluster: String,
    work_id: String,
    file_prefix: Option<String>,
}

impl Whose {
    fn of(owner: &Owner, journal: Option<&Journal>) -> Whose {
        match journal {
            Some(journal) => Whose {
                owner: journal.owner.clone(),
                cluster: journal.named_after().into(),
                work_id: journal.work_id.clone(),
                file_prefix: Some(names::file_prefix(journal)),
            },
            None => {
                let cluster = owner.cluster.clone();
                Whose { owner: owner.clone(), cluster, work_id: String::new(), file_prefix: None }
            }
        }
    }
}

impl Whose {
    /// Whether the batch's own metadata says that it is this work's.
    fn is_said_by(&self, batch: &Batch) -> bool {
        names::is_said_by(batch, &self.cluster, &self.owner, &self.work_id)
    }
}

/// One call, with all that it needs.
struct Call {
    ctx: Arc<Context>,
    session: Arc<Session>,
    tools: Arc<Tools>,
    task: Task,
    job: ObjectReference,
    uid: String,
    whose: Arc<Whose>,
}

impl Call {
    fn api(&self) -> &dyn BatchApi {
        &*self.tools.api
    }

    fn tell(&self, news: News) {
        events::publish_on(&self.ctx, self.job.clone(), news);
    }

    /// Runs `call` in its turn at the account.
    async fn in_turn<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        self.tools.calls.call(&self.whose.owner.namespace, Urgency::Usual, deadline, call).await
    }

    /// Learns what was found out under this call's credential; under another one it says nothing.
    fn learned(&self, learn: impl FnOnce(&mut Memory) + Send + 'static) -> Learned {
        let fingerprint = self.tools.fingerprint.clone();
        learned(move |m| {
            if m.fingerprint == fingerprint {
                learn(m);
            }
        })
    }

    /// Uses the permit up, whatever comes of it, unless the call fails before it is sent. Once it is sent it is waited for,
    /// whatever ends meanwhile.
    async fn post(&self, permit: PostPermit, ask: Ask) -> Outcome {
        let (session, stop) = (self.session.clone(), self.ctx.stop.clone());
        let intent_id = permit.intent_id().to_string();
        let prepare = async {
            let place = self.tools.calls.turn(&self.whose.owner.namespace, Urgency::Urgent).await;
            let ours = match self.uploaded(&ask.file_id) {
                true => Ok(Some(true)),
                false => self.is_our_file(&ask.file_id).await,
            };
            (place, ours)
        };
        let (_place, ours) = tokio::select! {
            ready = prepare => ready,
            () = async { tokio::select! { () = session.stop.cancelled() => {}, () = stop.cancelled() => {} } } => {
                let unsent = Rejection::new(Refusal::NotSent, "the operator was stopped before the batch was asked for");
                return Ok(learned(move |m| _ = m.posted.insert(intent_id, Posted::Refused(unsent))));
            }
        };
        let ours = match ours {
            Ok(ours) => ours,
            Err(trouble) => {
                self.session.hold_permit(permit);
                return Err(trouble);
            }
        };
        let file = ask.file_id.clone();
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
            let forget = self.learned(move |m| _ = m.deleted.insert(file));
            return Ok(learned(move |m| {
                m.posted.insert(intent_id, Posted::Refused(refused));
                // The next attempt gets a file of its own.
                forget(m);
            }));
        }
        let posted = permit.post(self.api(), ask, self.ctx.clock.now()).await;
        match &posted {
            Posted::Created(_) => _ = self.ctx.metrics.batches_created.inc(),
            Posted::Unknown(why) | Posted::Declined(Rejection { message: why, .. }) => {
                let task = self.task;
                warn!(?task, why, "nobody can tell whether a batch was created; it is looked for");
            }
            Posted::Refused(..) => {}
        }
        // What became of an intent is so under any credential.
        Ok(learned(move |m| _ = m.posted.insert(intent_id, posted)))
    }

    /// Whether this process uploaded the file itself.
    fn uploaded(&self, file_id: &str) -> bool {
        self.session.memory().uploads.values().any(|uploaded| uploaded == file_id)
    }

    async fn is_our_file(&self, file_id: &str) -> Result<Option<bool>, Trouble> {
        Ok(is_our_file(self.api(), &self.whose, file_id).await?)
    }

    /// One list serves the searches of all jobs of the account.
    async fn search(&self, slot: Slot, attempt: &Attempt, period: i64) -> Outcome {
        let intent_id = attempt.intent_id.clone();
        // What is recorded is followed all the same; of what was turned away a person is asked, unless the list can be read soon.
        let may_fail = |error: &ApiError| match &attempt.state {
            AttemptState::Submitted { batch_id, .. } if self.session.memory().is_turned_away(batch_id) => {
                error.class != Class::NotSent && self.session.backoff(Some(self.task)).failures >= TRIES
            }
            AttemptState::Submitted { .. } => true,
            _ => false,
        };
        let asked = self.ctx.clock.now();
        let wanted = Wanted {
            metadata: (names::INTENT, intent_id.clone()),
            file: attempt.file_id.clone(),
            since: attempt.post_by / 1000,
            period,
        };
        let (began, found) = match self.tools.calls.find(&self.tools.api, wanted).await {
            Ok(Found { began, batches }) => (began, Some(batches)),
            Err(error) if error.is_for_good() || may_fail(&error) => {
                warn!(%slot, %error, "the provider's batches cannot be searched");
                (asked, None)
            }
            Err(e) => return Err(e.into()),
        };
        let earlier = self.session.memory().searches.get(&intent_id).and_then(|search| search.found.clone());
        if let Some(found) = found.as_ref().filter(|found| found.len() > 1 && earlier.as_ref() != Some(found)) {
            let note = format!(
                "the provider made {} batches of the submission of {slot}: {}; one is followed, and the others are told to stop",
                found.len(),
                found.join(", ")
            );
            self.tell(News::warning("DuplicateBatches", note));
        }
        Ok(self.learned(move |m| _ = m.searches.insert(intent_id, Search { began, found })))
    }

    async fn check_file(&self, file_id: &str) -> Outcome {
        let (file, ours) = (file_id.to_string(), self.in_turn(A_FEW_CALLS, self.is_our_file(file_id)).await?);
        Ok(self.learned(move |m| _ = m.files.insert(file, ours == Some(true))))
    }

    /// What cannot be tried out for good is not there, and whoever needs it asks a person.
    async fn probe(&self, endpoint: Endpoint, models: &[String]) -> Outcome {
        let prefix = self.whose.file_prefix.as_deref().unwrap_or_default();
        let trial = Trial {
            file_name: &format!("{prefix}probe.jsonl"),
            endpoint,
            models,
            timeout: send_timeout(&self.ctx.timing),
        };
        let probe = self.in_turn(A_TRIAL, async { Ok(provider::probe(self.api(), &trial).await?) }).await?;
        if let Some(error) = probe.untried.filter(|error| !error.is_for_good() && error.class != Class::Auth) {
            return Err(error.into());
        }
        Ok(self.learned(move |m| m.resolvable = Some(probe.can.can_resolve())))
    }

    /// A call that helps to find out what became of a submission. Once it failed several times in a row a person is asked.
    async fn settles(&self, intent_id: &str, call: impl Future<Output = Outcome>) -> Outcome {
        let intent_id = intent_id.to_string();
        match call.await {
            Ok(learn) => Ok(learned(move |m| {
                m.unsettled.remove(&intent_id);
                learn(m);
            })),
            Err(trouble) => {
                if self.session.backoff(Some(self.task)).failures + 1 >= TOLD_FROM {
                    let why = trouble.stuck.message.clone();
                    self.session.remember(self.learned(move |m| _ = m.unsettled.insert(intent_id, why)));
                }
                Err(trouble)
            }
        }
    }

    async fn revoke(&self, file_id: &str) -> Outcome {
        let revoke = async {
            match self.is_our_file(file_id).await? {
                Some(false) => {
                    let message =
                        format!("file {file_id}, which the journal names, is not this job's; it is not deleted");
                    return Err(Trouble::lasting(reasons::OUTPUT_CONFLICT, message));
                }
                Some(true) => self.api().delete_file(file_id).await?,
                None => {}
            }
            match self.is_our_file(file_id).await? {
                Some(_) => Err(Trouble::passing(reasons::PROVIDER_UNAVAILABLE, "a deleted input file is still there")),
                None => Ok(()),
            }
        };
        self.in_turn(A_FEW_CALLS, revoke).await?;
        let (file, gone) = (file_id.to_string(), self.ctx.clock.now());
        Ok(self.learned(move |m| _ = m.revoked.insert(file, gone)))
    }

    /// A look by the account's list, where that spares calls, or at the batch itself.
    async fn poll(&self, batch_id: String, made: i64, period: i64) -> Outcome {
        let seen = self.session.memory().looks.get(&batch_id).map(|look| look.at);
        let (job, batch, sees) = (self.uid.clone(), batch_id.clone(), self.sees(&batch_id));
        match self.tools.calls.look(&self.tools.api, Due { job, batch, seen, made, period, sees }).await? {
            // The session was told already.
            Answer::List => Ok(learned(|_| {})),
            Answer::Itself => self.look_at(batch_id).await,
        }
    }

    /// Teaches the session what a list shows of a batch that runs. A list may lag, so that nothing else is taken from it; and
    /// what was told to stop is looked at by itself.
    fn sees(&self, batch_id: &str) -> Sees {
        let (ctx, session) = (Arc::downgrade(&self.ctx), Arc::downgrade(&self.session));
        let (whose, fingerprint, id) = (self.whose.clone(), self.tools.fingerprint.clone(), batch_id.to_string());
        let job = ObjectRef::<BatchJob>::new(&whose.owner.name).within(&whose.owner.namespace);
        Arc::new(move |batch, at| {
            let (Some(ctx), Some(session)) = (ctx.upgrade(), session.upgrade()) else { return true };
            let look = Look { at, seen: seen(batch) };
            if !whose.is_said_by(batch) || !matches!(look.seen, Seen::Running { .. }) {
                return false;
            }
            let (mut enough, mut is_news) = (false, false);
            session.remember(|m| {
                let before = m.looks.get(&id);
                let runs = before.is_none_or(|look| matches!(look.seen, Seen::Running { .. }));
                enough = runs && m.fingerprint == fingerprint && !m.cancelled.contains(&id);
                if enough && before.is_none_or(|before| before.at < at) {
                    is_news = before.is_none_or(|before| before.seen != look.seen);
                    m.looks.insert(id.clone(), look.clone());
                }
            });
            if is_news {
                ctx.poke(job.clone());
            }
            enough
        })
    }

    async fn look_at(&self, batch_id: String) -> Outcome {
        let was_cancelled = self.session.memory().cancelled.contains(&batch_id);
        let look = async {
            let at = self.ctx.clock.now();
            let seen = match self.api().get(&batch_id).await {
                Ok(batch) if !self.is_ours(&batch).await? => Seen::NotOurs,
                Ok(batch) => seen(&batch),
                Err(e) if e.class == Class::NotFound => Seen::NotFound,
                Err(e) => return Err(e.into()),
            };
            Ok(Look { at, seen })
        };
        let look = {
            let _one = self.session.looks.lock().await;
            self.in_turn(A_FEW_CALLS, look).await?
        };
        Ok(self.learned(move |m| {
            // Told to stop meanwhile, it is looked at again.
            if m.cancelled.contains(&batch_id) == was_cancelled {
                m.looks.insert(batch_id, look);
            }
        }))
    }

    /// Whether the provider's own record says that the batch is this work's: its metadata, or, where a server keeps none,
    /// the name of the file it was made from.
    async fn is_ours(&self, batch: &Batch) -> Result<bool, Trouble> {
        if batch.said(names::WORK).is_some() {
            return Ok(self.whose.is_said_by(batch));
        }
        match &batch.input_file_id {
            Some(file) => Ok(self.is_our_file(file).await? == Some(true)),
            None => Ok(false),
        }
    }

    /// Only the batch's own metadata can say whose it is; one that says nothing is left alone.
    async fn cancel_unjournaled(&self, batch_id: String, work_id: String) -> Outcome {
        let owner = &self.whose.owner;
        let cancel = async {
            match self.api().get(&batch_id).await {
                Ok(batch) if names::is_said_by(&batch, &owner.cluster, owner, &work_id) => {
                    Ok(self.api().cancel(&batch_id).await?)
                }
                Ok(_) => Ok(()),
                Err(e) if e.class == Class::NotFound => Ok(()),
                Err(e) => Err(e.into()),
            }
        };
        self.in_turn(A_FEW_CALLS, cancel).await?;
        Ok(self.learned(move |m| _ = m.cancelled.insert(batch_id)))
    }

    /// A search goes by what the journal says of an intent, so what it found may be somebody else's.
    async fn cancel(&self, batch_id: String) -> Outcome {
        let news = self.in_turn(A_FEW_CALLS, self.tell_to_stop(&batch_id)).await?;
        if let Some(news) = news {
            self.tell(news);
        }
        Ok(self.learned(move |m| {
            m.looks.remove(&batch_id);
            m.cancelled.insert(batch_id);
        }))
    }

    /// What there is to tell where the batch was not told to stop.
    async fn tell_to_stop(&self, batch_id: &str) -> Result<Option<News>, Trouble> {
        let batch = match self.api().get(batch_id).await {
            Ok(batch) => batch,
            Err(e) if e.class == Class::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if !self.is_ours(&batch).await? {
            let note = format!("batch {batch_id} carries nothing that says that it is this job's; it is left alone");
            return Ok(Some(News::warning("NotOurs", note)));
        }
        if batch.has_ended() {
            let (state, done) = (&batch.status, batch.done.unwrap_or(0));
            let note =
                format!("batch {batch_id} ended as '{state}' before it could be told to stop, {done} requests done");
            return Ok(Some(News::warning("NotCancelled", note)));
        }
        match self.api().cancel(batch_id).await {
            Err(error) if error.is_for_good() => {
                let note = format!("batch {batch_id} cannot be told to stop, and runs to its end: {error}");
                Ok(Some(News::warning("NotCancelled", note)))
            }
            cancelled => Ok(cancelled.map(|()| None)?),
        }
    }

    /// Deletes what is ours by the provider's own word, and remembers each file that is done with, so that a failure costs none
    /// of it again. Where a batch could come of a file, only a provider that does not delete at all is let off; else a file
    /// that cannot be deleted costs nothing and goes by itself.
    async fn delete_files(&self, files: Vec<String>, of_batches: Vec<BatchOfFiles>, must: bool) -> Outcome {
        let tried = self.session.backoff(Some(self.task)).failures;
        match self.delete_ours(&files, of_batches, must).await {
            Err(t) if must || (t.may_pass && tried < TRIES) => return Err(t),
            Err(Trouble { stuck, .. }) => {
                let (Owner { namespace, name, .. }, why) = (&self.whose.owner, stuck.message);
                warn!(namespace, name, why, "files at the provider are left there until they expire");
            }
            Ok(()) => {}
        }
        Ok(self.learned(move |m| m.deleted.extend(files)))
    }

    /// One look at each batch whose files are asked for, and one or two calls for each file: what was done with before is not
    /// asked about again.
    async fn delete_ours(&self, files: &[String], of_batches: Vec<BatchOfFiles>, must: bool) -> Result<(), Trouble> {
        let left: Vec<&String> = {
            let deleted = self.session.memory().deleted;
            files.iter().filter(|file| !deleted.contains(*file)).collect()
        };
        let mut looks = vec![];
        for batch in of_batches {
            if batch.files.iter().any(|file| left.contains(&file)) {
                looks.push(self.in_turn(A_FEW_CALLS, self.files_of(batch)));
            }
        }
        let named: Vec<Vec<String>> = futures::stream::iter(looks).buffer_unordered(DELETIONS).try_collect().await?;
        let named: HashSet<String> = named.into_iter().flatten().collect();
        let mut deletions = vec![];
        for file in left {
            let of_batch = named.contains(file);
            deletions.push(self.in_turn(A_FEW_CALLS, self.delete_file(file.clone(), of_batch, must)));
        }
        futures::stream::iter(deletions).buffer_unordered(DELETIONS).try_collect().await
    }

    async fn delete_file(&self, file: String, of_batch: bool, must: bool) -> Result<(), Trouble> {
        match delete_if_ours(self.api(), &self.whose, &file, of_batch).await {
            Err(error) if must && !error.is_for_good() => return Err(error.into()),
            Err(error) => {
                let job = &self.whose.owner.name;
                warn!(job, file, %error, "a file at the provider could not be deleted; it expires by itself");
            }
            Ok(()) => {}
        }
        self.session.remember(self.learned(move |m| _ = m.deleted.insert(file)));
        Ok(())
    }

    /// The files that the provider says are the batch's, if the batch is ours.
    async fn files_of(&self, of: BatchOfFiles) -> Result<Vec<String>, Trouble> {
        match self.api().get(&of.batch_id).await {
            // Files that an earlier look at it does not name would be left.
            Ok(batch) if of.collected && !batch.has_ended() => {
                let message = format!("batch {} ended, and the provider shows it as {} now", of.batch_id, batch.status);
                Err(Trouble::passing(reasons::PROVIDER_UNAVAILABLE, message))
            }
            Ok(batch) if self.is_ours(&batch).await? => Ok(names::files_of(&batch)),
            Ok(_) => Ok(vec![]),
            Err(e) if e.class == Class::NotFound => Ok(vec![]),
            Err(e) => Err(e.into()),
        }
    }
}

/// A batch, and the files to be deleted that the journal has for its.
struct BatchOfFiles {
    batch_id: String,
    collected: bool,
    files: Vec<String>,
}

/// The batches that the journal has for those of `files`; what is about no batch is told by its own name.
fn batches_of_files(journal: &Journal, files: &[String]) -> Vec<BatchOfFiles> {
    let wanted: HashSet<&String> = files.iter().collect();
    let attempts = journal.shards.iter().filter_map(|s| s.attempt.as_ref());
    let of = attempts.filter_map(|attempt| {
        let (batch_id, collected, named) = match &attempt.state {
            AttemptState::Settled { batch_id, part, files, .. } => (batch_id, part.is_some(), files.as_slice()),
            AttemptState::Submitted { batch_id, .. } => (batch_id, false, &[][..]),
            _ => return None,
        };
        let its = named.iter().chain([&attempt.file_id]).filter(|file| wanted.contains(*file)).cloned();
        Some(BatchOfFiles { batch_id: batch_id.clone(), collected, files: its.collect() })
    });
    of.filter(|batch| !batch.files.is_empty()).collect()
}

/// Whether the file is this work's, by the name that the provider has for it: the journal's word is not enough. None where
/// there is no such file under this credential.
async fn is_our_file(api: &dyn BatchApi, whose: &Whose, file_id: &str) -> Result<Option<bool>, ApiError> {
    match api.file_name(file_id).await {
        Ok(name) => Ok(Some(whose.file_prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix)))),
        Err(e) if e.class == Class::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

async fn delete_if_ours(api: &dyn BatchApi, whose: &Whose, file: &str, of_batch: bool) -> Result<(), ApiError> {
    match of_batch || is_our_file(api, whose, file).await? == Some(true) {
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
