//! The abilities of an account at a batch API, as its status shows them.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An ability of an account that helps to resolve a submission whose reply was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Listing of batches, which finds one whose reply was lost.
    ListBatches,
    /// Deletion of files: no batch is made of a file that was deleted.
    DeleteFiles,
}

impl Capability {
    /// All abilities, in the order in which a status lists them.
    const ALL: [Capability; 2] = [Capability::ListBatches, Capability::DeleteFiles];

    /// Returns the name in the API, such as `ListBatches`.
    pub fn name(self) -> &'static str {
        match self {
            Capability::ListBatches => "ListBatches",
            Capability::DeleteFiles => "DeleteFiles",
        }
    }

    /// Returns the ability of this name; None for one that this program does not know.
    fn named(name: &str) -> Option<Capability> {
        Capability::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// The set of abilities that an account was seen to have.
///
/// It is serialized as a list of names. Unknown names, of later versions, are skipped when it is read.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ProviderCapabilities {
    /// One bit for each ability, by its position in the enum.
    bits: u8,
}

impl ProviderCapabilities {
    /// Creates the set of these abilities.
    pub const fn of(capabilities: &[Capability]) -> Self {
        let (mut bits, mut next) = (0, 0);
        while next < capabilities.len() {
            bits |= 1 << capabilities[next] as u8;
            next += 1;
        }
        ProviderCapabilities { bits }
    }

    /// Returns whether the ability is in the set.
    pub fn has(self, capability: Capability) -> bool {
        self.bits & (1 << capability as u8) != 0
    }

    /// Returns whether the set has [`Capability::ListBatches`].
    pub fn list_batches(self) -> bool {
        self.has(Capability::ListBatches)
    }

    /// Returns whether the set has [`Capability::DeleteFiles`].
    pub fn delete_files(self) -> bool {
        self.has(Capability::DeleteFiles)
    }

    /// Returns whether the outcome of a submission whose reply was lost can be found out without a person.
    pub fn can_resolve(self) -> bool {
        self.list_batches() && self.delete_files()
    }

    /// Returns the abilities in the set, in the order in which a status lists them.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |capability| self.has(*capability))
    }
}

impl FromIterator<Capability> for ProviderCapabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        ProviderCapabilities::of(&capabilities.into_iter().collect::<Vec<_>>())
    }
}

impl fmt::Debug for ProviderCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for ProviderCapabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Capability::name))
    }
}

impl<'de> Deserialize<'de> for ProviderCapabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A list, or an object of booleans, which earlier versions wrote. Their statuses are read until they are
        /// written anew.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            Names(Vec<String>),
            #[serde(rename_all = "camelCase")]
            Flags {
                #[serde(default)]
                list_batches: bool,
                #[serde(default)]
                delete_files: bool,
            },
        }
        Ok(match Stored::deserialize(deserializer)? {
            Stored::Names(names) => names.iter().filter_map(|name| Capability::named(name)).collect(),
            Stored::Flags { list_batches, delete_files } => {
                let seen = [(Capability::ListBatches, list_batches), (Capability::DeleteFiles, delete_files)];
                seen.into_iter().filter_map(|(capability, seen)| seen.then_some(capability)).collect()
            }
        })
    }
}

impl JsonSchema for ProviderCapabilities {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProviderCapabilities".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = Capability::ALL.map(Capability::name);
        json_schema!({
            "type": "array",
            "maxItems": 16,
            "x-kubernetes-list-type": "set",
            "items": {"type": "string", "enum": names}
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Capability::{DeleteFiles, ListBatches};
    use super::*;

    fn read(value: Value) -> ProviderCapabilities {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_set_is_a_list_of_names() {
        for set in [&[][..], &[ListBatches], &[DeleteFiles], &[ListBatches, DeleteFiles]] {
            let can = ProviderCapabilities::of(set);
            assert_eq!(json!(can), json!(set.iter().map(|c| c.name()).collect::<Vec<_>>()));
            assert_eq!((read(json!(can)), can.iter().collect::<Vec<_>>()), (can, set.to_vec()));
            assert_eq!(
                (can.list_batches(), can.delete_files()),
                (set.contains(&ListBatches), set.contains(&DeleteFiles))
            );
            assert_eq!(can.can_resolve(), set.len() == 2);
        }
        assert_eq!(Capability::ALL.map(|c| c as u8), [0, 1], "each has a bit of its own");
    }

    /// If one status cannot be read, the whole list of providers cannot.
    #[test]
    fn what_other_versions_wrote_is_read() {
        assert_eq!(read(json!(["IdempotentCreate", "ListBatches"])), ProviderCapabilities::of(&[ListBatches]));
        assert_eq!(read(json!({"listBatches": true, "deleteFiles": false})), ProviderCapabilities::of(&[ListBatches]));
        assert_eq!(read(json!({"listBatches": false, "deleteFiles": true})), ProviderCapabilities::of(&[DeleteFiles]));
    }
}
