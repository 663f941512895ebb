//! The model as the checker explores it, and what must hold.

use super::*;

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut object = self.new_object(1, "A");
        object.finalizer = true;
        object.lock = Some(Lock { spec_hash: "A".into(), output_uri: "u".into() });
        vec![World {
            now: 0,
            object: Some(Shared::new(object)),
            journal: None,
            replicas: Default::default(),
            late: None,
            posts: vec![],
            batches: vec![],
            deleted_files: BTreeSet::new(),
            left: self.budget,
            history: History::default(),
        }]
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
            Action::Write(r) | Action::LoseWrite(r) | Action::Reread(r) | Action::Reply(r) | Action::LoseReply(r) => {
                self.finish(&mut w, r, action)?;
            }
            Action::LetGo { replica, .. } => self.finish(&mut w, replica, action)?,
            _ => self.happen(&mut w, action)?,
        }
        Some(w.normalised(self.budget.edits > 0))
    }

    fn within_boundary(&self, w: &World) -> bool {
        let rev = w.journal.as_ref().map_or(0, |j| j.rev);
        w.attempts().all(|a| a.number <= self.attempts) && rev <= REVISIONS
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::<Self>::always(NO_DOUBLE_PAY, |_, w| {
                let of = |work| w.batches.iter().filter(|b| work_of(&b.file) == work).count();
                of("A") <= 1 && of("B") <= 1
            }),
            Property::<Self>::always("what is recorded exists, and is what was planned", |_, w| {
                let Some(Attempt { intent_id, state: AttemptState::Submitted { batch_id, .. }, .. }) = w.attempt()
                else {
                    return true;
                };
                let planned = &w.journal.as_ref().unwrap().shards[0].sha256;
                w.batches.iter().any(|b| b.id == *batch_id && b.intent == *intent_id && work_of(&b.file) == planned)
            }),
            Property::<Self>::always("never loses a batch", |m, w| {
                w.batches.iter().all(|b| is_known(w, b)) || !m.is_at_rest(w)
            }),
            Property::<Self>::always("rests only when submitted", |m, w| {
                let waits = w.object.as_ref().is_none_or(|o| o.suspend || o.finished || o.deleting_since.is_some());
                let cancelled = w.journal.as_ref().and_then(|j| j.commit.as_ref());
                let ended = cancelled.is_some_and(|c| c.outcome == Outcome::Cancelled);
                waits || ended || w.is_submitted() || !m.is_at_rest(w)
            }),
            Property::<Self>::always("asks for nothing once the journal is closed", |_, w| {
                !w.history.asked_when_closed
            }),
            Property::<Self>::always("every write is one step forward", |_, w| {
                w.replicas.iter().all(|r| !matches!(&r.doing, Doing::Writing(write) if !is_lawful(write)))
            }),
            Property::<Self>::sometimes("submitted", |_, w| w.is_submitted()),
        ];
        if self.budget.crashes > 0 {
            all.push(Property::<Self>::sometimes("submitted after a crash between intent and POST", |_, w| {
                w.is_submitted() && w.history.crashed_with_permit && !w.history.reply_lost
            }));
        }
        if self.budget.lost_replies > 0 {
            all.push(Property::<Self>::sometimes("submitted after a lost reply", |_, w| {
                w.is_submitted() && w.history.reply_lost
            }));
        }
        if self.budget.recreations > 0 {
            all.push(Property::<Self>::sometimes("adopted by an object that was created again", |_, w| {
                w.is_submitted() && w.history.adopted
            }));
        }
        all
    }
}

/// Recorded; or, where the object was created again for other work and refused, still named by the journal's intent.
fn is_known(w: &World, batch: &Batch) -> bool {
    let refused = w.object.as_ref().is_some_and(|o| o.finished);
    w.attempt().is_some_and(|a| match &a.state {
        AttemptState::Submitted { batch_id, .. } => *batch_id == batch.id,
        _ => refused && a.intent_id == batch.intent,
    })
}
