//! Requests for looks at CronBatchJobs: one whose BatchJob began, ended or went is looked at soon.

use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::api::CronBatchJob;

/// The senders of requests, by watched namespace; None for all.
#[derive(Default)]
pub(crate) struct ScheduleLooks(Vec<(Option<String>, UnboundedSender<ObjectRef<CronBatchJob>>)>);

impl ScheduleLooks {
    /// Adds a watched namespace, and returns its requests.
    pub fn add(&mut self, scope: Option<String>) -> UnboundedReceiver<ObjectRef<CronBatchJob>> {
        let (send, receive) = mpsc::unbounded_channel();
        self.0.push((scope, send));
        receive
    }

    /// Asks for a look at a CronBatchJob.
    pub fn ask(&self, schedule: ObjectRef<CronBatchJob>) {
        for (_, looks) in self.0.iter().filter(|(scope, _)| scope.is_none() || *scope == schedule.namespace) {
            // A closed channel means that the operator stops.
            let _ = looks.send(schedule.clone());
        }
    }
}
