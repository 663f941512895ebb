//! Versions of the hash that a work is known by.

/// The version of a work hash. A change of the definition adds a version, and every version that was ever stored stays:
/// a comparison with an older hash computes the same version again, so nobody pays twice after an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkHashVersion {
    /// SHA-256 over SHA-256 hashes of the requests.
    V1,
    /// BLAKE3 over BLAKE3 hashes of the requests.
    #[default]
    V2,
}

impl WorkHashVersion {
    /// Returns the version that a hash begins with; None if this program does not know it.
    pub fn of(work_hash: &str) -> Option<WorkHashVersion> {
        let (version, _) = work_hash.split_once('-')?;
        [WorkHashVersion::V1, WorkHashVersion::V2].into_iter().find(|known| known.prefix() == version)
    }

    /// Returns the prefix of a hash of this version, without the `-` after it.
    pub fn prefix(self) -> &'static str {
        match self {
            WorkHashVersion::V1 => "v1",
            WorkHashVersion::V2 => "v2",
        }
    }
}
