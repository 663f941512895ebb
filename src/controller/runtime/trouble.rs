//! Why a step failed, in the words of a condition.

use std::time::Duration;

use crate::api::conditions::reasons;
use crate::lifecycle::Stuck;
use crate::provider::{ApiError, Class};
use crate::results::{CollectError, WriteError};
use crate::store::{StoreError, SwapError};

/// A step that failed and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What a person sees.
    pub stuck: Stuck,
    /// Whether it may pass by itself, so that only its lasting is worth a word.
    pub may_pass: bool,
    /// When the other side asked to be called again.
    pub retry_after: Option<Duration>,
    /// Whether it is that the API server does not answer: that can be told in status only once it is over.
    pub is_untold: bool,
    /// Whether the provider's account as a whole may be in trouble, so that its object is worth a look.
    pub is_of_account: bool,
    /// Whether it is that the store, as it is addressed, can never do what it has to.
    pub is_unfit_store: bool,
}

impl Trouble {
    /// Something that a person must mend.
    pub fn lasting(reason: &'static str, message: impl Into<String>) -> Self {
        let stuck = Stuck { reason, message: message.into() };
        Trouble {
            stuck,
            may_pass: false,
            retry_after: None,
            is_untold: false,
            is_of_account: false,
            is_unfit_store: false,
        }
    }

    /// Something that may pass.
    pub fn passing(reason: &'static str, message: impl Into<String>) -> Self {
        Trouble { may_pass: true, ..Trouble::lasting(reason, message) }
    }

    /// For metrics and events.
    pub fn category(&self) -> &'static str {
        self.stuck.reason
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Unfit(_) => {
                Trouble { is_unfit_store: true, ..Trouble::lasting(reasons::STORAGE_REJECTED, message) }
            }
            StoreError::Rejected(_) => Trouble::lasting(reasons::STORAGE_REJECTED, message),
            StoreError::Unavailable(_) => Trouble::passing(reasons::STORAGE_UNAVAILABLE, message),
            StoreError::Changed(_) => Trouble::passing(reasons::INPUT_CHANGED, message),
            StoreError::NotAllowed(_) => Trouble::lasting(reasons::HOST_NOT_ALLOWED, message),
            StoreError::Denied(_) => Trouble::lasting(reasons::CREDENTIALS_REJECTED, message),
            StoreError::TooLarge(_) => Trouble::lasting(reasons::RESULTS_TOO_LARGE, message),
            StoreError::Conflict(_) | StoreError::Corrupt(_) => Trouble::lasting(reasons::OUTPUT_CONFLICT, message),
            StoreError::Invalid(_) | StoreError::NotFound(_) => {
                Trouble::lasting(reasons::STORAGE_UNAVAILABLE, format!("{message}; create it, or correct the URI"))
            }
        }
    }
}

impl From<SwapError> for Trouble {
    fn from(error: SwapError) -> Self {
        match error {
            SwapError::Lost => Trouble::passing(reasons::STORAGE_UNAVAILABLE, error.to_string()),
            SwapError::Store(e) => e.into(),
        }
    }
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        let (reason, may_pass) = match error.class {
            Class::Auth => (reasons::CREDENTIALS_REJECTED, false),
            Class::NotAllowed => (reasons::HOST_NOT_ALLOWED, false),
            Class::Redirected => (reasons::PROVIDER_REDIRECTS, false),
            Class::Capacity | Class::TokenLimit => (reasons::WAITING_FOR_QUOTA, true),
            Class::InvalidInput => (reasons::PROVIDER_REJECTED, false),
            Class::NotSent | Class::Transient | Class::NotFound | Class::FileNotFound | Class::Unsupported => {
                (reasons::PROVIDER_UNAVAILABLE, true)
            }
        };
        let message = match error.class {
            Class::Auth => {
                format!("the provider refused the credential: {}; check the BatchProvider's Secret", error.message)
            }
            _ => error.message,
        };
        let is_of_account = matches!(
            error.class,
            Class::Auth | Class::NotAllowed | Class::NotSent | Class::Transient | Class::Redirected
        );
        Trouble { may_pass, retry_after: error.retry_after, is_of_account, ..Trouble::lasting(reason, message) }
    }
}

impl From<CollectError> for Trouble {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Store(e) => e.into(),
            CollectError::Download(_) => Trouble::passing(reasons::PROVIDER_UNAVAILABLE, error.to_string()),
        }
    }
}

impl From<WriteError> for Trouble {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(StoreError::Corrupt(why)) => {
                let message = format!("{why} Where results were written before, put manifest.json back, which says so");
                Trouble::lasting(reasons::OUTPUT_CONFLICT, message)
            }
            WriteError::Store(e) => e.into(),
            WriteError::Corrupt(_) => Trouble::lasting(reasons::OUTPUT_CONFLICT, error.to_string()),
        }
    }
}

impl From<kube::Error> for Trouble {
    fn from(error: kube::Error) -> Self {
        let message = format!("the Kubernetes API: {}", crate::api::text::clip(crate::transport::chain(&error), 512));
        let is_untold = !matches!(&error, kube::Error::Api(status) if status.code < 500 && status.code != 429);
        Trouble { is_untold, ..Trouble::passing("KubernetesUnavailable", message) }
    }
}
