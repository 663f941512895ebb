//! Steps that move data. They run beside the reconcile loop, and each of them can be repeated.

mod batch;
mod convert;
mod input;
mod input_wait;
mod partial;
mod results;
mod reuse;
mod staged;

use crate::api::{BatchJob, TextLimits};
use crate::controller::Context;
use crate::controller::job::clients::Clients;
use crate::controller::runtime::error::StepError;
use crate::lifecycle::Memory;

/// Maximum number of requests in a batch of a job that writes to a ConfigMap: the batch's answers are one object in there,
/// which must fit.
const REQUESTS_OF_CONFIG_MAPS: i64 = 500;

/// The edit of memory with which a task ends.
pub(crate) type MemoryEdit = Box<dyn FnOnce(&mut Memory) + Send>;

/// The outcome of a task, see [`tasks`](crate::controller::job::tasks).
pub(crate) type Outcome = Result<MemoryEdit, StepError>;

/// Returns an edit of memory about a finding that holds under any credential. Findings at the provider are recorded by
/// [`Clients::memory_edit`].
pub(super) fn memory_edit(edit: impl FnOnce(&mut Memory) + Send + 'static) -> MemoryEdit {
    Box::new(edit)
}

/// Returns the maximum number of requests of one batch; none has more than may be in flight in all.
fn max_requests(job: &BatchJob, clients: &Clients) -> i64 {
    let limits = clients.account.limits();
    let limit = i64::from(limits.max_requests_per_batch).min(limits.max_enqueued_requests.unwrap_or(i64::MAX));
    match job.spec.output.config_map {
        Some(_) => limit.min(REQUESTS_OF_CONFIG_MAPS),
        None => limit,
    }
}

/// Returns the most text of one batch, by the tokens that the account takes of each model at a time.
fn max_text(ctx: &Context, clients: &Clients) -> TextLimits {
    let account = &clients.account;
    account.limits_in_flight().tokens.text_of_batches(&ctx.experience.of(&account.key("").provider))
}
