//! JSON that a manifest holds in one of two fields: as an object, whose keys the API server sorts and whose numbers it writes
//! anew, or as text, which it leaves alone.

use super::{BatchJobSpec, FreeForm, InlineRequest, RequestTemplate};

/// JSON as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written<'a> {
    /// The field that holds it.
    pub field: &'static str,
    /// Its text, which need not be sound.
    pub json: &'a str,
}

impl<'a> Written<'a> {
    /// What the one of two fields holds that is set; None where neither is.
    fn one_of(
        (object, content): (&'static str, Option<&'a FreeForm>),
        (text, json): (&'static str, Option<&'a str>),
    ) -> Result<Option<Written<'a>>, String> {
        match (content, json) {
            (Some(_), Some(_)) => Err(format!("has both `{object}` and `{text}`; keep one of them")),
            (Some(content), None) => Ok(Some(Written { field: object, json: content.json() })),
            (None, Some(json)) => Ok(Some(Written { field: text, json })),
            (None, None) => Ok(None),
        }
    }
}

fn body<'a>(object: &'a Option<FreeForm>, text: &'a Option<String>) -> Result<Written<'a>, String> {
    let written = Written::one_of(("body", object.as_ref()), ("bodyJSON", text.as_deref()))?;
    written.ok_or_else(|| "has neither `body` nor `bodyJSON`; set one of them".into())
}

impl RequestTemplate {
    /// The body.
    ///
    /// # Errors
    /// That there is not exactly one.
    pub fn written(&self) -> Result<Written<'_>, String> {
        body(&self.body, &self.body_json)
    }
}

impl InlineRequest {
    /// The body.
    ///
    /// # Errors
    /// That there is not exactly one.
    pub fn written(&self) -> Result<Written<'_>, String> {
        body(&self.body, &self.body_json)
    }
}

impl BatchJobSpec {
    /// What is merged under each request's body, if anything is.
    ///
    /// # Errors
    /// That there are two.
    pub fn defaults(&self) -> Result<Option<Written<'_>>, String> {
        let object = ("requestDefaults", self.request_defaults.as_ref());
        Written::one_of(object, ("requestDefaultsJSON", self.request_defaults_json.as_deref()))
            .map_err(|e| format!("`spec` {e}"))
    }
}
