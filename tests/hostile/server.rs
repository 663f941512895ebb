//! A server that says whatever it is told to, byte by byte.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What comes after the bytes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The connection ends as it should.
    Close,
    /// Nothing, until the client gives up.
    Hang,
    /// These bytes, again and again.
    Endless(&'static [u8]),
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub bytes: Vec<u8>,
    pub then: Then,
}

/// A server on loopback; it ends with the test's runtime.
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Gives `answer` of each request's number, from 0, and first line.
    pub async fn start(answer: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(vec![]));
        let (log, answer) = (seen.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (log, answer) = (log.clone(), answer.clone());
                tokio::spawn(async move {
                    let _ = talk(socket, &log, &*answer).await;
                });
            }
        });
        Server { url, seen }
    }

    /// The first lines of the requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request a connection.
async fn talk(
    mut socket: TcpStream,
    log: &Mutex<Vec<String>>,
    answer: &(dyn Fn(usize, &str) -> Answer + Send + Sync),
) -> std::io::Result<()> {
    let mut request = vec![];
    let head = loop {
        if let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
    while request.len() < head + length {
        if socket.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let first = String::from_utf8_lossy(&request[..head]).lines().next().unwrap_or_default().to_string();
    let number = {
        let mut log = log.lock().unwrap();
        log.push(first.clone());
        log.len() - 1
    };
    let Answer { bytes, then } = answer(number, &first);
    socket.write_all(&bytes).await?;
    match then {
        Then::Close => socket.shutdown().await,
        Then::Hang => {
            // Until the other side hangs up.
            while socket.read(&mut [0; 64]).await? > 0 {}
            Ok(())
        }
        Then::Endless(more) => {
            let more = more.repeat((65_536 / more.len()).max(1));
            loop {
                socket.write_all(&more).await?;
            }
        }
    }
}
