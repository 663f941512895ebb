//! What the operators stand on: a control plane and a storage server that are killed and come back with their data.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::process::scratch;
use crate::support::shared::{Cluster, Storage, started, stored};

/// A control plane and a storage server with their state in folders.
pub struct Ground {
    cluster: Mutex<Option<Cluster>>,
    storage: Mutex<Option<Storage>>,
    folder: PathBuf,
    server: String,
    endpoint: String,
}

impl Ground {
    pub fn start() -> Ground {
        let folder = scratch().join("ground");
        let at = |name: &str| ["--dir".to_string(), folder.join(name).to_str().unwrap().into()];
        let (cluster, storage) = (started("control-plane", &at("kube")), stored("storage", &at("s3")));
        cluster.install();
        let (server, endpoint) = (cluster.server.clone(), storage.endpoint.clone());
        Ground { cluster: Mutex::new(Some(cluster)), storage: Mutex::new(Some(storage)), folder, server, endpoint }
    }

    pub fn with_cluster<T>(&self, ask: impl FnOnce(&Cluster) -> T) -> T {
        ask(self.cluster.lock().unwrap().as_ref().unwrap())
    }

    pub fn with_storage<T>(&self, ask: impl FnOnce(&Storage) -> T) -> T {
        ask(self.storage.lock().unwrap().as_ref().unwrap())
    }

    /// Kills the API server, etcd and the controllers, and starts them again after `away`.
    pub fn restart_cluster(&self, away: Duration) {
        let mut cluster = self.cluster.lock().unwrap();
        drop(cluster.take());
        std::thread::sleep(away);
        *cluster = Some(started("control-plane", &self.again("kube", &self.server)));
    }

    /// Kills the storage server, and starts it again after `away`.
    pub fn restart_storage(&self, away: Duration) {
        let mut storage = self.storage.lock().unwrap();
        drop(storage.take());
        std::thread::sleep(away);
        *storage = Some(stored("storage", &self.again("s3", &self.endpoint)));
    }

    fn again(&self, name: &str, url: &str) -> Vec<String> {
        let port = url.rsplit(':').next().unwrap();
        ["--dir", self.folder.join(name).to_str().unwrap(), "--port", port].map(String::from).to_vec()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Who lives in the folder goes first.
        drop(self.cluster.get_mut().unwrap().take());
        drop(self.storage.get_mut().unwrap().take());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
