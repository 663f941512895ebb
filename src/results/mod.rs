//! From what a provider gives back to one result set in the order of the requests.

mod collect;
mod line;
mod manifest;
mod write;

pub use collect::{CollectError, Collected, Collection, collect};
pub use manifest::{Manifest, ManifestFile};
pub use write::{Part, Settled, WriteError, write};
