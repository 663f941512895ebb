//! Time-outs of exchanges: an exchange ends with an error if it stalls or crawls, not because it takes long.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body::{Body, Frame, SizeHint};
use reqwest::Request;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::{Meter, SendError};

/// Size of the pieces in which a request's body is handed to the connection, in bytes. Each accepted piece counts as progress.
const PIECE: usize = 64 << 10;

/// The times that the other side may take. Time for which our own side delays an exchange does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Longest time in which no byte moves.
    pub idle: Duration,
    /// Longest time from the last byte of a request to the head of its response. A body adds the time that it takes at
    /// [`Patience::rate`], up to [`Patience::longest_drain`]: both kernels buffer megabytes, so the last bytes leave this process long
    /// before they arrive, and a server may begin to read a file only when it is complete.
    pub answer: Duration,
    /// Longest time that a body adds to [`Patience::answer`].
    pub longest_drain: Duration,
    /// Bytes a second that a transfer has to reach in the long run.
    pub rate: u64,
    /// Time that a transfer may take beyond the time that its bytes take at [`Patience::rate`].
    pub grace: Duration,
}

impl Patience {
    /// The patience with small calls and with object stores: a minute for each answer. A transfer has 15 minutes more than it takes at
    /// 64 KiB a second; 200 MiB take 53 minutes at that rate.
    pub const USUAL: Patience = Patience {
        idle: Duration::from_secs(60),
        answer: Duration::from_secs(60),
        longest_drain: Duration::from_secs(1_020),
        rate: 64 << 10,
        grace: Duration::from_secs(900),
    };

    /// The patience with files at a provider, which may check a file before it answers: 3 minutes for the answer to a small file, and 20
    /// minutes for one of 64 MiB or more.
    pub const FILES: Patience = Patience { answer: Duration::from_secs(180), ..Patience::USUAL };

    /// Returns the time that `bytes` take at [`Patience::rate`].
    pub fn at_rate(&self, bytes: u64) -> Duration {
        Duration::from_secs(bytes / self.rate.max(1))
    }
}

/// The progress of a request.
#[derive(Debug)]
pub(super) struct Progress {
    patience: Patience,
    meter: Option<Meter>,
    state: Mutex<State>,
}

impl Progress {
    /// Returns the progress of `request`, whose body is watched from now on.
    pub fn of(request: &mut Request, patience: Patience) -> Arc<Progress> {
        let state = State::new(Instant::now(), request.body().is_some());
        let progress = Arc::new(Progress { patience, meter: Meter::current(), state: Mutex::new(state) });
        if let Some(body) = request.body_mut().take() {
            let watched = WatchedBody { body, piece: Bytes::new(), progress: progress.clone() };
            *request.body_mut() = Some(reqwest::Body::wrap(watched));
        }
        progress
    }

    /// Waits for `exchange` as long as it makes progress.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if the other side is too slow, or the error of `exchange`.
    pub async fn watch<T>(&self, exchange: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
        let mut exchange = std::pin::pin!(exchange);
        loop {
            let until = self.state().judge(&self.patience, Instant::now()).map_err(SendError::TimedOut)?;
            if let Ok(ended) = timeout_at(until, &mut exchange).await {
                return ended;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State {
    began: Instant,
    /// Time at which a piece of the body was last accepted.
    moved: Instant,
    bytes: u64,
    /// Time since which our own side has nothing to send.
    ours: Option<Instant>,
    /// Time for which our own side has held the exchange up so far.
    held_up: Duration,
    /// Time at which the whole body had been handed over.
    sent: Option<Instant>,
}

impl State {
    fn new(now: Instant, has_body: bool) -> State {
        let sent = (!has_body).then_some(now);
        State { began: now, moved: now, bytes: 0, ours: None, held_up: Duration::ZERO, sent }
    }

    /// Returns the time of the next check, or the reason to end the exchange.
    fn judge(&self, patience: &Patience, now: Instant) -> Result<Instant, String> {
        let (until, why) = if let Some(sent) = self.sent {
            let wait = patience.answer + patience.at_rate(self.bytes).min(patience.longest_drain);
            (sent + wait, format!("no answer within {} s of the request's last byte", wait.as_secs()))
        } else if self.ours.is_some() {
            return Ok(now + patience.idle);
        } else {
            let still = format!("the server took no byte for {} s", patience.idle.as_secs());
            let slow = format!("the server took {} bytes, fewer than {} a second", self.bytes, patience.rate);
            let slowest = self.began + self.held_up + patience.grace + patience.at_rate(self.bytes);
            (self.moved + patience.idle, still).min((slowest, slow))
        };
        if until <= now { Err(why) } else { Ok(until) }
    }

    fn moved(&mut self, bytes: usize, now: Instant) {
        if let Some(since) = self.ours.take() {
            self.held_up += now - since;
        }
        self.moved = now;
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }
}

/// The body of a request, which reports its progress.
struct WatchedBody {
    body: reqwest::Body,
    piece: Bytes,
    progress: Arc<Progress>,
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        while self.piece.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Poll::Ready(ended) => return Poll::Ready(ended),
                Poll::Pending => {
                    self.progress.state().ours.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
        let size = self.piece.len().min(PIECE);
        let piece = self.piece.split_to(size);
        self.progress.state().moved(size, Instant::now());
        if let Some(meter) = &self.progress.meter {
            meter.add(size as u64);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (left, of_body) = (self.piece.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + left);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + left);
        }
        hint
    }
}

impl Drop for WatchedBody {
    /// Marks the body as sent. A connection that knows the length drops the body after its last byte, without polling for the end.
    fn drop(&mut self) {
        self.progress.state().sent.get_or_insert_with(Instant::now);
    }
}

/// The body of a response. It ends with an error if the server stalls or is too slow. Time in which the reader asks for nothing does not
/// count.
pub(super) struct PacedBody<S> {
    body: S,
    patience: Patience,
    meter: Option<Meter>,
    bytes: u64,
    /// Time spent waiting for the other side.
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    broken_off: bool,
}

impl<S> PacedBody<S> {
    pub fn new(body: S, patience: Patience) -> PacedBody<S> {
        PacedBody {
            body,
            patience,
            meter: Meter::current(),
            bytes: 0,
            waited: Duration::ZERO,
            waiting: None,
            broken_off: false,
        }
    }

    fn left(&self) -> Duration {
        let slowest = self.patience.grace + self.patience.at_rate(self.bytes);
        self.patience.idle.min(slowest.saturating_sub(self.waited))
    }
}

impl<S: Stream<Item = Result<Bytes, SendError>> + Unpin> Stream for PacedBody<S> {
    type Item = Result<Bytes, SendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.broken_off {
            return Poll::Ready(None);
        }
        match self.body.poll_next_unpin(cx) {
            Poll::Ready(next) => {
                if let Some((since, _)) = self.waiting.take() {
                    self.waited += since.elapsed();
                }
                if let Some(Ok(chunk)) = &next {
                    self.bytes = self.bytes.saturating_add(chunk.len() as u64);
                    if let Some(meter) = &self.meter {
                        meter.add(chunk.len() as u64);
                    }
                }
                Poll::Ready(next)
            }
            Poll::Pending => {
                let left = self.left();
                let now = Instant::now();
                let (_, sleep) = self.waiting.get_or_insert_with(|| (now, Box::pin(sleep_until(now + left))));
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.broken_off = true;
                let why = match left < self.patience.idle {
                    true => format!("the server gave {} bytes, fewer than {} a second", self.bytes, self.patience.rate),
                    false => format!("the server gave no byte for {} s", self.patience.idle.as_secs()),
                };
                Poll::Ready(Some(Err(SendError::TimedOut(why))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_megabytes_may_take_ten_minutes_to_be_taken_and_to_be_answered() {
        let (files, size) = (Patience::FILES, 200u64 << 20);
        let ten_minutes = Duration::from_secs(600);
        assert!(files.grace + files.at_rate(size) > ten_minutes);
        assert!(files.answer + files.at_rate(size).min(files.longest_drain) > ten_minutes);
        let small = files.answer + files.at_rate(1_000);
        assert!(small >= Duration::from_secs(120) && small < ten_minutes, "a small one is not waited for as long");
        assert!(files.idle < Duration::from_secs(120), "what stands still is told soon");
    }

    const PATIENCE: Patience = Patience { rate: 1_000, longest_drain: Duration::from_secs(20), ..Patience::USUAL };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Returns the second at which an upload is ended, and why. The server takes `bytes` every half minute, `times` times.
    fn broken_off(times: u64, bytes: usize) -> (u64, String) {
        let began = Instant::now();
        let mut state = State::new(began, true);
        for second in 1.. {
            let now = began + seconds(second);
            if let Err(why) = state.judge(&PATIENCE, now) {
                return (second, why);
            }
            if second % 30 == 0 && second <= 30 * times {
                state.moved(bytes, now);
            }
        }
        unreachable!()
    }

    #[test]
    fn an_upload_is_broken_off_when_it_stands_still_or_crawls_and_not_when_it_goes_on() {
        assert_eq!(broken_off(0, 0), (60, "the server took no byte for 60 s".into()));
        assert_eq!(broken_off(100, 30_000).0, 3_060, "it went on for fifty minutes");
        let (after, why) = broken_off(100, 3_000);
        assert!((900..1_100).contains(&after) && why.contains("fewer than 1000 a second"), "{after} s: {why}");
    }

    #[test]
    fn the_answer_to_a_large_file_is_waited_for_longer_and_not_for_ever() {
        let wait = |bytes: u64| {
            let began = Instant::now();
            let state = State { sent: Some(began), bytes, ..State::new(began, true) };
            (state.judge(&PATIENCE, began).unwrap() - began).as_secs()
        };
        assert_eq!([0, 10_000, 10_000_000].map(wait), [60, 70, 80]);
    }

    #[test]
    fn what_our_own_side_holds_up_is_not_the_servers_fault() {
        let began = Instant::now();
        let later = began + seconds(100_000);
        let mut state = State { ours: Some(began), ..State::new(began, true) };
        assert!(state.judge(&PATIENCE, later).is_ok());
        state.moved(1, later);
        assert_eq!(state.judge(&PATIENCE, later), Ok(later + PATIENCE.idle), "it has all the time that it had");
    }
}
