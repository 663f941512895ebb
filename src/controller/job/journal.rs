//! The journal in storage: its head, a document that changes by conditional writes, and its segments, which never change.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use tracing::warn;

use crate::api::{NEWEST_PROTOCOL_VERSION, weight};
use crate::lifecycle::{Journal, SealedSegment, Segment, SegmentKind, Shard, Shards, read_sealed};
use crate::store::{
    ConditionalRead, DOCUMENT_LIMIT, Document, Folder, ObjectDocument, StoreError, SwapError, SwapProof, Version,
    layout, reserve,
};

/// Longest id of a work, in bytes; ours have 32.
const WORK_ID_LIMIT: usize = 64;
/// Largest segment that is read, in bytes.
const SEGMENT_LIMIT: u64 = 16 << 20;
/// Memory that a head takes while it is read, beside its text, as a multiple of the text's size.
const HEAD_TIMES: usize = 2;
/// Memory that a segment takes while it is read, as a multiple of its size.
const SEGMENT_TIMES: usize = 3;
/// Largest total size, in bytes, of small segments that are merged into one: they are held in memory.
const MERGE_LIMIT: usize = 4 << 20;
/// Room that a head keeps for each batch that may be live, in bytes: the outcome of the batch will be written there.
const RECORD_ROOM: u64 = 64 << 10;

/// A journal as it was read or written, with the version of its head.
pub type VersionedJournal = (Arc<Journal>, Version);

/// The storage of the journal of a work.
pub struct JournalStore {
    folder: Folder,
    document: ObjectDocument,
    /// Number of settled shards that leave the head together. None if all shards stay in the head.
    seal_at: Option<usize>,
}

/// A journal that is ready to be written: its segments are in storage.
pub struct PackedJournal {
    /// The journal as it is written.
    pub journal: Journal,
    /// The encoded head of the journal.
    pub bytes: Bytes,
}

impl JournalStore {
    /// Returns the journal in a folder. In a folder of ConfigMaps, which hold few shards, the head contains the whole journal.
    pub fn new(folder: &Folder, seal_at: usize) -> JournalStore {
        let document = ObjectDocument { folder: folder.clone(), name: layout::JOURNAL.into() };
        let seal_at = (!folder.is_config_maps()).then_some(seal_at);
        JournalStore { folder: folder.clone(), document, seal_at }
    }

    /// Returns the document that contains the head.
    pub fn document(&self) -> &ObjectDocument {
        &self.document
    }

    /// Reads the journal, with at least the next `window` planned shards, or all of them if there are fewer. The head is not
    /// fetched again if it still has the version of `known`. None if there is no journal.
    ///
    /// # Errors
    /// When the store fails, or the document is not a journal. A missing segment is an error, and is never read as empty.
    pub async fn read(
        &self,
        known: Option<&VersionedJournal>,
        window: usize,
    ) -> Result<Option<VersionedJournal>, StoreError> {
        let (mut journal, version) = match (self.document.read_changed(known.map(|(_, v)| v)).await?, known) {
            (ConditionalRead::Changed(bytes, version), _) => {
                let _held = reserve(HEAD_TIMES * bytes.len()).await;
                (Arc::new(decode(&bytes)?), version)
            }
            (ConditionalRead::Unchanged, Some(known)) => known.clone(),
            (ConditionalRead::Absent | ConditionalRead::Unchanged, _) => return Ok(None),
        };
        if Self::is_short(&journal, window) {
            let shards = &mut Arc::make_mut(&mut journal).shards;
            known.iter().for_each(|(known, _)| shards.take_over(&known.shards));
        }
        while let Some(segment) = journal.shards.segment_to_read(window).filter(|_| Self::is_short(&journal, window)) {
            let (name, before) = (segment.name.clone(), journal.shards.iter().count());
            let object = layout::plan_segment(&journal.work_id, &name);
            let bytes = self.segment(&object).await?;
            let shards = &mut Arc::make_mut(&mut journal).shards;
            shards.take_in(&name, &bytes).map_err(|why| corrupt(&object, &why))?;
            if shards.iter().count() == before {
                return Err(corrupt(&object, "it does not hold the shards that the journal says"));
            }
        }
        Ok(Some((journal, version)))
    }

    /// Returns true if fewer than the next `window` planned shards were read, and there are more. A journal that sends nothing
    /// more needs none of them, and their segments may be deleted already.
    pub fn is_short(journal: &Journal, window: usize) -> bool {
        let sends = journal.commit.is_none() && journal.closing.is_none();
        sends && journal.shards.segment_to_read(window).is_some()
    }

    /// Creates the journal.
    ///
    /// # Errors
    /// [`SwapError::Changed`] if there is one already.
    pub async fn create(&self, journal: &Journal) -> Result<SwapProof, SwapError> {
        self.document.create(encode(journal)?).await
    }

    /// Replaces the journal that was judged. Returns the journal as it was written, with the proof of the swap.
    ///
    /// # Errors
    /// [`SwapError::Changed`] if the stored journal is no longer the one that was judged.
    pub async fn swap(&self, judged: &Version, next: &Journal) -> Result<(Journal, SwapProof), SwapError> {
        let packed = self.pack(next).await?;
        let swapped = self.document.swap(judged, packed.bytes).await?;
        Ok((packed.journal, swapped))
    }

    /// Stores the segments of `next`, and encodes the head that names them. A failure after that leaves segments that no head
    /// names: those of the plan are deleted with the other staged objects, those of settled shards stay beside the journal.
    ///
    /// # Errors
    /// If the store refuses a segment, or [`StoreError::TooLarge`] if the head would be too large to be read again.
    pub async fn pack(&self, next: &Journal) -> Result<PackedJournal, StoreError> {
        let mut journal = next.clone();
        if self.pack_shards(&mut journal.shards, &next.work_id).await?.contains(&SegmentKind::Sealed)
            && let Err(error) = self.merge(&mut journal).await
        {
            // The journal is as good with its small segments.
            warn!(work_id = next.work_id, %error, "segments of a journal could not be merged");
        }
        let bytes = encode(&journal)?;
        Ok(PackedJournal { journal, bytes })
    }

    /// Packs a journal with one more intent, as [`Self::pack`] does. The head must have room for the outcome of every batch
    /// that may be live, because a paid result has to be recorded.
    ///
    /// # Errors
    /// As [`Self::pack`], and [`StoreError::TooLarge`] if there is no such room.
    pub async fn pack_intent(&self, next: &Journal) -> Result<PackedJournal, StoreError> {
        let packed = self.pack(next).await?;
        let live = next.shards.iter().filter(|s| s.is_live()).count() as u64;
        match packed.bytes.len() as u64 + live * RECORD_ROOM > DOCUMENT_LIMIT {
            true => Err(too_large(packed.bytes.len())),
            false => Ok(packed),
        }
    }

    /// Moves shards out of the head into segments, and stores the segments. Returns their kinds.
    ///
    /// # Errors
    /// When the store refuses a write.
    pub async fn pack_shards(&self, shards: &mut Shards, work_id: &str) -> Result<Vec<SegmentKind>, StoreError> {
        let Some(seal_at) = self.seal_at else { return Ok(vec![]) };
        let segments = shards.pack(seal_at).map_err(|e| StoreError::Invalid(e.to_string()))?;
        for segment in &segments {
            self.put(work_id, segment).await?;
        }
        Ok(segments.iter().map(|segment| segment.kind).collect())
    }

    /// Stores the shards of a plan, or of another round, in their order: first those whose answers are `reused`. They are stored
    /// as they come, so that few of them are in memory at a time.
    ///
    /// # Errors
    /// When the store refuses a write, or the iterator yields an error.
    pub async fn plan_shards(
        &self,
        reused: impl Iterator<Item = Result<Shard, StoreError>>,
        shards: impl Iterator<Item = Result<Shard, StoreError>>,
        work_id: &str,
    ) -> Result<Shards, StoreError> {
        let invalid = |e: serde_json::Error| StoreError::Invalid(e.to_string());
        let mut planned = Shards::default();
        for shard in reused {
            if self.seal_at.is_none() {
                planned.push(shard?);
            } else if let Some(segment) = planned.push_reused(shard?).map_err(invalid)? {
                self.put(work_id, &segment).await?;
            }
        }
        for shard in shards {
            if self.seal_at.is_none() {
                planned.push(shard?);
            } else if let Some(segment) = planned.push_planned(shard?).map_err(invalid)? {
                self.put(work_id, &segment).await?;
            }
        }
        if self.seal_at.is_some()
            && let Some(segment) = planned.end_plan().map_err(invalid)?
        {
            self.put(work_id, &segment).await?;
        }
        Ok(planned)
    }

    /// Replaces small segments of settled shards by one.
    async fn merge(&self, journal: &mut Journal) -> Result<(), StoreError> {
        let small = journal.shards.segments_to_merge();
        if small.is_empty() {
            return Ok(());
        }
        let (mut shards, mut bytes) = (BTreeMap::new(), 0);
        for segment in &small {
            let (read, size) = self.sealed(&journal.work_id, segment).await?;
            shards.extend(read);
            bytes += size;
            if bytes > MERGE_LIMIT {
                return Ok(());
            }
        }
        if shards.len() != small.iter().map(|s| s.count).sum::<usize>() {
            return Err(StoreError::Corrupt("two segments of the journal hold the same shard".into()));
        }
        let whole = Segment::of_sealed(&shards).map_err(|e| StoreError::Invalid(e.to_string()))?;
        self.put(&journal.work_id, &whole).await?;
        journal.shards.merged(&small, SealedSegment { name: whole.name, count: shards.len() });
        Ok(())
    }

    /// Writes a segment, and verifies its content, because nothing else holds it from then on.
    async fn put(&self, work_id: &str, segment: &Segment) -> Result<(), StoreError> {
        let name = name_of(work_id, segment.kind, &segment.name);
        self.folder.put_new(&name, segment.bytes.clone().into()).await?;
        match self.segment(&name).await? == segment.bytes {
            true => Ok(()),
            false => Err(corrupt(&name, "its content is not what was stored")),
        }
    }

    async fn segment(&self, name: &str) -> Result<Bytes, StoreError> {
        let there = self.folder.read(name, SEGMENT_LIMIT).await?;
        there.ok_or_else(|| corrupt(name, "it is gone; was it deleted by a lifecycle rule? Put it back"))
    }

    /// Returns the shards of a sealed segment, and its size.
    async fn sealed(&self, work_id: &str, of: &SealedSegment) -> Result<(BTreeMap<usize, Shard>, usize), StoreError> {
        let name = name_of(work_id, SegmentKind::Sealed, &of.name);
        let bytes = self.segment(&name).await?;
        let _held = reserve(SEGMENT_TIMES * bytes.len()).await;
        let shards = read_sealed(of, &bytes).map_err(|why| corrupt(&name, &why))?;
        Ok((shards, bytes.len()))
    }

    /// Calls `see` with every shard and its index, in an arbitrary order. One segment is held at a time.
    ///
    /// # Errors
    /// When a segment is missing or has other content, and the errors of `see`.
    pub async fn each(
        &self,
        journal: &Journal,
        mut see: impl FnMut(usize, &Shard) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.each_sealed(journal, &mut see).await?;
        self.each_planned(journal, &mut see).await?;
        journal.shards.in_head().try_for_each(|(index, shard)| see(index, shard))
    }

    /// Calls `see` with every shard that is still planned, and its index.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub async fn each_planned(
        &self,
        journal: &Journal,
        mut see: impl FnMut(usize, &Shard) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for segment in journal.shards.plan_segments() {
            let name = name_of(&journal.work_id, SegmentKind::Plan, &segment.name);
            let shards = journal.shards.planned_in(segment, &self.segment(&name).await?);
            let shards = shards.map_err(|why| corrupt(&name, &why))?;
            shards.iter().try_for_each(|(index, shard)| see(*index, shard))?;
        }
        Ok(())
    }

    /// Calls `see` with every sealed shard and its index.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub async fn each_sealed(
        &self,
        journal: &Journal,
        mut see: impl FnMut(usize, &Shard) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for segment in journal.shards.sealed_segments() {
            let (shards, _) = self.sealed(&journal.work_id, segment).await?;
            shards.iter().try_for_each(|(index, shard)| see(*index, shard))?;
        }
        Ok(())
    }

    /// Returns the names of the plan's segments, for a caller that deletes them one by one.
    pub fn plan_objects(journal: &Journal) -> impl Iterator<Item = String> {
        let segments = journal.shards.plan_segments().iter();
        segments.map(|segment| name_of(&journal.work_id, SegmentKind::Plan, &segment.name))
    }
}

fn name_of(work_id: &str, kind: SegmentKind, sha256: &str) -> String {
    match kind {
        SegmentKind::Plan => layout::plan_segment(work_id, sha256),
        SegmentKind::Sealed => layout::sealed_segment(work_id, sha256),
    }
}

/// Encodes a head.
///
/// # Errors
/// [`StoreError::TooLarge`] if it could not be read again.
fn encode(journal: &Journal) -> Result<Bytes, StoreError> {
    let bytes = serde_json::to_vec(journal).map_err(|e| StoreError::Invalid(e.to_string()))?;
    match bytes.len() as u64 > DOCUMENT_LIMIT {
        true => Err(too_large(bytes.len())),
        false => Ok(bytes.into()),
    }
}

fn too_large(bytes: usize) -> StoreError {
    StoreError::TooLarge(format!(
        "the journal would have {bytes} bytes, and {DOCUMENT_LIMIT} can be read, with room for what comes of its batches; run the \
         job in parts"
    ))
}

/// Decodes a head. The segments that it names are not read. Of a journal of a newer protocol version, only the version is read.
///
/// # Errors
/// When the document is not a journal.
pub fn decode(bytes: &[u8]) -> Result<Journal, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        protocol_version: i32,
    }
    let read = weight::read(bytes).and_then(|Versioned { protocol_version }| match protocol_version {
        newer if newer > NEWEST_PROTOCOL_VERSION => Ok(Journal::of_version(newer)),
        _ => weight::read(bytes).and_then(with_short_id),
    });
    read.map_err(|why| {
        corrupt(layout::JOURNAL, &format!("it is no journal ({why}); it is not touched, write to another URI"))
    })
}

/// Refuses a journal whose work has a longer name than any of ours: the name is part of other documents that are bounded.
fn with_short_id(journal: Journal) -> Result<Journal, String> {
    match journal.work_id.len() > WORK_ID_LIMIT {
        true => Err(format!("its `workID` has more than {WORK_ID_LIMIT} bytes")),
        false => Ok(journal),
    }
}

fn corrupt(name: &str, why: &str) -> StoreError {
    StoreError::Corrupt(format!("{name} at the destination: {why}"))
}
