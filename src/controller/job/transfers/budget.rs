//! The maximum memory of each kind of transfer. It is the sum of the transfer's buffers, whose sizes are constants beside the
//! code that holds them.

use super::{BESIDE, LIMITS, SMALL, name_of};
use crate::lifecycle::{AttemptKey, Task};
use crate::requests::{self, MODEL_LIMIT};
use crate::results::{self, BASE_READERS, LATER_LANES};
use crate::store;

/// Returns the maximum number of bytes that a transfer holds: the sum of its buffers.
fn most(task: Task) -> usize {
    let lines =
        |models| if models > results::FEW_MODELS { store::SMALL_LINES_BYTES } else { store::JOINED_LINES_BYTES };
    let base = |models: usize| models * (BASE_READERS * store::READER_BYTES + 2 * lines(models));
    // Few files of later rounds are read from the store; more of them are unpacked to local disk first, and then read in small
    // chunks.
    let read = LATER_LANES * 2 * (store::READER_BYTES + store::JOINED_LINES_BYTES);
    let later = |lanes: usize, readers: usize| (lanes * readers * store::SMALL_LINES_BYTES).max(read * readers / 2);
    let shard = store::SPOOL_BYTES + store::SMALL_SPOOL_BYTES;
    let beside = ((SMALL + BESIDE) << 20) as usize;
    let rounds = results::LANES_LIMIT / MODEL_LIMIT;
    beside
        + match task {
            Task::Plan => {
                let reused = 2 * store::SMALL_SPOOL_BYTES + store::KEYED_BYTES;
                let shards = MODEL_LIMIT * shard + reused + store::UPLOAD_BYTES + requests::IDS_BYTES;
                let lines =
                    requests::WINDOW_BYTES.max(results::ROWS_BYTES) + store::LINES_BYTES.max(requests::ROW_BYTES);
                let object = requests::MOST_OBJECT_BYTES;
                let objects =
                    requests::AHEAD_BYTES + requests::OBJECT_BYTES * object + object + requests::BESIDE_WINDOW;
                shards + lines.max(objects)
            }
            // Where the provider has budgets, the requests are counted first.
            Task::Upload(_) => store::READER_BYTES + store::DECODED_BYTES.max(store::LINES_BYTES),
            Task::Collect(_) => {
                let most = results::COLLECT_BYTES + results::ANSWER_BYTES * MOST_OF_A_BATCH;
                most + store::LINES_BYTES + store::SPOOL_BYTES + store::UPLOAD_BYTES + store::READER_BYTES
            }
            Task::FollowUp | Task::Halve(_) => base(1) + later(rounds, 2) + 2 * shard + store::UPLOAD_BYTES,
            // An index and a part are read at a time.
            Task::Publish => base(1) + store::UPLOAD_BYTES + store::ENCODER_BYTES,
            Task::Write => {
                // Files with reused answers are unpacked one after the other, and then read in small chunks.
                let reused = store::READER_BYTES + BASE_READERS * store::SMALL_LINES_BYTES;
                let read = base(MODEL_LIMIT) + reused + later(results::LANES_LIMIT, 1);
                read + 3 * (store::UPLOAD_BYTES + store::ENCODER_BYTES)
            }
            _ => 0,
        }
}

/// OpenAI's limit of requests in one batch.
const MOST_OF_A_BATCH: usize = 50_000;

const SLOT: AttemptKey = AttemptKey { shard: 0, attempt: 1 };

#[test]
fn no_transfer_can_need_more_than_all_transfers_may_hold() {
    let tasks = [
        Task::Plan,
        Task::Upload(SLOT),
        Task::Collect(SLOT),
        Task::FollowUp,
        Task::Halve(SLOT),
        Task::Publish,
        Task::Write,
    ];
    let most = tasks.map(|task| (name_of(task), (most(task) as u64).div_ceil(1 << 20)));
    assert!(most.iter().all(|(_, most)| *most <= LIMITS.total), "{most:?}");
    insta::assert_snapshot!(format!("{most:?}"), @r#"[("Plan", 128), ("Upload", 13), ("Collect", 41), ("FollowUp", 42), ("Halve", 42), ("Publish", 25), ("Write", 128)]"#);
}

/// Holds the table of buffers in `docs/architecture.md` to the code.
#[test]
fn the_documented_sizes_are_those_of_the_code() {
    let sizes = [
        ("READER_BYTES", store::READER_BYTES),
        ("DECODED_BYTES", store::DECODED_BYTES),
        ("SPOOL_BYTES", store::SPOOL_BYTES),
        ("SMALL_SPOOL_BYTES", store::SMALL_SPOOL_BYTES),
        ("UPLOAD_BYTES", store::UPLOAD_BYTES),
        ("ENCODER_BYTES", store::ENCODER_BYTES),
        ("LINES_BYTES", store::LINES_BYTES),
        ("JOINED_LINES_BYTES", store::JOINED_LINES_BYTES),
        ("SMALL_LINES_BYTES", store::SMALL_LINES_BYTES),
        ("WINDOW_BYTES", requests::WINDOW_BYTES),
        ("IDS_BYTES", requests::IDS_BYTES),
        ("ROW_BYTES", requests::ROW_BYTES),
        ("AHEAD_BYTES", requests::AHEAD_BYTES),
        ("COLLECT_BYTES", results::COLLECT_BYTES),
        ("KEYED_BYTES", store::KEYED_BYTES),
    ];
    let written = include_str!("../../../../docs/architecture.md");
    for (name, bytes) in sizes {
        let kib = bytes.div_ceil(1 << 10);
        let row = format!("| `{name}` | {kib} KiB |");
        assert!(written.contains(&row), "docs/architecture.md lacks {row}");
    }
}
