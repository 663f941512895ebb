//! Replies to the request for a batch that name none: refusals, and replies that prove nothing.

use reqwest::StatusCode;

use super::{wire, words};
use crate::provider::{ApiError, Created, ErrorKind};

/// Returns the outcome for a reply that is an error. It proves that no batch was made only if it comes from the vendor itself:
/// a gateway may have sent the request again, and a page of HTML does not tell who wrote it.
pub(super) fn refused(vendors_own: bool, status: StatusCode, body: &[u8], error: ApiError) -> Created {
    let ambiguous =
        matches!(status.as_u16(), 408 | 409 | 425) || !status.is_client_error() || wire::said(body).is_none();
    match vendors_own && !ambiguous {
        true => Created::Rejected(error),
        false => Created::Unknown(error),
    }
}

/// Returns the error for a reply that shows neither a batch nor an error.
pub(super) fn lost(message: String) -> ApiError {
    ApiError::new(ErrorKind::Transient, message)
}

/// Refines the kind of an error that the request for a batch got: the account has no room for its tokens, or the provider does
/// not know its file.
pub(super) fn about_a_create(error: ApiError, body: &[u8], file_id: &str) -> ApiError {
    let kind = match (error.kind, wire::code(body).as_deref(), wire::param(body).as_deref()) {
        (ErrorKind::Capacity | ErrorKind::InvalidInput, Some(words::TOKEN_LIMIT), _) => ErrorKind::TokenLimit,
        (ErrorKind::InvalidInput | ErrorKind::NotFound, Some("file_not_found"), _) => ErrorKind::FileNotFound,
        (ErrorKind::InvalidInput | ErrorKind::NotFound, _, param)
            if words::says_not_found(&error.message, file_id)
                && (param == Some("input_file_id") || error.message.contains(file_id)) =>
        {
            ErrorKind::FileNotFound
        }
        (kind, ..) => kind,
    };
    ApiError { kind, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::openai::OPENAI;

    fn classify(vendors_own: bool, status: u16, body: &str) -> Created {
        let status = StatusCode::from_u16(status).unwrap();
        let error = wire::api_error(&OPENAI, status, &Default::default(), body.as_bytes(), "POST h/v1/batches");
        refused(vendors_own, status, body.as_bytes(), error)
    }

    #[test]
    fn only_the_vendors_own_refusal_is_a_refusal() {
        let said = r#"{"error":{"message":"no"}}"#;
        assert!(matches!(classify(true, 400, said), Created::Rejected(e) if e.kind == ErrorKind::InvalidInput));
        assert!(matches!(classify(true, 429, said), Created::Rejected(e) if e.kind == ErrorKind::Capacity));
        assert!(matches!(classify(true, 401, said), Created::Rejected(e) if e.kind == ErrorKind::Auth));
        for status in [302, 408, 409, 500, 502, 503, 504] {
            assert!(matches!(classify(true, status, said), Created::Unknown(..)), "{status}");
        }
        assert!(matches!(classify(true, 403, "<html>"), Created::Unknown(..)));
        assert!(matches!(classify(false, 400, said), Created::Unknown(..)));
    }
}
