//! Where an exploration begins.

use super::*;

impl Protocol {
    pub(super) fn beginning(&self) -> World {
        let mut object = self.new_object(1, "A");
        object.finalizer = true;
        object.lock = Some(Lock { spec_hash: "A".into(), output_uri: "u".into() });
        let second = self.other.map(|other| self.second(&object, other));
        let sees = [0, usize::from(second.is_some())];
        let replicas = [(sees[0], 0), (sees[1], self.ahead)];
        let replicas = replicas.map(|(sees, ahead)| Replica { sees, ahead, ..Default::default() });
        let mut w = World {
            now: 0,
            objects: [Some(object), second].into_iter().flatten().map(|o| Some(Shared::new(o))).collect(),
            journal: None,
            folder: Folder::default(),
            replicas,
            late: None,
            posts: vec![],
            batches: vec![],
            deleted_files: BTreeSet::new(),
            new_source: false,
            left: self.budget,
            ledger: Ledger::default(),
            counted: BTreeMap::new(),
            history: History::default(),
        };
        if self.start != Start::New {
            self.plan(&mut w);
        }
        w
    }

    fn second(&self, first: &JobView, other: Other) -> JobView {
        let owner = |change: fn(&mut Owner)| {
            let mut owner = first.owner.clone();
            change(&mut owner);
            owner
        };
        let owner = match other {
            Other::Clone => first.owner.clone(),
            Other::Copy => owner(|o| (o.cluster, o.uid) = ("c2".into(), "9".into())),
            Other::Neighbour => owner(|o| (o.name, o.uid) = ("k".into(), "9".into())),
        };
        JobView { owner, ..first.clone() }
    }

    fn plan(&self, w: &mut World) {
        let job = JobView::clone(w.objects[0].as_ref().unwrap());
        let mut journal = Journal::open("w1".into(), job.owner.clone(), "A".into());
        journal.plan = Some(self.plan_of("A"));
        let shards = self.shards_of(w, &job);
        w.stage(&journal.work_id, shards.clone());
        journal.shards = shards.into();
        if self.start == Start::Begun {
            journal.shards.iter_mut().take(1).enumerate().for_each(|(i, shard)| submit(w, i, shard));
            w.edit_object(0, 0, |o| o.submitted = true);
        }
        if self.start == Start::Submitted {
            journal.shards.iter_mut().enumerate().for_each(|(i, shard)| submit(w, i, shard));
            if self.budget.token_limits > 0 {
                // The last of the times that it has to be turned away, with nothing beside it.
                journal.shards.iter_mut().for_each(|shard| shard.streaks.alone = 3);
            }
            w.edit_object(0, 0, |o| o.submitted = true);
            if self.budget.doubles > 0 {
                // A gateway made two of the first POST.
                let id = format!("b{}", w.batches.len());
                w.batches.push(Batch { id, doubled: true, ..w.batches[0].clone() });
                if self.budget.clock_sets > 0 {
                    // Just now, and the list does not show the second one yet.
                    w.batches.iter_mut().filter(|b| b.doubled).for_each(|b| (b.at, b.listed) = (0, false));
                    journal.shards.iter_mut().filter_map(|s| s.attempt.as_mut()).for_each(|a| a.post_by = 0);
                }
                w.left.doubles -= 1;
                w.history.doubled = true;
            }
        }
        if self.start == Start::Submitted && self.budget.lost_journals > 0 {
            w.edit_object(0, 0, |o| (o.batches, o.remembered) = remembered(&journal));
        }
        self.reserve_for(w, &journal);
        w.journal = Some(Shared::new(journal));
    }
}

/// Recorded long ago.
fn submit(w: &mut World, i: usize, shard: &mut Shard) {
    let (id, intent, file) = (format!("b{i}"), format!("i{}", i + 1), format!("{}@k#1", shard.sha256));
    let state = AttemptState::Submitted { batch_id: id.clone(), at: -NEVER };
    shard.attempt =
        Some(Attempt { state, ..Attempt::intended(1, intent.clone(), Payload::file(file.clone()), -NEVER, "k") });
    let state = BatchState::Running { told_to_stop: false };
    w.batches.push(Batch {
        id,
        intent,
        file,
        credential: "k".into(),
        at: -NEVER,
        listed: true,
        doubled: false,
        ended_at: 0,
        state,
    });
}
