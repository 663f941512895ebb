//! From what a provider gives back to one result set in the order of the requests.

mod body;
mod collect;
mod ending;
mod errors;
mod follow_up;
mod frames;
mod halve;
mod joined;
mod line;
mod manifest;
mod part;
mod repair;
mod scan;
mod write;

pub use collect::{CollectError, Collected, Collection, Found, collect};
pub use follow_up::{Asked, FollowUp, follow_up};
pub use halve::halve;
pub use joined::{Part, Settled};
pub use manifest::{AbandonedBatch, Manifest, ManifestFile};
pub use write::{WriteError, write};
