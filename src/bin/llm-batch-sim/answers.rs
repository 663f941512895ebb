//! What requests are answered: an echo, or what a file of rules says.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::prompt::Prompt;

/// How much of a text is echoed, in characters.
const ECHO: usize = 200;

/// What comes back for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The model says this.
    Text(String),
    /// The request fails.
    Refusal(Refusal),
}

/// How a request fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its status, 400 to 599.
    pub status: u16,
    /// The kind, for programs.
    pub code: Option<String>,
    /// The reason, for people.
    pub message: String,
    /// The field, if it is about one.
    pub param: Option<&'static str>,
}

impl Refusal {
    /// A request without a field that it needs.
    pub fn missing(param: &'static str) -> Self {
        Self {
            status: 400,
            code: Some("missing_required_parameter".to_owned()),
            message: format!("Missing required parameter: '{param}'."),
            param: Some(param),
        }
    }

    /// A request that is JSON only at first sight.
    pub fn unreadable() -> Self {
        Self {
            status: 400,
            code: None,
            message: "We could not parse the JSON body of your request.".to_owned(),
            param: None,
        }
    }

    /// A failure that somebody ordered.
    pub fn ordered(status: u16, code: String) -> Self {
        let message = "This error was ordered as a fault.".to_owned();
        Self { status, code: Some(code), message, param: None }
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        let kind = match self.status {
            500.. => "server_error",
            429 => "rate_limit_error",
            _ => "invalid_request_error",
        };
        json!({"error": {
            "message": self.message, "type": kind, "param": self.param, "code": self.code,
        }})
    }
}

/// The rules, in the order in which they are tried.
#[derive(Debug, Default)]
pub struct Answers {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// In lower case; none matches everything.
    contains: Option<String>,
    reply: Reply,
    /// How many requests it is still for; none sets no end.
    left: Option<AtomicU64>,
}

/// A rule as people write it, before it is known to make sense.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    contains: Option<String>,
    answer: Option<String>,
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
    times: Option<u64>,
}

/// Why a file of rules is refused.
#[derive(Debug, thiserror::Error)]
pub enum AnswersError {
    /// It cannot be read.
    #[error("cannot read the answers in {file}: {source}")]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a list of rules.
    #[error("the answers in {file} are not a list of rules: {source}")]
    Parse {
        /// Which.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A rule says too little or too much.
    #[error(
        "rule {number} in {file}: give either \"answer\", or \"status\" (400 to 599) with \
         \"code\" and \"message\" as you like; \"times\" is at least 1"
    )]
    Rule {
        /// Which.
        file: PathBuf,
        /// Counted from 1.
        number: usize,
    },
}

impl Answers {
    /// Reads a file of rules.
    pub fn load(file: &Path) -> Result<Self, AnswersError> {
        let file = file.to_owned();
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(source) => return Err(AnswersError::Read { file, source }),
        };
        let wishes: Vec<Wish> = match serde_json::from_slice(&text) {
            Ok(wishes) => wishes,
            Err(source) => return Err(AnswersError::Parse { file, source }),
        };
        let mut rules = Vec::new();
        for (index, wish) in wishes.into_iter().enumerate() {
            let number = index + 1;
            let Some(rule) = Rule::of(wish) else {
                return Err(AnswersError::Rule { file, number });
            };
            rules.push(rule);
        }
        Ok(Self { rules })
    }

    /// What the first rule that matches says, or an echo.
    pub fn reply(&self, prompt: &Prompt) -> Reply {
        // Nearly all servers have no rules, and long prompts.
        let text = LazyCell::new(|| prompt.text().to_lowercase());
        let matches = |rule: &Rule| match &rule.contains {
            Some(part) => text.contains(part),
            None => true,
        };
        match self.rules.iter().find(|rule| matches(rule) && rule.take()) {
            Some(rule) => rule.reply.clone(),
            None => {
                let start: String = prompt.last().chars().take(ECHO).collect();
                Reply::Text(format!("echo: {start}"))
            }
        }
    }
}

impl Rule {
    /// Whether it is for one more request; then that one is used up.
    fn take(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.left.as_ref().is_none_or(|left| left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok())
    }

    fn of(wish: Wish) -> Option<Self> {
        if wish.times == Some(0) {
            return None;
        }
        let reply = match (wish.answer, wish.status) {
            (Some(answer), None) if wish.code.is_none() && wish.message.is_none() => Reply::Text(answer),
            (None, Some(status)) if (400..600).contains(&status) => Reply::Refusal(Refusal {
                status,
                code: wish.code,
                message: wish.message.unwrap_or_else(|| "The request was refused.".to_owned()),
                param: None,
            }),
            _ => return None,
        };
        let contains = wish.contains.map(|part| part.to_lowercase());
        Some(Self { contains, reply, left: wish.times.map(AtomicU64::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rules: &Value) -> Result<Answers, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("answers.json");
        std::fs::write(&file, rules.to_string())?;
        Ok(Answers::load(&file)?)
    }

    fn ask(answers: &Answers, text: &str) -> Reply {
        let parts = vec!["earlier".to_owned(), text.to_owned()];
        answers.reply(&Prompt { parts })
    }

    #[test]
    fn the_first_rule_that_matches_in_any_case_wins() -> Result<(), Box<dyn std::error::Error>> {
        let answers = load(&json!([
            {"contains": "Refund", "answer": "billing"},
            {"contains": "bad", "status": 429, "code": "busy", "message": "later"},
            {"answer": "other"},
            {"contains": "never reached", "answer": "no"},
        ]))?;
        assert_eq!(ask(&answers, "a bad REFUND"), Reply::Text("billing".into()));
        assert_eq!(ask(&answers, "never reached"), Reply::Text("other".into()));
        let Reply::Refusal(refusal) = ask(&answers, "bad") else {
            return Err("not refused".into());
        };
        assert_eq!(refusal.status, 429);
        assert_eq!(refusal.body()["error"]["code"], "busy");
        Ok(())
    }

    #[test]
    fn a_rule_with_times_gives_way_when_they_are_used_up() -> Result<(), Box<dyn std::error::Error>> {
        let answers = load(&json!([
            {"contains": "shaky", "status": 500, "times": 2},
            {"contains": "shaky", "answer": "third", "times": 1},
        ]))?;
        let refused = |text| matches!(ask(&answers, text), Reply::Refusal(_));
        assert!(refused("shaky"));
        assert_eq!(ask(&answers, "firm"), Reply::Text("echo: firm".into()));
        assert!(refused("shaky"));
        assert_eq!(ask(&answers, "shaky"), Reply::Text("third".into()));
        assert_eq!(ask(&answers, "shaky"), Reply::Text("echo: shaky".into()));
        Ok(())
    }

    #[test]
    fn what_no_rule_matches_is_echoed_in_part() {
        let reply = ask(&Answers::default(), &"é".repeat(500));
        assert_eq!(reply, Reply::Text(format!("echo: {}", "é".repeat(200))));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for rules in [
            json!([{"contains": "a"}]),
            json!([{"answer": "a", "status": 400}]),
            json!([{"status": 200}]),
            json!([{"anwser": "a"}]),
            json!([{"answer": "a", "times": 0}]),
            json!({"answer": "a"}),
        ] {
            assert!(load(&rules).is_err(), "{rules}");
        }
    }
}
