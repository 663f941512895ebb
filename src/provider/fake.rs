//! A provider in memory, for tests of what asks it.

#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{ApiError, Batch, BatchApi, CreateBatch, Created, Dialect, ErrorKind, InputFile, OnPage};
use crate::api::ProviderType;

/// A provider that knows its batches, newest first, and counts what it is asked.
#[derive(Default)]
pub(crate) struct Provider {
    pub batches: Mutex<Vec<Batch>>,
    /// How the list ends, if not well.
    pub list: Mutex<Option<ApiError>>,
    pub pages: AtomicUsize,
    pub lists: AtomicUsize,
    pub gets: AtomicUsize,
}

fn unused<T>() -> Result<T, ApiError> {
    Err(ApiError::new(ErrorKind::Unsupported, "not in this test"))
}

#[async_trait]
impl BatchApi for Provider {
    fn dialect(&self) -> &'static Dialect {
        Dialect::of(ProviderType::OpenAI)
    }

    async fn send_file(&self, _: InputFile) -> Result<String, ApiError> {
        unused()
    }

    async fn create(&self, _: &CreateBatch) -> Created {
        Created::Rejected(ApiError::new(ErrorKind::Unsupported, "not in this test"))
    }

    async fn list(&self, _: i64, see: &mut OnPage<'_>) -> Result<(), ApiError> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        let batches = self.batches.lock().unwrap().clone();
        for page in batches.chunks(100) {
            self.pages.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            if see(page).is_break() {
                return Ok(());
            }
        }
        self.list.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    async fn get(&self, batch_id: &str) -> Result<Batch, ApiError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        let batches = self.batches.lock().unwrap();
        let batch = batches.iter().find(|batch| batch.id == batch_id).cloned();
        batch.ok_or_else(|| ApiError::new(ErrorKind::NotFound, "no such batch"))
    }

    async fn cancel(&self, _: &str) -> Result<(), ApiError> {
        unused()
    }

    async fn file_name(&self, _: &str) -> Result<String, ApiError> {
        unused()
    }

    async fn models(&self) -> Result<Vec<String>, ApiError> {
        unused()
    }

    async fn content(&self, _: &str, _: u64) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        unused()
    }

    async fn delete_file(&self, _: &str) -> Result<(), ApiError> {
        unused()
    }
}
