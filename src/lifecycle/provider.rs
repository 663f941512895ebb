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
mod tests;
