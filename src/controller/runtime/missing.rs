//! Objects that a job or a provider refers to and that do not exist, or cannot be used as they are.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

use super::trouble::Trouble;
use crate::controller::Context;
use crate::lifecycle::Stuck;

/// The reason why a referenced object cannot be used.
pub(crate) enum Missing {
    /// A person must fix it.
    Stuck(Stuck),
    /// A person must create the object.
    Absent(Absent),
    /// Nobody can tell now.
    Unknown(Trouble),
}

/// An object that does not exist.
pub(crate) struct Absent {
    pub reason: &'static str,
    /// Such as `Secret 's3', which "spec.output" names,`.
    pub what: String,
    pub namespace: String,
    /// Another remedy than creating it, if there is one.
    pub or: &'static str,
}

impl Missing {
    /// What a person must mend.
    ///
    /// # Errors
    /// When nobody can tell now.
    pub fn stuck(self) -> Result<Stuck, Trouble> {
        match self {
            Missing::Stuck(stuck) => Ok(stuck),
            Missing::Absent(Absent { reason, what, namespace, or }) => {
                let message = format!("{what} was not found in namespace '{namespace}'; create it{or}");
                Ok(Stuck { reason, message })
            }
            Missing::Unknown(trouble) => Err(trouble),
        }
    }
}

impl From<Missing> for Trouble {
    fn from(missing: Missing) -> Self {
        missing.stuck().map_or_else(|trouble| trouble, |stuck| Trouble::lasting(stuck.reason, stuck.message))
    }
}

/// Returns whether the absent object cannot be created again: its namespace is being deleted, or gone.
pub(crate) async fn is_going(ctx: &Context, absent: &Absent) -> Result<bool, Trouble> {
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    let namespace = namespaces.get_metadata_opt(&absent.namespace).await?;
    Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

impl From<kube::Error> for Missing {
    fn from(error: kube::Error) -> Self {
        Missing::Unknown(error.into())
    }
}

pub(crate) fn stuck<T>(reason: &'static str, message: String) -> Result<T, Missing> {
    Err(Missing::Stuck(Stuck { reason, message }))
}
