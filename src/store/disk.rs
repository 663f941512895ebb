//! Local disk for the data of tenants, providers and stores. Code tells what it will write before it writes it, so that a transfer whose
//! share is too small can end first.

use crate::transport::UsedDisk;

/// Local disk that the current transfer uses, until this is dropped. Outside of a transfer it counts nowhere.
#[derive(Debug, Default)]
pub struct DiskUse(UsedDisk);

impl DiskUse {
    /// Changes the use to `bytes`, before they are written. This yields once for each mebibyte that is used more, and for each
    /// 32 KiB of the first mebibyte, so that the transfer's share can grow.
    pub async fn set(&mut self, bytes: u64) {
        self.0.set(bytes).await;
    }

    /// Does the same without a chance to end the transfer, for few bytes or code that cannot wait.
    pub fn note(&mut self, bytes: u64) {
        self.0.note(bytes);
    }

    /// Returns the bytes in use.
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}

/// The local disk that a piece of work uses, in tests.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct DiskMeter(crate::transport::Meter);

#[cfg(test)]
impl DiskMeter {
    pub async fn measure<T>(self, work: impl Future<Output = T>) -> T {
        self.0.measure(work).await
    }

    pub fn disk(&self) -> u64 {
        self.0.disk()
    }
}
