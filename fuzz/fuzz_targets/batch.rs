//! Whatever a server answers where a batch was due: no panic, and nothing of it is larger than it may be.

#![no_main]

use batchjob_operator::provider::Batch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let Some(batch) = Batch::read(body) else { return };
    let files = [&batch.input_file_id, &batch.output_file_id, &batch.error_file_id].into_iter().flatten();
    for id in files.chain([&batch.id]) {
        assert!((1..=2_048).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()), "{id:?}");
    }
    assert!(batch.done.is_none_or(|done| done >= 0));
    assert!(batch.usage.is_none_or(|usage| usage.input_tokens >= 0 && usage.output_tokens >= 0 && !usage.is_zero()));
    assert!(batch.status.len() <= 64 && batch.errors.len() <= 8 && batch.metadata.len() <= 64);
    if let Some(rejection) = batch.rejection() {
        assert!(batch.has_ended() && rejection.message.len() <= 700, "{}", rejection.message.len());
    }
});
