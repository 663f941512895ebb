//! The command line: what can be asked of the simulator when it starts.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::accounts::{Accounts, AccountsError};
use crate::answers::{Answers, AnswersError};
use crate::app::{App, Settings, Shared};
use crate::bodies::Appetite;
use crate::durations::Durations;
use crate::faults::{self, Fault, Faults, FaultsFileError};
use crate::home::Home;
use crate::ledger::Ledger;
use crate::validate::Limits;
use crate::webhooks::{Key, Shape, Webhook, parse_secret};

const EXAMPLES: &str = "\
Examples:
  # Serve on port 8080; every batch takes one second and every answer is an echo.
  llm-batch-sim

  # For a script: a free port, printed as {\"url\":…,\"admin\":…} on the first line of stdout.
  llm-batch-sim --listen 127.0.0.1:0 --batch-duration 200ms

  # Two teams that do not see each other, and answers from a file.
  llm-batch-sim --api-key sk-team-a --api-key sk-team-b --answers answers.json

  # The first batch is created, but its creator never hears of it.
  llm-batch-sim --fault 'create_batch=drop_reply*1'

Azure OpenAI is played below /openai/v1, and with ?api-version=… below /openai: the key comes in the header api-key
(Bearer is refused), a file is pending for a moment after its upload and no batch is made of it before, lines are
for /chat/completions or /v1/responses, errors are {\"error\": {\"code\", \"message\"}}, and a batch without failures
names an error file of no bytes. Files and batches are the same as below /v1.

An answers file is a list of rules; the first that matches a request's text (in any case) wins,
and one without \"contains\" matches all. Requests that no rule matches are echoed.
  [{\"contains\": \"refund\", \"answer\": \"billing\"},
   {\"contains\": \"forbidden\", \"status\": 400, \"code\": \"content_filter\", \"message\": \"Refused.\"},
   {\"answer\": \"other\"}]
With \"times\": 1 a rule is only for the first request that it matches, so that a row can fail once.

A fault is POINT=ACTION[:VALUE][*TIMES], or the same as JSON, where it can say more. The faults of a
point strike in their order, one a request or batch.
  Points that are requests:
           upload, get_file, list_files, content, delete_file,
           create_batch, get_batch, list_batches, cancel_batch
  Actions: drop_reply    do it, then cut the connection without a byte of reply
           delay:500     do it, then wait so many milliseconds before the reply
           truncate:100  do it, then cut the connection after so many bytes of the body [half]
                         (these three wait for a request that succeeds)
           drop_request  cut the connection, do nothing
           status:503    answer with this status, do nothing
           html          answer 502 with an HTML page, do nothing
           redirect:URL  answer 302 with that location, do nothing
           deny:429      do it, then answer with this error
           double        make two batches, tell of one (create_batch only)
           unknown_file  answer 400, the input file is not found (create_batch only)
           lag:30        leave out batches younger than so many seconds (list_batches only)
  Point batch, which is the next batch that is created:
  Actions: expire:0.5         run this share of the lines, then end as expired
           fail:CODE          end as failed with this code, e.g. token_limit_exceeded
           odd_state:NAME     show this instead of in_progress
           stuck:0.5          run this share of the lines, then nothing until finished or cancelled
           lose_rows:1        bill so many rows that are in neither file
           double_rows:1      put so many rows into the output twice
           foreign_rows:1     add so many rows of nobody to the output
           fail_rows:1        fail so many rows with 500 server_error, not billed
           odd_rows:SHAPE     write a row as some servers do, e.g. text_body, no_usage, empty, refusal, truncated
           totals_differ:100  count so many more input tokens in the batch's usage than its rows do
           no_counts          leave out request_counts
           metadata_lost      forget the metadata

While it runs (none of these needs a key):
  GET    /admin/ledger                what was billed, one JSON object a line
  GET    /admin/state                 uploads, files and batches of every account; \"overlaps\": how
                                      often a request was paid for in two batches at once;
                                      \"most_alive\": the most batches that ran at once;
                                      \"calls\": requests so far, by point
  POST   /admin/faults                {\"point\":\"create_batch\",\"action\":\"status\",\"status\":503,\"retry_after\":1,\"times\":2}
  GET    /admin/faults                what is left of them; DELETE forgets them
  POST   /admin/batch-duration        {\"duration\":\"5s\"}, for batches created from now on; or \"1s..100s\"
  POST   /admin/batches/{id}/finish   end this batch now
  POST   /admin/webhooks              {\"url\":\"http://…\",\"secret\":\"whsec_…\",\"duplicates\":1,\"delay\":\"2s\"}: a signed
                                      event for each batch that ends; \"early\":\"1s\" before its end shows;
                                      \"shape\":\"Doubleword\" has its payload
  GET    /admin/webhooks              how many events were sent and accepted; DELETE forgets them

Set RUST_LOG=debug to see more on stderr. Requests' contents are never logged.";

/// A server that plays OpenAI's Files and Batches API, for tests, demos and CI; below /openai, Azure OpenAI's.
///
/// Files, batches and results behave as at the vendor, nothing is paid, and every line that would
/// have been billed is in a ledger.
#[derive(Debug, Parser)]
#[command(name = "llm-batch-sim", version, about, after_long_help = EXAMPLES, max_term_width = 100)]
pub struct Args {
    /// Address and port; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR:PORT")]
    pub listen: String,

    /// Folder for files' contents and the ledger, made if missing [default: a temporary one]
    ///
    /// The ledger.jsonl in it is continued by the next start; files and batches are forgotten.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// A key that clients may use; repeat it for more accounts that do not see each other
    ///
    /// Without any, every client is let in and all share one account. In the environment variable
    /// they are separated by commas.
    #[arg(
        long = "api-key",
        value_name = "KEY",
        env = "LLM_BATCH_SIM_API_KEY",
        hide_env_values = true,
        value_delimiter = ','
    )]
    api_keys: Vec<String>,

    /// JSON file with rules for the answers
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,

    /// Share of the input tokens that come from a cache, in percent
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    cached_percent: u8,

    /// Tokens of reasoning before each answer of a chat or a response; they count as output
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    reasoning_tokens: u64,

    /// How long a batch runs: 200ms, 5s, 2h; or each a time between two: 1s..100s
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    batch_duration: Durations,

    /// Decides the order of results, and times between two
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    seed: u64,

    /// The most requests that one batch may hold
    #[arg(long, default_value_t = 50_000, value_name = "NUMBER")]
    max_requests: u64,

    /// The most bytes that a batch's input file may hold
    #[arg(long, default_value_t = 209_715_200, value_name = "BYTES")]
    max_bytes: u64,

    /// The most requests that an account may have enqueued; a batch beyond that fails with token_limit_exceeded
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true, value_name = "NUMBER")]
    max_enqueued_requests: u64,

    /// A model that there is; repeat it for more. Files are then checked when they are uploaded
    ///
    /// As gateways do: a line that makes no sense or names no model is refused with 400, one for another model with 403.
    /// GET /v1/models lists them.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,

    /// Where a signed event is posted when a batch ends; more can be said over /admin/webhooks
    #[arg(long, value_name = "URL", requires = "webhook_secret")]
    webhook_url: Option<String>,

    /// The secret that signs these events, whsec_ and base64
    #[arg(
        long,
        value_name = "SECRET",
        env = "LLM_BATCH_SIM_WEBHOOK_SECRET",
        hide_env_values = true,
        value_parser = parse_secret
    )]
    webhook_secret: Option<std::vec::Vec<Key>>,

    /// Something that shall go wrong, as POINT=ACTION[:VALUE][*TIMES]; may be repeated
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Fault>,

    /// JSON file with a list of faults; they come before those of --fault
    #[arg(long = "faults", value_name = "FILE")]
    faults_file: Option<PathBuf>,
}

/// Why the simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The `--api-key` flags make no sense.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// The `--answers` file makes no sense.
    #[error(transparent)]
    Answers(#[from] AnswersError),
    /// The `--faults` file makes no sense.
    #[error(transparent)]
    Faults(#[from] FaultsFileError),
}

impl StartError {
    /// Names what was tried when the system refused.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}

impl Args {
    /// Makes everything the server needs; the [`Home`] must outlive it.
    pub fn prepare(self) -> Result<(Shared, Home), StartError> {
        let accounts = Accounts::new(self.api_keys)?;
        let answers = match &self.answers {
            Some(file) => Answers::load(file)?,
            None => Answers::default(),
        };
        let mut script = match &self.faults_file {
            Some(file) => faults::load(file)?,
            None => Vec::new(),
        };
        script.extend(self.faults);
        let home =
            Home::open(self.state_dir.as_deref()).map_err(|error| StartError::io("prepare the state folder", error))?;
        let ledger = Ledger::open(&home.ledger()).map_err(|error| StartError::io("open the ledger", error))?;
        let settings = Settings {
            accounts,
            answers,
            appetite: Appetite { cached_percent: self.cached_percent, reasoning: self.reasoning_tokens },
            limits: Limits { requests: self.max_requests, bytes: self.max_bytes, enqueued: self.max_enqueued_requests },
            seed: self.seed,
            contents: home.contents(),
            faults: Faults::new(script),
            models: self.models,
            durations: self.batch_duration,
        };
        let app = App::new(settings, ledger);
        if let (Some(url), Some(secret)) = (self.webhook_url, self.webhook_secret) {
            let (delay, early) = (Duration::ZERO, Duration::ZERO);
            app.webhooks.add(Webhook { url, secret, shape: Shape::OpenAI, duplicates: 0, delay, early });
        }
        Ok((app, home))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
    }
}
