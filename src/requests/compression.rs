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
pub enum Unfit {
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
    fn judge(&mut self, bytes: u64) -> Result<(), Unfit> {
        self.given += bytes;
        let total = self.sizes.total.fetch_add(bytes, Relaxed) + bytes;
        if total > TOTAL_LIMIT {
            return Err(Unfit::Input(format!(
                "the input has more than {} GiB; split it over several BatchJobs",
                TOTAL_LIMIT >> 30
            )));
        }
        let stored = self.sizes.stored.load(Relaxed).max(1);
        if self.given > RATIO_FROM && self.given / stored > RATIO_LIMIT {
            return Err(Unfit::Object(format!(
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
            return std::io::Error::other(Unfit::Object(format!(
                "has a zstd window of more than {} MiB in a frame behind the first one, or of more than {} MiB; compress it again \
                 without `--long` or `--ultra`",
                1 << (WINDOW_LOG - 20),
                1 << (LARGE_WINDOW_LOG - 20)
            )));
        }
        match self.given > 0 && no_header {
            true => std::io::Error::other(Unfit::Object(
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
mod tests {
    use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
    use tokio::io::AsyncWriteExt;

    use super::*;

    pub async fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzipEncoder::new(vec![]);
        encoder.write_all(bytes).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    }

    pub async fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZstdEncoder::new(vec![]);
        encoder.write_all(bytes).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    }

    async fn read(bytes: &[u8], compression: InputCompression) -> std::io::Result<Vec<u8>> {
        let (content, _) = open(Box::new(bytes), compression, Sizes::default(), usize::MAX).await?;
        let mut out = vec![];
        skip_bom(content).await?.read_to_end(&mut out).await?;
        Ok(out)
    }

    #[tokio::test]
    async fn the_first_bytes_say_how_it_is_compressed() {
        let text = b"\xef\xbb\xbfsome text\n".repeat(50_000);
        let (gz, zst) = (gzip(&text).await, zstd(&text).await);
        for stored in [&text, &gz, &zst] {
            assert!(read(stored, InputCompression::Auto).await.unwrap() == text[3..]);
        }
        assert!(read(&gz, InputCompression::Gzip).await.unwrap() == text[3..]);
        assert!(read(&zst, InputCompression::Zstd).await.unwrap() == text[3..]);
        assert!(read(&gz, InputCompression::None).await.unwrap() == gz);
        assert_eq!(read(b"", InputCompression::Auto).await.unwrap(), b"");
        assert_eq!(read(b"\x1f", InputCompression::Auto).await.unwrap(), b"\x1f");
        let members = [gzip(b"one ").await, gzip(b"two").await].concat();
        assert_eq!(read(&members, InputCompression::Auto).await.unwrap(), b"one two");
        let frames = [zstd(b"one ").await, zstd(b"two").await].concat();
        assert_eq!(read(&frames, InputCompression::Auto).await.unwrap(), b"one two");
    }

    /// A frame that decoders pass over (RFC 8878, 3.1.2), with one of its sixteen magic numbers.
    fn skippable(magic: u8, content: &[u8]) -> Vec<u8> {
        [&[0x50 | magic, 0x2a, 0x4d, 0x18], &(content.len() as u32).to_le_bytes()[..], content].concat()
    }

    /// Case 07-pzstd.
    #[tokio::test]
    async fn zstd_is_known_by_a_skippable_frame_too() {
        let (one, two, none) = (zstd(b"one ").await, zstd(b"two").await, zstd(b"").await);
        for magic in 0..16 {
            let skipped = skippable(magic, b"\x7a\0\0\0");
            let empty = skippable(magic, b"");
            let stored = [&skipped[..], &one, &none, &empty, &skipped, &two, &none, &skipped].concat();
            assert_eq!(read(&stored, InputCompression::Auto).await.unwrap(), b"one two", "{magic}");
            assert_eq!(read(&skipped, InputCompression::Auto).await.unwrap(), b"", "nothing but what is skipped");
        }
        let (one, none) = (gzip(b"one").await, gzip(b"").await);
        let members = [&none[..], &one, &none, &one, &none].concat();
        assert_eq!(read(&members, InputCompression::Auto).await.unwrap(), b"oneone");
    }

    /// Files of any members, whole, cut anywhere, or with something behind them.
    #[test]
    fn every_member_is_read_and_nothing_less_or_else_is_taken() {
        use proptest::prelude::*;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let member = proptest::collection::vec(any::<u8>(), 0..200);
        let input =
            (proptest::collection::vec((member, any::<bool>()), 1..5), any::<bool>(), any::<proptest::sample::Index>());
        let mut runner = proptest::test_runner::TestRunner::new(proptest::test_runner::Config {
            cases: 300,
            failure_persistence: None,
            ..Default::default()
        });
        let read_all = |stored: &[u8], told| runtime.block_on(read(stored, told)).ok();
        let held = runner.run(&input, |(members, is_zstd, cut)| {
            let (mut stored, mut wanted, mut ends) = (vec![], vec![], vec![0]);
            for (content, skip) in &members {
                if is_zstd && *skip {
                    stored.extend(skippable(content.len() as u8 % 16, content));
                    ends.push(stored.len());
                }
                stored.extend(
                    runtime.block_on(async { if is_zstd { zstd(content).await } else { gzip(content).await } }),
                );
                ends.push(stored.len());
                wanted.extend(content);
            }
            let told = if is_zstd { InputCompression::Zstd } else { InputCompression::Gzip };
            let is_bom = wanted.starts_with(b"\xef\xbb\xbf");
            prop_assume!(!is_bom);
            prop_assert_eq!(read_all(&stored, InputCompression::Auto), Some(wanted.clone()));
            prop_assert_eq!(read_all(&stored, told), Some(wanted));
            let cut = cut.index(stored.len());
            if !ends.contains(&cut) {
                prop_assert_eq!(read_all(&stored[..cut], told), None, "cut at {} of {}", cut, stored.len());
            }
            stored.extend(b"more");
            prop_assert_eq!(read_all(&stored, told), None, "something follows");
            Ok(())
        });
        held.unwrap();
    }

    #[tokio::test]
    async fn what_follows_the_last_member_is_named() {
        for stored in [gzip(b"text").await, zstd(b"text").await] {
            for more in [&b"garbage"[..], b"\0\0\0\0\0\0\0\0\0\0\0\0", b"\n"] {
                let refused =
                    read(&[&stored[..], more].concat(), InputCompression::Auto).await.unwrap_err().to_string();
                assert!(refused.contains("is followed by bytes that are not compressed"), "{more:?}: {refused}");
            }
        }
    }

    /// Compresses text into one frame whose header asks for a window of `bits` bits.
    async fn with_window(bits: u32, text: &[u8]) -> Vec<u8> {
        use async_compression::{Level, zstd::CParameter};
        let parameters = [CParameter::window_log(bits), CParameter::content_size_flag(false)];
        let mut encoder = ZstdEncoder::with_quality_and_params(vec![], Level::Fastest, &parameters);
        encoder.write_all(text).await.unwrap();
        // Without a flush the encoder knows the size and shrinks the window.
        encoder.flush().await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    }

    #[tokio::test]
    async fn the_window_of_the_first_frame_is_what_a_decoder_may_hold() {
        for bits in [18, 23, 24, 25] {
            let stored = with_window(bits, b"text").await;
            assert_eq!(window(&stored), 1 << bits);
            assert_eq!(read(&stored, InputCompression::Auto).await.unwrap(), b"text", "{bits}");
        }
        let (small, large, larger) =
            (zstd(b"text").await, with_window(24, b"text").await, with_window(26, b"text").await);
        for stored in [larger, [small, large.clone()].concat()] {
            let refused = read(&stored, InputCompression::Auto).await.unwrap_err().to_string();
            assert!(refused.contains("window of more than 8 MiB") && refused.contains("--long"), "{refused}");
        }
        assert_eq!(read(&[large.clone(), large].concat(), InputCompression::Auto).await.unwrap(), b"texttext");
        // A window of eleven eighths of 8 MiB, and single segments, whose content is the window.
        for (head, bytes) in [
            (&b"\x28\xb5\x2f\xfd\x00\x6b"[..], 11 << 20),
            (b"\x28\xb5\x2f\xfd\x20\x07", 7),
            (b"\x28\xb5\x2f\xfd\x60\x01\x00", 257),
            (b"\x28\xb5\x2f\xfd\xa1\xaa\x00\x00\x00\x02", 32 << 20),
            (b"\x1f\x8b", 0),
        ] {
            assert_eq!(window(head), bytes, "{head:?}");
        }
    }

    #[tokio::test]
    async fn archives_are_known_by_their_first_bytes() {
        for (head, found) in
            [(&b"PK\x03\x04..."[..], true), (b"BZh91AY&SY", true), (b"PAR1,BZh9", false), (b"PK", false)]
        {
            let (what, mut content) = archive(Box::new(head)).await.unwrap();
            let mut whole = vec![];
            content.read_to_end(&mut whole).await.unwrap();
            assert_eq!((what.is_some(), &whole[..]), (found, head));
        }
    }

    #[tokio::test]
    async fn what_is_cut_short_or_something_else_is_an_error() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for whole in [gzip(&text).await, zstd(&text).await] {
            for cut in [5, 20, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
                assert!(read(&whole[..cut], InputCompression::Auto).await.is_err(), "{cut} of {}", whole.len());
            }
        }
        assert!(read(b"plain", InputCompression::Gzip).await.is_err());
        assert!(read(b"plain", InputCompression::Zstd).await.is_err());
        assert!(read(b"", InputCompression::Gzip).await.is_err());
    }

    #[test]
    fn bombs_are_bounded() {
        let bounded = || Bounded {
            content: Box::new(tokio::io::empty()),
            given: 0,
            sizes: Sizes::default(),
            _held: Default::default(),
        };
        let mut bomb = bounded();
        bomb.sizes.stored(1 << 20);
        assert!(bomb.judge(1 << 30).is_ok(), "small things may be as compressible as they like");
        assert!(bomb.judge(1 << 20).unwrap_err().to_string().contains("1000 times"));
        let mut dense = bounded();
        dense.sizes.stored(64 << 20);
        assert!(dense.judge(60 << 30).is_ok());
        let mut next = Bounded { sizes: dense.sizes.next(), ..bounded() };
        next.sizes.stored(64 << 20);
        assert!(next.judge(5 << 30).unwrap_err().to_string().contains("64 GiB"), "the whole input counts");
    }
}
