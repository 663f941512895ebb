//! What a step does.

use super::*;

pub(super) fn take_for_a_permit(w: &World, memory: &mut Memory) {
    let Some(journal) = &w.journal else { return };
    let unresolved = attempts(journal).find(|a| a.state == AttemptState::Intended);
    if let Some(a) = unresolved.filter(|a| !memory.posted.contains_key(&a.intent_id)) {
        memory.permit = Some(a.intent_id.clone());
    }
}

/// When the replica's unspent right to POST ends, by the replica's clock.
pub(super) fn last_moment(w: &World, replica: &Replica) -> Option<i64> {
    let of = |journal: &Journal, intent: &String| attempts(journal).find(|a| a.intent_id == *intent).map(|a| a.post_by);
    match (&replica.doing, &replica.memory.permit) {
        (Doing::Writing(Write { next, intent: Some(intent), .. }), _) => of(next, intent),
        (_, Some(intent)) => of(w.journal.as_ref()?, intent),
        _ => None,
    }
}

impl Protocol {
    /// Steps that teach the replica what is found out again for nothing.
    pub(super) fn find_out(&self, w: &World, now: i64, memory: &mut Memory, job: &JobView, step: &Step) -> bool {
        match step {
            Step::LookForManifest => {
                let manifest = w.folder.manifest.as_ref().filter(|_| self.mutant != Some(Mutant::ManifestUnread));
                memory.manifest = Some(manifest.map(|results| results.manifest.clone()));
            }
            Step::FindOwner(owner) => {
                let alive = w.objects.iter().flatten().any(|o| o.owner == *owner);
                memory.owner_alive = Some((owner.clone(), alive));
            }
            Step::Plan { stage, .. } => {
                let result = Ok(self.planned_for(w, job, stage));
                memory.pass = Some(Pass { spec_hash: job.spec_hash.clone(), result });
            }
            Step::WriteSuccess => memory.marked = w.journal.as_ref().map(|j| j.work_id.clone()),
            Step::ProveStore => memory.store_proved = Some(Ok(())),
            Step::CancelUnjournaled { batch_id } => {
                let runs = |b: &Batch| b.id == *batch_id && matches!(b.state, BatchState::Running { .. });
                if w.batches.iter().any(runs) {
                    return false;
                }
                memory.cancelled.insert(batch_id.clone());
            }
            Step::Probe(_) => memory.resolvable = Some(self.deleted != Deleted::Taken),
            Step::CheckFile(attempt_key) => {
                let Some(file_id) = w.attempt(*attempt_key).map(|a| a.payload.name().to_string()) else { return false };
                let any = self.mutant == Some(Mutant::AnyCredential);
                let there = !w.deleted_files.contains(&file_id) && credential_of(&file_id) == job.fingerprint;
                memory.files.insert(file_id, any || there);
            }
            Step::Upload(attempt_key) => {
                let shard = w.journal.as_ref().and_then(|j| j.shards.get(attempt_key.shard));
                let Some(sha) = shard.filter(|s| w.is_staged(s)).map(|s| &s.sha256) else {
                    return false;
                };
                let file = format!("{sha}@{}", job.fingerprint);
                if self.budgets {
                    memory.contents.insert(file.clone(), money::content(sha));
                }
                memory.uploads.insert((*attempt_key, sha.clone()), file);
            }
            Step::Poll(attempt_key) if self.follows() => {
                let Some(AttemptState::Submitted { batch_id, .. }) = w.attempt(*attempt_key).map(|a| &a.state) else {
                    return false;
                };
                look_at(w, now, memory, job, batch_id);
            }
            Step::PollTwin { batch_id, .. } => look_at(w, now, memory, job, batch_id),
            Step::Halve(attempt_key) => {
                let Some(halves) = halves(w, *attempt_key) else { return false };
                let sha256 = w.journal.as_ref().map(|j| j.shards[attempt_key.shard].sha256.clone()).unwrap_or_default();
                memory.halved = Some(HalveResult { attempt_key: *attempt_key, sha256, halves });
            }
            Step::FollowUp { round } => match follow_up(w, *round, self.mutant) {
                Some(shards) => memory.follow_up = Some((*round, shards.into())),
                None => return false,
            },
            _ => return false,
        }
        true
    }

    /// What the input holds now, one line a shard.
    pub(super) fn shards_of(&self, w: &World, job: &JobView) -> Vec<Shard> {
        let work = if w.new_source { job.spec_hash.to_lowercase() } else { job.spec_hash.clone() };
        let lines: Vec<String> = (0..self.lines).map(|line| line.to_string()).collect();
        let contents = if self.together { vec![lines.concat()] } else { lines };
        let planned = contents.iter().map(|lines| shard(&work, lines, 0, RequestCounts::default()));
        let reused = |(i, shard): (usize, Shard)| {
            // One line a shard.
            let told = format!("{i}Y");
            let part = PartRef { name: format!("reused-{told}"), sha256: told };
            Shard { reused: (i < usize::from(self.reused)).then_some(part), ..shard }
        };
        planned.enumerate().map(reused).collect()
    }

    pub(super) fn plan_of(&self, work: &str) -> Plan {
        let input = InputStatus { version: work.into(), size_bytes: 1, ..Default::default() };
        let canary = self.canary.then_some(PlannedCanary { requests: 1, before: 1 });
        Plan { work_hash: work.into(), input, canary, ..beginnings::plan(self.lines.into()) }
    }

    fn planned_for(&self, w: &World, job: &JobView, stage: &Option<String>) -> PlanResult {
        let shards = self.shards_of(w, job);
        let work = parse(&shards[0].sha256).0;
        let plan = self.plan_of(work);
        PlanResult { staged: stage.clone(), plan, shards: shards.into() }
    }

    /// The one effect.
    pub(super) fn execute(
        &self,
        w: &mut World,
        replica: usize,
        memory: &mut Memory,
        job: &Shared<JobView>,
        step: Step,
    ) -> Option<()> {
        let step = self.sealed(w, step);
        self.break_ledger(w, &step);
        let judged = w.journal.clone();
        let budgeted = job.budget.map(|budget| budget.most);
        let write = |judged, next, intent| Write { judged, next: Shared::new(next), intent, budgeted };
        let doing = match step {
            Step::Open(next) => Doing::Writing(write(None, next, None)),
            Step::Swap(next) if self.mutant == Some(Mutant::JoinsBeforeCommit) && next.commit.is_some() => {
                let then = write(judged, next, None);
                Doing::Joining(then.next.clone(), Some(then))
            }
            Step::Swap(mut next) => {
                if self.mutant == Some(Mutant::ForgetsApproval) {
                    next.approval = None;
                }
                if self.mutant == Some(Mutant::ForgetsReuse) {
                    next.shards.iter_mut().for_each(|s| s.reused = None);
                }
                if self.mutant == Some(Mutant::TakesAnew)
                    && judged.as_ref().is_some_and(|j| j.owner.is_copy(&next.owner))
                {
                    next.shards.iter_mut().for_each(|s| s.attempt = None);
                }
                if let (Some(Mutant::KeepsFiles), Some(judged)) = (self.mutant, judged.as_deref()) {
                    keep_files(judged, &mut next);
                }
                if let (Some(mutant), Some(judged)) = (self.mutant, judged.as_deref()) {
                    halve_badly(w, mutant, judged, &mut next);
                }
                Doing::Writing(write(judged, next, None))
            }
            Step::WriteIntent { mut journal, intent_id } => {
                if self.mutant == Some(Mutant::ForgetsApproval) {
                    journal.approval = None;
                }
                Doing::Writing(write(judged, journal, Some(intent_id)))
            }
            Step::Post(attempt_key) if self.beside => {
                if let Doing::Waiting(intent) = post(w, replica, memory, &job.fingerprint, attempt_key)? {
                    if self.mutant == Some(Mutant::KeepsPermit) {
                        memory.permit = Some(intent.clone());
                    }
                    memory.running.insert(Task::Post(attempt_key));
                    w.replicas[replica].beside.post = Some((attempt_key, intent, job.owner.uid.clone()));
                }
                Doing::Nothing
            }
            Step::Post(attempt_key) => post(w, replica, memory, &job.fingerprint, attempt_key)?,
            Step::Collect { attempt_key, .. } => match &w.attempt(attempt_key)?.state {
                AttemptState::Submitted { batch_id, .. } => Doing::Collecting(attempt_key, batch_id.clone()),
                _ => return None,
            },
            Step::Write => Doing::Joining(judged?, None),
            Step::RemoveFinalizer { abandoned: None, .. } => Doing::LettingGo(job.clone()),
            Step::CleanUp => Doing::Tidying(w.work(), job.clone()),
            Step::Cancel { batch_id, .. } | Step::CancelUnjournaled { batch_id } => {
                cancel(w, memory, job, batch_id);
                Doing::Nothing
            }
            Step::Reserve { .. } | Step::SettleCost { .. } | Step::SettleLater | Step::Release { .. } => {
                self.write_ledger(w, replica, memory, job, &step)?;
                Doing::Nothing
            }
            Step::DeleteFiles { files, .. } => {
                let ours = files.iter().filter(|f| f.contains('#') && credential_of(f) == job.fingerprint);
                w.deleted_files.extend(ours.cloned());
                w.deleted_files.extend(files.iter().filter(|f| f.starts_with("answers")).cloned());
                memory.deleted.extend(files);
                Doing::Nothing
            }
            step => return write_status(w, replica, job, step),
        };
        w.replicas[replica].doing = doing;
        Some(())
    }
}

/// Before the name of a segment that is yet to be stored.
pub(super) const UNSTORED: char = '!';

impl Protocol {
    /// The step with a journal that is packed, once its segments are stored.
    fn sealed(&self, w: &mut World, mut step: Step) -> Step {
        let (Step::Swap(next) | Step::WriteIntent { journal: next, .. }) = &mut step else { return step };
        if !self.seals {
            return step;
        }
        let mark = if matches!(self.mutant, Some(Mutant::SealsAfter | Mutant::AbsentIsNothing)) { "!" } else { "" };
        for segment in next.shards.pack(1).unwrap() {
            let shards = serde_json::from_slice(&segment.bytes).unwrap();
            w.folder.segments.insert(format!("{mark}{}", segment.name), shards);
        }
        step
    }
}

/// Breaks a write that replaces a shard by its halves.
fn halve_badly(w: &mut World, mutant: Mutant, judged: &Journal, next: &mut Journal) {
    let is_other = |(i, a): &(usize, &Shard)| next.shards.get(*i).is_some_and(|b| a.sha256 != b.sha256);
    let Some((at, whole)) = judged.shards.entries().find(is_other) else { return };
    match mutant {
        Mutant::ForgetsHalf => next.shards = next.shards.iter().take(judged.shards.len()).cloned().collect(),
        Mutant::KeepsWhole => {
            let first = Shard { attempt: None, ..next.shards[at].clone() };
            next.shards.push(first);
            next.shards[at] = Shard { streaks: Default::default(), ..whole.clone() };
        }
        Mutant::HalvesNoFile => {
            let file = w.batches.iter().find(|b| parse(&b.file) == parse(&whole.sha256)).map(|b| b.file.clone());
            if let (Some(attempt), Some(file)) = (&mut next.shards[at].attempt, file) {
                w.deleted_files.remove(&file);
                attempt.payload = Payload::file(file);
            }
        }
        _ => {}
    }
}

fn keep_files(judged: &Journal, next: &mut Journal) {
    let pairs = judged.shards.iter().zip(next.shards.iter_mut());
    for (old, new) in pairs.filter_map(|(old, new)| Some((old.attempt.as_ref()?, new.attempt.as_mut()?))) {
        if new.payload.name().is_empty() {
            new.payload.clone_from(&old.payload);
        }
    }
}

/// What is written to the object, if it still is the one that was judged.
fn write_status(w: &mut World, replica: usize, job: &Shared<JobView>, step: Step) -> Option<()> {
    let at = w.replicas[replica].sees;
    if w.objects[at].as_ref() != Some(job) {
        return Some(());
    }
    match step {
        Step::AddFinalizer => w.edit_object(at, 0, |o| o.finalizer = true),
        Step::Lock(lock) => w.edit_object(at, 0, |o| (o.lock, o.pinned) = (Some(lock), true)),
        Step::Pin => w.edit_object(at, 0, |o| o.pinned = true),
        Step::Fail(_) => w.edit_object(at, 0, |o| (o.lock, o.finished, o.tidy) = (None, true, true)),
        Step::Conclude { reused, .. } => w.edit_object(at, 0, |o| (o.finished, o.tidy) = (true, reused)),
        _ => None,
    }
}

pub(super) fn shard(work: &str, lines: &str, round: u32, prior_counts: RequestCounts) -> Shard {
    Shard {
        sha256: content(work, lines),
        first: i64::from(lines.as_bytes()[0] - b'0'),
        requests: lines.len() as i64,
        round,
        prior_counts,
        model: String::new(),
        hints: TokenHints { text_bytes: 2, ..money::hints(lines) },
        ..beginnings::shard()
    }
}

pub(super) fn post(
    w: &mut World,
    replica: usize,
    memory: &mut Memory,
    credential: &str,
    attempt_key: AttemptKey,
) -> Option<Doing> {
    let Attempt { intent_id: intent, payload, post_by, .. } = w.attempt(attempt_key)?.clone();
    let file = match payload {
        // All that there is of it is its content.
        Payload::Inline {} => w.journal.as_ref()?.shards[attempt_key.shard].sha256.clone(),
        payload => payload.name().into(),
    };
    memory.permit = None;
    if w.clock(replica) >= post_by {
        memory.posted.insert(intent, PostResult::Refused(Rejection::new(Refusal::NotSent, "")));
        return Some(Doing::Nothing);
    }
    w.posts.push(Post {
        intent: intent.clone(),
        file,
        credential: credential.into(),
        until: post_by + 1 - w.replicas[replica].ahead,
    });
    Some(Doing::Waiting(intent))
}

/// Remembers a POST that goes out while the journal is this one.
pub(super) fn note_post(w: &mut World, replica: usize, journal: Option<&Journal>) {
    w.history.asked_when_done |= w.folder.manifest.is_some();
    let Some(journal) = journal else { return };
    w.history.asked_when_closed |= journal.closing.is_some();
    w.history.asked_when_taken |= w.object_of(replica).is_some_and(|o| o.owner.is_copy(&journal.owner));
}

fn look_at(w: &World, now: i64, memory: &mut Memory, job: &JobView, batch_id: &str) {
    let batch = w.batches.iter().find(|b| b.id == *batch_id && b.credential == job.fingerprint);
    let ended = |state, rejected| PolledState::Ended { state, done: 0, rejected };
    let turned_away = |refusal| ended(BatchEnd::Failed, Some((refusal, String::new())));
    let seen = match batch.map(|b| &b.state) {
        None | Some(BatchState::Forgotten) => PolledState::NotFound,
        Some(BatchState::Running { .. }) => PolledState::Running { state: "in_progress".into(), done: 0 },
        Some(BatchState::Ended(_)) => ended(BatchEnd::Completed, None),
        Some(BatchState::Rejected) => turned_away(Refusal::Failed),
        Some(BatchState::OverTheLimit) => turned_away(Refusal::TokenLimit),
    };
    memory.looks.insert(batch_id.into(), PollResult { at: now, seen });
}

fn cancel(w: &mut World, memory: &mut Memory, job: &JobView, id: String) {
    let mut ours = w.batches.iter_mut().filter(|b| b.id == id && b.credential == job.fingerprint);
    if let Some(BatchState::Running { told_to_stop }) = ours.next().map(|b| &mut b.state) {
        *told_to_stop = true;
    }
    memory.looks.remove(&id);
    memory.cancelled.insert(id);
}
