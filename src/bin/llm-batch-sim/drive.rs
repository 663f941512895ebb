//! Taking a batch from its creation to its end, in the time it was given.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use crate::app::Shared;
use crate::batch::{Batch, Outcome};
use crate::execute::{Results, Runner, Task};
use crate::faults::Flaw;
use crate::rows::{Unexecuted, Written};
use crate::store::{Command, Control, Store, StoredFile};
use crate::validate::{self, Plan};
use crate::wire::{BatchError, FileObject};

/// The most lines that are executed before anybody is listened to again.
const STRIDE: u64 = 256;

/// Progress is not made in smaller steps than this.
const TICK: Duration = Duration::from_millis(10);

/// How long a batch that is stuck waits before it looks around.
const FOREVER: Duration = Duration::from_secs(3600);

/// Runs a batch to its end.
pub async fn drive(app: Shared, task: Task, control: Arc<Control>, duration: Duration) {
    let _ended = control.ended.clone().drop_guard();
    let task = Arc::new(task);
    if let Err(error) = run(&app, &task, &control, duration).await {
        error!(batch = task.batch_id, %error, "the batch broke");
        let message = "The server had an error while processing the batch.";
        refuse(&app, &task, error_of("server_error", message));
    }
    let ended = with_batch(&app, &task, |batch| batch.clone());
    if let Some(batch) = ended {
        info!(batch = batch.id, state = batch.status.name(), "the batch ended");
        app.webhooks.ended(&batch);
    }
}

fn error_of(code: impl Into<Cow<'static, str>>, message: &str) -> BatchError {
    BatchError { code: code.into(), line: None, message: message.to_owned(), param: None }
}

async fn run(app: &Shared, task: &Arc<Task>, control: &Control, duration: Duration) -> io::Result<()> {
    if let Some(Flaw::Fail { code, message }) = &task.flaw {
        refuse(app, task, error_of(code.clone(), message));
        return Ok(());
    }
    let (content, endpoint) = (Arc::clone(&task.content), (task.vendor, task.endpoint));
    let limits = app.settings.limits;
    let plan = match blocking(move || validate::check(&content, endpoint, limits)).await? {
        Ok(plan) => plan,
        Err(error) => {
            refuse(app, task, error);
            return Ok(());
        }
    };
    if let Err(error) = admit(app, task, &plan) {
        refuse(app, task, error);
        return Ok(());
    }
    let runner = Runner::new(Arc::clone(app), Arc::clone(task), plan)?;
    let mut runner = execute(app, task, control, duration, runner).await?;
    let whole = with_batch(app, task, Batch::finalize).unwrap_or_default();
    let results = blocking(move || {
        runner.abandon(if whole { Unexecuted::EXPIRED } else { Unexecuted::CANCELLED })?;
        runner.finish()
    })
    .await?;
    if whole && let Some(batch) = with_batch(app, task, |batch| batch.clone()) {
        app.webhooks.about_to_complete(batch).await;
    }
    settle(&mut app.store(), task, results);
    Ok(())
}

/// Starts a batch if its account has room for its requests beside those that it has enqueued.
fn admit(app: &Shared, task: &Task, plan: &Plan) -> Result<(), BatchError> {
    let (requests, most) = (plan.spans.len() as u64, app.settings.limits.enqueued);
    let mut store = app.store();
    if store.enqueued(&task.account, &task.batch_id) + requests > most {
        let message = format!(
            "Enqueued token limit reached for this account. Limit: {most} enqueued requests. Please try again once some \
             in_progress batches have been completed."
        );
        return Err(error_of("token_limit_exceeded", &message));
    }
    store.overlaps.start(&task.batch_id, plan.spans.iter().map(|span| span.request));
    if let Some(batch) = store.batch(&task.account, &task.batch_id) {
        batch.object.start(&plan.model, requests);
    }
    Ok(())
}

/// Executes lines as they fall due, until there are none that shall run or somebody cancels.
async fn execute(
    app: &Shared,
    task: &Task,
    control: &Control,
    duration: Duration,
    mut runner: Runner,
) -> io::Result<Runner> {
    let total = runner.counts().total;
    let stuck = matches!(task.flaw, Some(Flaw::Stuck { .. }));
    let mut commands = control.command.subscribe();
    let start = Instant::now();
    loop {
        let counts = runner.counts();
        let done = counts.completed + counts.failed;
        let command = *commands.borrow_and_update();
        // Even a batch of no lines takes its time, so that nobody comes to rely on less.
        let over = command == Command::Finish || start.elapsed() >= duration;
        let held = stuck && command != Command::Finish;
        let most = match task.flaw {
            Some(Flaw::Expire { after }) => part(total, after),
            Some(Flaw::Stuck { after }) if held => part(total, after),
            _ => total,
        };
        if command == Command::Cancel || (over && !held && done == most) {
            return Ok(runner);
        }
        let due = if over { most } else { share(total, start.elapsed(), duration).min(most) };
        if due > done {
            let lines = STRIDE.min(due - done);
            runner = blocking(move || {
                runner.step(lines)?;
                Ok(runner)
            })
            .await?;
            let counts = runner.counts();
            with_batch(app, task, |batch| batch.progress(counts));
            continue;
        }
        let next = if done < most { moment(done + 1, total, duration).min(duration) } else { duration };
        let wait = if over { FOREVER } else { next.saturating_sub(start.elapsed()).max(TICK) };
        tokio::select! {
            _ = commands.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A share of the lines, to the nearest whole one.
fn part(total: u64, share: f64) -> u64 {
    ((total as f64 * share).round() as u64).min(total)
}

/// How many of `total` lines are due after `elapsed` of `duration`.
fn share(total: u64, elapsed: Duration, duration: Duration) -> u64 {
    let share = u128::from(total) * elapsed.as_nanos() / duration.as_nanos().max(1);
    u64::try_from(share).unwrap_or(total).min(total)
}

/// When the `count`th of `total` lines is due.
fn moment(count: u64, total: u64, duration: Duration) -> Duration {
    let nanos = duration.as_nanos() * u128::from(count) / u128::from(total.max(1));
    u64::try_from(nanos).map_or(duration, Duration::from_nanos)
}

/// Makes results visible and the batch ended, at one stroke.
fn settle(store: &mut Store, task: &Task, results: Results) {
    let output_file_id = keep(store, task, results.output, "output");
    let error_file_id = keep(store, task, results.errors, "error");
    if let Some(batch) = store.batches.get_mut(&task.batch_id) {
        batch.object.end(Outcome { output_file_id, error_file_id, counts: results.counts, tokens: results.tokens });
    }
    store.overlaps.end(&task.batch_id);
}

fn keep(store: &mut Store, task: &Task, written: Option<Written>, kind: &str) -> Option<String> {
    let Written { id, path, bytes } = written?;
    let filename = format!("{}_{kind}.jsonl", task.batch_id);
    let file = StoredFile {
        account: Arc::clone(&task.account),
        object: FileObject::new(id.clone(), filename, "batch_output", bytes),
        content: Arc::new(path),
        ready: std::time::Instant::now(),
    };
    store.files.insert(id.clone(), file);
    Some(id)
}

/// Ends a batch as failed.
fn refuse(app: &Shared, task: &Task, error: BatchError) {
    let error = BatchError { code: task.vendor.code(error.code), ..error };
    let mut store = app.store();
    if let Some(batch) = store.batches.get_mut(&task.batch_id) {
        batch.object.refuse(error);
    }
    store.overlaps.end(&task.batch_id);
}

fn with_batch<T>(app: &Shared, task: &Task, change: impl FnOnce(&mut Batch) -> T) -> Option<T> {
    let mut store = app.store();
    store.batches.get_mut(&task.batch_id).map(|batch| change(&mut batch.object))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_linear_and_whole_at_the_end() {
        let hour = Duration::from_secs(3600);
        assert_eq!(share(50_000, Duration::ZERO, hour), 0);
        assert_eq!(share(50_000, hour / 2, hour), 25_000);
        assert_eq!(share(50_000, hour, hour), 50_000);
        assert_eq!(share(3, hour * 2, hour), 3);
        assert_eq!(share(3, hour, Duration::ZERO), 3);
        assert_eq!(moment(1, 4, hour), hour / 4);
    }
}
