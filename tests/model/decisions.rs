//! How replicas see the world, and what the production `decide` says to it.

use super::*;

/// What a replica decides on, beside the journal.
struct Deciding {
    job: Shared<JobView>,
    now: i64,
    /// Whether the object changed after it was read for the act.
    is_slow: bool,
    /// Whether it found something out on the way.
    learned: bool,
    /// Whether the proof of the storage is yet to fail.
    unproved: bool,
}

impl Protocol {
    pub(super) fn timing(&self) -> Timing {
        let listing_lag = if self.mutant == Some(Mutant::ListsTooSoon) { 0 } else { LAG };
        let send_timeout = if self.mutant == Some(Mutant::RevokesTooSoon) { -NEVER } else { 1 + self.allowance };
        let abandon_after = if self.mutant == Some(Mutant::AwaitsNoEnd) { 0 } else { self.abandon_after };
        Timing { post_window: 1, send_timeout, listing_lag, deletion_deadline: NEVER, abandon_after }
    }

    pub(super) fn new_object(&self, uid: u8, work: &str) -> JobView {
        JobView {
            owner: Owner { uid: uid.to_string(), ..beginnings::owner() },
            finalizer: false,
            spec_hash: work.into(),
            output_uri: "u".into(),
            lock: None,
            seal_at: if self.seals { 1 } else { usize::MAX },
            parallelism: self.parallelism,
            backoff_limit_per_batch: 100,
            backoff_limit_per_request: LIMIT_PER_REQUEST,
            max_failed: self.max_failed,
            budget: self.budgeted.map(money::limit),
            canary: self.canary.then_some(CanaryApproval::Manual),
            deadline: self.deadline,
            poll_period: NEVER,
            deletion_policy: self.policy,
            provider: self.provider(),
            fingerprint: "k".into(),
            ..beginnings::job()
        }
    }

    /// The provider as it is shown to decisions; the usual one shows nothing special.
    fn provider(&self) -> Option<ProviderView> {
        let can = self.capabilities;
        let capabilities = match self.mutant {
            Some(Mutant::RepeatsAnyPost) => Capabilities { recovery: Recovery::RepeatedPost, ..can },
            Some(Mutant::NothingIsAList) => Capabilities { recovery: Recovery::Metadata, ..can },
            Some(Mutant::NamesAreUnique) => Capabilities { revocation: Revocation::NotNeeded, ..can },
            _ => can,
        };
        let is_usual = capabilities == Capabilities::default() && self.budgeted.is_none() && !self.budgets;
        let prices = match (self.budgeted.or(self.limit), self.budgets) {
            (Some(_), _) => money::prices(),
            (None, true) => priced(),
            (None, false) => Default::default(),
        };
        let has_budgets = self.budgets;
        (!is_usual).then(|| ProviderView { capabilities, prices, has_budgets, ..beginnings::provider() })
    }

    pub(super) fn decide(&self, w: &World, memory: &Memory, job: &JobView, now: i64) -> Step {
        let timing = self.timing();
        let observed = |job, journal| decide(&Observed { now, nonce: "?", timing: &timing, job, journal, memory });
        match self.mutant {
            Some(Mutant::AnyCredential) => {
                let job = JobView { fingerprint: self.shown_credential(job).into(), ..job.clone() };
                observed(&job, w.journal.as_deref())
            }
            Some(Mutant::AnswersAny) => {
                let recorded = |a: &&Attempt| matches!(a.state, AttemptState::Submitted { .. });
                let asked = w.journal.as_deref().and_then(|j| attempts(j).find(recorded));
                let said = job.answers.ids().next().map(|(_, said)| said);
                let of = asked.zip(said).map(|(a, said)| Answers::one(&format!("lost-{}", a.intent_id), said));
                let job = JobView { answers: of.unwrap_or_default(), ..job.clone() };
                observed(&job, w.journal.as_deref())
            }
            Some(Mutant::TidiesUnwritten) if job.deleting_since.is_some() => {
                let results = w.journal.as_deref().and_then(|j| joined(w, j, None));
                let manifest = results.map(|r| Some(r.manifest)).or(memory.manifest.clone());
                let memory = &Memory { manifest, ..memory.clone() };
                decide(&Observed { now, nonce: "?", timing: &timing, job, journal: w.journal.as_deref(), memory })
            }
            Some(Mutant::ClosesNothing) if job.deleting_since.is_some() => {
                let closing = |j: &Shared<Journal>| Journal { closing: Some(job.deletion_policy), ..Journal::clone(j) };
                observed(job, w.journal.as_ref().map(closing).as_ref())
            }
            Some(Mutant::SendsAfterStop) => observed(&JobView { stop: None, ..job.clone() }, w.journal.as_deref()),
            Some(Mutant::SendsUnapproved) => observed(job, w.journal.as_ref().map(money::without_canary).as_ref()),
            Some(Mutant::ForgetsApproval) => {
                let shown = |j: &Shared<Journal>| money::approved_by(j, job);
                observed(job, w.journal.as_ref().map(shown).as_ref())
            }
            Some(Mutant::IgnoresInFlight) => observed(job, w.journal.as_ref().map(money::free_in_flight).as_ref()),
            Some(Mutant::IgnoresGivenUp) => observed(job, w.journal.as_ref().map(money::all_reported).as_ref()),
            Some(Mutant::ReservesNothing | Mutant::CountsLate) => match observed(job, w.journal.as_deref()) {
                Step::Reserve { .. } if self.mutant == Some(Mutant::ReservesNothing) => {
                    observed(&without_budgets(job), w.journal.as_deref())
                }
                Step::SettleCost { .. } if self.mutant == Some(Mutant::CountsLate) => {
                    observed(&without_budgets(job), w.journal.as_deref())
                }
                step => step,
            },
            Some(Mutant::BelievesRepeat) => observed(job, w.journal.as_ref().map(without_repeats).as_ref()),
            Some(Mutant::SendsAbandoned) => observed(job, w.journal.as_ref().map(with_abandoned_as_revoked).as_ref()),
            Some(Mutant::AbsenceIsEvidence) if w.journal.is_none() => {
                observed(&JobView { submitted: false, ..job.clone() }, None)
            }
            _ => observed(job, w.journal.as_deref()),
        }
    }

    fn shown_credential<'a>(&self, job: &'a JobView) -> &'a str {
        if self.mutant == Some(Mutant::AnyCredential) { "k" } else { &job.fingerprint }
    }

    fn under_clock(&self, memory: &mut Memory, replica: &Replica) {
        // Where no clock is set, they run since before all that was sent.
        let since = if self.budget.clock_sets > 0 { replica.since } else { -NEVER };
        if self.mutant != Some(Mutant::BelievesAnyClock) {
            memory.clock_runs_since(since);
        }
    }

    fn posts_blindly(&self) -> bool {
        matches!(self.mutant, Some(Mutant::PostsBlindly | Mutant::ClosesNothing))
    }

    /// Uses a permit without another look at the object, which may be gone.
    fn post_blindly(&self, w: &mut World, replica: usize) -> Option<()> {
        let mut memory = Memory::clone(&w.replicas[replica].memory);
        let intended = |s: &Shard| s.attempt.as_ref().is_some_and(|a| Some(&a.intent_id) == memory.permit.as_ref());
        let shard = w.journal.as_ref()?.shards.iter().position(intended)?;
        w.replicas[replica].doing = post(w, replica, &mut memory, "k", AttemptKey { shard, attempt: 1 })?;
        note_post(w, replica, w.journal.clone().as_deref());
        w.replicas[replica].memory = Shared::new(memory);
        Some(())
    }

    /// One decision on the last look, which is renewed where it is too old for the step. What only teaches the replica something
    /// is done on the way to the one effect: nobody else can tell when that happened.
    pub(super) fn act(&self, w: &mut World, replica: usize, bad_proof: bool) -> Option<()> {
        if self.posts_blindly() && w.replicas[replica].memory.permit.is_some() {
            return self.post_blindly(w, replica);
        }
        let stale = w.replicas[replica].stale.take();
        let is_slow = stale.is_some();
        let look = w.replicas[replica].look.clone();
        let learned = is_slow || look.is_none() && self.project(w, replica);
        let seen = look.as_ref().and_then(|look| look.job.clone());
        let of_now = || Some((seen.or_else(|| w.object_of(replica).cloned())?, w.now));
        let (job, read_at) = stale.or_else(of_now)?;
        let mut deciding =
            Deciding { job, now: read_at + w.replicas[replica].ahead, is_slow, learned, unproved: bad_proof };
        let same = w.replicas[replica].of == deciding.job.owner.uid;
        let mut memory = if same { Memory::clone(&w.replicas[replica].memory) } else { Memory::default() };
        memory.under(self.shown_credential(&deciding.job));
        self.under_clock(&mut memory, &w.replicas[replica]);
        // While it decides, what it read stands in for the journal; nothing is written to the journal itself.
        let present = w.journal.clone();
        w.journal = look.and_then(|look| look.journal).unwrap_or_else(|| present.clone());
        let done = self.until_effect(w, replica, &mut memory, &mut deciding, &present);
        w.journal = present;
        w.replicas[replica].of.clone_from(&deciding.job.owner.uid);
        w.replicas[replica].memory = Shared::new(memory);
        done.filter(|()| !deciding.unproved)
    }

    /// `present` is the journal as it is. None: there was nothing to do.
    fn until_effect(
        &self,
        w: &mut World,
        replica: usize,
        memory: &mut Memory,
        d: &mut Deciding,
        present: &Option<Shared<Journal>>,
    ) -> Option<()> {
        loop {
            if self.mutant == Some(Mutant::ReaderPosts) {
                take_for_a_permit(w, memory);
            }
            let step = self.decide(w, memory, &d.job, d.now);
            assert!(step.call().is_none_or(|call| !memory.running.contains(&call)), "it runs: {step:?}");
            if self.renews(w, replica, &step) {
                w.journal.clone_from(present);
                let of_now = w.object_of(replica).filter(|o| o.owner.uid == d.job.owner.uid).cloned();
                match of_now {
                    _ if d.is_slow => {}
                    Some(job) => d.job = job,
                    None => return Some(()),
                }
                memory.under(self.shown_credential(&d.job));
                d.learned = true;
                continue;
            }
            if !d.is_slow {
                w.note_harm(present.as_deref(), &d.job, &step);
            }
            match step {
                Step::ProveStore if d.unproved => {
                    d.unproved = false;
                    memory.store_proved = Some(Err("careless".into()));
                }
                Step::Wait { .. } => return d.learned.then_some(()),
                Step::Poll(_) if !self.follows() => return d.learned.then_some(()),
                step if self.look(w, replica, memory, &d.job, &step) => {}
                step => {
                    let posts = w.posts.len();
                    let done = self.effect(w, replica, memory, &d.job, step, present.as_deref());
                    // An object that changes after it was read for the POST is beyond anybody's reach.
                    let stops = w.object_of(replica).is_some_and(|o| o.stop.is_some() && !d.is_slow);
                    w.history.asked_when_stopped |= w.posts.len() > posts && (stops || d.job.stop.is_some());
                    return done;
                }
            }
            d.learned = true;
        }
    }

    /// The one effect, after which what it wrote to is seen as it is.
    fn effect(
        &self,
        w: &mut World,
        replica: usize,
        memory: &mut Memory,
        job: &Shared<JobView>,
        step: Step,
        present: Option<&Journal>,
    ) -> Option<()> {
        let posts = w.posts.len();
        let writes_object =
            matches!(step, Step::AddFinalizer | Step::Lock(_) | Step::Pin | Step::Fail(_) | Step::Conclude { .. });
        self.execute(w, replica, memory, job, step)?;
        if w.posts.len() > posts {
            note_post(w, replica, present);
        }
        if matches!(w.replicas[replica].doing, Doing::Writing(_)) {
            w.renew(replica, false);
        }
        if writes_object {
            w.renew(replica, true);
        }
        Some(())
    }

    /// Writes into status that a batch was submitted, where that matters.
    fn project(&self, w: &mut World, replica: usize) -> bool {
        let matters = self.budget.sweeps + self.budget.restores + self.budget.lost_journals > 0;
        let is_due = |o: &JobView| {
            let recorded =
                |a: &Attempt| matches!(a.state, AttemptState::Submitted { .. } | AttemptState::Settled { .. });
            let ours = w.journal.as_deref().filter(|j| j.owner == o.owner);
            !o.submitted && o.lock.is_some() && ours.is_some_and(|j| attempts(j).any(recorded))
        };
        let due = matters && w.object_of(replica).is_some_and(|o| is_due(o));
        let remembered = w.journal.as_deref().filter(|_| self.budget.lost_journals > 0).map(remembered);
        let said = |o: &mut JobView| {
            o.submitted = true;
            (o.batches, o.remembered) = remembered.unwrap_or_default();
        };
        due && w.edit_object(w.replicas[replica].sees, 0, said).is_some()
    }

    /// Steps that teach the replica something or can be done again for nothing.
    fn look(&self, w: &mut World, replica: usize, memory: &mut Memory, job: &JobView, step: &Step) -> bool {
        let now = w.clock(replica);
        match step {
            Step::Plan { stage: Some(work), .. } => w.stage(work, self.shards_of(w, job)),
            Step::FollowUp { round } if self.mutant != Some(Mutant::StagesAfter) => {
                w.stage(&w.work(), follow_up(w, *round, self.mutant).unwrap_or_default());
            }
            Step::Halve(attempt_key) => {
                let Some(halves) = halves(w, *attempt_key) else { return false };
                w.stage(&w.work(), halves.to_vec());
            }
            Step::Search(attempt_key) | Step::Revoke(attempt_key) if self.beside => {
                // What it finds is so now, and known later.
                let mut found = memory.clone();
                let Some(Attempt { intent_id, payload, .. }) = w.attempt(*attempt_key).cloned() else { return false };
                let file_id = payload.name().to_string();
                if !(Protocol { beside: false, ..*self }).look(w, replica, &mut found, job, step) {
                    return false;
                }
                let finding = match step {
                    Step::Search(_) => found.searches.remove(&intent_id).map(|s| Finding::Search(intent_id, s)),
                    _ => found.revoked.remove(&file_id).map(|at| Finding::Revoked(file_id, at)),
                };
                memory.running.insert(Task::Call(*attempt_key));
                w.replicas[replica].beside.found =
                    finding.map(|finding| (*attempt_key, self.shown_credential(job).into(), finding));
                return true;
            }
            Step::Search(attempt_key) => return self.search(w, now, memory, job, *attempt_key),
            Step::Revoke(attempt_key) => {
                let Some(file_id) = w.attempt(*attempt_key).map(|a| a.payload.name().to_string()) else { return false };
                memory.revoked.insert(file_id.clone(), now);
                if self.mutant != Some(Mutant::RevokesNothing) && credential_of(&file_id) == job.fingerprint {
                    w.deleted_files.insert(file_id);
                }
                return true;
            }
            _ => {}
        }
        self.find_out(w, now, memory, job, step)
    }

    fn search(&self, w: &World, now: i64, memory: &mut Memory, job: &JobView, attempt_key: AttemptKey) -> bool {
        let Some(a) = w.attempt(attempt_key) else { return false };
        let can = self.capabilities;
        assert!(can.can_search() || self.mutant.is_some(), "nothing can be searched at {can:?}");
        let ours = |b: &&Batch| {
            let shown = b.listed || can.recovery == Recovery::ChosenName;
            let its = match can.recovery {
                Recovery::Metadata => b.intent == a.intent_id || b.file == a.payload.name(),
                Recovery::InputFile => b.file == a.payload.name(),
                Recovery::DisplayName | Recovery::ChosenName => b.intent == a.intent_id,
                Recovery::RepeatedPost | Recovery::Nothing => false,
            };
            shown && its && b.state != BatchState::Forgotten && b.credential == job.fingerprint
        };
        let mut found = Some(w.batches.iter().filter(ours).map(|b| b.id.clone()).collect());
        if let (Some(Mutant::ListsOnce), Some(earlier)) = (self.mutant, memory.searches.get(&a.intent_id)) {
            found.clone_from(&earlier.found);
        }
        memory.searches.insert(a.intent_id.clone(), Search { began: now, found });
        true
    }

    /// What the replica would do next, once it knows what is found out for nothing.
    pub(super) fn intends(&self, w: &World, replica: usize) -> Option<Step> {
        let job = w.object_of(replica)?;
        let now = w.clock(replica);
        let replica = &w.replicas[replica];
        let same = replica.of == job.owner.uid;
        let mut memory = if same { Memory::clone(&replica.memory) } else { Memory::default() };
        memory.under(self.shown_credential(job));
        self.under_clock(&mut memory, replica);
        loop {
            let step = self.decide(w, &memory, job, now);
            if !self.find_out(w, now, &mut memory, job, &step) {
                return Some(step);
            }
        }
    }

    /// The same on its last look, where that is an old one.
    fn intends_by_look(&self, w: &World, replica: usize) -> Option<Step> {
        let look = w.replicas[replica].look.clone()?;
        let mut w = w.clone();
        w.journal = look.journal.unwrap_or(w.journal);
        let at = w.replicas[replica].sees;
        w.objects[at] = look.job.or(w.objects[at].take());
        self.intends(&w, replica)
    }

    /// The next moment that somebody waits for; none if something would have to happen before.
    pub(super) fn tick(&self, w: &mut World) -> Option<()> {
        let idle = (0..2).filter(|r| w.replicas[*r].doing == Doing::Nothing);
        let intended =
            idle.flat_map(|r| [self.intends(w, r), self.intends_by_look(w, r)].into_iter().map(move |s| (r, s)));
        let waits = intended.filter_map(|(r, step)| match step? {
            // Who asks a person looks again and again.
            Step::Wait { why, .. } if !why.holds.is_empty() && w.now >= PATIENCE => None,
            Step::Wait { until, .. } => until.map(|t| t - w.replicas[r].ahead),
            _ => None,
        });
        let rights: Vec<i64> = w.replicas.iter().filter_map(|r| Some(last_moment(w, r)? - r.ahead)).collect();
        let in_time = self.deleted == Deleted::TakenUnseen;
        let late = (in_time && !w.posts.is_empty()).then_some(w.now + 1);
        let others = rights.iter().copied().chain(late).chain(self.deadline);
        let now = waits.chain(others).filter(|t| *t > w.now && *t < NEVER).min()?;
        if w.batches.iter().any(|b| !b.listed && now >= b.at + LAG) || in_time && w.posts.iter().any(|p| p.until <= now)
        {
            return None;
        }
        let stalls = rights.iter().any(|t| *t > w.now && *t <= now);
        w.left.stalls = w.left.stalls.checked_sub(u8::from(stalls))?;
        w.now = now;
        Some(())
    }
}

fn with_abandoned_as_revoked(journal: &Shared<Journal>) -> Journal {
    let mut journal = Journal::clone(journal);
    for attempt in journal.shards.iter_mut().filter_map(|s| s.attempt.as_mut()) {
        if matches!(attempt.state, AttemptState::Abandoned { .. }) {
            attempt.state = AttemptState::Revoked { message: String::new() };
        }
    }
    journal
}

fn without_repeats(journal: &Shared<Journal>) -> Journal {
    let mut journal = Journal::clone(journal);
    journal.shards.iter_mut().filter_map(|s| s.attempt.as_mut()).for_each(|a| a.repeats = 0);
    journal
}

/// What status says of batches and of the work, for when the journal is lost. What is sent later is not in it yet.
pub(super) fn remembered(journal: &Journal) -> (Vec<String>, Option<(String, Plan)>) {
    let recorded = attempts(journal).filter_map(|a| match &a.state {
        AttemptState::Submitted { batch_id, .. } | AttemptState::Settled { batch_id, .. } => Some(batch_id.clone()),
        _ => None,
    });
    (recorded.collect(), journal.plan.clone().map(|plan| (journal.work_id.clone(), plan)))
}
