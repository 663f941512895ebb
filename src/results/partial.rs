//! Answers that are readable while their job runs: a file for each settled shard, and a list of the files that are whole.
//!
//! The list grows with the job and is written again for each few files. So it is cut into pages that never change, and
//! `index.json` holds the last files and the number of pages. Every object is put as a whole, so nobody reads half of one.

use std::path::Path;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::index::corrupt;
use super::join::{Join, JoinInputs};
use super::manifest::ManifestFile;
use super::settled::SettledShard;
use super::write::{OutputForm, OutputPiece, WriteError, answer_line};
use crate::api::{OutputCompression, weight};
use crate::store::{Folder, StoreError, Upload, layout};

/// Files that a page names.
pub const PAGE_FILES: usize = 128;
/// Files that are published at most before the list is written again.
const UNLISTED_FILES: usize = 16;
/// More pages than any work has.
const PAGE_LIMIT: usize = 8_192;
/// Most bytes of a page or of `index.json`: a few times what is written.
const PAGE_BYTES: u64 = 256 << 10;

/// The content of `index.json`.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
struct Index {
    index_version: u32,
    #[serde(rename = "workID")]
    work_id: String,
    requests: Requests,
    /// Number of pages, `index-00000.json` and so on, which name the earlier files.
    pages: usize,
    /// The last files. Names are relative to the list.
    files: Vec<ManifestFile>,
}

/// Counts of requests.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
struct Requests {
    /// Requests of the job.
    total: i64,
    /// Requests whose answers are in the files of all pages and of the index.
    succeeded: i64,
}

impl Index {
    fn new(work_id: &str, total: i64) -> Index {
        let requests = Requests { total, succeeded: 0 };
        Index { index_version: 1, work_id: work_id.into(), requests, pages: 0, files: vec![] }
    }
}

/// The content of a page.
#[derive(Serialize, Deserialize)]
struct Page {
    files: Vec<ManifestFile>,
}

/// The readable answers of a work that runs.
pub struct PartialResults<'a> {
    folder: &'a Folder,
    spool: &'a Path,
    compression: OutputCompression,
    index: Index,
    /// Files that the stored list does not name yet.
    unlisted: usize,
}

impl<'a> PartialResults<'a> {
    /// Opens the answers of a work of `total` requests that are readable so far. If there is no list of them, writes an
    /// empty one, so that whose it is tells whose the files beside it are.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if there is a list of another work; it is not touched.
    pub async fn open(
        folder: &'a Folder,
        work_id: &str,
        total: i64,
        compression: OutputCompression,
        spool: &'a Path,
    ) -> Result<PartialResults<'a>, WriteError> {
        let index = match read_index(folder).await?.filter(|index| index.work_id == work_id) {
            Some(index) => index,
            None => {
                let index = Index::new(work_id, total);
                write(folder.create(layout::PARTIAL_INDEX, work_id).await?, &index).await?;
                index
            }
        };
        Ok(PartialResults { folder, spool, compression, index, unlisted: 0 })
    }

    /// Returns the number of files that are listed.
    pub fn files(&self) -> usize {
        self.index.pages * PAGE_FILES + self.index.files.len()
    }

    /// Calls `see` with the index of each shard whose answers are listed. Returns false if pages are gone or were tampered
    /// with: the list then begins anew, and names nothing. One page is held at a time.
    ///
    /// # Errors
    /// Fails if the store does.
    pub async fn each_shard(&mut self, mut see: impl FnMut(usize)) -> Result<bool, WriteError> {
        let mut shards = |files: &[ManifestFile]| {
            files.iter().filter_map(|file| layout::partial_shard(&file.name)).map(&mut see).count() == files.len()
        };
        let mut is_whole = shards(&self.index.files);
        for page in (0..self.index.pages).map(page_name) {
            let page: Option<Page> = read(self.folder, &page).await?;
            is_whole &= page.is_some_and(|page| shards(&page.files) && page.files.len() == PAGE_FILES);
        }
        if !is_whole {
            self.index = Index::new(&self.index.work_id, self.index.requests.total);
        }
        Ok(is_whole)
    }

    /// Writes the answers to `shard`, the one of this index, to a file, and lists it sooner or later.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if a file of that name is another work's; it is not touched.
    pub async fn publish(&mut self, index: usize, shard: SettledShard) -> Result<(), WriteError> {
        let mut one = SettledShard::sorter(self.spool);
        // A later round's shard is joined alone, like one of the input's own.
        one.push(SettledShard { round: 0, ..shard })?;
        let (work_id, one) = (self.index.work_id.as_str(), one.finish()?);
        let mut joined = Join::new(self.folder, work_id, one, JoinInputs::Answers, self.spool)?;
        let name = in_folder(&layout::partial(index));
        let form = OutputForm { compression: self.compression, piece: None };
        let mut out = OutputPiece::new(self.folder, &name, work_id, form, 0).await?;
        while let Some(mut request) = joined.next().await? {
            if request.succeeded()
                && let Some(answer) = request.answer.take()
            {
                out.line(answer_line(&request.entry, answer, self.spool).await?).await?;
            }
        }
        let file = out.finish(self.folder).await?;
        self.list(ManifestFile { name: self.compression.named(&layout::partial(index)), ..file }).await
    }

    async fn list(&mut self, file: ManifestFile) -> Result<(), WriteError> {
        self.index.requests.succeeded += file.lines;
        self.index.files.push(file);
        self.unlisted += 1;
        if self.index.files.len() == PAGE_FILES {
            let page = Page { files: std::mem::take(&mut self.index.files) };
            write(self.folder.create(&page_name(self.index.pages), &self.index.work_id).await?, &page).await?;
            self.index.pages += 1;
        }
        if self.unlisted < UNLISTED_FILES { Ok(()) } else { self.save().await }
    }

    /// Ends the publication: the list names all files that were published.
    ///
    /// # Errors
    /// Fails if the store does.
    pub async fn finish(mut self) -> Result<(), WriteError> {
        if self.unlisted > 0 { self.save().await } else { Ok(()) }
    }

    async fn save(&mut self) -> Result<(), WriteError> {
        write(self.folder.create(layout::PARTIAL_INDEX, &self.index.work_id).await?, &self.index).await?;
        self.unlisted = 0;
        Ok(())
    }
}

async fn write(mut upload: Upload, content: &impl Serialize) -> Result<(), WriteError> {
    upload.write(&serde_json::to_vec(content).map_err(corrupt)?).await?;
    Ok(upload.finish().await?)
}

fn in_folder(name: &str) -> String {
    format!("{}/{name}", layout::PARTIAL)
}

fn page_name(page: usize) -> String {
    in_folder(&layout::partial_page(page))
}

async fn read_index(folder: &Folder) -> Result<Option<Index>, StoreError> {
    let index: Option<Index> = read(folder, layout::PARTIAL_INDEX).await?;
    Ok(index.filter(|index| index.pages <= PAGE_LIMIT && index.files.len() < PAGE_FILES))
}

/// Reads a list; None if there is none. One that was tampered with counts as none.
async fn read<T: DeserializeOwned>(folder: &Folder, name: &str) -> Result<Option<T>, StoreError> {
    let bytes: Option<Bytes> = match folder.read(name, PAGE_BYTES).await {
        Err(StoreError::Corrupt(_)) => None,
        read => read?,
    };
    Ok(bytes.and_then(|bytes| weight::read(&bytes).ok()))
}

/// Deletes the readable answers of a work, if there are any. Objects that it did not write stay, whatever their names.
///
/// # Errors
/// Fails if the store refuses. The list goes last, so that the deletion can be repeated.
pub async fn delete_partial(folder: &Folder, work_id: &str) -> Result<(), StoreError> {
    if folder.work_of(layout::PARTIAL_INDEX).await?.flatten().as_deref() != Some(work_id) {
        return Ok(());
    }
    match folder.delete_named_of(work_id, layout::PARTIAL, layout::is_partial).await {
        Err(StoreError::Denied(_) | StoreError::Unfit(_) | StoreError::Rejected(_)) => {
            delete_listed(folder, work_id).await?;
        }
        deleted => deleted?,
    }
    folder.delete(layout::PARTIAL_INDEX).await
}

/// Deletes the files that the list names, where the store refuses to list the folder.
async fn delete_listed(folder: &Folder, work_id: &str) -> Result<(), StoreError> {
    let Some(Index { pages, files, .. }) = read_index(folder).await? else { return Ok(()) };
    delete_files(folder, work_id, &files).await?;
    for page in (0..pages).map(page_name) {
        let Some(Page { files }) = read(folder, &page).await? else { continue };
        delete_files(folder, work_id, &files).await?;
        folder.delete_of(work_id, &page).await?;
    }
    Ok(())
}

async fn delete_files(folder: &Folder, work_id: &str, files: &[ManifestFile]) -> Result<(), StoreError> {
    for name in files.iter().map(|file| &file.name).filter(|name| layout::partial_shard(name).is_some()) {
        folder.delete_of(work_id, &in_folder(name)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::TryStreamExt;
    use object_store::memory::InMemory;

    use super::*;

    const WORK: &str = "0123456789abcdef0123456789abcdef";

    fn folder() -> Folder {
        Folder::of(Arc::new(InMemory::new()), "memory://out/", "out/")
    }

    async fn open<'a>(folder: &'a Folder, work_id: &str, spool: &'a Path) -> Result<PartialResults<'a>, WriteError> {
        PartialResults::open(folder, work_id, 1_000_000, OutputCompression::None, spool).await
    }

    /// Lists the answers of these shards, 50 each.
    async fn list(partial: &mut PartialResults<'_>, shards: std::ops::Range<usize>) {
        for shard in shards {
            let (name, sha256) = (layout::partial(shard), "0".repeat(64));
            let file = ManifestFile { name, lines: 50, bytes: 100_000, sha256, config_map: None };
            partial.list(file).await.unwrap();
        }
    }

    async fn shards(partial: &mut PartialResults<'_>) -> (bool, Vec<usize>) {
        let mut shards = vec![];
        let is_whole = partial.each_shard(|shard| shards.push(shard)).await.unwrap();
        shards.sort_unstable();
        (is_whole, shards)
    }

    /// Objects of `folder`, by name, with their sizes.
    async fn objects(folder: &Folder) -> Vec<(String, u64)> {
        let listed: Vec<_> = folder.list().try_collect().await.unwrap();
        let mut objects: Vec<_> = listed.iter().map(|object| (object.name().to_string(), object.size)).collect();
        objects.sort();
        objects
    }

    #[tokio::test]
    async fn the_list_of_20_000_files_is_small_wherever_it_is_written_and_names_each_of_them() {
        let (folder, spool) = (folder(), std::env::temp_dir());
        let mut largest = 0;
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        list(&mut partial, 0..19_840).await;
        partial.finish().await.unwrap();
        // One by one, with a page that fills.
        for shard in 19_840..20_000 {
            let mut partial = open(&folder, WORK, &spool).await.unwrap();
            list(&mut partial, shard..shard + 1).await;
            partial.finish().await.unwrap();
            let index = folder.stat(layout::PARTIAL_INDEX).await.unwrap().unwrap();
            largest = largest.max(index.size);
        }
        let pages = objects(&folder).await;
        largest = largest.max(pages.iter().map(|(_, size)| *size).max().unwrap());
        assert!(largest < 20 << 10, "a list of {largest} bytes");
        assert_eq!(pages.len(), 20_000 / PAGE_FILES + 1);
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        assert_eq!((partial.files(), partial.index.requests.succeeded), (20_000, 1_000_000));
        assert_eq!(shards(&mut partial).await, (true, (0..20_000).collect()));
    }

    #[tokio::test]
    async fn files_that_a_crash_kept_from_the_list_are_listed_after_it() {
        let (folder, spool) = (folder(), std::env::temp_dir());
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        list(&mut partial, 0..PAGE_FILES + 5).await;
        drop(partial);
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        let (is_whole, listed) = shards(&mut partial).await;
        assert!(is_whole && listed.len() < PAGE_FILES + 5, "{listed:?}");
        list(&mut partial, listed.len()..PAGE_FILES + 5).await;
        partial.finish().await.unwrap();
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        assert_eq!(shards(&mut partial).await, (true, (0..PAGE_FILES + 5).collect()));
    }

    #[tokio::test]
    async fn a_list_whose_page_is_gone_or_that_nobody_can_read_begins_anew() {
        let (folder, spool) = (folder(), std::env::temp_dir());
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        list(&mut partial, 0..2 * PAGE_FILES + 5).await;
        partial.finish().await.unwrap();
        folder.delete(&page_name(1)).await.unwrap();
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        assert!(!shards(&mut partial).await.0);
        assert_eq!((partial.files(), partial.index.requests.succeeded), (0, 0));
        for broken in ["{", "[]", &json_of_pages(PAGE_LIMIT + 1)] {
            let mut upload = folder.overwrite(layout::PARTIAL_INDEX, WORK);
            upload.write(broken.as_bytes()).await.unwrap();
            upload.finish().await.unwrap();
            assert_eq!(open(&folder, WORK, &spool).await.unwrap().files(), 0, "{broken}");
        }
    }

    fn json_of_pages(pages: usize) -> String {
        serde_json::to_string(&Index { pages, ..Index::new(WORK, 1) }).unwrap()
    }

    #[tokio::test]
    async fn what_is_another_works_or_has_another_name_is_neither_written_over_nor_deleted() {
        let (folder, spool) = (folder(), std::env::temp_dir());
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        list(&mut partial, 0..PAGE_FILES + 1).await;
        partial.finish().await.unwrap();
        for name in ["00000.jsonl", "00007.jsonl.zst"] {
            put_own(&folder, name).await;
        }
        let others = ["00001.jsonl", "0.jsonl", "index-0.json", "index-00001.json", "notes.jsonl", "old/00000.jsonl"];
        for name in others {
            folder.put_new(&in_folder(name), "x".into()).await.unwrap();
        }
        let before = objects(&folder).await;
        let other = open(&folder, "other", &spool).await.err();
        assert!(matches!(other, Some(WriteError::Store(StoreError::Conflict(_)))), "{other:?}");
        delete_partial(&folder, "other").await.unwrap();
        assert_eq!(objects(&folder).await, before);
        delete_partial(&folder, WORK).await.unwrap();
        let mut others = others.map(in_folder);
        others.sort();
        assert_eq!(names(&folder).await, others, "also under a name of ours");
        delete_partial(&folder, WORK).await.unwrap();
    }

    /// Puts a file that the work wrote.
    async fn put_own(folder: &Folder, name: &str) {
        let mut upload = folder.create(&in_folder(name), WORK).await.unwrap();
        upload.write(b"x").await.unwrap();
        upload.finish().await.unwrap();
    }

    #[tokio::test]
    async fn a_page_or_a_list_that_somebody_else_put_there_is_not_written_over() {
        let (folder, spool) = (folder(), std::env::temp_dir());
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        folder.put_new(&page_name(0), "mine".into()).await.unwrap();
        list(&mut partial, 0..PAGE_FILES - 1).await;
        let (name, sha256) = (layout::partial(PAGE_FILES), "0".repeat(64));
        let last = ManifestFile { name, lines: 1, bytes: 1, sha256, config_map: None };
        let refused = partial.list(last).await;
        assert!(matches!(refused, Err(WriteError::Store(StoreError::Conflict(_)))), "{refused:?}");
        assert_eq!(folder.read(&page_name(0), 10).await.unwrap().unwrap(), "mine");
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        folder.delete(layout::PARTIAL_INDEX).await.unwrap();
        folder.put_new(layout::PARTIAL_INDEX, "mine as well".into()).await.unwrap();
        list(&mut partial, 0..1).await;
        assert!(partial.finish().await.is_err());
        assert_eq!(folder.read(layout::PARTIAL_INDEX, 20).await.unwrap().unwrap(), "mine as well");
    }

    #[tokio::test]
    async fn where_nobody_may_list_the_folder_the_files_that_are_named_are_deleted() {
        let (folder, spool) = (folder(), std::env::temp_dir());
        let mut partial = open(&folder, WORK, &spool).await.unwrap();
        list(&mut partial, 0..2 * PAGE_FILES + 1).await;
        let beside = ManifestFile { name: "notes.jsonl".into(), ..partial.index.files[0].clone() };
        partial.list(beside).await.unwrap();
        partial.finish().await.unwrap();
        let files = (0..2 * PAGE_FILES + 1).map(|shard| in_folder(&layout::partial(shard)));
        for name in files.skip(1) {
            put_own(&folder, name.strip_prefix("results.partial/").unwrap()).await;
        }
        for name in ["00000.jsonl", "notes.jsonl"].map(in_folder) {
            folder.put_new(&name, "x".into()).await.unwrap();
        }
        delete_listed(&folder, WORK).await.unwrap();
        let others = ["results.partial/00000.jsonl", layout::PARTIAL_INDEX, "results.partial/notes.jsonl"];
        assert_eq!(names(&folder).await, others, "the first was written over by somebody else");
    }

    async fn names(folder: &Folder) -> Vec<String> {
        objects(folder).await.into_iter().map(|(name, _)| name).collect()
    }
}
