//! A provider never vanishes under a batch: the protocol between a job's first intent and the deletion of the provider
//! that it refers to, with the production `decide` and `project`, through every interleaving.
//!
//! The job's controller and the provider's each look, judge and act in steps of their own, and a job may judge on a
//! provider that it read a while ago.

#![allow(clippy::unwrap_used)]

#[path = "support/beginnings.rs"]
mod beginnings;

use batchjob_operator::api::{BatchJobStatus, PinnedProvider};
use batchjob_operator::lifecycle::{
    AttemptKey, Blocked, JobView, Journal, Memory, Observed, ProviderView, Step, Timing, decide, project,
};
use stateright::{Checker, Model, Property};

const TIMING: Timing =
    Timing { post_window: 1, send_timeout: 1, listing_lag: 1, deletion_deadline: 1, abandon_after: 1 };
const NEVER_LOST: &str = "the provider is there for as long as a batch may run";

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// A provider that was read before the job was pinned is good enough.
    OldLook,
    /// The provider's controller asks for intents, not for pins.
    NoPins,
    /// The finalizer comes off whatever happened since the list was made.
    NoFinalizer,
}

#[derive(Clone, Copy, Debug)]
struct Protocol {
    mutant: Option<Mutant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Provider {
    kept: bool,
    terminating: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    provider: Option<Provider>,
    pinned: bool,
    sent: bool,
    done: bool,
    /// What the job's controller last read of the provider, and whether the job was pinned then.
    known: Option<(Provider, bool)>,
    /// What the job's controller is about to do.
    pending: Option<Pending>,
    /// The provider's controller saw that nobody needs it.
    unused: bool,
    stalled: bool,
}

/// The effects of steps that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pending {
    Status { pinned: bool },
    Keep,
    Intent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Delete,
    Judge {
        fresh: bool,
    },
    Act,
    Crash,
    /// The journal cannot be read, or is gone, once something was sent.
    JudgeBlind {
        gone: bool,
    },
    Done,
    List,
    LetGo,
}

fn pin() -> PinnedProvider {
    beginnings::provider().pin
}

fn view(pinned: bool, provider: Provider) -> JobView {
    let Provider { kept, terminating } = provider;
    JobView {
        pinned,
        provider: Some(ProviderView { kept, terminating, ..beginnings::provider() }),
        ..beginnings::job()
    }
}

/// A journal with one shard that is about to be sent, and what the process knows of it.
fn work() -> (Journal, Memory) {
    let mut journal = Journal::open("w".into(), beginnings::owner(), "spec".into());
    journal.plan = Some(beginnings::plan(1));
    journal.shards.push(beginnings::shard());
    let mut memory = Memory { manifest: Some(None), store_proved: Some(Ok(())), ..Default::default() };
    memory.uploads.insert((AttemptKey { shard: 0, attempt: 1 }, "s".into()), "f".into());
    (journal, memory)
}

fn judge_blind(w: &mut World, gone: bool) -> Option<()> {
    let blocked = (!gone).then(|| Blocked { reason: "StorageUnavailable", message: "m".into() });
    let job = JobView { submitted: gone, blocked, ..view(w.pinned, w.provider?) };
    let memory = Memory { manifest: Some(None), ..Default::default() };
    let observed = Observed { now: 0, nonce: "i", timing: &TIMING, job: &job, journal: None, memory: &memory };
    let old = BatchJobStatus { provider: w.pinned.then(pin), ..Default::default() };
    w.pinned = project(&observed, &old, None, &decide(&observed))?.provider.is_some();
    Some(())
}

impl Protocol {
    fn judge(&self, w: &mut World, fresh: bool) -> Option<()> {
        let is_current = |(_, pinned): &(Provider, bool)| *pinned == w.pinned || self.mutant == Some(Mutant::OldLook);
        let (known, _) = match w.known.filter(is_current).filter(|_| !fresh) {
            Some(known) => known,
            None => (w.provider?, w.pinned),
        };
        if fresh || !w.known.is_some_and(|k| is_current(&k)) {
            w.known = Some((known, w.pinned));
        }
        let (job, (journal, memory)) = (view(w.pinned, known), work());
        let observed =
            Observed { now: 0, nonce: "i", timing: &TIMING, job: &job, journal: Some(&journal), memory: &memory };
        let step = decide(&observed);
        w.stalled |= matches!(&step, Step::Wait { why, .. } if why.blocked.is_some());
        w.pending = match &step {
            Step::KeepProvider => Some(Pending::Keep),
            Step::WriteIntent { .. } => Some(Pending::Intent),
            step => {
                let old = BatchJobStatus { provider: w.pinned.then(pin), ..Default::default() };
                let status = project(&observed, &old, None, step)?;
                Some(Pending::Status { pinned: status.provider.is_some() })
            }
        };
        Some(())
    }

    fn act(&self, w: &mut World) -> Option<()> {
        match w.pending.take()? {
            Pending::Status { pinned } => w.pinned = pinned,
            Pending::Intent => w.sent = true,
            Pending::Keep => {
                let provider = w.provider.as_mut()?;
                provider.kept |= !provider.terminating;
                w.known = Some((*provider, w.known?.1));
            }
        }
        Some(())
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let world = |pinned, kept| World {
            provider: Some(Provider { kept, terminating: false }),
            pinned,
            sent: false,
            done: false,
            known: None,
            pending: None,
            unused: false,
            stalled: false,
        };
        vec![world(false, false), world(false, true), world(true, false), world(true, true)]
    }

    fn actions(&self, w: &World, actions: &mut Vec<Action>) {
        let provider = w.provider.as_ref();
        if provider.is_some_and(|p| !p.terminating) {
            actions.push(Action::Delete);
        }
        if provider.is_some_and(|p| p.terminating && p.kept) {
            actions.push(if w.unused { Action::LetGo } else { Action::List });
        }
        match (w.sent, w.done, w.pending) {
            (true, false, _) => {
                actions.extend([true, false].map(|gone| Action::JudgeBlind { gone }));
                actions.push(Action::Done);
            }
            (true, true, _) => {}
            (false, _, None) => actions.extend([true, false].map(|fresh| Action::Judge { fresh })),
            (false, _, Some(_)) => actions.extend([Action::Act, Action::Crash]),
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut w = last.clone();
        match action {
            Action::Delete if self.mutant == Some(Mutant::NoFinalizer) || !w.provider?.kept => w.provider = None,
            Action::Delete => w.provider.as_mut()?.terminating = true,
            Action::Judge { fresh } => self.judge(&mut w, fresh)?,
            Action::Act => self.act(&mut w)?,
            Action::Crash => (w.pending, w.known) = (None, None),
            Action::JudgeBlind { gone } => judge_blind(&mut w, gone)?,
            Action::Done => w.done = true,
            Action::List => {
                let needs = if self.mutant == Some(Mutant::NoPins) { w.sent } else { w.pinned };
                w.unused = !needs || w.done;
                if !w.unused {
                    return None;
                }
            }
            Action::LetGo => w.provider = None,
        }
        Some(w)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_LOST, |_, w: &World| w.provider.is_some() || !w.sent || w.done),
            Property::sometimes("a batch runs at a provider that is to go", |_, w: &World| {
                w.sent && !w.done && w.provider.is_some_and(|p| p.terminating)
            }),
            Property::sometimes("a provider goes when its batch is settled", |_, w: &World| {
                w.done && w.provider.is_none()
            }),
            Property::sometimes("a job that was pinned lets go", |_, w: &World| {
                w.stalled && !w.sent && w.provider.is_none()
            }),
        ]
    }
}

#[test]
fn a_provider_never_vanishes_under_a_batch() {
    let checker = Protocol { mutant: None }.checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.unique_state_count() > 50, "{} states", checker.unique_state_count());
}

#[test]
fn each_rule_is_needed() {
    for mutant in [Mutant::OldLook, Mutant::NoPins, Mutant::NoFinalizer] {
        let checker = Protocol { mutant: Some(mutant) }.checker().spawn_bfs().join();
        assert!(checker.discovery(NEVER_LOST).is_some(), "{mutant:?} breaks nothing");
    }
}
