//! Memory for the data of tenants, providers and stores. Code reserves a large amount before it allocates it, so that a transfer
//! whose share is too small can end first.

use crate::transport::ReservedMemory;

/// Memory that the current transfer holds, until this is dropped. Outside of a transfer it counts nowhere.
#[derive(Debug, Default)]
pub struct Reservation(ReservedMemory);

/// Reserves memory for the current transfer, in bytes, and yields, so that the transfer's share can grow before the caller allocates.
pub async fn reserve(bytes: usize) -> Reservation {
    let mut reservation = Reservation::default();
    reservation.set(bytes).await;
    reservation
}

impl Reservation {
    /// Changes the amount, in bytes.
    pub async fn set(&mut self, bytes: usize) {
        self.0.set(bytes as u64).await;
    }
}
