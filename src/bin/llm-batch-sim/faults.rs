//! What shall go wrong, where, and how many times.
//!
//! A new kind of fault is a new [`Action`], the moment it strikes at, and a line where it is
//! carried out.

use std::str::FromStr;
use std::sync::Mutex;

use serde::de::IntoDeserializer;
use serde::de::value::Error as NameError;
use serde::{Deserialize, Serialize};

use crate::app::lock;

/// A request that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// `POST /v1/files`.
    Upload,
    /// `GET /v1/files/{id}`.
    GetFile,
    /// `GET /v1/files`.
    ListFiles,
    /// `GET /v1/files/{id}/content`.
    Content,
    /// `DELETE /v1/files/{id}`.
    DeleteFile,
    /// `POST /v1/batches`.
    CreateBatch,
    /// `GET /v1/batches/{id}`.
    GetBatch,
    /// `GET /v1/batches`.
    ListBatches,
    /// `POST /v1/batches/{id}/cancel`.
    CancelBatch,
}

/// How it goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// It is done, and the connection is cut before any byte of the reply.
    DropReply,
    /// The connection is cut and nothing is done.
    DropRequest,
    /// Nothing is done and this is the answer.
    Status {
        /// The answer's status.
        status: u16,
        /// Seconds, for a `Retry-After` header.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        /// The answer's body instead of an ordinary error.
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// When a request comes in.
    Arrival,
    /// When a request was carried out and its success is about to be told.
    Reply,
}

impl Action {
    fn moment(&self) -> Moment {
        match self {
            Self::DropReply => Moment::Reply,
            Self::DropRequest | Self::Status { .. } => Moment::Arrival,
        }
    }
}

/// Something that shall go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wish")]
pub struct Fault {
    point: Point,
    #[serde(flatten)]
    action: Action,
    times: u32,
}

/// A fault as people write it, before it is known to make sense.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    point: Point,
    action: Kind,
    #[serde(default = "once")]
    times: u32,
    status: Option<u16>,
    retry_after: Option<u64>,
    body: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    DropReply,
    DropRequest,
    Status,
}

fn once() -> u32 {
    1
}

/// Why a fault makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Not `POINT=ACTION[:STATUS][*TIMES]`.
    #[error("write POINT=ACTION[:STATUS][*TIMES], for example create_batch=drop_reply*1")]
    Shape,
    /// No such point or action.
    #[error("{0}")]
    Name(#[from] NameError),
    /// It would never happen.
    #[error("times must be at least 1")]
    Never,
    /// An action without its status, or with a status that no answer can have.
    #[error("a status fault needs a status from 200 to 599")]
    Status,
    /// Fields that the action has no use for.
    #[error("only a status fault has status, retry_after and body")]
    Surplus,
}

impl TryFrom<Wish> for Fault {
    type Error = FaultError;

    fn try_from(wish: Wish) -> Result<Self, FaultError> {
        if wish.times == 0 {
            return Err(FaultError::Never);
        }
        let plain = wish.status.is_none() && wish.retry_after.is_none() && wish.body.is_none();
        let action = match wish.action {
            Kind::Status => Action::Status {
                status: wish.status.filter(|status| (200..600).contains(status)).ok_or(FaultError::Status)?,
                retry_after: wish.retry_after,
                body: wish.body,
            },
            _ if !plain => return Err(FaultError::Surplus),
            Kind::DropReply => Action::DropReply,
            Kind::DropRequest => Action::DropRequest,
        };
        Ok(Self { point: wish.point, action, times: wish.times })
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
        let (action, status) = match rest.split_once(':') {
            Some((action, status)) => (action, Some(status.parse().map_err(|_| FaultError::Status)?)),
            None => (rest, None),
        };
        Wish { point: named(point)?, action: named(action)?, times, status, retry_after: None, body: None }.try_into()
    }
}

fn named<'de, T: Deserialize<'de>>(name: &'de str) -> Result<T, NameError> {
    T::deserialize(name.into_deserializer())
}

/// The faults that are left.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    /// Starts with these.
    pub fn new(faults: Vec<Fault>) -> Self {
        Self(Mutex::new(faults))
    }

    /// Adds one after all others.
    pub fn add(&self, fault: Fault) {
        lock(&self.0).push(fault);
    }

    /// Forgets all.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// What is left.
    pub fn left(&self) -> Vec<Fault> {
        lock(&self.0).clone()
    }

    /// Uses up one time of the first fault of this point, if its moment is this one. Faults of a
    /// point strike in the order they were added.
    pub fn take(&self, point: Point, moment: Moment) -> Option<Action> {
        let mut faults = lock(&self.0);
        let place = faults.iter().position(|fault| fault.point == point)?;
        let fault = faults.get_mut(place).filter(|fault| fault.action.moment() == moment)?;
        let action = fault.action.clone();
        fault.times -= 1;
        if fault.times == 0 {
            faults.remove(place);
        }
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Action {
        Action::Status { status, retry_after: None, body: None }
    }

    #[test]
    fn a_flag_and_its_json_are_the_same_fault() -> Result<(), Box<dyn std::error::Error>> {
        let flag: Fault = "create_batch=status:503*2".parse()?;
        let json = r#"{"point":"create_batch","action":"status","status":503,"times":2}"#;
        assert_eq!(flag, serde_json::from_str(json)?);
        assert_eq!(flag, serde_json::from_str(&serde_json::to_string(&flag)?)?);
        Ok(())
    }

    #[test]
    fn a_fault_that_would_do_nothing_is_refused() {
        for flag in [
            "create_batch",
            "create_bach=drop_reply",
            "upload=drop",
            "upload=status",
            "upload=status:42",
            "upload=drop_reply:503",
            "upload=drop_reply*0",
        ] {
            assert!(flag.parse::<Fault>().is_err(), "{flag}");
        }
        let typo = r#"{"point":"upload","action":"drop_reply","time":2}"#;
        assert!(serde_json::from_str::<Fault>(typo).is_err());
    }

    #[test]
    fn faults_of_a_point_strike_in_order_and_are_used_up() -> Result<(), FaultError> {
        let faults = Faults::new(vec!["upload=drop_reply".parse()?, "upload=status:500*2".parse()?]);
        assert_eq!(faults.take(Point::Content, Moment::Arrival), None);
        assert_eq!(faults.take(Point::Upload, Moment::Arrival), None);
        assert_eq!(faults.take(Point::Upload, Moment::Reply), Some(Action::DropReply));
        assert_eq!(faults.take(Point::Upload, Moment::Arrival), Some(status(500)));
        assert_eq!(faults.take(Point::Upload, Moment::Arrival), Some(status(500)));
        assert_eq!(faults.take(Point::Upload, Moment::Arrival), None);
        assert_eq!(faults.left(), []);
        Ok(())
    }
}
