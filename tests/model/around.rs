//! What happens around replicas: at the provider, in the network, among people.

use super::*;

/// How a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum How {
    /// Every line is answered.
    Answered,
    /// The first line was not executed in time.
    Expired,
    /// The first line failed for good.
    Failed,
    /// The answer of the first line cannot be read.
    Garbled,
    /// Turned away as a whole.
    Rejected,
    /// The same, for its tokens.
    OverTheLimit,
    /// It was told to stop, and no line was executed.
    Cancelled,
}

impl Protocol {
    pub(super) fn provider_actions(&self, w: &World, out: &mut Vec<Action>) {
        let posts = 0..w.posts.len();
        out.extend(posts.clone().map(|post| Action::Arrive { post, twice: false }));
        if w.left.doubles > 0 {
            out.extend(posts.clone().map(|post| Action::Arrive { post, twice: true }));
        }
        if self.deleted == Deleted::TakenUnseen {
            out.extend(posts.clone().map(Action::Vanish));
        }
        if w.left.refusals > 0 {
            out.extend(posts.filter(|i| self.is_welcome(w, &w.posts[*i])).map(Action::Refuse));
        }
        out.extend((0..w.batches.len()).filter(|i| !w.batches[*i].listed).map(Action::List));
        if w.left.losses > 0 {
            let runs = |i: &usize| matches!(w.batches[*i].state, BatchState::Running { .. });
            out.extend((0..w.batches.len()).filter(runs).map(Action::Forget));
        }
        if self.until == Until::Finished {
            out.extend((0..w.batches.len()).flat_map(|batch| ends(w, batch)));
        } else if w.left.token_limits > 0 {
            let over = |action: &Action| matches!(action, Action::End { how: How::OverTheLimit, .. });
            out.extend((0..w.batches.len()).flat_map(|batch| ends(w, batch)).filter(over));
        }
    }

    pub(super) fn people_actions(&self, w: &World, out: &mut Vec<Action>) {
        out.extend((w.left.rivals > 0).then_some(Action::Rival));
        let readers = || readers(w, 0);
        if w.left.recreations > 0 {
            out.extend(readers().map(|stale| Action::Recreate { edited: false, stale }));
            if w.left.edits > 0 {
                out.extend(readers().map(|stale| Action::Recreate { edited: true, stale }));
            }
        }
        if w.left.new_sources > 0 {
            out.push(Action::ChangeSource);
        }
        if w.left.rotations > 0 {
            out.extend(readers().map(|stale| Action::Rotate { stale }));
        }
        if w.left.answers > 0 {
            out.extend((0..self.answers_to_holds(w).len()).map(Action::Answer));
        }
        let Some(object) = &w.objects[0] else { return };
        if w.left.edits > 0 && object.lock.is_none() && object.deleting_since.is_none() {
            out.extend(readers().map(|stale| Action::Edit { stale }));
        }
        if w.left.drifts > 0 && object.lock.is_some() && !object.finished {
            out.extend(readers().map(|stale| Action::Drift { stale }));
        }
        if w.left.flips > 0 {
            out.extend(readers().map(|stale| Action::Flip { stale }));
        }
        if w.left.stops > 0 {
            out.extend(readers().map(|stale| Action::Stop { stale }));
        }
        if w.left.changes_of_mind > 0 {
            out.extend(readers().map(|stale| Action::ChangeMind { stale }));
        }
        if w.left.limits > 0 {
            out.extend(readers().map(|stale| Action::ChangeLimit { stale }));
        }
        if w.left.budget_changes > 0 {
            out.extend(readers().map(|stale| Action::ChangeBudget { stale }));
        }
        if w.left.restores > 0 && object.deleting_since.is_none() {
            for wiped in [false, true] {
                out.extend(readers().map(|stale| Action::Restore { wiped, stale }));
            }
        }
        if w.left.deletions > 0 && object.deleting_since.is_none() && object.finalizer {
            out.extend(readers().map(|stale| Action::Delete { stale }));
        }
        if w.left.sweeps > 0 && w.is_concluded() && object.tidy {
            out.push(Action::Sweep);
        }
        if w.left.lost_journals > 0 && object.remembered.is_some() && !object.finished && w.journal.is_some() {
            out.push(Action::LoseJournal);
        }
    }

    pub(super) fn happen(&self, w: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Crash(replica) => {
                w.left.crashes -= 1;
                w.history.crashed_with_permit |= w.replicas[replica].memory.permit.is_some();
                w.history.crashed_while_ending |= matches!(w.replicas[replica].doing, Doing::Joining(..));
                let Replica { sees, ahead, .. } = w.replicas[replica];
                let since = if self.budget.clock_sets > 0 { w.clock(replica) } else { 0 };
                w.replicas[replica] = Replica { sees, ahead, since, ..Replica::default() };
            }
            Action::SetClock { replica, by } => {
                w.left.clock_sets -= 1;
                w.replicas[replica].ahead += by;
                w.replicas[replica].since = w.clock(replica);
            }
            Action::LateWrite => {
                let write = w.late.take()?;
                w.apply(&write, None);
            }
            Action::Tick => self.tick(w)?,
            Action::Rival => self.compete(w)?,
            Action::Arrive { .. }
            | Action::Vanish(_)
            | Action::Refuse(_)
            | Action::List(_)
            | Action::Forget(_)
            | Action::End { .. } => {
                self.happen_at_the_provider(w, action)?;
            }
            Action::Sweep => {
                w.left.sweeps -= 1;
                w.history.swept = true;
                w.journal = None;
                w.folder = Folder { manifest: w.folder.manifest.take(), ..Folder::default() };
            }
            Action::LoseJournal => {
                w.left.lost_journals -= 1;
                w.history.journal_lost = true;
                w.journal = None;
            }
            _ => self.happen_to_the_object(w, action)?,
        }
        Some(())
    }

    /// Whether the provider would make a batch of it: it knows the file, under that credential.
    fn is_welcome(&self, w: &World, post: &Post) -> bool {
        let exists = self.deleted != Deleted::Refused || !w.deleted_files.contains(&post.file);
        let of = credential_of(&post.file);
        exists && (of == post.credential || of.is_empty())
    }

    /// Whether the provider answers with a batch that it made of the same POST before.
    fn is_known_already(&self, w: &World, post: &Post) -> bool {
        let made = |b: &Batch| b.intent == post.intent && b.credential == post.credential;
        self.capabilities.can_repeat() && w.batches.iter().any(made)
    }

    fn happen_at_the_provider(&self, w: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Arrive { post, twice } => {
                w.left.doubles -= u8::from(twice);
                w.history.doubled |= twice;
                let post = w.posts.remove(post);
                if self.is_welcome(w, &post) && !self.is_known_already(w, &post) {
                    let retried = self.mutant == Some(Mutant::RetriesPost);
                    w.create(&post, false);
                    (0..u8::from(twice)).for_each(|_| w.create(&post, true));
                    (0..u8::from(retried)).for_each(|_| w.create(&post, false));
                }
            }
            Action::Vanish(post) => _ = w.posts.remove(post),
            Action::Refuse(post) => {
                w.left.refusals -= 1;
                w.posts.remove(post);
            }
            Action::List(batch) => w.batches[batch].listed = true,
            Action::Forget(batch) => {
                w.left.losses -= 1;
                w.batches[batch].state = BatchState::Forgotten;
            }
            Action::End { batch, how } => {
                w.left.expiries -= u8::from(how == How::Expired);
                w.left.failures -= u8::from(how == How::Failed);
                w.left.rejections -= u8::from(how == How::Rejected);
                w.left.token_limits -= u8::from(how == How::OverTheLimit);
                w.left.garbles -= u8::from(how == How::Garbled);
                if self.budget.short_readings > 0 {
                    w.batches[batch].ended_at = w.now;
                }
                w.batches[batch].state = ended(&w.batches[batch].file, how);
            }
            _ => return None,
        }
        Some(())
    }

    fn happen_to_the_object(&self, w: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Recreate { edited, stale } => {
                w.left.recreations -= 1;
                w.left.edits -= u8::from(edited);
                let uid = 1 + self.budget.recreations - w.left.recreations;
                let fingerprint = w.objects[0].as_ref().map_or("k".into(), |o| o.fingerprint.clone());
                let new =
                    JobView { fingerprint, deadline: None, ..self.new_object(uid, if edited { "B" } else { "A" }) };
                w.replace(0, Some(new), stale);
            }
            Action::Restore { wiped, stale } => {
                w.left.restores -= 1;
                w.edit_object(0, stale, |o| {
                    (o.finished, o.tidy, o.submitted, o.pinned) = (false, false, false, !wiped);
                    o.lock = o.lock.take().filter(|_| !wiped);
                })?;
            }
            Action::Edit { stale } => {
                w.left.edits -= 1;
                w.edit_object(0, stale, |o| (o.spec_hash, o.finished, o.tidy) = ("B".into(), false, false))?;
                // What was found out before the spec was mended is of no use now.
                w.replicas.iter_mut().for_each(|r| r.of.clear());
            }
            Action::Drift { stale } => {
                w.left.drifts -= 1;
                w.edit_object(0, stale, |o| o.spec_hash = if o.spec_hash == "A" { "B" } else { "A" }.into())?;
            }
            Action::ChangeSource => {
                w.left.new_sources -= 1;
                w.new_source = !w.new_source;
            }
            Action::Flip { stale } => {
                w.left.flips -= 1;
                w.edit_object(0, stale, |o| o.suspend = !o.suspend)?;
            }
            Action::Stop { stale } => {
                w.left.stops -= 1;
                w.edit_object(0, stale, |o| o.stop = Some(o.stop.map_or(self.stop, |_| StopPolicy::Cancel)))?;
            }
            Action::ChangeMind { stale } => {
                w.left.changes_of_mind -= 1;
                w.edit_object(0, stale, |o| {
                    o.deletion_policy = match o.deletion_policy {
                        DeletionPolicy::Cancel => DeletionPolicy::Orphan,
                        DeletionPolicy::Orphan => DeletionPolicy::Cancel,
                    }
                })?;
            }
            Action::ChangeLimit { stale } => {
                w.left.limits -= 1;
                w.edit_object(0, stale, |o| o.max_failed = o.max_failed.xor(Some(MaxFailed::Count(0))))?;
            }
            Action::ChangeBudget { stale } => {
                w.left.budget_changes -= 1;
                let low = self.budgeted.map(money::limit);
                let high = Some(money::limit(2 * self.lines));
                w.edit_object(0, stale, |o| o.budget = if o.budget == low { high } else { low })?;
            }
            Action::Delete { stale } => {
                w.left.deletions -= 1;
                let now = w.now;
                w.edit_object(0, stale, |o| o.deleting_since = Some(now))?;
            }
            Action::Rotate { stale } => {
                w.left.rotations -= 1;
                w.edit_object(0, stale, |o| o.fingerprint = if o.fingerprint == "k" { "x" } else { "k" }.into())?;
            }
            Action::Answer(i) => {
                w.left.answers -= 1;
                w.history.answered = true;
                let (at, question, answer) = self.answers_to_holds(w).swap_remove(i);
                w.edit_object(at, 0, |o| match question.starts_with("canary") {
                    true => o.approves = Some(answer),
                    false => o.answers = Answers::one(&question, &answer),
                })?;
            }
            _ => return None,
        }
        Some(())
    }

    /// What people who look at the provider may say to the holds of the moment: of which object, to which question, and what.
    fn answers_to_holds(&self, w: &World) -> Vec<(usize, String, String)> {
        let unanswered = |r: &usize| w.object_of(*r).is_some_and(|o| o.answers == Answers::default());
        let idle = (0..2).filter(|r| w.replicas[*r].doing == Doing::Nothing).filter(unanswered);
        let holds = idle.filter_map(|r| match self.intends(w, r)? {
            Step::Wait { why, .. } => Some(why.holds.into_iter().map(move |hold| (w.replicas[r].sees, hold.id))),
            _ => None,
        });
        let mut answers = vec![];
        for (at, question) in holds.flatten() {
            let Some(object) = &w.objects[at] else { continue };
            let of = |answer: String| (at, question.clone(), answer);
            answers.extend(self.answers_to(w, object, &question).into_iter().map(of));
        }
        answers.sort();
        answers.dedup();
        answers
    }

    /// Who says that there is no batch also knows, where the file cannot be deleted any more, that none is on its way; and
    /// who has requests sent again, that the batch is not there.
    fn answers_to(&self, w: &World, object: &JobView, question: &str) -> Vec<String> {
        let (kind, intent) = question.split_once('-').unwrap_or((question, ""));
        let exists = w.batches.iter().find(|b| b.intent == intent && b.state != BatchState::Forgotten);
        let stays = |p: &Post| self.deleted != Deleted::Refused || p.credential != object.fingerprint;
        let comes = w.posts.iter().any(|p| p.intent == intent && stays(p))
            || w.replicas.iter().any(|r| r.memory.permit.as_deref() == Some(intent));
        match (kind, exists) {
            ("owner", _) => vec!["take".into()],
            ("journal", _) => vec!["abandon".into()],
            ("canary", _) => vec![question.into()],
            ("lost", None) if !comes => vec!["lost".into(), "resend".into()],
            ("lost", _) => vec!["lost".into()],
            (_, Some(batch)) => vec![format!("adopt:{}", batch.id)],
            (_, None) if !comes => vec!["none".into()],
            (_, None) => vec![],
        }
    }
}

impl World {
    fn create(&mut self, post: &Post, doubled: bool) {
        let Post { intent, file, credential, .. } = post.clone();
        let id = format!("b{}", self.batches.len());
        let state = BatchState::Running { told_to_stop: false };
        self.batches.push(Batch {
            id,
            intent,
            file,
            credential,
            at: self.now,
            listed: false,
            doubled,
            ended_at: 0,
            state,
        });
    }
}

fn ends(w: &World, batch: usize) -> Vec<Action> {
    let BatchState::Running { told_to_stop } = w.batches[batch].state else { return vec![] };
    let mut ends = vec![How::Answered];
    let may = [
        (told_to_stop, How::Cancelled),
        (w.left.expiries > 0, How::Expired),
        (w.left.failures > 0, How::Failed),
        (w.left.rejections > 0, How::Rejected),
        (w.left.token_limits > 0, How::OverTheLimit),
        (w.left.garbles > 0, How::Garbled),
    ];
    ends.extend(may.into_iter().filter(|(may, _)| *may).map(|(_, how)| how));
    ends.into_iter().map(|how| Action::End { batch, how }).collect()
}

/// A letter a line: (Y)es, (F)ailed, (E)xpired, (C)ancelled, or answered (U)nreadably.
fn ended(file: &str, how: How) -> BatchState {
    let lines = parse(file).1.len();
    let first = |letter: &str| BatchState::Ended(letter.to_string() + &"Y".repeat(lines - 1));
    match how {
        How::Answered => first("Y"),
        How::Expired => first("E"),
        How::Failed => first("F"),
        How::Garbled => first("U"),
        How::Cancelled => BatchState::Ended("C".repeat(lines)),
        How::Rejected => BatchState::Rejected,
        How::OverTheLimit => BatchState::OverTheLimit,
    }
}
