//! The status of a provider object: when its account is probed, and what follows from the answer.

use jiff::Timestamp;

use super::Blocked;
use crate::api::conditions::{self, Verdict, reasons};
use crate::api::text::clip;
use crate::api::{EffectiveLimits, ProviderCapabilities, ProviderStatus, UnknownSubmissionPolicy};

/// Milliseconds between two checks of an account that answers.
const READY_LOOK: i64 = 300_000;
/// Milliseconds until the next check of an account that is busy or does not answer as it should.
const AWAY_LOOK: i64 = 60_000;
/// Milliseconds until the next check of an account whose object refers to something missing.
const MENDED_LOOK: i64 = 15_000;
/// Maximum number of jobs named as the reason why a provider is kept.
const NAMED: usize = 5;

/// Placeholder for a Secret's version: the account is to be probed at the next check.
const TO_BE_TRIED: &str = "to-be-tried";

/// A provider object as of a check, with the state of its credential and account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderCheck {
    /// `metadata.generation`
    pub generation: Option<i64>,
    /// Version of the Secret; None if there is none, or none is needed.
    pub secret_version: Option<String>,
    /// Whether the capabilities in status are those of the account, so that it [need not be probed](is_to_be_probed).
    pub is_known: bool,
    /// The limits that apply to the account.
    pub limits: EffectiveLimits,
    /// The account's answer.
    pub answer: Answer,
    /// The account's webhook; None if it has none.
    pub webhook: Option<WebhookCheck>,
    /// The account's prices; None if its object speaks of none.
    pub prices: Option<PricesCheck>,
}

/// The prices of an account, as of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PricesCheck {
    /// Origin of the prices in use; empty if there are none.
    pub from: String,
    /// Number of names of models that have prices.
    pub models: usize,
    /// Prices that are not used.
    pub fault: Option<Blocked>,
    /// Whether this process reported the same before, and another install of the operator may have reported otherwise since. Its
    /// report stays: the two would overwrite each other for ever.
    pub is_reported: bool,
}

impl PricesCheck {
    /// Returns whether a person has to mend the prices.
    pub fn is_broken(&self) -> bool {
        self.fault.is_some()
    }

    /// Writes the report into `new`, unless that of another install stays.
    fn report(self, old: &ProviderStatus, new: &mut ProviderStatus, generation: Option<i64>, now: i64) {
        let known = old.conditions.iter().find(|c| c.type_ == conditions::PRICES_READY);
        if self.is_reported && known.is_some_and(|known| known.observed_generation == generation) {
            (new.prices_from, new.priced_models) = (old.prices_from.clone(), old.priced_models);
            return;
        }
        let in_use = match (self.models, self.from.as_str()) {
            (0, _) => "no model has prices, so that jobs have no cost".into(),
            (1, from) => format!("1 name of a model has prices, from {from}"),
            (n, from) => format!("{n} names of models have prices, from {from}"),
        };
        let (status, reason, message) = match self.fault {
            None => (true, reasons::PRICES_READ, in_use),
            Some(Blocked { reason, message }) => (false, reason, format!("{message}; meanwhile, {in_use}")),
        };
        new.prices_from = Some(clip(self.from, 1024)).filter(|from| !from.is_empty());
        new.priced_models = i32::try_from(self.models).ok();
        let verdict = Verdict { type_: conditions::PRICES_READY, status: Some(status), reason: reason.into(), message };
        conditions::set(&mut new.conditions, verdict, generation, seconds(now));
    }
}

/// The webhook of an account, as of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookCheck {
    /// Path of its URL.
    pub path: String,
    /// Whether other installs of the operator may look after the same account, and serve its webhook.
    pub is_shared: bool,
    /// Whether this operator takes events, or the reason why its signing secret is not used; None if it serves no webhooks.
    pub served: Option<Result<(), Blocked>>,
}

impl WebhookCheck {
    /// Returns whether a person has to mend the signing secret.
    pub fn is_broken(&self) -> bool {
        matches!(self.served, Some(Err(_)))
    }

    /// Returns whether another operator may be the one that said what the condition says, so that it stays as it is: the
    /// two would overwrite each other for ever. An operator that serves no webhooks contradicts nobody, and one without
    /// the signing secret nobody who takes events for this generation.
    pub(crate) fn is_left_to_others(&self, old: &ProviderStatus, generation: Option<i64>) -> bool {
        let Some(known) = old.conditions.iter().find(|c| c.type_ == conditions::WEBHOOK_READY) else { return false };
        self.is_shared
            && match self.served {
                Some(Ok(())) => false,
                Some(Err(_)) => known.status == "True" && known.observed_generation == generation,
                None => true,
            }
    }

    /// Returns the condition; None if it [is left to others](Self::is_left_to_others).
    fn verdict(&self, old: &ProviderStatus, generation: Option<i64>) -> Option<Verdict> {
        if self.is_left_to_others(old, generation) {
            return None;
        }
        let (status, reason, message) = match &self.served {
            Some(Ok(())) => {
                let message = format!("events of batches are taken at {}; each has its batch looked at", self.path);
                (true, reasons::LISTENING, message)
            }
            Some(Err(Blocked { reason, message })) => (false, *reason, message.clone()),
            None => {
                let message = "the operator serves no webhooks; its admin turns them on with --provider-webhook-addr, see docs/provider-webhooks.md";
                (false, reasons::WEBHOOKS_DISABLED, message.into())
            }
        };
        Some(Verdict { type_: conditions::WEBHOOK_READY, status: Some(status), reason: reason.into(), message })
    }
}

/// The answer of an account to a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was probed.
    Probed(ProviderCapabilities),
    /// It answers, but no test could show whether deleting files revokes the right to start a batch.
    Untried {
        /// Capabilities that were seen.
        can: ProviderCapabilities,
        /// The provider's message.
        why: String,
        /// Whether the test may succeed a little later.
        retryable: bool,
    },
    /// It still answers, and was probed before.
    Still,
    /// It has no room for a probe now; the provider's message.
    Busy(String),
    /// It does not answer as it should.
    Failed(Blocked),
    /// It cannot be asked: something that its object refers to is missing.
    Missing(Blocked),
}

/// The last probe of an account by this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnProbe {
    /// `metadata.generation` at the time.
    pub generation: Option<i64>,
    /// Version of the Secret at the time.
    pub secret_version: Option<String>,
}

/// Returns whether an account has to be probed: its spec or Secret changed since the last probe, or there was none. Another install may
/// have probed it since `own`, with the Secret of its own namespace; if both did so in turns, they would do it for ever.
pub fn is_to_be_probed(
    status: &ProviderStatus,
    generation: Option<i64>,
    secret_version: Option<&str>,
    own: Option<&OwnProbe>,
) -> bool {
    let observed = status.observed_secret_version.as_deref();
    let is_own = |probe: &OwnProbe| {
        (probe.generation, probe.secret_version.as_deref()) == (generation, secret_version)
            && observed != Some(TO_BE_TRIED)
    };
    status.capabilities.is_none()
        || status.observed_generation != generation
        || (observed != secret_version && !own.is_some_and(is_own))
}

/// Returns the status after a check.
pub fn looked_at(
    old: &ProviderStatus,
    looked: ProviderCheck,
    policy: UnknownSubmissionPolicy,
    now: i64,
) -> ProviderStatus {
    let ProviderCheck { generation, secret_version, is_known, limits, answer, webhook, prices } = looked;
    let (known, mut observed_secret_version) = match is_known {
        true => (old.capabilities, old.observed_secret_version.clone()),
        false => (None, secret_version),
    };
    let (status, reason, message, capabilities) = match answer {
        Answer::Probed(can) => (Some(true), reasons::PROBED, can_do(can, policy), Some(can)),
        Answer::Untried { can, why, retryable } => {
            if retryable {
                observed_secret_version = Some(TO_BE_TRIED.into());
            }
            let message = format!(
                "the account answers; a submission whose reply is lost and whose batch is not found is held: it could not be \
                 tried out whether a batch of a deleted file is refused: {why}"
            );
            (Some(true), reasons::PROBED, message, Some(can))
        }
        Answer::Still => (Some(true), reasons::PROBED, can_do(known.unwrap_or_default(), policy), known),
        Answer::Busy(why) => {
            let message = format!("the provider has no room to be tried out now: {why}; it is tried again");
            (None, reasons::WAITING_FOR_QUOTA, message, known)
        }
        Answer::Failed(Blocked { reason, message }) | Answer::Missing(Blocked { reason, message }) => {
            (Some(false), reason, message, known)
        }
    };
    let verdict = Verdict { type_: conditions::READY, status, reason: reason.into(), message };
    let limits = Some(limits);
    let webhook_path = webhook.as_ref().map(|webhook| webhook.path.clone());
    let models = old.models.clone();
    let new =
        ProviderStatus { observed_secret_version, capabilities, limits, webhook_path, models, ..Default::default() };
    let mut new = with(old, new, generation, verdict, now);
    match webhook {
        Some(webhook) => {
            if let Some(verdict) = webhook.verdict(old, generation) {
                conditions::set(&mut new.conditions, verdict, generation, seconds(now));
            }
        }
        None => conditions::remove(&mut new.conditions, conditions::WEBHOOK_READY),
    }
    match prices {
        Some(prices) => prices.report(old, &mut new, generation, now),
        None => conditions::remove(&mut new.conditions, conditions::PRICES_READY),
    }
    new
}

fn seconds(now: i64) -> Timestamp {
    Timestamp::from_second(now / 1000).unwrap_or_default()
}

fn can_do(can: ProviderCapabilities, policy: UnknownSubmissionPolicy) -> String {
    let why = match (can.list_batches(), can.delete_files(), policy) {
        (true, true, UnknownSubmissionPolicy::Resolve) => {
            return "the account answers; a submission whose reply is lost is found, or revoked and sent again".into();
        }
        (true, true, UnknownSubmissionPolicy::Hold) => "`spec.unknownSubmissionPolicy` is Hold",
        (false, ..) => "the provider does not list batches",
        (true, false, _) => "the provider keeps deleted files, or makes batches of them",
    };
    format!("the account answers; a submission whose reply is lost and whose batch is not found is held: {why}")
}

/// Returns the status of a provider that is being deleted but that jobs still need; some of these jobs are named.
pub fn kept_by(
    old: &ProviderStatus,
    generation: Option<i64>,
    names: &[String],
    total: usize,
    now: i64,
) -> ProviderStatus {
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = match total.saturating_sub(NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let message = format!(
        "it is being deleted and takes no new jobs; it goes when the batches of BatchJob {named}{more} are settled: \
         wait for them, or delete them"
    );
    let reason = reasons::PROVIDER_TERMINATING.into();
    let verdict = Verdict { type_: conditions::READY, status: Some(false), reason, message };
    with(old, old.clone(), generation, verdict, now)
}

fn with(
    old: &ProviderStatus,
    new: ProviderStatus,
    generation: Option<i64>,
    verdict: Verdict,
    now: i64,
) -> ProviderStatus {
    let mut conditions = old.conditions.clone();
    conditions::set(&mut conditions, verdict, generation, seconds(now));
    ProviderStatus { conditions, observed_generation: generation, ..new }
}

/// Returns the milliseconds until the check after one with this `answer`; `jitter` spreads them by up to a quarter. If a signing
/// secret or prices have to be mended, it is soon, unless the account is to be left alone for longer.
pub fn next_look(answer: &Answer, is_broken: bool, jitter: u8) -> i64 {
    let pause = match answer {
        Answer::Busy(_) | Answer::Failed(_) => AWAY_LOOK,
        _ if is_broken => MENDED_LOOK,
        Answer::Probed(_) | Answer::Untried { .. } | Answer::Still => READY_LOOK,
        Answer::Missing(_) => MENDED_LOOK,
    };
    pause + pause * i64::from(jitter) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Capability::{DeleteFiles, ListBatches};

    const LIMITS: EffectiveLimits = EffectiveLimits {
        max_batches_in_flight: None,
        max_enqueued_requests: None,
        max_requests_per_batch: 1,
        max_bytes_per_batch: 1,
        max_inputs_per_batch: 1,
    };
    const BOTH: ProviderCapabilities = ProviderCapabilities::of(&[ListBatches, DeleteFiles]);

    fn look(old: &ProviderStatus, generation: i64, secret: Option<&str>, answer: Answer, now: i64) -> ProviderStatus {
        let secret_version = secret.map(String::from);
        let is_known = !is_to_be_probed(old, Some(generation), secret, None);
        let looked = ProviderCheck {
            generation: Some(generation),
            secret_version,
            is_known,
            limits: LIMITS,
            answer,
            webhook: None,
            prices: None,
        };
        looked_at(old, looked, UnknownSubmissionPolicy::Resolve, now)
    }

    fn ready(status: &ProviderStatus) -> (&str, &str, &str) {
        let c = &status.conditions[0];
        (&c.status, &c.reason, &c.message)
    }

    #[test]
    fn an_account_is_tried_out_when_its_spec_or_its_secret_changes_and_only_then() {
        let fresh = ProviderStatus::default();
        assert!(is_to_be_probed(&fresh, Some(1), Some("7"), None));
        let probed = look(&fresh, 1, Some("7"), Answer::Probed(BOTH), 0);
        assert!(!is_to_be_probed(&probed, Some(1), Some("7"), None));
        assert!(is_to_be_probed(&probed, Some(2), Some("7"), None));
        assert!(is_to_be_probed(&probed, Some(1), Some("8"), None));
        assert!(is_to_be_probed(&probed, Some(1), None, None));
        let blocked = |reason| Answer::Failed(Blocked { reason, message: "m".into() });
        let away = look(&probed, 1, Some("7"), blocked(reasons::PROVIDER_UNREACHABLE), 0);
        assert_eq!((ready(&away).0, away.capabilities), ("False", Some(BOTH)), "what it can do is not forgotten");
        assert!(!is_to_be_probed(&away, Some(1), Some("7"), None));
        let refused = look(&probed, 1, Some("8"), blocked(reasons::CREDENTIALS_REJECTED), 0);
        assert_eq!(refused.capabilities, None, "another account may do less");
        assert!(is_to_be_probed(&refused, Some(1), Some("8"), None));
        let none = look(&probed, 1, None, blocked(reasons::SECRET_NOT_FOUND), 0);
        assert_eq!(none.limits, Some(LIMITS), "limits apply whatever it answers");
        assert!(is_to_be_probed(&none, Some(1), Some("7"), None));
    }

    #[test]
    fn two_installs_with_secrets_of_their_own_probe_a_shared_account_once_each() {
        let own = |version: &str| OwnProbe { generation: Some(1), secret_version: Some(version.into()) };
        let one = look(&ProviderStatus::default(), 1, Some("7"), Answer::Probed(BOTH), 0);
        assert!(is_to_be_probed(&one, Some(1), Some("9"), None), "another install");
        let other = look(&one, 1, Some("9"), Answer::Probed(BOTH), 0);
        assert!(is_to_be_probed(&other, Some(1), Some("7"), None));
        assert!(!is_to_be_probed(&other, Some(1), Some("7"), Some(&own("7"))));
        let looked = ProviderCheck {
            generation: Some(1),
            secret_version: Some("7".into()),
            is_known: true,
            limits: LIMITS,
            answer: Answer::Still,
            webhook: None,
            prices: None,
        };
        assert_eq!(looked_at(&other, looked, UnknownSubmissionPolicy::Resolve, 900_000), other, "nothing is written");
        // A change is tried out by each operator that sees it.
        assert!(is_to_be_probed(&other, Some(1), Some("8"), Some(&own("7"))));
        assert!(is_to_be_probed(&other, Some(2), Some("7"), Some(&own("7"))));
        let can = ProviderCapabilities::of(&[ListBatches]);
        let untried = Answer::Untried { can, why: "no model".into(), retryable: true };
        assert!(is_to_be_probed(&look(&one, 1, Some("9"), untried, 0), Some(1), Some("7"), Some(&own("7"))));
    }

    #[test]
    fn an_unchanged_look_says_nothing_new() {
        let probed = look(&ProviderStatus::default(), 1, Some("7"), Answer::Probed(BOTH), 1_000);
        assert_eq!(look(&probed, 1, Some("7"), Answer::Still, 900_000), probed);
        let kept = kept_by(&probed, Some(2), &["a".into()], 1, 1_000);
        assert_eq!(kept_by(&kept, Some(2), &["a".into()], 1, 900_000), kept);
    }

    #[test]
    fn what_becomes_of_lost_replies_is_said() {
        let said = |can, policy| {
            let answer = Answer::Probed(can);
            let looked = ProviderCheck {
                generation: None,
                secret_version: None,
                is_known: false,
                limits: LIMITS,
                answer,
                webhook: None,
                prices: None,
            };
            ready(&looked_at(&ProviderStatus::default(), looked, policy, 0)).2.to_string()
        };
        assert!(said(BOTH, UnknownSubmissionPolicy::Resolve).contains("revoked and sent again"));
        assert!(said(BOTH, UnknownSubmissionPolicy::Hold).contains("held: `spec.unknownSubmissionPolicy`"));
        for (only, words) in [(DeleteFiles, "list batches"), (ListBatches, "deleted files")] {
            let said = said(ProviderCapabilities::of(&[only]), UnknownSubmissionPolicy::Resolve);
            assert!(said.contains("held: the provider") && said.contains(words), "{said}");
        }
    }

    #[test]
    fn an_account_that_cannot_be_tried_out_is_ready_and_says_what_that_means() {
        let can = ProviderCapabilities::of(&[ListBatches]);
        let untried = |retryable| Answer::Untried { can, why: "Line 1: no model (403)".into(), retryable };
        for (retryable, secret) in [(true, Some("7")), (true, None), (false, Some("7")), (false, None)] {
            let status = look(&ProviderStatus::default(), 1, secret, untried(retryable), 0);
            let (ready, _, message) = ready(&status);
            assert!(ready == "True" && message.contains("is held") && message.contains("no model (403)"), "{message}");
            assert_eq!(status.capabilities, Some(can));
            assert_eq!(is_to_be_probed(&status, Some(1), secret, None), retryable, "what may pass is tried out again");
        }
    }

    #[test]
    fn a_terminating_provider_names_a_few_of_the_jobs_that_keep_it() {
        let names: Vec<String> = (0..7).map(|i| format!("j{i}")).collect();
        let status = kept_by(&ProviderStatus::default(), Some(2), &names, 7, 0);
        let (status, reason, message) = ready(&status);
        assert_eq!((status, reason), ("False", "ProviderTerminating"));
        assert!(message.contains("j0, j1, j2, j3, j4 and 2 more") && !message.contains("j5"), "{message}");
    }

    fn look_at_webhook(old: &ProviderStatus, webhook: WebhookCheck) -> ProviderStatus {
        let (answer, webhook) = (Answer::Still, Some(webhook));
        let looked = ProviderCheck {
            generation: Some(1),
            secret_version: None,
            is_known: true,
            limits: LIMITS,
            answer,
            webhook,
            prices: None,
        };
        looked_at(old, looked, UnknownSubmissionPolicy::Resolve, 0)
    }

    fn webhook(status: &ProviderStatus) -> (&str, &str) {
        let condition = status.conditions.iter().find(|c| c.type_ == conditions::WEBHOOK_READY).unwrap();
        (&condition.status, &condition.reason)
    }

    #[test]
    fn a_webhook_has_its_path_in_status_and_says_whether_events_are_taken_and_what_to_do_if_not() {
        let refused = |reason| Some(Err(Blocked { reason, message: "m".into() }));
        let mut status = look(&ProviderStatus::default(), 1, None, Answer::Probed(BOTH), 0);
        for (served, said) in [
            (Some(Ok(())), ("True", "Listening")),
            (None, ("False", "WebhooksDisabled")),
            (refused(reasons::SECRET_NOT_FOUND), ("False", "SecretNotFound")),
            (refused(reasons::SIGNING_SECRET_INVALID), ("False", "SigningSecretInvalid")),
        ] {
            let check = WebhookCheck { path: "/hooks/u".into(), is_shared: false, served };
            assert_eq!(
                next_look(&Answer::Still, check.is_broken(), 0) == MENDED_LOOK,
                matches!(check.served, Some(Err(_)))
            );
            status = look_at_webhook(&status, check);
            assert_eq!((status.webhook_path.as_deref(), webhook(&status)), (Some("/hooks/u"), said));
            assert_eq!((ready(&status).0, status.conditions.len()), ("True", 2), "the account itself is ready");
        }
        let gone = look(&status, 1, None, Answer::Still, 0);
        assert_eq!((gone.webhook_path, gone.conditions.len()), (None, 1));
    }

    #[test]
    fn of_two_installs_that_share_an_account_the_one_that_serves_its_webhook_says_so_and_the_other_writes_nothing() {
        let check = |served| WebhookCheck { path: "/hooks/u".into(), is_shared: true, served };
        let probed = look(&ProviderStatus::default(), 1, None, Answer::Probed(BOTH), 0);
        let disabled = look_at_webhook(&probed, check(None));
        assert_eq!(webhook(&disabled), ("False", "WebhooksDisabled"), "nobody has served it yet");
        let served = look_at_webhook(&disabled, check(Some(Ok(()))));
        assert_eq!(webhook(&served), ("True", "Listening"));
        assert_eq!(look_at_webhook(&served, check(None)), served);
        let without_secret =
            || check(Some(Err(Blocked { reason: reasons::SECRET_NOT_FOUND, message: "Secret 'hook'".into() })));
        assert_eq!(look_at_webhook(&served, without_secret()), served);
        assert!(!without_secret().is_left_to_others(&served, Some(2)), "a new spec is judged anew");
        assert_eq!(webhook(&look_at_webhook(&disabled, without_secret())), ("False", "SecretNotFound"));
        let alone = WebhookCheck { is_shared: false, ..without_secret() };
        assert_eq!(webhook(&look_at_webhook(&served, alone)), ("False", "SecretNotFound"), "nobody else serves it");
    }

    fn look_at_prices(old: &ProviderStatus, generation: i64, prices: Option<PricesCheck>) -> ProviderStatus {
        let looked = ProviderCheck {
            generation: Some(generation),
            secret_version: None,
            is_known: true,
            limits: LIMITS,
            answer: Answer::Still,
            webhook: None,
            prices,
        };
        looked_at(old, looked, UnknownSubmissionPolicy::Resolve, 0)
    }

    fn prices_of(status: &ProviderStatus) -> Option<(&str, &str, &str)> {
        let condition = status.conditions.iter().find(|c| c.type_ == conditions::PRICES_READY)?;
        Some((&condition.status, &condition.reason, &condition.message))
    }

    #[test]
    fn prices_that_are_not_used_are_told_in_a_condition_of_their_own_and_the_account_stays_ready() {
        let probed = look(&ProviderStatus::default(), 1, None, Answer::Probed(BOTH), 0);
        let good = PricesCheck {
            from: "ConfigMap prices (resourceVersion 812)".into(),
            models: 3,
            fault: None,
            is_reported: false,
        };
        let status = look_at_prices(&probed, 1, Some(good.clone()));
        let told = ("True", "PricesRead", "3 names of models have prices, from ConfigMap prices (resourceVersion 812)");
        assert_eq!((prices_of(&status), ready(&status).0), (Some(told), "True"));
        assert_eq!((status.prices_from.as_deref(), status.priced_models), (Some(good.from.as_str()), Some(3)));
        let fault = Blocked { reason: reasons::PRICES_INVALID, message: "`models[1]` ('m') has no `prices`".into() };
        let broken = PricesCheck { from: String::new(), models: 0, fault: Some(fault), is_reported: false };
        assert_eq!(next_look(&Answer::Still, broken.is_broken(), 0), MENDED_LOOK);
        let status = look_at_prices(&status, 1, Some(broken));
        let told = "`models[1]` ('m') has no `prices`; meanwhile, no model has prices, so that jobs have no cost";
        assert_eq!((prices_of(&status), ready(&status).0), (Some(("False", "PricesInvalid", told)), "True"));
        assert_eq!((status.prices_from.as_deref(), status.priced_models), (None, Some(0)));
        let without = look_at_prices(&status, 2, None);
        assert_eq!((prices_of(&without), without.priced_models), (None, None));
    }

    #[test]
    fn of_two_installs_with_tables_of_their_own_neither_overwrites_the_other_for_ever() {
        let probed = look(&ProviderStatus::default(), 1, None, Answer::Probed(BOTH), 0);
        let table = |version: &str, is_reported| {
            let from = format!("ConfigMap prices (resourceVersion {version})");
            Some(PricesCheck { from, models: 3, fault: None, is_reported })
        };
        let one = look_at_prices(&probed, 1, table("1", false));
        let other = look_at_prices(&one, 1, table("2", false));
        assert_ne!(one, other);
        assert_eq!(look_at_prices(&other, 1, table("1", true)), other, "nothing is written");
        let news = look_at_prices(&other, 1, table("3", false));
        assert!(news.prices_from.as_ref().is_some_and(|from| from.contains('3')), "a changed table is told");
        let anew = look_at_prices(&other, 2, table("1", true));
        assert!(anew.prices_from.as_ref().is_some_and(|from| from.contains('1')), "and so is a changed object");
    }

    #[test]
    fn what_may_be_mended_is_looked_at_sooner() {
        let blocked = |reason| Blocked { reason, message: String::new() };
        let away = Answer::Failed(blocked(reasons::PROVIDER_UNREACHABLE));
        assert_eq!(next_look(&Answer::Probed(BOTH), false, 0), READY_LOOK);
        assert_eq!(next_look(&Answer::Missing(blocked(reasons::SECRET_NOT_FOUND)), false, 0), MENDED_LOOK);
        assert_eq!(next_look(&away, false, 0), AWAY_LOOK);
        assert!(next_look(&away, false, 255) < AWAY_LOOK * 5 / 4);
        let served = Some(Err(blocked(reasons::SECRET_NOT_FOUND)));
        let broken = WebhookCheck { path: "/hooks/u".into(), is_shared: false, served };
        assert_eq!(next_look(&Answer::Still, broken.is_broken(), 0), MENDED_LOOK);
        for busy in [away, Answer::Busy("429".into())] {
            assert_eq!(
                next_look(&busy, broken.is_broken(), 0),
                AWAY_LOOK,
                "an account that is away is not asked more often"
            );
        }
    }
}
