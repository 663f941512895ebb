//! Objects that are a request each: fetched ahead, and taken in the order of their keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::AsyncReadExt;

use super::check::Request;
use super::compression::{self, Content, Sizes};
use super::pass::{Pass, PassError};
use super::read::{InputReader, ObjectError, broken, one_at_a_time};
use super::source::Origin;
use super::template::Template;
use super::variable::{PARTS, Texts};
use crate::api::{InputCompression, OnTooLarge};
use crate::store::{Folder, ListedObject, LongLineTurn, Sorted, StoreError, reserve};

/// Most objects that are fetched at a time.
const AHEAD: usize = 16;
/// Most bytes of objects that are fetched at a time.
pub const AHEAD_BYTES: usize = 17 << 20;
/// Largest value of `spec.input.maxObjectBytes`.
pub const MOST_OBJECT_BYTES: usize = 6 << 20;
/// Copies of an object that exist until it is a request: uncompressed, as text, as a value and in the request.
pub const OBJECT_BYTES: usize = 4;
/// Bytes by which an object that does not compress may exceed its content.
const COMPRESSED_IN_VAIN: usize = 64 << 10;

/// Size limit of an object, with the treatment of larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeLimit {
    /// Most uncompressed bytes.
    pub bytes: usize,
    /// Treatment of larger objects.
    pub then: OnTooLarge,
}

/// Objects over the size limit, by their treatment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TooLarge {
    /// Objects that were left out.
    pub skipped: i64,
    /// Objects that were cut.
    pub truncated: i64,
}

/// An object as it is stored.
struct Stored {
    uri: String,
    object: ListedObject,
    /// The whole object, or as many of its first bytes as are of use.
    bytes: Vec<u8>,
}

/// The uncompressed content of an object, up to the limit.
struct Unpacked {
    bytes: Vec<u8>,
    too_large: bool,
}

impl InputReader {
    /// Makes a request of each of these objects.
    pub(super) async fn whole(
        &mut self,
        pass: &mut Pass<'_>,
        folder: &Folder,
        objects: Sorted<ListedObject>,
        template: &Template,
    ) -> Result<(), PassError> {
        let _held = reserve(AHEAD_BYTES + OBJECT_BYTES * self.limit.bytes).await;
        let mut fetched = ahead(folder, objects, self.limit);
        while let Some(stored) = fetched.next().await {
            let stored = stored?;
            self.sources += 1;
            self.count_object(&stored.object, stored.bytes.len());
            let origin = Origin { source: stored.uri.as_str().into(), entry: "line" };
            let unpacked = unpack(&stored, self.compression, self.limit, self.sizes.next()).await;
            // Base64 is the longest form.
            let most = template.most(unpacked.as_ref().map_or(0, |unpacked| unpacked.bytes.len() / 3 * 4 + 4));
            let mut turn = LongLineTurn::default();
            turn.take(most).await;
            let checked = match unpacked {
                Ok(unpacked) => match one_at_a_time(most, || self.fit(pass, &stored, unpacked, template)) {
                    Some(checked) => checked,
                    None => continue,
                },
                Err(ObjectError::Damaged(what)) => Err(what),
                Err(ObjectError::Stop(e)) => return Err(e),
            };
            pass.take(&origin, None, checked).await?;
            drop(turn);
            pass.put().await?;
        }
        Ok(())
    }

    /// Makes the request of an object; None if the object is left out.
    fn fit(
        &mut self,
        pass: &Pass<'_>,
        stored: &Stored,
        unpacked: Unpacked,
        template: &Template,
    ) -> Option<Result<Request<'static>, String>> {
        match (unpacked.too_large, self.limit.then) {
            (true, OnTooLarge::Fail) => return Some(Err(self.limit.exceeded(stored.object.size))),
            (true, OnTooLarge::Skip) => {
                self.too_large.skipped += 1;
                return None;
            }
            (true, OnTooLarge::Truncate) => self.too_large.truncated += 1,
            (false, _) => {}
        }
        let parts = parts(stored.object.name(), &unpacked, template);
        Some(parts.and_then(|parts| pass.shape().row(&parts, template)))
    }
}

impl SizeLimit {
    /// Returns the most bytes of a stored object that are of use.
    fn of_use(self) -> usize {
        self.bytes + COMPRESSED_IN_VAIN
    }

    fn exceeded(self, stored: u64) -> String {
        format!(
            "has more than the {} bytes of `spec.input.maxObjectBytes` ({stored} as it is stored); raise that to at most \
             6291456, split the object, or set `spec.input.onTooLarge`",
            self.bytes
        )
    }
}

/// Fetches the objects in their order, several ahead of the one that is taken.
fn ahead(folder: &Folder, objects: Sorted<ListedObject>, limit: SizeLimit) -> BoxStream<'_, Result<Stored, PassError>> {
    let at_a_time = (AHEAD_BYTES / limit.of_use()).clamp(2, AHEAD);
    let fetch = move |object: Result<ListedObject, StoreError>| async move { fetch(folder, object?, limit).await };
    futures::stream::iter(objects).map(fetch).buffered(at_a_time).boxed()
}

async fn fetch(folder: &Folder, object: ListedObject, limit: SizeLimit) -> Result<Stored, PassError> {
    let uri = folder.uri_of(object.name());
    // The buffer is no larger than the object.
    let mut bytes = Vec::with_capacity(usize::try_from(object.size).map_or(0, |size| size.min(limit.of_use())));
    let in_vain = object.size > limit.of_use() as u64 && limit.then != OnTooLarge::Truncate;
    if !in_vain {
        let mut entry = folder.get_listed(&object).await?.ok_or_else(|| StoreError::changed(&uri))?;
        while let Some(chunk) = entry.stream.next().await {
            let chunk = chunk?;
            let room = limit.of_use() - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                break;
            }
        }
    }
    Ok(Stored { uri, object, bytes })
}

async fn unpack(
    stored: &Stored,
    compression: InputCompression,
    limit: SizeLimit,
    sizes: Sizes,
) -> Result<Unpacked, ObjectError> {
    let cut = stored.object.size > stored.bytes.len() as u64;
    if cut && limit.then != OnTooLarge::Truncate {
        return Ok(Unpacked { bytes: vec![], too_large: true });
    }
    sizes.stored(stored.bytes.len());
    let at_hand: Content<'_> = Box::new(&stored.bytes[..]);
    let opened = compression::open(at_hand, compression, sizes, limit.bytes).await;
    let (content, compression) = opened.map_err(|e| broken(&stored.uri, compression, e))?;
    let mut bytes = vec![];
    let read = content.take(limit.bytes as u64 + 1).read_to_end(&mut bytes).await;
    read.map_err(|e| broken(&stored.uri, compression, e))?;
    let too_large = cut || bytes.len() > limit.bytes;
    bytes.truncate(limit.bytes);
    Ok(Unpacked { bytes, too_large })
}

/// Returns the parts of an object that the template uses.
fn parts(key: &str, unpacked: &Unpacked, template: &Template) -> Result<Texts, String> {
    let mut parts = Texts::new();
    for part in PARTS.into_iter().filter(|part| template.uses(part)) {
        let value = match part {
            "text" => text(&unpacked.bytes, unpacked.too_large)?.to_string(),
            "base64" => STANDARD.encode(&unpacked.bytes),
            _ => key.to_string(),
        };
        parts.insert(part.into(), value);
    }
    Ok(parts)
}

/// Returns the text of an object without its byte order mark. A text that was cut ends with a whole character.
fn text(bytes: &[u8], cut: bool) -> Result<&str, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let whole = match std::str::from_utf8(bytes) {
        Err(e) if cut && e.error_len().is_none() => &bytes[..e.valid_up_to()],
        _ => bytes,
    };
    super::check::utf8(whole).map_err(|e| format!("{e}; for what is no text there is `$(object.base64)`"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use serde_json::{Value, json};
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::requests::{PlanOptions, Source, pass};
    use crate::store::{layout, staged};

    #[test]
    fn text_is_utf8_and_cut_between_characters() {
        assert_eq!(text("\u{feff}aä".as_bytes(), false).unwrap(), "aä");
        let cut = &"aä".as_bytes()[..2];
        assert_eq!(text(cut, true).unwrap(), "a");
        assert!(text(cut, false).unwrap_err().contains("not UTF-8 (byte 2)"));
        assert!(text(b"a\xff-", true).unwrap_err().contains("$(object.base64)"), "a fault before the cut is one");
    }

    /// Runs a pass over these objects. Returns the bodies that it staged, without the fields that they all share.
    async fn read(objects: &[(&str, &[u8])], input: Value) -> Result<(TooLarge, Vec<String>), String> {
        let folder = Folder::of(Arc::new(InMemory::new()), "memory://in/", "in/");
        let out = Folder::of(Arc::new(InMemory::new()), "memory://out/", "out/");
        for (name, bytes) in objects {
            let mut upload = folder.overwrite(name, "w");
            upload.write(bytes).await.unwrap();
            upload.finish().await.unwrap();
        }
        let template = json!({"customID": "$(object.key)", "body": {"c": input["content"]}});
        let options = PlanOptions {
            provider: "p".into(),
            endpoint: Default::default(),
            model: Some("m".into()),
            base_url: "https://llm.test/v1".into(),
            line: [r#"{"id":""#.into(), r#"","body":"#.into(), "}".into()],
            defaults: Default::default(),
            format: crate::api::InputFormat::Objects,
            compression: serde_json::from_value(input["compression"].clone()).unwrap_or_default(),
            csv: Default::default(),
            selection: Default::default(),
            template: serde_json::from_value(template).unwrap(),
            size_limit: SizeLimit {
                bytes: input["limit"].as_u64().unwrap_or(1000) as usize,
                then: serde_json::from_value(input["then"].clone()).unwrap_or_default(),
            },
            empty_policy: Default::default(),
            run_id: None,
            max_requests: 1000,
            max_bytes: 1 << 20,
            max_inputs: 50_000,
            max_text: Default::default(),
            open_disk: u64::MAX,
            max_batches: 100,
            allowed_models: vec![],
            hash_version: Default::default(),
            canary: None,
            answers: None,
        };
        let name = input["name"].as_str().unwrap_or_default().to_string();
        let source = Source::Objects { folder: folder.clone(), name };
        let passed = pass(source, &options, Some((&out, "w")), &std::env::temp_dir()).await;
        let passed = passed.map_err(|e| e.to_string())?;
        let mut staged = String::new();
        for shard in passed.shards.map(Result::unwrap) {
            let name = layout::shard("w", &shard.sha256);
            staged::open(&out, &name).await.unwrap().read_to_string(&mut staged).await.unwrap();
        }
        let content = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["body"]["c"].as_str().unwrap().to_string()
        };
        Ok((passed.too_large, staged.lines().map(content).collect()))
    }

    async fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = async_compression::tokio::write::GzipEncoder::new(vec![]);
        encoder.write_all(bytes).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    }

    #[tokio::test]
    async fn each_object_is_a_request_in_the_order_of_keys() {
        let packed = gzip(b"packed").await;
        let all: &[(&str, &[u8])] =
            &[("b/x.txt", b"\xef\xbb\xbfx"), ("a.txt.gz", &packed), ("c.bin", b"\xff\0"), ("_no", b"x"), ("e", b"")];
        let texts = &[all[0], all[1]];
        let (_, contents) = read(texts, json!({"content": "$(object.key): $(object.text)"})).await.unwrap();
        assert_eq!(contents, ["a.txt.gz: packed", "b/x.txt: x"]);
        let (_, contents) = read(all, json!({"content": "$(object.base64)"})).await.unwrap();
        assert_eq!(contents, ["cGFja2Vk", "77u/eA==", "/wA="], "bytes are what they are");
        let (_, contents) = read(all, json!({"content": "$(object.text)", "name": "b/x.txt"})).await.unwrap();
        assert_eq!(contents, ["x"]);
        let (_, contents) = read(all, json!({"content": "$(object.key)", "name": "*.bin"})).await.unwrap();
        assert_eq!(contents, ["c.bin"]);
        let error = read(all, json!({"content": "$(object.text)"})).await.unwrap_err();
        assert_eq!(
            error,
            "memory://in/c.bin: is not UTF-8 (byte 1); store it as UTF-8; for what is no text there is `$(object.base64)`"
        );
        let error = read(&[], json!({"content": "x", "name": "none"})).await.unwrap_err();
        assert!(error.contains("memory://in/none does not exist"), "{error}");
    }

    #[tokio::test]
    async fn what_is_too_large_is_named_left_out_or_cut() {
        let large = gzip("ä".repeat(50).as_bytes()).await;
        let (huge, in_vain) = (vec![b'h'; 200_000], gzip(b"\x07\xf1a9").await);
        let all: &[(&str, &[u8])] = &[("a", b"fits"), ("b", &large), ("c", &huge), ("d", &in_vain[..])];
        let set = |then: &str, content: &str| json!({"content": content, "limit": 5, "then": then});
        let error = read(all, set("Fail", "$(object.base64)")).await.unwrap_err();
        assert!(
            error.starts_with("memory://in/b: has more than the 5 bytes of `spec.input.maxObjectBytes`"),
            "{error}"
        );
        assert!(error.contains("memory://in/c: has") && error.contains("200000 as it is stored"), "{error}");
        assert!(!error.contains("in/a:") && !error.contains("in/d:"), "its content is small enough: {error}");
        let (too_large, contents) = read(all, set("Skip", "$(object.base64)")).await.unwrap();
        assert_eq!(
            (too_large, contents),
            (TooLarge { skipped: 2, truncated: 0 }, vec!["Zml0cw==".into(), "B/FhOQ==".into()])
        );
        let (too_large, contents) = read(&all[..3], set("Truncate", "$(object.text)")).await.unwrap();
        assert_eq!(too_large, TooLarge { skipped: 0, truncated: 2 });
        assert_eq!(contents, ["fits", "ää", "hhhhh"]);
        let error = read(all, set("Truncate", "$(object.base64)")).await.unwrap_err();
        assert!(error.contains("`spec.input.onTooLarge: Truncate` cuts text"), "{error}");
        let error = read(&all[2..3], set("Skip", "$(object.text)")).await.unwrap_err();
        assert!(error.contains("nothing but objects that are too large (1)"), "{error}");
    }

    #[tokio::test]
    async fn damaged_objects_are_all_named() {
        let packed = gzip(b"packed").await;
        let all: &[(&str, &[u8])] = &[("a", &packed[..10]), ("b", &packed), ("c", &packed[..12])];
        let error = read(all, json!({"content": "$(object.text)"})).await.unwrap_err();
        assert!(error.contains("in/a: as gzip it is cut short") && error.contains("in/c: as gzip"), "{error}");
        let error = read(all, json!({"content": "$(object.text)", "compression": "Zstd"})).await.unwrap_err();
        assert!(error.contains("in/b: as zstd it is damaged"), "{error}");
        assert!(read(all, json!({"content": "$(object.base64)", "compression": "None"})).await.is_ok());
    }
}
