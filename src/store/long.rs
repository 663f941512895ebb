//! Content that is too long to be in memory while more of it is fetched, and the turns in which it is loaded.
//!
//! A line may be long, and takes several times its length until it has been processed. So one long line is in memory at
//! a time, over all readers. Others wait on local disk. The holder of the turn never waits for a store or a provider,
//! so no tenant's server delays another tenant's job.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::memory::{Reservation, reserve};
use super::{DiskUse, staged};

/// Bytes from which lines take turns in memory.
pub const LONG: usize = 4 << 20;
/// Bytes from which lines wait on local disk in a join, which has many readers open.
pub const HEAVY: usize = 64 << 10;
static LONG_ONES: Semaphore = Semaphore::const_new(1);

/// The right to hold a long line, which exists once in the process. Its holder waits for nothing but local disk, and
/// takes no second one.
#[derive(Debug, Default)]
pub struct LongLineTurn(Option<SemaphorePermit<'static>>);

impl LongLineTurn {
    /// Waits for the turn if `bytes` are many. If the `held` bytes that they are made of are many as well, they already
    /// have it.
    pub async fn take_beside(&mut self, held: usize, bytes: usize) {
        if held <= LONG {
            self.take(bytes).await;
        }
    }

    /// Waits for the turn if `bytes` are many.
    pub async fn take(&mut self, bytes: usize) {
        if self.0.is_none() && bytes > LONG {
            self.0 = LONG_ONES.acquire().await.ok();
        }
    }
}

/// Content that is too long to be held in memory while more of it is fetched. It is in a file without a name.
#[derive(Debug)]
pub struct SpooledLine {
    file: File,
    bytes: usize,
    disk: DiskUse,
}

impl SpooledLine {
    /// Creates an empty one, in a file in `dir`.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub fn new(dir: &Path) -> std::io::Result<SpooledLine> {
        Ok(SpooledLine { file: tempfile::tempfile_in(dir).map_err(of_the_spool)?, bytes: 0, disk: DiskUse::default() })
    }

    /// Returns the length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends bytes. They go to the kernel's cache, which is not worth a thread.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub fn push(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.disk.note((self.bytes + bytes.len()) as u64);
        self.file.write_all(bytes).map_err(of_the_spool)?;
        self.bytes += bytes.len();
        Ok(())
    }

    /// Reads bytes from `offset` on, as many as `into` has room for or as there are. Returns their number.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> std::io::Result<usize> {
        let length = into.len().min(self.bytes.saturating_sub(offset));
        self.file.read_exact_at(&mut into[..length], offset as u64).map(|()| length).map_err(of_the_spool)
    }

    /// Loads the whole content, after waiting for its turn.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn load(&self) -> std::io::Result<LoadedLine> {
        LoadedLine::of_file(&self.file, 0, self.bytes).await
    }
}

/// Marks an error of the local disk, which says nothing about the content.
fn of_the_spool(error: std::io::Error) -> std::io::Error {
    std::io::Error::new(staged::BROKE_OFF, staged::local(error))
}

impl Write for SpooledLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.push(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes in memory, with the right to hold them.
#[derive(Debug)]
pub struct LoadedLine {
    bytes: Vec<u8>,
    _turn: LongLineTurn,
    _reserved: Reservation,
}

impl std::ops::Deref for LoadedLine {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl LoadedLine {
    /// Loads `length` bytes of a file on the spool, after waiting for their turn.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub(super) async fn of_file(file: &File, offset: u64, length: usize) -> std::io::Result<LoadedLine> {
        let mut turn = LongLineTurn::default();
        turn.take(length).await;
        // The one line in its turn is accounted for once, for the process.
        let reserved = if length > LONG { Reservation::default() } else { reserve(length).await };
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map_err(of_the_spool)?;
        Ok(LoadedLine { bytes, _turn: turn, _reserved: reserved })
    }

    /// Holds so few bytes that they need neither a turn nor a reservation.
    pub(super) fn of_few(bytes: Vec<u8>) -> LoadedLine {
        LoadedLine { bytes, _turn: LongLineTurn::default(), _reserved: Reservation::default() }
    }

    /// Drops all but the first `length` bytes.
    pub(super) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }
}
