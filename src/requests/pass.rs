//! The one pass over the input.

use std::collections::BTreeSet;
use std::path::Path;

use futures::TryStreamExt;
use serde_json::{Value, json};
use tracing::warn;

use super::check::{Request, Shape, faulty_field};
use super::document::Object;
use super::hash::{Hasher, hash};
use super::object_requests::TooLarge;
use super::plan_options::PlanOptions;
use super::problems::Problems;
use super::provider_side_id;
use super::read::InputReader;
use super::seen::SeenIds;
use super::source::{Origin, Source};
use crate::api::text::hex;
use crate::api::{EmptyPolicy, InlineRequest, LeftOut, TokenHints};
use crate::store::{
    Folder, IndexEntry, LINE_LIMIT, RequestHash, Reservation, ShardWriter, Sorted, Sorter, StagedShard, StoreError,
    inputs_of_body, layout,
};

/// Most models of one job. Each model has batches of its own.
pub const MODEL_LIMIT: usize = 16;
/// Most requests of one job, refused ones included.
const REQUEST_LIMIT: i64 = 1_000_000;

/// Most bytes of the reused answers of one shard, so that its part has room on the local disk. Many requests may have
/// the same long answer.
const REUSED_BYTES: u64 = 128 << 20;

/// Requests after which the memory of their ids is reserved anew.
const IDS_TOLD: i64 = 4_096;

/// The result of a pass.
#[derive(Clone, Debug)]
pub struct PassOutput {
    /// A text that changes whenever the input does: the ETag of its one object, a hash of the names and versions of
    /// several, or a hash of the bytes of pieces in memory.
    pub input_version: String,
    /// The input's size in bytes.
    pub input_bytes: u64,
    /// Objects and keys that were read.
    pub sources: i64,
    /// Parts of the input that make no request.
    pub left_out: LeftOut,
    /// Number of requests.
    pub requests: i64,
    /// Objects over the size limit, by their treatment.
    pub too_large: TooLarge,
    /// Identity of the work.
    pub work_hash: String,
    /// Staged shards, in order. Empty unless the pass was to stage them.
    pub shards: Sorted<StagedShard>,
    /// Staged shards of requests that have an answer in [`PlanOptions::answers`], in order, each of any models.
    pub reused: Sorted<StagedShard>,
    /// Index of the first request behind the canary; None if there is none.
    pub behind_canary: Option<i64>,
}

/// The reason why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The input is invalid. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// An object of the cluster that the input names does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The cluster did not answer.
    #[error("{0}")]
    Unavailable(String),
    /// The object store or the local spool failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads, checks and hashes every request. With `stage`, also cuts them into shards and puts those into the work's
/// folder; if requests are faulty, it puts a report of them beside the journal instead.
///
/// # Errors
/// [`PassError::Invalid`] names the sources, the lines and the remedy.
pub async fn pass(
    source: Source,
    options: &PlanOptions,
    stage: Option<(&Folder, &str)>,
    spool: &Path,
) -> Result<PassOutput, PassError> {
    if let Some((folder, _)) = stage {
        // The report is about an earlier state of the input.
        if let Err(error) = folder.delete(layout::REPORT).await {
            warn!(%error, "an earlier report of faulty requests could not be deleted");
        }
    }
    let mut reading = InputReader::new(options).map_err(PassError::Invalid)?;
    let mut pass = Pass::new(source.name(), options, stage, spool);
    let read = pass.read(&mut reading, source).await;
    if pass.taken > REQUEST_LIMIT {
        return Err(pass.too_many_requests().await);
    }
    read?;
    pass.finish(reading).await
}

pub(super) struct Pass<'a> {
    name: String,
    options: &'a PlanOptions,
    shape: Shape,
    stage: Option<(&'a Folder, &'a str)>,
    spool: &'a Path,
    writer: Option<ShardWriter<'a>>,
    staged: Sorter<StagedShard>,
    /// The writer of requests that are not to be sent.
    reused_writer: Option<ShardWriter<'a>>,
    reused: Sorter<StagedShard>,
    problems: Problems,
    seen: SeenIds,
    /// Memory that is reserved for `seen`.
    ids: Reservation,
    models: BTreeSet<String>,
    chain: Hasher,
    requests: i64,
    /// Number of staged requests that are to be sent.
    to_send: i64,
    /// Index of the first request to send behind the canary, once there is one.
    behind_canary: Option<i64>,
    /// Lines, rows and objects so far, refused ones included.
    taken: i64,
}

impl<'a> Pass<'a> {
    fn new(name: String, options: &'a PlanOptions, stage: Option<(&'a Folder, &'a str)>, spool: &'a Path) -> Self {
        let (path, model) = (options.endpoint.path(), options.model.as_deref());
        let (defaults, allowed) = (options.defaults.clone(), options.allowed_models.clone());
        let writer = stage.map(|(folder, work_id)| {
            move || {
                ShardWriter::new(folder, work_id, spool, options.max_requests, options.max_bytes)
                    .on_disk(options.open_disk)
                    .of_text(options.max_text.clone())
            }
        });
        Pass {
            name,
            options,
            shape: Shape::new(path, &options.base_url, model, defaults, allowed).hashed_as(options.hash_version),
            stage,
            spool,
            writer: writer.map(|writer| writer().of_inputs(options.max_inputs_of_embeddings())),
            staged: Sorter::new(spool, StagedShard::order),
            reused_writer: writer
                .filter(|_| options.answers.is_some())
                .map(|writer| writer().small().of_inputs(Some(REUSED_BYTES))),
            reused: Sorter::new(spool, StagedShard::order),
            problems: Problems::new(stage.map(|_| spool)),
            seen: SeenIds::new(spool),
            ids: Reservation::default(),
            models: BTreeSet::new(),
            chain: Hasher::new(options.hash_version),
            requests: 0,
            to_send: 0,
            behind_canary: None,
            taken: 0,
        }
    }

    async fn read(&mut self, reading: &mut InputReader, source: Source) -> Result<(), PassError> {
        match source {
            Source::Inline(requests) => self.inline(reading, requests).await,
            Source::Objects { folder, name } => reading.objects(self, &folder, &name).await,
            Source::InMemory { mut pieces, .. } => {
                while let Some(held) = pieces.try_next().await? {
                    reading.held(self, held).await?;
                }
                Ok(())
            }
            Source::Results(lines) => reading.results(self, lines).await,
        }
    }

    async fn inline(&mut self, reading: &mut InputReader, requests: Vec<InlineRequest>) -> Result<(), PassError> {
        let origin = Origin { source: "`spec.input.inline.requests`".into(), entry: "request" };
        for (i, request) in requests.into_iter().enumerate() {
            let checked = self.inline_request(reading, request);
            self.take(&origin, i as u64 + 1, checked).await?;
            self.put().await?;
        }
        Ok(())
    }

    fn inline_request(&self, reading: &mut InputReader, request: InlineRequest) -> Result<Request<'static>, String> {
        let written = request.written()?;
        let body = Object::read_and_spell(written.json)
            .map_err(|fault| format!("has a `{}` that {}", written.field, faulty_field(written.json, fault)))?;
        let custom_id = Value::from(request.custom_id.as_str());
        reading.count(format!("[{custom_id},{}]", body.known_by()).as_bytes());
        self.shape.request(request.custom_id.clone(), &body).map(Request::into_owned)
    }

    /// Returns the shape that all requests of the job share.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Returns the meaning of an input without any request.
    pub(super) fn if_empty(&self) -> EmptyPolicy {
        self.options.empty_policy
    }

    /// Returns the directory in which long lines and rows wait.
    pub(super) fn spool(&self) -> &'a Path {
        self.spool
    }

    /// Whether [`Pass::put`] would put a shard.
    pub(super) fn is_to_put(&self) -> bool {
        [&self.writer, &self.reused_writer].into_iter().flatten().any(ShardWriter::is_to_put)
    }

    /// Puts full shards into the store and waits for it.
    ///
    /// # Errors
    /// Fails if the store refuses them.
    pub(super) async fn put(&mut self) -> Result<(), PassError> {
        let of_writers = [(&mut self.writer, &mut self.staged), (&mut self.reused_writer, &mut self.reused)];
        for (writer, staged) in of_writers {
            let Some(writer) = writer else { continue };
            for shard in writer.put().await? {
                staged.push(shard)?;
            }
        }
        Ok(())
    }

    /// Takes the next request or its fault. It waits only for memory and local disk.
    ///
    /// # Errors
    /// Fails if no further request can be taken.
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
            // The message is composed once nothing is held in memory any more.
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
        // After a fault nothing will be sent: the rest is read for the report alone.
        if self.problems.count() > 0 || self.writer.is_none() {
            return Ok(());
        }
        let answer = match (&self.options.answers, &self.reused_writer) {
            (Some(answers), Some(_)) => answers.length(&request.hash)?,
            _ => None,
        };
        let request_hash = RequestHash::of(self.options.hash_version, hex(&request.hash));
        let entry = IndexEntry { index, custom_id: request.custom_id, request_hash };
        match answer {
            Some(bytes) => self.stage_reused(origin, line, &entry, &request.body, bytes).await,
            None => self.stage((origin, line), &entry, (&request.model, request.hints), &request.body).await,
        }
    }

    /// Returns the request, or its fault in view of earlier requests.
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

    /// Composes the error for too many requests. A few megabytes can hold millions of lines, valid or not.
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
        (origin, line): (&Origin, Option<u64>),
        entry: &IndexEntry,
        (model, hints): (&str, TokenHints),
        body: &str,
    ) -> Result<(), PassError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let id = provider_side_id(entry.index, writer.work_id());
        let parts = parts(self.options, &id, body);
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        if let Some(what) = too_long(length) {
            return Ok(self.problems.add(origin, line, what).await?);
        }
        let (size, limit) = (length as u64 + 1, self.options.max_bytes);
        if size > limit {
            let what = format!("takes {size} bytes; the provider takes {limit} in a whole batch; shorten it");
            return Ok(self.problems.add(origin, line, what).await?);
        }
        let (inputs, limit) =
            (self.options.max_inputs_of_embeddings().map_or(0, |_| inputs_of_body(body)), self.options.max_inputs);
        if inputs > limit {
            let what = format!(
                "holds {inputs} inputs; the provider takes {limit} in a whole batch (`limits.maxInputsPerBatch`); make several \
                 requests of it"
            );
            return Ok(self.problems.add(origin, line, what).await?);
        }
        if self.options.canary == Some(self.to_send) {
            writer.close();
            self.behind_canary = Some(entry.index);
        }
        self.to_send += 1;
        writer.push(model, &parts, inputs, hints, entry).await?;
        self.check_batches()
    }

    /// Stages a request that is not sent, since it has an answer, of `answer` bytes. The limits of batches do not apply
    /// to it.
    async fn stage_reused(
        &mut self,
        origin: &Origin,
        line: Option<u64>,
        entry: &IndexEntry,
        body: &str,
        answer: u64,
    ) -> Result<(), PassError> {
        let Some(writer) = &mut self.reused_writer else { return Ok(()) };
        let id = provider_side_id(entry.index, writer.work_id());
        let parts = parts(self.options, &id, body);
        if let Some(what) = too_long(parts.iter().map(|part| part.len()).sum()) {
            return Ok(self.problems.add(origin, line, what).await?);
        }
        writer.push("", &parts, answer, TokenHints::default(), entry).await?;
        self.check_batches()
    }

    /// Returns an error if there are too many shards.
    fn check_batches(&self) -> Result<(), PassError> {
        let shards: usize = [&self.writer, &self.reused_writer].into_iter().flatten().map(ShardWriter::shards).sum();
        match shards > self.options.max_batches {
            true => Err(PassError::Invalid(self.too_many_batches())),
            false => Ok(()),
        }
    }

    async fn finish(mut self, reading: InputReader) -> Result<PassOutput, PassError> {
        if self.problems.count() > 0 {
            return Err(PassError::Invalid(self.faults().await));
        }
        if self.requests == 0 && self.options.empty_policy == EmptyPolicy::Fail {
            return Err(PassError::Invalid(self.nothing(&reading)));
        }
        let of_writers = [(self.writer.take(), &mut self.staged), (self.reused_writer.take(), &mut self.reused)];
        for (writer, staged) in of_writers {
            let Some(writer) = writer else { continue };
            for shard in writer.finish().await? {
                staged.push(shard)?;
            }
        }
        let (shards, reused) = (self.staged.finish()?, self.reused.finish()?);
        let (version, chain) = (self.options.hash_version, hex(&self.chain.finish()));
        let identity = json!([self.options.provider, self.options.run_id, self.requests, chain]).to_string();
        let work_hash = format!("{}-{}", version.prefix(), hex(&hash(version, identity.as_bytes())));
        let (too_large, sources, left_out) = (reading.too_large, reading.sources, reading.left_out);
        let (input_version, input_bytes) = reading.finish();
        Ok(PassOutput {
            input_version,
            input_bytes,
            sources,
            left_out,
            requests: self.requests,
            too_large,
            work_hash,
            shards,
            reused,
            behind_canary: self.behind_canary,
        })
    }

    /// Describes the faults, and puts a report of them if the pass stages.
    async fn faults(&mut self) -> String {
        let report = match self.stage {
            Some((folder, work_id)) => self.problems.report(folder, work_id).await,
            None => Ok(None),
        };
        let report = report.unwrap_or_else(|error| {
            // The faults are reported in the message anyway.
            warn!(%error, "the report of faulty requests could not be written");
            None
        });
        self.problems.message(report.as_deref())
    }

    fn too_many_batches(&self) -> String {
        format!(
            "{} makes more than {} batches of at most {} requests and {} bytes; split it over several BatchJobs, \
             raise the provider's `spec.limits`, or, if it is to go into a ConfigMap, write to object storage",
            self.name, self.options.max_batches, self.options.max_requests, self.options.max_bytes
        )
    }

    fn nothing(&self, reading: &InputReader) -> String {
        let (name, too_large, left_out) = (&self.name, reading.too_large.skipped, reading.left_out);
        let or = "or set `spec.input.emptyPolicy: Complete` where that is fine";
        if too_large > 0 {
            return format!(
                "{name} holds nothing but objects that are too large ({too_large}); raise `spec.input.maxObjectBytes`, {or}"
            );
        }
        if reading.selects {
            return format!("{name} has none of the requests that `select` means; select others, {or}");
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

/// Returns the parts of a request as it is sent, which make one line.
fn parts<'b>(options: &'b PlanOptions, id: &'b str, body: &'b str) -> [&'b [u8]; 5] {
    let [before, between, behind] = &options.line;
    [before, id, between, body, behind].map(str::as_bytes)
}

fn too_long(length: usize) -> Option<String> {
    let message = || format!("takes {length} bytes as it is sent; the most is {LINE_LIMIT}; shorten it");
    (length > LINE_LIMIT).then(message)
}
