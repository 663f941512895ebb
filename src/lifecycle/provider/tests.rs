//! Looks at accounts, and the status that follows.

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
