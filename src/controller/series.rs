//! The series of metrics that have names of namespaces and provider objects: what is under way, and their end when these are gone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

use super::Context;
use super::provider::ProviderKey;
use crate::api::{BatchJob, conditions};
use crate::telemetry::{Names, ProviderLoad};

/// Time between two looks for names that are gone.
const PERIOD: Duration = Duration::from_secs(60);

/// The names of objects that the watches know.
#[derive(Debug, Default)]
struct Known {
    /// Namespaces with BatchJobs.
    namespaces: HashSet<String>,
    /// Provider objects: their namespaces, empty if they have none, and their kinds and names.
    providers: HashSet<(String, String)>,
}

impl Known {
    fn of(ctx: &Context) -> Known {
        let jobs = ctx.jobs.watched_in(None);
        let names = |object: ProviderKey| (object.namespace.clone().unwrap_or_default(), object.to_string());
        Known {
            namespaces: jobs.filter_map(|job| job.namespace()).collect(),
            providers: ctx.providers.by_uid().into_values().map(names).collect(),
        }
    }

    fn has(&self, Names { namespace, provider, .. }: &Names) -> bool {
        self.namespaces.contains(namespace)
            && (self.has_provider(namespace, provider) || self.has_provider("", provider))
    }

    fn has_provider(&self, namespace: &str, provider: &str) -> bool {
        self.providers.contains(&(namespace.to_string(), provider.to_string()))
    }
}

/// Has metrics count on each scrape what is under way at providers.
pub(super) fn count_loads(ctx: &Arc<Context>) {
    // Metrics are part of the context.
    let of = Arc::downgrade(ctx);
    ctx.metrics.count_loads(move || of.upgrade().map(|ctx| loads(&ctx)).unwrap_or_default());
}

fn loads(ctx: &Context) -> Vec<ProviderLoad> {
    let (providers, now) = (ctx.providers.by_uid(), ctx.clock.now());
    let mut loads: BTreeMap<(String, String), ProviderLoad> = BTreeMap::new();
    let mut of = |namespace: String, provider: String, more: ProviderLoad| {
        let load = loads.entry((namespace.clone(), provider.clone()));
        load.or_insert_with(|| ProviderLoad { namespace, provider, ..ProviderLoad::default() }).add(&more);
    };
    for ((uid, namespace), load) in ctx.accounts.in_flight() {
        // A status can name any uid.
        let Some(provider) = providers.get(&uid) else { continue };
        let batches = u64::try_from(load.batches).unwrap_or(u64::MAX);
        let (requests, tokens) = (load.requests, load.tokens());
        let load = ProviderLoad { batches, requests, tokens, ..ProviderLoad::default() };
        of(namespace, provider.to_string(), load);
    }
    for job in ctx.jobs.watched_in(None) {
        let Some(seconds_without_progress) = seconds_without_progress(&job, now) else { continue };
        let namespace = job.namespace().unwrap_or_default();
        let provider = ProviderKey::referred_to(&job.spec.provider_ref, &namespace).to_string();
        of(namespace, provider, ProviderLoad { seconds_without_progress, ..ProviderLoad::default() });
    }
    loads.into_values().collect()
}

/// Returns the seconds since the last progress of a job whose batches run; None if none does.
fn seconds_without_progress(job: &BatchJob, now: i64) -> Option<u64> {
    let status = job.status.as_ref().filter(|status| status.outcome.is_none())?;
    conditions::status_of(&status.conditions, conditions::PROGRESSING)?;
    let last = status.last_progress_time.as_ref()?.0.as_millisecond();
    Some(u64::try_from(now.saturating_sub(last) / 1_000).unwrap_or_default())
}

/// Looks for names that are gone, until the operator stops.
pub(super) async fn end_unknown(ctx: &Context) {
    let mut looks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = ctx.stop.cancelled() => return,
        }
        let known = Known::of(ctx);
        ctx.metrics
            .drop_unknown(|names| known.has(names), |namespace, provider| known.has_provider(namespace, provider));
    }
}
