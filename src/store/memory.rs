//! Memory that somebody's data takes. What is about to take much of it says so first, so that whoever shares it out can refuse.

use crate::transport::Reserved;

/// Memory that the work at hand holds, until this is dropped. Where nobody bounds that work, it says nothing.
#[derive(Debug, Default)]
pub struct Reservation(Reserved);

/// Says that the work at hand is about to hold so many bytes more, and waits until whoever bounds it has seen that.
pub async fn reserve(bytes: usize) -> Reservation {
    let mut reservation = Reservation::default();
    reservation.set(bytes).await;
    reservation
}

impl Reservation {
    /// The same where it holds another amount from now on.
    pub async fn set(&mut self, bytes: usize) {
        self.0.set(bytes as u64).await;
    }
}
