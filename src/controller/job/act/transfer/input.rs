//! The pass over the input that makes the plan.

use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use tracing::info;

use super::reuse::{self, Reusable};
use super::{max_requests, max_text, memory_edit};
use crate::api::conditions::reasons;
use crate::api::{BatchJob, TextLimits, WorkHashVersion};
use crate::controller::Context;
use crate::controller::job::act::Act;
use crate::controller::job::clients::Clients;
use crate::controller::job::{cached_job, events, source, tasks, transfers};
use crate::controller::provider::account::allowed_models;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::events::publish;
use crate::lifecycle::{
    self, InputLook, Pass, Plan, PlanResult, PlannedCanary, PlannedModels, Shard, Shards, Task, TooLarge,
};
use crate::requests::{self, Defaults, PassError, PassOutput, PlanOptions, Selection, SizeLimit};
use crate::store::{Sorted, StagedShard, StoreError, reserve};

/// Default of `spec.input.maxObjectBytes`.
const MAX_OBJECT_BYTES: usize = 1 << 20;

impl Act<'_> {
    pub(in crate::controller::job::act) fn start_pass(
        &self,
        stage: Option<String>,
        version: WorkHashVersion,
    ) -> Result<(), StepError> {
        let (ctx, clients, key) = (self.ctx.clone(), self.clients()?.clone(), ObjectRef::from_obj(&*self.snapshot.job));
        let (spec_hash, output_uri) = (self.snapshot.view.spec_hash.clone(), self.snapshot.view.output_uri.clone());
        let (job_state, namespace) = (self.job_state.clone(), self.snapshot.view.owner.namespace.clone());
        let max_batches = self.snapshot.view.plan_limit();
        tasks::start(self.ctx, self.job_state, &self.snapshot.job, Task::Plan, move || async move {
            // The object is read again, so that its requests take memory only from here on. If its spec is no longer the one
            // that the step was decided on, nothing is done.
            let mut job = match read(&ctx, &key).await? {
                Some(job) if lifecycle::spec_hash(&job.spec) == spec_hash => job,
                _ => return Ok(memory_edit(|_| {})),
            };
            let inline = usize::try_from(transfers::inline_bytes(&job)).unwrap_or(usize::MAX);
            let _inline = reserve(inline).await;
            let schema = stage.as_ref().and_then(|_| job.spec.sorted_schema());
            let allowed_models = allowed_models(&ctx, &clients.account).await?;
            let max_text = max_text(&ctx, &clients);
            let open_disk = ctx.jobs.disk.of_open_shards();
            let checked = source::check(&job.spec, &output_uri)
                .and_then(|()| options(&job, &clients, (allowed_models, max_text), (max_batches, open_disk), version));
            let mut options = match checked {
                Ok(options) => options,
                Err(message) => {
                    return Ok(memory_edit(move |m| m.pass = Some(Pass { spec_hash, result: Err(message) })));
                }
            };
            let mut sets = vec![];
            if let (Some(_), Some(sources)) = (&stage, &job.spec.reuse_from) {
                match reuse::read(&ctx, &namespace, sources, version).await? {
                    Reusable::Answers(answers, read) => (options.answers, sets) = (Some(Arc::new(answers)), read),
                    Reusable::ToCome(missing) => {
                        let (at, jitter, missing) = (ctx.clock.now(), ctx.clock.jitter(), Some(missing));
                        let look = InputLook { of: spec_hash, missing, at, first: at, jitter, is_due: false };
                        return Ok(memory_edit(move |m| m.reuse_look = Some(look.after(m.reuse_look.take()))));
                    }
                    Reusable::Faulty(message) => {
                        return Ok(memory_edit(move |m| m.pass = Some(Pass { spec_hash, result: Err(message) })));
                    }
                }
            }
            // Nothing is waited for any more, and the pass may take long.
            job_state.remember(|m| m.reuse_look = None);
            let input = std::mem::take(&mut job.spec.input);
            job.drop_requests();
            let source = match source::open(&ctx, &namespace, input).await {
                Ok(Ok(source)) => source,
                Ok(Err(message)) => {
                    return Ok(memory_edit(move |m| m.pass = Some(Pass { spec_hash, result: Err(message) })));
                }
                Err(StepError { is_unfit_store: true, blocked, .. }) => {
                    return Ok(memory_edit(move |m| m.pass = Some(Pass { spec_hash, result: Err(blocked.message) })));
                }
                Err(error) => return Err(error),
            };
            let target = stage.as_deref().map(|work_id| (&clients.folder, work_id));
            let result = match requests::pass(source, &options, target, &ctx.jobs.spool).await {
                Ok(passed) => {
                    info!(
                        requests = passed.requests,
                        batches = passed.shards.len(),
                        skipped = passed.too_large.skipped,
                        truncated = passed.too_large.truncated,
                        "checked the input"
                    );
                    if let Some((field, instead)) = schema {
                        publish(&ctx, &job, events::sorted_schema(field, instead));
                    }
                    let (mut plan, staged, reused) = plan(passed, options.canary);
                    plan.reuse = sets;
                    let shards = match &stage {
                        Some(work_id) => {
                            let answers = options.answers.take();
                            let reused =
                                reuse::stage(&clients.folder, work_id, reused, answers.as_deref(), &ctx.jobs.spool);
                            let reused = reused.await?.map(|s| Ok(s?.into()));
                            let mut models = PlannedModels::default();
                            let shards = staged.map(|staged| {
                                let shard: Shard = staged?.into();
                                models.add(&shard);
                                Ok(shard)
                            });
                            let shards = clients.journals.plan_shards(reused, shards, work_id).await?;
                            plan.models = models.finish();
                            shards
                        }
                        None => Shards::default(),
                    };
                    Ok(PlanResult { staged: stage.clone(), plan, shards })
                }
                Err(
                    PassError::Invalid(message)
                    | PassError::Store(StoreError::TooLarge(message) | StoreError::Unfit(message)),
                ) => Err(message),
                Err(PassError::NotFound(message)) => {
                    return Err(StepError::lasting(reasons::CONFIG_MAP_NOT_FOUND, message));
                }
                Err(PassError::Unavailable(message)) => {
                    return Err(StepError::passing("KubernetesUnavailable", message));
                }
                Err(PassError::Store(e)) => return Err(e.into()),
            };
            Ok(memory_edit(move |m| m.pass = Some(Pass { spec_hash, result })))
        });
        Ok(())
    }
}

/// Reads the whole object. Returns None if it is gone, or another object has its name.
async fn read(ctx: &Context, key: &ObjectRef<BatchJob>) -> Result<Option<BatchJob>, StepError> {
    let job = cached_job::whole(ctx, key.namespace.as_deref().unwrap_or_default(), &key.name).await?;
    Ok(job.filter(|job| job.metadata.uid == key.extra.uid))
}

fn options(
    job: &BatchJob,
    clients: &Clients,
    (allowed_models, max_text): (Vec<String>, TextLimits),
    (max_batches, open_disk): (usize, u64),
    hash_version: WorkHashVersion,
) -> Result<PlanOptions, String> {
    let (spec, limits) = (&job.spec, clients.account.limits());
    let line = (clients.account.dialect().line)(spec.endpoint).ok_or_else(|| {
        let (endpoint, type_) = (spec.endpoint, clients.account.type_());
        format!(
            "`spec.endpoint: {endpoint:?}` has no batches at providers of type {type_:?}; set another endpoint, or a provider of \
             another type"
        )
    })?;
    let defaults = spec.defaults()?.map(|written| Defaults::of_field(&written)).transpose()?;
    Ok(PlanOptions {
        provider: format!("{:?}/{}", spec.provider_ref.kind, spec.provider_ref.name),
        endpoint: spec.endpoint,
        model: spec.model.clone(),
        base_url: clients.account.base_url().into(),
        line,
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
        max_requests: max_requests(job, clients),
        max_bytes: limits.max_bytes_per_batch.unsigned_abs(),
        max_inputs: u64::from(limits.max_inputs_per_batch.unsigned_abs()),
        max_text,
        open_disk,
        max_batches,
        allowed_models,
        hash_version,
        canary: spec.canary.as_ref().map(|canary| i64::from(canary.requests)),
        answers: None,
    })
}

/// Returns the plan that a pass made, and the shards that it staged: those to send, and those with reused answers.
fn plan(passed: PassOutput, canary: Option<i64>) -> (Plan, Sorted<StagedShard>, Sorted<StagedShard>) {
    let plan = Plan {
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
        reuse: vec![],
        models: vec![],
        canary: passed.behind_canary.zip(canary).map(|(before, requests)| PlannedCanary { requests, before }),
    };
    (plan, passed.shards, passed.reused)
}
