//! The version of an input, which changes whenever the input does. It needs no second look at the bytes.

use crate::api::text::hex;
use crate::store::ListedObject;

/// Longest version that is shown as it is, in bytes: the longest that `status` has room for.
const SHOWN: usize = 128;

/// The version of an input whose pieces come one after the other.
#[derive(Default)]
pub struct InputVersion {
    pieces: blake3::Hasher,
    /// ETag of the last object.
    etag: Option<String>,
    count: u64,
}

impl InputVersion {
    /// Adds an object by its name and its version in the store.
    pub fn object(&mut self, object: &ListedObject) {
        self.etag = object.etag().map(String::from);
        for text in [object.name(), &object.version()] {
            self.held(text.as_bytes());
        }
        self.count += 1;
    }

    /// Adds bytes that have no version in a store.
    pub fn held(&mut self, bytes: &[u8]) {
        self.pieces.update(&(bytes.len() as u64).to_le_bytes());
        self.pieces.update(bytes);
    }

    /// Returns the ETag of the only object, without its quotes, or else a BLAKE3 hash in hex.
    pub fn finish(self) -> String {
        let fits = |etag: &String| (1..=SHOWN).contains(&etag.len()) && etag.bytes().all(|b| b.is_ascii_graphic());
        let etag = self.etag.map(|etag| etag.trim_matches('"').to_string()).filter(fits);
        match etag.filter(|_| self.count == 1) {
            Some(etag) => etag,
            None => hex(self.pieces.finalize().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::TryStreamExt;

    use super::*;
    use crate::store::Folder;

    async fn version_of(objects: &[(&str, &'static str)]) -> (String, Vec<ListedObject>) {
        let folder = Folder::of(Arc::new(object_store::memory::InMemory::new()), "memory://in/", "in/");
        for (name, text) in objects {
            folder.put_new(name, (*text).into()).await.unwrap();
        }
        let listed: Vec<ListedObject> = folder.list().try_collect().await.unwrap();
        let mut version = InputVersion::default();
        listed.iter().for_each(|object| version.object(object));
        (version.finish(), listed)
    }

    #[tokio::test]
    async fn one_object_has_its_etag_and_several_have_a_hash() {
        let (version, listed) = version_of(&[("a", "x")]).await;
        assert_eq!(Some(format!("\"{version}\"").as_str()), listed[0].etag());
        let (several, _) = version_of(&[("a", "x"), ("b", "y")]).await;
        assert_eq!(several.len(), 64);
        assert_ne!(several, version_of(&[("a", "x"), ("c", "y")]).await.0, "names count");
        assert_ne!(several, version_of(&[("a", "x"), ("b", "yy")]).await.0);
    }

    #[test]
    fn bytes_count_and_so_does_where_they_are_cut() {
        let of = |pieces: &[&str]| {
            let mut version = InputVersion::default();
            pieces.iter().for_each(|piece| version.held(piece.as_bytes()));
            version.finish()
        };
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
    }
}
