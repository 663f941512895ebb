//! The decisions: pure functions without clock, I/O or async.
//!
//! [`decide`] holds all rules about *when* something may happen. The controller executes the one [`Step`] that it returns and
//! feeds the result back as [`Memory`]. The model checker in `tests/` runs the same function.

mod abandoning;
mod admit;
mod adoption;
mod answers;
mod attempt;
mod collecting;
mod completion;
mod decide;
mod deleting;
mod errors;
mod findings;
mod finished;
mod freshness;
mod head;
mod identity;
mod journal;
mod memory;
mod observed;
mod orphans;
mod patience;
mod provider;
mod provider_files;
mod questions;
mod refused;
mod resolve;
mod sealing;
mod settled;
mod shard;
mod shard_list;
mod status;
mod step;
mod submission;
mod submit;
mod task;
mod totals;
mod twins;
mod waits;
mod weight;

pub use admit::{Applicant, InFlight, Room, admit};
pub use answers::Answers;
pub use attempt::*;
pub use collecting::{Reading, Short, Tries, Unanswered};
pub use decide::decide;
pub use errors::{TOO_LARGE, error_summary};
pub use findings::*;
pub use finished::{cost_nothing, is_finished, is_tidy, reconcile_requested_at};
pub use freshness::Freshness;
pub use identity::{output_uri, spec_hash};
pub use journal::*;
pub use memory::*;
pub use observed::*;
pub use orphans::*;
pub use patience::{goes_on_without_search, leaves_files};
pub use provider::*;
pub use refused::refused_for_its_file;
pub use sealing::{SEGMENT_SHARDS, Segment, SegmentKind, read_sealed};
pub use shard::*;
pub use shard_list::{PlanSegment, SealedBatch, SealedSegment, Shards};
pub use status::{is_in_flight, left_out, may_be_submitted, project, seen};
pub use step::{Blocked, Failure, Step, Waiting};
pub use task::*;
pub use totals::{ErrorTotal, ErrorTotals, Totals};
pub use waits::{MENDED, next_visit};
