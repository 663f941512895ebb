//! The wait for an input that is not there yet.

use super::completion;
use super::observed::Observed;
use super::step::{Failure, Step, Waiting};
use super::task::Task;
use crate::api::conditions::reasons;
use crate::api::text::clock_time;

/// Shortest and longest pause between two looks, in milliseconds, before jitter.
const PAUSES: (i64, i64) = (15_000, 300_000);
/// Part of the time that a job has waited after which the next look follows.
const PAUSE_SHARE: i64 = 10;

/// What a job waits for before its input is read. Times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InputWait {
    /// What is waited for, such as the URI of an object. A look at anything else says nothing.
    pub of: String,
    /// Time at which the job, and so the wait, began; None while the job is suspended, and before its start is recorded.
    pub since: Option<i64>,
    /// Time at which the job fails for what is still missing; None for no limit.
    pub until: Option<i64>,
    /// The field of the spec that sets this limit.
    pub field: &'static str,
}

impl InputWait {
    /// Forgets the times of a job that is judged anew.
    pub fn start_anew(&mut self) {
        (self.since, self.until) = (None, None);
    }
}

/// A look at what a job waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InputLook {
    /// What was looked for: [`InputWait::of`].
    pub of: String,
    /// What is missing, for a person, such as `s3://shop/in/_SUCCESS is not there yet`; None if it is there.
    pub missing: Option<String>,
    /// Time of the look.
    pub at: i64,
    /// Time of the first of these looks by this process.
    pub first: i64,
    /// A random number that lengthens the pause before the next look by up to a quarter.
    pub jitter: u8,
    /// Whether the next look follows without a pause: a person asked for it.
    pub is_due: bool,
}

impl InputLook {
    /// Returns the look as the one that follows `earlier`.
    pub fn after(self, earlier: Option<InputLook>) -> InputLook {
        let earlier = earlier.filter(|earlier| earlier.of == self.of);
        InputLook { first: earlier.map_or(self.at, |earlier| earlier.first), ..self }
    }

    /// Returns the time of the next look. Pauses grow with the wait: what appears is seen within a tenth of the time that it was
    /// waited for, and what is late for hours is looked for every few minutes.
    fn next(&self) -> i64 {
        let pause = ((self.at - self.first) / PAUSE_SHARE).clamp(PAUSES.0, PAUSES.1);
        if self.is_due { self.at } else { self.at + pause + pause * i64::from(self.jitter) / 1024 }
    }
}

fn look<'a>(o: &Observed<'a>, wait: &InputWait) -> Option<&'a InputLook> {
    o.memory.input_look.as_ref().filter(|look| look.of == wait.of)
}

/// Returns what is missing by the last look, for a person.
pub(super) fn missing<'a>(o: &Observed<'a>) -> Option<&'a str> {
    let of_input = || look(o, o.job.input_wait.as_ref()?)?.missing.as_deref();
    of_input().or_else(|| look_for_answers(o)?.missing.as_deref())
}

fn look_for_answers<'a>(o: &Observed<'a>) -> Option<&'a InputLook> {
    o.memory.reuse_look.as_ref().filter(|look| look.of == o.job.spec_hash)
}

/// Returns the wait for result sets of `spec.reuseFrom` whose batches run: their answers would be paid twice. None if nothing
/// is waited for, or the next look is due, which is another try to plan.
pub(super) fn answers_are_to_come(o: &Observed) -> Option<Step> {
    let look = look_for_answers(o)?;
    let (missing, is_looking) = (look.missing.as_ref()?, o.memory.running.contains(&Task::Plan));
    if !is_looking && o.now >= look.next() {
        return None;
    }
    let due = [Some(look.next()).filter(|_| !is_looking), o.job.deadline];
    let until = due.into_iter().flatten().filter(|at| o.now < *at).min();
    let limit = match o.job.deadline.filter(|_| !o.job.suspend) {
        Some(at) => format!("until {} (`spec.activeDeadlineSeconds`)", clock_time(at)),
        None => "for as long as it takes; `spec.activeDeadlineSeconds` sets a limit".into(),
    };
    let note = Some(format!("{missing}; this job waits for them, so that nothing is paid twice, {limit}"));
    Some(Step::Wait { until, why: Waiting { stage: reasons::WAITING_FOR_INPUT, note, ..Default::default() } })
}

/// Returns the step of a job whose input may not be read yet: a look, a wait, or the end of its time. None if there is nothing
/// to wait for, or it is there.
pub(super) fn not_there(o: &Observed) -> Option<Step> {
    let wait = o.job.input_wait.as_ref()?;
    let look = look(o, wait);
    if look.is_some_and(|look| look.missing.is_none()) {
        return None;
    }
    if completion::is_to_stop(o) {
        return Some(Step::Fail(completion::free_end(o)));
    }
    if let Some(failure) = out_of_time(o, wait, look) {
        return Some(Step::Fail(failure));
    }
    let is_running = o.memory.running.contains(&Task::LookForInput);
    // What appeared at the last moment is seen by a look at the end.
    let next = look.map(|look| wait.until.filter(|until| look.at < *until).into_iter().fold(look.next(), i64::min));
    if !is_running && next.is_none_or(|next| o.now >= next) {
        return Some(Step::LookForInput);
    }
    let due = [next.filter(|_| !is_running), wait.until, o.job.deadline];
    let until = due.into_iter().flatten().filter(|at| o.now < *at).min();
    let why = match look.and_then(|look| look.missing.as_ref()) {
        Some(missing) => Waiting {
            stage: reasons::WAITING_FOR_INPUT,
            note: Some(format!("{missing}; {}", how_long(o, wait))),
            ..Default::default()
        },
        None => Waiting { stage: reasons::PLANNING, ..Default::default() },
    };
    Some(Step::Wait { until, why })
}

/// Describes the wait by times that do not change while it lasts, so that an unchanged wait leaves the status unchanged.
fn how_long(o: &Observed, wait: &InputWait) -> String {
    let since = wait.since.map_or(String::new(), |since| format!(" since {}", clock_time(since)));
    let deadline = o.job.deadline.filter(|_| !o.job.suspend).map(|at| (at, "spec.activeDeadlineSeconds"));
    match wait.until.map(|at| (at, wait.field)).into_iter().chain(deadline).min() {
        Some((until, field)) => format!("the job waits for it{since}, until {} (`{field}`)", clock_time(until)),
        None if o.job.suspend => "the job waits for it, and its time begins when it is resumed".into(),
        None => format!("the job waits for it{since}, for as long as it takes; `{}` sets a limit", wait.field),
    }
}

/// Returns the failure of a job whose time is over, and that has looked since then, or tried in vain to.
fn out_of_time(o: &Observed, wait: &InputWait, look: Option<&InputLook>) -> Option<Failure> {
    let until = wait.until.filter(|until| o.now >= *until)?;
    let fails = o.memory.failed_calls.contains_key(&Task::LookForInput);
    let why = match (look.filter(|look| look.at >= until), &o.memory.error) {
        (Some(look), _) => look.missing.clone()?,
        (None, Some(error)) if fails => format!("{} could not be looked for: {error}", wait.of),
        _ => return None,
    };
    let message = format!(
        "{why}, and the time of `{}` ended at {}; nothing was sent. Once it is there, set the annotation \
         `llmbatch.dev/reconcile-requested-at` of the job to another value, or allow it more time",
        wait.field,
        clock_time(until)
    );
    Some(Failure::new(reasons::INPUT_DEADLINE_EXCEEDED, message))
}
