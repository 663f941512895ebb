//! A server for the tests of this program, and a client that sees what is on the wire.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::accounts::Accounts;
use crate::answers::Answers;
use crate::api;
use crate::app::{App, Settings, Shared};
use crate::bodies::Appetite;
use crate::durations::Durations;
use crate::faults::Faults;
use crate::ledger::Ledger;
use crate::serve;
use crate::validate::Limits;

/// What a test may fail with.
pub type Failure = Box<dyn std::error::Error>;

/// How long a test waits for something that happens on another thread.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a port of its own.
pub struct Server {
    pub app: Shared,
    pub address: SocketAddr,
    _dir: TempDir,
}

/// An answer.
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Result<Value, Failure> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    pub fn lines(&self) -> Result<Vec<Value>, Failure> {
        let lines = self.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| Ok(serde_json::from_slice(line)?)).collect()
    }
}

impl Server {
    /// Serves with these keys, this long for a batch, and these rules.
    pub async fn start(keys: &[&str], duration: Duration, rules: &Value) -> Result<Self, Failure> {
        Self::with(keys, duration, rules, (vec![], u64::MAX)).await
    }

    /// A server that has this model only, looks into files when they are uploaded, and has room for so many requests.
    pub async fn strict(model: &str, enqueued: u64, duration: Duration) -> Result<Self, Failure> {
        Self::with(&[], duration, &Value::Array(vec![]), (vec![model.to_owned()], enqueued)).await
    }

    async fn with(
        keys: &[&str],
        duration: Duration,
        rules: &Value,
        (models, enqueued): (Vec<String>, u64),
    ) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let answers = dir.path().join("answers.json");
        std::fs::write(&answers, rules.to_string())?;
        let contents = dir.path().join("contents");
        std::fs::create_dir(&contents)?;
        let settings = Settings {
            accounts: Accounts::new(keys.iter().map(|key| (*key).to_owned()).collect())?,
            appetite: Appetite::default(),
            answers: Answers::load(&answers)?,
            limits: Limits { requests: 50_000, bytes: 1 << 20, enqueued },
            seed: 1,
            contents,
            faults: Faults::default(),
            models,
            durations: Durations::always(duration),
        };
        let app = App::new(settings, Ledger::open(&dir.path().join("ledger.jsonl"))?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve::accept(listener, api::router(app.clone())));
        Ok(Self { app, address, _dir: dir })
    }

    /// A server that lets everyone in, echoes, and is done at once.
    pub async fn plain() -> Result<Self, Failure> {
        Self::start(&[], Duration::ZERO, &Value::Array(vec![])).await
    }

    /// Asks on a connection of its own. An error when not a byte comes back.
    pub async fn send(&self, key: &str, request: &str, kind: &str, body: &str) -> io::Result<Reply> {
        let mut stream = TcpStream::connect(self.address).await?;
        let head = format!(
            "{request} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n\
             authorization: Bearer {key}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let body = bytes.split_off(end.ok_or(io::ErrorKind::UnexpectedEof)? + 4);
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Reply { status: status.ok_or(io::ErrorKind::InvalidData)?, head, body })
    }

    pub async fn get(&self, path: &str) -> io::Result<Reply> {
        self.send("", &format!("GET {path}"), "text/plain", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> io::Result<Reply> {
        let request = format!("POST {path}");
        self.send("", &request, "application/json", &body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> io::Result<Reply> {
        self.send("", &format!("DELETE {path}"), "text/plain", "").await
    }

    /// Uploads a batch's input.
    pub async fn upload(&self, key: &str, content: &str) -> io::Result<Reply> {
        let kind = "multipart/form-data; boundary=xyz";
        self.send(key, "POST /v1/files", kind, &form(content)).await
    }

    /// Uploads an input and orders a batch for it; the id of the batch.
    pub async fn order(&self, content: &str) -> Result<String, Failure> {
        let file = self.upload("", content).await?.json()?;
        let batch = self.post("/v1/batches", &wish(id(&file))).await?.json()?;
        Ok(id(&batch).to_owned())
    }

    /// Asks for a batch until it is as wanted.
    pub async fn batch(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
        let start = Instant::now();
        loop {
            let batch = self.get(&format!("/v1/batches/{id}")).await?.json()?;
            if wanted(&batch) {
                return Ok(batch);
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("the batch stays {batch}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The rows of a result file; none when there is no file.
    pub async fn rows(&self, file_id: &Value) -> Result<Vec<Value>, Failure> {
        let Some(id) = file_id.as_str() else {
            return Ok(vec![]);
        };
        self.get(&format!("/v1/files/{id}/content")).await?.lines()
    }

    /// Orders something to go wrong.
    pub async fn fault(&self, fault: Value) -> Result<(), Failure> {
        let reply = self.post("/admin/faults", &fault).await?;
        if reply.status == 200 { Ok(()) } else { Err(String::from_utf8(reply.body)?.into()) }
    }

    pub async fn ledger(&self) -> Result<Vec<Value>, Failure> {
        self.get("/admin/ledger").await?.lines()
    }

    /// How many files' contents are on the disk.
    pub fn contents(&self) -> io::Result<usize> {
        Ok(std::fs::read_dir(&self.app.settings.contents)?.count())
    }
}

/// The form of an upload.
pub fn form(content: &str) -> String {
    format!(
        "--xyz\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --xyz\r\ncontent-disposition: form-data; name=\"expires_after[seconds]\"\r\n\r\n3600\r\n\
         --xyz\r\ncontent-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n\
         {content}\r\n--xyz--\r\n"
    )
}

/// Lines of a chat, each saying its text.
pub fn chats<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let lines = texts.into_iter().enumerate().map(|(index, text)| {
        let messages = serde_json::json!([{"role": "user", "content": text.as_ref()}]);
        let line = serde_json::json!({
            "custom_id": format!("r{index}"), "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": messages},
        });
        format!("{line}\n")
    });
    lines.collect()
}

/// What a batch is ordered with.
pub fn wish(file_id: &str) -> Value {
    serde_json::json!({
        "input_file_id": file_id, "endpoint": "/v1/chat/completions",
        "completion_window": "24h", "metadata": {"intent": "i-1"},
    })
}

pub fn id(object: &Value) -> &str {
    object["id"].as_str().unwrap_or_default()
}

/// A column of rows, sorted.
pub fn sorted(rows: &[Value], column: &str) -> Vec<String> {
    let mut column: Vec<_> = rows.iter().map(|row| row[column].as_str().unwrap_or_default().to_owned()).collect();
    column.sort();
    column
}

pub fn ended(batch: &Value) -> bool {
    ["completed", "failed", "expired", "cancelled"].contains(&batch["status"].as_str().unwrap_or_default())
}
