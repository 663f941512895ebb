//! What was billed, once and for all: an append-only file of JSON lines.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Serialize;

use crate::app::lock;

/// A line that was executed and is paid for.
#[derive(Debug, Serialize)]
pub struct Charge<'a> {
    /// Who pays.
    pub account: &'a str,
    /// For which batch.
    pub batch_id: &'a str,
    /// Its input file.
    pub file_id: &'a str,
    /// That file's name.
    pub filename: &'a str,
    /// The line's own id.
    pub custom_id: String,
    /// Of the line's body, with sorted keys and without spaces.
    pub request_sha256: String,
    /// The model that was asked for.
    pub model: &'a str,
    /// The tokens of its prompt; of embeddings, those of its inputs.
    pub input_tokens: u64,
    /// Those of them that were cached.
    pub cached_input_tokens: u64,
    /// The tokens of its answer.
    pub output_tokens: u64,
    /// Those of them that were spent on reasoning.
    pub reasoning_tokens: u64,
    /// Unix seconds.
    pub billed_at: i64,
}

#[derive(Serialize)]
struct Record<'a> {
    seq: u64,
    #[serde(flatten)]
    charge: &'a Charge<'a>,
}

/// Every charge there ever was, numbered from 1.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    file: File,
    bytes: u64,
    records: u64,
}

impl Ledger {
    /// Continues the ledger at `path`, or begins one. A last line that a crash cut short was
    /// never told to anyone and is dropped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let (mut bytes, mut records) = (0, 0);
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            bytes += line.len() as u64;
            records += 1;
            line.clear();
        }
        file.set_len(bytes)?;
        Ok(Self { path: path.to_owned(), end: Mutex::new(End { file, bytes, records }) })
    }

    /// Adds charges: all of them or, when the disk refuses, none.
    pub fn append(&self, charges: &[Charge<'_>]) -> io::Result<()> {
        let mut end = lock(&self.end);
        let mut lines = Vec::new();
        for (seq, charge) in (end.records + 1..).zip(charges) {
            serde_json::to_writer(&mut lines, &Record { seq, charge })?;
            lines.push(b'\n');
        }
        if let Err(error) = end.file.write_all(&lines) {
            end.file.set_len(end.bytes)?;
            return Err(error);
        }
        end.bytes += lines.len() as u64;
        end.records += charges.len() as u64;
        Ok(())
    }

    /// How many charges there are.
    pub fn len(&self) -> u64 {
        lock(&self.end).records
    }

    /// All charges so far as JSON lines, and how many bytes they are.
    pub fn read(&self) -> io::Result<(File, u64)> {
        let bytes = lock(&self.end).bytes;
        Ok((File::open(&self.path)?, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn charge(custom_id: &str) -> Charge<'static> {
        Charge {
            account: "default",
            batch_id: "batch_1",
            file_id: "file-1",
            filename: "in.jsonl",
            custom_id: custom_id.to_owned(),
            request_sha256: "00".to_owned(),
            model: "m",
            input_tokens: 1,
            cached_input_tokens: 0,
            output_tokens: 1,
            reasoning_tokens: 0,
            billed_at: 1,
        }
    }

    fn told(ledger: &Ledger) -> io::Result<Vec<(u64, String)>> {
        let (file, bytes) = ledger.read()?;
        let mut told = Vec::new();
        for line in BufReader::new(file.take(bytes)).lines() {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            let seq = line["seq"].as_u64().unwrap_or_default();
            told.push((seq, line["custom_id"].as_str().unwrap_or_default().to_owned()));
        }
        Ok(told)
    }

    #[test]
    fn it_goes_on_where_it_stopped_and_drops_a_cut_line() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("ledger.jsonl");
        let ledger = Ledger::open(&path)?;
        ledger.append(&[charge("a"), charge("b")])?;
        drop(ledger);
        OpenOptions::new().append(true).open(&path)?.write_all(b"{\"seq\":3,")?;

        let ledger = Ledger::open(&path)?;
        assert_eq!(ledger.len(), 2);
        ledger.append(&[charge("c")])?;
        let expected = [(1, "a".to_owned()), (2, "b".to_owned()), (3, "c".to_owned())];
        assert_eq!(told(&ledger)?, expected);
        Ok(())
    }
}
