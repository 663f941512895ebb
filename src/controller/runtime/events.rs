//! Events, as a person sees them in `kubectl describe`.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;

use super::leader;
use crate::api::BatchJob;
use crate::controller::Context;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventRecord {
    pub warning: bool,
    pub reason: &'static str,
    pub note: String,
}

impl EventRecord {
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        EventRecord { warning: false, reason, note: note.into() }
    }

    pub fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        EventRecord { warning: true, reason, note: note.into() }
    }
}

/// Queues an event about a BatchJob; it is written beside the reconcile loop.
pub(crate) fn publish(ctx: &Context, job: &BatchJob, news: EventRecord) {
    publish_on(ctx, job.object_ref(&()), news);
}

/// Queues an event about any object.
pub(crate) fn publish_on(ctx: &Context, object: ObjectReference, news: EventRecord) {
    ctx.events.publish(object, None, news);
}

/// Queues an event in the operator's own namespace, about a BatchJob that may be gone together with its namespace.
pub(crate) fn publish_at_home(ctx: &Context, namespace: &str, name: &str, news: EventRecord) {
    let lease = ObjectReference {
        api_version: Some("coordination.k8s.io/v1".into()),
        kind: Some("Lease".into()),
        name: Some(leader::NAME.into()),
        namespace: Some(ctx.namespace.clone()),
        ..Default::default()
    };
    let about = ObjectReference {
        api_version: Some(BatchJob::api_version(&()).into()),
        kind: Some(BatchJob::kind(&()).into()),
        name: Some(name.into()),
        namespace: Some(namespace.into()),
        ..Default::default()
    };
    ctx.events.publish(lease, Some(about), news);
}
