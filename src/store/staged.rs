//! Compressed line files that are written once: spooled to local disk, then put under a name made from their content.

use std::io::{Read, Seek, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use async_compression::Level;
use async_compression::tokio::bufread::ZstdDecoder;
use async_compression::tokio::write::ZstdEncoder;
use async_compression::zstd::{CParameter, DParameter};
use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, ReadBuf};
use tokio::task::JoinHandle;
use tokio_util::io::{InspectReader, StreamReader};

use super::copies::{self, BLOCK_BYTES, Blocks, Copy};
use super::memory::{Reservation, reserve};
use super::{DiskUse, Folder, StoreCause, StoreError};
use crate::api::text::hex;

/// A file that is being spooled: compressed with zstd on local disk, with SHA-256 and size of the uncompressed bytes.
/// One block is compressed on another thread while the next is filled and hashed.
pub struct Spool {
    block: Vec<u8>,
    digest: Context,
    /// Bytes of a block.
    block_bytes: usize,
    packing: JoinHandle<std::io::Result<Packer>>,
    bytes: u64,
    disk: DiskUse,
    _held: Reservation,
}

struct Packer {
    /// Encoder into memory. Whole blocks of its output go to the file.
    encoder: ZstdEncoder<Vec<u8>>,
    file: File,
    blocks: Blocks,
    /// The last block, empty, for reuse.
    block: Vec<u8>,
}

/// A spooled file, ready to be put.
pub struct SpooledFile {
    copy: Arc<Copy>,
    _disk: DiskUse,
    /// SHA-256 of the uncompressed bytes, in hex.
    pub sha256: String,
    /// Size in bytes, uncompressed.
    pub bytes: u64,
}

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
/// Bytes that a file holds while it is spooled: two blocks, their compressed output, and a zstd encoder.
pub const SPOOL_BYTES: usize = 4 * BLOCK_BYTES + (3 << 19);
/// Bytes of a block, and of the window, of a small spool.
const SMALL_BLOCK: usize = 32 << 10;
/// Bytes that a small file holds while it is spooled.
pub const SMALL_SPOOL_BYTES: usize = 2 * SMALL_BLOCK + 2 * BLOCK_BYTES + (3 << 17);

/// Kind of an error of the transfer, such as a store that breaks off. Errors of all other kinds concern the content.
pub const BROKE_OFF: std::io::ErrorKind = std::io::ErrorKind::ConnectionAborted;

/// Returns an error of the local spool.
pub fn local(error: std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("the local spool: {error}"), Some(StoreCause::Disk(error.kind())))
}

/// Creates an unnamed file in `dir`, which is deleted when its handle is dropped.
///
/// # Errors
/// Fails if the local disk does.
pub fn scratch(dir: &Path) -> Result<File, StoreError> {
    Ok(File::from_std(tempfile::tempfile_in(dir).map_err(local)?))
}

impl Spool {
    /// # Errors
    /// Fails if the local disk does.
    pub async fn new(dir: &Path) -> Result<Spool, StoreError> {
        Spool::with(dir, BLOCK_BYTES, SPOOL_BYTES, ZstdEncoder::with_quality(vec![], Level::Fastest)).await
    }

    /// Creates a spool that holds less memory and compresses less, for small files.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn small(dir: &Path) -> Result<Spool, StoreError> {
        let window = [CParameter::window_log(SMALL_BLOCK.ilog2())];
        let encoder = ZstdEncoder::with_quality_and_params(vec![], Level::Fastest, &window);
        Spool::with(dir, SMALL_BLOCK, SMALL_SPOOL_BYTES, encoder).await
    }

    async fn with(
        dir: &Path,
        block_bytes: usize,
        holds: usize,
        encoder: ZstdEncoder<Vec<u8>>,
    ) -> Result<Spool, StoreError> {
        let held = reserve(holds).await;
        let (file, blocks, digest) = (scratch(dir)?, Blocks::default(), Context::new(&SHA256));
        let packer = Packer { encoder, file, blocks, block: vec![] };
        let packing = tokio::spawn(async { Ok(packer) });
        let disk = DiskUse::default();
        Ok(Spool { block: vec![], digest, block_bytes, packing, bytes: 0, disk, _held: held })
    }

    /// Adds bytes, of which no more than a block is held in memory.
    ///
    /// # Errors
    /// Fails if the local disk does, maybe for bytes that were added before.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let now;
            (now, bytes) = bytes.split_at((self.block_bytes - self.block.len()).min(bytes.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == self.block_bytes {
                self.digest.update(&self.block);
                let mut packer = self.packed().await?;
                // What the encoder still has, and this block.
                self.disk.set(packer.blocks.bytes() + 2 * BLOCK_BYTES as u64).await;
                std::mem::swap(&mut packer.block, &mut self.block);
                self.packing = tokio::spawn(packer.pack());
            }
        }
        Ok(())
    }

    /// Returns the size so far, uncompressed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the bytes of local disk that it takes, as far as they are known: what is being compressed may be less than a block.
    pub fn disk(&self) -> u64 {
        self.disk.bytes()
    }

    async fn packed(&mut self) -> Result<Packer, StoreError> {
        (&mut self.packing).await.map_err(std::io::Error::other).flatten().map_err(local)
    }

    /// # Errors
    /// Fails if the local disk does.
    pub async fn finish(mut self) -> Result<SpooledFile, StoreError> {
        self.digest.update(&self.block);
        let mut packer = self.packed().await?;
        packer.block = self.block;
        let mut packer = packer.pack().await.map_err(local)?;
        packer.encoder.shutdown().await.map_err(local)?;
        packer.spill(1).await.map_err(local)?;
        packer.file.flush().await.map_err(local)?;
        self.disk.note(packer.blocks.bytes());
        let copy = Arc::new(Copy::new(packer.file.into_std().await, packer.blocks));
        Ok(SpooledFile { copy, _disk: self.disk, sha256: hex(self.digest.finish().as_ref()), bytes: self.bytes })
    }
}

impl Packer {
    async fn pack(mut self) -> std::io::Result<Packer> {
        self.encoder.write_all(&self.block).await?;
        self.block.clear();
        self.spill(BLOCK_BYTES).await?;
        Ok(self)
    }

    /// Writes blocks to the file while there are at least `least` bytes.
    async fn spill(&mut self, least: usize) -> std::io::Result<()> {
        let ready = self.encoder.get_mut();
        let mut written = 0;
        while ready.len() - written >= least {
            let block = &ready[written..ready.len().min(written + BLOCK_BYTES)];
            self.blocks.push(block);
            self.file.write_all(block).await?;
            written += block.len();
        }
        ready.drain(..written);
        Ok(())
    }
}

impl SpooledFile {
    #[cfg(test)]
    pub(super) fn copy(&self) -> &Copy {
        &self.copy
    }

    /// Puts the file, and keeps it as a local copy. An object of that name has the same content, so it is not put
    /// again. Returns whether it was put now.
    ///
    /// # Errors
    /// Fails if the store does, or if the local disk lost the content.
    pub async fn put(self, folder: &Folder, name: &str, work_id: &str) -> Result<bool, StoreError> {
        if folder.exists(name).await? {
            return Ok(false);
        }
        let mut upload = folder.create(name, work_id).await?;
        for number in 0..self.copy.blocks().count() {
            let block = self.copy.block(number).await;
            let lost = || {
                let message = format!("the local spool: {name} changed there before it was put");
                StoreError::Unavailable(message, Some(StoreCause::Disk(std::io::ErrorKind::InvalidData)))
            };
            upload.write_block(block.ok_or_else(lost)?).await?;
        }
        upload.finish().await?;
        if let Some(copies) = folder.copies() {
            copies.keep(folder.uri_of(name), self.copy);
        }
        Ok(true)
    }
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
    let unpacked = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(WINDOW_LOG_LIMIT)]);
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
