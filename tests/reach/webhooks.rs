//! Webhooks: a team's Secret holds the URL, so both the URL and the server behind it may be hostile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use batchjob_operator::api::{NotificationEvent, NotificationFormat, ProviderReference};
use batchjob_operator::notify::{Notice, Retry, Target, Undelivered, deliver, deliver_within};
use batchjob_operator::transport::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server::{Answer, Server, Then};
use crate::{Servers, tls_front, transport};

/// A part of the URLs and of servers' answers that may be shown to nobody.
const CANARY: &str = "canary-T0123/B4567";
const NOW: i64 = 1_796_040_000_000;

fn notice() -> Notice {
    Notice {
        id: "msg_1".into(),
        event: NotificationEvent::Started,
        at: NOW,
        namespace: "shop".into(),
        name: "reviews".into(),
        uid: "u".into(),
        outcome: None,
        reason: "Submitting".into(),
        message: "submitting batches to the provider".into(),
        requests: None,
        usage: None,
        cost: None,
        start: Some(NOW),
        end: None,
        results: None,
        provider: ProviderReference::default(),
        model: None,
    }
}

fn target(url: &str, by_admin: bool) -> Target {
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_string();
    Target { format: NotificationFormat::CloudEvents, url: url.into(), signing_keys: Some(key.into()), by_admin }
}

async fn tell(transport: &Transport, url: &str) -> Result<(), Undelivered> {
    kept_secret(deliver(transport, &target(url, false), &notice(), NOW).await)
}

async fn tell_as_admin(transport: &Transport, url: &str) -> Result<(), Undelivered> {
    kept_secret(deliver(transport, &target(url, true), &notice(), NOW).await)
}

/// Fails if the words of a failure show what is secret.
fn kept_secret(told: Result<(), Undelivered>) -> Result<(), Undelivered> {
    if let Err(undelivered) = &told {
        let message = &undelivered.message;
        assert!(!message.contains("canary") && !message.contains("whsec_") && message.len() < 600, "{message}");
    }
    told
}

/// The words of a refusal before anything was sent.
fn refused(told: Result<(), Undelivered>) -> String {
    let undelivered = told.unwrap_err();
    assert_eq!(undelivered.retry, Retry::Later, "its owner or an admin may mend it: {undelivered}");
    undelivered.message
}

#[tokio::test]
async fn a_team_cannot_have_a_host_in_a_private_network_told() {
    let servers = Servers::start(|_| "204 No Content".into()).await;
    let (transport, names) = transport("");
    let port = servers.port;
    names.say("inside.example", &[&["127.0.0.1"]]);
    names.say("inside.example.", &[&["127.0.0.1"]]);
    names.say("mapped.example", &[&["::ffff:127.0.0.1"]]);
    names.say("translated.example", &[&["64:ff9b::7f00:1"]]);
    names.say("localhost", &[&["127.0.0.1", "::1"]]);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "%31%32%37.0.0.1",
        "①②⑦.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "inside.example",
        "INSIDE.example.",
        "mapped.example",
        "translated.example",
        "localhost",
        "0.0.0.0",
    ] {
        for scheme in ["http", "https"] {
            let said = refused(tell(&transport, &format!("{scheme}://{host}:{port}/{CANARY}")).await);
            assert!(said.contains("--allow-private-hosts") || said.contains("not known"), "{host}: {said}");
        }
    }
    for host in ["169.254.169.254", "[fd00:ec2::254]", "168.63.129.16", "100.100.100.200"] {
        let said = refused(tell(&transport, &format!("http://{host}/latest/{CANARY}")).await);
        assert!(said.contains("metadata service"), "{host}: {said}");
    }
    for host in
        ["10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.0.1", "224.0.0.1", "[fd12::1]", "[fe80::1]"]
    {
        refused(tell(&transport, &format!("https://{host}/{CANARY}")).await);
    }
    // What looks like another host before the last `@`, or behind a backslash.
    for url in [
        format!("http://hooks.example@127.0.0.1:{port}/{CANARY}"),
        format!("http://hooks.example:443@127.0.0.1:{port}/{CANARY}"),
        format!("http:\\\\127.0.0.1:{port}\\{CANARY}"),
        format!("http://127.0.0.1:{port}\\@hooks.example/{CANARY}"),
        format!("//127.0.0.1:{port}/{CANARY}"),
    ] {
        refused(tell(&transport, &url).await);
    }
    assert_eq!(servers.seen(), [0, 0]);
}

#[tokio::test]
async fn an_admins_webhook_and_an_allowed_one_are_told_in_a_private_network_and_their_port_alone() {
    let servers = Servers::start(|_| "204 No Content".into()).await;
    let other = Servers::start(|_| "204 No Content".into()).await;
    let (teams, names) = transport(&format!("hooks.internal:{}", servers.port));
    names.say("hooks.internal", &[&["127.0.0.1"]]);
    let url = |host: &str, port| format!("http://{host}:{port}/{CANARY}");
    tell(&teams, &url("hooks.internal", servers.port)).await.unwrap();
    refused(tell(&teams, &url("hooks.internal", other.port)).await);
    refused(tell(&teams, &url("127.0.0.1", servers.port)).await);
    let (none, _) = transport("");
    tell_as_admin(&none, &url("127.0.0.1", servers.port)).await.unwrap();
    refused(tell(&none, &url("127.0.0.1", servers.port)).await);
    refused(tell_as_admin(&none, &format!("http://169.254.169.254/{CANARY}")).await);
    assert_eq!((servers.seen(), other.seen()), ([2, 0], [0, 0]));
}

#[tokio::test]
async fn the_url_of_a_webhook_is_not_sent_in_clear_text_to_a_public_address() {
    let (transport, names) = transport("");
    names.say("hooks.example", &[&["8.8.8.8"]]);
    for host in ["hooks.example", "8.8.8.8", "hooks.example:8443", "[2001:4860:4860::8888]"] {
        for by_admin in [false, true] {
            let told = deliver(&transport, &target(&format!("http://{host}/{CANARY}"), by_admin), &notice(), NOW).await;
            let said = refused(kept_secret(told));
            assert!(said.contains("in clear text"), "{host}: {said}");
        }
    }
}

#[tokio::test]
async fn other_schemes_are_not_spoken() {
    let (transport, _) = transport("0.0.0.0/0");
    for url in [
        "file:///etc/passwd",
        "ftp://hooks.example/canary",
        "gopher://127.0.0.1:6379/_canary",
        "ws://127.0.0.1/canary",
        "data:application/json,canary",
        "javascript:canary",
        "mailto:canary@example.com",
        "unix:///run/canary.sock",
        "http+unix://canary/",
        "canary",
    ] {
        refused(tell(&transport, url).await);
    }
    // A line break would begin another header; the parser takes it out, as browsers do.
    let said = refused(tell(&transport, "http://hooks.example/\r\nx-canary: 1\r\n").await);
    assert!(!said.contains("x-"), "{said}");
}

#[tokio::test]
async fn a_name_that_changes_between_two_tries_is_judged_at_each() {
    let servers = Servers::start(|_| "204 No Content\r\nconnection: close".into()).await;
    let (transport, names) = transport("127.0.0.1");
    let url = |host: &str| format!("http://{host}:{}/{CANARY}", servers.port);
    names.say("rebound.example", &[&["127.0.0.1"], &["127.0.0.2"]]);
    tell(&transport, &url("rebound.example")).await.unwrap();
    refused(tell(&transport, &url("rebound.example")).await);
    names.say("metadata.example", &[&["127.0.0.1"], &["169.254.169.254"]]);
    tell(&transport, &url("metadata.example")).await.unwrap();
    refused(tell(&transport, &url("metadata.example")).await);
    names.say("both.example", &[&["127.0.0.2", "127.0.0.1"]]);
    tell(&transport, &url("both.example")).await.unwrap();
    assert_eq!(servers.seen(), [3, 0]);
}

#[tokio::test]
async fn a_redirect_is_told_and_not_followed() {
    for (status, to) in [
        ("301 Moved", format!("http://127.0.0.2:PORT/{CANARY}")),
        ("302 Found", format!("http://127.0.0.2:PORT/{CANARY}")),
        ("303 See Other", format!("http://127.0.0.1:PORT/{CANARY}")),
        ("307 Temporary", format!("http://169.254.169.254/{CANARY}")),
        ("308 Permanent", format!("https://hooks.example/{CANARY}?token={CANARY}")),
        ("308 Permanent", format!("file:///{CANARY}")),
        ("302 Found", "http://canary:canary@127.0.0.2:PORT/".into()),
        ("300 Choices", format!("/{CANARY}")),
    ] {
        let location = to.clone();
        let servers = Servers::start(move |port| {
            let location = location.replace("PORT", &port.to_string());
            format!("{status}\r\nlocation: {location}\r\nrefresh: 0; url={location}")
        })
        .await;
        let (transport, _) = transport("127.0.0.0/8");
        let undelivered = tell(&transport, &format!("http://127.0.0.1:{}/{CANARY}", servers.port)).await.unwrap_err();
        assert_eq!(undelivered.retry, Retry::Later, "{to}");
        assert!(undelivered.message.contains(&format!("it answered {}", &status[..3])), "{undelivered}");
        assert_eq!(servers.seen(), [1, 0], "{to}");
    }
}

/// An answer by name: its bytes, what comes after them, and the verdict on it.
type Case = (&'static str, Vec<u8>, Then, Result<(), Retry>);

/// Each answer of a server, and the part of it that counts.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_judged_by_its_status_and_never_read_to_the_end() {
    let large_head =
        |status: &str| format!("HTTP/1.1 {status}\r\nx-canary: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(2 << 20));
    let many_headers = format!("HTTP/1.1 204 No Content\r\n{}\r\n", "x-canary: 1\r\n".repeat(10_000));
    // Ten megabytes of zeros, compressed, if it were uncompressed; it is not gzip behind its magic number, so that whoever unpacks it
    // fails.
    let bomb = [
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 10000\r\n\r\n".as_slice(),
        &[0x1f, 0x8b, 8, 0],
        &[0xff; 9_996],
    ]
    .concat();
    let answers: Vec<Case> = vec![
        ("an endless body", b"HTTP/1.1 200 OK\r\n\r\n".into(), Then::Endless(b"canary "), Ok(())),
        ("an endless refusal", b"HTTP/1.1 500 canary\r\n\r\n".into(), Then::Endless(b"canary "), Err(Retry::Later)),
        (
            "endless chunks",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".into(),
            Then::Endless(b"6\r\ncanary\r\n"),
            Ok(()),
        ),
        (
            "a body that stands still",
            b"HTTP/1.1 202 Accepted\r\ncontent-length: 9\r\n\r\nca".into(),
            Then::Hang,
            Ok(()),
        ),
        (
            "a huge length",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775807\r\n\r\ncanary".into(),
            Then::Close,
            Ok(()),
        ),
        (
            "a body that is cut off",
            b"HTTP/1.1 204 No Content\r\ncontent-length: 99\r\n\r\ncanary".into(),
            Then::Close,
            Ok(()),
        ),
        (
            "a chunk of no size",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n".into(),
            Then::Close,
            Ok(()),
        ),
        ("a compressed bomb", bomb, Then::Close, Ok(())),
        (
            "an error page",
            b"HTTP/1.1 503 canary\r\nretry-after: 17\r\n\r\n<html>canary</html>".into(),
            Then::Close,
            Err(Retry::After(Duration::from_secs(17))),
        ),
        (
            "a wait for ever",
            b"HTTP/1.1 429 canary\r\nretry-after: 99999999999\r\n\r\n".into(),
            Then::Close,
            Err(Retry::After(Duration::from_secs(86_400))),
        ),
        (
            "a wait of nonsense",
            b"HTTP/1.1 429 canary\r\nretry-after: -1 canary\r\n\r\n".into(),
            Then::Close,
            Err(Retry::Later),
        ),
        ("gone", b"HTTP/1.1 410 canary\r\nretry-after: 17\r\n\r\ncanary".into(), Then::Close, Err(Retry::Never)),
        ("a huge head", large_head("200 OK").into(), Then::Close, Err(Retry::Later)),
        ("ten thousand headers", many_headers.into(), Then::Close, Err(Retry::Later)),
        ("an endless head", b"HTTP/1.1 200 OK\r\n".into(), Then::Endless(b"x-canary: canary\r\n"), Err(Retry::Later)),
        ("an endless line", b"HTTP/1.1 200 ".into(), Then::Endless(b"canary"), Err(Retry::Later)),
        (
            "two lengths",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nca".into(),
            Then::Close,
            Err(Retry::Later),
        ),
        ("a negative length", b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".into(), Then::Close, Err(Retry::Later)),
        ("no HTTP", b"220 canary ESMTP\r\n".into(), Then::Close, Err(Retry::Later)),
        ("HTTP/0.9", b"canary".into(), Then::Close, Err(Retry::Later)),
        ("a status of no class", b"HTTP/1.1 999 canary\r\n\r\n".into(), Then::Close, Err(Retry::Later)),
        ("a status of four digits", b"HTTP/1.1 2000 canary\r\n\r\n".into(), Then::Close, Err(Retry::Later)),
        ("nothing", vec![], Then::Close, Err(Retry::Later)),
        (
            "a switch of protocols",
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: canary\r\nconnection: upgrade\r\n\r\n".into(),
            Then::Close,
            Err(Retry::Later),
        ),
    ];
    let told = answers.into_iter().map(|(name, bytes, then, expected)| async move {
        let server = Server::start(move |_, _| Answer { bytes: bytes.clone(), then }).await;
        let (transport, _) = transport("127.0.0.1");
        let began = Instant::now();
        let told = tell(&transport, &format!("{}/{CANARY}", server.url)).await;
        assert_eq!(told.map_err(|undelivered| undelivered.retry), expected, "{name}");
        assert!(began.elapsed() < Duration::from_secs(10), "{name}: {:?}", began.elapsed());
        assert_eq!(server.seen(), [format!("POST /{CANARY} HTTP/1.1")], "{name}: sent once");
    });
    futures::future::join_all(told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_holds_back_the_head_of_its_answer_is_given_up_at_the_deadline() {
    for (bytes, then) in [
        (&b""[..], Then::Hang),
        (b"HTTP/1.1 200 OK\r\nx-ca", Then::Hang),
        (b"", Then::Endless(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
        (b"", Then::Endless(b"HTTP/1.1 100 Continue\r\n\r\n")),
    ] {
        let server = Server::start(move |_, _| Answer { bytes: bytes.to_vec(), then }).await;
        held_back(server.url.trim_start_matches("http://").parse().unwrap()).await;
    }
    // A head that drips, and never stands still.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nx-canary: ").await;
        while socket.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    held_back(address).await;
    // A connection that is taken by the kernel and by nobody else.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    held_back(silent.local_addr().unwrap()).await;
}

async fn held_back(address: SocketAddr) {
    let (transport, _) = transport("127.0.0.1");
    let target = target(&format!("http://{address}/{CANARY}"), false);
    let began = Instant::now();
    let told = deliver_within(Duration::from_millis(300), &transport, &target, &notice(), NOW).await;
    let undelivered = kept_secret(told).unwrap_err();
    assert_eq!(undelivered.retry, Retry::Later);
    assert!(
        undelivered.message.contains(&address.to_string()) && undelivered.message.contains("no answer"),
        "{undelivered}"
    );
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_that_is_reset_or_refused_is_a_failure_that_may_pass() {
    for head in [&b""[..], b"HTTP/1.1 2"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/{CANARY}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            // What is left unread makes the kernel answer with a reset when the socket is dropped.
            let _ = socket.read(&mut [0; 16]).await;
            let _ = socket.write_all(head).await;
        });
        let (transport, _) = transport("127.0.0.1");
        assert_eq!(tell(&transport, &url).await.unwrap_err().retry, Retry::Later);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/{CANARY}", listener.local_addr().unwrap());
    drop(listener);
    let said = refused(tell(&transport("127.0.0.1").0, &url).await);
    assert!(said.contains("nothing was sent"), "{said}");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_or_no_certificate_is_told_with_its_remedy() {
    let servers = Servers::start(|_| "204 No Content".into()).await;
    let port = tls_front::tls_front(format!("127.0.0.1:{}", servers.port));
    let (transport, names) = transport("127.0.0.1");
    names.say("llm.example", &[&["127.0.0.1"]]);
    for host in ["llm.example", "127.0.0.1"] {
        let said = refused(tell(&transport, &format!("https://{host}:{port}/{CANARY}")).await);
        assert!(
            said.contains("certificate that the operator's image trusts") && !said.contains("caBundleRef"),
            "{said}"
        );
    }
    // TLS to a server that speaks none, and the other way round.
    refused(tell(&transport, &format!("https://127.0.0.1:{}/{CANARY}", servers.port)).await);
    refused(tell(&transport, &format!("http://127.0.0.1:{port}/{CANARY}")).await);
    assert_eq!(servers.seen()[1], 0);
}
