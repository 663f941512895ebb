//! A work whose every batch succeeds, as decisions and the journal see it: the provider and the transfers are made up.

#[path = "beginnings.rs"]
pub mod beginnings;

use std::sync::Arc;

use batchjob_operator::api::{BatchEnd, RequestCounts};
use batchjob_operator::controller::{JournalStore, VersionedJournal};
use batchjob_operator::lifecycle::{
    AttemptKey, CollectResult, JobView, Journal, Memory, Observed, PartRef, PollResult, PolledState, PostResult,
    ProviderView, SEAL_AT, SHARD_LIMIT, Search, Shard, Step, Timing, decide,
};
use batchjob_operator::store::{Folder, layout};

const TIMING: Timing = Timing {
    post_window: 10_000,
    send_timeout: 45_000,
    listing_lag: 300_000,
    deletion_deadline: 3_600_000,
    abandon_after: 3_600_000,
};
const WORK: &str = "0123456789abcdef0123456789abcdef";

pub struct Work {
    job: JobView,
    pub memory: Memory,
    store: JournalStore,
    pub judged: VersionedJournal,
    now: i64,
    nonce: u64,
    /// What was decided last.
    last: Option<Step>,
    /// Writes of the journal so far.
    pub transitions: u64,
}

impl Work {
    /// A work of so many shards that was planned.
    pub async fn planned(folder: &Folder, shards: usize) -> Work {
        let store = JournalStore::new(folder, SEAL_AT);
        let job = job();
        let mut journal = Journal::open(WORK.into(), job.owner.clone(), job.spec_hash.clone());
        store.create(&journal).await.unwrap();
        let (_, version) = store.read(None, job.parallelism).await.unwrap().unwrap();
        journal.plan = Some(beginnings::plan(1_000 * shards as i64));
        journal.shards = (0..shards).map(shard).collect();
        store.swap(&version, &journal.next(|_| {})).await.unwrap();
        let judged = store.read(None, job.parallelism).await.unwrap().unwrap();
        let memory = Memory { manifest: Some(None), store_proved: Some(Ok(())), ..Default::default() };
        Work { job, memory, store, judged, now: 1_795_990_475_783, nonce: 0, last: None, transitions: 0 }
    }

    /// Goes on until so many shards are settled, visit by visit, as the controller does.
    pub async fn run_until_settled(&mut self, shards: usize) {
        let (mut since, mut at) = (0, self.transitions);
        while self.judged.0.shards.totals().settled < shards {
            self.visit().await;
            since = if at == self.transitions { since + 1 } else { 0 };
            at = self.transitions;
            assert!(since < 1_000, "nothing is written any more: {:?}", self.last);
        }
    }

    async fn visit(&mut self) {
        self.judged = self.store.read(Some(&self.judged), self.job.parallelism).await.unwrap().unwrap();
        self.nonce += 1;
        let (nonce, memory) = (format!("{:032x}", self.nonce), self.memory.clone());
        let step = decide(&Observed {
            now: self.now,
            nonce: &nonce,
            timing: &TIMING,
            job: &self.job,
            journal: Some(&self.judged.0),
            memory: &memory,
        });
        self.last = Some(step.clone());
        match step {
            Step::Wait { until, .. } => self.now = until.unwrap_or(self.now + 1_000).max(self.now + 1),
            Step::Swap(next) => self.write(&next).await,
            Step::WriteIntent { journal, intent_id } => {
                self.write(&journal).await;
                self.memory.permit = Some(intent_id);
            }
            step => self.learn(step),
        }
    }

    async fn write(&mut self, next: &Journal) {
        let (written, swapped) = self.store.swap(&self.judged.1, next).await.unwrap();
        self.memory.forget_sealed(&self.judged.0, next, &written);
        self.judged = (Arc::new(written), swapped.version().unwrap());
        self.transitions += 1;
    }

    fn learn(&mut self, step: Step) {
        let shard = |attempt_key: AttemptKey| self.judged.0.shards.get(attempt_key.shard).unwrap().clone();
        let intent = |attempt_key: AttemptKey| shard(attempt_key).attempt.unwrap().intent_id;
        let (memory, now) = (&mut self.memory, self.now);
        match step {
            Step::Upload(attempt_key) => {
                memory
                    .uploads
                    .insert((attempt_key, shard(attempt_key).sha256), format!("file-{:024x}", attempt_key.shard));
            }
            Step::Post(attempt_key) => {
                memory.permit = None;
                memory.posted.insert(intent(attempt_key), PostResult::Created(batch(attempt_key)));
            }
            Step::Poll(attempt_key) => {
                let seen = PolledState::Ended { state: BatchEnd::Completed, done: 1_000, rejected: None };
                memory.looks.insert(batch(attempt_key), PollResult { at: now, seen });
            }
            Step::Search(attempt_key) => {
                memory
                    .searches
                    .insert(intent(attempt_key), Search { began: now, found: Some(vec![batch(attempt_key)]) });
            }
            Step::Collect { attempt_key, .. } => {
                _ = memory.collected.insert(batch(attempt_key), collected(attempt_key))
            }
            Step::DeleteFiles { files, .. } => memory.deleted.extend(files),
            Step::LookForManifest => memory.manifest = Some(None),
            other => panic!("{other:?}"),
        }
    }
}

fn batch(attempt_key: AttemptKey) -> String {
    format!("batch_{:032x}", attempt_key.shard)
}

fn collected(attempt_key: AttemptKey) -> CollectResult {
    let sha256 = format!("{:064x}", attempt_key.shard + (1 << 41));
    CollectResult {
        part: PartRef { name: layout::part(WORK, &attempt_key.to_string(), &sha256), sha256 },
        counts: RequestCounts { total: 1_000, succeeded: 1_000, ..Default::default() },
        usage: Default::default(),
        totals: None,
        retryable: 0,
        errors: vec![],
        files: (0..3).map(|of| format!("file-{of:x}{:023x}", attempt_key.shard)).collect(),
        short: None,
        long_context_above: None,
        foreign: 0,
    }
}

fn shard(index: usize) -> Shard {
    Shard {
        sha256: format!("{index:064x}"),
        index_sha256: format!("{:064x}", index + (1 << 40)),
        bytes: 100_000_000,
        first: 1_000 * index as i64,
        requests: 1_000,
        ..beginnings::shard()
    }
}

fn job() -> JobView {
    let provider = ProviderView { is_vendors_own: true, ..beginnings::provider() };
    let (shard_limit, seal_at) = (SHARD_LIMIT, SEAL_AT);
    JobView { shard_limit, seal_at, provider: Some(provider), submitted: true, ..beginnings::job() }
}
