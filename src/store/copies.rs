//! Local copies of staged files, so that a file that is sent or joined soon need not be fetched from the bucket.
//!
//! A copy may vanish, shrink or change at any time. Each of its blocks is checked as it is read. From the first block
//! on that is not as it was put, the object in the bucket is read instead, and checked in the same way.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, TryStreamExt};
use tracing::debug;

use super::staged::BROKE_OFF;
use super::{Folder, StoreError};

/// Bytes of a block, the unit in which copies are read, checked and held in memory.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// Divisor of the spool for the part that all copies may take.
const PART_OF_SPOOL: u64 = 4;
/// Divisor of that part for the copies of one namespace, so that no namespace can take all of it.
const PART_OF_NAMESPACE: u64 = 4;
/// Most copies. Each is an open file.
const COPIES_LIMIT: usize = 256;

/// The local copies of one process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalCopies {
    /// Most bytes of all copies.
    limit: u64,
    kept: Arc<Mutex<CopiesByNamespace>>,
}

impl Default for LocalCopies {
    /// Returns no copies, with the limits of a spool of 2 GiB.
    fn default() -> Self {
        LocalCopies::of_spool(2 << 30)
    }
}

/// The local copies of one namespace, which no other uses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NamespaceCopies {
    copies: LocalCopies,
    namespace: Arc<str>,
}

#[derive(Debug, Default)]
struct CopiesByNamespace {
    /// Copies with their URIs, by namespace, the oldest first.
    copies: HashMap<Arc<str>, VecDeque<(String, Arc<Copy>)>>,
    /// Copies that are no longer kept, but take disk until their last reader is done, with their namespace and bytes.
    read_on: Vec<(Arc<str>, Weak<Copy>, u64)>,
}

/// A file as it was put.
#[derive(Debug)]
pub(super) struct Copy {
    file: File,
    blocks: Blocks,
}

/// Hashes of a file's blocks. All blocks have [`BLOCK_BYTES`], except the last.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    hashes: Vec<[u8; 16]>,
    bytes: u64,
}

impl Blocks {
    /// Adds the next block.
    pub fn push(&mut self, block: &[u8]) {
        self.hashes.push(hash(block));
        self.bytes += block.len() as u64;
    }

    /// Returns the number of blocks.
    pub fn count(&self) -> usize {
        self.hashes.len()
    }

    /// Returns the number of bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the bytes of a block; None if there is no block of that number.
    fn length(&self, number: usize) -> Option<usize> {
        let left = self.bytes.checked_sub(number as u64 * BLOCK_BYTES as u64).filter(|left| *left > 0)?;
        usize::try_from(left.min(BLOCK_BYTES as u64)).ok()
    }

    fn holds(&self, number: usize, block: &[u8]) -> bool {
        self.hashes.get(number) == Some(&hash(block))
    }
}

impl Copy {
    /// Creates a copy of a file that holds these blocks.
    pub fn new(file: File, blocks: Blocks) -> Copy {
        Copy { file, blocks }
    }

    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Reads a block. Returns None if the file no longer holds it.
    pub async fn block(self: &Arc<Self>, number: usize) -> Option<Bytes> {
        let (copy, length) = (self.clone(), self.blocks.length(number)?);
        let read = tokio::task::spawn_blocking(move || {
            let mut block = vec![0; length];
            copy.file.read_exact_at(&mut block, number as u64 * BLOCK_BYTES as u64).ok()?;
            copy.blocks.holds(number, &block).then(|| Bytes::from(block))
        });
        read.await.ok().flatten()
    }
}

/// Returns half of a BLAKE3 hash. Only this process writes these files, so accidents are all that the hash has to
/// detect.
fn hash(block: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&blake3::hash(block).as_bytes()[..16]);
    half
}

impl LocalCopies {
    /// Returns no copies, with the limits of a spool of so many bytes.
    pub fn of_spool(bytes: u64) -> LocalCopies {
        LocalCopies { limit: bytes / PART_OF_SPOOL, kept: Arc::default() }
    }

    /// Returns the copies of a namespace.
    pub fn of(&self, namespace: &str) -> NamespaceCopies {
        NamespaceCopies { copies: self.clone(), namespace: namespace.into() }
    }

    fn kept(&self) -> MutexGuard<'_, CopiesByNamespace> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CopiesByNamespace {
    fn bytes_of(&self, namespace: &str) -> u64 {
        self.copies.get(namespace).map_or(0, |copies| copies.iter().map(|(_, copy)| copy.blocks.bytes).sum())
    }

    /// Returns the bytes of copies that only their readers still have: all of them, and those of `namespace`.
    fn read_on(&mut self, namespace: &str) -> (u64, u64) {
        self.read_on.retain(|(_, copy, _)| copy.strong_count() > 0);
        let bytes = |is_counted: &dyn Fn(&str) -> bool| {
            self.read_on.iter().filter(|(of, ..)| is_counted(of)).map(|(.., bytes)| bytes).sum()
        };
        (bytes(&|_| true), bytes(&|of| of == namespace))
    }

    fn bytes(&self) -> u64 {
        self.copies.keys().map(|namespace| self.bytes_of(namespace)).sum()
    }

    fn count(&self) -> usize {
        self.copies.values().map(VecDeque::len).sum()
    }

    /// Drops the copies of a namespace for which `is_dropped` is true.
    fn drop_where(&mut self, namespace: &Arc<str>, mut is_dropped: impl FnMut(&str) -> bool) {
        let Some(copies) = self.copies.get_mut(namespace) else { return };
        let (dropped, kept) = std::mem::take(copies).into_iter().partition(|(uri, _)| is_dropped(uri));
        *copies = kept;
        if copies.is_empty() {
            self.copies.remove(namespace);
        }
        let dropped: VecDeque<(String, Arc<Copy>)> = dropped;
        let read_on =
            dropped.into_iter().map(|(_, copy)| (namespace.clone(), Arc::downgrade(&copy), copy.blocks.bytes));
        self.read_on.extend(read_on);
        self.read_on.retain(|(_, copy, _)| copy.strong_count() > 0);
    }

    /// Drops the oldest copy of a namespace.
    fn drop_oldest(&mut self, namespace: &Arc<str>) {
        let mut is_first = true;
        self.drop_where(namespace, |_| std::mem::take(&mut is_first));
    }

    /// Drops copies until the limits hold, first of the namespace that takes the most.
    fn bound(&mut self, namespace: &Arc<str>, limit: u64) {
        while self.bytes_of(namespace) > limit / PART_OF_NAMESPACE {
            self.drop_oldest(namespace);
        }
        while self.bytes() > limit || self.count() > COPIES_LIMIT {
            let too_many = self.count() > COPIES_LIMIT;
            let takes = |of: &Arc<str>| match too_many {
                true => self.copies.get(of).map_or(0, VecDeque::len) as u64,
                false => self.bytes_of(of),
            };
            let Some(largest) = self.copies.keys().max_by_key(|of| takes(of)).cloned() else { return };
            self.drop_oldest(&largest);
        }
    }

    /// Returns whether the limits hold with the copies that only their readers still have.
    fn is_bounded(&mut self, namespace: &str, limit: u64) -> bool {
        let (of_all, of_namespace) = self.read_on(namespace);
        self.bytes() + of_all <= limit && self.bytes_of(namespace) + of_namespace <= limit / PART_OF_NAMESPACE
    }
}

impl NamespaceCopies {
    /// Keeps a file that was put as `uri`.
    pub(super) fn keep(&self, uri: String, copy: Arc<Copy>) {
        if copy.blocks.bytes > self.copies.limit / PART_OF_NAMESPACE {
            return;
        }
        let mut kept = self.copies.kept();
        kept.drop_where(&self.namespace, |of| of == uri);
        kept.copies.entry(self.namespace.clone()).or_default().push_back((uri.clone(), copy));
        kept.bound(&self.namespace, self.copies.limit);
        if !kept.is_bounded(&self.namespace, self.copies.limit) {
            kept.drop_where(&self.namespace, |of| of == uri);
        }
    }

    pub(super) fn find(&self, uri: &str) -> Option<Arc<Copy>> {
        let kept = self.copies.kept();
        let found = kept.copies.get(&self.namespace)?.iter().find(|(of, _)| of == uri);
        found.map(|(_, copy)| copy.clone())
    }

    /// Drops the copies of objects below `uri`, which are needed no more.
    pub(super) fn forget_below(&self, uri: &str) {
        self.copies.kept().drop_where(&self.namespace, |of| of.starts_with(uri));
    }
}

/// Reads a copy block by block. Each block is as it was put, or the stream ends in an error.
pub(super) fn read(
    copy: Arc<Copy>,
    folder: Folder,
    name: String,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let reading = CopyReader { copy, folder, name, number: 0, bucket: None };
    futures::stream::try_unfold(reading, |mut reading| async move {
        Ok(reading.next().await?.map(|block| (block, reading)))
    })
}

struct CopyReader {
    copy: Arc<Copy>,
    folder: Folder,
    name: String,
    /// Number of the next block.
    number: usize,
    /// The bucket's object, once the copy has failed, and bytes of it that are less than a block.
    bucket: Option<(BoxStream<'static, Result<Bytes, StoreError>>, BytesMut)>,
}

impl CopyReader {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        let Some(length) = self.copy.blocks.length(self.number) else { return Ok(None) };
        if self.bucket.is_none() {
            match self.copy.block(self.number).await {
                Some(block) => {
                    self.number += 1;
                    return Ok(Some(block));
                }
                None => self.turn_to_bucket().await?,
            }
        }
        let block = self.fetched(length).await?;
        if !self.copy.blocks.holds(self.number, &block) {
            return Err(std::io::Error::other(format!("{} is not what was staged", self.name)));
        }
        self.number += 1;
        Ok(Some(block))
    }

    async fn turn_to_bucket(&mut self) -> std::io::Result<()> {
        debug!(
            name = self.name,
            block = self.number,
            "a local copy is not what was staged; the bucket's object is read"
        );
        if let Some(copies) = self.folder.copies() {
            copies.forget_below(&self.folder.uri_of(&self.name));
        }
        let offset = self.number as u64 * BLOCK_BYTES as u64;
        let broke_off = |e| std::io::Error::new(BROKE_OFF, e);
        let entry = self.folder.get_from(&self.name, offset).await.map_err(broke_off)?;
        let entry = entry.ok_or_else(|| std::io::Error::other(format!("{} was staged and is gone", self.name)))?;
        self.bucket = Some((entry, BytesMut::new()));
        Ok(())
    }

    async fn fetched(&mut self, length: usize) -> std::io::Result<Bytes> {
        let Some((stream, held)) = &mut self.bucket else { return Ok(Bytes::new()) };
        while held.len() < length {
            let chunk = stream.try_next().await.map_err(|e| std::io::Error::new(BROKE_OFF, e))?;
            match chunk {
                Some(chunk) => held.extend_from_slice(&chunk),
                None => return Ok(held.split().freeze()),
            }
        }
        Ok(held.split_to(length).freeze())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt};
    use tokio::io::AsyncReadExt;

    use super::super::staged::{self, Spool};
    use super::*;

    const NAME: &str = "w/shards/a.jsonl.zst";

    fn folder(store: Arc<dyn ObjectStore>) -> Folder {
        Folder::of(store, "memory://out/", "out/").keeping(LocalCopies::default().of("shop"))
    }

    /// Text that hardly compresses, so that its file has several blocks.
    fn text() -> String {
        let mut hash = blake3::Hasher::new().finalize_xof();
        let mut bytes = vec![0; 4 * BLOCK_BYTES];
        hash.fill(&mut bytes);
        bytes.iter().map(|byte| char::from(b'0' + byte % 64)).collect()
    }

    /// Returns a folder with one staged file, its name, and the hash of its content.
    async fn staged() -> (Folder, String, String) {
        let (folder, text) = (folder(Arc::new(InMemory::new())), text());
        let mut spool = Spool::new(&std::env::temp_dir()).await.unwrap();
        spool.write(text.as_bytes()).await.unwrap();
        let spooled = spool.finish().await.unwrap();
        let sha256 = spooled.sha256.clone();
        assert!(spooled.put(&folder, NAME, "w").await.unwrap());
        (folder, text, sha256)
    }

    fn copy(folder: &Folder) -> Option<Arc<Copy>> {
        folder.copies().unwrap().find(&folder.uri_of(NAME))
    }

    async fn read(folder: &Folder, sha256: &str) -> Result<String, String> {
        let content = staged::verified(folder, NAME, sha256).await.map_err(|e| e.to_string())?;
        let chunks: Vec<Bytes> = content.try_collect().await.map_err(|e| e.to_string())?;
        Ok(String::from_utf8(chunks.concat()).unwrap())
    }

    #[tokio::test]
    async fn what_was_put_is_read_from_the_local_copy() {
        let (folder, text, sha256) = staged().await;
        assert!(copy(&folder).unwrap().blocks().count() > 2);
        folder.store().delete(&folder.path(NAME)).await.unwrap();
        assert!(read(&folder, &sha256).await.unwrap() == text);
        let mut opened = String::new();
        staged::open(&folder, NAME).await.unwrap().read_to_string(&mut opened).await.unwrap();
        assert!(opened == text);
        folder.delete_below("w/").await.unwrap();
        assert!(copy(&folder).is_none(), "what is tidied up is forgotten");
        assert!(read(&folder, &sha256).await.unwrap_err().contains("is gone"));
    }

    #[tokio::test]
    async fn a_copy_that_is_not_what_was_put_is_found_out_and_the_bucket_is_read() {
        type Damage = fn(&Copy);
        let damages: [(&str, Damage); 4] = [
            ("emptied", |copy| copy.file.set_len(0).unwrap()),
            ("cut short within a block", |copy| copy.file.set_len(BLOCK_BYTES as u64 + 7).unwrap()),
            ("changed in its first byte", |copy| copy.file.write_all_at(b"x", 0).unwrap()),
            ("changed in its last byte", |copy| copy.file.write_all_at(b"x", copy.blocks.bytes - 1).unwrap()),
        ];
        for (what, damage) in damages {
            let (folder, text, sha256) = staged().await;
            damage(&copy(&folder).unwrap());
            assert!(read(&folder, &sha256).await.unwrap() == text, "{what}");
            assert!(copy(&folder).is_none(), "{what}: it is not asked again");
            assert!(read(&folder, &sha256).await.unwrap() == text, "{what}");
        }
    }

    #[tokio::test]
    async fn what_the_bucket_holds_instead_of_a_lost_copy_is_checked_too() {
        let (folder, _, sha256) = staged().await;
        copy(&folder).unwrap().file.set_len(BLOCK_BYTES as u64).unwrap();
        let stored = folder.read(NAME, 1 << 30).await.unwrap().unwrap();
        let mut other = stored.to_vec();
        other[BLOCK_BYTES + 1] ^= 1;
        folder.store().put_opts(&folder.path(NAME), other.into(), Default::default()).await.unwrap();
        assert!(read(&folder, &sha256).await.unwrap_err().contains("is not what was staged"));
    }

    #[tokio::test]
    async fn a_file_that_changed_on_the_disk_is_not_put() {
        let mut spool = Spool::new(&std::env::temp_dir()).await.unwrap();
        spool.write(text().as_bytes()).await.unwrap();
        let spooled = spool.finish().await.unwrap();
        spooled.copy().file.write_all_at(b"x", 99).unwrap();
        let folder = folder(Arc::new(InMemory::new()));
        let refused = spooled.put(&folder, NAME, "w").await.unwrap_err();
        assert!(refused.to_string().contains("changed there before it was put"), "{refused}");
        assert!(!folder.exists(NAME).await.unwrap());
    }

    #[test]
    fn one_namespace_cannot_take_the_room_of_the_others() {
        let copies = LocalCopies::default();
        let (limit, limit_of_namespace) = (copies.limit, copies.limit / PART_OF_NAMESPACE);
        let of = |bytes| {
            let blocks = Blocks { hashes: vec![], bytes };
            Arc::new(Copy::new(tempfile::tempfile().unwrap(), blocks))
        };
        let (quiet, loud) = (copies.of("quiet"), copies.of("loud"));
        quiet.keep("mine".into(), of(limit_of_namespace / 2));
        for n in 0..9 {
            loud.keep(n.to_string(), of(limit_of_namespace / 2));
        }
        assert!(quiet.find("mine").is_some() && loud.find("mine").is_none());
        let kept = |namespace: &NamespaceCopies| (0..9).filter(|n| namespace.find(&n.to_string()).is_some()).count();
        assert_eq!(kept(&loud), 2, "the newest");
        loud.keep("too large".into(), of(limit_of_namespace + 1));
        assert!(loud.find("too large").is_none());
        for n in 0..6 {
            copies.of(&format!("other-{n}")).keep("theirs".into(), of(limit_of_namespace));
        }
        assert!(copies.kept().bytes() <= limit);
        assert!(quiet.find("mine").is_some(), "whoever takes the most gives first");
        for n in 0..2 * COPIES_LIMIT {
            loud.keep(format!("small {n}"), of(1));
        }
        assert!(copies.kept().count() <= COPIES_LIMIT);
        assert!(quiet.find("mine").is_some(), "files are counted as well");
    }

    #[test]
    fn a_copy_that_is_still_read_counts_until_its_last_reader_is_done() {
        let copies = LocalCopies::of_spool(16_000);
        let of = |bytes| {
            let blocks = Blocks { hashes: vec![], bytes };
            Arc::new(Copy::new(tempfile::tempfile().unwrap(), blocks))
        };
        let one = copies.of("one");
        let mut readers = vec![];
        for n in 0..10 {
            one.keep(n.to_string(), of(1_000));
            readers.extend(one.find(&n.to_string()));
            one.forget_below(&n.to_string());
        }
        assert_eq!(readers.len(), 1, "1,000 bytes are a namespace's part, and are taken");
        let other = copies.of("other");
        other.keep("a".into(), of(1_000));
        assert!(other.find("a").is_some(), "of another namespace");
        readers.clear();
        one.keep("again".into(), of(1_000));
        assert!(one.find("again").is_some());
    }
}
