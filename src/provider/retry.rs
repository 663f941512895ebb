//! Repetition of calls that may be repeated: with jitter, within bounds, and not before the server allows it.

use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable};

use super::{ApiError, ErrorKind};

/// The longest pause between two tries. If the server asks for a longer one, the reconcile loop repeats the call.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Time after which a call is not repeated here, because others wait for their turn. The reconcile loop repeats it.
const LONG_ENOUGH: Duration = Duration::from_secs(15);

/// Runs `call` up to four times, as long as its error may be temporary.
pub(super) async fn repeat<T, F: Future<Output = Result<T, ApiError>>>(call: impl FnMut() -> F) -> Result<T, ApiError> {
    repeat_after(Duration::from_millis(200), call).await
}

async fn repeat_after<T, F: Future<Output = Result<T, ApiError>>>(
    first_pause: Duration,
    call: impl FnMut() -> F,
) -> Result<T, ApiError> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(first_pause)
        .with_max_delay(LONGEST_PAUSE)
        .with_max_times(3)
        .with_jitter();
    let began = Instant::now();
    let again = |e: &ApiError| retryable(e) && began.elapsed() < LONG_ENOUGH;
    call.retry(pauses).when(again).adjust(|e, pause| pause.map(|p| e.retry_after.unwrap_or(p))).await
}

fn retryable(error: &ApiError) -> bool {
    let soon = error.retry_after.is_none_or(|after| after <= LONGEST_PAUSE);
    soon && matches!(error.kind, ErrorKind::Transient | ErrorKind::Capacity | ErrorKind::NotSent)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    async fn calls(error: ApiError) -> u32 {
        let n = AtomicU32::new(0);
        let _ = repeat_after(Duration::from_millis(1), || async {
            n.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(error.clone())
        })
        .await;
        n.into_inner()
    }

    #[tokio::test]
    async fn only_what_may_pass_is_repeated_and_only_so_often() {
        assert_eq!(calls(ApiError::new(ErrorKind::Transient, "")).await, 4);
        assert_eq!(calls(ApiError::new(ErrorKind::InvalidInput, "")).await, 1);
        assert_eq!(calls(ApiError::new(ErrorKind::Auth, "")).await, 1);
        let later = ApiError { retry_after: Some(Duration::from_secs(600)), ..ApiError::new(ErrorKind::Capacity, "") };
        assert_eq!(calls(later).await, 1);
    }

    #[tokio::test]
    async fn the_server_says_when() {
        let began = std::time::Instant::now();
        calls(ApiError { retry_after: Some(Duration::from_millis(50)), ..ApiError::new(ErrorKind::Capacity, "") })
            .await;
        assert!(began.elapsed() >= Duration::from_millis(150), "three pauses as asked for");
    }
}
