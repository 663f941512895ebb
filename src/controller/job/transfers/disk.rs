//! Local disk of transfers. Namespaces share it fairly, and code says how much it uses before it writes (`store::DiskUse`).

use std::sync::{Arc, Mutex, PoisonError};

use crate::api::conditions::reasons;
use crate::controller::runtime::error::StepError;
use crate::fair::{Claim, Limits, OthersWait, Share, Shares};

/// Most bytes that a transfer may use without a share of the disk. Most jobs use no more, so that they never wait for any.
const SMALL: u64 = 1 << 20;
/// Number of transfers that can hold memory at the same time.
const TRANSFERS: u64 = super::LIMITS.total / super::SMALL;
/// Step to which shares are rounded up, in MiB, so that a share seldom has to grow.
const STEP: u64 = 4;

/// The local disk that all transfers share.
#[derive(Clone, Debug)]
pub(crate) struct DiskShares {
    shares: Arc<Shares>,
    /// In MiB.
    limits: Limits,
    /// Bytes that a transfer may use without a share.
    small: u64,
}

impl DiskShares {
    /// Returns the part of a spool of so many bytes that transfers share: five eighths. Local copies have a quarter
    /// (`store::LocalCopies`), [`TRANSFERS`] small transfers have a sixteenth, and what visits sort has the rest.
    pub fn of_spool(bytes: u64) -> DiskShares {
        DiskShares::of((bytes / 8 * 5) >> 20, SMALL.min(bytes / 16 / TRANSFERS))
    }

    fn of(total: u64, small: u64) -> DiskShares {
        let limits = Limits { total, per_namespace: u64::MAX, keeps_last_shares: true };
        DiskShares { shares: Shares::new(limits), limits, small }
    }

    /// Returns the bytes that the open shards of a writer may take: two fifths of what transfers share, as a plan may have two writers,
    /// and other files beside them.
    pub fn of_open_shards(&self) -> u64 {
        (self.limits.total << 20) / 5 * 2
    }

    /// Returns the number of transfers that wait for disk, by lane.
    pub fn waiting(&self) -> std::collections::BTreeMap<String, usize> {
        self.shares.waiting()
    }

    /// Returns the MiB to wait for after a transfer found no room for `mib`: twice as many, so that it does not begin again for each few.
    /// The half that retries share is exceeded only by a transfer that is seen to need more.
    pub fn need_after(&self, mib: u64) -> u64 {
        let half = self.limits.for_retries();
        let most = if mib <= half { half } else { self.limits.total };
        (2 * mib).next_multiple_of(STEP).min(most)
    }
}

/// The local disk of one transfer.
pub(crate) struct TransferDisk {
    of: DiskShares,
    claim: Claim,
    share: Mutex<Option<Share>>,
}

/// The reason why a transfer may use no more disk.
#[derive(Debug)]
pub(crate) enum NoDisk {
    /// Others use the disk now. Holds the MiB that the transfer needs.
    Now(u64),
    /// The transfer needs more than all of the disk that transfers share.
    Ever(StepError),
}

impl TransferDisk {
    /// Waits for as many MiB as the transfer needs, if it outgrew its share before.
    pub async fn take(of: &DiskShares, claim: Claim, need: Option<u64>) -> TransferDisk {
        let Some(need) = need else { return TransferDisk { of: of.clone(), claim, share: Mutex::default() } };
        let claim = claim.of_known_need(need, &of.limits);
        let share = of.shares.take(claim.clone()).await;
        TransferDisk { of: of.clone(), claim, share: Mutex::new(Some(share)) }
    }

    /// Lets the transfer use `bytes`, if there is room for them.
    ///
    /// # Errors
    /// If there is none now, or never.
    pub fn grow(&self, bytes: u64) -> Result<(), NoDisk> {
        let mib = bytes.div_ceil(1 << 20);
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes <= self.of.small || share.as_ref().is_some_and(|share| share.size() >= mib) {
            return Ok(());
        }
        let total = self.of.limits.total;
        if mib > total {
            return Err(NoDisk::Ever(too_much(total)));
        }
        let sizes = [(mib + mib / 8).next_multiple_of(STEP).min(total), mib];
        let has_grown = sizes.into_iter().any(|size| match &*share {
            Some(share) => share.grow(size),
            None => {
                *share = self.of.shares.try_take(Claim { size, ..self.claim.clone() });
                share.is_some()
            }
        });
        match has_grown && share.as_ref().is_some_and(|share| share.size() >= mib) {
            true => Ok(()),
            false => Err(NoDisk::Now(mib)),
        }
    }

    /// Returns a watch on whether others wait for disk.
    pub fn others_wait(&self) -> OthersWait {
        self.of.shares.others_wait(self.claim.is_retry)
    }

    /// Returns whether the transfer gets no more than retries do together.
    pub fn is_of_retries(&self) -> bool {
        self.claim.is_retry
    }

    /// Returns whether the transfer has a share.
    pub fn is_held(&self) -> bool {
        self.share.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

fn too_much(total: u64) -> StepError {
    let message = format!(
        "what this step moves needs more than the {total} MiB of local disk that transfers share; give the operator more (`--spool-size`, \
         and its volume), or have it make smaller batches (`limits.maxRequestsPerBatch` of the provider)"
    );
    StepError::lasting(reasons::STORAGE_UNAVAILABLE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn claim(namespace: &str) -> Claim {
        Claim { namespace: namespace.into(), lane: "Collect".into(), ..Claim::default() }
    }

    async fn transfer(of: &DiskShares, namespace: &str) -> TransferDisk {
        TransferDisk::take(of, claim(namespace), None).await
    }

    #[tokio::test]
    async fn a_transfer_begins_again_with_more_disk_and_small_ones_never_wait() {
        let disk = DiskShares::of(64, MIB);
        let one = transfer(&disk, "a").await;
        assert!(one.grow(40 * MIB).is_ok());
        let other = transfer(&disk, "b").await;
        assert!(other.grow(10 * MIB).is_ok());
        let Err(NoDisk::Now(need)) = other.grow(30 * MIB) else { panic!("others use it") };
        assert_eq!((need, disk.need_after(need)), (30, 32));
        assert_eq!(disk.need_after(33), 64);
        let mut small = vec![];
        for n in 0..200 {
            let transfer = transfer(&disk, &n.to_string()).await;
            assert!(transfer.grow(MIB).is_ok() && !transfer.is_held(), "a small one takes no share");
            small.push(transfer);
        }
        drop(other);
        let mut again = Box::pin(TransferDisk::take(&disk, claim("b"), Some(disk.need_after(need))));
        assert!(futures::poll!(&mut again).is_pending(), "others use it");
        assert!(one.others_wait().is_so() && one.is_held(), "who holds some has to make room, if it is slow");
        drop(one);
        let again = again.await;
        assert!(again.grow(60 * MIB).is_ok() && again.grow(64 * MIB).is_ok());
    }

    #[tokio::test]
    async fn the_transfers_of_one_namespace_leave_disk_to_others() {
        let disk = DiskShares::of(64, MIB);
        let mut held = vec![];
        for _ in 0..64 {
            let transfer = transfer(&disk, "hostile").await;
            if transfer.grow(4 * MIB).is_ok() {
                held.push(transfer);
            }
        }
        assert_eq!(held.len(), 8, "half of all");
        assert!(transfer(&disk, "quiet").await.grow(16 * MIB).is_ok());
    }

    #[tokio::test]
    async fn a_transfer_that_failed_gets_as_much_as_it_is_known_to_need_and_otherwise_half_with_all_that_failed() {
        let disk = DiskShares::of(64, MIB);
        let failed = || Claim { is_retry: true, ..claim("a") };
        let first = TransferDisk::take(&disk, failed(), None).await;
        let Err(NoDisk::Now(need)) = first.grow(40 * MIB) else { panic!("half is for what did not fail") };
        drop(first);
        let again = TransferDisk::take(&disk, failed(), Some(disk.need_after(need))).await;
        assert!(again.grow(40 * MIB).is_ok() && again.grow(64 * MIB).is_ok() && !again.is_of_retries());
        drop(again);
        assert!(TransferDisk::take(&disk, failed(), Some(32)).await.is_of_retries(), "half is enough for it");
    }

    #[tokio::test]
    async fn a_transfer_that_needs_more_than_there_is_says_what_helps() {
        let disk = DiskShares::of(8, MIB);
        let Err(NoDisk::Ever(error)) = transfer(&disk, "a").await.grow(8 * MIB + 1) else { panic!("there are 8 MiB") };
        assert!(!error.retryable && error.blocked.message.contains("--spool-size"), "{error}");
    }

    #[tokio::test]
    async fn a_small_transfer_may_use_less_of_a_small_spool() {
        let disk = DiskShares::of_spool(64 * MIB);
        let (small, larger) = (transfer(&disk, "a").await, transfer(&disk, "a").await);
        assert!(small.grow(MIB / 32).is_ok() && !small.is_held());
        assert!(larger.grow(MIB / 32 + 1).is_ok() && larger.is_held());
    }

    #[test]
    fn what_is_shared_and_what_is_small_fits_into_a_spool_of_any_size_with_the_local_copies() {
        for (spool, told) in
            [(64_u64, (40, MIB / 32)), (1_024, (640, MIB / 2)), (2_048, (1_280, MIB)), (20_480, (12_800, MIB))]
        {
            let (disk, copies) = (DiskShares::of_spool(spool * MIB), spool * MIB / 4);
            assert_eq!((disk.limits.total, disk.small), told, "{spool} MiB");
            let left = (spool * MIB).checked_sub(disk.limits.total * MIB + copies + TRANSFERS * disk.small);
            assert!(left.is_some_and(|left| left >= spool * MIB / 16), "{spool} MiB leave {left:?} for visits");
            assert!(2 * disk.of_open_shards() < disk.limits.total * MIB, "{spool} MiB: both writers of a plan");
        }
    }
}
