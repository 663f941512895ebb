//! The data path, as far as the protocol rests on it: collecting, another round, and the join.

use super::*;

/// `spec.backoffLimitPerRequest`
pub(super) const LIMIT_PER_REQUEST: u32 = 1;

impl Protocol {
    /// Whether the files that the replica fetches may not be whole yet.
    pub(super) fn may_read_short(&self, w: &World, replica: usize) -> bool {
        let Doing::Collecting(_, id) = &w.replicas[replica].doing else { return false };
        let young = |b: &Batch| b.id == *id && w.now < b.ended_at + LAG;
        w.left.short_readings > 0 && w.batches.iter().any(young)
    }

    /// Fetches what came back and puts it as a part. A part is named by its content and never replaced.
    pub(super) fn collect(&self, w: &mut World, replica: usize, attempt_key: AttemptKey, batch: &str, short: bool) {
        let overwrites = self.mutant == Some(Mutant::PartsOverwritten);
        let Some(Batch { file, state: BatchState::Ended(ended), .. }) = w.batches.iter().find(|b| b.id == batch) else {
            return;
        };
        let (file, mut ended) = (file.clone(), ended.clone());
        let lines = parse(&file).1;
        match (w.deleted_files.contains(&answers_of(batch)), overwrites) {
            (false, _) => {}
            // Fails, and is tried again.
            (true, false) => return,
            // What is cut off is taken for the whole.
            (true, true) => ended = "M".repeat(lines.len()),
        }
        if short {
            ended.replace_range(..1, "M");
        }
        let reading = self.read(&mut ended);
        let told: String = lines.chars().zip(ended.chars()).flat_map(|(line, end)| [line, end]).collect();
        let name = if overwrites { attempt_key.to_string() } else { format!("{attempt_key}-{told}") };
        w.folder.parts.insert((w.work(), name.clone()), told.clone());
        let collected = CollectResult {
            part: PartRef { name, sha256: told },
            counts: count(&ended),
            usage: if self.budgeted.or(self.limit).is_some() { money::usage(&ended) } else { Default::default() },
            totals: None,
            retryable: 0,
            errors: vec![],
            files: vec![file, answers_of(batch)],
            short: None,
            long_context_above: None,
            foreign: 0,
        };
        let taken_for_whole = overwrites || self.mutant == Some(Mutant::ShortIsWhole);
        let at = w.clock(replica);
        w.learn(replica, |m| {
            let short = ShortRead::after(None, reading, at).filter(|_| !taken_for_whole);
            m.collected.insert(batch.into(), CollectResult { short, ..collected });
        });
    }

    /// What the files hold; lines that they do not tell of become what the production rule makes of them.
    fn read(&self, ended: &mut String) -> ReadCounts {
        let of = |letter: char| ended.chars().filter(|c| *c == letter).count() as i64;
        let (requests, unreadable) = (ended.len() as i64, of('U'));
        let found = requests - unreadable - of('M');
        let reading = ReadCounts { requests, found, expected: requests, unreadable, cut_off: 0 };
        let unanswered = match reading.unanswered() {
            Unanswered::Unreadable if self.mutant != Some(Mutant::UnreadableIsMissing) => "F",
            _ => "M",
        };
        *ended = ended.replace(['U', 'M'], unanswered);
        reading
    }

    /// Joins the parts that `journal` names into results, and writes them with the manifest last and put if absent.
    pub(super) fn join(&self, w: &mut World, replica: usize, journal: &Journal, then: Option<Write>) {
        let written = w.folder.manifest.as_ref().is_some_and(|r| r.manifest.work_id == journal.work_id);
        if written && then.is_none() {
            return w.learn(replica, |m| m.manifest = None);
        }
        if w.folder.manifest.as_ref().is_some_and(|r| r.manifest.work_id != journal.work_id) {
            // Refused: it is another work's.
            return;
        }
        let Some(results) = joined(w, journal, self.mutant) else { return };
        match &w.folder.manifest {
            None => w.folder.manifest = Some(Shared::new(results.clone())),
            // The files beside the manifest are written again.
            Some(there) if there.lines != results.lines => {
                w.history.replaced = true;
                let manifest = there.manifest.clone();
                w.folder.manifest = Some(Shared::new(Results { manifest, lines: results.lines.clone() }));
            }
            Some(_) => {}
        }
        w.learn(replica, |m| m.manifest = Some(Some(results.manifest)));
        if let Some(write) = then {
            w.replicas[replica].doing = Doing::Writing(write);
        }
    }
}

fn count(ended: &str) -> RequestCounts {
    let of = |letter: char| ended.chars().filter(|c| *c == letter).count() as i64;
    RequestCounts {
        total: ended.len() as i64,
        succeeded: of('Y'),
        reused: 0,
        failed: of('F'),
        expired: of('E'),
        cancelled: of('C'),
        missing: of('M'),
        resent: 0,
    }
}

/// How each line ended, by round, as the parts that the journal names have it; None where one is not there.
fn ends(w: &World, journal: &Journal, line: char, mutant: Option<Mutant>) -> Option<Vec<(u32, char)>> {
    let mut ends = vec![];
    for shard in w.shards_of(journal, mutant)? {
        let part = match shard.attempt.as_ref().map(|a| &a.state) {
            Some(AttemptState::Settled { part: Some(part), .. }) => part,
            _ => match &shard.reused {
                Some(part) => part,
                None => continue,
            },
        };
        let told = w.folder.parts.get(&(journal.work_id.clone(), part.name.clone()));
        // What is read is checked against the journal's hash.
        let checked = mutant == Some(Mutant::PartsOverwritten) || told == Some(&part.sha256);
        let told = told.filter(|_| checked)?;
        let pairs = told.as_bytes().chunks(2).map(|p| (char::from(p[0]), char::from(p[1])));
        ends.extend(pairs.filter(|(of, _)| *of == line).map(|(_, end)| (shard.round, end)));
    }
    ends.sort_by_key(|(round, _)| *round);
    Some(ends)
}

fn is_refused_for_good(w: &World, journal: &Journal, line: char) -> bool {
    let refused = |s: &Shard| s.is_refused_for_good() || s.is_too_large();
    let shards = w.shards_of(journal, None).unwrap_or_default();
    shards.into_iter().any(|s| parse(&s.sha256).1.contains(line) && refused(s))
}

fn is_final(end: char) -> bool {
    matches!(end, 'Y' | 'F')
}

pub(super) fn joined(w: &World, journal: &Journal, mutant: Option<Mutant>) -> Option<Results> {
    let (commit, plan) = (journal.commit.as_ref()?, journal.plan.as_ref()?);
    let mut lines = String::new();
    for line in 0..plan.requests as u8 {
        let ends = ends(w, journal, char::from(b'0' + line), mutant)?;
        let end = ends.iter().find(|(_, end)| is_final(*end)).or(ends.last());
        let never = if is_refused_for_good(w, journal, char::from(b'0' + line)) { 'F' } else { 'C' };
        lines.push(end.map_or(never, |(_, end)| *end));
    }
    let manifest = ManifestView {
        work_id: journal.work_id.clone(),
        work_hash: plan.work_hash.clone(),
        outcome: commit.outcome,
        reason: String::new(),
        message: String::new(),
        requests: commit.requests,
        at: commit.at,
        files: vec![],
        errors: vec![],
        spending: Default::default(),
    };
    Some(Results { manifest, lines })
}

/// The halves of a shard that has more than one line.
pub(super) fn halves(w: &World, attempt_key: AttemptKey) -> Option<[Shard; 2]> {
    let whole = w.journal.as_ref()?.shards.get(attempt_key.shard)?;
    let (work, lines) = parse(&whole.sha256);
    let (first, second) = lines.split_at_checked(lines.len().div_ceil(2))?;
    let half = |lines: &str| shard(work, lines, whole.round, RequestCounts::default());
    (!second.is_empty() && whole.round == 0).then(|| [half(first), half(second)])
}

/// What another round would send: every line without a final answer that nobody gave up, pooled.
pub(super) fn follow_up(w: &World, round: u32, mutant: Option<Mutant>) -> Option<Vec<Shard>> {
    let Some(journal) = &w.journal else { return Some(vec![]) };
    let Some(plan) = &journal.plan else { return Some(vec![]) };
    let shards = w.shards_of(journal, mutant)?;
    let given_up = |line: char| {
        let of = |s: &&Shard| parse(&s.sha256).1.contains(line);
        shards.iter().copied().filter(of).any(Shard::is_given_up)
    };
    let (mut lines, mut stood) = (String::new(), String::new());
    for line in (0..plan.requests as u8).map(|line| char::from(b'0' + line)) {
        let ends = ends(w, journal, line, mutant).unwrap_or_default();
        let tries = RequestHistory {
            ended: ends.iter().any(|(_, end)| is_final(*end)),
            failed: 0,
            lost: ends.iter().filter(|(_, end)| *end == 'M').count(),
            given_up: given_up(line),
        };
        if !tries.may_be_sent_again(LIMIT_PER_REQUEST) {
            continue;
        }
        lines.push(line);
        stood.push(ends.last().map_or('M', |(_, end)| *end));
    }
    Some(match lines.is_empty() {
        true => vec![],
        false => vec![shard(&plan.work_hash, &lines, round, count(&stood))],
    })
}
