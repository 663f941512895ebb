//! Faults that make sense, faults that do not, and the order they strike in.

use super::*;
use crate::testkit::Failure;
use serde_json::{Value, json};

fn status(status: u16) -> Wire {
    Wire::Status { status, retry_after: None, body: None }
}

#[test]
fn a_flag_and_its_json_are_the_same_fault() -> Result<(), Failure> {
    for (flag, json) in [
        ("create_batch=status:503*2", json!({"point": "create_batch", "action": "status", "status": 503, "times": 2})),
        ("upload=drop_reply", json!({"point": "upload", "action": "drop_reply"})),
        ("content=html", json!({"point": "content", "action": "html"})),
        (
            "content=redirect:https://store.example/f",
            json!({"point": "content", "action": "redirect", "location": "https://store.example/f", "status": 302}),
        ),
        ("get_batch=delay:50", json!({"point": "get_batch", "action": "delay", "milliseconds": 50})),
        ("content=truncate", json!({"point": "content", "action": "truncate"})),
        ("content=truncate:7", json!({"point": "content", "action": "truncate", "bytes": 7})),
        ("list_batches=lag:30*9", json!({"point": "list_batches", "action": "lag", "seconds": 30, "times": 9})),
        ("batch=expire:0.25", json!({"point": "batch", "action": "expire", "after": 0.25})),
        ("batch=stuck", json!({"point": "batch", "action": "stuck", "after": 0.5})),
        (
            "batch=fail:token_limit_exceeded",
            json!({"point": "batch", "action": "fail", "code": "token_limit_exceeded"}),
        ),
        ("batch=odd_state:queued", json!({"point": "batch", "action": "odd_state", "state": "queued"})),
        ("batch=lose_rows:2", json!({"point": "batch", "action": "lose_rows", "rows": 2})),
        ("batch=double_rows", json!({"point": "batch", "action": "double_rows", "rows": 1})),
        ("batch=foreign_rows:3", json!({"point": "batch", "action": "foreign_rows", "rows": 3})),
        (
            "batch=fail_rows:2",
            json!({"point": "batch", "action": "fail_rows", "rows": 2, "status": 500, "code": "server_error"}),
        ),
        ("batch=no_counts", json!({"point": "batch", "action": "no_counts"})),
        ("batch=metadata_lost", json!({"point": "batch", "action": "metadata_lost"})),
    ] {
        let fault: Fault = flag.parse()?;
        assert_eq!(fault, serde_json::from_value(json)?, "{flag}");
        assert_eq!(fault, serde_json::from_str(&serde_json::to_string(&fault)?)?, "{flag}");
    }
    Ok(())
}

#[test]
fn a_fault_that_would_do_nothing_is_refused() {
    for flag in [
        "create_batch",
        "create_bach=drop_reply",
        "upload=drop",
        "upload=status",
        "upload=status:42",
        "upload=drop_reply:503",
        "upload=drop_reply*0",
        "upload=delay:0",
        "upload=lag:1",
        "upload=expire",
        "list_batches=lag",
        "batch=delay:5",
        "batch=expire:1.5",
        "batch=stuck:-1",
        "batch=lose_rows:0",
        "batch=fail",
        "batch=odd_state:",
        "batch=no_counts:1",
    ] {
        assert!(flag.parse::<Fault>().is_err(), "{flag}");
    }
    for json in [
        json!({"point": "upload", "action": "drop_reply", "time": 2}),
        json!({"point": "upload", "action": "html", "status": 502}),
        json!({"point": "batch", "action": "no_counts", "rows": 1}),
        json!({"point": "batch", "action": "fail_rows", "status": 200}),
    ] {
        assert!(serde_json::from_value::<Fault>(json.clone()).is_err(), "{json}");
    }
}

#[test]
fn faults_of_a_point_strike_in_order_and_are_used_up() -> Result<(), Failure> {
    let flags = ["upload=drop_reply", "batch=no_counts", "upload=status:500*2"];
    let faults = Faults::new(flags.iter().map(|flag| flag.parse()).collect::<Result<_, wish::FaultError>>()?);
    assert_eq!(faults.take(Point::Content, Moment::Arrival), None);
    assert_eq!(faults.take(Point::Upload, Moment::Arrival), None);
    assert_eq!(faults.take(Point::Upload, Moment::Reply), Some(Wire::DropReply {}));
    assert_eq!(faults.take(Point::Upload, Moment::Arrival), Some(status(500)));
    assert_eq!(faults.take(Point::Upload, Moment::Arrival), Some(status(500)));
    assert_eq!(faults.take(Point::Upload, Moment::Arrival), None);
    assert_eq!(faults.flaw(), Some(Flaw::NoCounts {}));
    assert_eq!(faults.flaw(), None);
    assert_eq!(faults.left(), []);
    Ok(())
}

#[test]
fn a_file_of_faults_is_a_list_of_them() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("faults.json");
    let read = |content: Value| {
        std::fs::write(&file, content.to_string())?;
        Ok::<_, Failure>(load(&file)?)
    };
    let one = json!({"point": "batch", "action": "stuck"});
    assert_eq!(read(json!([one]))?, ["batch=stuck".parse()?]);
    assert!(read(one).is_err());
    assert!(load(&dir.path().join("none.json")).is_err());
    Ok(())
}
