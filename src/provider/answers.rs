//! Answers that are no files, and the memory for them: small ones are read at once, and larger ones when there is room.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use reqwest::Response;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{ApiError, ErrorKind};
use crate::api::json;
use crate::fair::{Claim, Limits, Share, Shares};
use crate::transport::{SendError, stream};

/// Largest answer that is read, in bytes. A page of 100 batches with all the metadata that they can have takes 1 MB.
const ANSWER_LIMIT: u64 = 4 << 20;
/// Largest answer that is read without a share of the memory, in bytes. Of an error no more is read.
pub(super) const SMALL: u64 = 64 << 10;
/// Length for which an answer that does not tell its length gets memory at first, in bytes.
const MIDDLE: u64 = 512 << 10;
/// Most memory that an answer takes, as a multiple of its length: its bytes, its texts, and what is made of them. What its other values
/// take is held for one answer at a time; see [`json::with`].
const HELD: u64 = 3;

/// Limits of the memory for the larger answers of all accounts, in bytes.
pub const ANSWERS: Limits = Limits { total: 48 << 20, per_namespace: 32 << 20, keeps_last_shares: true };

/// The times that a larger answer may take.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Longest wait for memory.
    wait: Duration,
    /// Longest time from then to the answer's last byte.
    read: Duration,
    /// The same while a namespace that holds nothing waits for memory.
    among_others: Duration,
}

const TIMES: Times =
    Times { wait: Duration::from_secs(30), read: Duration::from_secs(10), among_others: Duration::from_secs(5) };

/// Bounds of the pause between two looks at the time that a reading took, in milliseconds.
const LOOKS: (u64, u64) = (20, 2_000);

/// The memory for the larger answers of an account, which it shares with all others.
#[derive(Clone, Debug)]
pub struct AnswerMemory {
    all: Arc<Shares>,
    namespace: String,
    account: String,
    lane: String,
    times: Times,
    waits: Arc<Mutex<Waits>>,
}

/// The waits for memory of answers that are read one after the other.
#[derive(Debug, Default)]
struct Waits {
    /// The length of the waits that are over.
    over: Duration,
    /// The beginning of the wait that is under way.
    since: Option<Instant>,
}

impl Waits {
    fn total(&self) -> Duration {
        self.over + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// A wait for memory, which is over when this is dropped.
struct Waiting<'a>(&'a AnswerMemory);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.0.waits();
        (waits.over, waits.since) = (waits.total(), None);
    }
}

/// A reading that took too long, or waited too long for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late {
    /// The time for which it waited for memory.
    pub waited: Duration,
}

impl Default for AnswerMemory {
    /// Returns memory that is shared with nobody.
    fn default() -> Self {
        AnswerMemory::of(&Shares::new(ANSWERS), "", "", "")
    }
}

impl AnswerMemory {
    /// Returns the memory of an `account` whose object is in `namespace`. Those who call it share its part of the memory by `caller`.
    pub fn of(all: &Arc<Shares>, namespace: &str, account: &str, caller: &str) -> AnswerMemory {
        let [namespace, account, lane] = [namespace, account, caller].map(String::from);
        AnswerMemory { all: all.clone(), namespace, account, lane, times: TIMES, waits: Arc::default() }
    }

    /// Returns the same for a call that serves all who call the account.
    pub(super) fn for_all_callers(&self) -> AnswerMemory {
        AnswerMemory { lane: self.account.clone(), ..self.timed() }
    }

    /// Returns the same for answers whose waits are counted apart from those of others.
    pub(super) fn timed(&self) -> AnswerMemory {
        AnswerMemory { waits: Arc::default(), ..self.clone() }
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `reading`, which reads answers into this memory one after the other, for at most `limit`. The time for which they wait for
    /// memory does not count: it may take as long again.
    ///
    /// # Errors
    /// If the reading or the waits take longer.
    pub(super) async fn in_time<T>(&self, limit: Duration, reading: impl Future<Output = T>) -> Result<T, Late> {
        let (began, before) = (Instant::now(), self.waits().total());
        let mut reading = pin!(reading);
        loop {
            let waited = self.waits().total().saturating_sub(before);
            let left = (limit + waited).saturating_sub(began.elapsed());
            if left.is_zero() || waited > limit {
                return Err(Late { waited });
            }
            let pause = left.clamp(Duration::from_millis(LOOKS.0), Duration::from_millis(LOOKS.1));
            if let Ok(read) = timeout(pause, &mut reading).await {
                return Ok(read);
            }
        }
    }

    /// Reads an answer whole.
    ///
    /// # Errors
    /// If it is larger than what is read of any answer, if the connection breaks, or if there is no memory for it now.
    pub(super) async fn read(&self, response: Response) -> Result<Answer, ReadError> {
        let (length, from) = (response.content_length(), response.url().host_str().unwrap_or_default().to_string());
        let (mut body, mut bytes) = (pin!(stream(response, ANSWER_LIMIT)), BytesMut::new());
        // A share is given back before another answer of the connection is read, and held until the answer is done with.
        let mut share = None;
        if !take(&mut body, &mut bytes, |held| held <= SMALL).await? {
            let first = length.unwrap_or(MIDDLE).clamp(bytes.len() as u64, ANSWER_LIMIT);
            let claim = Claim {
                namespace: self.namespace.clone(),
                lane: self.lane.clone(),
                size: HELD * first,
                ..Claim::default()
            };
            self.waits().since = Some(Instant::now());
            let waiting = Waiting(self);
            let granted = timeout(self.times.wait, self.all.take(claim)).await;
            drop(waiting);
            let granted = granted.map_err(|_| self.no_memory(&from))?;
            self.read_rest(&mut body, &mut bytes, &granted, &from).await?;
            share = Some(granted);
        }
        Ok(Answer { bytes: bytes.freeze(), _share: share })
    }

    async fn read_rest(
        &self,
        body: &mut (impl Stream<Item = Result<Bytes, SendError>> + Unpin),
        bytes: &mut BytesMut,
        share: &Share,
        from: &str,
    ) -> Result<(), ReadError> {
        // An answer that does not tell its length gets twice as much each time.
        let has_room = |held: u64| HELD * held <= share.size() || share.grow(HELD * (2 * held).min(ANSWER_LIMIT));
        let pressed = async {
            sleep(self.times.among_others).await;
            share.is_wanted().await;
        };
        let too_slow = |after: Duration, why: &str| {
            let message = format!("the answer of {from} did not end within {} s{why}", after.as_secs());
            ReadError::Broken(SendError::TimedOut(message))
        };
        tokio::select! {
            ended = timeout(self.times.read, take(body, bytes, has_room)) => match ended {
                Ok(Ok(true)) => Ok(()),
                Ok(Ok(false)) => Err(self.no_memory(from)),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(too_slow(self.times.read, "")),
            },
            () = pressed => Err(too_slow(self.times.among_others, ", while others waited for the memory that it held")),
        }
    }

    fn no_memory(&self, from: &str) -> ReadError {
        let whose = match self.namespace.as_str() {
            "" => "of ClusterBatchProviders".into(),
            namespace => format!("of providers of namespace '{namespace}'"),
        };
        ReadError::NoMemory(format!(
            "the answer of {from} has more than {} KiB, and there is no memory for it while so many others {whose} are read; it is asked \
             for again, and a server that answers with less, or fewer jobs at a time, would spare the wait",
            SMALL >> 10
        ))
    }
}

/// Appends what the body gives to `bytes`, as long as there is room for so many of them. Returns false if there is none for more.
async fn take(
    body: &mut (impl Stream<Item = Result<Bytes, SendError>> + Unpin),
    bytes: &mut BytesMut,
    has_room: impl Fn(u64) -> bool,
) -> Result<bool, SendError> {
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        bytes.extend_from_slice(&chunk);
        if !has_room(bytes.len() as u64) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the beginning of a body, of some [`SMALL`] bytes: of an error nobody needs more.
///
/// # Errors
/// If the connection breaks.
pub(super) async fn beginning(response: Response) -> Result<Bytes, SendError> {
    let (mut body, mut bytes) = (pin!(stream(response, u64::MAX)), BytesMut::new());
    take(&mut body, &mut bytes, |held| held <= SMALL).await?;
    bytes.truncate(SMALL as usize);
    Ok(bytes.freeze())
}

/// The reason why an answer was not read.
#[derive(Debug)]
pub(super) enum ReadError {
    Broken(SendError),
    /// There is no memory for it now; a message for people.
    NoMemory(String),
}

impl From<SendError> for ReadError {
    fn from(error: SendError) -> Self {
        ReadError::Broken(error)
    }
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Broken(error) => error.fmt(f),
            ReadError::NoMemory(message) => f.write_str(message),
        }
    }
}

impl ReadError {
    /// Returns the error of the call that got this answer; `call` is its name.
    pub fn of_call(self, call: &str) -> ApiError {
        match self {
            ReadError::Broken(error) => super::openai::send_error(call, error),
            ReadError::NoMemory(message) => ApiError::new(ErrorKind::Transient, message),
        }
    }
}

/// An answer, which holds its share of the memory.
#[derive(Debug)]
pub(super) struct Answer {
    bytes: Bytes,
    _share: Option<Share>,
}

impl Answer {
    /// Returns what `read` takes of the answer's document; None if it is not JSON, or holds too much. What is taken has to be small or
    /// dropped before the next wait.
    pub fn json<T>(&self, read: impl FnOnce(&Value) -> T) -> Option<T> {
        json::with(&self.bytes, read)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt;
    use futures::stream::{iter, pending};
    use reqwest::Body;

    use super::*;

    /// A document of so many bytes, and, if it drips, one whose last byte never comes.
    fn document(bytes: u64, drips: bool) -> Response {
        let text = format!("{{\"text\":\"{}\"}}", "x".repeat(bytes as usize - 11));
        let pieces: Vec<Bytes> =
            text.as_bytes()[..text.len() - usize::from(drips)].chunks(16 << 10).map(Bytes::copy_from_slice).collect();
        let rest = if drips { pending().left_stream() } else { iter(vec![]).right_stream() };
        let body = iter(pieces).chain(rest).map(Ok::<_, std::io::Error>);
        http::Response::new(Body::wrap_stream(body)).into()
    }

    fn of(all: &Arc<Shares>, namespace: &str, account: &str) -> AnswerMemory {
        let soon = Duration::from_millis(300);
        let times = Times { wait: soon, among_others: soon, ..TIMES };
        AnswerMemory { times, ..AnswerMemory::of(all, namespace, account, account) }
    }

    /// Begins answers at twenty accounts of their own that drip. Their errors are given as they end.
    fn drip(all: &Arc<Shares>, namespace: &'static str, ends: &Arc<Mutex<Vec<String>>>) {
        for account in 0..20 {
            let (memory, ends) = (of(all, namespace, &account.to_string()), ends.clone());
            tokio::spawn(async move {
                let error = memory.read(document(ANSWER_LIMIT, true)).await.unwrap_err();
                ends.lock().unwrap().push(error.to_string());
            });
        }
    }

    async fn read(memory: &AnswerMemory, bytes: u64) -> Result<usize, ReadError> {
        let answer = memory.read(document(bytes, false)).await?;
        Ok(answer.json(|value| value["text"].as_str().unwrap().len()).unwrap())
    }

    #[tokio::test]
    async fn servers_that_drip_hold_their_own_namespace_up_and_make_room_for_one_that_waits() {
        let (all, ends) = (Shares::new(ANSWERS), Arc::default());
        ["a", "b", "c"].into_iter().for_each(|namespace| drip(&all, namespace, &ends));
        tokio::task::yield_now().await;
        let quiet = AnswerMemory { times: TIMES, ..of(&all, "quiet", "quiet") };
        let whole = Claim { namespace: "quiet".into(), size: HELD * ANSWER_LIMIT, ..Claim::default() };
        assert!(all.take(whole).now_or_never().is_none(), "those that drip have taken all of it");
        for bytes in [ANSWER_LIMIT, 1 << 20, SMALL + 1] {
            assert_eq!(read(&quiet, bytes).await.unwrap(), bytes as usize - 11);
        }
        let ends = ends.lock().unwrap();
        let made_room =
            ends.iter().filter(|end| end.contains("while others waited for the memory that it held")).count();
        let refused = ends.iter().filter(|end| end.contains("there is no memory for it")).count();
        assert!(made_room >= 1 && made_room + refused == ends.len(), "{ends:?}");
    }

    #[tokio::test]
    async fn an_answer_without_memory_is_told_of_and_asked_for_again_and_a_small_one_needs_none() {
        let all = Shares::new(ANSWERS);
        let memory = of(&all, "busy", "other");
        let _held = all.take(Claim { namespace: "other".into(), size: ANSWERS.total, ..Claim::default() }).await;
        let error = read(&memory, SMALL + 1).await.unwrap_err().of_call("GET x");
        assert_eq!(error.kind, ErrorKind::Transient);
        for words in ["more than 64 KiB", "no memory", "namespace 'busy'", "asked for again", "answers with less"] {
            assert!(error.message.contains(words), "{}", error.message);
        }
        assert_eq!(read(&memory, SMALL).await.unwrap(), SMALL as usize - 11);
    }

    #[tokio::test]
    async fn an_answer_is_held_with_its_memory_until_it_is_done_with() {
        let all = Shares::new(ANSWERS);
        let memory = of(&all, "a", "x");
        let answer = memory.read(document(ANSWER_LIMIT, false)).await.unwrap();
        assert_eq!(answer._share.as_ref().map(Share::size), Some(HELD * ANSWER_LIMIT));
        drop(answer);
        let all_of_it = Claim { namespace: "b".into(), size: ANSWERS.total, ..Claim::default() };
        assert!(all.take(all_of_it).now_or_never().is_some());
        assert!(matches!(read(&memory, ANSWER_LIMIT + 1).await, Err(ReadError::Broken(SendError::TooLarge(_)))));
    }

    /// A list has many pages, and one that takes too long counts as one that cannot be read.
    #[tokio::test]
    async fn waits_for_memory_do_not_count_as_time_of_the_reading_and_have_a_limit_of_their_own() {
        let (all, limit) = (Shares::new(ANSWERS), Duration::from_secs(1));
        let times = Times { wait: Duration::from_secs(5), ..TIMES };
        let memory = AnswerMemory { times, ..of(&all, "a", "x") };
        let held = all.take(Claim { namespace: "other".into(), size: ANSWERS.total, ..Claim::default() }).await;
        let slow = memory.in_time(limit, std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(slow.waited, Duration::ZERO, "nobody waited for memory");
        let late = memory.in_time(limit, read(&memory, ANSWER_LIMIT)).await.unwrap_err();
        assert!(late.waited > limit, "{late:?}");
        tokio::spawn(async move {
            sleep(Duration::from_millis(700)).await;
            drop(held);
        });
        let page = async {
            sleep(Duration::from_millis(500)).await;
            read(&memory, ANSWER_LIMIT).await
        };
        // Half a second of its own, and 0.7 s of waiting.
        let two = async { (read(&memory, ANSWER_LIMIT).await.unwrap(), page.await.unwrap()) };
        let whole = ANSWER_LIMIT as usize - 11;
        assert_eq!(memory.in_time(limit, two).await, Ok((whole, whole)));
    }

    #[tokio::test]
    async fn an_answer_of_unknown_length_takes_no_more_memory_than_twice_what_it_holds() {
        let all = Shares::new(ANSWERS);
        let answer = of(&all, "a", "x").read(document(MIDDLE + 1, false)).await.unwrap();
        let size = answer._share.as_ref().map(Share::size).unwrap();
        assert!((HELD * MIDDLE..=HELD * (2 * MIDDLE + (32 << 10))).contains(&size), "{size}");
    }

    #[tokio::test]
    async fn of_an_error_only_the_beginning_is_read() {
        assert_eq!(beginning(document(100, false)).await.unwrap().len(), 100);
        assert_eq!(beginning(document(ANSWER_LIMIT, true)).await.unwrap().len() as u64, SMALL);
    }
}
