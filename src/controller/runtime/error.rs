//! Errors of steps, in the words of a condition.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::api::conditions::reasons;
use crate::lifecycle::Blocked;
use crate::provider::{ApiError, ErrorKind};
use crate::results::{CollectError, WriteError};
use crate::store::{StoreError, SwapError};

/// The error of a step, which is tried again.
#[derive(Clone, Debug)]
pub struct StepError {
    /// The reason and the message for a person.
    pub blocked: Blocked,
    /// True if it may pass by itself, so that it is reported only if it lasts.
    pub retryable: bool,
    /// The pause that the other side asked for.
    pub retry_after: Option<Duration>,
    /// True if the API server does not answer. Status can report that only once it is over.
    pub api_server_unavailable: bool,
    /// True if the provider's account as a whole may be failing, so that its object should be looked at.
    pub is_of_account: bool,
    /// True if the store, as it is addressed, can never do what is required of it.
    pub is_unfit_store: bool,
    /// The error that it was made of, unless another program's library made that one: such an error may hold a credential.
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.blocked.message)
    }
}

impl Error for StepError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl StepError {
    /// Returns an error that a person must fix.
    pub fn lasting(reason: &'static str, message: impl Into<String>) -> Self {
        let blocked = Blocked { reason, message: message.into() };
        StepError {
            blocked,
            retryable: false,
            retry_after: None,
            api_server_unavailable: false,
            is_of_account: false,
            is_unfit_store: false,
            source: None,
        }
    }

    /// Returns an error that may pass by itself.
    pub fn passing(reason: &'static str, message: impl Into<String>) -> Self {
        StepError { retryable: true, ..StepError::lasting(reason, message) }
    }

    fn caused_by(self, source: impl Error + Send + Sync + 'static) -> Self {
        StepError { source: Some(Arc::new(source)), ..self }
    }

    /// Returns the message with its causes, for logs.
    pub fn chain(&self) -> String {
        crate::transport::chain(self)
    }

    /// Returns the reason, for metrics and events.
    pub fn kind(&self) -> &'static str {
        self.blocked.reason
    }
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        let step = match &error {
            StoreError::Unfit(_) => {
                StepError { is_unfit_store: true, ..StepError::lasting(reasons::STORAGE_REJECTED, message) }
            }
            StoreError::Rejected(_) => StepError::lasting(reasons::STORAGE_REJECTED, message),
            StoreError::Unavailable(..) => StepError::passing(reasons::STORAGE_UNAVAILABLE, message),
            StoreError::Changed(_) => StepError::passing(reasons::INPUT_CHANGED, message),
            StoreError::NotAllowed(_) => StepError::lasting(reasons::HOST_NOT_ALLOWED, message),
            StoreError::Denied(_) => StepError::lasting(reasons::CREDENTIALS_REJECTED, message),
            StoreError::TooLarge(_) => StepError::lasting(reasons::RESULTS_TOO_LARGE, message),
            StoreError::Conflict(_) | StoreError::Corrupt(_) => StepError::lasting(reasons::OUTPUT_CONFLICT, message),
            StoreError::Invalid(_) | StoreError::NotFound(_) => {
                StepError::lasting(reasons::STORAGE_UNAVAILABLE, format!("{message}; create it, or correct the URI"))
            }
        };
        step.caused_by(error)
    }
}

impl From<SwapError> for StepError {
    fn from(error: SwapError) -> Self {
        match error {
            SwapError::Changed => StepError::passing(reasons::STORAGE_UNAVAILABLE, error.to_string()),
            SwapError::Store(e) => e.into(),
        }
    }
}

impl From<ApiError> for StepError {
    fn from(error: ApiError) -> Self {
        let (reason, retryable) = match error.kind {
            ErrorKind::Auth => (reasons::CREDENTIALS_REJECTED, false),
            ErrorKind::NotAllowed => (reasons::HOST_NOT_ALLOWED, false),
            ErrorKind::Redirected => (reasons::PROVIDER_REDIRECTS, false),
            ErrorKind::Capacity | ErrorKind::TokenLimit => (reasons::WAITING_FOR_QUOTA, true),
            ErrorKind::InvalidInput => (reasons::PROVIDER_REJECTED, false),
            ErrorKind::NotSent
            | ErrorKind::Transient
            | ErrorKind::NotFound
            | ErrorKind::FileNotFound
            | ErrorKind::Unsupported => (reasons::PROVIDER_UNAVAILABLE, true),
        };
        let message = match error.kind {
            ErrorKind::Auth => {
                format!("the provider refused the credential: {}; check the BatchProvider's Secret", error.message)
            }
            _ => error.message.clone(),
        };
        let is_of_account = matches!(
            error.kind,
            ErrorKind::Auth | ErrorKind::NotAllowed | ErrorKind::NotSent | ErrorKind::Transient | ErrorKind::Redirected
        );
        let retry_after = error.retry_after;
        StepError { retryable, retry_after, is_of_account, ..StepError::lasting(reason, message) }.caused_by(error)
    }
}

impl From<CollectError> for StepError {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Store(e) => e.into(),
            CollectError::Download(_) => StepError::passing(reasons::PROVIDER_UNAVAILABLE, error.to_string()),
        }
    }
}

impl From<WriteError> for StepError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(StoreError::Corrupt(why)) => {
                let message = format!("{why} Where results were written before, put manifest.json back, which says so");
                StepError::lasting(reasons::OUTPUT_CONFLICT, message)
            }
            WriteError::Store(e) => e.into(),
            WriteError::Corrupt(_) => StepError::lasting(reasons::OUTPUT_CONFLICT, error.to_string()),
        }
    }
}

impl From<kube::Error> for StepError {
    fn from(error: kube::Error) -> Self {
        let message = format!("the Kubernetes API: {}", crate::api::text::clip(crate::transport::chain(&error), 512));
        let api_server_unavailable =
            !matches!(&error, kube::Error::Api(status) if status.code < 500 && status.code != 429);
        StepError { api_server_unavailable, ..StepError::passing("KubernetesUnavailable", message) }
    }
}
