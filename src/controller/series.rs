//! The series of metrics that have names of namespaces and provider objects: what is under way, and their end when these are gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

use super::Context;
use super::provider::ProviderKey;
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
    let providers = ctx.providers.by_uid();
    let in_flight = ctx.accounts.in_flight().into_iter();
    // A status can name any uid.
    let known = in_flight.filter_map(|((uid, namespace), load)| {
        let provider = providers.get(&uid)?.to_string();
        let batches = u64::try_from(load.batches).unwrap_or(u64::MAX);
        Some(ProviderLoad { namespace, provider, batches, requests: load.requests, tokens: load.tokens() })
    });
    known.collect()
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
