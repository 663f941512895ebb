//! How replicas see the world, and what the production `decide` says to it.

use super::*;

impl Protocol {
    pub(super) fn timing(&self) -> Timing {
        let listing_lag = if self.mutant == Some(Mutant::ListsTooSoon) { 0 } else { LAG };
        Timing { post_window: 1, send_timeout: 1, listing_lag, deletion_deadline: NEVER }
    }

    pub(super) fn new_object(&self, uid: u8, work: &str) -> JobView {
        JobView {
            owner: Owner { cluster: "c".into(), namespace: "n".into(), name: "j".into(), uid: uid.to_string() },
            deleting_since: None,
            finalizer: false,
            suspend: false,
            spec_hash: work.into(),
            output_uri: "u".into(),
            lock: None,
            parallelism: 1,
            backoff_limit_per_batch: 100,
            backoff_limit_per_request: 0,
            max_failed: None,
            deadline: None,
            poll_period: 1,
            deletion_policy: self.policy,
            pinned: true,
            provider: None,
            submitted: false,
            provider_file_policy: ProviderFilePolicy::Delete,
            batches: vec![],
            finished: false,
            tidy: false,
            answer: None,
            fingerprint: "k".into(),
            stuck: None,
        }
    }

    /// One decision on the object, perhaps an old copy of it, and the journal as it is now. What only teaches the replica
    /// something is done on the way to the one effect: nobody else can tell when that happened.
    pub(super) fn act(&self, w: &mut World, replica: usize, bad_proof: bool) -> Option<()> {
        let stale = w.replicas[replica].stale.take();
        let mut learned = stale.is_some();
        let (job, now) = stale.or_else(|| Some((w.object.clone()?, w.now)))?;
        let judged_anew = job.lock.is_none() && job.deleting_since.is_none();
        let same = w.replicas[replica].of == job.owner.uid && !judged_anew;
        let mut memory = if same { Memory::clone(&w.replicas[replica].memory) } else { Memory::default() };
        let mut unproved = bad_proof;
        let done = loop {
            if self.mutant == Some(Mutant::ReaderPosts) {
                take_for_a_permit(w, &mut memory);
            }
            match w.decide(&memory, &self.timing(), &job, now) {
                Step::ProveStore if bad_proof => {
                    unproved = false;
                    memory.store_proved = Some(Err("careless".into()));
                }
                Step::Wait { .. } | Step::Poll(_) => break learned.then_some(()),
                step if find_out(w, &mut memory, &job, &step) || self.look(w, &mut memory, &step) => {}
                step => break execute(w, replica, &mut memory, &job, step),
            }
            learned = true;
        };
        w.replicas[replica].of.clone_from(&job.owner.uid);
        w.replicas[replica].memory = Shared::new(memory);
        done.filter(|()| !unproved)
    }

    /// Looks at the provider, and deletes files there.
    pub(super) fn look(&self, w: &mut World, memory: &mut Memory, step: &Step) -> bool {
        let Some(a) = w.attempt().cloned() else { return false };
        match step {
            Step::Search(_) => {
                let ours = |b: &&Batch| b.listed && (b.intent == a.intent_id || b.file == a.file_id);
                let found = w.batches.iter().filter(ours).map(|b| b.id.clone()).collect();
                memory.searches.insert(a.intent_id, Search { began: w.now, found });
            }
            Step::Revoke(_) => {
                memory.revoked.insert(a.file_id.clone(), w.now);
                if self.mutant != Some(Mutant::RevokesNothing) {
                    w.deleted_files.insert(a.file_id);
                }
            }
            _ => return false,
        }
        true
    }

    /// What the replica would do next, once it knows what is found out for nothing.
    pub(super) fn intends(&self, w: &World, replica: usize) -> Option<Step> {
        let job = w.object.as_ref()?;
        let mut memory = Memory::clone(&w.replicas[replica].memory);
        loop {
            let step = w.decide(&memory, &self.timing(), job, w.now);
            if !find_out(w, &mut memory, job, &step) {
                return Some(step);
            }
        }
    }

    /// The next moment that somebody waits for; none if a batch would have to be listed before.
    pub(super) fn tick(&self, w: &mut World) -> Option<()> {
        let idle = (0..2).filter(|r| w.replicas[*r].doing == Doing::Nothing);
        let waits = idle.filter_map(|r| match self.intends(w, r)? {
            Step::Wait { until, .. } => until,
            _ => None,
        });
        let rights: Vec<i64> = w.replicas.iter().filter_map(|r| last_moment(w, r)).collect();
        let now = waits.chain(rights.iter().copied()).filter(|t| *t > w.now && *t < NEVER).min()?;
        if w.batches.iter().any(|b| !b.listed && now >= b.at + LAG) {
            return None;
        }
        let stalls = rights.iter().any(|t| *t > w.now && *t <= now);
        w.left.stalls = w.left.stalls.checked_sub(u8::from(stalls))?;
        w.now = now;
        Some(())
    }

    /// Nothing is under way and nobody has anything to do.
    pub(super) fn is_at_rest(&self, w: &World) -> bool {
        w.late.is_none()
            && w.posts.is_empty()
            && w.batches.iter().all(|b| b.listed)
            && w.replicas.iter().all(|r| r.doing == Doing::Nothing && r.stale.is_none())
            && (0..2).all(|r| match self.intends(w, r) {
                // Where the model ends: the job has its batch, or goes on to its end without one.
                None | Some(Step::Poll(_) | Step::DeleteFiles(_) | Step::Write) => true,
                Some(step) => matches!(step, Step::Wait { until: None, .. }),
            })
    }
}
