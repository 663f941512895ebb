//! Calls of the operator, named so that the n-th of a kind is the same one in every run.

use std::fmt;

use http::Method;

/// Which way out a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    Kubernetes,
    Storage,
    Provider,
    Webhook,
}

/// A kind of call: what it asks for, without the names that chance gives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    pub way: Way,
    /// A watch is a method of its own: WATCH.
    pub method: String,
    pub shape: String,
}

/// What befalls a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The operator dies before the call is sent.
    CrashBefore,
    /// The operator dies when the call has had its effect.
    CrashAfter,
    /// The connection breaks, and nothing arrived.
    LostRequest,
    /// The connection breaks when the call has had its effect.
    LostReply,
    /// The connection breaks, and the call arrives after all, later, whether or not its sender still lives.
    Late,
    /// The server answers this and does nothing.
    Answer(u16),
    /// The server acts, and answers this.
    AnswerAfter(u16),
    /// The call is held up.
    Delay,
    /// The answer is one that was true before.
    Stale,
}

const FAULTS: [(Fault, &str); 13] = [
    (Fault::CrashBefore, "crash-before"),
    (Fault::CrashAfter, "crash-after"),
    (Fault::LostRequest, "lost-request"),
    (Fault::LostReply, "lost-reply"),
    (Fault::Late, "late"),
    (Fault::Answer(409), "409"),
    (Fault::Answer(429), "429"),
    (Fault::Answer(500), "500"),
    (Fault::Answer(503), "503"),
    (Fault::AnswerAfter(500), "500-after"),
    (Fault::AnswerAfter(503), "503-after"),
    (Fault::Delay, "delay"),
    (Fault::Stale, "stale"),
];

/// A fault at the n-th call of a kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    pub call: Call,
    /// From 1.
    pub nth: usize,
    pub fault: Fault,
}

impl Call {
    /// The kind of a call to `path` with `query`.
    pub fn new(way: Way, method: &Method, path: &str, query: &str) -> Call {
        let watch = way == Way::Kubernetes && query.contains("watch=true");
        let shape = match way {
            Way::Kubernetes => kubernetes(path),
            Way::Storage => storage(path, query),
            Way::Provider => masked(path.trim_start_matches("/v1/")),
            // The path is a credential, and another one in each story.
            Way::Webhook => "hook".into(),
        };
        Call { way, method: if watch { "WATCH".into() } else { method.to_string() }, shape }
    }

    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "WATCH")
    }

    /// Whether the other side may give an answer that was true before. Object stores promise not to.
    pub fn may_be_stale(&self) -> bool {
        let of_batches = self.way == Way::Provider && self.shape.starts_with("batches");
        self.method == "GET" && (self.way == Way::Kubernetes || of_batches)
    }

    pub fn is(&self, way: Way, method: &str, shape: &str) -> bool {
        self.way == way && self.method == method && self.shape == shape
    }

    /// The faults that make a difference. A crash after a read is one before the next call.
    pub fn faults(&self) -> Vec<Fault> {
        let makes_sense = |fault: &Fault| match fault {
            Fault::CrashBefore | Fault::LostReply | Fault::Delay => true,
            Fault::Answer(409) => !self.is_read(),
            Fault::Answer(_) => true,
            Fault::Stale => self.may_be_stale(),
            // The API server refuses what comes late by its resourceVersion; an upload's source dies with the operator.
            Fault::Late => !self.is_read() && self.way != Way::Kubernetes && !self.is(Way::Provider, "POST", "files"),
            Fault::CrashAfter | Fault::LostRequest | Fault::AnswerAfter(_) => !self.is_read(),
        };
        FAULTS.iter().map(|(fault, _)| *fault).filter(makes_sense).collect()
    }
}

/// `/apis/llmbatch.dev/v1alpha1/namespaces/shop/batchjobs/j/status` is `batchjobs/j/status`; a BatchJob of a schedule is `*`.
fn kubernetes(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let rest = match parts.as_slice() {
        ["api", _, "namespaces", _, rest @ ..] | ["apis", _, _, "namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        all => all,
    };
    match rest {
        ["events", _] => "events/*".into(),
        rest => masked(&rest.join("/")),
    }
}

/// `/tests/shop/out/j/_batchjob/0f…/shards/ab….jsonl.zst` is `_batchjob/*/shards/*.jsonl.zst`; a list is `?list-type`. Files of
/// partial results, one a batch, are one kind.
fn storage(path: &str, query: &str) -> String {
    let name = path.split_once("/out/j/").map_or(path.trim_start_matches('/'), |(_, name)| name);
    let name = match name.split_once('.') {
        Some(("results", file)) if file.ends_with(".jsonl") => "results.partial/*.jsonl",
        _ => name,
    };
    let asked = query.split('&').filter_map(|pair| pair.split('=').next());
    let asked = asked.filter(|key| matches!(*key, "uploads" | "uploadId" | "list-type" | "delete"));
    asked.fold(masked(name), |shape, key| format!("{shape}?{key}"))
}

/// Random names masked: what has eight or more hexadecimal digits in a row.
fn masked(path: &str) -> String {
    let segment = |part: &str| {
        let digits = part.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or(0);
        match (digits >= 8, part.split_once('.')) {
            (false, _) => part.to_string(),
            (true, None) => "*".into(),
            (true, Some((_, ending))) => format!("*.{ending}"),
        }
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Way::Kubernetes => "kube",
            Way::Storage => "s3",
            Way::Provider => "llm",
            Way::Webhook => "hook",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(FAULTS.iter().find(|(fault, _)| fault == self).map_or("?", |(_, name)| name))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} {}", self.way, self.method, self.shape)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} #{} {}", self.call, self.nth, self.fault)
    }
}

impl std::str::FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        let wanted = || format!("'{text}' is not like 's3 PUT _batchjob/journal.json #3 crash-after'");
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [way, method, shape, nth, fault] = parts.as_slice() else { return Err(wanted()) };
        let way =
            [Way::Kubernetes, Way::Storage, Way::Provider, Way::Webhook].into_iter().find(|w| w.to_string() == *way);
        let nth = nth.strip_prefix('#').and_then(|n| n.parse().ok());
        let fault = FAULTS.iter().find(|(_, name)| name == fault).map(|(fault, _)| *fault);
        let call = Call { way: way.ok_or_else(wanted)?, method: method.to_string(), shape: shape.to_string() };
        Ok(Point { call, nth: nth.ok_or_else(wanted)?, fault: fault.ok_or_else(wanted)? })
    }
}
