//! Servers that are slow, and servers that stand still: the first are waited for, the others are broken off.
//!
//! What takes minutes in production takes seconds here; `transport::Patience` has a test of the figures themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use batchjob_operator::provider::{ApiError, BatchApi, InputFile, OpenAi};
use batchjob_operator::transport::Patience;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Patience =
    Patience { idle: SECOND, answer: SECOND, longest_drain: SECOND, rate: 1 << 20, grace: Duration::from_secs(60) };
const ACCEPTED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{\"id\":\"file-1\"}";

/// A server that treats each connection as told, and how many there were.
async fn serve<F>(talk: impl Fn(TcpStream) -> F + Send + 'static) -> (Arc<OpenAi>, Arc<AtomicUsize>)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel takes in the server's place says nothing of the server.
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(talk(socket));
        }
    });
    let api = OpenAi::new(super::transport(), &url, None, true).unwrap().with_patience(PATIENCE);
    (Arc::new(api), seen)
}

async fn upload(api: &OpenAi, megabytes: usize) -> Result<String, ApiError> {
    let piece = Bytes::from(vec![b' '; 1 << 20]);
    let content = futures::stream::iter(vec![piece; megabytes]).map(Ok).boxed();
    api.upload(InputFile { name: "x.jsonl".into(), bytes: (megabytes as u64) << 20, content }).await
}

/// Reads `bytes` at so many a second.
async fn read_slowly(socket: &mut TcpStream, mut bytes: usize, per_second: usize) -> std::io::Result<()> {
    let (began, mut read) = (tokio::time::Instant::now(), 0);
    let mut buffer = vec![0; 64 << 10];
    while bytes > 0 {
        let some = buffer.len().min(bytes);
        socket.read_exact(&mut buffer[..some]).await?;
        (bytes, read) = (bytes - some, read + some);
        tokio::time::sleep_until(began + SECOND.mul_f64(read as f64 / per_second as f64)).await;
    }
    Ok(())
}

/// Begins to answer a request without a body.
async fn answer(socket: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut request = vec![];
    while !request.ends_with(b"\r\n\r\n") {
        socket.read_buf(&mut request).await?;
    }
    socket.write_all(bytes).await
}

/// Case 20-slow-upload.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_taken_slowly_is_sent_once() {
    let (api, seen) = serve(|mut socket| async move {
        read_slowly(&mut socket, 48 << 20, 12 << 20).await?;
        socket.write_all(ACCEPTED).await
    })
    .await;
    let began = Instant::now();
    assert_eq!(upload(&api, 48).await.as_deref(), Ok("file-1"));
    assert!(began.elapsed() > PATIENCE.idle + PATIENCE.answer + PATIENCE.longest_drain, "it was slow");
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

/// Case 20-slow-upload: the server thinks after the last byte.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_answered_late_is_sent_once() {
    let late = PATIENCE.answer * 3 / 2;
    let (api, seen) = serve(move |mut socket| async move {
        read_slowly(&mut socket, 4 << 20, 100 << 20).await?;
        tokio::time::sleep(late).await;
        socket.write_all(ACCEPTED).await
    })
    .await;
    assert_eq!(upload(&api, 4).await.as_deref(), Ok("file-1"), "the size adds to the wait");
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_takes_or_answers_is_broken_off_and_says_where_it_stood() {
    let taken = 1 << 20;
    let (api, _) = serve(move |mut socket| async move {
        read_slowly(&mut socket, taken, 100 << 20).await?;
        std::future::pending().await
    })
    .await;
    let error = upload(&api, 64).await.unwrap_err().message;
    assert!(
        error.starts_with("POST http://127.0.0.1:") && error.contains("/v1/files: the server took no byte for"),
        "{error}"
    );
    // The kernels take all of a small file, whatever the server does.
    let error = upload(&api, 0).await.unwrap_err().message;
    assert!(error.contains("no answer within 1 s of the request's last byte"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_for_as_long_as_bytes_come() {
    let (api, seen) = serve(|mut socket| async move {
        answer(&mut socket, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
        for _ in 0..10 {
            tokio::time::sleep(PATIENCE.idle / 4).await;
            socket.write_all(b"{}\n").await?;
        }
        socket.shutdown().await
    })
    .await;
    let content: Vec<Bytes> = api.content("file-1", 1_000).await.unwrap().try_collect().await.unwrap();
    assert_eq!(content.concat().len(), 30);
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_drips_is_broken_off_and_one_that_nobody_reads_is_not() {
    let (api, _) = serve(|mut socket| async move {
        answer(&mut socket, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            socket.write_all(b"{}\n").await?;
        }
    })
    .await;
    let impatient = Patience { grace: SECOND, ..PATIENCE };
    let api = OpenAi::clone(&api).with_patience(impatient);
    let error = api.content("f", 1 << 30).await.unwrap().try_collect::<Vec<Bytes>>().await.unwrap_err().message;
    assert!(error.contains("fewer than 1048576 a second"), "{error}");
    let mut content = api.content("f", 1 << 30).await.unwrap();
    for _ in 0..3 {
        // We are busy elsewhere, such as with a store that takes no more.
        tokio::time::sleep(impatient.grace * 2 / 3).await;
        assert!(content.next().await.unwrap().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_stands_still_is_broken_off() {
    let (api, _) = serve(|mut socket| async move {
        answer(&mut socket, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}\n").await?;
        std::future::pending().await
    })
    .await;
    let content = api.content("file-1", 1_000).await.unwrap();
    let error = content.try_collect::<Vec<Bytes>>().await.unwrap_err().message;
    assert!(error.contains("/v1/files/file-1/content: the server gave no byte for 1 s"), "{error}");
}
