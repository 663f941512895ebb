//! The model as the checker explores it, and what must hold.

use super::*;

pub(super) const NO_DOUBLE_PAY: &str = "never pays twice";
pub(super) const NO_LOST_BATCH: &str = "never loses a batch";
pub(super) const NO_LOST_LINE: &str = "results hold every answer that came back";
pub(super) const SUMS_UP: &str = "the outcomes of all lines sum up to their number";
pub(super) const NOTHING_AFTER: &str = "asks for nothing once the journal is closed, or results are there";
pub(super) const NEEDED: &str = "what is staged stays until its results are there, or nothing can be sent";
pub(super) const GIVEN_UP: &str = "asks for nothing once another cluster has the work";
pub(super) const WANTED: &str = "tells no batch to stop that its job wants";
pub(super) const IN_USE: &str = "deletes no file of a batch that is followed and runs";
pub(super) const LOOKED_AFTER: &str = "lets nothing go whose batches run on, and nobody looks after them";
pub(super) const FOR_FREE: &str = "has sent nothing where status says that the failure cost nothing";
pub(super) const STOPPED: &str = "asks for nothing once its job was told to stop";
pub(super) const PAID: &str = "results of a job that was told to stop hold every answer that was paid";
pub(super) const WITHIN_BUDGET: &str = "asks for no batch that the budget has no room for";
pub(super) const WITHIN_LIMITS: &str = "what is spent, reserved and in flight fits into the provider's budget";
pub(super) const APPROVED: &str = "sends nothing behind a canary before the journal says that it is approved";
pub(super) const ASKS_ONCE: &str = "asks for one approval of a canary";
pub(super) const COUNTED: &str =
    "each batch that may be billed is reserved for or counted in the ledger, and counted once";
pub(super) const GOES_ON: &str = "rests only at an end, or where somebody is told";

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.beginning()]
    }

    fn actions(&self, w: &World, out: &mut Vec<Action>) {
        (0..2).for_each(|i| self.replica_actions(w, i, out));
        out.extend(w.late.as_ref().map(|_| Action::LateWrite));
        self.provider_actions(w, out);
        out.push(Action::Tick);
        self.people_actions(w, out);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut w = last.clone();
        match action {
            Action::Act { replica, bad_proof } => {
                w.left.bad_proofs -= u8::from(bad_proof);
                self.act(&mut w, replica, bad_proof)?;
            }
            Action::Write(replica)
            | Action::LoseWrite(replica)
            | Action::Reread(replica)
            | Action::Reply { replica, .. }
            | Action::LoseReply(replica)
            | Action::Decline(replica)
            | Action::Learn(replica)
            | Action::Transfer(replica)
            | Action::ReadShort(replica)
            | Action::LetGo { replica, .. } => self.finish(&mut w, replica, action)?,
            Action::KeepLook(replica) => w.keep_look(replica)?,
            Action::Renew { replica, object } => w.renew(replica, object),
            _ => self.happen(&mut w, action)?,
        }
        Some(w.normalised(self))
    }

    fn within_boundary(&self, w: &World) -> bool {
        let rev = w.journal.as_ref().map_or(0, |j| j.rev);
        w.attempts().all(|a| a.number <= self.attempts) && rev <= self.revisions
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = safety();
        all.extend(self.sights());
        all
    }
}

fn is_about_canary(hold: &Hold) -> bool {
    hold.id.starts_with("canary")
}

fn safety() -> Vec<Property<Protocol>> {
    vec![
        Property::<Protocol>::always(NO_DOUBLE_PAY, |m, w| pays_once(w) && pays_nothing_for_reused(m, w)),
        Property::<Protocol>::always("what is recorded exists, and is what was planned", |_, w| is_real(w)),
        Property::<Protocol>::always(NO_LOST_BATCH, |m, w| {
            w.batches.iter().all(|b| is_known(m, w, b)) || !m.is_at_rest(w)
        }),
        Property::<Protocol>::always(NO_LOST_LINE, |m, w| {
            w.folder.manifest.as_ref().is_none_or(|results| is_whole(m, w, results))
        }),
        Property::<Protocol>::always(GOES_ON, |m, w| (0..2).all(|r| is_at_an_end(m, w, r)) || !m.is_at_rest(w)),
        Property::<Protocol>::always(SUMS_UP, |m, w| {
            let sums_up = |c: &Commit| {
                let r = c.requests;
                let sum = r.succeeded + r.failed + r.expired + r.cancelled + r.missing;
                (sum, r.total) == (m.lines.into(), m.lines.into())
            };
            w.journals().filter_map(|j| j.commit.as_ref()).all(sums_up)
        }),
        Property::<Protocol>::always(GIVEN_UP, |_, w| !w.history.asked_when_taken),
        Property::<Protocol>::always(STOPPED, |_, w| !w.history.asked_when_stopped),
        Property::<Protocol>::always(PAID, |m, w| {
            let holds = |results: &Shared<Results>| w.batches.iter().all(|b| holds_answers_of(results, b));
            m.budget.stops == 0 || w.folder.manifest.as_ref().is_none_or(holds)
        }),
        Property::<Protocol>::always(NEEDED, |_, w| !w.history.tidied_in_need),
        Property::<Protocol>::always(WANTED, |_, w| !w.history.stopped_wanted),
        Property::<Protocol>::always(IN_USE, |_, w| !w.history.deleted_in_use),
        Property::<Protocol>::always(LOOKED_AFTER, |_, w| !w.history.left_running),
        Property::<Protocol>::always(FOR_FREE, |_, w| {
            let failed = |o: &JobView| o.finished && o.lock.is_none();
            let sent = |o: &JobView| w.journal.as_ref().is_some_and(|j| j.owner == o.owner && j.has_intents());
            !w.objects.iter().flatten().any(|o| failed(o) && sent(o))
        }),
        Property::<Protocol>::always(WITHIN_BUDGET, |_, w| !w.history.over_budget),
        Property::<Protocol>::always(WITHIN_LIMITS, |m, w| m.is_within_limit(w)),
        Property::<Protocol>::always(APPROVED, |_, w| !w.history.unapproved),
        Property::<Protocol>::always(ASKS_ONCE, |m, w| {
            let asks =
                |r| matches!(m.intends(w, r), Some(Step::Wait { why, .. }) if why.holds.iter().any(is_about_canary));
            !m.canary || !w.is_sent_behind_canary() || !(0..2).any(asks)
        }),
        Property::<Protocol>::always("results are written once", |_, w| !w.history.replaced),
        Property::<Protocol>::always(NOTHING_AFTER, |_, w| !w.history.asked_when_closed && !w.history.asked_when_done),
        Property::<Protocol>::always(COUNTED, |m, w| m.is_accounted(w)),
        Property::<Protocol>::always("every write is one step forward", |_, w| {
            w.replicas.iter().all(|r| !matches!(&r.doing, Doing::Writing(write) if !is_lawful(write)))
        }),
    ]
}

/// Whether a line may be billed by it: it runs, or it came to a final answer. What a gateway made beside what was asked
/// for is found and told to stop, and more cannot be done.
fn bills(batch: &Batch, line: char) -> bool {
    let lines = parse(&batch.file).1;
    let Some(at) = lines.find(line) else { return false };
    match &batch.state {
        BatchState::Running { told_to_stop } if batch.doubled => !told_to_stop,
        BatchState::Running { .. } => true,
        BatchState::Ended(ends) => matches!(ends.as_bytes()[at], b'Y' | b'F' | b'U'),
        BatchState::Rejected | BatchState::OverTheLimit | BatchState::Forgotten => false,
    }
}

fn pays_once(w: &World) -> bool {
    let once = |a: &Batch, b: &Batch| {
        let ((work, lines), (other, _)) = (parse(&a.file), parse(&b.file));
        let twins = a.intent == b.intent && (a.doubled || b.doubled);
        work != other || twins || lines.chars().all(|line| !bills(a, line) || !bills(b, line))
    };
    w.batches.iter().enumerate().all(|(i, a)| w.batches[..i].iter().all(|b| once(a, b)))
}

/// No batch bills a line that an earlier job was answered.
fn pays_nothing_for_reused(m: &Protocol, w: &World) -> bool {
    let reused = || (0..m.reused).map(|line| char::from(b'0' + line));
    w.batches.iter().all(|batch| reused().all(|line| !bills(batch, line)))
}

fn is_real(w: &World) -> bool {
    let Some(journal) = &w.journal else { return true };
    journal.shards.iter().all(|shard| match &shard.attempt {
        Some(Attempt { intent_id, state: AttemptState::Submitted { batch_id, .. }, .. }) => {
            let is_it = |b: &Batch| b.intent == *intent_id && parse(&b.file) == parse(&shard.sha256);
            w.batches.iter().find(|b| b.id == *batch_id).is_some_and(is_it)
        }
        _ => true,
    })
}

/// Recorded, told to stop or ended; or still asked about. Where the object was created again for other work and refused,
/// the journal's intent names it.
fn is_known(m: &Protocol, w: &World, batch: &Batch) -> bool {
    let refused = w.objects[0].as_ref().is_some_and(|o| o.finished && o.lock.is_none());
    let asked = (0..2).any(|r| m.is_told(w, r));
    let names = |a: &Attempt| match &a.state {
        AttemptState::Submitted { batch_id, .. } | AttemptState::Settled { batch_id, .. } => *batch_id == batch.id,
        AttemptState::Abandoned { batch_id: Some(id) } => *id == batch.id,
        AttemptState::Abandoned { batch_id: None } => a.intent_id == batch.intent,
        _ => (refused || asked) && a.intent_id == batch.intent,
    };
    let twin = |other: &Batch| other.id != batch.id && other.intent == batch.intent;
    let stopped = batch.state != BatchState::Running { told_to_stop: false } && w.batches.iter().any(twin);
    let rejected = matches!(batch.state, BatchState::Rejected | BatchState::OverTheLimit | BatchState::Forgotten);
    // What status named is told to stop; the look for orphans tells of the rest.
    let named = w.objects[0].as_ref().is_some_and(|o| o.batches.contains(&batch.id));
    let told_to_stop = batch.state != BatchState::Running { told_to_stop: false };
    let lost = w.history.journal_lost && (asked || told_to_stop || !named);
    stopped || rejected || lost || w.history.swept || w.has_attempt(names)
}

/// Every answer of a batch that the journal names is in the results, and the counts are theirs.
fn is_whole(m: &Protocol, w: &World, results: &Results) -> bool {
    let ends = |end: char| results.lines.chars().filter(|e| *e == end).count() as i64;
    let r = results.manifest.requests;
    let counted = (r.succeeded, r.failed) == (ends('Y'), ends('F')) && results.lines.len() == usize::from(m.lines);
    let settled = |batch: &Batch| {
        let named = |a: &Attempt| matches!(&a.state, AttemptState::Settled { batch_id, part: Some(_), .. } if *batch_id == batch.id);
        w.has_attempt(named)
    };
    let reused = results.lines.bytes().take(m.reused.into()).all(|end| end == b'Y');
    counted && reused && w.batches.iter().filter(|b| settled(b)).all(|b| holds_answers_of(results, b))
}

fn holds_answers_of(results: &Results, batch: &Batch) -> bool {
    let BatchState::Ended(ends) = &batch.state else { return true };
    let pairs = parse(&batch.file).1.bytes().zip(ends.chars());
    let there = |line: u8| results.lines.chars().nth(usize::from(line - b'0'));
    // What nobody can read has failed.
    let paid = pairs.filter(|(_, end)| matches!(end, 'Y' | 'F' | 'U'));
    paid.into_iter().all(|(line, end)| there(line) == Some(if end == 'U' { 'F' } else { end }))
}

/// Where a replica may rest for good.
fn is_at_an_end(m: &Protocol, w: &World, replica: usize) -> bool {
    let Some(object) = w.object_of(replica) else { return true };
    // Only files at the provider are left, and then the end is written.
    let stops = || object.stop.is_some() && matches!(m.intends(w, replica), Some(Step::DeleteFiles { .. }));
    let submitted = m.until == Until::Submitted && (w.is_submitted() || is_cancelled(w) || stops());
    let ended = object.finished && (object.tidy || object.lock.is_none());
    submitted || ended || object.suspend || object.deleting_since.is_some() || m.is_told(w, replica)
}

fn is_cancelled(w: &World) -> bool {
    let commit = w.journal.as_ref().and_then(|j| j.commit.as_ref());
    commit.is_some_and(|c| c.outcome == Outcome::Cancelled)
}

impl Protocol {
    /// Whether a batch whose creation was not answered is found without a person.
    fn finds(&self) -> bool {
        let can = self.capabilities;
        let has_file = can.payload != PayloadKind::Inline || can.recovery != Recovery::InputFile;
        can.can_repeat() || can.can_search() && has_file
    }

    /// Whether it is found out without a person that there is none.
    fn resolves(&self) -> bool {
        let can = self.capabilities;
        let revocable = can.revocation == Revocation::DeletedPayload && can.payload != PayloadKind::Inline;
        can.can_repeat() || can.can_search() && revocable
    }

    /// What must be seen to happen somewhere, lest the rest holds for nothing.
    /// Whether there is anything to send.
    fn sends(&self) -> bool {
        self.reused < self.lines
    }

    fn sights(&self) -> Vec<Property<Self>> {
        let good = match self.until {
            Until::Submitted => Property::<Self>::sometimes("submitted", |_, w| w.is_submitted()),
            Until::Finished => Property::<Self>::sometimes("finished and tidied", |_, w| {
                w.objects.iter().flatten().any(|o| o.finished && o.tidy && o.lock.is_some())
            }),
        };
        let b = self.budget;
        let may = [
            (
                // Where a deleted file is taken a person is asked instead.
                // Under a budget, or with a canary, not all batches are recorded at a time.
                b.crashes > 0
                    && self.sends()
                    && self.budgeted.is_none()
                    && !self.canary
                    && self.start != Start::Submitted
                    && self.deleted != Deleted::Taken
                    && self.resolves(),
                Property::<Self>::sometimes("submitted after a crash between intent and POST", |_, w| {
                    w.is_submitted() && w.history.crashed_with_permit && !w.history.reply_lost
                }),
            ),
            (
                b.crashes > 0 && self.until == Until::Finished,
                Property::<Self>::sometimes("finished after a crash in the join", |_, w| {
                    w.is_concluded() && w.history.crashed_while_ending
                }),
            ),
            (
                b.lost_replies > 0 && self.start == Start::New && self.finds(),
                Property::<Self>::sometimes("submitted after a lost reply", |_, w| {
                    w.is_submitted() && w.history.reply_lost
                }),
            ),
            (
                b.declines > 0,
                Property::<Self>::sometimes("submitted after a refusal that proves nothing", |_, w| {
                    w.is_submitted() && w.history.declined && w.attempts().any(|a| a.number > 1)
                }),
            ),
            (
                b.token_limits > 0,
                Property::<Self>::sometimes("submitted in halves", |_, w| {
                    w.is_submitted() && w.journal.as_ref().is_some_and(|j| j.shards.len() > 1)
                }),
            ),
            (
                b.recreations > 0 && self.sends() && self.other.is_none(),
                Property::<Self>::sometimes("adopted by an object that was created again", |_, w| w.history.adopted),
            ),
            (
                b.doubles > 0,
                Property::<Self>::sometimes("what a gateway made beside it is told to stop", |_, w| {
                    w.batches.iter().any(|b| b.state == BatchState::Running { told_to_stop: true })
                }),
            ),
            (
                b.answers > 0 && self.until == Until::Submitted && self.other.is_none(),
                Property::<Self>::sometimes("submitted after an answer", |_, w| w.is_submitted() && w.history.answered),
            ),
            (
                b.answers > 0 && b.losses > 0,
                Property::<Self>::sometimes("sent again on a person's word", |_, w| {
                    w.is_concluded() && w.history.answered && w.batches.len() > 1
                }),
            ),
            (
                b.answers > 0 && self.other == Some(Other::Copy),
                Property::<Self>::sometimes("goes on in the other cluster", |m, w| {
                    let taken = w.journal.as_ref().is_some_and(|j| j.owner.cluster == "c2" && j.taken_over.is_some());
                    taken && if m.until == Until::Finished { w.is_concluded() } else { w.is_submitted() }
                }),
            ),
            (
                b.answers > 1 && self.other == Some(Other::Copy),
                Property::<Self>::sometimes("taken back", |_, w| {
                    w.journal.as_ref().is_some_and(|j| j.owner.cluster == "c" && j.taken_over.is_some())
                }),
            ),
            (
                self.other == Some(Other::Neighbour),
                Property::<Self>::sometimes("taken by a neighbour", |_, w| {
                    w.is_submitted() && w.journal.as_ref().is_some_and(|j| j.owner.name == "k")
                }),
            ),
            (
                b.deletions > 0 && self.until == Until::Finished,
                Property::<Self>::sometimes("let go with its results and nothing staged", |_, w| {
                    let nothing = w.folder.staged.is_empty() && w.folder.parts.is_empty();
                    w.objects[0].is_none() && w.folder.manifest.is_some() && nothing
                }),
            ),
            (
                b.expiries > 0,
                Property::<Self>::sometimes("another round", |_, w| w.journal.as_ref().is_some_and(|j| j.round() > 0)),
            ),
            (
                b.short_readings > 0,
                Property::<Self>::sometimes("read again, and whole", |m, w| {
                    w.is_concluded() && w.left.short_readings == 0 && w.batches.len() == usize::from(m.lines)
                }),
            ),
            (
                b.garbles > 0,
                Property::<Self>::sometimes("failed with an answer that nobody can read", |_, w| {
                    let garbled = |b: &Batch| matches!(&b.state, BatchState::Ended(ends) if ends.contains('U'));
                    w.is_concluded() && w.batches.iter().any(garbled)
                }),
            ),
            (
                b.lost_journals > 0 && b.answers > 0,
                Property::<Self>::sometimes("given up once its journal was lost", |_, w| {
                    let failed = |r: &Shared<Results>| r.manifest.outcome == Outcome::Failed;
                    w.history.journal_lost && w.is_concluded() && w.folder.manifest.as_ref().is_some_and(failed)
                }),
            ),
            (
                self.deadline.is_some() && self.abandon_after < NEVER,
                Property::<Self>::sometimes("ended without a batch that did not end", |_, w| {
                    w.is_concluded() && w.journal.as_ref().is_some_and(|j| j.abandoned_batches().next().is_some())
                }),
            ),
            (
                // A batch that is awaited and answered leaves nothing to send.
                b.stops > 0 && self.until == Until::Finished && (self.stop == StopPolicy::Cancel || b.expiries > 0),
                Property::<Self>::sometimes("ended as it was told to", |_, w| {
                    let cancelled = |r: &Shared<Results>| r.manifest.outcome == Outcome::Cancelled;
                    w.is_concluded() && w.folder.manifest.as_ref().is_some_and(cancelled)
                }),
            ),
            (
                self.canary && b.answers > 0,
                Property::<Self>::sometimes("approved, and sent", |_, w| {
                    w.history.approved && w.is_sent_behind_canary()
                }),
            ),
            (
                self.budgeted.is_some_and(|usd| usd < 2 * self.lines),
                Property::<Self>::sometimes("kept waiting by its budget", |m, w| {
                    let waits =
                        |r| matches!(m.intends(w, r), Some(Step::Wait { why, .. }) if why.stage == "WaitingForBudget");
                    (0..2).any(waits)
                }),
            ),
            (
                b.sweeps > 0,
                Property::<Self>::sometimes("swept, and its results found again", |_, w| {
                    w.history.swept && w.is_concluded()
                }),
            ),
        ];
        may.into_iter().filter(|(may, _)| *may).map(|(_, sight)| sight).chain([good]).collect()
    }
}
