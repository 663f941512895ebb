//! What may happen next.

use super::*;

/// What replicas do, and what becomes of it.
impl Protocol {
    pub(super) fn replica_actions(&self, w: &World, i: usize, out: &mut Vec<Action>) {
        let replica = &w.replicas[i];
        match &replica.doing {
            Doing::Nothing => {
                out.push(Action::Act { replica: i, bad_proof: false });
                if w.left.bad_proofs > 0 && replica.memory.store_proved.is_none() {
                    out.push(Action::Act { replica: i, bad_proof: true });
                }
            }
            Doing::Writing(_) => {
                out.push(Action::Write(i));
                if w.left.lost_writes > 0 && w.late.is_none() {
                    out.push(Action::LoseWrite(i));
                }
            }
            Doing::Unsure(_) => out.push(Action::Reread(i)),
            Doing::Waiting(intent) => {
                if w.posts.iter().all(|p| p.intent != *intent) {
                    out.push(Action::Reply(i));
                }
                if w.left.lost_replies > 0 {
                    out.push(Action::LoseReply(i));
                }
            }
            Doing::LettingGo(_) => out.extend(readers(w).map(|stale| Action::LetGo { replica: i, stale })),
        }
        if w.left.crashes > 0 && (replica.doing != Doing::Nothing || *replica.memory != Memory::default()) {
            out.push(Action::Crash(i));
        }
    }

    pub(super) fn write(&self, w: &mut World, replica: usize, write: Write) {
        let write = w.named(write);
        if w.apply(&write, self.mutant) && write.intent.is_some() {
            w.learn(replica, |m| m.permit = write.intent);
        }
    }

    pub(super) fn lose_write(&self, w: &mut World, replica: usize, write: Write) {
        w.left.lost_writes -= 1;
        let write = w.named(write);
        if let Some(intent) = &write.intent {
            w.replicas[replica].doing = Doing::Unsure(intent.clone());
        }
        w.late = Some(write);
    }

    pub(super) fn reply(&self, w: &mut World, replica: usize, intent: String) {
        let batch = w.batches.iter().find(|b| b.intent == intent);
        let reply = match batch {
            Some(batch) => Posted::Created(batch.id.clone()),
            None if w.left.refusals < self.budget.refusals => Posted::Refused(Refusal::Capacity, String::new()),
            None => Posted::Refused(Refusal::Invalid, String::new()),
        };
        w.learn(replica, |m| _ = m.posted.insert(intent, reply));
    }

    pub(super) fn lose_reply(&self, w: &mut World, replica: usize, intent: String) {
        w.left.lost_replies -= 1;
        w.history.reply_lost = true;
        let reply = match self.mutant {
            Some(Mutant::LostIsRefused) => Posted::Refused(Refusal::Capacity, String::new()),
            _ => Posted::Unknown(String::new()),
        };
        w.learn(replica, |m| _ = m.posted.insert(intent, reply));
    }

    /// What a replica was doing comes to its end.
    pub(super) fn finish(&self, w: &mut World, replica: usize, action: Action) -> Option<()> {
        match (std::mem::take(&mut w.replicas[replica].doing), action) {
            (Doing::Writing(write), Action::Write(_)) => self.write(w, replica, write),
            (Doing::Writing(write), Action::LoseWrite(_)) => self.lose_write(w, replica, write),
            (Doing::Unsure(intent), Action::Reread(_)) => {
                if w.attempt().is_some_and(|a| a.intent_id == intent && a.state == AttemptState::Intended) {
                    w.learn(replica, |m| m.permit = Some(intent));
                }
            }
            (Doing::Waiting(intent), Action::Reply(_)) => self.reply(w, replica, intent),
            (Doing::Waiting(intent), Action::LoseReply(_)) => self.lose_reply(w, replica, intent),
            (Doing::LettingGo(judged), Action::LetGo { stale, .. }) if w.object.as_ref() == Some(&judged) => {
                w.replace(None, stale);
            }
            (Doing::LettingGo(_), Action::LetGo { .. }) => {}
            _ => return None,
        }
        Some(())
    }
}

/// What happens around them.
impl Protocol {
    pub(super) fn provider_actions(&self, w: &World, out: &mut Vec<Action>) {
        out.extend((0..w.posts.len()).map(Action::Arrive));
        if w.left.refusals > 0 {
            out.extend((0..w.posts.len()).filter(|i| !w.deleted_files.contains(&w.posts[*i].file)).map(Action::Refuse));
        }
        out.extend((0..w.batches.len()).filter(|i| !w.batches[*i].listed).map(Action::List));
    }

    pub(super) fn people_actions(&self, w: &World, out: &mut Vec<Action>) {
        if w.left.recreations > 0 {
            out.extend(readers(w).map(|stale| Action::Recreate { edited: false, stale }));
            if w.left.edits > 0 {
                out.extend(readers(w).map(|stale| Action::Recreate { edited: true, stale }));
            }
        }
        let Some(object) = &w.object else { return };
        if w.left.edits > 0 && object.finished {
            out.extend(readers(w).map(|stale| Action::Edit { stale }));
        }
        if w.left.flips > 0 {
            out.extend(readers(w).map(|stale| Action::Flip { stale }));
        }
        if w.left.deletions > 0 && object.deleting_since.is_none() && object.finalizer {
            out.extend(readers(w).map(|stale| Action::Delete { stale }));
        }
    }

    pub(super) fn happen(&self, w: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Crash(replica) => {
                w.left.crashes -= 1;
                w.history.crashed_with_permit |= w.replicas[replica].memory.permit.is_some();
                w.replicas[replica] = Replica::default();
            }
            Action::LateWrite => {
                let write = w.late.take()?;
                w.apply(&write, None);
            }
            Action::Arrive(i) => {
                let Post { intent, file } = w.posts.remove(i);
                if !w.deleted_files.contains(&file) {
                    let id = format!("b{}", w.batches.len());
                    w.batches.push(Batch { id, intent, file, at: w.now, listed: false });
                }
            }
            Action::Refuse(i) => {
                w.left.refusals -= 1;
                w.posts.remove(i);
            }
            Action::List(i) => w.batches[i].listed = true,
            Action::Tick => self.tick(w)?,
            Action::Recreate { edited, stale } => {
                w.left.recreations -= 1;
                w.left.edits -= u8::from(edited);
                let uid = 1 + self.budget.recreations - w.left.recreations;
                w.replace(Some(self.new_object(uid, if edited { "B" } else { "A" })), stale);
            }
            Action::Edit { stale } => {
                w.left.edits -= 1;
                w.edit_object(stale, |o| (o.spec_hash, o.finished) = ("B".into(), false))?;
            }
            Action::Flip { stale } => {
                w.left.flips -= 1;
                w.edit_object(stale, |o| o.suspend = !o.suspend)?;
            }
            Action::Delete { stale } => {
                w.left.deletions -= 1;
                let now = w.now;
                w.edit_object(stale, |o| o.deleting_since = Some(now))?;
            }
            _ => return None,
        }
        Some(())
    }
}

/// Every choice of replicas that may have read the object just before it changes.
fn readers(w: &World) -> impl Iterator<Item = u8> {
    let may = |i: usize| w.replicas[i].doing == Doing::Nothing && w.replicas[i].stale.is_none();
    let able = u8::from(may(0)) | u8::from(may(1)) << 1;
    (0..4u8).filter(move |set| set & !able == 0)
}
