//! Two processes without a lease share a ledger, whose writes are conditional, and the journals of jobs. Each effect may be the last
//! one of its process. The journal of a job may be replaced by an earlier one: its own batches are then not followed, and all promises
//! hold for the others.

use super::*;

const JOBS: usize = 3;
const LIMITS: [&str; 4] = ["3", "9", "14", "30"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Attempt {
    /// None was made, or all made no batch.
    Unsent,
    /// The batch of this index.
    Live(usize),
    /// The batch's cost is in the journal, or it was given up on.
    Settled,
}

/// A work of one shard.
#[derive(Clone, Copy, Debug)]
struct Journal {
    rev: u64,
    /// Another one for each content, and the same one when it is put back.
    etag: u64,
    /// Number of attempts.
    attempts: u32,
    attempt: Attempt,
    /// The end is decided, or the plan was dropped: no intent can follow.
    is_closed: bool,
}

struct Batch {
    job: usize,
    day: Date,
    ceiling: Usd,
    /// None while it runs.
    cost: Option<Usd>,
    /// How often, and by how much, the ledger counted it.
    counted: (usize, Usd),
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Reserve { amount: Usd, day: Date, attempts: u32, replaces: Option<u64> },
    Settle { batch: usize, cost: Option<Usd> },
    Release,
    Sweep,
    SettleLater,
}

/// A reservation that stands, as far as a process knows.
#[derive(Clone, Copy, Debug)]
struct Reserved {
    rev: u64,
    /// The revision that it was reserved on, before its own writes of the journal.
    judged: u64,
    amount: Usd,
    day: Date,
    /// Number of attempts before the one that it is for.
    attempts: u32,
}

/// What a process is about to write, and what it judged for that.
#[derive(Clone)]
struct Write {
    job: usize,
    rev: u64,
    change: Change,
    judged: (u64, Ledger),
}

#[derive(Default, Clone)]
struct Process {
    /// The journals as it saw them last.
    looks: [Option<Journal>; JOBS],
    /// What it knows to be reserved.
    reserved: [Option<Reserved>; JOBS],
    /// Whether it knows that the batch is in the ledger, by the batch's index.
    accounted: [Option<usize>; JOBS],
    released: [Option<u64>; JOBS],
    /// The revision that the journal has to exceed, and that of the journal that was put back once all later ones are counted.
    later: [Option<(u64, Option<u64>)>; JOBS],
    write: Option<Write>,
}

struct World {
    day: Date,
    limit: Usd,
    /// The most that may be spent and in flight in the current day: the budget, or what was when it was lowered.
    cap: Usd,
    version: u64,
    ledger: Ledger,
    journals: [Journal; JOBS],
    etags: u64,
    /// Earlier journals.
    past: [Vec<Journal>; JOBS],
    /// Whether an earlier journal was put back: what the later ones said may be sent, and count, less often than it happened.
    is_restored: [bool; JOBS],
    is_gone: [bool; JOBS],
    batches: Vec<Batch>,
    processes: [Process; 2],
}

/// A rule that is broken, so that the test is seen to find it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mutant {
    None,
    /// The ledger is written over whatever is there.
    WritesUnjudged,
    /// An intent is written by an earlier revision's reservation.
    OldReservation,
    /// A settlement adds its cost although there is no reservation.
    SettlesTwice,
    /// Reservations are released while a batch is live.
    ReleasesLive,
    /// A reservation becomes smaller although another process may send a batch on it.
    ShrinksUnheld,
}

fn job_of(ledger_key: &str) -> usize {
    ledger_key[1..ledger_key.find('/').unwrap()].parse().unwrap()
}

impl World {
    fn new() -> World {
        let journal = Journal { rev: 1, etag: 0, attempts: 0, attempt: Attempt::Unsent, is_closed: false };
        World {
            day: day("2026-11-29"),
            limit: usd("14"),
            cap: usd("14"),
            version: 0,
            ledger: Ledger::default(),
            journals: [journal; JOBS],
            etags: 0,
            past: Default::default(),
            is_restored: [false; JOBS],
            is_gone: [false; JOBS],
            batches: vec![],
            processes: Default::default(),
        }
    }

    fn budgets(&self) -> [Budget; 1] {
        [Budget { period: BudgetPeriod::Day, max_cost: self.limit, per_namespace: false }]
    }

    fn used(&self) -> Usd {
        let used = self.ledger.used(&self.budgets()[0], None, self.day, None);
        used.spent + used.reserved
    }

    /// What was spent on a day and what may yet be.
    fn exposure(&self) -> Usd {
        self.batches
            .iter()
            .filter(|b| b.day == self.day && !self.is_restored[b.job])
            .map(|b| b.cost.unwrap_or(b.ceiling))
            .sum()
    }

    fn swap(&mut self, process: usize, job: usize, edit: impl FnOnce(&mut Journal)) -> bool {
        let Some(look) = self.processes[process].looks[job] else { return false };
        let is_current = self.journals[job].etag == look.etag;
        if is_current {
            let journal = &mut self.journals[job];
            self.past[job].push(*journal);
            edit(journal);
            self.etags += 1;
            (journal.rev, journal.etag) = (journal.rev + 1, self.etags);
            let (journal, kept) = (*journal, &mut self.processes[process].reserved[job]);
            // Its own write lets a reservation stand, unless it closes the journal.
            *kept = kept
                .filter(|kept| kept.rev == look.rev && !journal.is_closed)
                .map(|kept| Reserved { rev: journal.rev, ..kept });
        }
        self.processes[process].looks[job] = None;
        is_current
    }

    fn begin(&mut self, process: usize, job: usize, rev: u64, change: Change) {
        let judged = (self.version, self.ledger.clone());
        self.processes[process].write = Some(Write { job, rev, change, judged });
    }

    /// The next step of a process about a job, on its last look. `choice` decides what the provider does.
    fn act(&mut self, p: usize, job: usize, choice: u8, mutant: Mutant) {
        let Some(look) = self.processes[p].looks[job] else {
            if !self.is_gone[job] {
                self.processes[p].looks[job] = Some(self.journals[job]);
            }
            return;
        };
        let rev = look.rev;
        match look.attempt {
            Attempt::Unsent if look.is_closed => {
                if self.processes[p].released[job] != Some(rev) {
                    self.begin(p, job, rev, Change::Release);
                }
            }
            // Another shard's batch ended, say.
            Attempt::Unsent if choice.is_multiple_of(11) => _ = self.swap(p, job, |_| {}),
            Attempt::Unsent => {
                let known = self.processes[p].reserved[job];
                let stands = |known: &Reserved| {
                    known.attempts == look.attempts
                        && known.day == self.day
                        && (known.rev == rev || mutant == Mutant::OldReservation)
                };
                match known.filter(stands) {
                    // The object is looked at for the intent.
                    Some(_) if self.is_gone[job] => {}
                    Some(known) => self.intend(p, job, (known.amount, known.day), choice),
                    None if self.processes[p].later[job].is_some_and(|(past, _)| past >= rev) => {
                        self.catch_up(p, job, look);
                    }
                    None => {
                        let amount = usd(["1", "4", "6"][usize::from(choice) % 3]);
                        let attempts = look.attempts;
                        let replaces = known.filter(|known| known.rev == rev).map(|known| known.judged);
                        self.begin(p, job, rev, Change::Reserve { amount, day: self.day, attempts, replaces });
                    }
                }
            }
            Attempt::Live(batch) => {
                let is_known = self.processes[p].accounted[job] == Some(batch);
                match (self.batches[batch].cost, is_known) {
                    (None, false) if choice.is_multiple_of(5) => {
                        self.begin(p, job, rev, Change::Settle { batch, cost: None })
                    }
                    (None, false) => {}
                    (cost, false) => self.begin(p, job, rev, Change::Settle { batch, cost }),
                    // It is sent anew on a person's word, or is done.
                    (_, true) => {
                        let next = if choice.is_multiple_of(3) { Attempt::Unsent } else { Attempt::Settled };
                        self.swap(p, job, |j| j.attempt = next);
                    }
                }
            }
            Attempt::Settled if !look.is_closed => _ = self.swap(p, job, |j| j.is_closed = true),
            Attempt::Settled => {
                if self.processes[p].released[job] != Some(rev) {
                    self.begin(p, job, rev, Change::Release);
                }
            }
        }
        if mutant == Mutant::ReleasesLive && choice.is_multiple_of(7) {
            self.begin(p, job, rev, Change::Release);
        }
    }

    /// An earlier journal was put back.
    fn catch_up(&mut self, p: usize, job: usize, look: Journal) {
        let Some((past, counted_after)) = self.processes[p].later[job] else { return };
        if counted_after == Some(look.rev) {
            self.swap(p, job, |j| j.rev = past);
        } else if self.journals[job].etag == look.etag {
            self.begin(p, job, look.rev, Change::SettleLater);
        } else {
            self.processes[p].looks[job] = None;
        }
    }

    fn intend(&mut self, p: usize, job: usize, (ceiling, day): (Usd, Date), choice: u8) {
        let batch = self.batches.len();
        // The provider refuses some, and they make no batch.
        let attempt = if choice.is_multiple_of(4) { Attempt::Unsent } else { Attempt::Live(batch) };
        let made = |j: &mut Journal| (j.attempt, j.attempts) = (attempt, j.attempts + 1);
        if self.swap(p, job, made) && attempt != Attempt::Unsent {
            self.batches.push(Batch { job, day, ceiling, cost: None, counted: (0, Usd::ZERO) });
        }
    }

    /// The write of the ledger that a process is about to make.
    fn write(&mut self, p: usize, mutant: Mutant) {
        let Some(Write { job, rev, change, judged: (version, mut ledger) }) = self.processes[p].write.take() else {
            return;
        };
        let key = shard_key(&format!("w{job}"), 0);
        let before = ledger.clone();
        let (gone, day, namespace) = (self.is_gone, self.day, format!("n{}", job % 2));
        let done = match change {
            Change::Reserve { amount, day, replaces, .. } => {
                let job_uid = format!("u{job}");
                let wanted = Reservation { namespace, job_uid, amount, day, rev, terms: Some(Box::new(terms(1))) };
                if mutant == Mutant::ShrinksUnheld {
                    ledger.open.remove(&key);
                }
                let answer = ledger.reserve(&key, wanted, replaces, &self.budgets());
                if let Err(Unreserved::Stale { past }) = answer {
                    (self.processes[p].later[job], self.processes[p].looks[job]) = (Some((past, None)), None);
                }
                answer.is_ok()
            }
            Change::Settle { cost, .. } => {
                let is_new = ledger.settle(&key, rev, cost.map(|cost| billed(&cost.rounded())).as_ref(), day);
                if !is_new && mutant == Mutant::SettlesTwice {
                    let sums = ledger.spent.entry(namespace).or_default();
                    sums.add(cost.unwrap_or_default(), day, day);
                }
                true
            }
            Change::Release => {
                let rev = if mutant == Mutant::ReleasesLive { u64::MAX } else { rev };
                ledger.release(&format!("w{job}"), rev, &all(), day);
                true
            }
            Change::SettleLater => {
                ledger.settle_later(&format!("w{job}"), rev, day);
                true
            }
            Change::Sweep => {
                ledger.sweep(|open| gone[open.job_uid[1..].parse::<usize>().unwrap()], day);
                true
            }
        };
        if !done || (version != self.version && mutant != Mutant::WritesUnjudged) {
            return;
        }
        if let Change::Reserve { day, .. } = change {
            // A slow process moves the reservation of a batch that another one sent.
            let of = |b: &&mut Batch| b.job == job && b.counted.0 == 0 && before.open.contains_key(&key);
            self.batches.iter_mut().filter(of).for_each(|batch| batch.day = day);
        }
        self.count(&before, &ledger, change);
        (self.version, self.ledger) = (self.version + 1, ledger);
        let process = &mut self.processes[p];
        match change {
            Change::Reserve { amount, day, attempts, .. } => {
                process.reserved[job] = Some(Reserved { rev, judged: rev, amount, day, attempts })
            }
            Change::Settle { batch, .. } => process.accounted[job] = Some(batch),
            Change::Release => process.released[job] = Some(rev),
            Change::SettleLater => {
                process.later[job] = process.later[job].map(|(past, _)| (past, Some(rev)));
            }
            Change::Sweep => {}
        }
    }

    /// Notes which batches a write of the ledger counted.
    fn count(&mut self, before: &Ledger, after: &Ledger, change: Change) {
        if matches!(change, Change::Reserve { .. } | Change::Release) {
            return;
        }
        for (key, open) in before.open.iter().filter(|(key, _)| !after.open.contains_key(*key)) {
            let job = job_of(key);
            let of = |(_, b): &(usize, &mut Batch)| b.job == job && b.day == open.day && b.counted.0 == 0;
            let cost = match change {
                Change::Settle { cost: Some(cost), .. } => cost,
                _ => open.amount,
            };
            // A reservation without a batch is counted as well if its job went: the batch may have been.
            match self.batches.iter_mut().enumerate().rev().find(of) {
                Some((_, batch)) => batch.counted = (1, cost),
                None => self.batches.push(Batch {
                    job,
                    day: open.day,
                    ceiling: open.amount,
                    cost: Some(cost),
                    counted: (1, cost),
                }),
            }
        }
    }

    fn happen(&mut self, what: u8, p: usize, job: usize) {
        match what {
            0 => self.processes[p] = Process::default(),
            1 => self.day = if self.day < day("2026-11-30") { self.day.tomorrow().unwrap() } else { self.day },
            2 => {
                self.limit = usd(LIMITS[job]);
                self.cap = self.limit.max(self.used());
            }
            3 => {
                // The finalizer is taken off.
                self.is_gone[job] = true;
            }
            4 => self.begin(p, job, 0, Change::Sweep),
            5 => {
                // The plan is dropped, or made anew.
                let look = self.processes[p].looks[job];
                if look.is_some_and(|j| j.attempt == Attempt::Unsent) {
                    self.swap(p, job, |j| j.is_closed = !j.is_closed);
                }
            }
            8 => {
                if let Some(earlier) = self.past[job].pop() {
                    (self.journals[job], self.is_restored[job]) = (earlier, true);
                    // Who saw a later one drops what it knew.
                    self.processes.iter_mut().for_each(|process| process.reserved[job] = None);
                }
            }
            _ => {
                for batch in self.batches.iter_mut().filter(|b| b.job == job && b.cost.is_none()) {
                    batch.cost = Some(batch.ceiling.share(i64::from(what % 3), 2).min(batch.ceiling));
                }
            }
        }
    }

    /// Everything that goes on by itself comes to its end.
    fn settle_down(&mut self) {
        self.processes = Default::default();
        for job in 0..JOBS {
            self.happen(6, 0, job);
            for step in 0..40 {
                self.act(0, job, 1 + 3 * (step % 2), Mutant::None);
                self.write(0, Mutant::None);
                // At last nothing is sent any more; but a journal that was put back does not keep its job from sending before.
                let sends = self.is_restored[job] && step < 30 && !self.is_gone[job];
                if !sends && !self.journals[job].is_closed && self.journals[job].attempt == Attempt::Unsent {
                    self.processes[0].looks[job] = Some(self.journals[job]);
                    self.swap(0, job, |j| j.is_closed = true);
                }
                self.happen(6, 0, job);
            }
        }
        for job in (0..JOBS).filter(|job| self.is_restored[*job]) {
            // The sweep settles what is left of jobs that are over.
            self.is_gone[job] = true;
        }
        self.happen(4, 0, 0);
        self.write(0, Mutant::None);
    }
}

/// Runs the steps, and returns the promise that does not hold.
fn run(steps: &[(u8, u8, u8)], mutant: Mutant) -> Result<(), String> {
    let mut w = World::new();
    for &(what, who, choice) in steps {
        let (p, job) = (usize::from(who) % 2, usize::from(who / 2) % JOBS);
        let today = w.day;
        match what {
            0..=8 => w.happen(what, p, job),
            n if n.is_multiple_of(2) => w.write(p, mutant),
            _ if w.processes[p].write.is_none() => w.act(p, job, choice, mutant),
            _ => {}
        }
        if w.day != today {
            w.cap = w.limit.max(w.used());
        }
        if w.exposure() > w.cap {
            return Err(format!("{} spent and in flight where {} was allowed", w.exposure(), w.cap));
        }
    }
    w.settle_down();
    if !w.ledger.open.is_empty() {
        return Err(format!("reservations are left: {:?}", w.ledger.open));
    }
    let mut others = w.batches.iter().filter(|b| !w.is_restored[b.job]);
    if let Some(batch) = others.find(|b| b.counted.0 != 1 || b.counted.1 < b.cost.unwrap_or_default()) {
        return Err(format!("a batch of {:?} was counted {:?}", batch.cost, batch.counted));
    }
    let counted: Usd = w.batches.iter().map(|b| b.counted.1).sum();
    let sums: Usd = w.ledger.spent.values().flat_map(|sums| sums.days.values()).copied().sum();
    if sums != counted {
        return Err(format!("{sums} in the ledger where {counted} was counted"));
    }
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    // Most steps are those of processes.
    prop::collection::vec((0..60u8, 0..12u8, any::<u8>()), 0..160)
}

proptest! {
    // `PROPTEST_CASES` may ask for more.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2_000)))]

    #[test]
    fn no_budget_is_exceeded_and_each_batch_is_counted_once(steps in steps()) {
        prop_assert_eq!(run(&steps, Mutant::None), Ok(()));
    }
}

#[test]
fn each_rule_is_needed() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    for mutant in [
        Mutant::WritesUnjudged,
        Mutant::OldReservation,
        Mutant::SettlesTwice,
        Mutant::ReleasesLive,
        Mutant::ShrinksUnheld,
    ] {
        let mut runner = TestRunner::deterministic();
        let found = (0..20_000).find(|_| run(&steps().new_tree(&mut runner).unwrap().current(), mutant).is_err());
        assert!(found.is_some(), "{mutant:?} breaks nothing");
    }
}
