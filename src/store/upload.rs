//! An object that is being written, part by part.

use async_compression::Level;
use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use async_compression::zstd::CParameter;
use bytes::Bytes;
use object_store::buffered::BufWriter;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tracing::debug;

use super::memory::Reservation;
use super::{BLOCK_BYTES, PART_BYTES, PARTS_AT_A_TIME, StoreCause, StoreError};
use crate::api::OutputCompression;

/// An object that is being written. If it is dropped before it is complete, its parts are aborted, since a store bills
/// parts but shows them to nobody.
pub struct Upload {
    /// None from [`Upload::finish`] on.
    writer: Option<Writer>,
    name: String,
    /// Bytes so far.
    bytes: usize,
    held: Reservation,
}

/// Most bytes that an upload holds: the parts in flight, and the beginning of the next one, which is filled only when
/// one of those has arrived.
pub const UPLOAD_BYTES: usize = PARTS_AT_A_TIME * PART_BYTES + BLOCK_BYTES;
/// Window of a zstd encoder, as a power of two.
const WINDOW_LOG: u32 = 19;
/// Bytes that a zstd encoder holds at its default level: twice its window, and tables.
pub const ENCODER_BYTES: usize = (2 << WINDOW_LOG) + (5 << 18);

enum Writer {
    Plain(BufWriter),
    Gzip(GzipEncoder<BufWriter>),
    Zstd(ZstdEncoder<BufWriter>),
}

impl Writer {
    fn out(&mut self) -> &mut (dyn AsyncWrite + Send + Unpin) {
        match self {
            Writer::Plain(writer) => writer,
            Writer::Gzip(writer) => writer,
            Writer::Zstd(writer) => writer,
        }
    }

    fn into_inner(self) -> BufWriter {
        match self {
            Writer::Plain(writer) => writer,
            Writer::Gzip(writer) => writer.into_inner(),
            Writer::Zstd(writer) => writer.into_inner(),
        }
    }
}

impl Upload {
    /// Creates an upload to `writer`, which errors call `name`.
    pub(super) fn new(writer: BufWriter, name: String) -> Upload {
        Upload { writer: Some(Writer::Plain(writer)), name, bytes: 0, held: Reservation::default() }
    }

    /// Compresses the object on its way.
    #[must_use]
    pub fn compressed(mut self, compression: OutputCompression) -> Upload {
        self.writer = self.writer.take().map(Writer::into_inner).map(|writer| match compression {
            OutputCompression::None => Writer::Plain(writer),
            OutputCompression::Gzip => Writer::Gzip(GzipEncoder::new(writer)),
            OutputCompression::Zstd => {
                let window = [CParameter::window_log(WINDOW_LOG)];
                Writer::Zstd(ZstdEncoder::with_quality_and_params(writer, Level::Default, &window))
            }
        });
        self
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Fails if the store refuses. The object does not appear.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.reserve(bytes.len()).await;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.out().write_all(bytes).await.map_err(|e| self.error(e))
    }

    /// Adds bytes without copying them.
    ///
    /// # Errors
    /// Fails if the store refuses. The object does not appear.
    pub(super) async fn write_block(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        match &mut self.writer {
            Some(Writer::Plain(_)) => self.reserve(bytes.len()).await,
            _ => return self.write(&bytes).await,
        }
        let Some(Writer::Plain(writer)) = &mut self.writer else { return Ok(()) };
        writer.put(bytes).await.map_err(|e| StoreError::of(&self.name, e))
    }

    /// Reserves the memory that the upload holds with `more` bytes. A small object is not counted.
    async fn reserve(&mut self, more: usize) {
        let encoder = match &self.writer {
            Some(Writer::Zstd(_)) => ENCODER_BYTES,
            _ => 0,
        };
        let holds = |bytes: usize| match (bytes > BLOCK_BYTES, bytes > PART_BYTES) {
            (false, _) => 0,
            (true, false) => encoder + PART_BYTES,
            (true, true) => encoder + UPLOAD_BYTES,
        };
        let before = holds(self.bytes);
        self.bytes = self.bytes.saturating_add(more);
        if holds(self.bytes) != before {
            self.held.set(holds(self.bytes)).await;
        }
    }

    /// Completes the object, which appears as a whole.
    ///
    /// # Errors
    /// Fails if the store refuses.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        writer.out().shutdown().await.map_err(|e| self.error(e))
    }

    fn error(&self, error: std::io::Error) -> StoreError {
        match error.downcast::<object_store::Error>() {
            Ok(error) => StoreError::of(&self.name, error),
            Err(error) => {
                StoreError::Unavailable(format!("{}: {error}", self.name), Some(StoreCause::Disk(error.kind())))
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some((writer, runtime)) = self.writer.take().zip(tokio::runtime::Handle::try_current().ok()) else {
            return;
        };
        let (mut writer, object) = (writer.into_inner(), std::mem::take(&mut self.name));
        runtime.spawn(async move {
            if let Err(error) = writer.abort().await {
                debug!(object, %error, "the parts of an upload that was given up are left to the bucket's lifecycle rules");
            }
        });
    }
}
