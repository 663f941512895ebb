//! Decompression of inputs, within bounds of size, ratio and memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader, ReadBuf};

use crate::api::InputCompression;
use crate::store::{Reservation, reserve, staged, unpacked};

/// Largest input, in uncompressed bytes.
const TOTAL_LIMIT: u64 = 64 << 30;
/// Uncompressed bytes of an object beyond which `RATIO_LIMIT` applies.
const RATIO_FROM: u64 = 1 << 30;
const RATIO_LIMIT: u64 = 1000;
/// Largest zstd window by default, as a power of two: 8 MiB, which every decoder has to support (RFC 8878, 3.1.1.1.2).
/// A decoder holds its window in memory.
const WINDOW_LOG: u32 = 23;
/// Largest zstd window, as a power of two, of an object whose first frame asks for more than the default: 32 MiB.
const LARGE_WINDOW_LOG: u32 = 25;
/// Bytes that a decoder holds in addition to its window, its read buffer among them.
pub const BESIDE_WINDOW: usize = staged::DECODER_BYTES + READ_BYTES;
/// Compressed bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;
/// Most bytes that the decoder of an input holds.
pub const WINDOW_BYTES: usize = (1 << LARGE_WINDOW_LOG) + BESIDE_WINDOW;

/// A stream of bytes, before or after its decoder.
pub type Content<'a> = Box<dyn AsyncRead + Unpin + Send + 'a>;

/// Counters of the bytes read from an input.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// Bytes of the current object as they are stored.
    stored: Arc<AtomicU64>,
    /// Uncompressed bytes of the whole input.
    total: Arc<AtomicU64>,
}

impl Sizes {
    /// Returns the counters for the next object of the same input.
    pub fn next(&self) -> Sizes {
        Sizes { stored: Arc::default(), total: self.total.clone() }
    }

    /// Counts stored bytes.
    pub fn stored(&self, bytes: usize) {
        self.stored.fetch_add(bytes as u64, Relaxed);
    }
}

/// Opens `stored` and returns its uncompressed content with the compression that was found. At most `most` uncompressed
/// bytes will be read; the reader of `stored` counts its bytes in `sizes`.
///
/// # Errors
/// Fails if `stored` cannot be read.
pub async fn open<'a>(
    mut stored: Content<'a>,
    compression: InputCompression,
    sizes: Sizes,
    most: usize,
) -> std::io::Result<(Content<'a>, InputCompression)> {
    let compression = match compression {
        InputCompression::Auto => {
            let (head, rest) = peek(stored, 4).await?;
            stored = rest;
            match &head[..] {
                [0x1f, 0x8b, ..] => InputCompression::Gzip,
                [0x28, 0xb5, 0x2f, 0xfd] => InputCompression::Zstd,
                // A skippable frame, which pzstd and others write first (RFC 8878, 3.1.2).
                [0x50..=0x5f, 0x2a, 0x4d, 0x18] => InputCompression::Zstd,
                _ => InputCompression::None,
            }
        }
        told => told,
    };
    let window_log = match compression {
        InputCompression::Zstd => {
            let (head, rest) = peek(stored, FRAME_HEAD).await?;
            stored = rest;
            if window(&head) > 1 << WINDOW_LOG { LARGE_WINDOW_LOG } else { WINDOW_LOG }
        }
        _ => 0,
    };
    let held = match compression {
        InputCompression::Auto | InputCompression::None => Reservation::default(),
        InputCompression::Gzip | InputCompression::Zstd => reserve(most.min(1 << window_log) + BESIDE_WINDOW).await,
    };
    let buffered = BufReader::with_capacity(READ_BYTES, stored);
    let content: Content<'a> = match compression {
        InputCompression::Gzip => {
            let mut decoder = GzipDecoder::new(buffered);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        InputCompression::Zstd => {
            let mut decoder = ZstdDecoder::with_params(buffered, &[DParameter::window_log_max(window_log)]);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        InputCompression::Auto | InputCompression::None => Box::new(buffered),
    };
    Ok((Box::new(Bounded { content, given: 0, sizes, _held: held }), compression))
}

/// Longest header of a zstd frame, in bytes.
const FRAME_HEAD: usize = 18;

/// Returns the window of the zstd frame that begins with `head`, in bytes (RFC 8878, 3.1.1.1); 0 if no frame begins
/// there.
fn window(head: &[u8]) -> u64 {
    let Some([descriptor, rest @ ..]) = head.strip_prefix(b"\x28\xb5\x2f\xfd") else { return 0 };
    let is_single_segment = descriptor & 0x20 != 0;
    if !is_single_segment {
        let Some(window) = rest.first() else { return 0 };
        let base = 1 << (10 + (window >> 3));
        return base + base / 8 * u64::from(window & 7);
    }
    // The window of a single segment is its whole content.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (length, plus) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let size = rest.get(dictionary..dictionary + length).unwrap_or_default();
    plus + size.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte))
}

/// Skips the byte order mark that editors on Windows put first; it is not part of the first line.
///
/// # Errors
/// Fails if `content` cannot be read.
pub async fn skip_bom(content: Content<'_>) -> std::io::Result<Content<'_>> {
    let (head, mut content) = peek(content, 3).await?;
    if head == b"\xef\xbb\xbf" {
        content.read_exact(&mut [0; 3]).await?;
    }
    Ok(content)
}

/// First bytes of files that hold no lines and that [`InputCompression`] does not cover. No text begins with them.
const ARCHIVES: [(&[u8], &str); 5] = [
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (b"BZh91AY&SY", "compressed with bzip2"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"\x04\x22\x4d\x18", "compressed with LZ4"),
    (b"PAR1\x15", "a Parquet file"),
];

/// Names the kind of archive that `content` is, if it is one; returns the content as well.
///
/// # Errors
/// Fails if `content` cannot be read.
pub async fn archive(content: Content<'_>) -> std::io::Result<(Option<&'static str>, Content<'_>)> {
    let (head, content) = peek(content, 10).await?;
    let found = ARCHIVES.iter().find(|(magic, _)| head.starts_with(magic));
    Ok((found.map(|(_, what)| *what), content))
}

/// Returns the first bytes, at most `n`, and the whole content, those bytes included.
///
/// # Errors
/// Fails if `content` cannot be read.
pub async fn peek(mut content: Content<'_>, n: usize) -> std::io::Result<(Vec<u8>, Content<'_>)> {
    let mut head = Vec::with_capacity(n);
    (&mut content).take(n as u64).read_to_end(&mut head).await?;
    Ok((head.clone(), Box::new(std::io::Cursor::new(head).chain(content))))
}

/// The output of a decoder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// One object is larger than allowed, or is followed by other bytes.
    #[error("{0}")]
    Object(String),
    /// The input as a whole is larger than allowed.
    #[error("{0}")]
    Input(String),
}

/// Content that ends in an error once it is larger than allowed.
struct Bounded<'a> {
    content: Content<'a>,
    given: u64,
    sizes: Sizes,
    /// Memory that is reserved for the decoder.
    _held: Reservation,
}

impl Bounded<'_> {
    fn judge(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.given += bytes;
        let total = self.sizes.total.fetch_add(bytes, Relaxed) + bytes;
        if total > TOTAL_LIMIT {
            return Err(UnpackError::Input(format!(
                "the input has more than {} GiB; split it over several BatchJobs",
                TOTAL_LIMIT >> 30
            )));
        }
        let stored = self.sizes.stored.load(Relaxed).max(1);
        if self.given > RATIO_FROM && self.given / stored > RATIO_LIMIT {
            return Err(UnpackError::Object(format!(
                "becomes more than {RATIO_LIMIT} times as large when it is uncompressed, which no requests do; put \
                 the right object there"
            )));
        }
        Ok(())
    }
}

impl Bounded<'_> {
    /// Explains an error of the decoder: a window that is too large, or other bytes after a member or frame.
    fn followed(&self, error: std::io::Error) -> std::io::Error {
        let words = error.to_string();
        let no_header = ["Invalid gzip header", "Unknown frame descriptor"].iter().any(|e| words.contains(e));
        if words.contains("too much memory") {
            return std::io::Error::other(UnpackError::Object(format!(
                "has a zstd window of more than {} MiB in a frame behind the first one, or of more than {} MiB; compress it again \
                 without `--long` or `--ultra`",
                1 << (WINDOW_LOG - 20),
                1 << (LARGE_WINDOW_LOG - 20)
            )));
        }
        match self.given > 0 && no_header {
            true => std::io::Error::other(UnpackError::Object(
                "is followed by bytes that are not compressed; put it there again, without them".into(),
            )),
            false => error,
        }
    }
}

impl AsyncRead for Bounded<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.content).poll_read(cx, buf)).map_err(|e| self.followed(e))?;
        let bytes = (buf.filled().len() - before) as u64;
        unpacked(bytes);
        Poll::Ready(self.judge(bytes).map_err(std::io::Error::other))
    }
}

#[cfg(test)]
mod tests;
