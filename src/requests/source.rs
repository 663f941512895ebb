//! The source of a work's requests, and the place of one of them in it.

use std::sync::Arc;

use futures::stream::BoxStream;

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
}

impl Source {
    pub(super) fn name(&self) -> String {
        match self {
            Source::Inline(_) => "`spec.input.inline.requests`".into(),
            Source::Objects { folder, name } => folder.uri_of(name),
            Source::InMemory { name, .. } => name.clone(),
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
