//! Versions of the hash that a work is known by.

/// How a work hash is made. It grows when the definition changes, and each version that was ever written down stays: whoever
/// compares with one from before makes the same one again, and nobody pays twice after an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkHashVersion {
    /// SHA-256 over SHA-256 hashes of the requests.
    V1,
    /// BLAKE3 over BLAKE3 hashes of the requests.
    #[default]
    V2,
}

impl WorkHashVersion {
    /// The version of a hash, which begins with it; None where it is none that this program knows.
    pub fn of(work_hash: &str) -> Option<WorkHashVersion> {
        let (version, _) = work_hash.split_once('-')?;
        [WorkHashVersion::V1, WorkHashVersion::V2].into_iter().find(|known| known.prefix() == version)
    }

    /// What a hash of this version begins with, before a `-`.
    pub fn prefix(self) -> &'static str {
        match self {
            WorkHashVersion::V1 => "v1",
            WorkHashVersion::V2 => "v2",
        }
    }
}
