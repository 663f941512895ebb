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
use super::{Folder, StoreError};
use crate::api::text::hex;

/// A file that is being spooled: zstd on local disk, SHA-256 and size of what went in. One block is compressed on another
/// thread while the next one is filled and hashed.
pub struct Spool {
    block: Vec<u8>,
    digest: Context,
    /// Bytes of a block.
    block_bytes: usize,
    packing: JoinHandle<std::io::Result<Packer>>,
    bytes: u64,
    _held: Reservation,
}

struct Packer {
    /// Into memory, from where whole blocks go to the file.
    encoder: ZstdEncoder<Vec<u8>>,
    file: File,
    blocks: Blocks,
    /// Emptied, to be filled again.
    block: Vec<u8>,
}

/// A spooled file, ready to be put.
pub struct Spooled {
    copy: Arc<Copy>,
    /// SHA-256 of the uncompressed bytes, in hex.
    pub sha256: String,
    /// Uncompressed size.
    pub bytes: u64,
}

/// Windows of up to 512 KiB, as `Level::Fastest` has them: a decoder holds one in memory, and others may write here too.
const WINDOW_LOG_LIMIT: u32 = 19;
/// Bytes that a decoder of zstd holds beside its window: a block on each side of it, and its tables.
pub const DECODER_BYTES: usize = 512 << 10;
/// Compressed bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;
/// Uncompressed bytes that are handed on at a time.
const CHUNK: usize = 64 << 10;
/// Bytes that a reader of what was staged holds: a block of the file or what a store sends at a time, and its decoder.
pub const READER_BYTES: usize = BLOCK_BYTES + READ_BYTES + (1 << WINDOW_LOG_LIMIT) + DECODER_BYTES + CHUNK;
/// Bytes that a file holds that is being spooled: two blocks, what was made of them, and an encoder of zstd.
pub const SPOOL_BYTES: usize = 4 * BLOCK_BYTES + (3 << 19);
/// Bytes of a block, and of the window, of a small one.
const SMALL_BLOCK: usize = 32 << 10;
/// The same of a small one.
pub const SMALL_SPOOL_BYTES: usize = 2 * SMALL_BLOCK + 2 * BLOCK_BYTES + (3 << 17);

/// Kind of the error where the store breaks off: all others are of what was read.
pub const BROKE_OFF: std::io::ErrorKind = std::io::ErrorKind::ConnectionAborted;

/// An error of the local spool.
pub fn local(error: std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("the local spool: {error}"))
}

/// An unnamed file in `dir` that goes with its handle.
///
/// # Errors
/// When the disk refuses.
pub fn scratch(dir: &Path) -> Result<File, StoreError> {
    Ok(File::from_std(tempfile::tempfile_in(dir).map_err(local)?))
}

impl Spool {
    /// # Errors
    /// When the disk refuses.
    pub async fn new(dir: &Path) -> Result<Spool, StoreError> {
        Spool::with(dir, BLOCK_BYTES, SPOOL_BYTES, ZstdEncoder::with_quality(vec![], Level::Fastest)).await
    }

    /// One that holds less, and finds less to compress: of what is little.
    ///
    /// # Errors
    /// When the disk refuses.
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
        Ok(Spool { block: vec![], digest, block_bytes, packing, bytes: 0, _held: held })
    }

    /// Adds bytes, of which no more than a block is held.
    ///
    /// # Errors
    /// When the disk refuses, maybe what was added before.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let now;
            (now, bytes) = bytes.split_at((self.block_bytes - self.block.len()).min(bytes.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == self.block_bytes {
                self.digest.update(&self.block);
                let mut packer = self.packed().await?;
                std::mem::swap(&mut packer.block, &mut self.block);
                self.packing = tokio::spawn(packer.pack());
            }
        }
        Ok(())
    }

    /// Uncompressed size so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    async fn packed(&mut self) -> Result<Packer, StoreError> {
        (&mut self.packing).await.map_err(std::io::Error::other).flatten().map_err(local)
    }

    /// # Errors
    /// When the disk refuses.
    pub async fn finish(mut self) -> Result<Spooled, StoreError> {
        self.digest.update(&self.block);
        let mut packer = self.packed().await?;
        packer.block = self.block;
        let mut packer = packer.pack().await.map_err(local)?;
        packer.encoder.shutdown().await.map_err(local)?;
        packer.spill(1).await.map_err(local)?;
        packer.file.flush().await.map_err(local)?;
        let copy = Arc::new(Copy::new(packer.file.into_std().await, packer.blocks));
        Ok(Spooled { copy, sha256: hex(self.digest.finish().as_ref()), bytes: self.bytes })
    }
}

impl Packer {
    async fn pack(mut self) -> std::io::Result<Packer> {
        self.encoder.write_all(&self.block).await?;
        self.block.clear();
        self.spill(BLOCK_BYTES).await?;
        Ok(self)
    }

    /// Writes blocks to the file as long as there are so many bytes.
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

impl Spooled {
    #[cfg(test)]
    pub(super) fn copy(&self) -> &Copy {
        &self.copy
    }

    /// Puts the file; one that is there is as good, for its name says what is in it. What was put is kept as a local copy. Whether
    /// it was put now.
    ///
    /// # Errors
    /// When the store refuses, or the disk has lost what was written to it.
    pub async fn put(self, folder: &Folder, name: &str, work_id: &str) -> Result<bool, StoreError> {
        if folder.exists(name).await? {
            return Ok(false);
        }
        let mut upload = folder.create(name, work_id).await?;
        for number in 0..self.copy.blocks().count() {
            let block = self.copy.block(number).await;
            let lost = || StoreError::Unavailable(format!("the local spool: {name} changed there before it was put"));
            upload.write_block(block.ok_or_else(lost)?).await?;
        }
        upload.finish().await?;
        if let Some(copies) = folder.copies() {
            copies.keep(folder.uri_of(name), self.copy);
        }
        Ok(true)
    }
}

/// What is stored, and whether each byte of it is seen to be what was put.
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

/// The uncompressed bytes of a staged file that must be there.
///
/// # Errors
/// When it is not there; absence is never taken for emptiness.
pub async fn open(folder: &Folder, name: &str) -> Result<impl AsyncRead + Unpin + Send + 'static, StoreError> {
    let held = reserve(READER_BYTES).await;
    Ok(decoded(stored(folder, name).await?.0, held))
}

/// The same as a stream that ends in an error where the content is not the one of `sha256`.
///
/// # Errors
/// When it is not there.
pub async fn verified(
    folder: &Folder,
    name: &str,
    sha256: &str,
) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + 'static, StoreError> {
    let held = reserve(READER_BYTES).await;
    let (stored, is_checked) = stored(folder, name).await?;
    Ok(verified_of((stored, held), is_checked, name, sha256))
}

/// The same of what lies in the store, whatever is at hand of it.
///
/// # Errors
/// When it is not there.
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
    // What is seen to be what was put needs no second look.
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

/// All of `content` in a file in `spool`, whose reader holds no decoder.
///
/// # Errors
/// What `content` says, or the disk.
pub async fn unpacked_to(
    spool: &Path,
    mut content: impl AsyncRead + Unpin,
) -> std::io::Result<impl AsyncRead + Unpin + Send + 'static> {
    let disk = |e| std::io::Error::new(BROKE_OFF, local(e));
    let mut file = tempfile::tempfile_in(spool).map_err(disk)?;
    let mut chunk = BytesMut::with_capacity(CHUNK);
    while content.read_buf(&mut chunk).await? > 0 {
        file.write_all(&chunk).map_err(disk)?;
        chunk.clear();
    }
    file.rewind().map_err(disk)?;
    Ok(Local(file))
}

/// A file on local disk. What is read of it lies in the kernel's cache, or soon: it is not worth another thread.
struct Local(std::fs::File);

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
