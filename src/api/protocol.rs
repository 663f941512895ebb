//! Words that the decisions and the dialects of providers share.

/// How a batch ended, whatever the provider calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BatchEnd {
    /// It ran to its end; each of its requests may have failed all the same.
    Completed,
    /// It failed as a whole, before a request ran or after.
    Failed,
    /// Its time was over.
    Expired,
    /// It was told to stop.
    Cancelled,
}

impl BatchEnd {
    /// The word that journals and status have for it.
    pub fn word(self) -> &'static str {
        match self {
            BatchEnd::Completed => "completed",
            BatchEnd::Failed => "failed",
            BatchEnd::Expired => "expired",
            BatchEnd::Cancelled => "cancelled",
        }
    }
}
