//! Faults as people write them: a flag, or JSON.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Action, Fault, Flaw, Point, Wire};

/// A fault before it is known to make sense.
#[derive(Debug, Deserialize)]
pub(super) struct Wish {
    point: Point,
    #[serde(default = "once")]
    times: u32,
    /// The action and what belongs to it.
    #[serde(flatten)]
    action: Map<String, Value>,
}

fn once() -> u32 {
    1
}

/// Why a fault makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Not `POINT=ACTION[:VALUE][*TIMES]`.
    #[error("write POINT=ACTION[:VALUE][*TIMES], for example create_batch=drop_reply*1")]
    Shape,
    /// No such point, no such action at this point, or fields that the action has no use for.
    #[error("{0}")]
    Names(#[from] serde_json::Error),
    /// A value that would do nothing or cannot be done.
    #[error("{0}")]
    Range(&'static str),
}

/// Why a file of faults is refused.
#[derive(Debug, thiserror::Error)]
pub enum FaultsFileError {
    /// It cannot be read.
    #[error("cannot read the faults in {file}: {source}")]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a list of faults.
    #[error("the faults in {file} are not a list of faults: {source}")]
    Parse {
        /// Which.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Reads a file of faults.
pub fn load(file: &Path) -> Result<Vec<Fault>, FaultsFileError> {
    let text = std::fs::read(file).map_err(|source| FaultsFileError::Read { file: file.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| FaultsFileError::Parse { file: file.to_owned(), source })
}

impl TryFrom<Wish> for Fault {
    type Error = FaultError;

    fn try_from(wish: Wish) -> Result<Self, FaultError> {
        let action = match wish.point {
            Point::Batch => Action::Flaw(read(wish.action)?),
            _ => Action::Wire(read(wish.action)?),
        };
        let complaint = match &action {
            _ if wish.times == 0 => Some("times must be at least 1"),
            Action::Wire(wire) => match wire.place() {
                Some((point, complaint)) if wish.point != point => Some(complaint),
                _ => wire.complaint(),
            },
            Action::Flaw(flaw) => flaw.complaint(),
        };
        match complaint {
            Some(complaint) => Err(FaultError::Range(complaint)),
            None => Ok(Self { point: wish.point, action, times: wish.times }),
        }
    }
}

fn read<T: DeserializeOwned>(action: Map<String, Value>) -> serde_json::Result<T> {
    serde_json::from_value(Value::Object(action))
}

impl Wire {
    fn complaint(&self) -> Option<&'static str> {
        match self {
            Self::Status { status, .. } if !(200..600).contains(status) => Some("a status is from 200 to 599"),
            Self::Deny { status, .. } if !(400..600).contains(status) => Some("an error's status is from 400 to 599"),
            Self::Redirect { status, .. } if !(300..400).contains(status) => {
                Some("a redirect's status is from 300 to 399")
            }
            Self::Redirect { location, .. } if !is_location(location) => Some("a location is a URL in ASCII"),
            Self::Delay { milliseconds: 0 } => Some("milliseconds must be at least 1"),
            Self::Lag { seconds: 0 } => Some("seconds must be at least 1"),
            _ => None,
        }
    }
}

/// Whether it can stand in a header.
fn is_location(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

impl Flaw {
    fn complaint(&self) -> Option<&'static str> {
        match self {
            Self::Expire { after } | Self::Stuck { after } if !(0.0..=1.0).contains(after) => {
                Some("after is a share, from 0 to 1")
            }
            Self::LoseRows { rows: 0 }
            | Self::DoubleRows { rows: 0 }
            | Self::ForeignRows { rows: 0 }
            | Self::OddRows { rows: 0, .. }
            | Self::FailRows { rows: 0, .. } => Some("rows must be at least 1"),
            Self::FailRows { status, .. } if !(400..600).contains(status) => {
                Some("the status of a row that fails is from 400 to 599")
            }
            Self::LongFileId { characters } if !(1..=8_192).contains(characters) => {
                Some("characters are from 1 to 8192")
            }
            Self::TotalsDiffer { tokens: 0 } => Some("tokens must be at least 1"),
            Self::Fail { code, .. } if code.is_empty() => Some("code must not be empty"),
            Self::OddState { state } if state.is_empty() => Some("state must not be empty"),
            _ => None,
        }
    }
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (point, rest) = text.split_once('=').ok_or(FaultError::Shape)?;
        let (rest, times) = match rest.split_once('*') {
            Some((rest, times)) => (rest, times.parse().map_err(|_| FaultError::Shape)?),
            None => (rest, once()),
        };
        let (name, value) = match rest.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (rest, None),
        };
        let mut action = Map::from_iter([("action".to_owned(), json!(name))]);
        if let Some(value) = value {
            let (field, value) = field(name, value).ok_or(FaultError::Shape)?;
            action.insert(field.to_owned(), value);
        }
        Wish { point: serde_json::from_value(json!(point))?, times, action }.try_into()
    }
}

/// What the value of a flag is about.
fn field(action: &str, value: &str) -> Option<(&'static str, Value)> {
    let field = match action {
        "fail" => return Some(("code", json!(value))),
        "odd_state" => return Some(("state", json!(value))),
        "odd_rows" => return Some(("shape", json!(value))),
        "redirect" => return Some(("location", json!(value))),
        "status" | "deny" => "status",
        "delay" => "milliseconds",
        "truncate" => "bytes",
        "lag" => "seconds",
        "long_file_id" => "characters",
        "totals_differ" => "tokens",
        "expire" | "stuck" => "after",
        "lose_rows" | "double_rows" | "foreign_rows" | "fail_rows" => "rows",
        _ => return None,
    };
    let number = serde_json::from_str(value).ok().filter(Value::is_number)?;
    Some((field, number))
}
