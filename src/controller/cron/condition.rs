//! The condition `Ready` of a CronBatchJob.

use crate::api::CronBatchJobStatus;
use crate::api::conditions::{READY, Verdict, reasons};
use crate::schedule::Decision;

/// Returns the condition: False while no BatchJob can be created.
pub(super) fn ready(decision: &Decision, suspended: bool) -> Verdict {
    let (status, reason, message) = match (&decision.fault, decision.next_schedule_time) {
        (Some(fault), _) => (false, fault.reason(), fault.to_string()),
        (None, _) if suspended => (true, reasons::SUSPENDED, "no BatchJob starts while `spec.suspend` is true".into()),
        (None, Some(_)) => (true, reasons::SCHEDULED, "`status.nextScheduleTime` is the time of the next start".into()),
        (None, None) => (true, reasons::SCHEDULED, "the CronBatchJob is being deleted, and no BatchJob starts".into()),
    };
    Verdict { type_: READY, status: Some(status), reason: reason.into(), message }
}

/// Returns true if the condition says something else than before.
pub(super) fn is_new(before: Option<&CronBatchJobStatus>, now: &CronBatchJobStatus) -> bool {
    let said = |status: &CronBatchJobStatus| {
        let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
        ready.map(|ready| (ready.reason.clone(), ready.message.clone()))
    };
    before.and_then(said) != said(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Event;

    #[test]
    fn a_fault_comes_before_a_suspension_and_a_suspended_schedule_is_ready() {
        let fault = Some(Event::UnknownTimeZone("`spec.timeZone` is `Europe/Berlni`".into()));
        let faulty = ready(&Decision { fault, ..Decision::default() }, true);
        assert_eq!((faulty.status, faulty.reason.as_str()), (Some(false), "UnknownTimeZone"));
        let suspended = ready(&Decision::default(), true);
        assert_eq!((suspended.status, suspended.reason.as_str()), (Some(true), "Suspended"));
    }
}
