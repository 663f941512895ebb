//! The way from a team's input to a provider's shards: one pass that checks, encodes, cuts and stages requests.

mod check;
mod compression;
mod csv;
mod document;
mod encoding;
mod hash;
mod merge;
mod number;
mod object_requests;
mod objects;
mod pass;
mod plan_options;
mod problems;
mod read;
mod reader;
mod result_columns;
mod seen;
mod source;
mod template;
mod variable;
mod version;

pub use compression::{BESIDE_WINDOW, WINDOW_BYTES};
pub use merge::Defaults;
pub use object_requests::{AHEAD_BYTES, MOST_OBJECT_BYTES, OBJECT_BYTES, SizeLimit, TooLarge};
pub use objects::Selection;
pub use objects::{apart, is_many as means_many};
pub use pass::{MODEL_LIMIT, PassError, PassOutput, pass};
pub use plan_options::PlanOptions;
pub use read::ROW_BYTES;
pub use result_columns::result_columns;
pub use seen::IDS_BYTES;
pub use source::{InMemoryPiece, Origin, ResultLines, Source};

/// Returns the custom id of a request at the provider: its index in the input and a mark of the work. It holds nothing
/// of the customer's, and results of another work are never taken for ours. At most 64 characters of `[A-Za-z0-9_-]`.
pub fn provider_side_id(index: i64, work_id: &str) -> String {
    format!("r{index}-{}", work_id.get(..8).unwrap_or(work_id))
}
