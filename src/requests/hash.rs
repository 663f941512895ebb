//! The hash function of requests and works, in each version of its definition.

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};

use crate::api::WorkHashVersion;

/// Bytes of a hash, in every version.
pub const HASH_BYTES: usize = 32;

/// A hash of bytes that arrive a few at a time.
pub struct Hasher {
    state: State,
    /// Bytes that are not hashed yet: BLAKE3 takes a fraction of the time for many bytes at once.
    pending: Vec<u8>,
}

enum State {
    Sha256(Box<Context>),
    Blake3(Box<blake3::Hasher>),
}

/// Bytes that are hashed at a time.
const AT_ONCE: usize = 16 << 10;

impl Hasher {
    pub fn new(version: WorkHashVersion) -> Hasher {
        let state = match version {
            WorkHashVersion::V1 => State::Sha256(Box::new(Context::new(&SHA256))),
            WorkHashVersion::V2 => State::Blake3(Box::default()),
        };
        Hasher { state, pending: Vec::with_capacity(AT_ONCE) }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        if self.pending.len() + bytes.len() > AT_ONCE {
            self.state.update(&self.pending);
            self.pending.clear();
        }
        match bytes.len() > AT_ONCE {
            true => self.state.update(bytes),
            false => self.pending.extend_from_slice(bytes),
        }
    }

    pub fn finish(mut self) -> [u8; HASH_BYTES] {
        self.state.update(&self.pending);
        self.state.finish()
    }
}

impl State {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            State::Sha256(context) => context.update(bytes),
            State::Blake3(hasher) => _ = hasher.update(bytes),
        }
    }

    fn finish(self) -> [u8; HASH_BYTES] {
        match self {
            State::Sha256(context) => digest_bytes(&context.finish()),
            State::Blake3(hasher) => *hasher.finalize().as_bytes(),
        }
    }
}

fn digest_bytes(digest: &Digest) -> [u8; HASH_BYTES] {
    let mut bytes = [0; HASH_BYTES];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// Returns the hash of bytes that are all in memory.
pub fn hash(version: WorkHashVersion, bytes: &[u8]) -> [u8; HASH_BYTES] {
    match version {
        WorkHashVersion::V1 => digest_bytes(&digest(&SHA256, bytes)),
        WorkHashVersion::V2 => *blake3::hash(bytes).as_bytes(),
    }
}

/// Size of BLAKE3's chunks, in bytes. Whole chunks are hashed side by side; the rest after the last one takes as long
/// as four.
const CHUNK_BYTES: usize = 1024;

/// Returns the hash of the request that is known by this text. Version 2 pads the text with line feeds to whole chunks.
/// A text ends in `}`, so two texts never become the same.
pub fn hash_of_request(version: WorkHashVersion, known_by: String) -> [u8; HASH_BYTES] {
    let mut known_by = known_by.into_bytes();
    if version == WorkHashVersion::V2 {
        known_by.resize(known_by.len().next_multiple_of(CHUNK_BYTES), b'\n');
    }
    hash(version, &known_by)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hash_is_of_all_bytes_however_they_come(
            pieces in prop::collection::vec(prop_oneof![0..100usize, AT_ONCE - 2..AT_ONCE + 3], 0..12)
        ) {
            let pieces: Vec<Vec<u8>> = pieces.iter().enumerate().map(|(i, length)| vec![i as u8; *length]).collect();
            for version in [WorkHashVersion::V1, WorkHashVersion::V2] {
                let mut hasher = Hasher::new(version);
                pieces.iter().for_each(|piece| hasher.update(piece));
                prop_assert_eq!(hasher.finish(), hash(version, &pieces.concat()));
            }
        }
    }
}
