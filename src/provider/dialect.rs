//! What differs between the vendors that take batches, as data and small functions; one file a vendor.

use reqwest::Url;

use super::{ErrorKind, Limits, azure, openai};
use crate::api::{Capabilities, Endpoint, ProviderType};

/// How a vendor spells the API of files and batches: all that the rest of the operator has to know of a vendor and does not ask
/// it. A new vendor is a constant of this type in a file of its own, and a line in [`Dialect::of`].
#[derive(Debug)]
pub struct Dialect {
    /// How calls carry the credential of the account.
    pub credential: Credential,
    /// The root of the API that `spec.baseURL` names, with the query that every call has.
    pub root: fn(Url) -> Url,
    /// Whether a host is the vendor's own, so that no gateway of somebody else stands in front and a refusal is the vendor's word.
    pub is_vendors_own: fn(&Url) -> bool,
    /// The line of a request as it is uploaded: what stands before its id, between id and body, and behind the body. None where
    /// the vendor has no batches of this endpoint.
    pub line: fn(Endpoint) -> Option<[String; 3]>,
    /// The endpoint as a batch is asked for with it.
    pub endpoint: fn(Endpoint) -> &'static str,
    /// Codes of errors that mean something else than their status code says, and codes of failed batches, beside OpenAI's.
    pub codes: &'static [(&'static str, ErrorKind)],
    /// Whether an uploaded file is looked into before a batch can be made of it, so that its upload ends only then.
    pub processes_files: bool,
    /// What one batch may hold, as the vendor documents it, and the usual window. The figures are part of every plan: another one
    /// would cut an input into other batches.
    pub limits: Limits,
    /// What the API can do, as far as submitting depends on it.
    pub capabilities: Capabilities,
}

/// How calls carry a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// As a bearer token in `Authorization`.
    Bearer,
    /// As the value of this header.
    Header(&'static str),
}

impl Dialect {
    /// The dialect of a provider's type.
    pub fn of(type_: ProviderType) -> &'static Dialect {
        match type_ {
            ProviderType::OpenAI => &openai::OPENAI,
            ProviderType::OpenAICompatible => &openai::COMPATIBLE,
            ProviderType::AzureOpenAI => &azure::AZURE_OPENAI,
        }
    }

    /// The same of a `spec.baseURL`; a URL that cannot be parsed is nobody's.
    pub fn is_vendors_own(&self, base_url: &str) -> bool {
        Url::parse(base_url).is_ok_and(|url| (self.is_vendors_own)(&url))
    }

    /// What a code of an error means where its status code does not say it.
    pub(super) fn class_of(&self, code: &str) -> Option<ErrorKind> {
        self.codes.iter().find(|(known, _)| *known == code).map(|(_, kind)| *kind)
    }
}
