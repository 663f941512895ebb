//! What the simulator can be told to do wrong.

use serde_json::{Value, json};

use super::dice::Dice;

/// Every way in which a batch goes wrong, with values of this cast.
pub fn batch_faults(dice: &mut Dice) -> Vec<Value> {
    let mut flaws = vec![
        json!({"action": "expire", "after": dice.roll(0, 10) as f64 / 10.0}),
        json!({"action": "fail", "code": "token_limit_exceeded", "message": "wait"}),
        json!({"action": "fail", "code": "server_error", "message": "oops"}),
        json!({"action": "odd_state", "state": "queued_for_gpu"}),
        json!({"action": "stuck", "after": dice.roll(0, 10) as f64 / 10.0}),
        json!({"action": "lose_rows", "rows": dice.roll(1, 4)}),
        json!({"action": "double_rows", "rows": dice.roll(1, 4)}),
        json!({"action": "foreign_rows", "rows": dice.roll(1, 4)}),
        json!({"action": "fail_rows", "rows": dice.roll(1, 4), "status": 400, "code": "bad"}),
        json!({"action": "fail_rows", "rows": dice.roll(1, 4), "status": 503, "code": "overloaded"}),
        json!({"action": "no_counts"}),
        json!({"action": "metadata_lost"}),
    ];
    flaws.iter_mut().for_each(|flaw| flaw["point"] = json!("batch"));
    flaws
}

/// Every way in which a request goes wrong, with values of this cast.
pub fn wire_faults(dice: &mut Dice) -> Vec<Value> {
    let mut faults = vec![
        json!({"point": "list_batches", "action": "lag", "seconds": 1}),
        json!({"point": "create_batch", "action": "delay", "milliseconds": dice.roll(100, 4000)}),
        json!({"point": "create_batch", "action": "status", "status": 400}),
        json!({"point": "create_batch", "action": "deny", "status": 429, "retry_after": 1}),
        json!({"point": "create_batch", "action": "deny", "status": 500}),
        json!({"point": "create_batch", "action": "unknown_file"}),
    ];
    for point in
        ["upload", "get_file", "content", "delete_file", "create_batch", "get_batch", "list_batches", "cancel_batch"]
    {
        faults.extend(["drop_reply", "drop_request", "html", "truncate"].map(|a| json!({"point": point, "action": a})));
        faults.push(json!({"point": point, "action": "status", "status": 429, "retry_after": 1}));
        faults.push(json!({"point": point, "action": "status", "status": dice.roll(500, 504)}));
    }
    faults
}
