//! Requests to measure with: prose of some kilobytes, the same in each run.

use std::sync::LazyLock;

use serde_json::json;

/// Some words need escapes in JSON, some are not ASCII.
const PROSE: &str = "the letter of a captain who left harbour in winter and wrote that his ship carried salt, timber or \
    wool. They were paid by merchants from Lübeck to Bergen, \"so he says\", before ice came.\n Nobody knew where money \
    went; some it was lost at sea, others spent on wine. An old account book names twelve men with wages for each month \
    café 1848";
static WORDS: LazyLock<Vec<&str>> = LazyLock::new(|| PROSE.split(' ').collect());

/// Bytes of text in one request; 50,000 such lines are some 199 MB.
const TEXT: usize = 3_650;

/// Numbers without any pattern that matters here.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Prose of at least so many bytes.
    pub fn prose(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            for die in self.next().to_le_bytes() {
                text.push_str(WORDS[usize::from(die) % WORDS.len()]);
                text.push(' ');
            }
        }
        text
    }
}

/// One line of OpenAI's batch format, with its newline.
pub fn line(index: usize) -> String {
    let text = Dice::new(index as u64 + 1).prose(TEXT);
    let body = json!({
        "model": "gpt-5-mini",
        "max_completion_tokens": 256,
        "temperature": 0.2,
        "messages": [
            {"role": "system", "content": "Summarise the document in one sentence."},
            {"role": "user", "content": text},
        ],
    });
    json!({"custom_id": format!("document-{index:07}"), "method": "POST", "url": "/v1/chat/completions", "body": body})
        .to_string()
        + "\n"
}
