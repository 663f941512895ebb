//! The way from a provider's answers to one result set in the order of the requests.

mod answer;
mod body;
mod collect;
mod content;
mod ending;
mod errors;
mod follow_up;
mod frames;
mod halve;
mod index;
mod join;
mod line;
mod manifest;
mod part;
mod partial;
mod repair;
mod reuse;
mod rows;
mod scan;
mod set;
mod settled;
mod write;

pub use collect::{ANSWER_BYTES, COLLECT_BYTES, CollectError, CollectedPart, Collection, FileContents, collect};
pub use follow_up::{FollowUp, RequestRounds, follow_up};
pub use halve::halve;
pub use join::{BASE_READERS, FEW_MODELS, LANES_LIMIT, LATER_LANES};
pub use manifest::{AbandonedBatch, Manifest, ManifestFile};
pub use partial::{PAGE_FILES, PartialResults, delete_partial};
pub use reuse::{ReuseCounts, ReusedShard, add_answers, write_reused};
pub use rows::{Columns, ROWS_BYTES};
pub use set::{RESULT_LINE_LIMIT, ResultContent, ResultSet, read_error};
pub use settled::{Part, SettledShard};
pub use write::{ResultForm, WriteError, write};
