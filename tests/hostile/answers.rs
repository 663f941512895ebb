//! Answers that no server should give, and some that they may.

use std::sync::LazyLock;

use super::server::{Answer, Then};

/// A well-framed answer.
pub fn http(status: u16, content_type: &str, body: &[u8]) -> Answer {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    Answer { bytes: [head.as_bytes(), body].concat(), then: Then::Close }
}

/// A well-framed JSON answer.
pub fn json(status: u16, body: &str) -> Answer {
    http(status, "application/json", body.as_bytes())
}

fn raw(bytes: impl AsRef<[u8]>, then: Then) -> Answer {
    Answer { bytes: bytes.as_ref().to_vec(), then }
}

/// One chunk of spaces.
static CHUNK: LazyLock<Vec<u8>> = LazyLock::new(|| format!("1000\r\n{}\r\n", " ".repeat(0x1000)).into_bytes());
const SAID: &str = r#"{"error":{"message":"no","code":"nope"}}"#;
const PAGE: &[u8] = b"<!doctype html><title>502</title><h1>Bad gateway</h1>";

/// Each with a name.
pub fn odd() -> Vec<(String, Answer)> {
    let mut all = vec![];
    let mut add = |name: &str, answer: Answer| all.push((name.to_string(), answer));
    add("nothing, and the connection ends", raw("", Then::Close));
    add("another protocol", raw("SSH-2.0-OpenSSH_9.2\r\n", Then::Close));
    add("no status line", raw("hello\r\n\r\n", Then::Close));
    add("HTTP/0.9", raw("<html>", Then::Close));
    add("a status of one digit", raw("HTTP/1.1 2 OK\r\n\r\n", Then::Close));
    add("a status of 999", raw("HTTP/1.1 999 X\r\ncontent-length: 2\r\n\r\n{}", Then::Close));
    add("a header without a name", raw("HTTP/1.1 200 OK\r\n: x\r\n\r\n{}", Then::Close));
    add("a NUL in a header", raw("HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\n{}", Then::Close));
    add("a header without end", raw("HTTP/1.1 200 OK\r\nx: ", Then::Endless(b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy")));
    add("headers without end", raw("HTTP/1.1 200 OK\r\n", Then::Endless(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")));
    add("two lengths", raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", Then::Close));
    add("a length of minus one", raw("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{}", Then::Close));
    add("a body that is cut off", raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":\"b", Then::Close));
    add("a chunk that is cut off", raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{}", Then::Close));
    add("a chunk of no size", raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", Then::Close));
    add("a body without end", raw("HTTP/1.1 200 OK\r\n\r\n[", Then::Endless(&[b' '; 65_536])));
    add("values without end", raw("HTTP/1.1 200 OK\r\n\r\n[", Then::Endless(b"{\"\":0},{\"\":0},{\"\":0},{\"\":0},")));
    add("chunks without end", raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Then::Endless(&CHUNK)));
    add("a switch of protocols", raw("HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n{}", Then::Close));
    add("no content", raw("HTTP/1.1 204 X\r\n\r\n", Then::Close));
    for (what, body) in [
        ("an empty body", &b""[..]),
        ("a page of HTML", PAGE),
        ("null", b"null"),
        ("a list", b"[]"),
        ("an object without anything", b"{}"),
        ("a text", b"\"batch_1\""),
        ("a number", b"7"),
        ("JSON that is cut off", b"{\"id\":\"batch_1\",\"sta"),
        ("two documents", b"{\"id\":\"batch_1\"}{\"id\":\"batch_2\"}"),
        ("something that is not UTF-8", b"{\"id\":\"\xff\xfe\"}"),
        ("an id that is empty", b"{\"id\":\"\",\"status\":\"completed\"}"),
        ("an id that is an object", b"{\"id\":{\"a\":1},\"status\":\"completed\"}"),
        ("an id that is a list", b"{\"id\":[\"b\"],\"status\":\"completed\"}"),
        ("an id that is true", b"{\"id\":true,\"status\":\"completed\"}"),
        ("an id that is a path", b"{\"id\":\"..\",\"status\":\"completed\"}"),
        ("an id with a line end", b"{\"id\":\"a\\nb\",\"status\":\"completed\"}"),
        ("an id with a space", b"{\"id\":\"a b\",\"status\":\"completed\"}"),
        ("an error with an id", b"{\"id\":\"req_1\",\"error\":{\"message\":\"no\"}}"),
        ("an error and nothing else", SAID.as_bytes()),
    ] {
        add(&format!("200 with {what}"), http(200, "application/json", body));
        add(&format!("201 with {what}, as HTML"), http(201, "text/html", body));
    }
    let long = format!(r#"{{"id":"{}","status":"completed"}}"#, "b".repeat(3_000));
    add("200 with an id of 3,000 bytes", json(200, &long));
    add("200 with brackets a million deep", json(200, &"[".repeat(1 << 20)));
    add("200 with 5 MB", json(200, &format!(r#"{{"id":"batch_1","x":"{}"}}"#, "y".repeat(5 << 20))));
    let bomb = format!(r#"{{"id":"batch_1","x":[{}0]}}"#, format!("[{}0],", r#"{"":0},"#.repeat(900)).repeat(600));
    add("200 with a document that takes 100 times its size", json(200, &bomb));
    let squeezed = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00";
    add("200 with half a gzip stream", raw(squeezed, Then::Close));
    for status in [300, 301, 302, 303, 304, 305, 307, 308] {
        add(&format!("{status} without a place"), http(status, "text/html", b""));
    }
    for status in [402, 404, 405, 406, 408, 409, 410, 411, 413, 414, 415, 418, 421, 425, 431, 451, 499] {
        add(&format!("{status} with a page of HTML"), http(status, "text/html", PAGE));
    }
    for status in [408, 409, 425, 500, 501, 502, 503, 504, 505, 507, 520, 522, 524, 529, 599] {
        add(&format!("{status} with an error document"), json(status, SAID));
    }
    for after in ["-1", "soon", "99999999999999999999", "Wed, 21 Oct 2099 07:28:00 GMT"] {
        let head = format!("HTTP/1.1 503 X\r\nretry-after: {after}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        add(&format!("503, to be asked again after '{after}'"), raw(head, Then::Close));
    }
    all
}

/// Refusals that count where they are the vendor's own.
pub fn refusals() -> Vec<(String, Answer)> {
    let named = |status: u16| (format!("{status} with an error document"), json(status, SAID));
    [400, 401, 402, 403, 404, 405, 410, 413, 415, 422, 429, 451].map(named).into()
}
