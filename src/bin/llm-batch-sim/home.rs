//! Where contents and the ledger lie on disk.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, TempPath};

/// A folder that belongs to this process alone; a temporary one goes away with it.
#[derive(Debug)]
pub struct Home {
    root: PathBuf,
    temporary: Option<TempDir>,
    _lock: File,
}

impl Home {
    /// Uses `dir`, made if missing, or a temporary folder; refuses one that another simulator
    /// uses. What an earlier run left of its files' contents is removed, since nothing remembers
    /// what they were; its ledger stays.
    pub fn open(dir: Option<&Path>) -> io::Result<Self> {
        let (root, temporary) = match dir {
            Some(dir) => (dir.to_owned(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("llm-batch-sim-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(&root)?;
        let lock = File::create(root.join("llm-batch-sim.lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another simulator uses it"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let home = Self { root, temporary, _lock: lock };
        match std::fs::remove_dir_all(home.contents()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir(home.contents())?;
        Ok(home)
    }

    /// The folder of files' contents.
    pub fn contents(&self) -> PathBuf {
        self.root.join("llm-batch-sim-contents")
    }

    /// The ledger.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.jsonl")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.temporary.is_none() {
            // A folder that somebody named is only tidied: failing to is not worth a word.
            let _ = std::fs::remove_dir_all(self.contents());
        }
    }
}

/// A new file for a file's content, named by its id; it goes away with the [`TempPath`].
pub fn new_content(contents: &Path, id: &str) -> io::Result<(File, TempPath)> {
    let file = tempfile::Builder::new().prefix(id).rand_bytes(0).tempfile_in(contents)?;
    Ok(file.into_parts())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_simulator_and_keeps_its_ledger() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let home = Home::open(Some(dir.path()))?;
        assert!(Home::open(Some(dir.path())).is_err());
        std::fs::write(home.ledger(), "{}\n")?;
        std::fs::write(home.contents().join("file-1"), "left over")?;
        drop(home);
        let home = Home::open(Some(dir.path()))?;
        assert!(home.ledger().exists());
        assert_eq!(std::fs::read_dir(home.contents())?.count(), 0);
        Ok(())
    }
}
