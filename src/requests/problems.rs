//! Faults of an input: the first ones in a message, all of them in a report beside the journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter};

use super::source::Origin;
use crate::api::text::clip;
use crate::store::{DiskUse, Folder, StoreError, layout, staged};

/// Most faults in a message.
const NAMED: usize = 20;
/// Most bytes of a message. A condition keeps 2,048, and other words may precede the message.
const MESSAGE_LIMIT: usize = 1900;
/// Most faults in a report.
const REPORTED: u64 = 100_000;

/// The fault of one request.
#[derive(Clone, Debug)]
struct Problem {
    source: Arc<str>,
    /// The word for the source's entries, such as "line".
    entry: &'static str,
    /// The line, from 1; None for a fault of the source as a whole.
    line: Option<u64>,
    /// The fault and its remedy, without content.
    what: String,
}

/// A line of the report.
#[derive(Serialize)]
struct Reported<'a> {
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    problem: &'a str,
}

/// The faults of an input.
#[derive(Debug, Default)]
pub struct Problems {
    named: Vec<Problem>,
    count: u64,
    /// Directory in which the report is spooled; None if no report is wanted.
    spool: Option<PathBuf>,
    report: Option<BufWriter<File>>,
    disk: DiskUse,
}

impl Problems {
    /// Collects faults. With `spool`, all of them are kept on local disk for a report.
    pub fn new(spool: Option<&Path>) -> Problems {
        Problems { spool: spool.map(Path::to_path_buf), ..Default::default() }
    }

    /// Returns the number of faults.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a fault.
    ///
    /// # Errors
    /// Fails if the local disk does.
    pub async fn add(&mut self, origin: &Origin, line: Option<u64>, what: String) -> Result<(), StoreError> {
        let (source, entry) = (origin.source.clone(), origin.entry);
        let problem = Problem { source, entry, line, what: clip(what, 512) };
        self.count += 1;
        if self.count <= REPORTED {
            self.spool(&problem).await?;
        }
        if self.named.len() < NAMED {
            self.named.push(problem);
        }
        Ok(())
    }

    async fn spool(&mut self, problem: &Problem) -> Result<(), StoreError> {
        let Some(dir) = &self.spool else { return Ok(()) };
        let report = match &mut self.report {
            Some(report) => report,
            None => self.report.insert(BufWriter::new(staged::scratch(dir)?)),
        };
        let reported = Reported { source: &problem.source, line: problem.line, problem: &problem.what };
        let mut line = serde_json::to_vec(&reported).map_err(|e| StoreError::Invalid(e.to_string()))?;
        line.push(b'\n');
        self.disk.set(self.disk.bytes() + line.len() as u64).await;
        report.write_all(&line).await.map_err(staged::local)
    }

    /// Puts the report in place of an earlier one. Returns its URI, or None if no report is wanted.
    ///
    /// # Errors
    /// Fails if the local disk or the store does.
    pub async fn report(&mut self, folder: &Folder, work_id: &str) -> Result<Option<String>, StoreError> {
        let Some(mut report) = self.report.take() else { return Ok(None) };
        report.flush().await.map_err(staged::local)?;
        let mut file = report.into_inner();
        file.rewind().await.map_err(staged::local)?;
        let mut upload = folder.overwrite(layout::REPORT, work_id);
        let mut chunk = vec![0; 256 << 10];
        loop {
            match file.read(&mut chunk).await.map_err(staged::local)? {
                0 => break upload.finish().await?,
                n => upload.write(&chunk[..n]).await?,
            }
        }
        Ok(Some(folder.uri_of(layout::REPORT)))
    }

    /// Returns a message with as many faults as fit, and the URI of the report of all, if there is one.
    pub fn message(&self, report: Option<&str>) -> String {
        let (mut message, mut source) = (String::new(), None);
        for (named, problem) in (0..).zip(&self.named) {
            let again = source.replace(&problem.source) == Some(&problem.source);
            let next = problem.told(again, if named > 0 { "; " } else { "" });
            let left = MESSAGE_LIMIT.saturating_sub(message.len() + self.others(named + 1, report).len());
            if named == 0 {
                message = clip(next, left);
            } else if next.len() <= left {
                message += &next;
            } else {
                return message + &self.others(named, report);
            }
        }
        message + &self.others(self.named.len() as u64, report)
    }

    fn others(&self, named: u64, report: Option<&str>) -> String {
        match (self.count.saturating_sub(named), report) {
            (0, _) => String::new(),
            (others, None) => format!("; and {others} more"),
            (others, Some(uri)) if self.count <= REPORTED => format!("; and {others} more, all in {uri}"),
            (others, Some(uri)) => format!("; and {others} more, the first {REPORTED} of all in {uri}"),
        }
    }
}

impl Problem {
    fn told(&self, again: bool, before: &str) -> String {
        let source = if again { String::new() } else { format!("{}: ", self.source) };
        let line = self.line.map(|line| format!("{} {line}: ", self.entry)).unwrap_or_default();
        format!("{before}{source}{line}{}", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn problems(spool: Option<&Path>, all: impl IntoIterator<Item = (String, Option<u64>, &str)>) -> Problems {
        let mut problems = Problems::new(spool);
        for (source, line, what) in all {
            let origin = Origin { source: source.into(), entry: "line" };
            problems.add(&origin, line, what.into()).await.unwrap();
        }
        problems
    }

    #[tokio::test]
    async fn a_message_names_its_objects_once() {
        let all = [("a", Some(1)), ("a", Some(2)), ("b", None), ("b", Some(3)), ("a", Some(4))];
        let all = problems(None, all.map(|(source, line)| (source.to_string(), line, "bad"))).await;
        let wanted = "a: line 1: bad; line 2: bad; b: bad; line 3: bad; a: line 4: bad";
        assert_eq!(all.message(None), wanted);
    }

    #[tokio::test]
    async fn a_message_names_as_many_as_fit_and_where_the_others_are() {
        let many = (1..=30).map(|n| ("a".to_string(), Some(n), "bad"));
        let message = problems(None, many).await.message(Some("s3://b/r"));
        assert!(message.ends_with("; line 20: bad; and 10 more, all in s3://b/r"), "{message}");
        let long = "x".repeat(600);
        let many: Vec<_> = (1..=9).map(|n| (format!("{n}{}", "s".repeat(300)), Some(n), long.as_str())).collect();
        let message = problems(None, many).await.message(Some("s3://b/r"));
        assert!(message.ends_with("…; and 7 more, all in s3://b/r"), "{message}");
        assert!(message.len() <= 2048 && message.contains("; 2sss"), "{message}");
        let huge = problems(None, [("s".repeat(3000), None, "bad"), ("b".repeat(50), None, "bad")]).await;
        let message = huge.message(Some("s3://b/r"));
        assert!(message.len() <= 2048 && message.ends_with("…; and 1 more, all in s3://b/r"), "{message}");
    }

    #[tokio::test]
    async fn a_report_lists_them_all_up_to_its_limit() {
        let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://out/", "out/");
        let spool = std::env::temp_dir();
        let many = (1..=REPORTED + 5).map(|n| ("a".to_string(), Some(n), "bad"));
        let mut all = problems(Some(&spool), many).await;
        let uri = all.report(&folder, "w").await.unwrap().unwrap();
        assert_eq!(uri, "memory://out/_batchjob/report.jsonl");
        assert!(all.message(Some(&uri)).ends_with("the first 100000 of all in memory://out/_batchjob/report.jsonl"));
        let text = folder.read(layout::REPORT, 1 << 30).await.unwrap().unwrap();
        let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
        assert_eq!((lines.len() as u64, lines[0]), (REPORTED + 1, &br#"{"source":"a","line":1,"problem":"bad"}"#[..]));
        let mut one = problems(Some(&spool), [("b".to_string(), None, "bad")]).await;
        one.report(&folder, "other").await.unwrap();
        let text = folder.read(layout::REPORT, 1 << 30).await.unwrap().unwrap();
        assert_eq!(&text[..], b"{\"source\":\"b\",\"problem\":\"bad\"}\n", "it takes the place of the one before");
        assert_eq!(Problems::new(Some(&spool)).report(&folder, "w").await.unwrap(), None);
    }
}
