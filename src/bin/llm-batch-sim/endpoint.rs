//! The endpoints a batch can be for.

use serde::Serialize;

/// What every request of a batch is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Endpoint {
    /// Chat completions.
    #[serde(rename = "/v1/chat/completions")]
    Chat,
    /// Responses.
    #[serde(rename = "/v1/responses")]
    Responses,
    /// Embeddings.
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
    /// Completions of a prompt.
    #[serde(rename = "/v1/completions")]
    Completions,
    /// Moderations.
    #[serde(rename = "/v1/moderations")]
    Moderations,
}

impl Endpoint {
    /// Every endpoint there is.
    pub const ALL: [Self; 5] = [Self::Chat, Self::Responses, Self::Embeddings, Self::Completions, Self::Moderations];

    /// The endpoint of a path.
    pub fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// The path as it stands in a batch and in each of its lines.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Embeddings => "/v1/embeddings",
            Self::Completions => "/v1/completions",
            Self::Moderations => "/v1/moderations",
        }
    }
}
