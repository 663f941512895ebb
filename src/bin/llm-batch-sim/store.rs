//! What exists: files and batches of every account.

use std::sync::Arc;
use std::time::Instant;

use tempfile::TempPath;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::accounts::Account;
use crate::batch::Batch;
use crate::overlaps::Overlaps;
use crate::table::Table;
use crate::wire::FileObject;

/// A file's bytes on disk. They go away with the last holder, so deleting a file does not take
/// it from a batch that was accepted with it.
pub type Content = Arc<TempPath>;

/// A file and whose it is.
#[derive(Debug)]
pub struct StoredFile {
    /// Whose it is.
    pub account: Account,
    /// What the API shows.
    pub object: FileObject,
    /// Its bytes.
    pub content: Content,
    /// From when on a batch can be made of it.
    pub ready: Instant,
}

impl StoredFile {
    /// Whether it was looked into.
    pub fn is_ready(&self) -> bool {
        Instant::now() >= self.ready
    }

    /// What the API shows of it now.
    pub fn shown(&self) -> FileObject {
        let status = if self.is_ready() { self.object.status } else { "pending" };
        FileObject { status, ..self.object.clone() }
    }
}

/// A batch and whose it is.
#[derive(Debug)]
pub struct StoredBatch {
    /// Whose it is.
    pub account: Account,
    /// What the API shows.
    pub object: Batch,
    /// The way to whoever runs it.
    pub control: Arc<Control>,
}

/// What a batch that runs is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Take the time you were given.
    Run,
    /// Run what is left at once.
    Finish,
    /// Run nothing more.
    Cancel,
}

/// The way to whoever runs a batch, and back.
#[derive(Debug)]
pub struct Control {
    /// What it is told; [`Command::Cancel`] stays.
    pub command: watch::Sender<Command>,
    /// Set when nothing more will change.
    pub ended: CancellationToken,
}

impl Default for Control {
    fn default() -> Self {
        Self { command: watch::Sender::new(Command::Run), ended: CancellationToken::new() }
    }
}

impl Control {
    /// Tells the batch something.
    pub fn tell(&self, command: Command) {
        self.command.send_if_modified(|told| {
            let news = *told != Command::Cancel && *told != command;
            if news {
                *told = command;
            }
            news
        });
    }
}

/// Everything that exists. Batches are never removed, as at the vendor.
#[derive(Debug, Default)]
pub struct Store {
    /// Uploads and results.
    pub files: Table<StoredFile>,
    /// Every batch ever created.
    pub batches: Table<StoredBatch>,
    /// How many uploads ever succeeded.
    pub uploads: u64,
    /// What was paid for twice at once.
    pub overlaps: Overlaps,
}

impl Store {
    /// The file of an id, if this account may see it.
    pub fn file(&self, account: &Account, id: &str) -> Option<&StoredFile> {
        self.files.get(id).filter(|file| file.account == *account)
    }

    /// Requests of an account's batches that run, without those of one.
    pub fn enqueued(&self, account: &Account, but: &str) -> u64 {
        let batches = self.batches.iter().filter(|batch| batch.account == *account && batch.object.id != but);
        batches.filter(|batch| !batch.object.status.is_end()).map(|batch| batch.object.requests()).sum()
    }

    /// The batch of an id, if this account may see it.
    pub fn batch(&mut self, account: &Account, id: &str) -> Option<&mut StoredBatch> {
        self.batches.get_mut(id).filter(|batch| batch.account == *account)
    }
}
