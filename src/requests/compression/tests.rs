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
            stored.extend(runtime.block_on(async { if is_zstd { zstd(content).await } else { gzip(content).await } }));
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
            let refused = read(&[&stored[..], more].concat(), InputCompression::Auto).await.unwrap_err().to_string();
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
    let (small, large, larger) = (zstd(b"text").await, with_window(24, b"text").await, with_window(26, b"text").await);
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
    for (head, found) in [(&b"PK\x03\x04..."[..], true), (b"BZh91AY&SY", true), (b"PAR1,BZh9", false), (b"PK", false)] {
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
