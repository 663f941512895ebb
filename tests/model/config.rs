//! What is explored: where it begins and ends, what may happen and how often, and which rule is broken.

use super::*;

/// How long the provider's list really lags.
pub(super) const LAG: i64 = 2;
/// Beyond the clock: that a deletion is let through, loudly, is not modelled.
pub(super) const NEVER: i64 = 1_000_000;

/// By how much a clock is set: further than any wait lasts.
pub(super) const FAR: i64 = 100;

/// Until when those who ask a person are seen to look for themselves; it would go on for ever.
pub(super) const PATIENCE: i64 = 6;

/// How often what may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub crashes: u8,
    /// Replies to a POST, of whatever kind: what cannot be read, and an error after creating, are lost replies too.
    pub lost_replies: u8,
    /// Replies to a write of the journal; the write itself may still land at any time.
    pub lost_writes: u8,
    /// A right to POST outlives its last moment.
    pub stalls: u8,
    /// The provider has no room.
    pub refusals: u8,
    /// A gateway makes two batches of one POST.
    pub doubles: u8,
    /// A gateway answers a POST with a refusal, whatever became of it.
    pub declines: u8,
    /// A batch is turned away for its tokens.
    pub token_limits: u8,
    /// A replica takes the storage for careless.
    pub bad_proofs: u8,
    /// The object goes without its finalizer and is created again under its name.
    pub recreations: u8,
    /// The spec becomes another work's: when the object is created again, or whenever it is not locked.
    pub edits: u8,
    /// The same under the lock, as the API server lets through where it compares free-form JSON.
    pub drifts: u8,
    /// What the input names is replaced.
    pub new_sources: u8,
    pub deletions: u8,
    /// `spec.suspend` changes.
    pub flips: u8,
    /// `spec.stopPolicy` is set.
    pub stops: u8,
    /// `spec.deletionPolicy` changes.
    pub changes_of_mind: u8,
    /// `spec.maxFailedRequests` changes.
    pub limits: u8,
    /// Status is lost, or an older one comes back.
    pub restores: u8,
    /// The credential becomes one of the other account.
    pub rotations: u8,
    /// A person answers a hold.
    pub answers: u8,
    /// A lifecycle rule empties `_batchjob/` once the job is done and tidied.
    pub sweeps: u8,
    /// The journal is lost after status said what was submitted.
    pub lost_journals: u8,
    /// A batch ends with a line that is not answered and may be sent again for nothing.
    pub expiries: u8,
    /// A batch ends with a line that failed for good.
    pub failures: u8,
    /// A batch is turned away as a whole.
    pub rejections: u8,
    /// The provider forgets a batch that runs, and bills nothing for it.
    pub losses: u8,
    /// Files of answers lack the first line, before `listing_lag` is over since their batch ended.
    pub short_readings: u8,
    /// A batch ends with a line that is paid and that nobody can read.
    pub garbles: u8,
    /// A replica goes on deciding on its last look, of the object, the journal or both, while others change them.
    pub old_looks: u8,
    /// The clock of a replica is set, far forward or back.
    pub clock_sets: u8,
    /// `spec.budget` is raised to what the job can cost at most, or lowered again.
    pub budget_changes: u8,
    /// Another work reserves for a batch at the same provider, or its batch ends.
    pub rivals: u8,
}

impl Budget {
    pub(super) const NONE: Budget = Budget {
        crashes: 0,
        lost_replies: 0,
        lost_writes: 0,
        stalls: 0,
        refusals: 0,
        doubles: 0,
        declines: 0,
        token_limits: 0,
        bad_proofs: 0,
        recreations: 0,
        edits: 0,
        drifts: 0,
        new_sources: 0,
        deletions: 0,
        flips: 0,
        stops: 0,
        changes_of_mind: 0,
        limits: 0,
        restores: 0,
        rotations: 0,
        answers: 0,
        sweeps: 0,
        lost_journals: 0,
        expiries: 0,
        failures: 0,
        rejections: 0,
        losses: 0,
        short_readings: 0,
        garbles: 0,
        old_looks: 0,
        clock_sets: 0,
        budget_changes: 0,
        rivals: 0,
    };
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [
            ("crashes", self.crashes),
            ("lost replies", self.lost_replies),
            ("lost writes", self.lost_writes),
            ("stalls", self.stalls),
            ("refusals", self.refusals),
            ("doubled POSTs", self.doubles),
            ("refusals by a gateway", self.declines),
            ("batches over the token limit", self.token_limits),
            ("bad proofs", self.bad_proofs),
            ("re-creations", self.recreations),
            ("edits", self.edits),
            ("drifts", self.drifts),
            ("new sources", self.new_sources),
            ("deletions", self.deletions),
            ("flips of suspend", self.flips),
            ("stops", self.stops),
            ("flips of the deletion policy", self.changes_of_mind),
            ("changes of the limit", self.limits),
            ("restores", self.restores),
            ("rotations", self.rotations),
            ("answers", self.answers),
            ("sweeps", self.sweeps),
            ("losses of the journal", self.lost_journals),
            ("expiries", self.expiries),
            ("failures", self.failures),
            ("rejections", self.rejections),
            ("forgotten batches", self.losses),
            ("short readings", self.short_readings),
            ("unreadable answers", self.garbles),
            ("old looks", self.old_looks),
            ("changes of a clock", self.clock_sets),
            ("changes of the budget", self.budget_changes),
            ("changes by another work", self.rivals),
        ];
        let some: Vec<String> = all.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect();
        f.write_str(if some.is_empty() { "nothing happens" } else { "" })?;
        f.write_str(&some.join(", "))
    }
}

/// A rule that is broken, by the executor around `decide` or by what it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// A job that was told to stop sends all the same.
    SendsAfterStop,
    /// A job that was told to cancel its batches does not wait for their ends.
    AwaitsNoEnd,
    /// The journal is written over the version of the moment, not over the one that was judged.
    WritesUnjudged,
    /// Whoever reads an intent takes it for a permit.
    ReaderPosts,
    /// Every attempt sends the same file, which uploading it makes valid again.
    SameFile,
    /// The client repeats a POST that takes long.
    RetriesPost,
    /// A lost reply is taken for a refusal.
    LostIsRefused,
    /// A gateway's refusal is taken for the vendor's.
    DeclinedIsRefused,
    /// Where a shard is halved, the second half is forgotten.
    ForgetsHalf,
    /// Where a shard is halved, the whole stays beside its halves.
    KeepsWhole,
    /// Where a shard is halved, the first half is sent with the file of the whole.
    HalvesNoFile,
    /// An intent is taken for over while its POST may still be sent.
    RevokesTooSoon,
    /// The next attempt starts although the file is still there.
    RevokesNothing,
    /// The list is believed too soon after the file is gone.
    ListsTooSoon,
    /// The list is not asked again after the file is gone.
    ListsOnce,
    /// What one credential shows is taken for what another one would.
    AnyCredential,
    /// Between the intent and its POST the object is not looked at again.
    PostsBlindly,
    /// The same, and a job that is deleted does not say so in the journal: either rule alone keeps the promise.
    ClosesNothing,
    /// Another round is written into the journal before it is staged.
    StagesAfter,
    /// Nobody looks whether there is a manifest.
    ManifestUnread,
    /// A part replaces the one that is there.
    PartsOverwritten,
    /// A journal that is gone is taken for one that never was.
    AbsenceIsEvidence,
    /// Results are written before the journal says what the end is.
    JoinsBeforeCommit,
    /// A job that goes takes its results for written once its end is decided.
    TidiesUnwritten,
    /// Who goes on with a journal that was closed stages under the name that it had.
    KeepsWork,
    /// A person's answer counts for whatever is asked.
    AnswersAny,
    /// Who goes on with a journal that was closed sends the file of an attempt that was refused.
    KeepsFiles,
    /// Who takes a work over from another cluster forgets what that one sent.
    TakesAnew,
    /// What was given up on at the deadline is taken for what can be sent again.
    SendsAbandoned,
    /// What files do not tell of at first counts as missing.
    ShortIsWhole,
    /// What may be in a line that nobody can read counts as missing.
    UnreadableIsMissing,
    /// The journal names a segment before it is stored.
    SealsAfter,
    /// The same, and a segment that is not there is taken for one that holds nothing.
    AbsentIsNothing,
    /// A POST is sent again to a provider that makes a second batch of it.
    RepeatsAnyPost,
    /// What a POST that is sent again is told is taken for the word on the first one.
    BelievesRepeat,
    /// A batch is sent for which nothing is reserved.
    ReservesNothing,
    /// A cost is added to the ledger although the batch has no reservation any more.
    CountsAgain,
    /// The reservation of a batch is released once the batch is recorded.
    ReleasesLive,
    /// A batch is settled in the journal first, and then in the ledger.
    CountsLate,
    /// A provider that shows nothing of its batches is taken for one whose list shows none.
    NothingIsAList,
    /// Names that a provider gives to several batches are taken for unique.
    NamesAreUnique,
    /// Findings from before a clock was set are believed after it.
    BelievesAnyClock,
    /// What is reserved for other batches is taken for free.
    IgnoresReserved,
    /// The permit of a POST that is on its way is still at hand.
    KeepsPermit,
    /// The journal does not say which shards have answers of earlier jobs.
    ForgetsReuse,
    /// The requests behind a canary are sent before they are approved.
    SendsUnapproved,
    /// An approval is not written into the journal.
    ForgetsApproval,
    /// Batches in flight are taken for free.
    IgnoresInFlight,
    /// Batches that were given up are taken for free.
    IgnoresGivenUp,
    /// Steps of this kind are decided on the last look, however old it is.
    Unread(Unread),
    /// The same, and an intent is written over the version of the moment, not over the one that was judged.
    UnreadAndUnjudged(Unread),
}

/// Where the exploration begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Start {
    /// A new object, locked.
    #[default]
    New,
    /// The plan is in the journal.
    Planned,
    /// The first batch is recorded, and the others are yet to be sent.
    Begun,
    /// Every batch is recorded.
    Submitted,
}

/// Where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Until {
    /// Every batch is recorded.
    #[default]
    Submitted,
    /// The object says how it ended, and nothing is left to tidy.
    Finished,
}

/// A second object that writes to the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Other {
    /// Copied to another cluster, with its Secrets.
    Copy,
    /// The whole cluster was cloned: the object and even the cluster's id are the same.
    Clone,
    /// Of another name in the same cluster.
    Neighbour,
}

/// What the provider does with a create on a deleted file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Deleted {
    #[default]
    Refused,
    /// It makes a batch of it, and trying that out shows it.
    Taken,
    /// The same, and nobody saw it; but the network loses a POST or delivers it in time.
    TakenUnseen,
}

#[derive(Clone, Copy)]
pub(super) struct Protocol {
    pub budget: Budget,
    pub start: Start,
    pub until: Until,
    /// Lines of the work; one to a shard of the plan, or all in one.
    pub lines: u8,
    pub together: bool,
    /// Lines that an earlier job answered: the first ones.
    pub reused: u8,
    pub parallelism: usize,
    pub policy: DeletionPolicy,
    /// The first `spec.stopPolicy` that is set; after Drain comes Cancel.
    pub stop: StopPolicy,
    /// Of the first object; one that is created again has all the time that there is.
    pub deadline: Option<i64>,
    /// How long batches may take to end once the deadline is over.
    pub abandon_after: i64,
    /// How far the clock of one replica is ahead of the other's.
    pub ahead: i64,
    /// What the time that a POST may take allows for clocks.
    pub allowance: i64,
    pub max_failed: Option<MaxFailed>,
    /// `spec.budget`, in USD: a line costs one when it is answered, and two at most.
    pub budgeted: Option<u8>,
    /// Whether the first line is a canary, which a person approves.
    pub canary: bool,
    pub other: Option<Other>,
    pub deleted: Deleted,
    /// What the provider can do.
    pub capabilities: Capabilities,
    /// Attempts to send a shard that are explored.
    pub attempts: u32,
    /// Replicas that judge differently may undo each other's plan for as long as they like.
    pub revisions: u64,
    /// Whether each settled shard leaves the journal's head as soon as its files are gone.
    pub seals: bool,
    /// Whether a POST, a search and the deletion of its file run beside further decisions of their replica.
    pub beside: bool,
    /// Whether the provider has budgets.
    pub budgets: bool,
    /// Its budget, if it has a limit, in USD: a line costs as in `budgeted`.
    pub limit: Option<u8>,
    pub mutant: Option<Mutant>,
}

impl Protocol {
    /// One shard, from the opening to a recorded batch.
    pub(super) fn submitting(budget: Budget) -> Self {
        Protocol {
            budget,
            start: Start::New,
            until: Until::Submitted,
            lines: 1,
            together: false,
            reused: 0,
            parallelism: 1,
            policy: DeletionPolicy::Cancel,
            stop: StopPolicy::Drain,
            deadline: None,
            abandon_after: NEVER,
            ahead: 0,
            allowance: 0,
            max_failed: None,
            budgeted: None,
            canary: false,
            other: None,
            deleted: Deleted::Refused,
            capabilities: Capabilities::default(),
            attempts: 2,
            revisions: 14,
            seals: false,
            beside: false,
            budgets: false,
            limit: None,
            mutant: None,
        }
    }

    /// Whether a batch is followed once it is recorded.
    pub(super) fn follows(&self) -> bool {
        self.until == Until::Finished || self.budget.doubles > 0 || self.lines > 1
    }

    /// Two shards, from two recorded batches to results.
    pub(super) fn ending(budget: Budget) -> Self {
        let start = Start::Submitted;
        let (until, lines, parallelism) = (Until::Finished, 2, 2);
        Protocol { start, until, lines, parallelism, revisions: 30, ..Self::submitting(budget) }
    }

    /// One shard of two lines, from a batch that may be more than the account takes to two that are recorded.
    pub(super) fn halving(budget: Budget) -> Self {
        let (until, revisions) = (Until::Submitted, 14);
        Protocol { together: true, until, revisions, ..Self::ending(budget) }
    }

    /// The same as `ending`, with a journal that seals.
    pub(super) fn sealing(budget: Budget) -> Self {
        Protocol { seals: true, attempts: 1, ..Self::ending(budget) }
    }

    /// Shards of which some have answers of an earlier job, from the opening to results.
    pub(super) fn reusing(reused: u8, lines: u8, budget: Budget) -> Self {
        Protocol { reused, lines, attempts: 1, ..Self::whole(budget) }
    }

    /// Shards of a line each, from a first recorded batch to results, under a budget.
    pub(super) fn paying(lines: u8, budgeted: u8, budget: Budget) -> Self {
        let (start, budgeted, parallelism) = (Start::Begun, Some(budgeted), 2);
        Protocol { start, lines, budgeted, parallelism, attempts: 1, ..Self::whole(budget) }
    }

    /// Two shards of a line each, from a recorded batch to results; the first one is a canary.
    pub(super) fn trying(budget: Budget) -> Self {
        let (start, lines, parallelism) = (Start::Begun, 2, 2);
        Protocol { start, lines, parallelism, canary: true, attempts: 1, ..Self::whole(budget) }
    }

    /// One shard, from the opening to results.
    pub(super) fn whole(budget: Budget) -> Self {
        Protocol { until: Until::Finished, revisions: 30, ..Self::submitting(budget) }
    }
}

/// The words of capabilities alone.
struct Short(Capabilities);

impl std::fmt::Debug for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Capabilities { payload, recovery, revocation } = self.0;
        write!(f, "{payload:?}, {recovery:?}, {revocation:?}")
    }
}

impl std::fmt::Debug for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |name: &str, value: Option<String>| value.map(|v| format!("{name} {v}; ")).unwrap_or_default();
        let more = [
            part("lines", (self.lines > 1).then(|| self.lines.to_string())),
            part("in one shard", self.together.then(String::new)),
            part("reused", (self.reused > 0).then(|| self.reused.to_string())),
            part("attempts", (self.attempts != 2).then(|| self.attempts.to_string())),
            part("policy", (self.policy == DeletionPolicy::Orphan).then(|| "Orphan".into())),
            part("told to", (self.budget.stops > 0).then(|| format!("{:?}", self.stop))),
            part("deadline", self.deadline.map(|d| d.to_string())),
            part("given up on after", (self.abandon_after < NEVER).then(|| self.abandon_after.to_string())),
            part("one clock ahead by", (self.ahead > 0).then(|| self.ahead.to_string())),
            part("max failed", self.max_failed.map(|m| format!("{m:?}"))),
            part("budget", self.budgeted.map(|usd| usd.to_string())),
            part("with a canary", self.canary.then(String::new)),
            part("other", self.other.map(|o| format!("{o:?}"))),
            part("deleted files", (self.deleted != Deleted::Refused).then(|| format!("{:?}", self.deleted))),
            part(
                "at",
                (self.capabilities != Capabilities::default()).then(|| format!("{:?}", Short(self.capabilities))),
            ),
            part("sealing", self.seals.then(String::new)),
            part("calls beside decisions", self.beside.then(String::new)),
            part("within budgets", self.budgets.then(String::new)),
            part("of", self.limit.map(|usd| usd.to_string())),
            part("without", self.mutant.map(|m| format!("{m:?}"))),
        ];
        write!(f, "{:?} to {:?}; {}{:?}", self.start, self.until, more.concat(), self.budget)
    }
}
