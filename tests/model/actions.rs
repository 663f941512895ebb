//! What replicas do, and what becomes of it.

use super::*;

/// `stale` is a set of replicas, by bits: those that read the object just before it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Act {
        replica: usize,
        bad_proof: bool,
    },
    Write(usize),
    LoseWrite(usize),
    LateWrite,
    Reread(usize),
    LetGo {
        replica: usize,
        stale: u8,
    },
    Transfer(usize),
    /// Fetches files that are not whole yet.
    ReadShort(usize),
    Crash(usize),
    Arrive {
        post: usize,
        twice: bool,
    },
    Vanish(usize),
    Refuse(usize),
    Reply {
        replica: usize,
        batch: Option<usize>,
    },
    LoseReply(usize),
    Decline(usize),
    /// A call that ran beside its decisions teaches the replica what it found.
    Learn(usize),
    List(usize),
    End {
        batch: usize,
        how: How,
    },
    Tick,
    SetClock {
        replica: usize,
        by: i64,
    },
    Recreate {
        edited: bool,
        stale: u8,
    },
    Restore {
        wiped: bool,
        stale: u8,
    },
    Edit {
        stale: u8,
    },
    Drift {
        stale: u8,
    },
    ChangeSource,
    Flip {
        stale: u8,
    },
    Stop {
        stale: u8,
    },
    ChangeMind {
        stale: u8,
    },
    ChangeLimit {
        stale: u8,
    },
    ChangeBudget {
        stale: u8,
    },
    Delete {
        stale: u8,
    },
    Rotate {
        stale: u8,
    },
    Answer(usize),
    Forget(usize),
    Sweep,
    LoseJournal,
    /// Another work reserves for a batch, or its batch ends.
    Rival,
    /// From now on the replica decides on what it saw now.
    KeepLook(usize),
    /// It sees the object, or the journal, anew.
    Renew {
        replica: usize,
        object: bool,
    },
}

impl Protocol {
    pub(super) fn replica_actions(&self, w: &World, i: usize, out: &mut Vec<Action>) {
        self.look_actions(w, i, out);
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
                out.extend(replies(w, i, intent));
                if w.left.lost_replies > 0 {
                    out.push(Action::LoseReply(i));
                }
                if w.left.declines > 0 {
                    out.push(Action::Decline(i));
                }
            }
            Doing::Collecting(..) | Doing::Joining(..) | Doing::Staging(_) | Doing::Sealing | Doing::Tidying(..) => {
                out.push(Action::Transfer(i));
                out.extend(self.may_read_short(w, i).then_some(Action::ReadShort(i)));
            }
            Doing::LettingGo(_) => {
                out.extend(readers(w, replica.sees).map(|stale| Action::LetGo { replica: i, stale }));
            }
        }
        if let Some((_, intent, _)) = &replica.beside.post {
            out.extend(replies(w, i, intent));
            out.extend((w.left.lost_replies > 0).then_some(Action::LoseReply(i)));
            out.extend((w.left.declines > 0).then_some(Action::Decline(i)));
        }
        out.extend(replica.beside.found.as_ref().map(|_| Action::Learn(i)));
        let is_idle = replica.doing == Doing::Nothing && replica.beside == Beside::default();
        if w.left.clock_sets > 0 {
            out.extend([FAR, -FAR].map(|by| Action::SetClock { replica: i, by }));
        }
        if w.left.crashes > 0 && (!is_idle || *replica.memory != Memory::default()) {
            out.push(Action::Crash(i));
        }
    }

    pub(super) fn write(&self, w: &mut World, replica: usize, write: Write) {
        let write = w.named(write, self.mutant);
        if !w.apply(&write, self.mutant) {
            return;
        }
        if let Some(judged) = &write.judged {
            w.learn(replica, |m| m.keep_reservation(judged, &write.next));
        }
        if let (Some(Mutant::StagesAfter), Some(judged)) = (self.mutant, &write.judged)
            && let Some(shard) = write.next.shards.get(judged.shards.len()).filter(|s| s.round > 0)
        {
            w.replicas[replica].doing = Doing::Staging(shard.sha256.clone());
        }
        if w.folder.segments.keys().any(|name| name.starts_with(UNSTORED)) {
            w.replicas[replica].doing = Doing::Sealing;
        }
        if write.intent.is_some() {
            w.learn(replica, |m| m.permit = write.intent);
        }
    }

    fn lose_write(&self, w: &mut World, replica: usize, write: Write) {
        w.left.lost_writes -= 1;
        let write = w.named(write, self.mutant);
        if let Some(intent) = &write.intent {
            w.replicas[replica].doing = Doing::Unsure(intent.clone());
        }
        w.late = Some(write);
    }

    fn reply(&self, w: &mut World, replica: usize, intent: String, batch: Option<usize>) {
        let reply = match batch {
            Some(batch) => PostResult::Created(w.batches[batch].id.clone()),
            // The network lost it.
            None if self.deleted == Deleted::TakenUnseen => PostResult::Unknown(String::new()),
            None if w.left.refusals < self.budget.refusals => PostResult::Refused(rejection(Refusal::Capacity)),
            None => PostResult::Refused(rejection(Refusal::Invalid)),
        };
        w.learn(replica, |m| _ = m.posted.insert(intent, reply));
    }

    fn lose_reply(&self, w: &mut World, replica: usize, intent: String) {
        w.left.lost_replies -= 1;
        w.history.reply_lost = true;
        let reply = match self.mutant {
            Some(Mutant::LostIsRefused) => PostResult::Refused(rejection(Refusal::Capacity)),
            _ => PostResult::Unknown(String::new()),
        };
        w.learn(replica, |m| _ = m.posted.insert(intent, reply));
    }

    /// The POST may have made a batch, or may yet.
    fn decline(&self, w: &mut World, replica: usize, intent: String) {
        w.left.declines -= 1;
        w.history.declined = true;
        let reply = match self.mutant {
            Some(Mutant::DeclinedIsRefused) => PostResult::Refused(rejection(Refusal::Capacity)),
            _ => PostResult::Declined(rejection(Refusal::Capacity)),
        };
        w.learn(replica, |m| _ = m.posted.insert(intent, reply));
    }

    /// The reply to a POST that ran beside the replica's decisions; who works on another object by now does not hear of it.
    fn finish_beside(&self, w: &mut World, replica: usize, action: Action) -> Option<()> {
        if action == Action::Learn(replica) {
            let (attempt_key, credential, finding) = w.replicas[replica].beside.found.take()?;
            w.learn(replica, |m| {
                m.running.remove(&Task::Call(attempt_key));
                match finding {
                    _ if m.fingerprint != credential => {}
                    Finding::Search(intent, search) => _ = m.searches.insert(intent, search),
                    Finding::Revoked(file, at) => _ = m.revoked.insert(file, at),
                }
            });
            return Some(());
        }
        let (attempt_key, intent, of) = w.replicas[replica].beside.post.take()?;
        let before = w.replicas[replica].memory.clone();
        match action {
            Action::Reply { batch, .. } => self.reply(w, replica, intent, batch),
            Action::LoseReply(_) => self.lose_reply(w, replica, intent),
            Action::Decline(_) => self.decline(w, replica, intent),
            _ => return None,
        }
        match w.replicas[replica].of == of {
            true => w.learn(replica, |m| _ = m.running.remove(&Task::Post(attempt_key))),
            false => w.replicas[replica].memory = before,
        }
        Some(())
    }

    /// What a replica was doing comes to its end.
    pub(super) fn finish(&self, w: &mut World, replica: usize, action: Action) -> Option<()> {
        let is_reply = matches!(action, Action::Reply { .. } | Action::LoseReply(_) | Action::Decline(_));
        if action == Action::Learn(replica) || is_reply && w.replicas[replica].beside.post.is_some() {
            return self.finish_beside(w, replica, action);
        }
        match (std::mem::take(&mut w.replicas[replica].doing), action) {
            (Doing::Writing(write), Action::Write(_)) => self.write(w, replica, write),
            (Doing::Writing(write), Action::LoseWrite(_)) => self.lose_write(w, replica, write),
            (Doing::Unsure(intent), Action::Reread(_)) => {
                let landed = |a: &Attempt| a.intent_id == intent && a.state == AttemptState::Intended;
                if w.journal.as_deref().is_some_and(|j| attempts(j).any(landed)) {
                    w.learn(replica, |m| m.permit = Some(intent));
                }
            }
            (Doing::Waiting(intent), Action::Reply { batch, .. }) => self.reply(w, replica, intent, batch),
            (Doing::Waiting(intent), Action::LoseReply(_)) => self.lose_reply(w, replica, intent),
            (Doing::Waiting(intent), Action::Decline(_)) => self.decline(w, replica, intent),
            (Doing::Collecting(attempt_key, batch), Action::Transfer(_)) => {
                self.collect(w, replica, attempt_key, &batch, false)
            }
            (Doing::Collecting(attempt_key, batch), Action::ReadShort(_)) => {
                w.left.short_readings -= 1;
                self.collect(w, replica, attempt_key, &batch, true);
            }
            (Doing::Joining(journal, then), Action::Transfer(_)) => self.join(w, replica, &journal, then),
            (Doing::Staging(shard), Action::Transfer(_)) => _ = w.folder.staged.insert((w.work(), shard)),
            (Doing::Sealing, Action::Transfer(_)) => {
                let segments = std::mem::take(&mut w.folder.segments).into_iter();
                w.folder.segments = segments.map(|(name, of)| (name.trim_start_matches(UNSTORED).into(), of)).collect();
            }
            (Doing::Tidying(work, judged), Action::Transfer(_)) => tidy(w, replica, work, &judged),
            (Doing::LettingGo(judged), Action::LetGo { stale, .. }) if w.object_of(replica) == Some(&judged) => {
                let at = w.replicas[replica].sees;
                w.history.left_running |= w.is_left_running(&judged);
                w.replace(at, None, stale);
            }
            (Doing::LettingGo(_), Action::LetGo { .. }) => {}
            _ => return None,
        }
        Some(())
    }
}

fn rejection(refusal: Refusal) -> Rejection {
    Rejection::new(refusal, "")
}

/// Deletes what was staged, and says so in status if the object is still the one that was judged.
fn tidy(w: &mut World, replica: usize, work_id: String, judged: &Shared<JobView>) {
    w.tidy(&work_id);
    if judged.deleting_since.is_some() {
        w.learn(replica, |m| m.tidied = Some(CleanUpResult { work_id, failed: None }));
    }
    if judged.finished && w.object_of(replica) == Some(judged) {
        w.edit_object(w.replicas[replica].sees, 0, |o| o.tidy = true);
    }
}

/// The answers that a POST may get once all of it arrived: any batch that it made.
fn replies(w: &World, replica: usize, intent: &str) -> Vec<Action> {
    if w.posts.iter().any(|p| p.intent == intent) {
        return vec![];
    }
    let made = (0..w.batches.len()).filter(|b| w.batches[*b].intent == intent);
    let mut replies: Vec<Action> = made.map(|batch| Action::Reply { replica, batch: Some(batch) }).collect();
    if replies.is_empty() {
        replies.push(Action::Reply { replica, batch: None });
    }
    replies
}

/// Every choice of replicas that may have read the object just before it changes.
pub(super) fn readers(w: &World, object: usize) -> impl Iterator<Item = u8> {
    let may = |i: usize| {
        let replica = &w.replicas[i];
        replica.sees == object && replica.doing == Doing::Nothing && replica.stale.is_none()
    };
    let able = u8::from(may(0)) | u8::from(may(1)) << 1;
    (0..4u8).filter(move |set| set & !able == 0)
}
