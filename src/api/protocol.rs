//! Terms that the decisions and the dialects of providers share.

/// The capabilities of a vendor's batch API, as far as the submission of a batch depends on them. They are data: the
/// decisions work on them, and the model explores each combination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Way of requests to the vendor.
    pub payload: PayloadKind,
    /// Way to find a batch whose creation was not answered.
    pub recovery: Recovery,
    /// Way to take back the right to start a batch.
    pub revocation: Revocation,
}

/// The way in which requests reach a vendor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PayloadKind {
    /// A file that is uploaded to the vendor before.
    #[default]
    File,
    /// The body of the create.
    Inline,
    /// An object that the vendor reads from storage.
    Object,
}

/// The way to find a batch whose creation was not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// The list of batches shows the metadata that it was made with.
    #[default]
    Metadata,
    /// The list of batches shows the file that it was made from.
    InputFile,
    /// The list of batches shows the name that it was given for display.
    DisplayName,
    /// A repeated POST with the same token, which the vendor answers with the batch that the first one made.
    RepeatedPost,
    /// A lookup under the name that was chosen for the batch.
    ChosenName,
    /// No way while the batch runs.
    Nothing,
}

/// The way to take back the right to start a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Revocation {
    /// Deletion of the file or the object, after which a create on it is refused. It is tried out before it is relied
    /// on.
    #[default]
    DeletedPayload,
    /// No way.
    Nothing,
    /// No need: a chosen name is unique, so a POST that arrives late makes no second batch.
    NotNeeded,
}

impl Capabilities {
    /// Returns whether a lost batch can be searched for, in a list or under its name.
    pub fn can_search(self) -> bool {
        !matches!(self.recovery, Recovery::RepeatedPost | Recovery::Nothing)
    }

    /// Returns whether the same POST may be sent again, since it makes no second batch.
    pub fn can_repeat(self) -> bool {
        match self.recovery {
            Recovery::RepeatedPost => true,
            Recovery::ChosenName => self.revocation == Revocation::NotNeeded,
            _ => false,
        }
    }
}

/// The end of a batch, in terms that all providers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BatchEnd {
    /// The batch ran to its end. Each of its requests may still have failed.
    Completed,
    /// The batch failed as a whole, before a request ran or after.
    Failed,
    /// The time of the batch was over.
    Expired,
    /// The batch was cancelled on request.
    Cancelled,
}

impl BatchEnd {
    /// Returns the word for it in journals and status.
    pub fn word(self) -> &'static str {
        match self {
            BatchEnd::Completed => "completed",
            BatchEnd::Failed => "failed",
            BatchEnd::Expired => "expired",
            BatchEnd::Cancelled => "cancelled",
        }
    }
}
