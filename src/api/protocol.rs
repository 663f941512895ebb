//! Words that the decisions and the dialects of providers share.

/// What a vendor's batch API can do, as far as the submission of a batch depends on it. Data: the decisions work on it, and the
/// model explores each combination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// How requests reach the vendor.
    pub payload: PayloadKind,
    /// How a batch is found whose creation was not answered.
    pub recovery: Recovery,
    /// How the right to start a batch is taken back.
    pub revocation: Revocation,
}

/// How requests reach a vendor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PayloadKind {
    /// In a file that is uploaded to the vendor before.
    #[default]
    File,
    /// In the body of the create.
    Inline,
    /// In an object that the vendor reads from storage.
    Object,
}

/// How a batch is found whose creation was not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// The list of batches shows the metadata that it was made with.
    #[default]
    Metadata,
    /// The list of batches shows the file that it was made from.
    InputFile,
    /// The list of batches shows the name that it was given for display.
    DisplayName,
    /// The same POST with the same token is answered with the batch that the first one made.
    RepeatedPost,
    /// It is looked up under the name that was chosen for it.
    ChosenName,
    /// In no way while it runs.
    Nothing,
}

/// How the right to start a batch is taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Revocation {
    /// By deleting the file or the object: a create on it is refused. Tried out before it is relied on.
    #[default]
    DeletedPayload,
    /// In no way.
    Nothing,
    /// That is not needed: a chosen name is unique, so that a POST that arrives late makes no second batch.
    NotNeeded,
}

impl Capabilities {
    /// Whether a lost batch can be looked for, in a list or under its name.
    pub fn can_search(self) -> bool {
        !matches!(self.recovery, Recovery::RepeatedPost | Recovery::Nothing)
    }

    /// Whether the same POST may be sent again, for it makes no second batch.
    pub fn can_repeat(self) -> bool {
        match self.recovery {
            Recovery::RepeatedPost => true,
            Recovery::ChosenName => self.revocation == Revocation::NotNeeded,
            _ => false,
        }
    }
}

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
