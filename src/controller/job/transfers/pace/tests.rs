//! Transfers that are too slow, too large, or in the way of others.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::*;
use super::*;
use crate::controller::job::backoff::FailedCall;
use crate::fair::Shares;
use crate::lifecycle::{AttemptKey, Memory};
use crate::store;

const UPLOAD: Task = Task::Upload(AttemptKey { shard: 0, attempt: 1 });

fn wish(namespace: &str, size: u64) -> Claim {
    Claim { namespace: namespace.into(), lane: "Upload".into(), size, ..Claim::default() }
}

const SECOND: Duration = Duration::from_secs(1);

/// Returns when and why a transfer is ended that moves `bytes` every twentieth of a second for three seconds; None if it
/// completes.
async fn broken_off(shares: &Arc<Shares>, bytes: u64) -> Option<(Duration, String)> {
    let place = Arc::new(shares.take(wish("slow", 128)).await);
    let patience = Patience { rate: 1_000, grace: SECOND * 2, ..Patience::USUAL };
    let pace = Pace::new(&place, 0);
    let (began, meter) = (Instant::now(), pace.meter.clone());
    let work = async move {
        for _ in 0..60 {
            tokio::time::sleep(SECOND / 20).await;
            meter.add(bytes);
        }
        drop(place);
        Ok(Box::new(|_: &mut _| {}) as _)
    };
    let outcome = Pace { patience, small_grace: SECOND / 2, ..pace }.keep(UPLOAD, 128, work).await;
    outcome.err().map(|broken| match broken {
        TransferError::Failed(error) => (began.elapsed(), error.blocked.message),
        other => (began.elapsed(), format!("{other:?}")),
    })
}

/// Returns the same for a transfer while, from a quarter of a second on, another namespace waits for memory.
async fn broken_off_for_others(bytes: u64) -> Option<(Duration, String)> {
    let shares = Shares::new(LIMITS);
    let waits = async {
        tokio::time::sleep(SECOND / 4).await;
        shares.take(wish("quiet", 4)).await
    };
    tokio::join!(broken_off(&shares, bytes), waits).0
}

#[tokio::test]
async fn a_slow_transfer_ends_and_makes_room_for_those_that_have_none_and_one_that_keeps_its_pace_is_left_alone() {
    let shares = [(); 2].map(|()| Shares::new(LIMITS));
    let (keeps_pace, alone, pressed, keeps_pace_among_others) = tokio::join!(
        broken_off(&shares[0], 1_000),
        broken_off(&shares[1], 1),
        broken_off_for_others(1),
        broken_off_for_others(1_000)
    );
    assert_eq!((keeps_pace, keeps_pace_among_others), (None, None));
    let (after, why) = alone.unwrap();
    assert!(after >= SECOND * 2 && why.ends_with("fewer than 1000 a second"), "{after:?}: {why}");
    let (after, why) = pressed.unwrap();
    assert!((SECOND / 2..SECOND * 2).contains(&after) && why.contains("while others waited"), "{after:?}: {why}");
}

#[tokio::test]
async fn who_gave_its_place_back_is_waited_for() {
    let shares = Shares::new(LIMITS);
    let place = Arc::new(shares.take(wish("slow", 128)).await);
    let pace = Pace::new(&place, 0);
    drop(place);
    let patience = Patience { grace: SECOND / 10, ..Patience::USUAL };
    let answered = Pace { patience, ..pace }.keep(UPLOAD, 128, async {
        tokio::time::sleep(SECOND / 2).await;
        Ok(Box::new(|_: &mut _| {}) as _)
    });
    assert!(answered.await.is_ok());
}

#[tokio::test]
async fn a_sent_upload_keeps_its_place_from_no_namespace_that_has_none_for_longer_than_its_grace() {
    let (memory, turns) = (Shares::new(LIMITS), Shares::new(Limits { total: 1, ..LIMITS }));
    let uploads = async |bytes| {
        let turn = Arc::new(turns.take(wish("slow", 1)).await);
        let place = Arc::new(memory.take(wish("slow", 1)).await);
        let pace = Pace::new(&place, 0).beside(&turn);
        pace.meter.add(bytes);
        // All of it is sent, and the server thinks.
        drop(place);
        let work = async move {
            tokio::time::sleep(SECOND * 2).await;
            drop(turn);
            Ok(Box::new(|_: &mut _| {}) as _)
        };
        let patience = Patience { rate: 1_000, grace: SECOND / 4, ..Patience::USUAL };
        let ended = Pace { patience, small_grace: SECOND / 2, ..pace }.keep(UPLOAD, 1, work).await;
        ended.err().map(|broken| format!("{broken:?}"))
    };
    assert_eq!(uploads(0).await, None, "nobody waits");
    let quiet = async || {
        tokio::time::sleep(SECOND / 8).await;
        let began = Instant::now();
        drop(turns.take(wish("quiet", 1)).await);
        began.elapsed()
    };
    let (broken, waited) = tokio::join!(uploads(0), quiet());
    assert!(broken.unwrap().contains("while others waited for the place among uploads that it held"));
    assert!(waited < SECOND, "{waited:?}");
    let (broken, _) = tokio::join!(uploads(2_000), quiet());
    assert_eq!(broken, None, "a larger one has the time of its bytes");
}

#[tokio::test]
async fn an_upload_that_waits_for_memory_gives_its_place_to_a_namespace_that_has_none() {
    let (memory, turns) = (Shares::new(LIMITS), Shares::new(Limits { total: 1, ..LIMITS }));
    let full = memory.take(wish("other", LIMITS.total)).await;
    let (of, turns_of) = (memory.clone(), turns.clone());
    let begins = tokio::spawn(for_an_upload(
        move || {
            let turns = turns_of.clone();
            async move { turns.take(wish("slow", 1)).await }
        },
        move || {
            let memory = of.clone();
            async move { memory.take(wish("slow", 1)).await }
        },
        SECOND / 10,
    ));
    tokio::time::sleep(SECOND / 20).await;
    let quiet = tokio::time::timeout(SECOND, turns.take(wish("quiet", 1))).await;
    drop(quiet.expect("the place of the one that waits"));
    drop(full);
    let begun = begins.await.unwrap();
    assert_eq!((begun.turn.size(), begun.memory.size()), (1, 1), "it begins when there is memory");
}

#[tokio::test]
async fn a_transfer_that_waits_for_memory_gives_its_local_disk_to_a_namespace_that_has_none() {
    let (memory, spool) = (Shares::new(LIMITS), DiskShares::of_spool(16 << 20));
    // Slow transfers of its own namespace hold the memory, and no disk.
    let full = memory.take(wish("slow", LIMITS.total)).await;
    let (of, disk_of) = (memory.clone(), spool.clone());
    let begins = tokio::spawn(for_a_transfer(
        move || {
            let spool = disk_of.clone();
            async move { TransferDisk::take(&spool, wish("slow", SMALL), Some(10)).await }
        },
        move || {
            let memory = of.clone();
            async move { memory.take(wish("slow", SMALL)).await }
        },
        SECOND / 10,
    ));
    tokio::time::sleep(SECOND / 20).await;
    let quiet = TransferDisk::take(&spool, wish("quiet", SMALL), Some(4));
    let quiet = tokio::time::timeout(SECOND, quiet).await.expect("the disk of the one that waits");
    assert!(!begins.is_finished());
    drop((quiet, full));
    let (disk, memory) = begins.await.unwrap();
    assert_eq!((disk.grow(10 << 20).is_ok(), memory.size()), (true, 1), "it begins when there are both");
}

/// Runs a small upload that takes in some bytes and holds some MiB, while others have `taken` MiB. Returns the largest size
/// that its place can have in the end, in MiB.
async fn grown(bytes: u64, holds: u64, taken: u64) -> Result<u64, TransferError> {
    let shares = Shares::new(LIMITS);
    let others = shares.take(wish("other", taken)).await;
    let place = Arc::new(shares.take(wish("small", SMALL)).await);
    let pace = Pace::new(&place, 0);
    let meter = pace.meter.clone();
    let work = async move {
        meter.add(bytes);
        let held = store::reserve((holds << 20) as usize).await;
        // The place grows by all that is left.
        let room = (1..=128).rev().find(|size| place.grow(*size)).unwrap_or_default();
        drop((others, held));
        Ok(Box::new(move |m: &mut Memory| m.manifest_at = i64::try_from(room).ok()) as _)
    };
    let memory_edit = pace.keep(UPLOAD, SMALL, work).await?;
    let mut memory = Memory::default();
    memory_edit(&mut memory);
    Ok(memory.manifest_at.unwrap().unsigned_abs())
}

#[tokio::test]
async fn a_transfer_is_small_until_it_takes_in_much_and_begins_again_where_there_is_no_room_for_what_it_holds() {
    assert!(matches!(grown(SMALL_BYTES, 40, 126).await, Ok(2)), "it stays small");
    assert!(matches!(grown(SMALL_BYTES + 1, 10, 115).await, Ok(13)));
    // 11 MiB that it holds, and 3 for buffers that are not reported.
    assert!(matches!(grown(SMALL_BYTES + 1, 11, 115).await, Err(TransferError::Outgrown(14))));
}

#[tokio::test]
async fn a_transfer_grows_as_soon_as_a_connections_task_moved_much_of_it() {
    let shares = Shares::new(LIMITS);
    let _others = shares.take(wish("other", 115)).await;
    let place = Arc::new(shares.take(wish("slow", SMALL)).await);
    let pace = Pace::new(&place, 0);
    let meter = pace.meter.clone();
    let work = async move {
        let _held = store::reserve(11 << 20).await;
        let connection = tokio::spawn(async move {
            tokio::time::sleep(SECOND / 10).await;
            meter.add(SMALL_BYTES + 1);
            std::future::pending::<Outcome>().await
        });
        drop(connection.await);
        drop(place);
        Ok(Box::new(|_: &mut _| {}) as _)
    };
    tokio::select! {
        biased;
        () = tokio::time::sleep(SECOND * 5) => panic!("it waits, larger than its place"),
        ended = pace.keep(UPLOAD, SMALL, work) => assert!(matches!(ended, Err(TransferError::Outgrown(14)))),
    }
}

#[tokio::test]
async fn a_transfer_ends_before_it_writes_what_there_is_no_disk_for() {
    let spool = DiskShares::of_spool(16 << 20);
    let ends = async |bytes: u64| {
        let place = Arc::new(Shares::new(LIMITS).take(wish("one", SMALL)).await);
        let disk = TransferDisk::take(&spool, wish("one", SMALL), None).await;
        let written = AtomicU64::new(0);
        let work = async {
            let mut used = store::DiskUse::default();
            for at in 1..=bytes >> 18 {
                used.set(at << 18).await;
                written.store(at << 18, Ordering::Relaxed);
            }
            drop(place.clone());
            Ok(Box::new(|_: &mut _| {}) as _)
        };
        let ended = Pace::new(&place, 0).using(disk).keep(UPLOAD, SMALL, work).await;
        (ended.map(drop), written.into_inner())
    };
    assert!(ends(10 << 20).await.0.is_ok());
    let (ended, written) = ends(11 << 20).await;
    let told = format!("{ended:?}");
    assert!(told.contains("more than the 10 MiB of local disk") && written < 11 << 20, "{told}, {written} bytes");
    let _others = TransferDisk::take(&spool, wish("other", SMALL), Some(6)).await;
    let (ended, written) = ends(8 << 20).await;
    assert!(matches!(ended, Err(TransferError::OutgrownDisk(5))) && written < 5 << 20, "{ended:?}, {written} bytes");
}

#[tokio::test]
async fn a_transfer_that_holds_local_disk_has_to_be_faster_while_others_wait_for_it() {
    let spool = DiskShares::of_spool(16 << 20);
    let place = Arc::new(Shares::new(LIMITS).take(wish("slow", SMALL)).await);
    let disk = TransferDisk::take(&spool, wish("slow", SMALL), Some(10)).await;
    let patience = Patience { rate: 1_000, ..Patience::USUAL };
    let pace = Pace { patience, small_grace: SECOND / 4, ..Pace::new(&place, 0).using(disk) };
    // They have 100 s at the usual rate.
    pace.meter.add(100_000);
    let waits = async {
        let waits = TransferDisk::take(&spool, wish("quiet", SMALL), Some(4));
        tokio::time::timeout(SECOND * 2, waits).await.is_ok()
    };
    let (ended, got) = tokio::join!(pace.keep(UPLOAD, SMALL, std::future::pending()), waits);
    let told = format!("{:?}", ended.map(drop));
    assert!(told.contains("others waited for the local disk that it held") && got, "{told}");
}

#[tokio::test]
async fn a_place_is_as_large_as_what_is_held_at_the_same_time() {
    let shares = Shares::new(LIMITS);
    let place = Arc::new(shares.take(wish("one", SMALL)).await);
    let _others = shares.take(wish("other", 108)).await;
    let pace = Pace::new(&place, 0);
    let meter = pace.meter.clone();
    let work = async move {
        meter.add(SMALL_BYTES + 1);
        for _ in 0..3 {
            let mut held = store::reserve(8 << 20).await;
            held.set(17 << 20).await;
            held.set(1 << 20).await;
        }
        let (_one, _two) = (store::reserve(9 << 20).await, store::reserve(9 << 20).await);
        drop(place);
        Ok(Box::new(|_: &mut _| {}) as _)
    };
    // 17 MiB fit three times in a row. 18 MiB at once are too many: with 3 for what is not reported, they need 21 of the 20
    // that the other left.
    assert!(matches!(pace.keep(UPLOAD, SMALL, work).await, Err(TransferError::Outgrown(21))));
}

#[tokio::test]
async fn a_transfer_that_failed_and_then_outgrows_its_shares_neither_succeeds_nor_stays_as_small_as_retries() {
    let (job_state, spool) = (JobState::default(), DiskShares::of_spool(2 << 30));
    let error = StepError::passing(reasons::PROVIDER_UNAVAILABLE, "slow");
    job_state.failed(Some(UPLOAD), FailedCall { call: "Upload", error, elapsed: 0 }, 0, 0);
    for broken in [TransferError::Outgrown(100), TransferError::OutgrownDisk(641)] {
        assert!(matches!(end(&job_state, UPLOAD, Err(broken), &spool), TaskEnd::Outgrown));
    }
    assert_eq!(failures(&job_state, UPLOAD), 1);
    let retry = Claim { is_retry: true, ..wish("a", 0) };
    let of_memory = retry.clone().of_known_need(job_state.need(UPLOAD).unwrap(), &LIMITS);
    assert_eq!(Shares::new(LIMITS).take(of_memory).await.size(), 104);
    let disk = TransferDisk::take(&spool, retry, job_state.disk_need(UPLOAD)).await;
    assert!(disk.grow(900 << 20).is_ok());
}

#[test]
fn the_grace_grows_while_others_wait_until_it_is_the_usual_one() {
    let seconds = [0, 1, 2, 3, 30].map(|failures| small_grace(failures).as_secs());
    assert_eq!(seconds, [3, 6, 12, 24, 900]);
}
