//! The journal in storage: its head, which is one document that changes by conditional writes, and its segments.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use tracing::warn;

use crate::api::{PROTOCOL_VERSION, weight};
use crate::lifecycle::{Journal, SealedSegment, Segment, SegmentKind, Shard, Shards, read_sealed};
use crate::store::{
    DOCUMENT_LIMIT, Document, Folder, Fresh, ObjectDocument, StoreError, SwapError, SwapProof, Version, layout, reserve,
};

/// Largest segment that is read, in bytes.
const SEGMENT_LIMIT: u64 = 16 << 20;
/// Times its text that a head takes, beside it.
const HEAD_TIMES: usize = 2;
/// Times its size that a segment takes while it is read.
const SEGMENT_TIMES: usize = 3;
/// Bytes of small segments that are merged into one at most: what is merged is held.
const MERGE_LIMIT: usize = 4 << 20;
/// Room that a head has to have for each batch that may be live, in bytes: what comes of it must find a place.
const RECORD_ROOM: u64 = 64 << 10;

/// A journal as it was read or written, and the version of its head.
pub type Judged = (Arc<Journal>, Version);

/// Where the journal of a work lies.
pub struct JournalStore {
    folder: Folder,
    document: ObjectDocument,
    /// Settled shards that leave the head together; None: all of it stays in the head.
    seal_at: Option<usize>,
}

/// A journal that is ready to be written: its segments are in storage.
pub struct Packed {
    /// As it is written.
    pub journal: Journal,
    /// Its head.
    pub bytes: Bytes,
}

impl JournalStore {
    /// The journal in a folder. In one of ConfigMaps, which take few shards, all of it is in the head.
    pub fn new(folder: &Folder, seal_at: usize) -> JournalStore {
        let document = ObjectDocument { folder: folder.clone(), name: layout::JOURNAL.into() };
        let seal_at = (!folder.is_config_maps()).then_some(seal_at);
        JournalStore { folder: folder.clone(), document, seal_at }
    }

    /// The document that the head is.
    pub fn document(&self) -> &ObjectDocument {
        &self.document
    }

    /// The journal, with at least `window` of the shards that are planned next, as far as there are so many. What is `known` is
    /// not fetched again where the head is still at its version.
    ///
    /// # Errors
    /// When the store cannot say, or somebody wrote something else. A segment that is gone is an error, and never nothing.
    pub async fn read(&self, known: Option<&Judged>, window: usize) -> Result<Option<Judged>, StoreError> {
        let (mut journal, version) = match (self.document.read_changed(known.map(|(_, v)| v)).await?, known) {
            (Fresh::Changed(bytes, version), _) => {
                let _held = reserve(HEAD_TIMES * bytes.len()).await;
                (Arc::new(decode(&bytes)?), version)
            }
            (Fresh::Unchanged, Some(known)) => known.clone(),
            (Fresh::Absent | Fresh::Unchanged, _) => return Ok(None),
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

    /// Whether fewer than `window` of the shards that are planned next were read, and there are more. None are needed where nothing
    /// is sent any more: they may have been tidied away.
    pub fn is_short(journal: &Journal, window: usize) -> bool {
        let sends = journal.commit.is_none() && journal.closing.is_none();
        sends && journal.shards.segment_to_read(window).is_some()
    }

    /// Creates the journal if there is none.
    ///
    /// # Errors
    /// [`SwapError::Lost`] where there is one.
    pub async fn create(&self, journal: &Journal) -> Result<SwapProof, SwapError> {
        self.document.create(encode(journal)?).await
    }

    /// Replaces the journal that was judged. What was written, with its proof.
    ///
    /// # Errors
    /// [`SwapError::Lost`] where it is no longer the one that was judged.
    pub async fn swap(&self, judged: &Version, next: &Journal) -> Result<(Journal, SwapProof), SwapError> {
        let packed = self.pack(next).await?;
        let swapped = self.document.swap(judged, packed.bytes).await?;
        Ok((packed.journal, swapped))
    }

    /// Stores the segments of `next`, and encodes the head that names them. Whoever fails after that leaves segments that nobody
    /// names: they go with what else was staged.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] where nobody could read it again.
    pub async fn pack(&self, next: &Journal) -> Result<Packed, StoreError> {
        let mut journal = next.clone();
        if self.pack_shards(&mut journal.shards, &next.work_id).await?.contains(&SegmentKind::Sealed)
            && let Err(error) = self.merge(&mut journal).await
        {
            // Small ones are as good.
            warn!(work_id = next.work_id, %error, "segments of a journal could not be merged");
        }
        let bytes = encode(&journal)?;
        Ok(Packed { journal, bytes })
    }

    /// The same of a journal with another intent, which is only written where there is room for what comes of every batch that may
    /// be live: what is paid for must be written down.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] where there is none.
    pub async fn pack_intent(&self, next: &Journal) -> Result<Packed, StoreError> {
        let packed = self.pack(next).await?;
        let live = next.shards.iter().filter(|s| s.is_live()).count() as u64;
        match packed.bytes.len() as u64 + live * RECORD_ROOM > DOCUMENT_LIMIT {
            true => Err(too_large(packed.bytes.len())),
            false => Ok(packed),
        }
    }

    /// Moves shards into segments, and stores these; what was moved.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn pack_shards(&self, shards: &mut Shards, work_id: &str) -> Result<Vec<SegmentKind>, StoreError> {
        let Some(seal_at) = self.seal_at else { return Ok(vec![]) };
        let segments = shards.pack(seal_at).map_err(|e| StoreError::Invalid(e.to_string()))?;
        for segment in &segments {
            self.put(work_id, segment).await?;
        }
        Ok(segments.iter().map(|segment| segment.kind).collect())
    }

    /// The shards of a plan, or of another round, which come in order; they are stored as they come, and few of them are held.
    ///
    /// # Errors
    /// When the store refuses, or what gives the shards.
    pub async fn plan_shards(
        &self,
        shards: impl Iterator<Item = Result<Shard, StoreError>>,
        work_id: &str,
    ) -> Result<Shards, StoreError> {
        let invalid = |e: serde_json::Error| StoreError::Invalid(e.to_string());
        let mut planned = Shards::default();
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

    /// Puts a segment and sees that it is there: from then on nothing else has what is in it.
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

    /// The shards of a sealed segment, and its size.
    async fn sealed(&self, work_id: &str, of: &SealedSegment) -> Result<(BTreeMap<usize, Shard>, usize), StoreError> {
        let name = name_of(work_id, SegmentKind::Sealed, &of.name);
        let bytes = self.segment(&name).await?;
        let _held = reserve(SEGMENT_TIMES * bytes.len()).await;
        let shards = read_sealed(of, &bytes).map_err(|why| corrupt(&name, &why))?;
        Ok((shards, bytes.len()))
    }

    /// Every shard with its index, in no order that means anything. One segment is held at a time.
    ///
    /// # Errors
    /// Where a segment is gone, or holds something else; or what `see` says.
    pub async fn each(
        &self,
        journal: &Journal,
        mut see: impl FnMut(usize, &Shard) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.each_sealed(journal, &mut see).await?;
        self.each_planned(journal, &mut see).await?;
        journal.shards.in_head().try_for_each(|(index, shard)| see(index, shard))
    }

    /// Every planned shard with its index.
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

    /// Every sealed shard with its index.
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

    /// The names of the segments of the plan, for who deletes them one by one.
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

/// # Errors
/// [`StoreError::TooLarge`] where nobody could read it again, or what comes of its live batches would find no room.
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

/// The journal that a head is; its planned shards are not read yet. Of a newer version, only the version is read.
///
/// # Errors
/// When somebody wrote something else to the journal's name.
pub fn decode(bytes: &[u8]) -> Result<Journal, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        protocol_version: i32,
    }
    let read = weight::read(bytes).and_then(|Versioned { protocol_version }| match protocol_version {
        newer if newer > PROTOCOL_VERSION => Ok(Journal::of_version(newer)),
        _ => weight::read(bytes),
    });
    read.map_err(|why| {
        corrupt(layout::JOURNAL, &format!("it is no journal ({why}); it is not touched, write to another URI"))
    })
}

fn corrupt(name: &str, why: &str) -> StoreError {
    StoreError::Corrupt(format!("{name} at the destination: {why}"))
}
