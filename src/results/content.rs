//! The content of answers: whether they say anything, and whether the model refused, was cut at a limit, or was filtered.
//!
//! Values of any other shape than OpenAI's are passed over, never an error: an answer counts as one whatever it looks like.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The facts about the choices or the output items of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Whether the value is a list, so that the other facts are known.
    pub is_list: bool,
    /// Whether any choice has text that is not blank, a call of a tool, audio, or a part of another kind.
    pub says_something: bool,
    /// Whether the model refused in any choice.
    pub refused: bool,
    /// Whether any choice was cut at a limit of tokens.
    pub truncated: bool,
    /// Whether a filter cut or withheld any choice.
    pub filtered: bool,
}

impl Content {
    pub fn add(&mut self, other: Content) {
        let Content { is_list: _, says_something, refused, truncated, filtered } = other;
        self.says_something |= says_something;
        self.refused |= refused;
        self.truncated |= truncated;
        self.filtered |= filtered;
    }

    /// Adds the reason why a choice or a response ended. Servers of open models have words of their own for a limit.
    fn end(&mut self, reason: &RawValue) {
        match reason.get().trim_matches('"') {
            "length" | "model_length" | "max_tokens" | "max_output_tokens" => self.truncated = true,
            "content_filter" => self.filtered = true,
            "refusal" => self.refused = true,
            _ => {}
        }
    }
}

/// A reader of values of one shape. Values of other shapes leave it as it is.
pub(super) trait Shape<'de>: Default {
    fn object<A: MapAccess<'de>>(&mut self, mut object: A) -> Result<(), A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn list<A: SeqAccess<'de>>(&mut self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn text(&mut self, _: &str) {}
}

/// A value that is read as far as it has the shape `S`.
#[derive(Default)]
pub(super) struct Any<S>(pub S);

impl<'de, S: Shape<'de>> Deserialize<'de> for Any<S> {
    /// # Errors
    /// A text with a lone surrogate and a number that is too large cannot be read, although both are JSON.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Frame<S>(PhantomData<S>);
        impl<'de, S: Shape<'de>> Visitor<'de> for Frame<S> {
            type Value = Any<S>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Any<S>, A::Error> {
                let mut shape = S::default();
                shape.object(object)?;
                Ok(Any(shape))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Any<S>, A::Error> {
                let mut shape = S::default();
                shape.list(list)?;
                Ok(Any(shape))
            }

            fn visit_str<E>(self, text: &str) -> Result<Any<S>, E> {
                let mut shape = S::default();
                shape.text(text);
                Ok(Any(shape))
            }

            fn visit_unit<E>(self) -> Result<Any<S>, E> {
                Ok(Any::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Any<S>, E> {
                Ok(Any::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Any<S>, E> {
                Ok(Any::default())
            }

            fn visit_i64<E>(self, _: i64) -> Result<Any<S>, E> {
                Ok(Any::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Any<S>, E> {
                Ok(Any::default())
            }
        }
        deserializer.deserialize_any(Frame(PhantomData))
    }
}

/// The `choices` of completions, or the `output` of a response, with what they hold.
#[derive(Default)]
pub(super) struct Items<I> {
    /// Whether the value has any content, of whatever shape.
    pub some: bool,
    pub content: Content,
    of: PhantomData<I>,
}

impl<'de, I: Shape<'de> + Into<Content>> Shape<'de> for Items<I> {
    fn object<A: MapAccess<'de>>(&mut self, mut object: A) -> Result<(), A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            self.some = true;
        }
        Ok(())
    }

    fn list<A: SeqAccess<'de>>(&mut self, mut list: A) -> Result<(), A::Error> {
        self.content.is_list = true;
        while let Some(Any(item)) = list.next_element::<Any<I>>()? {
            self.some = true;
            self.content.add(item.into());
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.some = text.bytes().any(|byte| byte != b' ');
    }
}

/// A choice of a chat completion or a completion.
#[derive(Default)]
pub(super) struct Choice(Content);

impl From<Choice> for Content {
    fn from(choice: Choice) -> Content {
        choice.0
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum ChoiceKey {
    FinishReason,
    Message,
    Text,
    #[serde(other)]
    Other,
}

impl<'de> Shape<'de> for Choice {
    fn object<A: MapAccess<'de>>(&mut self, mut object: A) -> Result<(), A::Error> {
        while let Some(key) = object.next_key()? {
            match key {
                ChoiceKey::FinishReason => self.0.end(object.next_value()?),
                ChoiceKey::Message => self.0.add(object.next_value::<Any<Message>>()?.0.0),
                ChoiceKey::Text => self.0.says_something |= says_something(object.next_value()?),
                ChoiceKey::Other => _ = object.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// The message of a choice.
#[derive(Default)]
struct Message(Content);

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum MessageKey {
    Content,
    Refusal,
    ToolCalls,
    FunctionCall,
    Audio,
    Images,
    #[serde(other)]
    Other,
}

impl<'de> Shape<'de> for Message {
    fn object<A: MapAccess<'de>>(&mut self, mut object: A) -> Result<(), A::Error> {
        while let Some(key) = object.next_key()? {
            match key {
                MessageKey::Content => {
                    let raw: &RawValue = object.next_value()?;
                    match raw.get().starts_with('[') {
                        true => self.0.add(parts(raw)),
                        false => self.0.says_something |= says_something(raw),
                    }
                }
                MessageKey::Refusal => self.0.refused |= says_something(object.next_value()?),
                MessageKey::ToolCalls | MessageKey::FunctionCall | MessageKey::Audio | MessageKey::Images => {
                    self.0.says_something |= holds_something(object.next_value()?);
                }
                MessageKey::Other => _ = object.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// Reads content that is a list. Content that cannot be read is content.
fn parts(raw: &RawValue) -> Content {
    let unread = Content { says_something: true, ..Content::default() };
    serde_json::from_str::<Any<Parts>>(raw.get()).map_or(unread, |Any(parts)| parts.0)
}

/// A list of parts of a message.
#[derive(Default)]
struct Parts(Content);

impl<'de> Shape<'de> for Parts {
    fn list<A: SeqAccess<'de>>(&mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(Any(part)) = list.next_element::<Any<Part>>()? {
            self.0.add(part.0);
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.0.says_something = !text.trim().is_empty();
    }
}

/// A part of a message: text, a refusal, or of another type.
#[derive(Default)]
struct Part(Content);

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum PartKey {
    Type,
    Text,
    #[serde(other)]
    Other,
}

impl<'de> Shape<'de> for Part {
    fn object<A: MapAccess<'de>>(&mut self, mut object: A) -> Result<(), A::Error> {
        let (mut type_, mut text) = ("\"text\"", false);
        while let Some(key) = object.next_key()? {
            match key {
                PartKey::Type => type_ = object.next_value::<&RawValue>()?.get(),
                PartKey::Text => text = says_something(object.next_value()?),
                PartKey::Other => _ = object.next_value::<IgnoredAny>()?,
            }
        }
        match type_.trim_matches('"') {
            "text" | "output_text" => self.0.says_something = text,
            "refusal" => self.0.refused = true,
            // Mistral's type of reasoning, and others'.
            "thinking" | "reasoning" | "reasoning_text" => {}
            _ => self.0.says_something = true,
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.0.says_something = !text.trim().is_empty();
    }
}

/// An item of the output of a response: a message, reasoning, or a call of a tool.
#[derive(Default)]
pub(super) struct OutputItem(Content);

impl From<OutputItem> for Content {
    fn from(item: OutputItem) -> Content {
        item.0
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum ItemKey {
    Type,
    Content,
    #[serde(other)]
    Other,
}

impl<'de> Shape<'de> for OutputItem {
    fn object<A: MapAccess<'de>>(&mut self, mut object: A) -> Result<(), A::Error> {
        let (mut type_, mut content) = ("\"message\"", Content::default());
        while let Some(key) = object.next_key()? {
            match key {
                ItemKey::Type => type_ = object.next_value::<&RawValue>()?.get(),
                ItemKey::Content => content = object.next_value::<Any<Parts>>()?.0.0,
                ItemKey::Other => _ = object.next_value::<IgnoredAny>()?,
            }
        }
        match type_.trim_matches('"') {
            "message" => self.0 = content,
            "reasoning" => {}
            _ => self.0.says_something = true,
        }
        Ok(())
    }
}

/// The `incomplete_details` of a response.
#[derive(Default)]
pub(super) struct IncompleteDetails(pub Content);

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum DetailKey {
    Reason,
    #[serde(other)]
    Other,
}

impl<'de> Shape<'de> for IncompleteDetails {
    fn object<A: MapAccess<'de>>(&mut self, mut object: A) -> Result<(), A::Error> {
        while let Some(key) = object.next_key()? {
            match key {
                DetailKey::Reason => self.0.end(object.next_value()?),
                DetailKey::Other => _ = object.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// Returns whether a value has content: a list or an object with an element, a text with a character.
pub(super) fn holds_something(raw: &RawValue) -> bool {
    let inside = raw.get().as_bytes();
    let inside = inside.get(1..inside.len().saturating_sub(1)).unwrap_or_default();
    raw.get().starts_with(['[', '{', '"']) && !inside.trim_ascii().is_empty()
}

/// Returns whether a value is a text that is not blank, a list or an object.
fn says_something(raw: &RawValue) -> bool {
    let text = raw.get();
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inside) => !is_blank(inside),
        None => text.starts_with(['[', '{']),
    }
}

/// Returns whether the JSON of a text, without its quotes, holds white space alone.
fn is_blank(mut json: &str) -> bool {
    loop {
        json = json.trim_start();
        let Some(escape) = json.strip_prefix('\\') else { return json.is_empty() };
        let rest = escape.strip_prefix(['n', 'r', 't', 'f']).or_else(|| {
            let (code, rest) = escape.strip_prefix('u')?.split_at_checked(4)?;
            let is_space = char::from_u32(u32::from_str_radix(code, 16).ok()?)?.is_whitespace();
            is_space.then_some(rest)
        });
        match rest {
            Some(rest) => json = rest,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests;
