//! Objects that are read whole, in bounded memory: heads of journals, their segments, manifests.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::GetOptions;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::Folder;
use crate::store::{Reservation, StoreError, Version};
use crate::transport::{Meter, Patience};

/// A whole object that was read, unless it is at the known version.
pub(in crate::store) enum WholeObject {
    Absent,
    Unchanged,
    /// Its content, and its version if the store has one.
    Read(Bytes, Option<Version>),
}

/// Bytes from which whole objects are read in turns, over all jobs. No head, segment or manifest of a job is so large
/// unless somebody tampered with it.
const LARGE_DOCUMENT: usize = 3 << 20;
static LARGE_DOCUMENTS: Semaphore = Semaphore::const_new(2);
/// Bytes by which the reservation for an object that is read whole grows, and those that are held without one.
const DOCUMENT_STEP: usize = 256 << 10;

/// An object that is more than a little, whose turn and reservation end when nobody holds it any more.
struct DocumentBytes {
    bytes: BytesMut,
    _turn: Option<SemaphorePermit<'static>>,
    _held: Reservation,
}

impl AsRef<[u8]> for DocumentBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Folder {
    /// Reads a whole object of at most `limit` bytes; None if it does not exist.
    ///
    /// # Errors
    /// Fails if the object is larger, or the store does not answer.
    pub async fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        Ok(match self.read_changed(name, limit, None).await? {
            WholeObject::Read(bytes, _) => Some(bytes),
            WholeObject::Absent | WholeObject::Unchanged => None,
        })
    }

    /// Reads a whole object and its version, unless that is `known`. A server may announce fewer bytes than it sends,
    /// and may send them slowly.
    pub(in crate::store) async fn read_changed(
        &self,
        name: &str,
        limit: u64,
        known: Option<&Version>,
    ) -> Result<WholeObject, StoreError> {
        let if_none_match = known.and_then(Version::etag).map(String::from);
        let unless = GetOptions { if_none_match, ..Default::default() };
        let mut entry = match self.open_with(&self.path(name), name, unless).await? {
            Ok(entry) => entry,
            Err(object_store::Error::NotFound { .. }) => return Ok(WholeObject::Absent),
            Err(object_store::Error::NotModified { .. }) if known.is_some() => return Ok(WholeObject::Unchanged),
            Err(e) => return Err(self.read_error(name, e)),
        };
        if known.is_some() && entry.version.as_ref() == known {
            return Ok(WholeObject::Unchanged);
        }
        let (began, mut bytes, mut turn) = (Instant::now(), BytesMut::new(), None);
        let (mut held, mut reserved) = (Reservation::default(), DOCUMENT_STEP);
        let announced = usize::try_from(entry.size.min(limit)).unwrap_or_default();
        let _call = Meter::store_call();
        loop {
            let time = self.call_timeout + Patience::USUAL.at_rate(bytes.len() as u64);
            let next = tokio::time::timeout_at(began + time, entry.stream.try_next()).await;
            let Some(chunk) = next.map_err(|_| self.too_slow(name, time))?? else { break };
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(StoreError::Corrupt(format!("{} has more than {limit} bytes", self.uri_of(name))));
            }
            if turn.is_none() && bytes.len() + chunk.len() > LARGE_DOCUMENT {
                let its_turn = tokio::time::timeout_at(began + time, LARGE_DOCUMENTS.acquire()).await;
                turn = its_turn.map_err(|_| self.too_slow(name, time))?.ok();
            }
            if bytes.len() + chunk.len() > reserved {
                reserved = (bytes.len() + chunk.len()).max(announced).next_multiple_of(DOCUMENT_STEP);
                held.set(reserved).await;
            }
            bytes.extend_from_slice(&chunk);
        }
        let bytes = match reserved > DOCUMENT_STEP {
            true => Bytes::from_owner(DocumentBytes { bytes, _turn: turn, _held: held }),
            false => bytes.freeze(),
        };
        Ok(WholeObject::Read(bytes, entry.version))
    }
}
