//! The whole status of a BatchJob, built by one function.

mod batches;
mod estimate;
mod eta;
mod progress;
mod spending;
mod verdicts;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::attempt::AttemptState;
use super::errors::error_summary;
use super::findings::ManifestView;
use super::journal::{Journal, Plan, ReuseSet};
use super::observed::Observed;
use super::step::{Step, Waiting};
use super::stuck::{self, Progressing};
use super::{notices, partial, pricing, questions};
use crate::api::conditions::{self, Verdict, reasons};
use crate::api::text::clip;
use crate::api::{
    BatchJobStatus, Display, LeftOut, NEWEST_PROTOCOL_VERSION, PROTOCOL_VERSION, PinnedProvider, RequestCounts,
    Results, Spending, Work,
};
use crate::money::for_people;

pub use batches::{is_in_flight, may_be_submitted};

use batches::batches;
use spending::CostOf;
use verdicts::{concluded, exceeded, failed, verdict, waiting};

/// Returns the status that `step` calls for; None if the step itself does not show in status. Unchanged conditions, and times
/// that still hold, are taken from `old`.
pub fn project(o: &Observed, old: &BatchJobStatus, generation: Option<i64>, step: &Step) -> Option<BatchJobStatus> {
    let mut status = BatchJobStatus {
        conditions: old.conditions.clone(),
        observed_generation: generation,
        last_handled_reconcile_at: old.last_handled_reconcile_at.clone(),
        protocol_version: Some(protocol_version(o)),
        lock: old.lock.clone(),
        provider: provider(o, old, step),
        start_time: start_time(o, old),
        notifications: old.notifications.clone(),
        ..Default::default()
    };
    match o.journal.filter(|j| j.owner == o.job.owner) {
        Some(journal) if journal.is_abandoned() => remember(&mut status, old),
        Some(journal) => describe(&mut status, o, journal, old),
        // Status must keep showing that something was submitted: this is what prevents another journal from being opened.
        None if o.job.submitted => remember(&mut status, old),
        None => {}
    }
    let verdicts = match step {
        Step::Lock(lock) => {
            status.lock = Some(lock.clone());
            waiting(&Waiting { stage: reasons::PENDING, ..Default::default() }, o, None)
        }
        Step::Pin => vec![],
        Step::Wait { why, .. } if why.stage != reasons::FINISHED => {
            status.holds = why.holds.iter().take(questions::SHOWN).cloned().collect();
            status.holds.iter_mut().for_each(|hold| hold.message = clip(std::mem::take(&mut hold.message), 1024));
            eta::show(&mut status, o, old, why);
            waiting(why, o, exceeded(&status.conditions))
        }
        Step::Conclude { manifest, reused } => {
            conclude(&mut status, o, manifest, if *reused { CostOf::Earlier } else { CostOf::Ended });
            concluded(manifest, *reused)
        }
        Step::Fail(failure) => {
            status.lock = None;
            status.outcome = Some(failure.outcome);
            status.completion_time = time(o.now);
            let expected = spending::expected(&status);
            spending::expect(&mut status, expected, CostOf::Ended);
            failed(failure)
        }
        Step::CleanUp if o.job.finished => return Some(tidied(old, generation, o.now)),
        _ => return None,
    };
    for verdict in verdicts {
        conditions::set(&mut status.conditions, verdict, generation, clock(o.now));
    }
    status.notifications = notices::messages(o, old, &status, step);
    Some(status)
}

/// Returns the version of the protocol that the job's journal needs, or that of a journal that is yet to be written.
fn protocol_version(o: &Observed) -> i32 {
    let ours = o.journal.filter(|journal| journal.owner == o.job.owner);
    ours.map_or(PROTOCOL_VERSION, |journal| journal.protocol_version.clamp(PROTOCOL_VERSION, NEWEST_PROTOCOL_VERSION))
}

/// Returns the provider for status. Jobs with an intent keep the provider that they run at, and so do jobs that may have one
/// because their journal is gone or cannot be read. Other jobs drop a provider that is being deleted.
fn provider(o: &Observed, old: &BatchJobStatus, step: &Step) -> Option<PinnedProvider> {
    let seen = || o.job.provider.as_ref().map(|p| p.pin.clone());
    let sent = o.journal.is_some_and(|j| j.owner == o.job.owner && j.has_intents());
    match step {
        Step::Lock(_) | Step::Pin => seen(),
        Step::Fail(_) => None,
        _ if sent => seen().or_else(|| old.provider.clone()),
        _ if may_be_sent(o) => old.provider.clone(),
        _ if o.job.provider.as_ref().is_some_and(|p| p.terminating) => None,
        _ => old.provider.clone(),
    }
}

/// Copies the work and its progress from `old`, because the journal no longer has them.
fn remember(status: &mut BatchJobStatus, old: &BatchJobStatus) {
    status.work.clone_from(&old.work);
    status.submission_time.clone_from(&old.submission_time);
    status.last_progress_time.clone_from(&old.last_progress_time);
    status.input.clone_from(&old.input);
    status.requests = old.requests;
    status.usage.clone_from(&old.usage);
    status.answers = old.answers;
    status.cost.clone_from(&old.cost);
    status.batches.clone_from(&old.batches);
    status.partial_results_uri.clone_from(&old.partial_results_uri);
    status.error_summary.clone_from(&old.error_summary);
    status.display.clone_from(&old.display);
    status.estimate.clone_from(&old.estimate);
}

/// Returns whether the job may have an intent although there is no journal to read.
fn may_be_sent(o: &Observed) -> bool {
    o.journal.is_none() && (o.job.submitted || o.job.blocked.is_some())
}

/// Returns the start time, from which the deadline counts. As with a Job, suspension clears it and resumption sets it anew, if
/// nothing was sent. It is also set anew when a failure that cost nothing is reevaluated.
fn start_time(o: &Observed, old: &BatchJobStatus) -> Option<Time> {
    // The batches of an earlier object of this name are not this job's until they are adopted.
    let sent = o.journal.is_some_and(|journal| journal.owner == o.job.owner && journal.has_intents());
    let kept = old.start_time.clone().filter(|_| !o.job.reevaluated);
    match o.job.suspend && !sent {
        true => kept.filter(|_| may_be_sent(o)),
        false => kept.or_else(|| time(o.now)),
    }
}

fn clock(ms: i64) -> Timestamp {
    Timestamp::from_second(ms / 1000).unwrap_or_default()
}

fn time(ms: i64) -> Option<Time> {
    Some(Time(clock(ms)))
}

fn describe(status: &mut BatchJobStatus, o: &Observed, journal: &Journal, old: &BatchJobStatus) {
    status.work = Some(work(&o.job.output_uri, &journal.work_id, journal.plan.as_ref().map(|p| &p.work_hash)));
    let Some(plan) = &journal.plan else { return };
    status.input = Some(plan.input.clone());
    let counts = settled_so_far(journal);
    status.requests = Some(counts);
    status.batches = batches(o, journal, old);
    status.partial_results_uri = partial::is_begun(o, journal).then(|| format!("{}results.partial/", o.job.output_uri));
    status.error_summary = error_summary(journal);
    let first = journal.shards.iter().filter_map(|s| match s.attempt.as_ref()?.state {
        AttemptState::Submitted { at, .. } => Some(at),
        _ => None,
    });
    status.submission_time = old.submission_time.clone().or_else(|| first.min().and_then(time));
    progress::show(status, o, journal, old);
    let spending = super::spending::spending(o, journal);
    let unconfirmed = unconfirmed(&spending);
    spending::show(status, spending, CostOf::Running);
    let tip = estimate::show(status, o, journal, old);
    let mut planned = checked(plan, counts);
    for more in [tip, pricing::without_prices(o, journal)].into_iter().flatten() {
        planned += &format!("; {more}");
    }
    let mut facts = vec![verdict(conditions::PLANNED, true, reasons::REQUESTS_CHECKED, planned)];
    let totals = journal.shards.totals();
    let (submitted, batches) = (totals.submitted, journal.shards.len().saturating_sub(totals.reused));
    let all = submitted == batches;
    let message = format!("{submitted} of {batches} batches were submitted");
    facts.push(verdict(conditions::SUBMITTED, all, if all { "AllSubmitted" } else { "NotAllSubmitted" }, message));
    let billed_again = journal.billed_again();
    if billed_again > 0 {
        let message = format!(
            "up to {billed_again} requests were billed twice: the provider, or a gateway in front of it, made more than one batch \
             of a submission; events and manifest.json name them{unconfirmed}"
        );
        facts.push(verdict(conditions::BILLED_TWICE, true, reasons::DUPLICATE_BATCHES, message));
    }
    facts.extend(progressing(&mut status.conditions, o, journal, status.last_progress_time.as_ref()));
    for fact in facts {
        conditions::set(&mut status.conditions, fact, status.observed_generation, clock(o.now));
    }
}

/// Returns the condition `Progressing`, if it is to be set. It stays as it is until this process has looked at all batches that
/// run, and goes with the last of them.
fn progressing(known: &mut Vec<Condition>, o: &Observed, journal: &Journal, last: Option<&Time>) -> Option<Verdict> {
    match stuck::progressing(o, journal, last.map(|last| last.0.as_millisecond())) {
        Progressing::Unknown => None,
        Progressing::NothingRuns => {
            conditions::remove(known, conditions::PROGRESSING);
            None
        }
        Progressing::Yes => Some(verdict(conditions::PROGRESSING, true, reasons::AWAITING_PROVIDER, "")),
        Progressing::No { reason, message } => Some(verdict(conditions::PROGRESSING, false, reason, message)),
    }
}

/// Returns the possible cost that nobody reported, as the end of a message; empty if it is not known.
fn unconfirmed(spending: &Spending) -> String {
    let amount = for_people::amount(spending.cost.as_ref().and_then(|cost| cost.unconfirmed_usd.as_deref()));
    amount.map_or(String::new(), |amount| {
        format!("; requests of the job that may have been billed without a report cost about {amount} in all")
    })
}

fn checked(plan: &Plan, counts: RequestCounts) -> String {
    let mut message = format!("{} requests were read and are sound", plan.requests);
    if !plan.reuse.is_empty() {
        message += &format!("; {} have an answer in `spec.reuseFrom` and are not sent", counts.reused);
    }
    for why in not_reused(plan) {
        message += &format!("; {why}");
    }
    for (count, done) in [(plan.too_large.skipped, "left out"), (plan.too_large.truncated, "cut")] {
        if count > 0 {
            message += &format!("; objects with more than `spec.input.maxObjectBytes` that were {done}: {count}");
        }
    }
    left_out(plan).map_or(message.clone(), |left_out| format!("{message}; {left_out}"))
}

/// Describes, for each result set of which answers are not reused that one might expect to be, what is wrong with it.
pub fn not_reused(plan: &Plan) -> impl Iterator<Item = String> {
    plan.reuse.iter().filter_map(|ReuseSet { uri, answers, incomparable }| match answers {
        None => Some(format!(
            "nothing is reused of {uri}, which `spec.reuseFrom` names: there is no result set (manifest.json)"
        )),
        Some(_) if *incomparable > 0 => {
            Some(format!("{incomparable} answers of {uri} are of an earlier version, and cannot be reused"))
        }
        Some(_) => None,
    })
}

/// Describes the parts of the input that make no request, and how to include them; None if nothing was left out.
pub fn left_out(plan: &Plan) -> Option<String> {
    let LeftOut { hidden_objects, empty_objects, empty_rows } = plan.left_out;
    let kinds = [
        (
            hidden_objects,
            "objects whose name begins with `_` or `.`",
            " (`spec.input.hiddenObjects: Include` takes them in)",
        ),
        (empty_objects, "empty objects", ""),
        (empty_rows, "rows of empty fields", ""),
    ];
    let kinds = kinds.into_iter().filter(|(count, ..)| *count > 0);
    let told: Vec<String> = kinds.map(|(count, what, remedy)| format!("{what}: {count}{remedy}")).collect();
    (!told.is_empty()).then(|| format!("left out: {}", told.join(", ")))
}

fn work(output_uri: &str, id: &str, hash: Option<&String>) -> Work {
    Work { id: id.into(), hash: hash.cloned(), journal_uri: format!("{output_uri}_batchjob/journal.json") }
}

fn settled_so_far(journal: &Journal) -> RequestCounts {
    let totals = journal.shards.totals();
    let mut counts = totals.counts;
    if journal.commit.is_none() {
        counts.cancelled -= totals.open - totals.refused;
        counts.failed -= totals.refused;
    }
    counts
}

fn conclude(status: &mut BatchJobStatus, o: &Observed, manifest: &ManifestView, of: CostOf) {
    let counts = manifest.requests;
    status.outcome = Some(manifest.outcome);
    status.completion_time = time(manifest.at);
    status.requests = Some(counts);
    status.error_summary = manifest.errors.clone();
    status.work = Some(work(&o.job.output_uri, &manifest.work_id, Some(&manifest.work_hash)));
    let done = counts.succeeded + counts.failed;
    status.display = Some(Display { progress: progress::text(done, counts), ..Display::default() });
    let of_manifest = manifest.spending.clone();
    let is_known = of_manifest != Spending::default() || of == CostOf::Earlier;
    // A manifest of an earlier version, or of a journal that was lost, has none; status may know it.
    let known = || Spending {
        usage: status.usage.clone(),
        answers: status.answers.unwrap_or_default(),
        cost: status.cost.clone(),
    };
    let spending = if is_known { of_manifest } else { known() };
    let expected = spending::expected(status);
    spending::show(status, spending, of);
    if of != CostOf::Earlier {
        spending::expect(status, expected, of);
    }
    status.results = Some(results(&o.job.output_uri, manifest));
}

fn results(output_uri: &str, manifest: &ManifestView) -> Results {
    let uri = |name: &str| {
        let file = manifest.files.iter().find(|(file, _)| file.starts_with(name));
        file.map(|(file, map)| match (map, output_uri.strip_prefix("configmap://").and_then(|r| r.split_once('/'))) {
            (Some(map), Some((namespace, _))) => format!("configmap://{namespace}/{map}/{file}"),
            _ => format!("{output_uri}{file}"),
        })
    };
    let mut config_maps: Vec<String> = manifest.files.iter().filter_map(|(_, map)| map.clone()).collect();
    config_maps.sort();
    config_maps.dedup();
    Results {
        uri: uri("results").unwrap_or_default(),
        errors_uri: uri("errors"),
        manifest_uri: format!("{output_uri}manifest.json"),
        config_maps,
    }
}

fn tidied(old: &BatchJobStatus, generation: Option<i64>, now: i64) -> BatchJobStatus {
    let mut status = BatchJobStatus { observed_generation: generation, ..old.clone() };
    let done = verdict(conditions::RECONCILING, false, reasons::FINISHED, "");
    conditions::set(&mut status.conditions, done, generation, clock(now));
    status
}

/// Returns the status of a job that ended, with the generation of a spec that changed since; None if status has it already.
/// Clients that wait until a change is observed (`kubectl wait`, kstatus) would wait forever without it.
pub fn seen(old: &BatchJobStatus, generation: Option<i64>) -> Option<BatchJobStatus> {
    if old.observed_generation == generation {
        return None;
    }
    let mut status = BatchJobStatus { observed_generation: generation, ..old.clone() };
    status.conditions.iter_mut().for_each(|c| c.observed_generation = generation);
    Some(status)
}
