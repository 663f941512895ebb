//! The hints of a request about its tokens, read from the JSON that is sent.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr2};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::inputs::inputs_of;
use crate::api::{Endpoint, TokenHints};

/// Keys of the parts of a message whose tokens their bytes do not tell, in any of the endpoints
/// (<https://platform.openai.com/docs/api-reference/chat/create>, <https://platform.openai.com/docs/api-reference/responses/create>,
/// and vLLM's parts for audio and video).
const OPAQUE_KEYS: [&[u8]; 9] = [
    b"image_url",
    b"input_audio",
    b"file",
    b"file_id",
    b"file_data",
    b"file_url",
    b"audio_url",
    b"video_url",
    b"item_reference",
];
/// Keys whose values are data, or lead to data, and are no text.
const DATA_KEYS: [&[u8]; 8] =
    [b"url", b"data", b"image_url", b"file_id", b"file_data", b"file_url", b"audio_url", b"video_url"];
/// Beginnings of the types of tools that the provider itself runs, whose results become input tokens.
const HOSTED_TOOLS: [&[u8]; 8] = [
    b"web_search",
    b"file_search",
    b"code_interpreter",
    b"computer",
    b"image_generation",
    b"mcp",
    b"local_shell",
    b"shell",
];
/// Bytes at the beginning of a text in which a data URL says that base64 follows.
const DATA_URL_HEAD: usize = 256;

/// Returns the hints of a request that is sent with these fields, each with its value as it is written.
///
/// Text is the JSON of the fields that a model reads, without the escapes of its strings, and without base64 data and the URLs of
/// images and files. The punctuation of JSON counts: it is about as long as the tokens that separate messages.
pub fn hints_of_fields<'a>(endpoint: Endpoint, fields: impl Iterator<Item = (&'a str, &'a str)>) -> TokenHints {
    let mut body = BodyHints::new(endpoint);
    fields.for_each(|(key, value)| body.see(key, value));
    body.hints()
}

/// Returns the hints of a whole line of a batch's file. Of a line that cannot be read, nothing but its bytes is known.
pub fn hints_of_line(line: &[u8]) -> TokenHints {
    read(line).map_or_else(|| of_bytes(line.len() as u64), |(_, body)| body.hints())
}

/// Reads a line: the endpoint that its URL means, and its body.
pub(super) fn read(line: &[u8]) -> Option<(Option<Endpoint>, BodyHints)> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow, default)]
        url: Cow<'a, str>,
        #[serde(borrow)]
        body: &'a RawValue,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    let endpoint = Endpoint::of_url(&line.url);
    let mut body = BodyHints::new(endpoint.unwrap_or_default());
    serde_json::Deserializer::from_str(line.body.get()).deserialize_map(&mut body).ok()?;
    Some((endpoint, body))
}

/// Returns the hints of a line of which nothing but its bytes is known.
pub(super) fn of_bytes(bytes: u64) -> TokenHints {
    TokenHints {
        text_bytes: bytes,
        longest_text_bytes: bytes,
        opaque_requests: 1,
        unlimited_requests: 1,
        ..TokenHints::default()
    }
}

/// The hints of a body of which some fields were seen.
pub(super) struct BodyHints {
    endpoint: Endpoint,
    text_bytes: u64,
    is_opaque: bool,
    /// The most output tokens of one answer.
    limit: Option<i64>,
    /// Answers to each prompt, as far as they are known.
    answers: Option<i64>,
    prompts: i64,
    /// The model, if the body was read as a whole.
    model: Option<String>,
    /// Whether the body names several models.
    has_models: bool,
}

/// The meaning of keys in a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Messages, with parts that may be images or files.
    Content,
    /// Tools, with their types.
    Tools,
    /// Names of the user's own.
    Text,
}

impl BodyHints {
    fn new(endpoint: Endpoint) -> Self {
        BodyHints {
            endpoint,
            text_bytes: 0,
            is_opaque: false,
            limit: None,
            answers: Some(1),
            prompts: 1,
            model: None,
            has_models: false,
        }
    }

    fn see(&mut self, key: &str, value: &str) {
        let (is_chat, is_completion) =
            (self.endpoint == Endpoint::ChatCompletions, self.endpoint == Endpoint::Completions);
        match key {
            "messages" | "input" => self.read(value, Meaning::Content),
            "prompt" => {
                // A prompt that is stored at the provider.
                self.is_opaque |= value.starts_with('{');
                if is_completion {
                    self.prompts = i64::try_from(inputs_of(value)).unwrap_or(i64::MAX);
                }
                self.read(value, Meaning::Text);
            }
            "tools" => self.read(value, Meaning::Tools),
            "documents" | "functions" | "instructions" | "prediction" | "response_format" | "suffix" | "text" => {
                self.read(value, Meaning::Text);
            }
            "conversation" | "previous_response_id" | "web_search_options" => self.is_opaque |= value != "null",
            "max_completion_tokens" if is_chat => self.limit_to(value),
            "max_tokens" if is_chat || is_completion => self.limit_to(value),
            "max_output_tokens" if self.endpoint == Endpoint::Responses => self.limit_to(value),
            "best_of" if is_completion => self.asks_for(value),
            "n" if is_chat || is_completion => self.asks_for(value),
            _ => {}
        }
    }

    /// Takes a name of the model. Servers differ in which of two names they heed.
    fn named(&mut self, value: &str) {
        let model: Option<String> = serde_json::from_str(value).ok();
        self.has_models |= model.is_none() || self.model.is_some() && self.model != model;
        self.model = model;
    }

    /// Returns the model that the body asks for; None if that is not clear.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref().filter(|_| !self.has_models)
    }

    fn read(&mut self, value: &str, meaning: Meaning) {
        let (bytes, is_opaque) = text_of(value, meaning);
        self.text_bytes = self.text_bytes.saturating_add(bytes);
        self.is_opaque |= is_opaque;
    }

    /// Takes the higher one of two limits: servers differ in the one that they heed.
    fn limit_to(&mut self, value: &str) {
        self.limit = number(value).map(|limit| limit.max(self.limit.unwrap_or(0))).or(self.limit);
    }

    fn asks_for(&mut self, value: &str) {
        if value != "null" {
            self.answers = self.answers.zip(number(value)).map(|(answers, more)| answers.max(more));
        }
    }

    pub fn hints(&self) -> TokenHints {
        let mut hints = TokenHints {
            text_bytes: self.text_bytes,
            longest_text_bytes: self.text_bytes,
            opaque_requests: i64::from(self.is_opaque),
            ..TokenHints::default()
        };
        if matches!(self.endpoint, Endpoint::Embeddings | Endpoint::Moderations) {
            return hints;
        }
        let answers = self.answers.unwrap_or(1).saturating_mul(self.prompts);
        match self.limit.filter(|_| self.answers.is_some()) {
            Some(limit) => {
                (hints.max_output_tokens, hints.limited_answers) = (limit.saturating_mul(answers), answers);
            }
            None => hints.unlimited_requests = answers,
        }
        hints
    }
}

/// Reads a count from a JSON number, or from one in quotes, which some servers take as well. None for anything else, and for
/// numbers below 0, which mean that there is no limit.
fn number(value: &str) -> Option<i64> {
    let number: f64 = value.trim_matches('"').parse().ok()?;
    // The conversion saturates.
    (number >= 0.0).then_some(number.ceil() as i64)
}

/// Returns the bytes of text in a value, and whether some of its tokens cannot be told from bytes.
fn text_of(value: &str, meaning: Meaning) -> (u64, bool) {
    let bytes = value.as_bytes();
    let (mut at, mut dropped, mut is_opaque, mut key) = (0, 0, false, &b""[..]);
    while let Some(quote) = bytes.get(at..).and_then(|rest| memchr(b'"', rest)) {
        let start = at + quote + 1;
        let (end, escapes) = end_of_string(bytes, start);
        let string = &bytes[start..end];
        at = end + 1;
        let rest = bytes.get(at..).unwrap_or_default();
        let before = bytes[..start - 1].iter().rev();
        let is_space = |b: &&u8| !b.is_ascii_whitespace();
        if rest.iter().find(is_space) == Some(&b':') {
            key = string;
            is_opaque |= meaning == Meaning::Content && OPAQUE_KEYS.contains(&key);
            dropped += escapes;
            continue;
        }
        let key = if before.clone().find(is_space) == Some(&b':') { key } else { b"" };
        let is_data = meaning == Meaning::Content && (DATA_KEYS.contains(&key) || is_data_url(string));
        dropped += if is_data { string.len() } else { escapes };
        if key == b"type" {
            is_opaque |= match meaning {
                Meaning::Content => string == b"item_reference",
                Meaning::Tools => HOSTED_TOOLS.iter().any(|tool| string.starts_with(tool)),
                Meaning::Text => false,
            };
        }
    }
    (bytes.len().saturating_sub(dropped) as u64, is_opaque)
}

fn is_data_url(string: &[u8]) -> bool {
    let head = &string[..string.len().min(DATA_URL_HEAD)];
    head.starts_with(b"data:") && head.windows(8).any(|part| part == b";base64,")
}

/// Returns the offset of the quote that ends a string, and the bytes by which its escapes are longer than what they stand for.
/// Of a string without an end, the end is that of the text.
fn end_of_string(bytes: &[u8], start: usize) -> (usize, usize) {
    let (mut at, mut escapes) = (start, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return (at, escapes);
        }
        let code = bytes.get(at + 2..at + 6).filter(|_| bytes.get(at + 1) == Some(&b'u'));
        let code = code.and_then(|hex| u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        let (written, stands_for) = match code {
            None => (2, 1),
            Some(..0x80) => (6, 1),
            // Half of a character of four bytes.
            Some(0x80..0x800 | 0xd800..0xe000) => (6, 2),
            Some(_) => (6, 3),
        };
        at += written;
        escapes += written - stands_for;
    }
    (bytes.len(), escapes.min(bytes.len() - start.min(bytes.len())))
}

impl<'de> Visitor<'de> for &mut BodyHints {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a body")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &RawValue>()? {
            match &*key {
                "model" => self.named(value.get()),
                key => self.see(key, value.get()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(endpoint: Endpoint, body: &str) -> TokenHints {
        let line = format!(r#"{{"custom_id":"a","method":"POST","url":"{}","body":{body}}}"#, endpoint.path());
        hints_of_line(line.as_bytes())
    }

    fn chat(fields: &str) -> TokenHints {
        of(Endpoint::ChatCompletions, &format!(r#"{{"model":"m",{fields}}}"#))
    }

    #[test]
    fn text_is_what_a_model_reads_without_escapes_and_data() {
        let messages = |content: &str| chat(&format!(r#""messages":[{{"role":"user","content":{content}}}]"#));
        let around = messages(r#""""#).text_bytes;
        for (content, bytes) in [
            (r#""plain""#, 5),
            (r#""ä""#, 2),
            (r#""\u00e4\u4e2d\ud83d\ude00\n\"""#, 2 + 3 + 4 + 2),
            (r#""{\"type\":\"x\"}""#, 12),
        ] {
            let found = messages(content);
            assert_eq!((found.text_bytes - around, found.opaque_requests), (bytes, 0), "{content}");
        }
        let all =
            chat(r#""messages":[],"tools":[],"response_format":{},"temperature":0.25,"user":"somebody","stop":["x"]"#);
        assert_eq!(all.text_bytes, 6, "only what the model reads counts");
    }

    #[test]
    fn images_files_and_text_that_is_elsewhere_make_a_request_opaque_and_their_data_is_no_text() {
        let data = "A".repeat(100_000);
        for part in [
            format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}"#),
            format!(r#"{{"type": "input_image", "image_url": "data:image/png;base64,{data}"}}"#),
            format!(r#"{{"type":"input_audio","input_audio":{{"data":"{data}","format":"wav"}}}}"#),
            format!(r#"{{"type":"file","file":{{"file_data":"{data}"}}}}"#),
            format!(r#"{{"type":"input_file","file_url":"https://x.test/{data}"}}"#),
            r#"{"type":"input_file","file_id":"file-1"}"#.into(),
        ] {
            let with =
                chat(&format!(r#""messages":[{{"role":"user","content":[{part},{{"type":"text","text":"abc"}}]}}]"#));
            assert!(with.opaque_requests == 1 && (40..200).contains(&with.text_bytes), "{with:?} {}", &part[..40]);
        }
        for field in
            [r#""previous_response_id":"r""#, r#""prompt":{"id":"p"}"#, r#""tools":[{"type": "web_search_preview"}]"#]
        {
            let body = format!(r#"{{"input":"x",{field}}}"#);
            assert_eq!(of(Endpoint::Responses, &body).opaque_requests, 1, "{body}");
        }
        for fields in [
            r#""messages":[{"role":"user","content":"\"image_url\": data:x;base64,AAAA"}]"#,
            r#""messages":[],"tools":[{"type":"function","function":{"parameters":{"properties":{"file":{"type":"string"}}}}}]"#,
            r#""messages":[],"previous_response_id":null"#,
        ] {
            assert_eq!(chat(fields).opaque_requests, 0, "{fields}");
        }
    }

    #[test]
    fn output_is_limited_by_the_field_of_the_endpoint_times_the_answers() {
        let (chats, responses, completions) = (Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Completions);
        for (endpoint, fields, limited, unlimited) in [
            (chats, r#""max_completion_tokens":7"#, 7, 0),
            (chats, r#""max_tokens":5,"n":3"#, 15, 0),
            (chats, r#""max_tokens":5,"max_completion_tokens":7"#, 7, 0),
            (chats, r#""max_tokens":null,"n":null"#, 0, 1),
            (chats, r#""max_output_tokens":7,"n":4"#, 0, 4),
            (chats, r#""max_tokens":-1"#, 0, 1),
            (chats, r#""max_tokens":"12""#, 12, 0),
            (chats, r#""max_tokens":5,"n":"many""#, 0, 1),
            (chats, r#""max_tokens":1e40,"n":9"#, i64::MAX, 0),
            (responses, r#""max_output_tokens":7,"n":4"#, 7, 0),
            (responses, r#""max_tokens":7"#, 0, 1),
            (completions, r#""max_tokens":5,"n":2,"best_of":4"#, 20, 0),
            (completions, r#""max_tokens":5,"prompt":["a","b","c"]"#, 15, 0),
            (completions, r#""prompt":[[1,2],[3]],"n":2"#, 0, 4),
            (Endpoint::Embeddings, r#""input":"a""#, 0, 0),
            (Endpoint::Moderations, r#""input":"a""#, 0, 0),
        ] {
            let found = of(endpoint, &format!("{{{fields}}}"));
            assert_eq!(
                (found.max_output_tokens, found.unlimited_requests),
                (limited, unlimited),
                "{endpoint:?} {fields}"
            );
        }
    }

    #[test]
    fn of_a_line_that_cannot_be_read_nothing_is_bounded() {
        for line in [&b"{"[..], b"", br#"{"url":"/v1/embeddings"}"#, br#"{"body":[1]}"#, b"\xff"] {
            let found = hints_of_line(line);
            assert_eq!((found.text_bytes, found.opaque_requests, found.unlimited_requests), (line.len() as u64, 1, 1));
        }
    }

    proptest! {
        /// Bodies are a stranger's.
        #[test]
        fn hints_of_any_text_are_at_most_its_bytes(value in "[ -~\n\"\\\\u:{}\\[\\],é]{0,60}|(\\\\\\\\|\\\\u[0-9a-f]{0,4}|\"|:|data:;base64,|\"type\"|\"url\"){0,12}", key in "messages|input|tools|prompt|n|max_tokens") {
            for endpoint in Endpoint::ALL {
                let found = hints_of_fields(endpoint, [(key.as_str(), value.as_str())].into_iter());
                prop_assert!(found.text_bytes <= value.len() as u64);
                prop_assert!(found.max_output_tokens >= 0 && found.unlimited_requests >= 0);
            }
            hints_of_line(value.as_bytes());
        }
    }
}
