//! Execution of the step that was decided. Nothing here makes a choice.

mod kubernetes;
mod provider;
mod trace;
mod transfer;

pub(crate) use transfer::{MemoryEdit, Outcome};

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::warn;

use super::clients::Clients;
use super::events;
use super::job_state::JobState;
use super::measures::{self, Times};
use super::notices;
use super::observe::Snapshot;
use super::permit::PostPermit;
use super::place::applicant;
use crate::account::UsedPlace;
use crate::api::conditions::reasons;
use crate::api::{ModelStatus, owner_of_child, weight};
use crate::controller::Context;
use crate::controller::provider::AccountChange;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::{EventRecord, publish, publish_at_home};
use crate::lifecycle::{self, AttemptKey, CapacityNews, Journal, Load, ManifestView, Owner, Step};
use crate::results::Manifest;
use crate::store::{SwapError, Version, layout, prove_conditional_writes};
use crate::telemetry::Usage;

/// The continuation of a visit after a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Decide on the next step at once.
    Again,
    /// End the visit. The next one is due at this time (Unix milliseconds), or when something changes.
    Wait(Option<i64>),
    /// The object is gone, or nothing of ours keeps it any more.
    Gone,
}

/// The context in which a step is executed.
pub(crate) struct Act<'a> {
    pub ctx: &'a std::sync::Arc<Context>,
    pub job_state: &'a std::sync::Arc<JobState>,
    pub snapshot: &'a Snapshot,
}

impl Act<'_> {
    /// Executes `step`: has its effect, or starts the task that has it.
    ///
    /// # Errors
    /// If the effect failed. A task reports its failure when it ends.
    pub async fn run(&self, step: &Step) -> Result<Flow, StepError> {
        match step {
            Step::Wait { until, .. } => return Ok(Flow::Wait(*until)),
            Step::AddFinalizer => {
                self.set_finalizer(true).await?;
            }
            Step::RemoveFinalizer { abandoned, .. } => {
                if let Some(message) = abandoned {
                    let Owner { namespace, name, .. } = &self.snapshot.view.owner;
                    // A namespace that is being deleted admits no new Events, and its Events go with it.
                    let at_home = format!("BatchJob {namespace}/{name} is gone: {message}");
                    let news = EventRecord::warning("ProviderBatchOrphaned", at_home);
                    publish_at_home(self.ctx, namespace, name, news);
                    self.publish(EventRecord::warning("ProviderBatchOrphaned", message.clone()));
                }
                // If the object changed in the meantime, nothing may wake this job later: the change may be our own write of
                // status, which leads to no visit.
                if !self.set_finalizer(false).await? {
                    return Ok(Flow::Again);
                }
                // Only now: a visit that is repeated sends nothing twice.
                notices::last_attempt(self.ctx, &self.snapshot.job);
                self.trace_deletion();
                return Ok(Flow::Gone);
            }
            Step::EndTasks => {
                self.ctx.jobs.end(self.ctx, &self.snapshot.view.owner.uid);
                // The next visit begins with empty memory.
                return Ok(Flow::Wait(Some(self.snapshot.now)));
            }
            // Their effect is in status, which was written before; see `record`.
            Step::Lock(_) | Step::Pin => {}
            Step::Conclude { manifest, reused } => {
                self.measure_lag();
                self.publish(events::at_the_end(manifest, *reused));
                self.trace_end(manifest, *reused);
            }
            Step::Fail(failure) => {
                self.publish(EventRecord::warning(failure.reason, failure.message.clone()));
                self.trace_failure(failure);
            }
            // The files were deleted before status said so; see `visit`.
            Step::CleanUp => {}
            Step::DeleteObject => return self.delete_object().await,
            Step::KeepProvider => self.keep_provider().await?,
            Step::LookForManifest => self.look_for_manifest().await?,
            Step::FindOwner(owner) => self.find_owner(owner).await?,
            Step::Open(journal) => self.open(journal).await?,
            Step::Swap(journal) => self.swap(journal).await?,
            Step::WriteIntent { journal, intent_id } => self.write_intent(journal, intent_id).await?,
            Step::ProveStore => self.prove_store().await?,
            Step::LookForInput => self.look_for_input()?,
            Step::Plan { stage, version } => self.start_pass(stage.clone(), *version)?,
            Step::Upload(attempt_key) => self.start_upload(*attempt_key)?,
            Step::Collect { attempt_key, patient } => self.start_collect(*attempt_key, *patient)?,
            Step::FollowUp { round } => self.start_follow_up(*round)?,
            Step::Halve(attempt_key) => self.start_halve(*attempt_key)?,
            Step::Publish => self.start_publish()?,
            Step::Write => self.start_write()?,
            Step::WriteSuccess => self.mark().await?,
            Step::WaitForPlace(_)
            | Step::Reserve { .. }
            | Step::SettleCost { .. }
            | Step::Release { .. }
            | Step::SettleLater
            | Step::Post(_)
            | Step::Search(_)
            | Step::CheckFile(_)
            | Step::Probe(_)
            | Step::Revoke(_)
            | Step::Poll(_)
            | Step::PollTwin { .. }
            | Step::Cancel { .. }
            | Step::CancelUnjournaled { .. }
            | Step::DeleteFiles { .. } => self.call(step.clone())?,
        }
        Ok(Flow::Again)
    }

    fn clients(&self) -> Result<&std::sync::Arc<Clients>, StepError> {
        // Steps that need clients are decided only if there are clients.
        self.snapshot.clients.as_ref().ok_or_else(|| StepError::passing(reasons::PENDING, "nothing to work with yet"))
    }

    fn journal(&self) -> Result<&Arc<Journal>, StepError> {
        let journal = self.snapshot.journal.as_ref().map(|(j, _)| j);
        journal.ok_or_else(|| StepError::passing(reasons::PENDING, "there is no journal yet"))
    }

    fn publish(&self, news: EventRecord) {
        publish(self.ctx, &self.snapshot.job, news);
    }

    async fn look_for_manifest(&self) -> Result<(), StepError> {
        let at = self.ctx.clock.now();
        let found = match self.clients()?.folder.read(layout::MANIFEST, 8 << 20).await? {
            Some(bytes) => Some(weight::read::<Manifest>(&bytes).map_err(|_| {
                let message = "manifest.json at the destination was not written by this operator; write to another URI";
                StepError::lasting(reasons::OUTPUT_CONFLICT, message)
            })?),
            None => None,
        };
        let taken = if found.is_none() { self.something_foreign().await? } else { None };
        self.job_state.remember(|m| {
            m.manifest = Some(found.as_ref().map(manifest_view));
            m.manifest_at = Some(at);
            m.taken = taken;
        });
        Ok(())
    }

    async fn mark(&self) -> Result<(), StepError> {
        let work_id = self.journal()?.work_id.clone();
        self.clients()?.folder.put_new(layout::SUCCESS, Default::default()).await?;
        self.job_state.remember(|m| m.marked = Some(work_id));
        Ok(())
    }

    /// Returns the URI of an object that has the name of one of our result files, and that this work did not write.
    async fn something_foreign(&self) -> Result<Option<String>, StepError> {
        let folder = &self.clients()?.folder;
        let ours = self.snapshot.journal.as_ref().map(|(j, _)| j.work_id.as_str());
        let output = &self.snapshot.job.spec.output;
        let results = layout::result_files(output.include_requests).iter().map(|name| output.compression.named(name));
        for name in results.chain(output.partial_results.then(|| layout::PARTIAL_INDEX.into())) {
            if folder.work_of(&name).await?.is_some_and(|work| ours.is_none() || work.as_deref() != ours) {
                return Ok(Some(folder.uri_of(&name)));
            }
        }
        Ok(None)
    }

    async fn open(&self, journal: &Journal) -> Result<(), StepError> {
        self.job_state.journal_is_old();
        match self.clients()?.journals.create(journal).await {
            Ok(_) | Err(SwapError::Changed) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    async fn swap(&self, next: &Journal) -> Result<(), StepError> {
        let Some((old, judged)) = &self.snapshot.journal else { return Ok(()) };
        // Whatever the outcome of the write, the cached journal may no longer be the one in storage.
        self.job_state.journal_is_old();
        match self.clients()?.journals.swap(judged, next).await {
            Ok((written, swapped)) => {
                // Before the findings about sealed shards are forgotten.
                let (mut usage, mut times, mut lessons) = (vec![], vec![], vec![]);
                self.job_state.remember(|m| {
                    usage = events::events_of_usage(old, next, m);
                    times = measures::times(old, next, m);
                    lessons = lifecycle::learned(old, next, m);
                });
                self.trace_change(old, next);
                self.wrote(old, next, written, swapped.version());
                for news in &usage {
                    warn!(reason = news.reason, "{}", news.note);
                }
                events::events_of(old, next).into_iter().chain(usage).for_each(|news| self.publish(news));
                self.measure_settled(old, next, &times);
                self.learn(&lessons);
                self.learn_room(old, next);
                self.advise(old, next);
                Ok(())
            }
            Err(SwapError::Changed) => {
                self.job_state.forget_journal();
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Counts what settled batches used, and measures the time that they took.
    fn measure_settled(&self, old: &Journal, next: &Journal, times: &[Times]) {
        let Some(clients) = &self.snapshot.clients else { return };
        for times in times {
            self.ctx.metrics.batch_turnaround(clients.account.type_().name(), times.turnaround());
            self.job_state.last_end.fetch_max(times.ended, Ordering::Relaxed);
        }
        measures::settled(old, next).into_iter().for_each(|(model, usage)| self.measure(model, usage));
    }

    /// Counts what batches of a model used.
    fn measure(&self, model: &str, usage: Usage) {
        let Some(clients) = &self.snapshot.clients else { return };
        let names = measures::names(&self.snapshot.view.owner.namespace, &clients.account.object, model);
        self.ctx.metrics.used(&names, usage);
    }

    /// Measures the time since the end of the last batch, if this process saw it.
    fn measure_lag(&self) {
        match self.job_state.last_end.swap(0, Ordering::Relaxed) {
            0 => {}
            end => self.ctx.metrics.completion_lag(measures::between(end, self.ctx.clock.now())),
        }
    }

    /// Adds what settled batches taught about their models to the experience with the account.
    fn learn(&self, lessons: &[ModelStatus]) {
        let (Some(provider), Some(clients)) = (&self.snapshot.view.provider, &self.snapshot.clients) else { return };
        let namespace = clients.account.object.namespace.as_deref();
        lessons.iter().for_each(|lesson| self.ctx.experience.learn(&provider.pin.uid, namespace, lesson));
    }

    /// Tells the quota of the account what its answers say about its room.
    fn learn_room(&self, old: &Journal, next: &Journal) {
        let (Some(provider), Some(clients)) = (&self.snapshot.view.provider, &self.snapshot.clients) else { return };
        let news = lifecycle::capacity_news(old, next);
        if !news.is_empty() {
            clients.quota.learn(&self.snapshot.view.owner.uid, Load::of_journal(next, &provider.models), &news);
        }
        if news.iter().any(CapacityNews::is_refusal) {
            self.ctx.reports.ask(&clients.account.object, AccountChange::InFlight, self.ctx.clock.now());
        }
    }

    /// Publishes the advice to call in real time, once, when the plan is made. The jobs of a schedule have it in status alone, since
    /// they would repeat it for ever.
    fn advise(&self, old: &Journal, next: &Journal) {
        if owner_of_child(&self.snapshot.job.metadata).is_none()
            && let Some(advice) = lifecycle::advice(&self.snapshot.view, old, next)
        {
            self.publish(EventRecord::normal("RealTimeWouldDo", advice));
        }
    }

    /// Caches the journal that was written, and forgets the findings about shards that left its head.
    fn wrote(&self, old: &Journal, next: &Journal, written: Journal, version: Option<Version>) {
        self.job_state.remember(|m| m.forget_sealed(old, next, &written));
        if version.is_some() {
            self.job_state.journal_is_of(self.ctx.clock.now());
        }
        self.job_state.keep_journal(version.map(|version| (Arc::new(written), version)));
    }

    async fn write_intent(&self, next: &Journal, intent_id: &str) -> Result<(), StepError> {
        let Some((old, judged)) = &self.snapshot.journal else { return Ok(()) };
        let uid = &self.snapshot.view.owner.uid;
        let (journals, quota) = (&self.clients()?.journals, &self.clients()?.quota);
        // A POST that is repeated with its token is for a batch that is counted already.
        let is_repeated = attempt_of(old, intent_id).is_some();
        let wants = attempt_of(next, intent_id).map(|attempt_key| applicant(self.snapshot, next, attempt_key));
        let place = wants.filter(|_| !is_repeated).and_then(|wants| quota.take(uid, &wants));
        if place.is_none() && !is_repeated {
            // Another job took the place. The next decision is to wait.
            return Ok(());
        }
        self.job_state.journal_is_old();
        let packed = journals.pack_intent(next).await?;
        let window = Duration::from_millis(self.ctx.timing.post_window.unsigned_abs());
        match PostPermit::win(journals.document(), judged, &packed, intent_id, window).await? {
            Some(permit) => {
                place.into_iter().for_each(UsedPlace::keep);
                measures::begun(next, intent_id).into_iter().for_each(|(model, nothing)| self.measure(model, nothing));
                self.wrote(old, next, packed.journal, permit.version());
                self.job_state.hold_permit(permit);
                events::prices_changed(old, next).into_iter().for_each(|news| self.publish(news));
            }
            None => self.job_state.forget_journal(),
        }
        Ok(())
    }

    async fn prove_store(&self) -> Result<(), StepError> {
        let name = format!("{}scratch-{}", layout::work(&self.journal()?.work_id), self.snapshot.nonce);
        let proved = prove_conditional_writes(&self.clients()?.folder, &name).await?;
        self.job_state.remember(|m| m.store_proved = Some(proved));
        Ok(())
    }
}

/// Returns the attempt whose intent has this id.
fn attempt_of(journal: &Journal, intent_id: &str) -> Option<AttemptKey> {
    journal.shards.entries().find_map(|(shard, of)| {
        let attempt = of.attempt.as_ref().filter(|attempt| attempt.intent_id == intent_id)?;
        Some(AttemptKey { shard, attempt: attempt.number })
    })
}

pub(crate) fn manifest_view(manifest: &Manifest) -> ManifestView {
    ManifestView {
        work_id: manifest.work_id.clone(),
        work_hash: manifest.work_hash.clone(),
        outcome: manifest.outcome,
        reason: manifest.reason.clone(),
        message: manifest.message.clone(),
        requests: manifest.requests,
        at: manifest.completed_at,
        errors: manifest.errors.clone(),
        spending: manifest.spending.clone(),
        files: manifest.files.iter().map(|f| (f.name.clone(), f.config_map.clone())).collect(),
    }
}
