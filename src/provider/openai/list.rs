//! The list of batches, read page by page.

use std::collections::HashSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::calls::unreadable;
use super::{OpenAi, wire};
use crate::api::json;
use crate::provider::answers::AnswerMemory;
use crate::provider::retry::repeat;
use crate::provider::{ApiError, Batch, Dialect, ErrorKind, OnPage};

/// Maximum number of pages, of 100 batches each, that are read.
const PAGE_LIMIT: usize = 1_000;

impl OpenAi {
    /// Reads the list to its end or, if it shows the newest batches first, to a page of batches that are too old. See
    /// [`BatchApi::list`](crate::provider::BatchApi::list).
    pub(super) async fn list_all(
        &self,
        memory: &AnswerMemory,
        since: i64,
        see: &mut OnPage<'_>,
    ) -> Result<(), ApiError> {
        let (mut after, mut read, mut cursors) = (None, 0, HashSet::new());
        let mut order = Order::default();
        for _ in 0..PAGE_LIMIT {
            let page = match self.page(memory, after.as_deref()).await {
                // llm-d's gateway takes an offset instead of the last id.
                Err(e) if read > 0 && e.kind == ErrorKind::InvalidInput => {
                    self.page(memory, Some(&read.to_string())).await?
                }
                page => page?,
            };
            read += page.batches.len();
            let is_old = |b: &Batch| b.created_at > 0 && b.created_at < since.saturating_sub(86_400);
            page.batches.iter().for_each(|b| order.see(b.created_at));
            let old = order.is_newest_first() && page.batches.iter().all(is_old);
            if page.batches.iter().any(|b| !is_old(b) && (b.id.is_empty() || says_nothing(b))) {
                return Err(blind("it shows batches without an id, or with neither a file nor metadata"));
            }
            if see(&page.batches).is_break() {
                return Ok(());
            }
            match page.next {
                Some(next) if !old && cursors.insert(next.clone()) => after = Some(next),
                Some(_) if !old => return Err(blind("it repeats a page")),
                _ => return Ok(()),
            }
        }
        Err(blind(&format!("it has more than {PAGE_LIMIT} pages of younger batches")))
    }

    async fn page(&self, memory: &AnswerMemory, after: Option<&str>) -> Result<Page, ApiError> {
        let query: Vec<(&str, &str)> = [("limit", "100")].into_iter().chain(after.map(|a| ("after", a))).collect();
        let read = |value: &Value| Page::read(self.dialect, value);
        repeat(|| self.json_in(memory, self.request(Method::GET, &["batches"]).query(&query), read)).await?
    }
}

struct Page {
    batches: Vec<Batch>,
    next: Option<String>,
}

impl Page {
    fn read(dialect: &Dialect, value: &Value) -> Result<Page, ApiError> {
        let list = value.get("data").unwrap_or(value).as_array().ok_or_else(unreadable)?;
        let batches: Vec<Batch> = list.iter().filter_map(|entry| wire::entry(dialect, entry)).collect();
        // An entry that is cut off, or that cannot be read, may be the batch that is searched for.
        if batches.len() < list.len() || list.len() >= json::MOST_ELEMENTS {
            return Err(blind("it holds what is no batch, or more than a page"));
        }
        let last = wire::id(value, "last_id").or_else(|| batches.last().map(|b| b.id.clone()));
        let more = match (value.get("has_more").and_then(Value::as_bool), last) {
            (Some(false), _) => None,
            // A server without `has_more` ends its list with an empty page.
            (None, last) => last,
            (Some(true), Some(last)) if !last.is_empty() => Some(last),
            (Some(true), _) => return Err(blind("it says that there is more, and not where")),
        };
        Ok(Page { batches, next: more })
    }
}

/// The order of a list, as far as it was read. Not every server shows the newest batches first: llm-d's gateway orders by id.
#[derive(Default)]
struct Order {
    last: Option<i64>,
    fell: bool,
    rose: bool,
}

impl Order {
    fn see(&mut self, created_at: i64) {
        self.fell |= self.last.is_some_and(|last| created_at < last);
        self.rose |= self.last.is_some_and(|last| created_at > last);
        self.last = Some(created_at);
    }

    fn is_newest_first(&self) -> bool {
        self.fell && !self.rose
    }
}

/// Returns the error for a list that may hide a batch of ours: it cannot be searched.
pub(super) fn blind(why: &str) -> ApiError {
    ApiError::new(ErrorKind::Unsupported, format!("the provider's list of batches cannot be searched: {why}"))
}

/// Returns the error for a list that was not read within `limit`, waits for memory apart. A list whose pages `waited` for memory may be
/// read the next time: what others hold says nothing about it.
pub(super) fn too_long(limit: Duration, waited: Duration) -> ApiError {
    let seconds = limit.as_secs();
    match waited.as_secs() {
        0 => blind(&format!("it takes more than {seconds} s to read")),
        waited => ApiError::new(
            ErrorKind::Transient,
            format!(
                "the provider's list of batches was not read within {seconds} s, and {waited} s in which it waited for the memory that \
                 other answers held; it is read again"
            ),
        ),
    }
}

/// Returns whether a batch has neither a file nor metadata, so that no search can find it.
fn says_nothing(batch: &Batch) -> bool {
    batch.input_file_id.is_none() && batch.metadata.is_empty()
}
