//! Servers of somebody else that hang, drip or take slowly.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::eventually;

/// How a server treats whoever connects.
#[derive(Clone)]
pub enum Manner {
    /// It takes everything and never answers.
    Silent,
    /// It begins an answer and gives a byte of it each second.
    Drips,
    /// What is behind it gets the first [`AT_ONCE`] bytes of a connection as they come, and the rest at 1 kB a second.
    TakesSlowly(String),
}

/// Bytes of a file that make its upload a large one: a small one takes in 256 KiB.
const AT_ONCE: usize = 1 << 20;

/// A server of somebody else's, in this process.
pub struct Server {
    pub url: String,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start(manner: Manner) -> Server {
        let socket = TcpSocket::new_v4().unwrap();
        // What the kernel takes in the server's place is not slow.
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let open = connections.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (manner, open) = (manner.clone(), open.clone());
                tokio::spawn(async move { treat(socket, manner, &open).await });
            }
        });
        Server { url, connections }
    }

    /// Connections that are held up now.
    pub fn held(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Waits until so many connections are held up at once.
    pub async fn holds(&self, connections: usize) {
        let held = || async { (self.held() >= connections).then_some(()) };
        eventually(&format!("{connections} connections are held by {}", self.url), 60, held).await;
    }
}

/// A connection that is held up, until this is dropped.
struct HeldUp<'a>(&'a AtomicUsize);

impl<'a> HeldUp<'a> {
    fn at(connections: &'a AtomicUsize) -> HeldUp<'a> {
        connections.fetch_add(1, Ordering::Relaxed);
        HeldUp(connections)
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn treat(mut socket: TcpStream, manner: Manner, connections: &AtomicUsize) -> std::io::Result<()> {
    let mut held_up = (!matches!(manner, Manner::TakesSlowly(_))).then(|| HeldUp::at(connections));
    let mut buffer = vec![0; 16 << 10];
    match manner {
        Manner::Silent => while socket.read(&mut buffer).await? > 0 {},
        Manner::Drips => {
            let (mut reads, mut writes) = socket.split();
            let _ = reads.read(&mut buffer).await?;
            writes
                .write_all(b"HTTP/1.1 200 OK\r\netag: \"1\"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n")
                .await?;
            writes.write_all(b"content-type: application/json\r\ncontent-length: 1000000\r\n\r\n").await?;
            loop {
                tokio::select! {
                    read = reads.read(&mut buffer) => {
                        if read? == 0 {
                            return Ok(());
                        }
                    }
                    () = tokio::time::sleep(Duration::from_secs(1)) => writes.write_all(b" ").await?,
                }
            }
        }
        Manner::TakesSlowly(upstream) => {
            let mut outer = TcpStream::connect(upstream.strip_prefix("http://").unwrap()).await?;
            let (mut from, mut to) = socket.split();
            let (mut answers, mut requests) = outer.split();
            let slowly = async {
                let mut taken = 0;
                loop {
                    let some = if taken < AT_ONCE { buffer.len() } else { 100 };
                    let n = from.read(&mut buffer[..some]).await?;
                    if n == 0 {
                        return Ok::<_, std::io::Error>(());
                    }
                    requests.write_all(&buffer[..n]).await?;
                    taken += n;
                    if taken > AT_ONCE {
                        held_up.get_or_insert_with(|| HeldUp::at(connections));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            };
            tokio::select! {
                ended = slowly => ended?,
                ended = tokio::io::copy(&mut answers, &mut to) => drop(ended?),
            }
        }
    }
    Ok(())
}
