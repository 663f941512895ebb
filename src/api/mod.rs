//! The kinds of the `llmbatch.dev` group, with the fields that a team writes and those that it reads back.
//!
//! The schema that the API server enforces is generated from these types by [`crds`]; `crds/` in the repository holds
//! the output and a test fails when the two differ.

pub mod annotations;
mod answer_kinds;
mod batchjob;
mod batchjob_status;
mod batchprovider;
mod canonical;
mod capabilities;
pub mod conditions;
mod cost_status;
mod crd;
mod cronbatchjob;
mod free_form;
mod grant;
mod input;
pub mod json;
mod kept;
mod model_prices;
mod model_status;
mod notification;
mod notification_status;
mod output;
mod plan_estimate;
mod protocol;
mod reported_usage;
mod rules;
mod schema;
mod storage;
pub mod text;
mod token_limits;
mod usage;
mod usage_status;
pub mod weight;
mod without_managed_fields;
mod work_hash;
mod written;

pub use answer_kinds::{AnswerKind, MixedAnswers};
pub use batchjob::*;
pub use batchjob_status::*;
pub use batchprovider::*;
pub use capabilities::{Capability, ProviderCapabilities};
pub use cost_status::CostStatus;
pub use crd::{crds, render as render_crd};
pub use cronbatchjob::*;
pub use free_form::{FreeForm, KnownBy};
pub use grant::NamespaceGrant;
pub use input::*;
pub use model_prices::*;
pub use model_status::{LearnedTokens, LearnedTurnaround, ModelStatus};
pub use notification::*;
pub use notification_status::{NotificationState, NotificationStatus};
pub use output::*;
pub use plan_estimate::PlanEstimate;
pub use protocol::{BatchEnd, Capabilities, PayloadKind, Recovery, Revocation};
pub use reported_usage::{MOST_TOKENS, ReportedUsage};
pub use storage::*;
pub use token_limits::{EnqueuedTokenLimits, TextLimits, fitting};
pub use usage::{AnswerCounts, BatchUsage, FileContent, TokenHints, TokenUsage};
pub use usage_status::{ModelUsage, OTHER_MODELS, Spending, UsageStatus};
pub use without_managed_fields::WithoutManagedFields;
pub use work_hash::WorkHashVersion;
pub use written::Written;

/// API group of all kinds.
pub const GROUP: &str = "llmbatch.dev";
/// The only served version.
pub const VERSION: &str = "v1alpha1";
/// Finalizer that keeps a `BatchJob` until its batches at the provider are settled.
pub const FINALIZER: &str = "llmbatch.dev/settle";
/// Finalizer that keeps a `BatchProvider` or `ClusterBatchProvider` while a batch may run there.
pub const IN_USE_FINALIZER: &str = "llmbatch.dev/in-use";
/// Name of the operator as the writer of fields, in `managedFields` and events.
pub const FIELD_MANAGER: &str = "batchjob-operator";
/// Version of the journal and of `status`. A binary neither acts on a newer one nor writes it. A journal of version 1, a list of
/// all shards, is read, and its next write makes it version 2.
pub const PROTOCOL_VERSION: i32 = 2;
/// Version of a journal with answers of earlier jobs, which an operator of an earlier version would send.
pub const PROTOCOL_VERSION_OF_REUSE: i32 = 3;
/// Version of a journal whose canary is not approved: an operator of an earlier version would send all requests.
pub const PROTOCOL_VERSION_OF_CANARY: i32 = 4;
/// The newest version that this binary knows.
pub const NEWEST_PROTOCOL_VERSION: i32 = PROTOCOL_VERSION_OF_CANARY;
