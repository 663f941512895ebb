//! Steps that move data: they run beside the reconcile loop, and can all be done again.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::reflector::ObjectRef;
use tracing::{info, warn};

use super::provider::seen;
use super::{Act, manifest_view};
use crate::api::conditions::reasons;
use crate::api::{BatchJob, Endpoint, RequestCounts, WorkHashVersion};
use crate::controller::journal::JournalStore;
use crate::controller::observe::Tools;
use crate::controller::trouble::Trouble;
use crate::controller::{Context, events, names, snapshot, source, tasks};
use crate::lifecycle::{
    self, AttemptState, Collected, Halved, Journal, Look, Memory, PartRef, Pass, Plan, Planned, Reading, Seen, Shard,
    Shards, Short, Slot, TOO_LARGE, Task, Tidied, TooLarge, Tries, Unanswered, Untidy, error_summary,
};
use crate::provider::{self, Batch, Class, InputFile};
use crate::requests::{self, Defaults, PassError, Passed, Recipe, Selection, SizeLimit};
use crate::results::{self, AbandonedBatch, Found, Manifest};
use crate::store::{ShardWriter, StagedShard, StoreError, layout, staged};

/// Largest output file of one batch that is fetched, in bytes.
const OUTPUT_LIMIT: u64 = 16 << 30;

/// Bytes of the names of batches that a manifest lists, so that it can be read again; the journal has all of them.
const LISTED_BATCHES: usize = 2 << 20;

/// Requests of a batch whose answers go into a ConfigMap: all of them lie there as one object, which has to find room.
const REQUESTS_OF_CONFIG_MAPS: i64 = 500;

/// `spec.input.maxObjectBytes` where it is not set.
const MAX_OBJECT_BYTES: usize = 1 << 20;

/// What a finished task changes in memory.
pub(in crate::controller) type Learned = Box<dyn FnOnce(&mut Memory) + Send>;

impl Act<'_> {
    pub(super) fn start_pass(&self, stage: Option<String>, version: WorkHashVersion) -> Result<(), Trouble> {
        let (ctx, tools, key) = (self.ctx.clone(), self.tools()?.clone(), ObjectRef::from_obj(&*self.world.job));
        let (spec_hash, output_uri) = (self.world.view.spec_hash.clone(), self.world.view.output_uri.clone());
        let (namespace, name) = (self.world.view.owner.namespace.clone(), self.world.view.owner.name.clone());
        let max_batches = self.world.view.plan_limit();
        tasks::start(self.ctx, self.session, &self.world.job, Task::Pass, async move {
            // Its requests are held from here on only, and no others are read than those that were judged.
            let mut job = match read(&ctx, &key).await? {
                Some(job) if lifecycle::spec_hash(&job.spec) == spec_hash => job,
                _ => return Ok(learned(|_| {})),
            };
            let schema = stage.as_ref().and_then(|_| job.spec.sorted_schema());
            let checked =
                source::check(&job.spec, &output_uri).and_then(|()| recipe(&job, &tools, max_batches, version));
            let recipe = match checked {
                Ok(recipe) => recipe,
                Err(message) => return Ok(learned(move |m| m.pass = Some(Pass { spec_hash, result: Err(message) }))),
            };
            let input = std::mem::take(&mut job.spec.input);
            job.drop_requests();
            let source = match source::open(&ctx, &namespace, input).await {
                Ok(source) => source,
                Err(Trouble { is_unfit_store: true, stuck, .. }) => {
                    return Ok(learned(move |m| m.pass = Some(Pass { spec_hash, result: Err(stuck.message) })));
                }
                Err(trouble) => return Err(trouble),
            };
            let target = stage.as_deref().map(|work_id| (&tools.folder, work_id));
            let result = match requests::pass(source, &recipe, target, &ctx.spool).await {
                Ok(passed) => {
                    info!(
                        namespace,
                        name,
                        requests = passed.requests,
                        batches = passed.shards.len(),
                        skipped = passed.too_large.skipped,
                        truncated = passed.too_large.truncated,
                        "checked the input"
                    );
                    if let Some((field, instead)) = schema {
                        events::publish(&ctx, &job, events::sorted_schema(field, instead));
                    }
                    let mut planned = planned(passed, stage.clone());
                    match &stage {
                        Some(work_id) => _ = tools.journals.pack_shards(&mut planned.shards, work_id).await?,
                        None => planned.shards.clear(),
                    }
                    Ok(planned)
                }
                Err(
                    PassError::Invalid(message)
                    | PassError::Store(StoreError::TooLarge(message) | StoreError::Unfit(message)),
                ) => Err(message),
                Err(PassError::NotFound(message)) => {
                    return Err(Trouble::lasting(reasons::CONFIG_MAP_NOT_FOUND, message));
                }
                Err(PassError::Unavailable(message)) => return Err(Trouble::passing("KubernetesUnavailable", message)),
                Err(PassError::Store(e)) => return Err(e.into()),
            };
            Ok(learned(move |m| m.pass = Some(Pass { spec_hash, result })))
        });
        Ok(())
    }

    pub(super) fn start_upload(&self, slot: Slot) -> Result<(), Trouble> {
        let (tools, journal) = (self.tools()?.clone(), self.journal()?);
        let shard = journal.shards.get(slot.shard).cloned();
        let shard =
            shard.ok_or_else(|| Trouble::passing(reasons::PENDING, format!("shard of {slot} is not planned")))?;
        // Many uploads may wait for their turn: each holds what it needs of the journal, and no more.
        let (staged, name) = (layout::shard(&journal.work_id, &shard.sha256), names::file(journal, slot));
        tasks::start_in_place(self.ctx, self.session, &self.world.job, Task::Upload(slot), move |place| async move {
            let content = staged::verified(&tools.folder, &staged, &shard.sha256).await?;
            // The content goes once all of it is sent, and its place with it.
            let content = content.inspect(move |_| _ = &place).boxed();
            let file = InputFile { name, bytes: shard.bytes, content };
            let id = match tools.api.upload(file).await {
                Ok(id) => id,
                Err(error) if provider::is_about_content(&*tools.api, &error).await => {
                    let hint = match error.status {
                        Some(413) => "; `limits.maxBytesPerBatch` of the provider makes smaller files",
                        _ => "",
                    };
                    let said = error.message + hint;
                    return Ok(learned(move |m| _ = m.unfit.insert((slot, shard.sha256), said)));
                }
                Err(error) => return Err(error.into()),
            };
            Ok(learned(move |m| {
                // Else it lies in another account.
                if m.fingerprint == tools.fingerprint {
                    m.uploads.insert((slot, shard.sha256), id);
                }
            }))
        });
        Ok(())
    }

    pub(super) fn start_collect(&self, slot: Slot, patient: bool) -> Result<(), Trouble> {
        let (ctx, tools, journal) = (self.ctx.clone(), self.tools()?.clone(), self.journal()?);
        let (namespace, name) = (self.world.view.owner.namespace.clone(), self.world.view.owner.name.clone());
        let Some(batch) = submitted(journal, slot) else { return Ok(()) };
        tasks::start(self.ctx, self.session, &self.world.job, Task::Collect(slot), async move {
            let (at, batch_id) = (ctx.clock.now(), batch.batch_id.as_str());
            let fetched = collect(&tools, &batch, patient, &ctx.spool).await?;
            let (batch, part, reading) = match fetched {
                Ok(collected) => collected,
                Err(seen) => {
                    let (id, look) = (batch_id.to_string(), Look { at: ctx.clock.now(), seen });
                    return Ok(learned(move |m| _ = m.looks.insert(id, look)));
                }
            };
            let (foreign, unreadable) = (part.foreign, part.found.unreadable);
            if foreign > 0 || unreadable > 0 {
                warn!(namespace, name, %slot, foreign, unreadable, "lines that name no request of this batch were left out");
            }
            let collected = Collected {
                part: PartRef { name: part.name, sha256: part.sha256 },
                counts: part.counts,
                may_pass: part.may_pass,
                errors: part.errors,
                // What cannot be handed on is there for others.
                files: if part.incomplete > 0 { vec![] } else { names::files_of(&batch) },
                short: None,
            };
            let batch_id = batch_id.to_string();
            Ok(learned(move |m| {
                let short = Short::after(m.collected.get(&batch_id), reading, at);
                m.collected.insert(batch_id, Collected { short, ..collected });
            }))
        });
        Ok(())
    }

    pub(super) fn start_follow_up(&self, round: u32) -> Result<(), Trouble> {
        let (ctx, tools, journal) = (self.ctx.clone(), self.tools()?.clone(), self.journal()?.clone());
        let limit = self.world.view.backoff_limit_per_request;
        let room = self.world.view.shard_limit.saturating_sub(journal.shards.len());
        let max_requests = max_requests(&self.world.job, &tools);
        let of_embeddings = self.world.job.spec.endpoint == Endpoint::Embeddings;
        let max_inputs =
            of_embeddings.then(|| u64::from(tools.account.spec.limits.max_inputs_per_batch.unsigned_abs()));
        tasks::start(self.ctx, self.session, &self.world.job, Task::FollowUp, async move {
            let max_bytes = tools.account.spec.limits.max_bytes_per_batch.unsigned_abs();
            let writer = ShardWriter::new(&tools.folder, &journal.work_id, &ctx.spool, max_requests, max_bytes)
                .of_inputs(max_inputs);
            let shards = all_settled(&tools, &journal, |_| true).await?;
            let staged = results::follow_up(writer, &tools.folder, shards, |asked| {
                let &results::Asked { ended, failed, lost, given_up } = asked;
                Tries { ended, failed, lost, given_up }.may_be_sent_again(limit)
            });
            let staged = staged.await?;
            let shards =
                staged.into_iter().map(|f| Shard { took_errors: f.took_errors, ..shard(f.shard, round, f.took) });
            let mut shards: Shards = shards.take(room).collect();
            tools.journals.pack_shards(&mut shards, &journal.work_id).await?;
            Ok(learned(move |m| m.follow_up = Some((round, shards))))
        });
        Ok(())
    }

    pub(super) fn start_halve(&self, slot: Slot) -> Result<(), Trouble> {
        let (ctx, tools, journal) = (self.ctx.clone(), self.tools()?.clone(), self.journal()?.clone());
        tasks::start(self.ctx, self.session, &self.world.job, Task::Halve(slot), async move {
            let Some(whole) = journal.shards.get(slot.shard) else { return Ok(learned(|_| {})) };
            let half = whole.requests / 2 + whole.requests % 2;
            let writer = ShardWriter::new(&tools.folder, &journal.work_id, &ctx.spool, half, u64::MAX);
            let earlier = match whole.round {
                0 => vec![],
                round => all_settled(&tools, &journal, |s| s.round < round).await?,
            };
            let halves = results::halve(writer, &tools.folder, settled(whole), earlier).await?;
            let halves = halves.map(|f| Shard { took_errors: f.took_errors, ..shard(f.shard, whole.round, f.took) });
            let sha256 = whole.sha256.clone();
            Ok(learned(move |m| m.halved = Some(Halved { slot, sha256, halves })))
        });
        Ok(())
    }

    pub(super) fn start_write(&self) -> Result<(), Trouble> {
        let (ctx, tools, journal) = (self.ctx.clone(), self.tools()?.clone(), self.journal()?.clone());
        let compression = self.world.job.spec.output.compression;
        tasks::start(self.ctx, self.session, &self.world.job, Task::Write, async move {
            // Who wrote it meanwhile may have tidied up the parts, so that it could never be written again.
            if is_written(&tools, &journal.work_id).await? {
                return Ok(learned(|m| m.manifest = None));
            }
            let Some(manifest) = manifest(&tools, &journal).await? else { return Ok(learned(|_| {})) };
            let shards = all_settled(&tools, &journal, |_| true).await?;
            let manifest = results::write(&ctx.spool, &tools.folder, shards, manifest, compression).await?;
            Ok(learned(move |m| {
                m.marked = Some(manifest.work_id.clone());
                m.manifest = Some(Some(manifest_view(&manifest)));
            }))
        });
        Ok(())
    }

    /// Deletes what was staged; the journal stays, for it is the memory of the work.
    pub(in crate::controller) async fn tidy(&self) -> Result<(), Trouble> {
        let work_id = self.journal()?.work_id.clone();
        let deleted = self.delete_staged(&work_id).await;
        let untidy = |t: &Trouble| Untidy { message: t.stuck.message.clone(), may_pass: t.may_pass };
        let failed = deleted.as_ref().err().map(untidy);
        if self.world.view.deleting_since.is_some() {
            self.session.remember(|m| m.tidied = Some(Tidied { work_id, failed }));
        }
        deleted
    }

    /// Where the objects cannot be listed, those that the journal names go; a scratch file, or what a dropped plan left, stays.
    async fn delete_staged(&self, work_id: &str) -> Result<(), Trouble> {
        let (folder, journal) = (&self.tools()?.folder, self.journal()?);
        match folder.delete_below(&layout::work(work_id)).await {
            Err(StoreError::Denied(why) | StoreError::Unfit(why) | StoreError::Rejected(why)) => {
                for name in staged_names(self.tools()?, journal).await? {
                    folder.delete(&name).await?;
                }
                info!(work_id, why, "staged files were deleted by their names");
                Ok(())
            }
            deleted => Ok(deleted?),
        }
    }
}

/// All shards `of` a journal, as the join takes them, in order.
async fn all_settled(
    tools: &Tools,
    journal: &Journal,
    of: impl Fn(&Shard) -> bool,
) -> Result<Vec<results::Settled>, Trouble> {
    let mut all = vec![];
    tools.journals.each(journal, |index, shard| all.extend(of(shard).then(|| (index, settled(shard))))).await?;
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, settled)| settled).collect())
}

/// What the journal knows to be staged. Its own segments come last: what else there is is known from them.
async fn staged_names(tools: &Tools, journal: &Journal) -> Result<Vec<String>, Trouble> {
    let work_id = &journal.work_id;
    let of_shard = |shard: &Shard| {
        let part = match shard.attempt.as_ref().map(|a| &a.state) {
            Some(AttemptState::Settled { part, .. }) => part.as_ref().map(|part| part.name.clone()),
            _ => None,
        };
        let staged = [layout::shard(work_id, &shard.sha256), layout::index(work_id, shard.index())];
        staged.into_iter().chain(part).collect::<Vec<_>>()
    };
    // The journal is the team's to write.
    let below = layout::work(work_id);
    let mut names = vec![];
    tools.journals.each_sealed(journal, |_, shard| names.extend(of_shard(shard))).await?;
    match tools.journals.each_planned(journal, |_, shard| names.extend(of_shard(shard))).await {
        // An earlier try deleted it, and before it what it names.
        Ok(()) | Err(StoreError::Corrupt(_)) => {}
        Err(e) => return Err(e.into()),
    }
    names.extend(journal.shards.in_head().flat_map(|(_, shard)| of_shard(shard)));
    names.extend(JournalStore::plan_objects(journal));
    names.retain(|name| name.starts_with(&below));
    Ok(names)
}

/// Fetches what came back, or says what is to be seen where nothing can be fetched.
async fn collect(
    tools: &Tools,
    submitted: &Submitted,
    patient: bool,
    spool: &std::path::Path,
) -> Result<Result<(Batch, results::Collected, Reading), Seen>, Trouble> {
    let shard = &submitted.shard;
    let batch = match tools.api.get(&submitted.batch_id).await {
        Err(e) if e.class == Class::NotFound => return Ok(Err(Seen::NotFound)),
        batch => batch?,
    };
    // What was seen before may have come from elsewhere than what is seen now.
    match seen(&batch) {
        Seen::Ended { rejected: None, .. } => {}
        other => return Ok(Err(other)),
    }
    let Some(files) = answers(tools, &batch, patient).await? else {
        return Ok(Err(Seen::Gone { state: batch.status }));
    };
    let reading = |found: &Found| Reading {
        requests: shard.requests,
        found: found.requests,
        expected: Reading::expected(batch.done, &batch.status, shard.requests),
        // What stands in a file that nobody can name cannot be read either.
        unreadable: found.unreadable.saturating_add(i64::from(!batch.unusable.is_empty())),
        cut_off: found.cut_off,
    };
    let unusable = batch.unusable.join("; ");
    let collection = results::Collection {
        folder: &tools.folder,
        work_id: &submitted.work_id,
        slot: submitted.slot.to_string(),
        index: shard.index(),
        requests: shard.requests,
        files,
        may_be_unreadable: &|found| reading(found).unanswered() == Unanswered::Unreadable,
        unusable: &unusable,
    };
    let part = results::collect(collection, spool).await?;
    let reading = reading(&part.found);
    Ok(Ok((batch, part, reading)))
}

/// The batch's files; None where one that may hold answers is not there, so that nobody can say what it held. Without the
/// other one, requests that failed count as missing.
async fn answers(
    tools: &Tools,
    batch: &Batch,
    patient: bool,
) -> Result<Option<Vec<BoxStream<'static, Result<Bytes, String>>>>, Trouble> {
    let mut files = vec![];
    for (id, may_be_missed) in [(&batch.output_file_id, false), (&batch.error_file_id, batch.output_file_id.is_some())]
    {
        let Some(id) = id else { continue };
        match tools.api.content(id, OUTPUT_LIMIT).await {
            Err(e) if e.class == Class::NotFound && !patient && may_be_missed => {}
            Err(e) if e.class == Class::NotFound && !patient => return Ok(None),
            content => files.push(content?.map_err(|e| e.to_string()).boxed()),
        }
    }
    Ok(Some(files))
}

/// The object as it is now; None where it is gone, or another one took its name.
async fn read(ctx: &Context, key: &ObjectRef<BatchJob>) -> Result<Option<BatchJob>, Trouble> {
    let job = snapshot::whole(ctx, key.namespace.as_deref().unwrap_or_default(), &key.name).await?;
    Ok(job.filter(|job| job.metadata.uid == key.extra.uid))
}

pub(super) fn learned(edit: impl FnOnce(&mut Memory) + Send + 'static) -> Learned {
    Box::new(edit)
}

/// Requests of one batch at most.
fn max_requests(job: &BatchJob, tools: &Tools) -> i64 {
    let limit = i64::from(tools.account.spec.limits.max_requests_per_batch);
    match job.spec.output.config_map {
        Some(_) => limit.min(REQUESTS_OF_CONFIG_MAPS),
        None => limit,
    }
}

fn recipe(job: &BatchJob, tools: &Tools, max_batches: usize, hash_version: WorkHashVersion) -> Result<Recipe, String> {
    let (spec, limits) = (&job.spec, tools.account.spec.limits);
    let defaults = spec.defaults()?.map(|written| Defaults::of_field(&written)).transpose()?;
    Ok(Recipe {
        provider: format!("{:?}/{}", spec.provider_ref.kind, spec.provider_ref.name),
        endpoint: spec.endpoint,
        model: spec.model.clone(),
        base_url: tools.account.spec.base_url().into(),
        defaults: defaults.unwrap_or_default(),
        format: spec.input.format,
        compression: spec.input.compression,
        csv: spec.input.csv.clone().unwrap_or_default(),
        selection: Selection { hidden: spec.input.hidden_objects, empty: spec.input.empty_objects },
        template: spec.input.template.clone(),
        size_limit: SizeLimit {
            bytes: spec.input.max_object_bytes.map_or(MAX_OBJECT_BYTES, |b| usize::try_from(b).unwrap_or(0)),
            then: spec.input.on_too_large.unwrap_or_default(),
        },
        empty_policy: spec.input.empty_policy,
        run_id: spec.run_id.clone(),
        max_requests: max_requests(job, tools),
        max_bytes: limits.max_bytes_per_batch.unsigned_abs(),
        max_inputs: u64::from(limits.max_inputs_per_batch.unsigned_abs()),
        max_batches,
        allowed_models: tools.account.spec.allowed_models.clone(),
        hash_version,
    })
}

fn planned(passed: Passed, staged: Option<String>) -> Planned {
    Planned {
        staged,
        plan: Plan {
            work_hash: passed.work_hash,
            input: crate::api::InputStatus {
                version: passed.input_version,
                size_bytes: i64::try_from(passed.input_bytes).unwrap_or(i64::MAX),
                sources: passed.sources,
                skipped: passed.left_out.count() + passed.too_large.skipped,
            },
            requests: passed.requests,
            too_large: TooLarge { skipped: passed.too_large.skipped, truncated: passed.too_large.truncated },
            left_out: passed.left_out,
        },
        shards: passed.shards.into_iter().map(|s| shard(s, 0, RequestCounts::default())).collect(),
    }
}

fn shard(staged: StagedShard, round: u32, took: RequestCounts) -> Shard {
    let StagedShard { sha256, index_sha256, bytes, first, requests, model } = staged;
    Shard {
        sha256,
        index_sha256,
        bytes,
        first,
        requests,
        failures: 0,
        attempt: None,
        round,
        took,
        took_errors: vec![],
        model,
        streaks: Default::default(),
    }
}

/// What a batch is collected by.
struct Submitted {
    work_id: String,
    slot: Slot,
    batch_id: String,
    shard: Shard,
}

fn submitted(journal: &Journal, slot: Slot) -> Option<Submitted> {
    let shard = journal.shards.get(slot.shard)?;
    match &shard.attempt.as_ref()?.state {
        AttemptState::Submitted { batch_id, .. } => {
            let (work_id, batch_id) = (journal.work_id.clone(), batch_id.clone());
            Some(Submitted { work_id, slot, batch_id, shard: shard.clone() })
        }
        _ => None,
    }
}

/// Whether the manifest at the destination is this work's; then it is looked at again.
async fn is_written(tools: &Tools, work_id: &str) -> Result<bool, Trouble> {
    let bytes = tools.folder.read(layout::MANIFEST, 8 << 20).await?;
    let there = bytes.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
    Ok(there.is_some_and(|manifest| manifest.work_id == work_id))
}

async fn manifest(tools: &Tools, journal: &Journal) -> Result<Option<Manifest>, Trouble> {
    let (Some(commit), Some(plan)) = (&journal.commit, &journal.plan) else { return Ok(None) };
    let mut paid = vec![];
    tools
        .journals
        .each(journal, |index, shard| {
            if let Some(AttemptState::Settled { batch_id, .. }) = shard.attempt.as_ref().map(|a| &a.state) {
                paid.push((index, batch_id.clone()));
            }
        })
        .await?;
    paid.sort_unstable();
    let mut room = LISTED_BATCHES;
    let fits = |(_, id): &(usize, String)| {
        room = room.saturating_sub(id.len() + 8);
        room > 0
    };
    let abandoned = journal.abandoned_batches().map(|(slot, id, requests)| AbandonedBatch {
        name: slot.to_string(),
        batch_id: id.map(String::from),
        requests,
    });
    Ok(Some(Manifest {
        manifest_version: 1,
        work_id: journal.work_id.clone(),
        work_hash: plan.work_hash.clone(),
        outcome: commit.outcome,
        reason: commit.reason.clone(),
        message: commit.message.clone(),
        requests: commit.requests,
        errors: error_summary(journal),
        files: vec![],
        batches: paid.into_iter().take_while(fits).map(|(_, batch_id)| batch_id).collect(),
        billed_twice: journal.billed_again(),
        abandoned_batches: abandoned.collect(),
        completed_at: commit.at,
    }))
}

fn settled(shard: &Shard) -> results::Settled {
    let state = shard.attempt.as_ref().map(|a| &a.state);
    let (part, absent) = match state {
        Some(AttemptState::Settled { part, .. }) => (
            part.as_ref(),
            ("missing", "the provider gave no line for this request in either of its files".to_string()),
        ),
        Some(AttemptState::Abandoned { batch_id }) => {
            let which = batch_id.as_deref().map(|id| format!(" {id}")).unwrap_or_default();
            let message = format!("batch{which} did not end when the job's time was over; it may still run and cost");
            (None, ("batch_abandoned", message))
        }
        Some(AttemptState::Refused { message, .. }) if shard.is_refused_for_good() => {
            (None, ("provider_rejected", message.clone()))
        }
        Some(AttemptState::Refused { message, .. }) if shard.is_too_large() => (None, (TOO_LARGE, message.clone())),
        _ => (None, ("not_submitted", "the job ended before this request was sent".to_string())),
    };
    let part = part.map(|p| results::Part { name: p.name.clone(), sha256: p.sha256.clone() });
    results::Settled {
        sha256: shard.sha256.clone(),
        index: shard.index().to_string(),
        first: shard.first,
        model: shard.model.clone(),
        round: shard.round,
        part,
        given_up: shard.is_given_up() || shard.is_too_large(),
        absent,
    }
}

/// For [`tasks`]: a task's future.
pub(in crate::controller) type Outcome = Result<Learned, Trouble>;
