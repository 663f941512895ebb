//! The one pass over the input.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use tracing::warn;

use super::check::{Request, Shape, faulty_field};
use super::document::Object;
use super::hash::{Hasher, hash};
use super::merge::Defaults;
use super::objects::Selection;
use super::problems::Problems;
use super::provider_side_id;
use super::read::Reading;
use super::seen::Seen;
use super::template::Template;
use super::variable::Of;
use super::whole::{SizeLimit, TooLarge};
use crate::api::text::hex;
use crate::api::{
    CsvOptions, EmptyPolicy, Endpoint, InlineRequest, InputCompression, InputFormat, LeftOut, OnTooLarge,
    RequestTemplate, WorkHashVersion,
};
use crate::store::{
    Folder, IndexEntry, LINE_LIMIT, RequestHash, Reservation, ShardWriter, Sorted, Sorter, StagedShard, StoreError,
    inputs_of_body, layout,
};

/// Models of one job: each makes batches of its own.
pub const MODEL_LIMIT: usize = 16;
/// Requests of one job, those that are refused among them.
const REQUEST_LIMIT: i64 = 1_000_000;

/// Requests after which it is told again how much their ids take.
const IDS_TOLD: i64 = 4_096;

/// Where the requests come from.
pub enum Source {
    /// Written in the manifest.
    Inline(Vec<InlineRequest>),
    /// In objects.
    Objects {
        /// Their folder.
        folder: Folder,
        /// Which of them: a name, a pattern with `*`, or empty for all.
        name: String,
    },
    /// In pieces that fit into memory, fetched one after the other.
    Held {
        /// What people call them all.
        name: String,
        /// Each when its turn comes.
        pieces: BoxStream<'static, Result<Held, PassError>>,
    },
}

/// A piece of input in memory.
pub struct Held {
    /// What people call it.
    pub name: String,
    /// What its format is known by, where nothing else says it.
    pub file: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// How to make batches of requests.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Name of the provider.
    pub provider: String,
    /// API that is called.
    pub endpoint: Endpoint,
    /// Model for requests that name none.
    pub model: Option<String>,
    /// Root of the provider's API, which the URLs of requests may begin with.
    pub base_url: String,
    /// What stands before the id of a request, between id and body, and behind the body, in the line that is sent.
    pub line: [String; 3],
    /// Merged under each body.
    pub defaults: Defaults,
    /// How requests are written.
    pub format: InputFormat,
    /// How the input is compressed.
    pub compression: InputCompression,
    /// How tables are written.
    pub csv: CsvOptions,
    /// Which objects below a URI are read.
    pub selection: Selection,
    /// Makes a request of a row or an object.
    pub template: Option<RequestTemplate>,
    /// How large an object may be that becomes a request.
    pub size_limit: SizeLimit,
    /// What an input without requests means.
    pub empty_policy: EmptyPolicy,
    /// Part of the work's identity.
    pub run_id: Option<String>,
    /// Requests in one batch.
    pub max_requests: i64,
    /// Bytes in one batch.
    pub max_bytes: u64,
    /// Inputs of embeddings in one batch, over all its requests.
    pub max_inputs: u64,
    /// Batches in all.
    pub max_batches: usize,
    /// Models that the provider may be asked for; empty: any.
    pub allowed_models: Vec<String>,
    /// How requests and work are hashed.
    pub hash_version: WorkHashVersion,
}

/// What the pass gave.
#[derive(Clone, Debug)]
pub struct Passed {
    /// What changes when the input does: the ETag of its one object, or a hash of all objects' names and versions; of what is
    /// held, a hash of its bytes.
    pub input_version: String,
    /// The input's size in bytes.
    pub input_bytes: u64,
    /// Objects and keys that were read.
    pub sources: i64,
    /// What of the input makes no request.
    pub left_out: LeftOut,
    /// Requests in all.
    pub requests: i64,
    /// What was done about objects that are too large.
    pub too_large: TooLarge,
    /// Identity of the work.
    pub work_hash: String,
    /// What was staged, in order; empty where nothing was to be staged.
    pub shards: Sorted<StagedShard>,
}

/// Why a pass gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The input is not sound; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// What the input names in the cluster is not there.
    #[error("{0}")]
    NotFound(String),
    /// The cluster did not answer.
    #[error("{0}")]
    Unavailable(String),
    /// Storage or the local spool.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads, checks and hashes every request; with `stage`, cuts them into shards and puts those into the work's folder, or,
/// where requests are faulty, a report of them beside the journal.
///
/// # Errors
/// [`PassError::Invalid`] names the sources, the lines and the remedy.
pub async fn pass(
    source: Source,
    recipe: &Recipe,
    stage: Option<(&Folder, &str)>,
    spool: &Path,
) -> Result<Passed, PassError> {
    if let Some((folder, _)) = stage {
        // It is about an earlier state of the input.
        if let Err(error) = folder.delete(layout::REPORT).await {
            warn!(%error, "an earlier report of faulty requests could not be deleted");
        }
    }
    let mut reading = Reading::new(recipe).map_err(PassError::Invalid)?;
    let mut pass = Pass::new(source.name(), recipe, stage, spool);
    let read = pass.read(&mut reading, source).await;
    if pass.taken > REQUEST_LIMIT {
        return Err(pass.too_many_requests().await);
    }
    read?;
    pass.finish(reading).await
}

impl Recipe {
    /// The template, read and found sound.
    pub(super) fn template(&self) -> Result<Option<Template>, String> {
        let of = if self.format == InputFormat::Objects { Of::Objects } else { Of::Rows };
        let template = self.template.as_ref().map(|t| Template::parse(t, of)).transpose()?;
        let cuts = of == Of::Objects && self.size_limit.then == OnTooLarge::Truncate;
        match template.as_ref().is_some_and(|t| cuts && t.uses("base64")) {
            true => {
                Err("`spec.input.onTooLarge: Truncate` cuts text, and `$(object.base64)` is none; set Fail or Skip, \
                         or use `$(object.text)`"
                    .into())
            }
            false => Ok(template),
        }
    }
}

impl Recipe {
    /// The most inputs of a batch, where requests have inputs.
    fn max_inputs_of_embeddings(&self) -> Option<u64> {
        (self.endpoint == Endpoint::Embeddings).then_some(self.max_inputs)
    }
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::Inline(_) => "`spec.input.inline.requests`".into(),
            Source::Objects { folder, name } => folder.uri_of(name),
            Source::Held { name, .. } => name.clone(),
        }
    }
}

/// Where a request stands.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What the object, or whatever it stands in, is called.
    pub source: Arc<str>,
    /// The word for its entries.
    pub entry: &'static str,
}

pub(super) struct Pass<'a> {
    name: String,
    recipe: &'a Recipe,
    shape: Shape,
    stage: Option<(&'a Folder, &'a str)>,
    spool: &'a Path,
    writer: Option<ShardWriter<'a>>,
    staged: Sorter<StagedShard>,
    problems: Problems,
    seen: Seen,
    /// What those take.
    ids: Reservation,
    models: BTreeSet<String>,
    chain: Hasher,
    requests: i64,
    /// Lines, rows and objects so far, those that were refused among them.
    taken: i64,
}

impl<'a> Pass<'a> {
    fn new(name: String, recipe: &'a Recipe, stage: Option<(&'a Folder, &'a str)>, spool: &'a Path) -> Self {
        let (path, model) = (recipe.endpoint.path(), recipe.model.as_deref());
        let (defaults, allowed) = (recipe.defaults.clone(), recipe.allowed_models.clone());
        Pass {
            name,
            recipe,
            shape: Shape::new(path, &recipe.base_url, model, defaults, allowed).hashed_as(recipe.hash_version),
            stage,
            spool,
            writer: stage.map(|(folder, work_id)| {
                ShardWriter::new(folder, work_id, spool, recipe.max_requests, recipe.max_bytes)
                    .of_inputs(recipe.max_inputs_of_embeddings())
            }),
            staged: Sorter::new(spool, StagedShard::order),
            problems: Problems::new(stage.map(|_| spool)),
            seen: Seen::new(spool),
            ids: Reservation::default(),
            models: BTreeSet::new(),
            chain: Hasher::new(recipe.hash_version),
            requests: 0,
            taken: 0,
        }
    }

    async fn read(&mut self, reading: &mut Reading, source: Source) -> Result<(), PassError> {
        match source {
            Source::Inline(requests) => self.inline(reading, requests).await,
            Source::Objects { folder, name } => reading.objects(self, &folder, &name).await,
            Source::Held { mut pieces, .. } => {
                while let Some(held) = pieces.try_next().await? {
                    reading.held(self, held).await?;
                }
                Ok(())
            }
        }
    }

    async fn inline(&mut self, reading: &mut Reading, requests: Vec<InlineRequest>) -> Result<(), PassError> {
        let origin = Origin { source: "`spec.input.inline.requests`".into(), entry: "request" };
        for (i, request) in requests.into_iter().enumerate() {
            let checked = self.inline_request(reading, request);
            self.take(&origin, i as u64 + 1, checked).await?;
            self.put().await?;
        }
        Ok(())
    }

    fn inline_request(&self, reading: &mut Reading, request: InlineRequest) -> Result<Request<'static>, String> {
        let written = request.written()?;
        let body = Object::read_and_spell(written.json)
            .map_err(|fault| format!("has a `{}` that {}", written.field, faulty_field(written.json, fault)))?;
        let custom_id = Value::from(request.custom_id.as_str());
        reading.count(format!("[{custom_id},{}]", body.known_by()).as_bytes());
        self.shape.request(request.custom_id.clone(), &body).map(Request::into_owned)
    }

    /// What every request of the job shares.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Where what is long waits.
    pub(super) fn spool(&self) -> &'a Path {
        self.spool
    }

    /// Whether [`Pass::put`] has something to do.
    pub(super) fn is_to_put(&self) -> bool {
        self.writer.as_ref().is_some_and(ShardWriter::is_to_put)
    }

    /// Puts the shards that are full, for which it waits for the store.
    ///
    /// # Errors
    /// When it refuses.
    pub(super) async fn put(&mut self) -> Result<(), PassError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        for shard in writer.put().await? {
            self.staged.push(shard)?;
        }
        Ok(())
    }

    /// Takes the next request, or what is wrong with it; waits for nothing but local disk.
    ///
    /// # Errors
    /// When nothing more can be taken.
    pub(super) async fn take(
        &mut self,
        origin: &Origin,
        line: impl Into<Option<u64>>,
        checked: Result<Request<'_>, String>,
    ) -> Result<(), PassError> {
        let line = line.into();
        self.taken += 1;
        if self.taken % IDS_TOLD == 0 {
            self.ids.set(self.seen.holds()).await;
        }
        if self.taken > REQUEST_LIMIT {
            // The words for it are found once nothing is held any more.
            return Err(PassError::Invalid(String::new()));
        }
        let checked = match checked {
            Ok(request) => self.fits_the_others(request)?,
            Err(what) => Err(what),
        };
        let request = match checked {
            Ok(request) => request,
            Err(what) => {
                self.problems.add(origin, line, what).await?;
                return Ok(());
            }
        };
        self.chain.update(&(request.custom_id.len() as u64).to_le_bytes());
        self.chain.update(request.custom_id.as_bytes());
        self.chain.update(&request.hash);
        let index = self.requests;
        self.requests += 1;
        // Once something is wrong nothing is sent: go on reading for the report only.
        if self.problems.count() > 0 || self.writer.is_none() {
            return Ok(());
        }
        let request_hash = RequestHash::of(self.recipe.hash_version, hex(&request.hash));
        let entry = IndexEntry { index, custom_id: request.custom_id, request_hash };
        self.stage(origin, line, &entry, &request.model, &request.body).await
    }

    /// The request, or what is wrong with it beside the others.
    fn fits_the_others<'r>(&mut self, request: Request<'r>) -> Result<Result<Request<'r>, String>, StoreError> {
        if !self.seen.insert(&request.custom_id)? {
            return Ok(Err("has a custom id that an earlier request has; give each its own".into()));
        }
        if !self.models.contains(&request.model) {
            if self.models.len() == MODEL_LIMIT {
                return Ok(Err(format!(
                    "names another model than the {MODEL_LIMIT} of the requests before it; split them over several BatchJobs"
                )));
            }
            self.models.insert(request.model.clone());
        }
        Ok(Ok(request))
    }

    /// A few megabytes can hold millions of lines, sound or not.
    async fn too_many_requests(&mut self) -> PassError {
        PassError::Invalid(match self.problems.count() {
            0 => format!("{} has more than {REQUEST_LIMIT} requests; split it over several BatchJobs", self.name),
            _ => {
                let stopped = format!("reading stopped after {REQUEST_LIMIT} requests, for no job may have more; ");
                stopped + &self.faults().await
            }
        })
    }

    async fn stage(
        &mut self,
        origin: &Origin,
        line: Option<u64>,
        entry: &IndexEntry,
        model: &str,
        body: &str,
    ) -> Result<(), PassError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let id = provider_side_id(entry.index, writer.work_id());
        let [before, between, behind] = &self.recipe.line;
        let parts = [before, &id, between, body, behind].map(str::as_bytes);
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        if length > LINE_LIMIT {
            let what = format!("takes {length} bytes as it is sent; the most is {LINE_LIMIT}; shorten it");
            return Ok(self.problems.add(origin, line, what).await?);
        }
        let (size, limit) = (length as u64 + 1, self.recipe.max_bytes);
        if size > limit {
            let what = format!("takes {size} bytes; the provider takes {limit} in a whole batch; shorten it");
            return Ok(self.problems.add(origin, line, what).await?);
        }
        let (inputs, limit) =
            (self.recipe.max_inputs_of_embeddings().map_or(0, |_| inputs_of_body(body)), self.recipe.max_inputs);
        if inputs > limit {
            let what = format!(
                "holds {inputs} inputs; the provider takes {limit} in a whole batch (`limits.maxInputsPerBatch`); make several \
                 requests of it"
            );
            return Ok(self.problems.add(origin, line, what).await?);
        }
        writer.push(model, &parts, inputs, entry).await?;
        match writer.shards() > self.recipe.max_batches {
            true => Err(PassError::Invalid(self.too_many_batches())),
            false => Ok(()),
        }
    }

    async fn finish(mut self, reading: Reading) -> Result<Passed, PassError> {
        if self.problems.count() > 0 {
            return Err(PassError::Invalid(self.faults().await));
        }
        if self.requests == 0 && self.recipe.empty_policy == EmptyPolicy::Fail {
            return Err(PassError::Invalid(self.nothing(&reading)));
        }
        if let Some(writer) = self.writer.take() {
            for shard in writer.finish().await? {
                self.staged.push(shard)?;
            }
        }
        let shards = self.staged.finish()?;
        let (version, chain) = (self.recipe.hash_version, hex(&self.chain.finish()));
        let identity = json!([self.recipe.provider, self.recipe.run_id, self.requests, chain]).to_string();
        let work_hash = format!("{}-{}", version.prefix(), hex(&hash(version, identity.as_bytes())));
        let (too_large, sources, left_out) = (reading.too_large, reading.sources, reading.left_out);
        let (input_version, input_bytes) = reading.finish();
        Ok(Passed {
            input_version,
            input_bytes,
            sources,
            left_out,
            requests: self.requests,
            too_large,
            work_hash,
            shards,
        })
    }

    /// Says what is wrong, and puts a report of it where one belongs.
    async fn faults(&mut self) -> String {
        let report = match self.stage {
            Some((folder, work_id)) => self.problems.report(folder, work_id).await,
            None => Ok(None),
        };
        let report = report.unwrap_or_else(|error| {
            // The faults stand all the same.
            warn!(%error, "the report of faulty requests could not be written");
            None
        });
        self.problems.message(report.as_deref())
    }

    fn too_many_batches(&self) -> String {
        format!(
            "{} makes more than {} batches of at most {} requests and {} bytes; split it over several BatchJobs, \
             raise the provider's `spec.limits`, or, if it is to go into a ConfigMap, write to object storage",
            self.name, self.recipe.max_batches, self.recipe.max_requests, self.recipe.max_bytes
        )
    }

    fn nothing(&self, reading: &Reading) -> String {
        let (name, too_large, left_out) = (&self.name, reading.too_large.skipped, reading.left_out);
        let or = "or set `spec.input.emptyPolicy: Complete` where that is fine";
        if too_large > 0 {
            return format!(
                "{name} holds nothing but objects that are too large ({too_large}); raise `spec.input.maxObjectBytes`, {or}"
            );
        }
        if left_out.hidden_objects > 0 {
            return format!(
                "{name} holds nothing but objects with a name that begins with `_` or `.` ({}); take them in with \
                 `spec.input.hiddenObjects: Include`, {or}",
                left_out.hidden_objects
            );
        }
        format!("{name} holds no requests; put some there, {or}")
    }
}
