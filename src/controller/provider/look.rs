//! Checks an account: that it exists, accepts the credential, and which capabilities it has.

use std::time::Duration;

use kube::ResourceExt;

use super::account::{Access, access, client, fingerprint, full_name, key_of};
use super::{Provider, prices, webhook};
use crate::account::Account;
use crate::api::conditions::reasons;
use crate::api::{Endpoint, ProviderStatus};
use crate::controller::Context;
use crate::controller::runtime::error::StepError;
use crate::controller::runtime::ownership;
use crate::fair::{Claim, Urgency};
use crate::lifecycle::{
    Answer, Blocked, OwnProbe, PricesCheck, ProviderCheck, WebhookCheck, is_to_be_probed, looked_at, next_look,
};
use crate::provider::{self, ApiError, BatchApi, Dialect, ErrorKind, Probe, Trial};

/// Longest time that a trial of an account may take, which uploads a file.
const A_TRIAL: Duration = Duration::from_secs(300);
/// Longest time that a check may take of an account that was tried out.
const A_LOOK: Duration = Duration::from_secs(90);

/// Returns the status that a look at the account gives, and the milliseconds until the next one. An account that was tried out
/// is only asked if it still answers.
pub(super) async fn look<P: Provider>(
    ctx: &Context,
    provider: &P,
    old: &ProviderStatus,
) -> Result<(ProviderStatus, i64), StepError> {
    let generation = provider.meta().generation;
    let name = full_name(P::KIND, &provider.name_any());
    // Looks are rare, and a person who asks for one may have replaced the Secret a moment ago.
    let since = ctx.clock.now();
    // First: the account may take minutes to answer.
    let webhook = webhook::look(ctx, provider).await?;
    let prices = prices::look(ctx, provider).await?;
    let uid = provider.uid().unwrap_or_default();
    let (secret_version, is_known, answer) =
        match access(ctx, provider.account(), provider.secrets_in(ctx), &name, since).await {
            Ok(Access { key, version, transport }) => {
                let probe = is_to_be_probed(old, generation, version.as_deref(), ctx.probes.of(&uid).as_ref());
                ctx.metrics.provider_look(if probe { "probe" } else { "read" });
                let account = provider.account();
                let fingerprint = fingerprint(key.as_ref(), account.base_url());
                let calls = ctx.accounts.get(&key_of(provider, fingerprint));
                let answer = match client(P::KIND, (account.type_, account.base_url()), key, &transport) {
                    Ok(api) => ask(ctx, provider, (&calls, &calls.client(api, "")), probe).await,
                    Err(e) => failed(provider, e),
                };
                if matches!(answer, Answer::Probed(_) | Answer::Untried { retryable: false, .. }) {
                    let probe = OwnProbe { generation, secret_version: version.clone() };
                    ctx.probes.note(&uid, provider.namespace().as_deref(), probe);
                }
                (version, !probe, answer)
            }
            Err(missing) => (None, !is_to_be_probed(old, generation, None, None), Answer::Missing(missing.blocked()?)),
        };
    let account = provider.account();
    let limits = Dialect::of(account.type_).limits.effective(account.limits);
    let own_webhook = webhook.as_ref().filter(|webhook| !webhook.is_left_to_others(old, generation));
    let is_broken =
        own_webhook.is_some_and(WebhookCheck::is_broken) || prices.as_ref().is_some_and(PricesCheck::is_broken);
    let pause = next_look(&answer, is_broken, ctx.clock.jitter());
    let looked = ProviderCheck { generation, secret_version, is_known, limits, answer, webhook, prices };
    Ok((looked_at(old, looked, account.unknown_submission_policy, ctx.clock.now()), pause))
}

/// Asks the account, in its turn among the looks of all providers, of which those of one namespace take few places, and among
/// the calls of the account itself.
async fn ask<P: Provider>(ctx: &Context, provider: &P, (calls, api): (&Account, &dyn BatchApi), probe: bool) -> Answer {
    if calls.pace().pause().is_some_and(|left| left > A_LOOK) {
        return Answer::Busy("it asked for a pause of all calls of its account".into());
    }
    let namespace = provider.namespace().unwrap_or_default();
    let _share = ctx.looks.take(Claim { namespace, size: 1, ..Claim::default() }).await;
    let deadline = if probe { A_TRIAL } else { A_LOOK };
    let asked = async { Ok::<_, ApiError>(answer(ctx, provider, api, probe).await) };
    // No job has an empty namespace, so the look has a turn of its own.
    let asked = calls.call("", Urgency::Usual, deadline, asked).await;
    asked.unwrap_or_else(|error| failed(provider, error))
}

async fn answer<P: Provider>(ctx: &Context, provider: &P, api: &dyn BatchApi, probe: bool) -> Answer {
    let answer = match probe {
        true => {
            let trial = Trial {
                file_name: &ownership::probe(&ctx.cluster),
                endpoint: Endpoint::ChatCompletions,
                models: &provider.account().allowed_models,
                timeout: ctx.timing.post_timeout(),
            };
            provider::probe(api, &trial).await.map(probed)
        }
        false => provider::look(api).await.map(|()| Answer::Still),
    };
    answer.unwrap_or_else(|error| failed(provider, error))
}

fn probed(probe: Probe) -> Answer {
    match probe.untried {
        None => Answer::Probed(probe.can),
        Some(error) => Answer::Untried { can: probe.can, retryable: !error.is_permanent(), why: error.message },
    }
}

/// Returns the answer for a call that failed: its meaning, and the remedy.
fn failed<P: Provider>(provider: &P, error: ApiError) -> Answer {
    let account = provider.account();
    let (url, said) = (account.base_url(), error.message);
    let (reason, message) = match error.kind {
        ErrorKind::Capacity | ErrorKind::TokenLimit => return Answer::Busy(said),
        ErrorKind::Auth => {
            let secret = account.auth.as_ref().map(|a| &a.secret_key_ref);
            let advice = match secret {
                Some(reference) => format!("put another key into '{}' of Secret '{}'", reference.key, reference.name),
                None => "name the Secret that holds the key in `spec.auth`".into(),
            };
            (reasons::CREDENTIALS_REJECTED, format!("{url} refuses the credential: {said}; {advice}"))
        }
        ErrorKind::NotSent => {
            let advice = "check `spec.baseURL`, and that the operator's NetworkPolicy lets it out";
            (reasons::PROVIDER_UNREACHABLE, format!("{url}: {said}; {advice}"))
        }
        ErrorKind::Redirected => (reasons::PROVIDER_REDIRECTS, format!("{url}: {said}")),
        ErrorKind::NotAllowed => (reasons::HOST_NOT_ALLOWED, format!("{url}: {said}")),
        ErrorKind::NotFound | ErrorKind::FileNotFound | ErrorKind::Unsupported => {
            let advice = "`spec.baseURL` is the root of the API, such as https://gateway.example/v1";
            (reasons::NO_BATCH_API, format!("there is no batch API at {url}: {said}; {advice}"))
        }
        ErrorKind::InvalidInput => (reasons::PROVIDER_REJECTED, format!("{url} takes no files for batches: {said}")),
        ErrorKind::Transient => (reasons::PROVIDER_UNAVAILABLE, format!("{url}: {said}; it is asked again")),
    };
    Answer::Failed(Blocked { reason, message })
}
