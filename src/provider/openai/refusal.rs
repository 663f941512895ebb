//! Answers to a create that name no batch: refusals, and those that prove nothing.

use reqwest::StatusCode;

use super::{wire, words};
use crate::provider::{ApiError, Created, ErrorKind};

/// A refusal counts only from the vendor's own mouth: a gateway in front may have tried again, and a page of HTML is
/// nobody's word.
pub(super) fn refused(vendors_own: bool, status: StatusCode, body: &[u8], error: ApiError) -> Created {
    let ambiguous =
        matches!(status.as_u16(), 408 | 409 | 425) || !status.is_client_error() || wire::said(body).is_none();
    match vendors_own && !ambiguous {
        true => Created::Rejected(error),
        false => Created::Unknown(error),
    }
}

/// An answer that tells neither of a batch nor of an error.
pub(super) fn lost(message: String) -> ApiError {
    ApiError::new(ErrorKind::Transient, message)
}

/// What only a create can be told: that the account has no room for its tokens, or that its file is not there.
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
