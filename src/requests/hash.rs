//! The hash function that requests and works are known by, in each version of its definition.

use aws_lc_rs::digest::{Context, SHA256};

use crate::api::WorkHashVersion;

/// Bytes of a hash, in every version.
pub const HASH_BYTES: usize = 32;

/// A hash that is being made.
pub enum Hasher {
    Sha256(Box<Context>),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    pub fn new(version: WorkHashVersion) -> Hasher {
        match version {
            WorkHashVersion::V1 => Hasher::Sha256(Box::new(Context::new(&SHA256))),
            WorkHashVersion::V2 => Hasher::Blake3(Box::default()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(context) => context.update(bytes),
            Hasher::Blake3(hasher) => _ = hasher.update(bytes),
        }
    }

    pub fn finish(self) -> [u8; HASH_BYTES] {
        match self {
            Hasher::Sha256(context) => {
                let mut hash = [0; HASH_BYTES];
                hash.copy_from_slice(context.finish().as_ref());
                hash
            }
            Hasher::Blake3(hasher) => *hasher.finalize().as_bytes(),
        }
    }
}

/// The hash of bytes that are all at hand.
pub fn hash(version: WorkHashVersion, bytes: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = Hasher::new(version);
    hasher.update(bytes);
    hasher.finish()
}

/// BLAKE3 hashes chunks of this size side by side, and what is left of the last one by itself, which takes as long as four.
const CHUNK_BYTES: usize = 1024;

/// The hash of a request that is known by this text: in the second version, filled up with line feeds to whole chunks. A text
/// ends in `}`, so that no two become one.
pub fn hash_of_request(version: WorkHashVersion, known_by: String) -> [u8; HASH_BYTES] {
    let mut known_by = known_by.into_bytes();
    if version == WorkHashVersion::V2 {
        known_by.resize(known_by.len().next_multiple_of(CHUNK_BYTES), b'\n');
    }
    hash(version, &known_by)
}
