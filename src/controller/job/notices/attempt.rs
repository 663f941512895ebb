//! One attempt to deliver a message: its webhook, its text, and the Secrets that it takes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use secrecy::SecretString;

use crate::api::conditions::HELD;
use crate::api::{
    BatchJob, BatchJobStatus, Notification, NotificationEvent, NotificationStatus, NotificationWebhook,
    SecretKeyReference,
};
use crate::controller::Context;
use crate::controller::provider::account::notifications;
use crate::controller::runtime::missing::Missing;
use crate::controller::runtime::secrets::{secret, value};
use crate::notify::{Notice, Retry, Target, Undelivered};

/// The reason why a message was not delivered.
pub(super) struct Unsent {
    pub why: Undelivered,
    /// Whether a person has to create or correct an object of the cluster.
    pub is_missing: bool,
}

impl From<Undelivered> for Unsent {
    fn from(why: Undelivered) -> Self {
        Unsent { why, is_missing: false }
    }
}

impl From<Missing> for Unsent {
    fn from(missing: Missing) -> Self {
        match missing.blocked() {
            Ok(blocked) => Unsent { why: later(blocked.message), is_missing: true },
            Err(error) => later(error.blocked.message).into(),
        }
    }
}

fn later(message: String) -> Undelivered {
    Undelivered { retry: Retry::Later, message }
}

/// Sends a message of a job once. Secrets are used as they were at `since` (Unix milliseconds) or later.
///
/// # Errors
/// If it was not delivered, or may not have been.
pub(super) async fn attempt(
    ctx: &Context,
    job: &BatchJob,
    message: &NotificationStatus,
    since: i64,
) -> Result<(), Unsent> {
    let target = target(ctx, job, &message.name, since).await?;
    let notice = notice(job, message);
    Ok(crate::notify::deliver(&ctx.transport, &target, &notice, ctx.clock.now()).await?)
}

/// Returns the webhook of this name, of the job or else of its provider.
async fn target(ctx: &Context, job: &BatchJob, name: &str, since: i64) -> Result<Target, Unsent> {
    let namespace = job.namespace().unwrap_or_default();
    let is_it = |one: &&Notification| one.name == name;
    if let Some(own) = job.spec.notifications.iter().find(is_it) {
        return read(ctx, own, (&namespace, false), since).await;
    }
    // A provider that is gone may be created again, and a grant given again. The list of one that is there counts.
    let of_provider = notifications(ctx, &job.spec.provider_ref, &namespace).await?;
    let Some(theirs) = of_provider.notifications.iter().find(is_it) else {
        let message = format!("neither the job nor its provider has a notification '{name}' any more");
        return Err(Undelivered { retry: Retry::Never, message }.into());
    };
    read(ctx, theirs, (&of_provider.secrets_in, of_provider.by_admin), since).await
}

async fn read(
    ctx: &Context,
    notification: &Notification,
    (namespace, by_admin): (&str, bool),
    since: i64,
) -> Result<Target, Unsent> {
    let NotificationWebhook { url_secret_key_ref, signing_secret_key_ref } = &notification.webhook;
    let user = format!("notification '{}'", notification.name);
    let url = credential(ctx, namespace, url_secret_key_ref, &user, since).await?;
    let signing_keys = match signing_secret_key_ref {
        Some(reference) => Some(credential(ctx, namespace, reference, &user, since).await?),
        None => None,
    };
    Ok(Target { format: notification.format, url, signing_keys, by_admin })
}

async fn credential(
    ctx: &Context,
    namespace: &str,
    SecretKeyReference { name, key }: &SecretKeyReference,
    user: &str,
    since: i64,
) -> Result<SecretString, Missing> {
    let secret = secret(ctx, namespace, name, user, since).await?;
    value(&secret, key, name, user)
}

/// Returns the content of a message: the event as it was, and the state of the job now.
fn notice(job: &BatchJob, message: &NotificationStatus) -> Notice {
    let nothing = BatchJobStatus::default();
    let (spec, status) = (&job.spec, job.status.as_ref().unwrap_or(&nothing));
    let is_end = matches!(message.event, NotificationEvent::Complete | NotificationEvent::Failed);
    let ms = |time: &Option<Time>| time.as_ref().map(|time| time.0.as_millisecond());
    Notice {
        id: message.id.clone(),
        event: message.event,
        at: message.event_time.0.as_millisecond(),
        namespace: job.namespace().unwrap_or_default(),
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        outcome: status.outcome.filter(|_| is_end),
        reason: message.reason.clone(),
        message: whole_text(status, message),
        requests: status.requests,
        usage: status.usage.clone().filter(|_| is_end),
        cost: status.cost.clone().filter(|_| is_end),
        start: ms(&status.start_time),
        end: ms(&status.completion_time).filter(|_| is_end),
        results: status.results.clone().filter(|_| is_end),
        provider: spec.provider_ref.clone(),
        model: spec.model.clone(),
    }
}

/// Returns the whole text of an event's message, from a condition that begins like it, or else the text itself: status
/// keeps its beginning only. While questions are open, a message about them has the condition's text: the first question
/// with its commands, and the number of all, although it may be sent because of a later one.
fn whole_text(status: &BatchJobStatus, message: &NotificationStatus) -> String {
    let asked = status.conditions.iter().find(|c| c.type_ == HELD && c.status == "True");
    if let Some(asked) = asked.filter(|_| message.event == NotificationEvent::Held) {
        return asked.message.clone();
    }
    let text = &message.message;
    let beginning = text.strip_suffix('…').unwrap_or(text);
    let whole = status.conditions.iter().map(|c| &c.message).filter(|whole| whole.starts_with(beginning));
    let longest = whole.filter(|_| !beginning.is_empty()).max_by_key(|whole| whole.len());
    longest.unwrap_or(text).clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(event: &str, text: &str) -> NotificationStatus {
        let message = json!({"name": "ops", "event": event, "id": "msg_1", "state": "Pending", "reason": "R",
            "message": text, "eventTime": "2026-01-01T01:00:00Z"});
        serde_json::from_value(message).unwrap()
    }

    fn condition(type_: &str, status: &str, message: &str) -> serde_json::Value {
        json!({"type": type_, "status": status, "reason": "R", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn a_message_about_a_later_question_has_the_commands_and_the_number_of_all_that_are_open() {
        let status = |held: &str, text: &str| -> BatchJobStatus {
            let status = json!({"conditions": [condition("Stalled", "True", text), condition("Held", held, text)]});
            serde_json::from_value(status).unwrap()
        };
        let asked = "batch 7 is unknown. Answer with `kubectl …`. 2 questions are open";
        let later = message("Held", "batch 8 is unknown");
        assert_eq!(whole_text(&status("True", asked), &later), asked);
        assert_eq!(whole_text(&status("False", ""), &later), later.message, "it was answered in the meantime");
        let other = message("Stalled", "a Secret is missing");
        assert_eq!(whole_text(&status("True", asked), &other), other.message, "it is no question");
    }

    #[test]
    fn a_message_has_the_whole_text_of_its_condition_while_that_stands_and_else_its_beginning() {
        let long = format!("batch 7 is unknown{}. Answer with `kubectl …`", "!".repeat(300));
        let conditions = [condition("Stalled", "True", &long), condition("Complete", "True", &long[..200])];
        let status = json!({"conditions": conditions});
        let status: BatchJobStatus = serde_json::from_value(status).unwrap();
        let cut = format!("{}…", &long[..197]);
        assert_eq!(whole_text(&status, &message("Stalled", &cut)), long);
        for other in ["batch 8 is unknown", ""] {
            assert_eq!(whole_text(&status, &message("Stalled", other)), other);
        }
        assert_eq!(whole_text(&BatchJobStatus::default(), &message("Stalled", &cut)), cut, "it passed in the meantime");
    }

    #[test]
    fn an_outcome_and_results_are_in_the_message_about_an_end_alone() {
        let job = |event: &str| -> (BatchJob, NotificationStatus) {
            let message = json!({"name": "ops", "event": event, "id": "msg_1", "state": "Pending", "reason": "AllSucceeded",
                "message": "all 3 requests succeeded", "eventTime": "2026-01-01T01:00:00Z"});
            let job = json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob",
                "metadata": {"name": "j", "namespace": "n", "uid": "u"},
                "spec": {"providerRef": {"name": "p"}, "model": "m", "input": {}, "output": {}},
                "status": {"outcome": "Succeeded", "startTime": "2026-01-01T00:00:00Z",
                    "completionTime": "2026-01-01T01:00:00Z", "requests": {"total": 3, "succeeded": 3},
                    "results": {"uri": "s3://b/results.jsonl", "manifestURI": "s3://b/manifest.json"}}});
            (serde_json::from_value(job).unwrap(), serde_json::from_value(message).unwrap())
        };
        let (ended, complete) = job("Complete");
        let notice = super::notice(&ended, &complete);
        assert_eq!((notice.namespace.as_str(), notice.name.as_str(), notice.uid.as_str()), ("n", "j", "u"));
        assert_eq!(notice.end.zip(notice.start).map(|(end, start)| end - start), Some(3_600_000));
        assert!(notice.outcome.is_some() && notice.results.is_some() && notice.requests.is_some());
        // A message about the beginning that is late says nothing of the end.
        let (ended, started) = job("Started");
        let notice = super::notice(&ended, &started);
        assert!(notice.outcome.is_none() && notice.results.is_none() && notice.end.is_none());
    }
}
