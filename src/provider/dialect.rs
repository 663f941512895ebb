//! The differences between vendors of batch APIs, as data and small functions; a file for each vendor.

use reqwest::Url;

use super::{ErrorKind, Limits, azure, openai};
use crate::api::{Capabilities, Endpoint, ProviderType};

/// A vendor's form of the API of files and batches: everything that the operator has to know of a vendor without asking it. A
/// new vendor is a constant of this type in a file of its own, and a line in [`Dialect::of`].
#[derive(Debug)]
pub struct Dialect {
    /// The place of the account's credential in a call.
    pub credential: Credential,
    /// Returns the root of the API for `spec.baseURL`, with the query that every call has.
    pub root: fn(Url) -> Url,
    /// Returns whether a host is the vendor's own. Then no gateway is in front of it, and a refusal is the vendor's word.
    pub is_vendors_own: fn(&Url) -> bool,
    /// Returns the parts of an uploaded line: before the request's id, between id and body, and after the body. None if the
    /// vendor has no batches of this endpoint.
    pub line: fn(Endpoint) -> Option<[String; 3]>,
    /// Returns the endpoint as the request for a batch names it.
    pub endpoint: fn(Endpoint) -> &'static str,
    /// Codes of errors whose kind differs from that of their status code, and codes of failed batches, in addition to OpenAI's.
    pub codes: &'static [(&'static str, ErrorKind)],
    /// Whether the vendor processes an uploaded file before a batch can be made of it. The upload then waits for that.
    pub processes_files: bool,
    /// The documented limits of one batch, and the default window. Every plan depends on the figures: with others, an input
    /// would be cut into other batches.
    pub limits: Limits,
    /// Percent by which batches are cheaper than single calls, as the vendor documents it; 0 where nobody does.
    pub batch_discount_percent: i32,
    /// The capabilities of the API that the submission protocol depends on.
    pub capabilities: Capabilities,
}

/// The place of a credential in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A bearer token in `Authorization`.
    Bearer,
    /// The value of this header.
    Header(&'static str),
}

impl Dialect {
    /// Returns the dialect of a provider's type.
    pub fn of(type_: ProviderType) -> &'static Dialect {
        match type_ {
            ProviderType::OpenAI => &openai::OPENAI,
            ProviderType::OpenAICompatible => &openai::COMPATIBLE,
            ProviderType::AzureOpenAI => &azure::AZURE_OPENAI,
        }
    }

    /// Returns whether the host of a `spec.baseURL` is the vendor's own; false for a URL that cannot be parsed.
    pub fn is_vendors_own(&self, base_url: &str) -> bool {
        Url::parse(base_url).is_ok_and(|url| (self.is_vendors_own)(&url))
    }

    /// Returns the kind of an error by its code, if the code is one of the vendor's own.
    pub(super) fn class_of(&self, code: &str) -> Option<ErrorKind> {
        self.codes.iter().find(|(known, _)| *known == code).map(|(_, kind)| *kind)
    }
}
