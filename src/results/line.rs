//! Lines of answers, and lines of result files: OpenAI's output shape, whatever the provider.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::store::{IndexEntry, RequestHash};

/// The end of a request, as a part records it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum LineOutcome {
    Succeeded,
    /// A failure for which another try would not help, or might be paid twice.
    Failed,
    /// A failure that may pass.
    Errored,
    Expired,
    Cancelled,
}

/// A line of a part: the request's index, its end, and the provider's line (as it came when written, its frame alone
/// when read).
#[derive(Serialize, Deserialize)]
pub(super) struct PartLine<L> {
    pub index: i64,
    pub ended: LineOutcome,
    pub line: L,
}

/// Most bytes that [`head`] needs.
pub(super) const HEAD: usize = 64;

/// Reads the index and the end of the [`PartLine`] that begins with `start`.
pub(super) fn head(start: &[u8]) -> Option<(i64, LineOutcome)> {
    let rest = start.strip_prefix(b"{\"index\":")?;
    let (index, rest) = rest.split_at(memchr::memchr(b',', rest)?);
    let ended = rest.strip_prefix(b",\"ended\":")?;
    let ended = serde_json::Deserializer::from_slice(ended).into_iter().next()?.ok()?;
    Some((std::str::from_utf8(index).ok()?.parse().ok()?, ended))
}

/// A request as it is sent: a line of OpenAI's batch format.
#[derive(Serialize, Deserialize)]
pub(super) struct RequestLine<'a> {
    pub custom_id: Cow<'a, str>,
    pub method: &'a str,
    pub url: &'a str,
    #[serde(borrow)]
    pub body: &'a RawValue,
}

/// A provider's line, of which only the frame is read. The last value of a repeated key counts, as in most readers of
/// JSON.
#[derive(Default)]
pub(super) struct ProviderLine<'a> {
    pub id: Option<&'a RawValue>,
    /// None if it is not a string.
    pub custom_id: Option<String>,
    pub response: Option<&'a RawValue>,
    pub error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Id,
    CustomId,
    Response,
    Error,
    #[serde(other)]
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for ProviderLine<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Frame;
        impl<'de> Visitor<'de> for Frame {
            type Value = ProviderLine<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a line of answers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut line = ProviderLine::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Id => line.id = map.next_value()?,
                        Key::Response => line.response = map.next_value()?,
                        Key::Error => line.error = map.next_value()?,
                        Key::CustomId => {
                            let raw: &RawValue = map.next_value()?;
                            let id: Option<String> = serde_json::from_str(raw.get()).ok();
                            if line.custom_id.is_some() && line.custom_id != id {
                                return Err(A::Error::custom("it names two requests"));
                            }
                            line.custom_id = id;
                        }
                        Key::Other => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(line)
            }
        }
        deserializer.deserialize_map(Frame)
    }
}

/// A line of `results.jsonl` or `errors.jsonl`.
#[derive(Serialize)]
pub(super) struct ResultLine<'a> {
    pub id: Option<&'a RawValue>,
    pub custom_id: &'a str,
    pub response: Option<&'a RawValue>,
    pub error: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_sha256: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_blake3: Option<&'a str>,
}

impl<'a> ResultLine<'a> {
    /// Creates a line under the user's own custom id, with the request's hash under the name of its function.
    pub fn new(
        entry: &'a IndexEntry,
        id: Option<&'a RawValue>,
        response: Option<&'a RawValue>,
        error: Option<&'a RawValue>,
    ) -> ResultLine<'a> {
        let (request_sha256, request_blake3) = match &entry.request_hash {
            RequestHash::Sha256(hex) => (Some(hex.as_str()), None),
            RequestHash::Blake3(hex) => (None, Some(hex.as_str())),
        };
        ResultLine { id, custom_id: &entry.custom_id, response, error, request_sha256, request_blake3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_part_says_at_its_beginning_whose_it_is() {
        let line = RawValue::from_string(format!("{{\"x\": \"{}\"}}", "é".repeat(100))).unwrap();
        for index in [0, 7, i64::MAX] {
            for ended in [
                LineOutcome::Succeeded,
                LineOutcome::Failed,
                LineOutcome::Errored,
                LineOutcome::Expired,
                LineOutcome::Cancelled,
            ] {
                let line = serde_json::to_vec(&PartLine { index, ended, line: &line }).unwrap();
                assert_eq!(head(&line[..HEAD]), Some((index, ended)));
            }
        }
        for other in [
            &b"{}"[..],
            b"{\"index\":1}",
            b"{\"index\":x,\"ended\":\"failed\"",
            b"{\"index\":1,\"ended\":\"lost\"",
            b"",
        ] {
            assert_eq!(head(other), None);
        }
    }
}
