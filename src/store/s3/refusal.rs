//! Refusals of a store, and their remedies.

use http::header::{IF_MATCH, IF_NONE_MATCH, LOCATION};
use http::{Method, StatusCode, response};
use object_store::aws::AwsCredential;
use object_store::client::HttpRequest;
use url::Url;

use crate::api::text::clip;
use crate::store::{StoreCause, StoreError};
use crate::transport::{Redirect, is_list};

/// Length from which a secret is hidden in messages, in bytes. A shorter one might be any word; Amazon's secret keys
/// have 40.
const SHORTEST_SECRET: usize = 8;
/// Longest text that is accepted as a code or region, in bytes.
const WORD_LIMIT: usize = 64;

/// An answer with an object but without its size.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the answer has no Content-Length")]
pub(in crate::store) struct NoContentLength;

impl NoContentLength {
    /// Returns the error for a person, about the object at `place`.
    pub fn explain(self, place: &str) -> StoreError {
        StoreError::Unfit(format!(
            "{place}: the store answers without `Content-Length`, so that nobody can tell how large the object is; a proxy in \
             front of it that compresses or re-chunks answers has to leave them as they are, or use another `endpoint`"
        ))
    }
}

/// A refusal that the same request would get again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.said())]
pub(in crate::store) struct Refusal {
    status: StatusCode,
    /// S3's code, such as `AccessDenied`.
    code: Option<String>,
    message: String,
    region: Option<String>,
    /// Scheme and host of a redirect's target.
    leads_to: Option<String>,
    /// The condition of a conditional write.
    condition: Option<&'static str>,
    is_list: bool,
}

/// The fault that a store's code stands for. The codes are those of
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>, of Alibaba (`SecondLevelDomainForbidden`),
/// Tencent (`PathStyleDomainForbidden`) and Volcano Engine (`InvalidPathAccess`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The key is unknown or expired, or its signature is not accepted.
    Credential,
    /// The key is known, but lacks a permission.
    Permission,
    Addressing,
    Region,
    /// The store does not support the operation.
    Lacking,
    Clock,
    Archived,
    /// The fault may pass.
    Passing,
    /// The request itself is at fault.
    Request,
}

impl Refusal {
    /// Reads a refusal. Only code, message and region are kept, because the rest may contain a credential.
    pub fn read(request: &HttpRequest, head: &response::Parts, body: &[u8], credential: &AwsCredential) -> Refusal {
        let text = String::from_utf8_lossy(body);
        let word = |text: &str| is_word(text).then(|| text.to_string());
        let message = element(&text, "Message").unwrap_or_default();
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let put_if = |name| request.method() == Method::PUT && request.headers().contains_key(name);
        let asked = Url::parse(&request.uri().to_string()).ok();
        let leads_to = asked.and_then(|asked| Redirect::of(&asked, head.status, &head.headers)).map(|to| to.origin);
        let mut refusal = Refusal {
            status: head.status,
            code: element(&text, "Code").and_then(word),
            message: clip(without(message, credential), 256),
            region: None,
            leads_to: leads_to.filter(|_| head.headers.contains_key(LOCATION)),
            condition: [(IF_NONE_MATCH, "If-None-Match"), (IF_MATCH, "If-Match")]
                .into_iter()
                .find_map(|(name, shown)| put_if(name).then_some(shown)),
            is_list: is_list(&request.uri().to_string()),
        };
        let named = header("x-amz-bucket-region").or_else(|| element(&text, "Region")).or_else(|| expected(message));
        // Some stores name their region in every error.
        if refusal.fault() == Fault::Region {
            refusal.region = named.and_then(word);
        }
        refusal
    }

    /// Returns the bucket's region, if the request was refused because it was signed for another one.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    fn fault(&self) -> Fault {
        match self.code.as_deref() {
            Some(
                "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "InvalidAccessKeyId"
                | "InvalidSecurity"
                | "SignatureDoesNotMatch"
                | "AuthorizationQueryParametersError"
                | "Unauthorized",
            ) => Fault::Credential,
            Some("AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "NotSignedUp" | "Forbidden") => {
                Fault::Permission
            }
            Some("SecondLevelDomainForbidden" | "PathStyleDomainForbidden" | "InvalidPathAccess") => Fault::Addressing,
            Some(
                "AuthorizationHeaderMalformed"
                | "PermanentRedirect"
                | "TemporaryRedirect"
                | "Redirect"
                | "IllegalLocationConstraintException"
                | "InvalidRegion"
                | "InvalidRegionName",
            ) => Fault::Region,
            Some("NotImplemented" | "MethodNotAllowed" | "MissingContentLength") => Fault::Lacking,
            Some("RequestTimeTooSkewed" | "RequestExpired") => Fault::Clock,
            Some("InvalidObjectState") => Fault::Archived,
            Some(
                "SlowDown" | "RequestTimeout" | "IncompleteBody" | "BadDigest" | "InternalError" | "ServiceUnavailable"
                | "OperationAborted" | "QuotaExceeded",
            ) => Fault::Passing,
            Some(_) => Fault::Request,
            None => match self.status.as_u16() {
                401 | 403 => Fault::Permission,
                405 | 411 | 501 => Fault::Lacking,
                status if (300..400).contains(&status) => Fault::Region,
                _ => Fault::Request,
            },
        }
    }

    fn said(&self) -> String {
        match (&self.code, self.message.as_str()) {
            (Some(code), "") => code.clone(),
            (Some(code), message) => format!("{code}: {message}"),
            (None, _) => format!("status {}", self.status),
        }
    }

    /// Returns the error for a person, about a request for `place`. Only errors of credentials blame the credentials.
    pub fn explain(&self, place: &str) -> StoreError {
        let said = self.said();
        match self.fault() {
            Fault::Credential => StoreError::Denied(format!(
                "{place}: the store refused the credentials ({said}); check the Secret, and that `endpoint` is the store's own"
            )),
            Fault::Permission if self.is_list => StoreError::Denied(format!(
                "the objects below {place} may not be listed ({said}); give the credentials in the Secret `s3:ListBucket` on \
                 the bucket, or name a single object"
            )),
            Fault::Permission => StoreError::Denied(format!(
                "access to {place} was denied ({said}); check the credentials in the Secret and the bucket's policy"
            )),
            Fault::Addressing => StoreError::Unfit(format!(
                "{place}: the store wants the bucket in the host's name ({said}); set `addressingStyle: VirtualHosted` beside \
                 the `uri`"
            )),
            Fault::Region => StoreError::Unfit(format!("{place}: {}", self.elsewhere())),
            Fault::Lacking => StoreError::Unfit(format!("{place}: {}", self.lacking())),
            Fault::Clock => {
                self.unavailable(format!("{place}: {said}; the clocks of the operator's node and of the store differ"))
            }
            Fault::Archived => {
                StoreError::Rejected(format!("{place}: {said}; restore the object from the archive first"))
            }
            Fault::Passing => self.unavailable(format!("{place}: {said}")),
            Fault::Request => StoreError::Rejected(match self.condition {
                Some(condition) => format!("{place}: {said} (asked for with `{condition}`)"),
                None => format!("{place}: {said}"),
            }),
        }
    }

    fn unavailable(&self, message: String) -> StoreError {
        let source = StoreCause::Response { status: self.status.as_u16(), code: self.code.clone() };
        StoreError::Unavailable(message, Some(source))
    }

    fn elsewhere(&self) -> String {
        let said = self.said();
        match (&self.region, &self.leads_to) {
            (Some(region), _) => {
                format!("the bucket is in another region ({said}); set `region: {region}` beside the `uri`")
            }
            (None, Some(origin)) => {
                format!(
                    "the store leads to {origin} ({said}); redirects are not followed: set `endpoint` to where it leads"
                )
            }
            (None, None) => format!(
                "the bucket is in another region ({said}), and the store does not say in which; set `region` beside the \
                 `uri`, and `endpoint` to that region's"
            ),
        }
    }

    fn lacking(&self) -> String {
        let said = self.said();
        match self.condition {
            Some(condition) => format!(
                "the store does not take `{condition}` ({said}), without which nothing keeps two writers apart; use a store \
                 with If-Match and If-None-Match on PUT"
            ),
            None if self.is_list => format!("the store does not list objects ({said}); name a single object"),
            None => format!("the store does not have what is asked of it ({said})"),
        }
    }
}

/// Returns the text of the first element of this name in an XML document.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim())
}

/// Returns the region in messages of MinIO and others, such as "the region is wrong; expecting 'eu-west-3'".
fn expected(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("expecting '")?;
    rest.split_once('\'').map(|(region, _)| region)
}

/// Returns whether a text is safe in a message, a header and a host name.
fn is_word(text: &str) -> bool {
    (1..=WORD_LIMIT).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

/// Returns a message without credentials, which some stores repeat.
fn without(message: &str, credential: &AwsCredential) -> String {
    let secrets = [Some(&credential.secret_key), credential.token.as_ref()];
    let hidden = secrets.into_iter().flatten().filter(|secret| secret.len() >= SHORTEST_SECRET);
    hidden.fold(message.replace(char::is_control, " "), |message, secret| message.replace(secret, "[credential]"))
}

/// Returns the code and message of an error in S3's format
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>). The rest may contain a credential.
pub(in crate::store) fn said(why: &str) -> Option<(&str, &str)> {
    let element = |name: &str| {
        let (_, rest) = why.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim())
    };
    Some((element("Code")?, element("Message").unwrap_or_default()))
}
