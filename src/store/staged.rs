//! Compressed line files that are written once: spooled to local disk, then put under a name made from their content.

use std::path::Path;

use async_compression::Level;
use async_compression::tokio::bufread::ZstdDecoder;
use async_compression::tokio::write::ZstdEncoder;
use async_compression::zstd::DParameter;
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::task::JoinHandle;
use tokio_util::io::{InspectReader, StreamReader};

use super::{Folder, StoreError};
use crate::api::text::hex;

/// A file that is being spooled: zstd on local disk, SHA-256 and size of what went in. One block is compressed on another
/// thread while the next one is filled.
pub struct Spool {
    block: Vec<u8>,
    packing: JoinHandle<std::io::Result<Packer>>,
    bytes: u64,
}

struct Packer {
    writer: ZstdEncoder<BufWriter<File>>,
    digest: Context,
    /// Emptied, to be filled again.
    block: Vec<u8>,
}

/// A spooled file, ready to be put.
pub struct Spooled {
    file: File,
    /// SHA-256 of the uncompressed bytes, in hex.
    pub sha256: String,
    /// Uncompressed size.
    pub bytes: u64,
}

/// Windows of up to 8 MiB, which a decoder holds in memory: we write smaller ones, and others may write here too.
const WINDOW_LOG_LIMIT: u32 = 23;
/// Bytes that are compressed, and read or written, in one go.
const BLOCK_BYTES: usize = 256 << 10;

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
    pub fn new(dir: &Path) -> Result<Spool, StoreError> {
        // Each write to a file takes a turn on another thread.
        let file = BufWriter::with_capacity(BLOCK_BYTES, scratch(dir)?);
        let writer = ZstdEncoder::with_quality(file, Level::Fastest);
        let packer = Packer { writer, digest: Context::new(&SHA256), block: vec![] };
        Ok(Spool { block: vec![], packing: tokio::spawn(async { Ok(packer) }), bytes: 0 })
    }

    /// Adds bytes, of which no more than a block is held.
    ///
    /// # Errors
    /// When the disk refuses, maybe what was added before.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let now;
            (now, bytes) = bytes.split_at((BLOCK_BYTES - self.block.len()).min(bytes.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK_BYTES {
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
        let mut packer = self.packed().await?;
        packer.block = self.block;
        let mut packer = packer.pack().await.map_err(local)?;
        packer.writer.shutdown().await.map_err(local)?;
        let mut file = packer.writer.into_inner().into_inner();
        file.rewind().await.map_err(local)?;
        Ok(Spooled { file, sha256: hex(packer.digest.finish().as_ref()), bytes: self.bytes })
    }
}

impl Packer {
    async fn pack(mut self) -> std::io::Result<Packer> {
        self.digest.update(&self.block);
        self.writer.write_all(&self.block).await?;
        self.block.clear();
        Ok(self)
    }
}

impl Spooled {
    /// Puts the file; one that is there is as good, for its name says what is in it.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn put(mut self, folder: &Folder, name: &str, work_id: &str) -> Result<(), StoreError> {
        if folder.exists(name).await? {
            return Ok(());
        }
        let mut upload = folder.create(name, work_id).await?;
        let mut chunk = vec![0; BLOCK_BYTES];
        loop {
            match self.file.read(&mut chunk).await.map_err(local)? {
                0 => return upload.finish().await,
                n => upload.write(&chunk[..n]).await?,
            }
        }
    }
}

/// The uncompressed bytes of a staged file that must be there.
///
/// # Errors
/// When it is not there; absence is never taken for emptiness.
pub async fn open(folder: &Folder, name: &str) -> Result<impl AsyncRead + Unpin + Send + 'static, StoreError> {
    let entry = folder.get(name).await?;
    let entry = entry.ok_or_else(|| {
        StoreError::Corrupt(format!("{name} was staged and is gone; was it deleted by a lifecycle rule?"))
    })?;
    let reader = StreamReader::new(entry.stream.map_err(|e| std::io::Error::new(BROKE_OFF, e)));
    let reader = BufReader::with_capacity(128 << 10, reader);
    let unpacked = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(WINDOW_LOG_LIMIT)]);
    Ok(InspectReader::new(unpacked, |bytes| super::unpacked(bytes.len() as u64)))
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
    let (reader, wanted, name) = (open(folder, name).await?, sha256.to_string(), name.to_string());
    let state = Some((reader, Context::new(&SHA256)));
    Ok(futures::stream::try_unfold(state, move |state| {
        let (wanted, name) = (wanted.clone(), name.clone());
        async move {
            let Some((mut reader, mut digest)) = state else { return Ok(None) };
            let mut chunk = vec![0; 128 << 10];
            let n = reader.read(&mut chunk).await?;
            if n == 0 {
                return match hex(digest.finish().as_ref()) == wanted {
                    true => Ok(None),
                    false => Err(std::io::Error::other(format!("{name} is not what was staged"))),
                };
            }
            chunk.truncate(n);
            digest.update(&chunk);
            Ok(Some((Bytes::from(chunk), Some((reader, digest)))))
        }
    }))
}
