//! Messages to webhooks: each event of a job is told once.

use proptest::prelude::*;

use super::*;
use NotificationEvent::{Complete, Failed, Held, Stalled, Started};
use batchjob_operator::api::conditions::{STALLED, is_true};
use batchjob_operator::api::{BatchJob, NotificationEvent, NotificationState, NotificationStatus};
use batchjob_operator::lifecycle::{GIVE_UP_AFTER, SUBSCRIPTION_LIMIT, Subscription, applying, expiry, next_attempt};

pub const ALL: [NotificationEvent; 5] = [Started, Complete, Failed, Held, Stalled];
const HOUR: i64 = 3_600_000;

fn subscription(name: &str) -> Subscription {
    Subscription { name: name.into(), events: ALL.to_vec() }
}

fn told_job() -> JobView {
    JobView { subscriptions: vec![subscription("ops")], ..job() }
}

/// Returns the status after this step at `now`, written over `old`.
fn shown(
    job: &JobView,
    journal: Option<&Journal>,
    step: &Step,
    (now, generation): (i64, i64),
    old: &BatchJobStatus,
) -> BatchJobStatus {
    let memory = memory();
    let observed = Observed { now, nonce: "nonce", timing: &TIMING, job, journal, memory: &memory };
    project(&observed, old, Some(generation), step).expect("a step that shows in status")
}

fn events(status: &BatchJobStatus) -> Vec<NotificationEvent> {
    status.notifications.iter().map(|message| message.event).collect()
}

fn waits(holds: &[&str], blocked: Option<&'static str>) -> Step {
    let hold = |id: &&str| batchjob_operator::api::Hold {
        id: id.to_string(),
        message: format!("what about {id}?"),
        answers: vec![format!("{id}=none")],
        annotation: None,
    };
    let blocked = blocked.map(|reason| Blocked { reason, message: "in the way".into() });
    let why = Waiting { stage: "InProgress", holds: holds.iter().map(hold).collect(), blocked, note: None };
    Step::Wait { until: None, why }
}

fn ends(outcome: Outcome, reused: bool) -> Step {
    Step::Conclude { manifest: ManifestView { outcome, ..manifest("w", "h") }, reused }
}

fn fails(reason: &'static str) -> Step {
    Step::Fail(Failure::new(reason, "line 3 is no JSON"))
}

#[test]
fn each_event_of_a_job_is_told_in_the_write_that_shows_it() {
    let (sent, unsent) = (journal(owner("j", "u"), submitted()), journal(owner("j", "u"), None));
    let going = JobView { deleting_since: Some(NOW), ..told_job() };
    let job = told_job();
    for (what, job, journal, step, wanted) in [
        ("nothing is sent", &job, Some(&unsent), waits(&[], None), &[][..]),
        ("an intent is written", &job, Some(&sent), waits(&[], None), &[Started]),
        ("it ends well", &job, Some(&sent), ends(Outcome::Succeeded, false), &[Started, Complete]),
        ("some have no answer", &job, Some(&sent), ends(Outcome::PartiallySucceeded, false), &[Started, Complete]),
        ("it ends badly", &job, Some(&sent), ends(Outcome::Failed, false), &[Started, Failed]),
        ("it is told to stop", &job, Some(&sent), ends(Outcome::Cancelled, false), &[Started, Failed]),
        ("an outcome is adopted", &job, None, ends(Outcome::Succeeded, true), &[]),
        ("it fails for free", &job, None, fails("InvalidInput"), &[Failed]),
        ("a question is asked", &job, Some(&sent), waits(&["lost-1"], None), &[Started, Held]),
        ("a Secret is missing", &job, None, waits(&[], Some("SecretNotFound")), &[Stalled]),
        ("it is being deleted", &going, Some(&sent), waits(&["lost-1"], None), &[]),
    ] {
        let status = shown(job, journal, &step, (NOW, 1), &Default::default());
        assert_eq!(events(&status), wanted, "{what}");
        assert!(status.notifications.iter().all(NotificationStatus::is_pending), "{what}");
        // Each later write, and each process that knows of nothing, comes to the same messages.
        let again = shown(job, journal, &step, (NOW + 1_000, 1), &status);
        assert_eq!(again.notifications, status.notifications, "{what}");
        if step != waits(&[], Some("SecretNotFound")) {
            let ids = |status: &BatchJobStatus| status.notifications.iter().map(|m| m.id.clone()).collect::<Vec<_>>();
            let restored = shown(job, journal, &step, (NOW + HOUR, 1), &Default::default());
            assert_eq!(ids(&restored), ids(&status), "{what}, and status is lost");
        }
        let nobody = JobView { subscriptions: vec![], ..job.clone() };
        let untold = shown(&nobody, journal, &step, (NOW, 1), &Default::default());
        assert!(untold.notifications.is_empty(), "{what}, and nobody is to be told");
    }
}

#[test]
fn each_webhook_is_told_what_it_asks_for_under_an_id_of_its_own() {
    let sent = journal(owner("j", "u"), submitted());
    let only = Subscription { name: "b".into(), events: vec![Complete] };
    let job = JobView { subscriptions: vec![subscription("a"), only], ..job() };
    let status = shown(&job, Some(&sent), &ends(Outcome::Succeeded, false), (NOW, 1), &Default::default());
    let told: Vec<_> = status.notifications.iter().map(|m| (m.name.as_str(), m.event)).collect();
    assert_eq!(told, [("a", Started), ("a", Complete), ("b", Complete)]);
    let mut ids: Vec<&str> = status.notifications.iter().map(|m| m.id.as_str()).collect();
    assert!(ids.iter().all(|id| id.len() == 36 && id.starts_with("msg_")), "{ids:?}");
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_webhook_that_is_named_while_a_job_runs_is_told_of_what_comes_and_of_what_is_in_the_way() {
    let sent = journal(owner("j", "u"), submitted());
    let untold = shown(&job(), Some(&sent), &waits(&["a"], None), (NOW, 1), &Default::default());
    let named = shown(&told_job(), Some(&sent), &waits(&["a"], None), (NOW, 2), &untold);
    assert_eq!(events(&named), [Held]);
    let over = shown(&told_job(), Some(&sent), &ends(Outcome::Succeeded, false), (NOW, 2), &named);
    assert_eq!(events(&over), [Held, Complete]);
}

#[test]
fn a_question_is_told_once_and_a_later_one_as_well() {
    let sent = journal(owner("j", "u"), submitted());
    let mut status = BatchJobStatus::default();
    let mut told = vec![];
    let ids: Vec<String> = (0..12).map(|n| format!("lost-{n}")).collect();
    let three: Vec<&str> = ids.iter().map(String::as_str).take(3).collect();
    let visits: [&[&str]; 8] = [&["a"], &["a"], &[], &["a"], &["a", "b"], &["b"], &["a"], &three];
    for (n, open) in visits.iter().enumerate() {
        status = shown(&told_job(), Some(&sent), &waits(open, None), (NOW + n as i64, 1), &status);
        let held = status.notifications.iter_mut().find(|message| message.event == Held).unwrap();
        if held.is_pending() {
            held.state = NotificationState::Delivered;
            told.push((n, held.message.clone()));
        }
    }
    let told: Vec<(usize, &str)> = told.iter().map(|(n, message)| (*n, message.as_str())).collect();
    assert_eq!(told, [(0, "what about a?"), (4, "what about b?"), (7, "what about lost-0?")]);
}

/// The operator was down, or the receiver: a question is told although it was answered in the meantime.
#[test]
fn a_question_that_is_answered_before_it_was_told_is_still_told() {
    let sent = journal(owner("j", "u"), submitted());
    let asked = shown(&told_job(), Some(&sent), &waits(&["a"], None), (NOW, 1), &Default::default());
    let answered = shown(&told_job(), Some(&sent), &waits(&[], None), (NOW + 1, 1), &asked);
    let over = shown(&told_job(), Some(&sent), &ends(Outcome::Succeeded, false), (NOW + 2, 1), &answered);
    assert_eq!(events(&over), [Started, Held, Complete]);
    assert!(over.notifications[1].is_pending() && over.notifications[1] == asked.notifications[1]);
}

#[test]
fn an_obstacle_that_comes_and_goes_is_told_once_an_hour_and_one_that_stays_once() {
    let sent = journal(owner("j", "u"), submitted());
    let run = |in_the_way: &dyn Fn(i64) -> bool| {
        let (mut status, mut told) = (BatchJobStatus::default(), 0);
        for minute in 0..600 {
            let step = waits(&[], in_the_way(minute).then_some("ProviderUnavailable"));
            let before = status.clone();
            status = shown(&told_job(), Some(&sent), &step, (NOW + minute * 60_000, 1), &before);
            let id = |s: &BatchJobStatus| s.notifications.iter().find(|m| m.event == Stalled).map(|m| m.id.clone());
            told += usize::from(id(&status) != id(&before));
            assert_eq!(is_true(&status.conditions, STALLED), in_the_way(minute));
        }
        told
    };
    assert_eq!(run(&|_| true), 1);
    assert_eq!(run(&|minute| minute % 2 == 0), 10);
    assert_eq!(
        run(&|minute| !(5..=30).contains(&minute)),
        2,
        "one that begins soon after another is told of an hour later"
    );
}

/// Messages to one webhook are sent in the order of the list.
#[test]
fn a_message_that_replaces_an_earlier_one_comes_after_those_that_wait() {
    let sent = journal(owner("j", "u"), submitted());
    let stalls = waits(&[], Some("ProviderUnavailable"));
    let mut status = shown(&told_job(), Some(&sent), &stalls, (NOW, 1), &Default::default());
    status.notifications.iter_mut().for_each(|message| message.state = NotificationState::Delivered);
    let status = shown(&told_job(), Some(&sent), &waits(&["a"], None), (NOW + HOUR, 1), &status);
    // The question is answered before the webhook was told of it, and the job stalls anew.
    let status = shown(&told_job(), Some(&sent), &waits(&[], None), (NOW + 2 * HOUR, 1), &status);
    let status = shown(&told_job(), Some(&sent), &stalls, (NOW + 3 * HOUR, 1), &status);
    let due: Vec<_> = status.notifications.iter().filter(|m| m.is_pending()).map(|m| m.event).collect();
    assert_eq!(due, [Held, Stalled]);
}

/// Such a job is judged anew whenever an object that it refers to changes.
#[test]
fn a_failure_that_cost_nothing_is_told_again_only_after_a_change_of_the_spec_or_with_another_cause() {
    let job = JobView { submitted: false, batches: vec![], ..told_job() };
    let failed = shown(&job, None, &fails("InvalidInput"), (NOW, 1), &Default::default());
    let id = |status: &BatchJobStatus| status.notifications[0].id.clone();
    let again = shown(&job, None, &fails("InvalidInput"), (NOW + HOUR, 1), &failed);
    assert_eq!(id(&again), id(&failed));
    let edited = shown(&job, None, &fails("InvalidInput"), (NOW + HOUR, 2), &failed);
    let other = shown(&job, None, &fails("OutputConflict"), (NOW + HOUR, 1), &failed);
    assert!(id(&edited) != id(&failed) && id(&other) != id(&failed) && id(&edited) != id(&other));
    assert_eq!((edited.notifications.len(), other.notifications.len()), (1, 1));
}

#[test]
fn a_notification_of_the_job_takes_the_place_of_its_providers() {
    let named = |names: &[&str]| names.iter().map(|name| subscription(name)).collect::<Vec<_>>();
    let all = |own: &[&str], theirs: &[&str]| {
        let (own, theirs) = (named(own), named(theirs));
        applying(&own, &theirs, |one| &one.name)
            .map(|(one, is_theirs)| (one.name.clone(), is_theirs))
            .collect::<Vec<_>>()
    };
    assert_eq!(all(&["a"], &["b", "a"]), [("a".into(), false), ("b".into(), true)]);
    let (seven, three) = (["1", "2", "3", "4", "5", "6", "7"], ["7", "8", "9"]);
    let names: Vec<String> = all(&seven, &three).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["1", "2", "3", "4", "5", "6", "7", "8"]);
}

#[test]
fn messages_of_as_many_webhooks_as_can_be_are_few_and_short() {
    let sent = journal(owner("j", "u"), submitted());
    let mut status = BatchJobStatus::default();
    for generation in 0..5 {
        let names: Vec<String> =
            (0..SUBSCRIPTION_LIMIT).map(|n| format!("{generation}-{n}{}", "x".repeat(58))).collect();
        let subscriptions = names.iter().map(|name| subscription(name)).collect();
        let job = JobView { subscriptions, ..job() };
        let long: Vec<String> = (0..8).map(|n| format!("lost-{n}{}", "x".repeat(50))).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        for step in [waits(&long, Some("ProviderUnavailable")), fails("InvalidInput"), ends(Outcome::Succeeded, false)]
        {
            status = shown(&job, Some(&sent), &step, (NOW, generation), &status);
        }
        let told: Vec<&str> = status.notifications.iter().map(|message| message.name.as_str()).collect();
        assert!(
            told.len() == 40 && names.iter().all(|name| told.contains(&name.as_str())),
            "the present ones: {told:?}"
        );
    }
    let bytes = serde_json::to_vec(&status.notifications).unwrap().len();
    assert!(bytes < 24 << 10, "{bytes} bytes");
}

#[test]
fn a_job_is_kept_for_messages_that_wait_and_for_no_longer_than_a_day() {
    let job = |state: &str| -> BatchJob {
        let condition = |type_: &str, status: &str| {
            serde_json::json!({"type": type_, "status": status, "reason": "R", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let message = serde_json::json!({"name": "ops", "event": "Complete", "id": "msg_1", "state": state,
            "eventTime": "2026-01-01T00:00:00Z", "reason": "R"});
        serde_json::from_value(serde_json::json!({
            "apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": "j", "generation": 1},
            "spec": {"providerRef": {"name": "p"}, "input": {}, "output": {}, "ttlSecondsAfterFinished": 60},
            "status": {"outcome": "Succeeded", "observedGeneration": 1, "completionTime": "2026-01-01T00:00:00Z",
                "lock": {"specHash": "h", "outputURI": "u"}, "notifications": [message],
                "conditions": [condition("Reconciling", "False"), condition("ResultsWritten", "True")]},
        }))
        .unwrap()
    };
    let end = "2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
    for state in ["Delivered", "GaveUp"] {
        assert_eq!(expiry(&job(state), 0), Some(end + 60_000), "{state}");
    }
    let kept = expiry(&job("Pending"), 0).unwrap();
    assert!(kept >= end + GIVE_UP_AFTER && kept <= end + GIVE_UP_AFTER + HOUR, "{kept}");
}

#[test]
fn webhooks_that_failed_at_the_same_time_are_not_tried_at_the_same_time() {
    let after = |jitter| next_attempt(1, NOW, NOW, None, jitter, None).map(|next| next - NOW);
    assert_eq!([0, 128, 255].map(after), [Some(1_000), Some(1_125), Some(1_249)]);
}

proptest! {
    #[test]
    fn attempts_come_ever_more_seldom_for_a_day_and_a_pause_that_was_asked_for_is_kept(
        jitter in any::<u8>(),
        took in 0..20_000_i64,
        asked in proptest::option::of(0..2 * GIVE_UP_AFTER),
        longest in proptest::option::of(Just(300_000_i64)),
    ) {
        let (mut now, mut failures, mut last) = (NOW, 1, 0);
        while let Some(next) = next_attempt(failures, NOW, now, asked, jitter, longest) {
            let pause = next - now;
            let is_last = next == NOW + GIVE_UP_AFTER;
            prop_assert!(pause > 0 && next <= NOW + GIVE_UP_AFTER);
            prop_assert!(is_last || pause >= last && pause >= asked.unwrap_or_default());
            prop_assert!(is_last || pause <= asked.unwrap_or_default().max(HOUR + HOUR / 4));
            (now, failures, last) = (next + took, failures + 1, pause);
            prop_assert!(failures <= 320);
        }
        prop_assert!(now >= NOW + GIVE_UP_AFTER, "it is tried for a day");
    }
}
