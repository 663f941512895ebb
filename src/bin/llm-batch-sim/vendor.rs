//! Which vendor is played: OpenAI below `/v1`, Azure OpenAI below `/openai`.

use std::borrow::Cow;
use std::time::Duration;

use crate::endpoint::Endpoint;

/// Whose API a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// OpenAI.
    OpenAi,
    /// Azure OpenAI.
    Azure,
}

/// How long Azure looks into a file before a batch can be made of it.
const PROCESSING: Duration = Duration::from_millis(400);

impl Vendor {
    /// How long a file is looked into after its upload.
    pub fn processing(self) -> Duration {
        match self {
            Self::OpenAi => Duration::ZERO,
            Self::Azure => PROCESSING,
        }
    }

    /// The endpoint that a batch may be asked for with. At Azure the lines say in the end which one it is.
    pub fn endpoint(self, path: &str) -> Option<Endpoint> {
        match self {
            Self::OpenAi => Endpoint::of(path),
            Self::Azure => azure(path),
        }
    }

    /// Paths that a batch can be asked for with, for people.
    pub fn endpoints(self) -> String {
        match self {
            Self::OpenAi => Endpoint::ALL.map(Endpoint::path).join("', '"),
            Self::Azure => "/chat/completions', '/v1/chat/completions', '/v1/responses".to_owned(),
        }
    }

    /// The endpoint of a line's `url`, in a batch of `order`, whose lines before it are for `before`.
    pub fn line(self, url: &str, order: Endpoint, before: Option<Endpoint>) -> Option<Endpoint> {
        let named = self.endpoint(url)?;
        let wanted = match self {
            Self::OpenAi => order,
            Self::Azure => before.unwrap_or(named),
        };
        (named == wanted).then_some(named)
    }

    /// What this vendor calls a flaw of an input file that OpenAI calls `code`.
    pub fn code(self, code: Cow<'static, str>) -> Cow<'static, str> {
        match (self, code.as_ref()) {
            (Self::Azure, "invalid_url") => "url_mismatch".into(),
            (Self::Azure, "mismatched_model") => "model_mismatch".into(),
            _ => code,
        }
    }
}

/// Azure takes the path of chat completions with and without a version, and has no batches of embeddings, of legacy completions
/// or of moderations.
fn azure(path: &str) -> Option<Endpoint> {
    match path {
        "/chat/completions" | "/v1/chat/completions" => Some(Endpoint::Chat),
        "/v1/responses" => Some(Endpoint::Responses),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_for_the_batchs_endpoint_or_at_azure_for_that_of_the_first_line() {
        let of = |vendor: Vendor, url, before| vendor.line(url, Endpoint::Chat, before);
        assert_eq!(of(Vendor::OpenAi, "/v1/chat/completions", None), Some(Endpoint::Chat));
        assert_eq!(of(Vendor::OpenAi, "/chat/completions", None), None);
        assert_eq!(of(Vendor::OpenAi, "/v1/responses", None), None);
        assert_eq!(of(Vendor::Azure, "/chat/completions", None), Some(Endpoint::Chat));
        assert_eq!(of(Vendor::Azure, "/v1/responses", None), Some(Endpoint::Responses));
        assert_eq!(of(Vendor::Azure, "/v1/responses", Some(Endpoint::Chat)), None);
        assert_eq!(of(Vendor::Azure, "/v1/embeddings", None), None);
    }
}
