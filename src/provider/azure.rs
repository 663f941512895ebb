//! Azure OpenAI: OpenAI's files and batches under `/openai`, with a header for the key and deployments for models.
//!
//! Paths, limits, states and codes: https://learn.microsoft.com/azure/ai-services/openai/how-to/batch and the REST reference of
//! batches, https://learn.microsoft.com/rest/api/azureopenai/batch.

use reqwest::Url;

use super::dialect::{Credential, Dialect};
use super::{ErrorKind, Limits, openai};
use crate::api::{Capabilities, Endpoint, PayloadKind, Recovery, Revocation};

/// Azure OpenAI's dialect. `body.model` of a request is the name of a deployment of type Global Batch or Data Zone Batch.
pub(super) const AZURE_OPENAI: Dialect = Dialect {
    credential: Credential::Header("api-key"),
    root,
    is_vendors_own,
    line,
    // Azure takes the API from the lines, but requires this value in the request for a batch.
    endpoint: |_| CHAT,
    codes: CODES,
    processes_files: true,
    limits: Limits { requests: 100_000, bytes: 200_000_000, inputs: 50_000, window_seconds: 86_400 },
    // https://learn.microsoft.com/azure/foundry/openai/how-to/batch: 50% less than global standard.
    batch_discount_percent: 50,
    capabilities: Capabilities {
        payload: PayloadKind::File,
        recovery: Recovery::Metadata,
        revocation: Revocation::DeletedPayload,
    },
};

/// Version of the API for roots without a version in their path: the first generally available one with batches.
const API_VERSION: &str = "2024-10-21";
/// The path of chat completions in a line.
const CHAT: &str = "/chat/completions";

/// Azure's own error codes.
const CODES: &[(&str, ErrorKind)] = &[
    // Reply to an upload, with status 400: "The quota for files without expiry is reached." Files expire after 30 days at the
    // latest.
    ("quotaExceeded", ErrorKind::Capacity),
];

/// Hosts of Azure OpenAI resources: https://learn.microsoft.com/azure/ai-services/cognitive-services-custom-subdomains.
const HOSTS: [&str; 3] = [".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"];

/// Returns the root for `https://RESOURCE.openai.azure.com`, for the same with `/openai/v1`, or for a path without a version,
/// such as `/openai`, which needs the version in the query.
fn root(mut url: Url) -> Url {
    match url.path().trim_end_matches('/') {
        "" => url.set_path("/openai/v1"),
        path if path.ends_with("/v1") => {}
        _ => _ = url.query_pairs_mut().append_pair("api-version", API_VERSION),
    }
    url
}

fn is_vendors_own(url: &Url) -> bool {
    url.scheme() == "https" && url.host_str().is_some_and(|host| HOSTS.iter().any(|of| host.ends_with(of)))
}

fn line(endpoint: Endpoint) -> Option<[String; 3]> {
    match endpoint {
        Endpoint::ChatCompletions => Some(openai::line(CHAT)),
        Endpoint::Responses => Some(openai::line("/v1/responses")),
        Endpoint::Embeddings | Endpoint::Completions | Endpoint::Moderations => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_a_resource_or_the_root_of_its_api() {
        for (base, wanted) in [
            ("https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1"),
            ("https://r.openai.azure.com/", "https://r.openai.azure.com/openai/v1"),
            ("https://r.openai.azure.com/openai/v1", "https://r.openai.azure.com/openai/v1"),
            ("https://r.services.ai.azure.com/openai/v1/", "https://r.services.ai.azure.com/openai/v1/"),
            ("https://r.openai.azure.com/openai", "https://r.openai.azure.com/openai?api-version=2024-10-21"),
            ("https://gw.example/team-a/openai", "https://gw.example/team-a/openai?api-version=2024-10-21"),
        ] {
            assert_eq!(root(base.parse().unwrap()).as_str(), wanted, "{base}");
        }
    }

    #[test]
    fn a_refusal_counts_from_azures_own_hosts_only() {
        let of = |url| AZURE_OPENAI.is_vendors_own(url);
        assert!(of("https://r.openai.azure.com/openai/v1") && of("https://r.services.ai.azure.com"));
        for url in ["http://r.openai.azure.com", "https://openai.azure.com.example/v1", "https://gw.example/openai", ""]
        {
            assert!(!of(url), "{url}");
        }
    }
}
