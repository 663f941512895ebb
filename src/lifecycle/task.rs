//! Tasks: the calls and transfers that run beside the steps of a job.

use super::attempt::AttemptKey;

/// A task that runs beside the steps and delays nothing else, however long it takes or fails: a long transfer, or a call about
/// one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Looking whether the input is there.
    LookForInput,
    /// Reading, checking and staging the input.
    Plan,
    /// Uploading a shard.
    Upload(AttemptKey),
    /// Fetching the answers of a batch.
    Collect(AttemptKey),
    /// Staging requests without an answer for another round.
    FollowUp,
    /// Staging the halves of the shard whose attempt was refused.
    Halve(AttemptKey),
    /// Writing the answers of settled shards to where they are readable while the job runs. The job's end does not wait for it.
    Publish,
    /// Joining parts into results.
    Write,
    /// Waiting for a place at the account.
    Place,
    /// Reserving the most that a batch can cost in the ledger of the provider's budgets.
    Reserve,
    /// Writing the cost of an attempt's batch to that ledger.
    SettleCost(AttemptKey),
    /// Ending the reservations of the work in that ledger.
    Release,
    /// Creating the batch of an attempt. While it runs, the permit is in use by this process alone.
    Post(AttemptKey),
    /// Finding out the fate of an attempt, and following its batch.
    Call(AttemptKey),
    /// Cancelling the batch of an attempt.
    Cancel(AttemptKey),
    /// Looking at another batch of the same submission, and cancelling it.
    CancelTwin(AttemptKey),
    /// Cancelling a batch that only status names.
    CancelUnjournaled,
    /// Deleting files at the provider that nobody needs any more.
    DeleteFiles,
}
