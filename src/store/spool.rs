//! Line files that are written once: compressed to local disk, then put under a name made from their content.

use std::path::Path;
use std::sync::Arc;

use async_compression::Level;
use async_compression::tokio::write::ZstdEncoder;
use async_compression::zstd::CParameter;
use aws_lc_rs::digest::{Context, SHA256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zstd_safe::CCtx;

use super::copies::{BLOCK_BYTES, Blocks, Copy};
use super::memory::{Reservation, reserve};
use super::staged::{local, scratch};
use super::{DiskUse, Folder, StoreCause, StoreError};
use crate::api::text::hex;

/// A file that is being spooled: compressed with zstd on local disk, with SHA-256 and size of the uncompressed bytes.
/// Full blocks are hashed and compressed by a task of their own while the next ones are filled.
pub struct Spool {
    /// The block that is being filled.
    block: Vec<u8>,
    /// Bytes of a block.
    block_bytes: usize,
    full: mpsc::Sender<Vec<u8>>,
    empty: mpsc::Receiver<PackedBlock>,
    packing: JoinHandle<std::io::Result<Packer>>,
    bytes: u64,
    /// Bytes of the blocks that were passed on to be packed.
    passed_on: u64,
    disk: DiskUse,
    _held: Reservation,
}

/// A block that was packed. There are only so many blocks, so a slow disk makes the writer wait.
struct PackedBlock {
    /// The block, without its content.
    empty: Vec<u8>,
    /// Bytes of all blocks that were packed so far.
    packed: u64,
    /// Bytes that these blocks take on local disk, or soon will.
    output: u64,
}

struct Packer {
    /// Bytes of the blocks that were packed.
    packed: u64,
    digest: Context,
    encoder: Encoder,
    file: File,
    blocks: Blocks,
}

/// An encoder into memory. Whole blocks of its output go to the file.
enum Encoder {
    /// One frame for the whole file. Versions that read only the first frame of a file cannot misread it.
    Stream(ZstdEncoder<Vec<u8>>),
    /// A frame for each block, which takes less time than a stream: zstd neither copies the block nor searches two
    /// pieces of a window. A reader has to check the file's hash, as earlier versions stop after the first frame.
    Frames { context: CCtx<'static>, frame: Vec<u8>, ready: Vec<u8> },
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

/// Blocks of a spool: one that is filled, one that is packed, and two between them.
const SPOOL_BLOCKS: usize = 4;
/// Bytes that a file holds while it is spooled: blocks, compressed output, and a zstd encoder.
pub const SPOOL_BYTES: usize = SPOOL_BLOCKS * BLOCK_BYTES + (3 << 19);
/// Bytes of a block, and of the window, of a small spool.
const SMALL_BLOCK: usize = 32 << 10;
/// Blocks of a small spool.
const SMALL_SPOOL_BLOCKS: usize = 2;
/// Bytes that a small file holds while it is spooled.
pub const SMALL_SPOOL_BYTES: usize = SMALL_SPOOL_BLOCKS * SMALL_BLOCK + 2 * BLOCK_BYTES + (3 << 17);

impl Spool {
    /// Creates a spool for a file that is read with its hash alone, as [`super::staged::verified`] does.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn new(dir: &Path) -> Result<Spool, StoreError> {
        let mut context = CCtx::create();
        context.set_parameter(zstd_safe::CParameter::CompressionLevel(FRAME_LEVEL)).map_err(of_zstd).map_err(local)?;
        let encoder = Encoder::Frames { context, frame: vec![], ready: vec![] };
        Spool::with(dir, [SPOOL_BLOCKS, BLOCK_BYTES], SPOOL_BYTES, encoder).await
    }

    /// Creates a spool that holds less memory and compresses less, for small files and for indexes, which are read without a hash.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn small(dir: &Path) -> Result<Spool, StoreError> {
        let window = [CParameter::window_log(SMALL_BLOCK.ilog2())];
        let encoder = Encoder::Stream(ZstdEncoder::with_quality_and_params(vec![], Level::Fastest, &window));
        Spool::with(dir, [SMALL_SPOOL_BLOCKS, SMALL_BLOCK], SMALL_SPOOL_BYTES, encoder).await
    }

    async fn with(
        dir: &Path,
        [blocks, block_bytes]: [usize; 2],
        holds: usize,
        encoder: Encoder,
    ) -> Result<Spool, StoreError> {
        let held = reserve(holds).await;
        let packer = Packer {
            packed: 0,
            digest: Context::new(&SHA256),
            encoder,
            file: scratch(dir)?,
            blocks: Blocks::default(),
        };
        let ((full, to_pack), (packed, empty)) = (mpsc::channel(blocks), mpsc::channel(blocks));
        for _ in 1..blocks {
            // There is room for all of them.
            _ = packed.try_send(PackedBlock { empty: vec![], packed: 0, output: 0 });
        }
        let packing = tokio::spawn(packer.pack_all(to_pack, packed));
        let disk = DiskUse::default();
        Ok(Spool { block: vec![], block_bytes, full, empty, packing, bytes: 0, passed_on: 0, disk, _held: held })
    }

    /// Adds bytes, of which no more than some blocks are held in memory.
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
                self.pass_on().await?;
            }
        }
        Ok(())
    }

    /// Passes the block on to be packed, and waits for an empty one.
    async fn pass_on(&mut self) -> Result<(), StoreError> {
        if let Some(PackedBlock { empty, packed, output }) = self.empty.recv().await {
            self.passed_on += self.block.len() as u64;
            // The encoder holds less than a block.
            self.disk.set(output + (self.passed_on - packed) + BLOCK_BYTES as u64).await;
            let full = std::mem::replace(&mut self.block, empty);
            if self.full.send(full).await.is_ok() {
                return Ok(());
            }
        }
        // The packer ended early, so it failed.
        self.packer().await.map(|_| ())
    }

    /// Returns the size so far, uncompressed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the bytes of local disk that the file takes, as far as they are known: blocks on their way may take less
    /// than was added.
    pub fn disk(&self) -> u64 {
        self.disk.bytes()
    }

    async fn packer(&mut self) -> Result<Packer, StoreError> {
        (&mut self.packing).await.map_err(std::io::Error::other).flatten().map_err(local)
    }

    /// # Errors
    /// Fails if the local disk does.
    pub async fn finish(mut self) -> Result<SpooledFile, StoreError> {
        // A file without any frame could not be read, so an empty file has an empty one.
        if !self.block.is_empty() || self.bytes == 0 {
            // The error of a packer that failed is returned below.
            _ = self.full.send(std::mem::take(&mut self.block)).await;
        }
        // The packer ends with the last sender.
        (self.full, _) = mpsc::channel(1);
        let bytes = self.bytes;
        let (copy, sha256) = self.packer().await?.finish().await.map_err(local)?;
        self.disk.note(copy.blocks().bytes());
        Ok(SpooledFile { copy: Arc::new(copy), _disk: self.disk, sha256, bytes })
    }
}

impl Packer {
    async fn pack_all(
        mut self,
        mut full: mpsc::Receiver<Vec<u8>>,
        packed: mpsc::Sender<PackedBlock>,
    ) -> std::io::Result<Packer> {
        while let Some(mut block) = full.recv().await {
            self.digest.update(&block);
            self.encoder.write(&block).await?;
            self.spill(BLOCK_BYTES).await?;
            self.packed += block.len() as u64;
            let output = self.blocks.bytes() + self.encoder.ready().len() as u64;
            block.clear();
            // At the end nothing waits for an empty block.
            _ = packed.try_send(PackedBlock { empty: block, packed: self.packed, output });
        }
        Ok(self)
    }

    /// Writes blocks to the file while there are at least `least` bytes.
    async fn spill(&mut self, least: usize) -> std::io::Result<()> {
        let ready = self.encoder.ready();
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

    /// Returns the file, and the SHA-256 of the uncompressed bytes, in hex.
    async fn finish(mut self) -> std::io::Result<(Copy, String)> {
        if let Encoder::Stream(encoder) = &mut self.encoder {
            encoder.shutdown().await?;
        }
        self.spill(1).await?;
        self.file.flush().await?;
        let copy = Copy::new(self.file.into_std().await, self.blocks);
        Ok((copy, hex(self.digest.finish().as_ref())))
    }
}

/// zstd's fastest level that compresses well; see `Level::Fastest`.
const FRAME_LEVEL: i32 = 1;

impl Encoder {
    async fn write(&mut self, block: &[u8]) -> std::io::Result<()> {
        match self {
            Encoder::Stream(encoder) => encoder.write_all(block).await,
            Encoder::Frames { context, frame, ready } => {
                frame.clear();
                frame.reserve_exact(zstd_safe::compress_bound(block.len()));
                context.compress2(frame, block).map_err(of_zstd)?;
                ready.extend_from_slice(frame);
                Ok(())
            }
        }
    }

    /// Returns the output that is not in the file yet.
    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Stream(encoder) => encoder.get_mut(),
            Encoder::Frames { ready, .. } => ready,
        }
    }
}

fn of_zstd(code: zstd_safe::ErrorCode) -> std::io::Error {
    std::io::Error::other(zstd_safe::get_error_name(code))
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

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::memory::InMemory;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::super::staged;
    use super::*;

    fn folder() -> Folder {
        Folder::of(Arc::new(InMemory::new()), "memory://out/", "out/")
    }

    /// Text that hardly compresses, so that its file has several blocks.
    fn text(bytes: usize) -> Vec<u8> {
        let mut text = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut text);
        text.iter_mut().for_each(|byte| *byte = b'0' + *byte % 64);
        text
    }

    async fn put(mut spool: Spool, pieces: impl Iterator<Item = &[u8]>, folder: &Folder) -> (String, u64) {
        for piece in pieces {
            spool.write(piece).await.unwrap();
        }
        let file = spool.finish().await.unwrap();
        let told = (file.sha256.clone(), file.bytes);
        assert!(file.put(folder, "a.zst", "w").await.unwrap());
        told
    }

    async fn read(folder: &Folder, sha256: &str) -> Result<Vec<u8>, String> {
        let content = staged::verified(folder, "a.zst", sha256).await.map_err(|e| e.to_string())?;
        let chunks: Vec<_> = staged::ahead(content).await.try_collect().await.map_err(|e| e.to_string())?;
        Ok(chunks.concat())
    }

    fn sha256(bytes: &[u8]) -> String {
        hex(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_written_is_read_whatever_its_size_and_its_pieces(
            bytes in prop_oneof![Just(0), 1..100usize, BLOCK_BYTES - 1..BLOCK_BYTES + 2, 0..6 * BLOCK_BYTES],
            piece in prop_oneof![1_000..5_000usize, BLOCK_BYTES - 1..BLOCK_BYTES + 2],
            small in any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (folder, text, dir) = (folder(), text(bytes), std::env::temp_dir());
                let spool = if small { Spool::small(&dir).await } else { Spool::new(&dir).await };
                let told = put(spool.unwrap(), text.chunks(piece), &folder).await;
                assert_eq!(told, (sha256(&text), text.len() as u64));
                assert!(read(&folder, &told.0).await.unwrap() == text);
                let mut opened = vec![];
                staged::open(&folder, "a.zst").await.unwrap().read_to_end(&mut opened).await.unwrap();
                assert!(opened == text);
            });
        }
    }

    /// Earlier versions wrote one frame, as small spools still do.
    #[tokio::test]
    async fn a_file_of_one_frame_is_read() {
        let (folder, text) = (folder(), text(3 * BLOCK_BYTES));
        let mut encoder = ZstdEncoder::with_quality(vec![], Level::Fastest);
        encoder.write_all(&text).await.unwrap();
        encoder.shutdown().await.unwrap();
        assert!(folder.put_new("a.zst", encoder.into_inner().into()).await.unwrap());
        assert!(read(&folder, &sha256(&text)).await.unwrap() == text);
    }

    #[tokio::test]
    async fn a_file_that_ends_after_one_of_its_frames_is_not_taken_for_whole() {
        let (folder, text) = (folder(), text(3 * BLOCK_BYTES));
        let (sha256, _) = put(Spool::new(&std::env::temp_dir()).await.unwrap(), text.chunks(999), &folder).await;
        let stored = folder.read("a.zst", 1 << 30).await.unwrap().unwrap();
        let first = zstd_safe::find_frame_compressed_size(&stored).unwrap();
        assert!(first < stored.len(), "more frames than one");
        folder.delete("a.zst").await.unwrap();
        assert!(folder.put_new("a.zst", stored.slice(..first)).await.unwrap());
        assert!(read(&folder, &sha256).await.unwrap_err().contains("is not what was staged"));
    }

    /// Versions that read only the first frame of a file cannot check an index, which is read without its hash.
    #[tokio::test]
    async fn a_small_file_has_one_frame() {
        let (folder, text) = (folder(), text(9 * SMALL_BLOCK));
        put(Spool::small(&std::env::temp_dir()).await.unwrap(), text.chunks(999), &folder).await;
        let stored = folder.read("a.zst", 1 << 30).await.unwrap().unwrap();
        assert_eq!(zstd_safe::find_frame_compressed_size(&stored), Ok(stored.len()));
    }
}
