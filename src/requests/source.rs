//! The source of a work's requests, and the place of one of them in it.

use std::sync::Arc;

use futures::stream::BoxStream;
use tokio::io::AsyncRead;

use super::pass::PassError;
use crate::api::InlineRequest;
use crate::store::Folder;

/// The source of a work's requests.
pub enum Source {
    /// Requests in the manifest.
    Inline(Vec<InlineRequest>),
    /// Objects in a store.
    Objects {
        /// Their folder.
        folder: Folder,
        /// Their name, a pattern with `*`, or empty for all.
        name: String,
    },
    /// Pieces that fit into memory, fetched one after the other.
    InMemory {
        /// Name of all of them together, for errors.
        name: String,
        /// The pieces. Each is fetched when its turn comes.
        pieces: BoxStream<'static, Result<InMemoryPiece, PassError>>,
    },
    /// Lines of a result set: rows for a template, or requests in OpenAI's batch format.
    Results(ResultLines),
}

/// Lines of a result set.
pub struct ResultLines {
    /// Name of the set, for errors.
    pub name: String,
    /// The word for its lines: "row" or "line".
    pub entry: &'static str,
    /// A text that changes whenever the set does.
    pub version: String,
    /// The lines, uncompressed. Its errors hold a [`StoreError`](crate::store::StoreError).
    pub content: Box<dyn AsyncRead + Send + Unpin>,
}

impl Source {
    pub(super) fn name(&self) -> String {
        match self {
            Source::Inline(_) => "`spec.input.inline.requests`".into(),
            Source::Objects { folder, name } => folder.uri_of(name),
            Source::InMemory { name, .. } | Source::Results(ResultLines { name, .. }) => name.clone(),
        }
    }
}

/// A piece of input in memory.
pub struct InMemoryPiece {
    /// Name of the piece, for errors.
    pub name: String,
    /// File name that decides the format, if the spec does not.
    pub file: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The place of a request.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Name of its object, key or field.
    pub source: Arc<str>,
    /// The word for the source's entries, such as "line".
    pub entry: &'static str,
}
