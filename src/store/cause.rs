//! Causes of failed calls of a store.

use std::io;

use crate::transport::SendError;

/// The cause of a [`StoreError::Unavailable`](super::StoreError::Unavailable), for logs. It has none of the store's own words
/// but its code, because a store may repeat a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreCause {
    /// The call has no response.
    #[error("the store did not answer")]
    NoResponse(#[source] SendError),
    /// The store refused the call.
    #[error("the store answered {status}, code {}", code.as_deref().unwrap_or("unknown"))]
    Response {
        /// HTTP status.
        status: u16,
        /// S3's code, such as `SlowDown`.
        code: Option<String>,
    },
    /// The call took too long.
    #[error("the call took {0} s")]
    TimedOut(u64),
    /// The local disk failed.
    #[error("the local disk: {0}")]
    Disk(io::ErrorKind),
}
