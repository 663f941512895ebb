//! Bodies with the job's defaults. The rest of their text stays as it is written.

use std::borrow::Cow;

use super::check::faulty_field;
use super::document::{Object, in_one_line};
use super::reader::{Fault, push_string};
use crate::api::Written;

/// Fields for which null means the same as absence, as documented by OpenAI's reference for the five endpoints (which
/// calls them nullable), by vLLM's request models or by Mistral's reference (where null is the default). Clients that
/// serialize a whole request object write null for them, and other vendors refuse such requests.
const UNSET_BY_NULL: &[&str] = &[
    "audio",
    "background",
    "best_of",
    "conversation",
    "dimensions",
    "echo",
    "frequency_penalty",
    "include",
    "instructions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "max_tool_calls",
    "metadata",
    "modalities",
    "model",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "previous_response_id",
    "prompt_mode",
    "random_seed",
    "reasoning",
    "reasoning_effort",
    "response_format",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "suffix",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
    "verbosity",
];
/// Those of them whose null earlier versions refused. They sent null in the others, so it stays part of a request's
/// hash; null in these is not.
const NEVER_NULL: &[&str] = &["model", "stream"];

/// Fields that are added to a body without that key.
#[derive(Clone, Debug, Default)]
pub struct Defaults(Vec<DefaultField>);

/// A field with its default value.
#[derive(Clone, Debug)]
struct DefaultField {
    key: String,
    /// The value as it is written.
    value: String,
    /// The value in the spelling that it is known by.
    spelled: String,
}

impl Defaults {
    /// Reads the object in a field of the spec.
    ///
    /// # Errors
    /// Names the field and its fault.
    pub fn of_field(written: &Written<'_>) -> Result<Defaults, String> {
        let Written { field, json } = written;
        Defaults::read(json).map_err(|fault| format!("`spec.{field}` {}", faulty_field(json, fault)))
    }

    /// Reads the fields of an object, in the order in which they are written.
    fn read(json: &str) -> Result<Defaults, Fault> {
        let object = Object::read_and_spell(json)?;
        let mut fields: Vec<usize> = (0..object.fields().len()).collect();
        fields.sort_unstable_by_key(|i| object.fields()[*i].start);
        let default = |i: usize| DefaultField {
            key: object.fields()[i].key.to_string(),
            value: in_one_line(object.value(i)).into_owned(),
            spelled: object.spelled(i).into(),
        };
        Ok(Defaults(fields.into_iter().map(default).collect()))
    }

    /// Adds `model`, unless the defaults name one.
    pub(super) fn with_model(mut self, model: Option<&str>) -> Defaults {
        self.0.retain(|default| !(default.is_unset() && NEVER_NULL.contains(&default.key.as_str())));
        if let Some(model) = model.filter(|_| self.0.iter().all(|default| default.key != "model")) {
            let mut value = String::new();
            push_string(model, &mut value);
            self.0.push(DefaultField { key: "model".into(), spelled: value.clone(), value });
        }
        self
    }
}

impl DefaultField {
    fn is_unset(&self) -> bool {
        is_unset(&self.key, &self.value)
    }
}

fn is_unset(key: &str, value: &str) -> bool {
    value == "null" && UNSET_BY_NULL.contains(&key)
}

/// A body and the changes that defaults make to it.
pub struct Merged<'a, 't> {
    body: &'a Object<'t>,
    /// Fields of the body that count as absent, by index, each with the default that replaces it.
    unset: Vec<(usize, Option<&'a DefaultField>)>,
    /// Defaults for keys that the body does not have, in their own order.
    added: Vec<&'a DefaultField>,
}

impl<'a, 't> Merged<'a, 't> {
    pub fn new(body: &'a Object<'t>, defaults: &'a Defaults) -> Merged<'a, 't> {
        let is_unset = |i: &usize| is_unset(&body.fields()[*i].key, body.value(*i));
        let mut unset: Vec<_> = (0..body.fields().len()).filter(is_unset).map(|i| (i, None)).collect();
        let mut added = vec![];
        for default in &defaults.0 {
            match body.find(&default.key) {
                None => added.push(default),
                Some(i) => {
                    if let Some((_, instead)) = unset.iter_mut().find(|(of, _)| *of == i) {
                        *instead = Some(default).filter(|default| !default.is_unset());
                    }
                }
            }
        }
        Merged { body, unset, added }
    }

    /// Returns the value of a field as it is sent.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        match self.body.find(key) {
            Some(i) => match self.instead(i) {
                None => Some(self.body.value(i)),
                Some(instead) => instead.map(|default| default.value.as_str()),
            },
            None => {
                let added = self.added.iter().find(|default| default.key == key && !default.is_unset());
                added.map(|default| default.value.as_str())
            }
        }
    }

    /// Returns the fields with their values as they are sent, in no particular order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.body.fields().iter().enumerate().filter_map(|(i, field)| match self.instead(i) {
            None => Some((field.key.as_ref(), self.body.value(i))),
            Some(instead) => instead.map(|default| (field.key.as_ref(), default.value.as_str())),
        });
        let added = self.added.iter().filter(|default| !default.is_unset());
        own.chain(added.map(|default| (default.key.as_str(), default.value.as_str())))
    }

    /// Returns the replacement of a field that counts as absent; None for any other field.
    fn instead(&self, field: usize) -> Option<Option<&'a DefaultField>> {
        self.unset.iter().find(|(of, _)| *of == field).map(|(_, instead)| *instead)
    }

    /// Returns the body as it is sent: as it is written, in one line, with added fields after its own.
    pub fn sent(&self) -> Cow<'t, str> {
        let added = self.added.iter().any(|default| !default.is_unset());
        let sent = match added || !self.unset.is_empty() {
            true => Cow::Owned(self.spliced()),
            false => Cow::Borrowed(self.body.written()),
        };
        match self.body.is_one_line() {
            true => sent,
            false => Cow::Owned(in_one_line(&sent).into_owned()),
        }
    }

    fn spliced(&self) -> String {
        let (text, whole) = self.body.place();
        let fields = self.body.fields();
        let mut order: Vec<usize> = (0..fields.len()).collect();
        order.sort_unstable_by_key(|i| fields[*i].start);
        let mut out = String::with_capacity(whole.len() + 64);
        let mut is_first = true;
        // End of the previous field.
        let mut from = whole.start + 1;
        let head = order.first().map_or(from, |i| fields[*i].start);
        out.push_str(&text[whole.start..head]);
        for i in order {
            let field = &fields[i];
            let instead = self.instead(i);
            if !matches!(instead, Some(None)) {
                if !is_first {
                    out.push_str(&text[from..field.start]);
                }
                is_first = false;
                out.push_str(&text[field.start..field.value.start]);
                out.push_str(instead.flatten().map_or(&text[field.value.clone()], |default| &default.value));
            }
            from = field.value.end;
        }
        for default in self.added.iter().filter(|default| !default.is_unset()) {
            if !is_first {
                out.push(',');
            }
            is_first = false;
            push_string(&default.key, &mut out);
            out.push(':');
            out.push_str(&default.value);
        }
        out.push_str(&text[from..whole.end]);
        out
    }

    /// Appends the spelling that the body is known by. Equal JSON has the same spelling.
    pub fn spell(&self, out: &mut String) {
        let mut added: Vec<&DefaultField> = self.added.clone();
        added.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut added = added.into_iter().peekable();
        let mut spelling = Spelling { out, is_first: true };
        for (i, field) in self.body.fields().iter().enumerate() {
            while let Some(default) = added.next_if(|default| *default.key < *field.key) {
                spelling.field(&default.key, &default.spelled);
            }
            match self.instead(i) {
                Some(None) if NEVER_NULL.contains(&field.key.as_ref()) => {}
                Some(Some(default)) => spelling.field(&field.key, &default.spelled),
                _ => spelling.field(&field.key, self.body.spelled(i)),
            }
        }
        added.for_each(|default| spelling.field(&default.key, &default.spelled));
        spelling.end();
    }
}

/// An object that is spelled field by field.
struct Spelling<'a> {
    out: &'a mut String,
    is_first: bool,
}

impl Spelling<'_> {
    fn field(&mut self, key: &str, value: &str) {
        self.out.push(if self.is_first { '{' } else { ',' });
        push_string(key, self.out);
        self.out.push(':');
        self.out.push_str(value);
        self.is_first = false;
    }

    fn end(self) {
        self.out.push_str(if self.is_first { "{}" } else { "}" });
    }
}
