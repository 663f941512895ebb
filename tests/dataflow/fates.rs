//! What a provider makes of requests, and the lines that come back.

use proptest::prelude::*;
use serde_json::{Value, json};

/// Rounds that are played, the first one among them.
pub const ROUNDS: usize = 8;

/// What a provider makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered,
    Refused,
    Errored,
    Expired,
    Lost,
    AnsweredTwice,
}

pub fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Answered),
        1 => Just(Fate::Refused),
        1 => Just(Fate::Errored),
        1 => Just(Fate::Expired),
        1 => Just(Fate::Lost),
        1 => Just(Fate::AnsweredTwice),
    ]
}

/// The usage of an answer to request `index`, which is executed and billed.
fn usage(index: usize) -> Value {
    json!({"prompt_tokens": 100 + index, "completion_tokens": 1})
}

/// The input tokens and the answers that a provider billed for a batch.
pub fn billed(sent: &str, fates: &[Vec<Fate>], round: usize) -> (i64, i64) {
    let indexes = sent.lines().map(|request| index(&serde_json::from_str::<Value>(request).unwrap()));
    let fate = |index: usize| fates[index].get(round).copied().unwrap_or(Fate::Answered);
    let answered = indexes.filter(|index| matches!(fate(*index), Fate::Answered | Fate::AnsweredTwice));
    answered.fold((0, 0), |(input, answers), index| (input + 100 + index as i64, answers + 1))
}

/// The index in the id of a request.
fn index(request: &Value) -> usize {
    let id = request["custom_id"].as_str().unwrap();
    id[1..id.find('-').unwrap()].parse().unwrap()
}

/// Plays a batch: each request meets its fate for this round, and the lines come back in reverse.
pub fn answers(sent: &str, fates: &[Vec<Fate>], round: usize) -> String {
    let line = |request: &str| -> String {
        let request: Value = serde_json::from_str(request).unwrap();
        let id = request["custom_id"].as_str().unwrap();
        let index = index(&request);
        let response = |status: u16| {
            let body = if status == 200 { json!({"of": index, "usage": usage(index)}) } else { json!({"of": index}) };
            json!({"custom_id": id, "response": {"status_code": status, "body": body}})
        };
        let fate = fates[index].get(round).copied().unwrap_or(Fate::Answered);
        match fate {
            Fate::Answered => format!("{}\n", response(200)),
            Fate::AnsweredTwice => format!("{0}\n{0}\n", response(200)),
            Fate::Refused => format!("{}\n", response(400)),
            Fate::Errored => format!("{}\n", response(500)),
            Fate::Expired => format!("{}\n", json!({"custom_id": id, "error": {"code": "batch_expired"}})),
            Fate::Lost => String::new(),
        }
    };
    let foreign = "{\"custom_id\":\"r0-ffffffff\",\"response\":{\"status_code\":200}}\n<html>\n";
    sent.lines().rev().map(line).chain([foreign.to_string()]).collect()
}

/// What a request must end as, where it is sent again up to `limits` times as that is before each round but the first.
pub fn ends_answered(fates: &[Fate], limits: &[u32]) -> bool {
    let mut failures = 0;
    for round in 0..ROUNDS {
        if round > 0 && failures > limit(limits, round) {
            continue;
        }
        match fates.get(round).copied().unwrap_or(Fate::Answered) {
            Fate::Answered | Fate::AnsweredTwice => return true,
            Fate::Refused => return false,
            Fate::Errored | Fate::Lost => failures += 1,
            Fate::Expired => {}
        }
    }
    false
}

/// How often a request that failed is sent again: people change it between rounds.
pub fn limit(limits: &[u32], round: usize) -> u32 {
    limits[round % limits.len()]
}
