//! Objects that a job or a provider refers to and that do not exist, or cannot be used as they are.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

use super::error::StepError;
use crate::controller::Context;
use crate::lifecycle::Blocked;

/// The reason why a referenced object cannot be used.
pub(crate) enum Missing {
    /// A person must fix it.
    Blocked(Blocked),
    /// A person must create the object.
    Absent(Absent),
    /// The state of the object is unknown now.
    Unknown(StepError),
}

/// An object that does not exist.
pub(crate) struct Absent {
    pub reason: &'static str,
    /// Such as `Secret 's3', which `spec.output` names,`.
    pub what: String,
    pub namespace: String,
    /// An alternative to creating it; empty if there is none.
    pub or: &'static str,
}

impl Missing {
    /// Returns the problem that a person must fix.
    ///
    /// # Errors
    /// When the state of the object is unknown now.
    pub fn blocked(self) -> Result<Blocked, StepError> {
        match self {
            Missing::Blocked(blocked) => Ok(blocked),
            Missing::Absent(Absent { reason, what, namespace, or }) => {
                let message = format!("{what} was not found in namespace '{namespace}'; create it{or}");
                Ok(Blocked { reason, message })
            }
            Missing::Unknown(error) => Err(error),
        }
    }
}

impl From<Missing> for StepError {
    fn from(missing: Missing) -> Self {
        missing.blocked().map_or_else(|error| error, |blocked| StepError::lasting(blocked.reason, blocked.message))
    }
}

/// Returns true if the absent object cannot be created again: its namespace is being deleted, or gone.
pub(crate) async fn is_going(ctx: &Context, absent: &Absent) -> Result<bool, StepError> {
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    let namespace = namespaces.get_metadata_opt(&absent.namespace).await?;
    Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

impl From<kube::Error> for Missing {
    fn from(error: kube::Error) -> Self {
        Missing::Unknown(error.into())
    }
}

pub(crate) fn blocked<T>(reason: &'static str, message: String) -> Result<T, Missing> {
    Err(Missing::Blocked(Blocked { reason, message }))
}
