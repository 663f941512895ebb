//! A batch to ask for.

use std::time::Duration;

use batchjob_operator::provider::CreateBatch;

/// Of file `file-1`, within 20 seconds.
pub fn ask() -> CreateBatch {
    CreateBatch {
        input_file_id: "file-1".into(),
        endpoint: Default::default(),
        window_hours: 24,
        metadata: vec![("bj-intent", "i".into())],
        intent_id: "i".into(),
        timeout: Duration::from_secs(20),
    }
}
