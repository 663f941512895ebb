//! Text in encodings other than UTF-8, decoded as it is read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use encoding_rs::{Decoder, DecoderResult, Encoding, REPLACEMENT, UTF_8};
use tokio::io::{AsyncRead, ReadBuf};

use super::compression::{self, Content};

/// Bytes that are decoded at a time.
const CHUNK: usize = 32 << 10;
/// The byte in place of bytes that cannot be decoded. It never occurs in UTF-8, so the reader of the text finds the
/// place.
const NO_CHARACTER: u8 = 0xff;

/// Returns the encoding with this name.
///
/// # Errors
/// Fails if no encoding has this name, and says where to look for one.
pub fn named(name: &str) -> Result<&'static Encoding, String> {
    Encoding::for_label(name.as_bytes()).filter(|found| *found != REPLACEMENT).ok_or_else(|| {
        "`spec.input.csv.encoding` is none that is known; see https://encoding.spec.whatwg.org/#names-and-labels, such as \
         Windows-1252 or UTF-16"
            .into()
    })
}

/// Decodes `content` to UTF-8 without its byte order mark, and returns it with its original encoding. A byte order mark
/// takes precedence over `told`.
///
/// # Errors
/// Fails if `content` cannot be read.
pub async fn decoded<'a>(
    content: Content<'a>,
    told: &'static Encoding,
) -> std::io::Result<(Content<'a>, &'static Encoding)> {
    let (head, content) = compression::peek(content, 3).await?;
    let encoding = Encoding::for_bom(&head).map_or(told, |(encoding, _)| encoding);
    match encoding == UTF_8 {
        true => Ok((compression::skip_bom(content).await?, UTF_8)),
        false => Ok((Box::new(Decoded::new(content, encoding)), encoding)),
    }
}

struct Decoded<'a> {
    content: Content<'a>,
    decoder: Decoder,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that were already returned.
    given: usize,
    ended: bool,
}

impl<'a> Decoded<'a> {
    fn new(content: Content<'a>, encoding: &'static Encoding) -> Self {
        let decoder = encoding.new_decoder_with_bom_removal();
        Decoded { content, decoder, input: vec![0; CHUNK], output: vec![], given: 0, ended: false }
    }

    /// Decodes the first `length` bytes of `input`.
    fn decode(&mut self, length: usize) {
        self.output.clear();
        self.given = 0;
        let mut input = &self.input[..length];
        loop {
            let room = self.decoder.max_utf8_buffer_length_without_replacement(input.len()).unwrap_or(4 * CHUNK);
            let at = self.output.len();
            self.output.resize(at + room, 0);
            let (result, read, written) =
                self.decoder.decode_to_utf8_without_replacement(input, &mut self.output[at..], self.ended);
            self.output.truncate(at + written);
            input = &input[read..];
            match result {
                DecoderResult::InputEmpty => return,
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) => self.output.push(NO_CHARACTER),
            }
        }
    }
}

impl AsyncRead for Decoded<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        while this.given == this.output.len() && !this.ended {
            let mut read = ReadBuf::new(&mut this.input);
            ready!(Pin::new(&mut this.content).poll_read(cx, &mut read))?;
            let length = read.filled().len();
            this.ended = length == 0;
            this.decode(length);
        }
        let now = buf.remaining().min(this.output.len() - this.given);
        buf.put_slice(&this.output[this.given..this.given + now]);
        this.given += now;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;
    use tokio_util::io::StreamReader;

    use super::*;

    /// Decodes `bytes`, read a few at a time.
    fn read(bytes: &[u8], told: &str, chunk: usize) -> (Vec<u8>, &'static str) {
        let chunks: Vec<_> =
            bytes.chunks(chunk).map(|c| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(c))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let content = Box::new(StreamReader::new(stream::iter(chunks)));
            let (mut content, encoding) = decoded(content, named(told).unwrap()).await.unwrap();
            let mut out = vec![];
            content.read_to_end(&mut out).await.unwrap();
            (out, encoding.name())
        })
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn text_is_decoded_as_told_or_as_its_byte_order_mark_says() {
        let (text, marked) = ("zu spät, 5 € 😀", "\u{feff}zu spät, 5 € 😀");
        let western = b"zu sp\xe4t, 5 \x80";
        assert_eq!(read(western, "Windows-1252", 3), ("zu spät, 5 €".as_bytes().to_vec(), "windows-1252"));
        assert_eq!(read(western, "latin1", 3).1, "windows-1252");
        for told in ["UTF-8", "utf-16", "windows-1252"] {
            assert_eq!(read(marked.as_bytes(), told, 2), (text.as_bytes().to_vec(), "UTF-8"), "{told}");
            assert_eq!(
                read(&utf16(marked, u16::to_le_bytes), told, 3),
                (text.as_bytes().to_vec(), "UTF-16LE"),
                "{told}"
            );
            assert_eq!(
                read(&utf16(marked, u16::to_be_bytes), told, 3),
                (text.as_bytes().to_vec(), "UTF-16BE"),
                "{told}"
            );
        }
        assert_eq!(read(&utf16(text, u16::to_le_bytes), "UTF-16", 3).0, text.as_bytes());
        assert_eq!(read(&utf16(text, u16::to_be_bytes), "UTF-16BE", 3).0, text.as_bytes());
        assert_eq!(read(b"", "UTF-16", 1), (vec![], "UTF-16LE"));
        assert!(named("Klingon").unwrap_err().contains("Windows-1252"));
        assert!(named("iso-2022-kr").is_err(), "a label that stands for what nobody decodes");
    }

    #[test]
    fn what_cannot_be_decoded_is_no_utf8() {
        let mut half = utf16("a😀b", u16::to_le_bytes);
        half.drain(2..4);
        for (bytes, told) in [(&half[..], "UTF-16"), (b"a\0b", "UTF-16"), (b"\x82", "Shift_JIS")] {
            let (out, _) = read(bytes, told, 2);
            assert!(std::str::from_utf8(&out).is_err(), "{told}: {out:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_through_however_it_arrives(text in "\\PC{0,200}", chunk in 1usize..50) {
            prop_assume!(!text.starts_with('\u{feff}'));
            prop_assert_eq!(read(&utf16(&text, u16::to_le_bytes), "UTF-16", chunk).0, text.as_bytes());
            prop_assert_eq!(read(&utf16(&text, u16::to_be_bytes), "UTF-16BE", chunk).0, text.as_bytes());
            let (packed, _, _) = encoding_rs::GB18030.encode(&text);
            prop_assert_eq!(read(&packed, "gb18030", chunk).0, text.as_bytes());
        }
    }
}
