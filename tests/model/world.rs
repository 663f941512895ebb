//! A state of the world, and what can be asked of it.

use super::*;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub now: i64,
    /// The job; and a second one at the same destination, if there is one.
    pub objects: Vec<Option<Shared<JobView>>>,
    pub journal: Option<Shared<Journal>>,
    pub folder: Folder,
    pub replicas: [Replica; 2],
    /// A write whose reply was lost and that has not landed yet.
    pub late: Option<Write>,
    /// POSTs in the network.
    pub posts: Vec<Post>,
    pub batches: Vec<Batch>,
    pub deleted_files: BTreeSet<String>,
    pub new_source: bool,
    pub left: Budget,
    /// The ledger of the provider's budgets.
    pub ledger: Ledger,
    /// Intents whose cost is in the ledger, and how often.
    pub counted: BTreeMap<String, u8>,
    pub history: History,
}

/// The destination beside the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Folder {
    /// Shards, by work and content.
    pub staged: BTreeSet<(String, String)>,
    /// What came back, by work and name.
    pub parts: BTreeMap<(String, String), String>,
    pub manifest: Option<Shared<Results>>,
    /// Sealed shards, by the segment's name; one that is yet to be stored has a mark before it.
    pub segments: BTreeMap<String, BTreeMap<usize, Shard>>,
}

/// What the manifest and the files that it lists say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Results {
    pub manifest: ManifestView,
    /// The first answer of each line, in order.
    pub lines: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Replica {
    /// Which of the objects it works on.
    pub sees: usize,
    /// How far its clock is ahead.
    pub ahead: i64,
    /// Time on its clock at which that was last set, or the replica began, where clocks are set.
    pub since: i64,
    pub memory: Shared<Memory>,
    /// The uid of the object that the memory is about.
    pub of: String,
    /// An object that was read before it changed, and when: who is slow acts on it once, as on one that was read for the act.
    pub stale: Option<(Shared<JobView>, i64)>,
    /// The last look, until it is renewed; None: it shows the world as it is.
    pub look: Option<LastLook>,
    pub doing: Doing,
    /// Calls at the provider that run beside further decisions.
    pub beside: Beside,
}

/// Calls of a replica that run beside its decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Beside {
    /// The POST of this intent, of the object with this uid.
    pub post: Option<(AttemptKey, String, String)>,
    /// What a call found out and the replica does not know yet, and the credential that it was found out under.
    pub found: Option<(AttemptKey, String, Finding)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Finding {
    /// For the batches of this intent.
    Search(String, Search),
    /// This file is gone, since then.
    Revoked(String, i64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Doing {
    #[default]
    Nothing,
    Writing(Write),
    /// The reply to the write of this intent was lost.
    Unsure(String),
    /// For the reply to the POST of this intent.
    Waiting(String),
    /// Fetches the answers of this batch.
    Collecting(AttemptKey, String),
    /// Writes results from this journal; what comes after is for a mutant.
    Joining(Shared<Journal>, Option<Write>),
    /// Stages what the journal names already: for a mutant.
    Staging(String),
    /// Stores segments that the journal names already: for a mutant.
    Sealing,
    /// Deletes what was staged for this work, for the object that was judged.
    Tidying(String, Shared<JobView>),
    /// Takes the finalizer off the object that was judged.
    LettingGo(Shared<JobView>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub judged: Option<Shared<Journal>>,
    pub next: Shared<Journal>,
    pub intent: Option<String>,
    /// The budget that it was decided on, in USD.
    pub budgeted: Option<Usd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Post {
    pub intent: String,
    pub file: String,
    /// The credential that it carries.
    pub credential: String,
    /// The moment until which its sender waits for an answer.
    pub until: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Batch {
    pub id: String,
    pub intent: String,
    pub file: String,
    pub credential: String,
    pub at: i64,
    pub listed: bool,
    /// Made by a gateway, beside the one that was asked for.
    pub doubled: bool,
    /// When it ended, where that matters.
    pub ended_at: i64,
    pub state: BatchState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum BatchState {
    Running {
        told_to_stop: bool,
    },
    /// One letter a line: see [`answers`].
    Ended(String),
    /// Turned away before any line was executed.
    Rejected,
    /// The same, for its tokens.
    OverTheLimit,
    /// The provider does not know it any more.
    Forgotten,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct History {
    pub crashed_with_permit: bool,
    pub reply_lost: bool,
    /// A gateway said that it refused a POST.
    pub declined: bool,
    pub adopted: bool,
    pub asked_when_closed: bool,
    /// A POST of a job that was told to stop before it was looked at for the POST.
    pub asked_when_stopped: bool,
    /// A POST after there were results.
    pub asked_when_done: bool,
    /// A POST for a work that another cluster took over.
    pub asked_when_taken: bool,
    /// A result set was replaced by a different one.
    pub replaced: bool,
    /// A person gave up a batch, or said that there is none.
    pub answered: bool,
    /// A gateway repeated a POST.
    pub doubled: bool,
    pub swept: bool,
    pub journal_lost: bool,
    /// What somebody needs was tidied away.
    pub tidied_in_need: bool,
    pub crashed_while_ending: bool,
    /// A batch that its job wants was told to stop.
    pub stopped_wanted: bool,
    /// A file was deleted that a batch is made of which is followed and runs.
    pub deleted_in_use: bool,
    /// An object was let go whose batches run on, and nobody looks after them.
    pub left_running: bool,
    /// A batch was intended that the budget has no room for.
    pub over_budget: bool,
    /// The journal has, or had, an approval of what is behind the canary.
    pub approved: bool,
    /// Something behind the canary was intended before its approval.
    pub unapproved: bool,
}

impl Beside {
    /// Whether an intent or a file of this name is on its way.
    fn names(&self, id: &str) -> bool {
        self.post.as_ref().is_some_and(|(_, intent, _)| intent == id)
            || matches!(&self.found, Some((_, _, Finding::Search(name, _) | Finding::Revoked(name, _))) if name == id)
    }
}

/// Names of shards and files begin with their content: the letter of the work, a dot, and the lines.
pub(super) fn content(work: &str, lines: &str) -> String {
    format!("{work}.{lines}")
}

/// The work and the lines in the name of a shard or of a file.
pub(super) fn parse(name: &str) -> (&str, &str) {
    let content = name.split(['@', '#']).next().unwrap_or(name);
    content.split_once('.').unwrap_or((content, ""))
}

/// The credential that a file was uploaded under; a number that is not mentioned elsewhere makes it one of many.
pub(super) fn credential_of(file: &str) -> &str {
    file.split(['@', '#']).nth(1).unwrap_or_default()
}

pub(super) fn attempts(journal: &Journal) -> impl Iterator<Item = &Attempt> {
    journal.shards.iter().filter_map(|s| s.attempt.as_ref())
}

impl World {
    pub(super) fn object_of(&self, replica: usize) -> Option<&Shared<JobView>> {
        self.objects[self.replicas[replica].sees].as_ref()
    }

    pub(super) fn attempt(&self, attempt_key: AttemptKey) -> Option<&Attempt> {
        self.journal.as_deref()?.shards.get(attempt_key.shard)?.attempt.as_ref()
    }

    /// Journals that are, and those that may yet be.
    pub(super) fn journals(&self) -> impl Iterator<Item = &Journal> {
        let writes = self.replicas.iter().filter_map(|r| match &r.doing {
            Doing::Writing(write) | Doing::Joining(_, Some(write)) => Some(write),
            _ => None,
        });
        let seen = self.replicas.iter().filter_map(|r| r.look.as_ref()?.journal.as_ref()?.as_ref());
        writes.chain(&self.late).map(|w| &w.next).chain(&self.journal).chain(seen).map(|j| &**j)
    }

    /// The journal's attempts, and those that may yet become its.
    pub(super) fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        let sealed = self.folder.segments.values().flat_map(BTreeMap::values);
        self.journals().flat_map(attempts).chain(sealed.filter_map(|s| s.attempt.as_ref()))
    }

    /// Whether the journal, or a segment that it names, has an attempt for which `is_it` holds.
    pub(super) fn has_attempt(&self, is_it: impl Fn(&Attempt) -> bool) -> bool {
        let Some(journal) = &self.journal else { return false };
        let shards = self.shards_of(journal, Some(Mutant::AbsentIsNothing)).unwrap_or_default();
        shards.into_iter().filter_map(|s| s.attempt.as_ref()).any(is_it)
    }

    /// Every shard of a journal; None where a segment of it is not there.
    pub(super) fn shards_of<'a>(&'a self, journal: &'a Journal, mutant: Option<Mutant>) -> Option<Vec<&'a Shard>> {
        let mut shards: Vec<&Shard> = journal.shards.iter().collect();
        for segment in journal.shards.sealed_segments() {
            match self.folder.segments.get(&segment.name) {
                Some(sealed) => shards.extend(sealed.values()),
                None if mutant == Some(Mutant::AbsentIsNothing) => {}
                None => return None,
            }
        }
        Some(shards)
    }

    pub(super) fn is_submitted(&self) -> bool {
        let all = |j: &Journal| {
            let submitted = |a: &Attempt| matches!(a.state, AttemptState::Submitted { .. });
            let is_done = |s: &Shard| s.reused.is_some() || s.attempt.as_ref().is_some_and(submitted);
            j.plan.is_some() && j.shards.iter().all(is_done)
        };
        self.journal.as_deref().is_some_and(all)
    }

    pub(super) fn is_concluded(&self) -> bool {
        self.folder.manifest.is_some() && self.objects.iter().flatten().any(|o| o.finished && o.lock.is_some())
    }

    /// Whether something bears the name of this work.
    fn is_work(&self, id: &str) -> bool {
        self.journals().any(|j| j.work_id == id)
            || self.folder.staged.iter().any(|(work, _)| work == id)
            || self.folder.manifest.as_ref().is_some_and(|r| r.manifest.work_id == id)
            || self.replicas.iter().any(|r| {
                matches!(&r.doing, Doing::Tidying(work, _) if work == id)
                    || matches!(&r.memory.tidied, Some(tidied) if tidied.work_id == id)
            })
    }

    pub(super) fn is_in_use(&self, id: &str) -> bool {
        self.attempts().any(|a| a.intent_id == id || a.payload.name() == id)
            || self.posts.iter().any(|p| p.intent == id || p.file == id)
            || self.batches.iter().any(|b| b.intent == id || b.file == id || answers_of(&b.id) == id)
            || self.replicas.iter().any(|r| matches!(&r.doing, Doing::Unsure(i) | Doing::Waiting(i) if i == id))
            || self.replicas.iter().any(|r| r.beside.names(id))
            || self.objects.iter().flatten().any(|o| o.answers.ids().any(|(of, _)| of.ends_with(id)))
            || self.objects.iter().flatten().any(|o| o.approves.as_ref().is_some_and(|of| of.ends_with(id)))
            || self.is_work(id)
    }

    pub(super) fn fresh(&self, prefix: &str) -> String {
        (1..).map(|n| format!("{prefix}{n}")).find(|id| !self.is_in_use(id)).unwrap()
    }

    pub(super) fn learn(&mut self, replica: usize, learn: impl FnOnce(&mut Memory)) {
        let mut memory = Memory::clone(&self.replicas[replica].memory);
        learn(&mut memory);
        self.replicas[replica].memory = Shared::new(memory);
    }

    pub(super) fn stage(&mut self, work: &str, shards: Vec<Shard>) {
        let parts = shards.iter().filter_map(|s| s.reused.clone());
        self.folder.parts.extend(parts.map(|part| ((work.into(), part.name), part.sha256)));
        self.folder.staged.extend(shards.into_iter().map(|s| (work.into(), s.sha256)));
    }

    /// What the clock of a replica says.
    pub(super) fn clock(&self, replica: usize) -> i64 {
        self.now + self.replicas[replica].ahead
    }

    /// The name of the work that the journal is about.
    pub(super) fn work(&self) -> String {
        self.journal.as_ref().map(|j| j.work_id.clone()).unwrap_or_default()
    }

    pub(super) fn is_staged(&self, shard: &Shard) -> bool {
        self.folder.staged.contains(&(self.work(), shard.sha256.clone()))
    }

    /// Deletes what was staged for a work, whatever became of it since that was decided.
    pub(super) fn tidy(&mut self, work: &str) {
        let needed = |j: &Journal| {
            let written = self.folder.manifest.as_ref().is_some_and(|r| r.manifest.work_id == work);
            j.work_id == work && !written && (j.closing.is_none() || j.has_intents())
        };
        self.history.tidied_in_need |= self.journal.as_deref().is_some_and(needed);
        self.folder.staged.retain(|(of, _)| of != work);
        self.folder.parts.retain(|(of, _), _| of != work);
    }

    pub(super) fn replace(&mut self, at: usize, object: Option<JobView>, stale: u8) {
        let old = std::mem::replace(&mut self.objects[at], object.map(Shared::new));
        for (i, replica) in self.replicas.iter_mut().enumerate() {
            if replica.sees == at && stale & 1 << i != 0 {
                replica.stale = old.clone().map(|object| (object, self.now));
            }
        }
    }

    pub(super) fn edit_object(&mut self, at: usize, stale: u8, edit: impl FnOnce(&mut JobView)) -> Option<()> {
        let mut object = JobView::clone(self.objects[at].as_ref()?);
        edit(&mut object);
        self.replace(at, Some(object), stale);
        Some(())
    }

    /// Random names are given when they get out, and are the first that nothing mentions: states that differ in names
    /// only are one.
    pub(super) fn named(&mut self, mut write: Write, mutant: Option<Mutant>) -> Write {
        let new_work = write.next.work_id == "?";
        let new_intent = write.intent.as_deref() == Some("?");
        if !new_intent && !new_work {
            return write;
        }
        let mut next = Journal::clone(&write.next);
        if new_work {
            let kept = write.judged.as_ref().filter(|_| mutant == Some(Mutant::KeepsWork));
            next.work_id = kept.map_or_else(|| self.fresh("w"), |judged| judged.work_id.clone());
        }
        let Some(intent) = write.intent.as_mut().filter(|_| new_intent) else {
            return Write { next: Shared::new(next), ..write };
        };
        *intent = self.fresh("i");
        for attempt in next.shards.iter_mut().filter_map(|s| s.attempt.as_mut()).filter(|a| a.intent_id == "?") {
            attempt.intent_id.clone_from(intent);
            if let Payload::File { id: name } | Payload::Object { name } = &mut attempt.payload
                && name.contains('@')
                && !name.contains('#')
            {
                let prefix = format!("{name}#");
                *name = match mutant {
                    Some(Mutant::SameFile) => prefix + "1",
                    _ => self.fresh(&prefix),
                };
                self.deleted_files.remove(name);
            }
        }
        write.next = Shared::new(next);
        write
    }

    pub(super) fn apply(&mut self, write: &Write, mutant: Option<Mutant>) -> bool {
        let is_unjudged = match mutant {
            Some(Mutant::WritesUnjudged) => true,
            Some(Mutant::UnreadAndUnjudged(_)) => write.intent.is_some(),
            _ => false,
        };
        let unjudged = is_unjudged && self.journal.is_some() && write.judged.is_some();
        let applied = unjudged || self.journal == write.judged;
        if applied {
            let taken = self.journal.as_ref().is_some_and(|j| j.owner != write.next.owner);
            self.history.adopted |= taken && write.next.has_intents();
            self.history.approved |= write.next.approval.is_some();
            if write.intent.is_some() {
                self.note_spend(write);
            }
            self.journal = Some(write.next.clone());
        }
        applied
    }
}

/// The name of the file that a batch's answers are in.
pub(super) fn answers_of(batch: &str) -> String {
    format!("answers-{batch}")
}
