//! From what a provider gives back to one result set in the order of the requests.

mod collect;
mod errors;
mod follow_up;
mod halve;
mod joined;
mod line;
mod manifest;
mod write;

pub use collect::{CollectError, Collected, Collection, collect};
pub use follow_up::{FollowUp, follow_up};
pub use halve::halve;
pub use joined::{Part, Settled};
pub use manifest::{AbandonedBatch, Manifest, ManifestFile};
pub use write::{WriteError, write};
