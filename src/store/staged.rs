//! Reading of staged files, which are compressed with zstd and never change. `store/spool.rs` writes them.

use std::io::{Read, Seek, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;

use async_compression::tokio::bufread::ZstdDecoder;
use async_compression::zstd::DParameter;
use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::io::{InspectReader, StreamReader};
use tokio_util::task::AbortOnDropHandle;

use super::copies::{self, BLOCK_BYTES};
use super::memory::{Reservation, reserve};
pub use super::spool::{Spool, SpooledFile};
use super::{DiskUse, Folder, StoreCause, StoreError};
use crate::api::text::hex;
use crate::transport::measured_here;

/// Largest zstd window, as a power of two: 512 KiB, as `Level::Fastest` has. A decoder holds one in memory, and others
/// may write to the store as well.
const WINDOW_LOG_LIMIT: u32 = 19;
/// Bytes that a zstd decoder holds in addition to its window: a block on each side of it, and its tables.
pub const DECODER_BYTES: usize = 512 << 10;
/// Compressed bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;
/// Uncompressed bytes that are returned at a time.
const CHUNK: usize = 64 << 10;
/// Bytes that a reader of a staged file holds: a block of the copy or a chunk of the store, and its decoder.
pub const READER_BYTES: usize = BLOCK_BYTES + READ_BYTES + (1 << WINDOW_LOG_LIMIT) + DECODER_BYTES + CHUNK;
/// Kind of an error of the transfer, such as a store that breaks off. Errors of all other kinds concern the content.
pub const BROKE_OFF: std::io::ErrorKind = std::io::ErrorKind::ConnectionAborted;

/// Returns an error of the local spool.
pub fn local(error: std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("the local spool: {error}"), Some(StoreCause::Disk(error.kind())))
}

/// Returns the error of a staged file that was not read to its end.
pub fn unread(error: std::io::Error) -> StoreError {
    match error.kind() == BROKE_OFF {
        true => {
            let message = format!("what was staged could not be read to its end: {error}");
            StoreError::Unavailable(message, error.downcast().ok().and_then(StoreError::into_cause))
        }
        false => StoreError::Corrupt(error.to_string()),
    }
}

/// Creates an unnamed file in `dir`, which is deleted when its handle is dropped.
///
/// # Errors
/// Fails if the local disk does.
pub fn scratch(dir: &Path) -> Result<File, StoreError> {
    Ok(File::from_std(tempfile::tempfile_in(dir).map_err(local)?))
}

/// Opens a stored file. Returns whether each of its bytes is checked against the file that was put, as those of a local
/// copy are.
async fn stored(folder: &Folder, name: &str) -> Result<(BoxStream<'static, std::io::Result<Bytes>>, bool), StoreError> {
    if let Some(copy) = folder.copies().and_then(|copies| copies.find(&folder.uri_of(name))) {
        return Ok((copies::read(copy, folder.clone(), name.into()).boxed(), true));
    }
    Ok((in_store(folder, name).await?, false))
}

async fn in_store(folder: &Folder, name: &str) -> Result<BoxStream<'static, std::io::Result<Bytes>>, StoreError> {
    let entry = folder.get(name).await?;
    let entry = entry.ok_or_else(|| {
        StoreError::Corrupt(format!("{name} was staged and is gone; was it deleted by a lifecycle rule?"))
    })?;
    Ok(entry.stream.map_err(|e| std::io::Error::new(BROKE_OFF, e)).boxed())
}

fn decoded(
    stored: BoxStream<'static, std::io::Result<Bytes>>,
    held: Reservation,
) -> impl AsyncRead + Unpin + Send + 'static {
    let reader = BufReader::with_capacity(READ_BYTES, StreamReader::new(stored));
    let mut unpacked = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(WINDOW_LOG_LIMIT)]);
    unpacked.multiple_members(true);
    InspectReader::new(unpacked, move |bytes| {
        _ = &held;
        super::unpacked(bytes.len() as u64);
    })
}

/// Opens a staged file that must exist, and decompresses it.
///
/// # Errors
/// Fails if the file does not exist. A missing file never counts as an empty one.
pub async fn open(folder: &Folder, name: &str) -> Result<impl AsyncRead + Unpin + Send + 'static, StoreError> {
    let held = reserve(READER_BYTES).await;
    Ok(decoded(stored(folder, name).await?.0, held))
}

/// Opens a staged file as a stream, which ends in an error unless the content has the hash `sha256`.
///
/// # Errors
/// Fails if the file does not exist.
pub async fn verified(
    folder: &Folder,
    name: &str,
    sha256: &str,
) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + 'static, StoreError> {
    let held = reserve(READER_BYTES).await;
    let (stored, is_checked) = stored(folder, name).await?;
    Ok(verified_of((stored, held), is_checked, name, sha256))
}

/// Opens the file in the store as such a stream, never a local copy.
///
/// # Errors
/// Fails if the file does not exist.
pub async fn verified_in_store(
    folder: &Folder,
    name: &str,
    sha256: &str,
) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + 'static, StoreError> {
    let held = reserve(READER_BYTES).await;
    Ok(verified_of((in_store(folder, name).await?, held), false, name, sha256))
}

fn verified_of(
    (stored, held): (BoxStream<'static, std::io::Result<Bytes>>, Reservation),
    is_checked: bool,
    name: &str,
    sha256: &str,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let (reader, wanted, name) = (decoded(stored, held), sha256.to_string(), name.to_string());
    // Content that is checked block by block needs no second check.
    let digest = (!is_checked).then(|| Context::new(&SHA256));
    let state = Some((reader, digest));
    futures::stream::try_unfold(state, move |state| {
        let (wanted, name) = (wanted.clone(), name.clone());
        async move {
            let Some((mut reader, mut digest)) = state else { return Ok(None) };
            let mut chunk = BytesMut::with_capacity(CHUNK);
            if reader.read_buf(&mut chunk).await? == 0 {
                return match digest.is_none_or(|digest| hex(digest.finish().as_ref()) == wanted) {
                    true => Ok(None),
                    false => Err(std::io::Error::other(format!("{name} is not what was staged"))),
                };
            }
            if let Some(digest) = &mut digest {
                digest.update(&chunk);
            }
            Ok(Some((chunk.freeze(), Some((reader, digest)))))
        }
    })
}

/// Chunks that [`ahead`] reads before they are asked for.
const CHUNKS_AHEAD: usize = 8;
/// Bytes that [`ahead`] holds.
pub const DECODED_BYTES: usize = (CHUNKS_AHEAD + 1) * CHUNK;

/// Reads the chunks of a staged file in a task of its own, some ahead, so that they are decompressed while those before are
/// sent.
pub async fn ahead(
    content: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let held = reserve(DECODED_BYTES).await;
    let (read, chunks) = mpsc::channel(CHUNKS_AHEAD);
    let reading = measured_here(async move {
        let mut content = std::pin::pin!(content);
        while let Some(chunk) = content.next().await {
            if read.send(chunk).await.is_err() {
                break;
            }
        }
    });
    let task = AbortOnDropHandle::new(tokio::spawn(reading));
    futures::stream::try_unfold((chunks, task, held), |(mut chunks, task, held)| async move {
        match chunks.recv().await {
            Some(chunk) => Ok(Some((chunk?, (chunks, task, held)))),
            // A task that panicked has not read everything.
            None => task.await.map(|()| None).map_err(std::io::Error::other),
        }
    })
}

/// Writes all of `content` to a file in `spool`, and returns a reader of it, which holds no decoder.
///
/// # Errors
/// Fails if `content` or the local disk does.
pub async fn unpacked_to(
    spool: &Path,
    mut content: impl AsyncRead + Unpin,
) -> std::io::Result<impl AsyncRead + Unpin + Send + 'static> {
    let disk = |e| std::io::Error::new(BROKE_OFF, local(e));
    let mut file = tempfile::tempfile_in(spool).map_err(disk)?;
    let (mut chunk, mut used, mut bytes) = (BytesMut::with_capacity(CHUNK), DiskUse::default(), 0);
    while content.read_buf(&mut chunk).await? > 0 {
        bytes += chunk.len() as u64;
        used.set(bytes).await;
        file.write_all(&chunk).map_err(disk)?;
        chunk.clear();
    }
    file.rewind().map_err(disk)?;
    Ok(Local(file, used))
}

/// A file on local disk. Its content is in the kernel's cache, or soon will be, so it is not worth a thread.
struct Local(std::fs::File, #[allow(dead_code)] DiskUse);

impl AsyncRead for Local {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = self.0.read(into.initialize_unfilled());
        Poll::Ready(match read {
            Ok(n) => {
                into.advance(n);
                Ok(())
            }
            Err(e) => Err(std::io::Error::new(BROKE_OFF, local(e))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SpooledLine;
    use crate::transport::Meter;

    /// Bytes that hardly compress.
    fn bytes(count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[tokio::test]
    async fn what_is_written_to_the_spool_counts_for_the_work_that_writes_it_until_it_is_gone() {
        let (meter, dir, bytes) = (Meter::default(), std::env::temp_dir(), bytes(3 << 20));
        let of = meter.clone();
        let used = |written: u64| {
            let used = of.disk();
            assert!((written..written + (1 << 20)).contains(&used), "{used} bytes of {written}");
        };
        meter
            .clone()
            .measure(async {
                let mut spool = Spool::new(&dir).await.unwrap();
                spool.write(&bytes).await.unwrap();
                used(5 << 19);
                let file = spool.finish().await.unwrap();
                used(3 << 20);
                let unpacked = unpacked_to(&dir, &bytes[..]).await.unwrap();
                used(6 << 20);
                let mut line = SpooledLine::new(&dir).unwrap();
                line.push(&bytes).unwrap();
                used(9 << 20);
                drop((file, unpacked));
                used(3 << 20);
            })
            .await;
        assert_eq!(meter.disk(), 0);
    }
}
