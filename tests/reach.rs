//! What the operator connects to, on the wire: names that resolve to what they should not, names that change, redirects,
//! proxies, and connections that others may use. Addresses and entries alone are judged in `src/transport/hosts/tests.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use batchjob_operator::api::ObjectStoreLocation;
use batchjob_operator::fair::Budget;
use batchjob_operator::provider::{BatchApi, Created, ErrorKind, OpenAi};
use batchjob_operator::store::{Credentials, Folder, StoreError};
use batchjob_operator::transport::{CaBundle, Granted, HostPolicy, Lookup, SendError, SystemLookup, Transport};
use reqwest::{Method, Url};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[path = "hostile/server.rs"]
mod server;
#[path = "support/ask.rs"]
mod support;
#[path = "support/tls_front.rs"]
mod tls_front;
#[path = "reach/webhooks.rs"]
mod webhooks;

use support::ask;

/// Answers each question in turn, the last one for ever.
#[derive(Debug, Default)]
struct Names(Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>);

impl Names {
    fn say(&self, name: &str, answers: &[&[&str]]) {
        let answers = answers.iter().map(|ips| ips.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
        self.0.lock().unwrap().insert(name.into(), answers);
    }
}

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(host).ok_or_else(|| std::io::Error::other("no such name"))?;
        Ok(if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() })
    }
}

/// A server at 127.0.0.1 and another at 127.0.0.2, at one port; how many connections each of them saw.
struct Servers {
    port: u16,
    seen: [Arc<AtomicUsize>; 2],
}

impl Servers {
    /// Both answer every request of a connection with `head`, and 2 bytes.
    async fn start(head: impl Fn(u16) -> String) -> Servers {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let answer = format!("HTTP/1.1 {}\r\ncontent-length: 2\r\n\r\n{{}}", head(port));
        let seen = [first, second].map(|listener| {
            let (seen, answer) = (Arc::new(AtomicUsize::new(0)), answer.clone());
            let count = seen.clone();
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        let mut bytes = [0; 4096];
                        while socket.read(&mut bytes).await.is_ok_and(|n| n > 0) {
                            let _ = socket.write_all(answer.as_bytes()).await;
                            if answer.contains("connection: close") {
                                break;
                            }
                        }
                    });
                }
            });
            seen
        });
        Servers { port, seen }
    }

    fn seen(&self) -> [usize; 2] {
        [&self.seen[0], &self.seen[1]].map(|n| n.load(Ordering::SeqCst))
    }

    fn url(&self, host: &str) -> Url {
        format!("http://{host}:{}/v1", self.port).parse().unwrap()
    }
}

fn hosts(entries: &str) -> HostPolicy {
    HostPolicy::allowing(entries.split(',').filter(|e| !e.is_empty()).map(|e| e.parse().unwrap()))
}

fn transport(entries: &str) -> (Transport, Arc<Names>) {
    let names = Arc::new(Names::default());
    (Transport::with(hosts(entries), names.clone(), None).unwrap(), names)
}

async fn get(transport: &Transport, url: Url) -> Result<u16, SendError> {
    let request = transport.request(Method::GET, url).build().unwrap();
    Ok(transport.send(request).await?.status().as_u16())
}

fn refusal(outcome: Result<u16, SendError>) -> String {
    match outcome {
        Err(SendError::NotAllowed(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn names_are_judged_by_what_they_resolve_to() {
    let (transport, names) = transport("");
    for (ips, words) in [
        (&["127.0.0.1"][..], "a loopback address"),
        (&["127.8.8.8"], "a loopback address"),
        (&["10.96.0.1"], "a private address"),
        (&["172.20.0.1"], "a private address"),
        (&["192.168.0.1"], "a private address"),
        (&["100.64.0.1"], "a carrier's NAT"),
        (&["169.254.169.254"], "a cloud's metadata service"),
        (&["fd00:ec2::254"], "a cloud's metadata service"),
        (&["169.254.0.7"], "a link-local address"),
        (&["0.0.0.0"], "an unspecified address"),
        (&["::"], "an unspecified address"),
        (&["::1"], "a loopback address"),
        (&["::ffff:10.0.0.1"], "a private address"),
        (&["64:ff9b::7f00:1"], "a loopback address"),
        (&["2002:a00:1::"], "a 6to4 address"),
        (&["fd12::1"], "a unique-local address"),
        (&["fe80::1"], "a link-local address"),
        (&["ff05::2"], "a multicast address"),
        (&["10.0.0.1", "192.168.0.1", "fd12::1"], "a private address"),
    ] {
        names.say("tenant.example", &[ips]);
        let said = refusal(get(&transport, "http://tenant.example/v1".parse().unwrap()).await);
        assert!(said.starts_with("tenant.example resolves to") && said.contains(words), "{ips:?}: {said}");
        assert!(said.contains("--allow-private-hosts"), "{ips:?}: {said}");
    }
    let unknown = get(&transport, "http://nobody.example/v1".parse().unwrap()).await;
    assert!(matches!(unknown, Err(SendError::NotSent(_))), "a name that nobody knows may be known later: {unknown:?}");
}

#[tokio::test]
async fn a_name_that_changes_between_two_connections_is_judged_at_each() {
    let servers = Servers::start(|_| "200 OK\r\nconnection: close".into()).await;
    let (transport, names) = transport("127.0.0.1");
    names.say("changing.example", &[&["127.0.0.1"], &["127.0.0.2"]]);
    assert_eq!(get(&transport, servers.url("changing.example")).await.unwrap(), 200);
    refusal(get(&transport, servers.url("changing.example")).await);
    assert_eq!(servers.seen(), [1, 0]);
    // What did not pass is not even tried where another address did.
    names.say("both.example", &[&["127.0.0.2", "127.0.0.1"]]);
    assert_eq!(get(&transport, servers.url("both.example")).await.unwrap(), 200);
    assert_eq!(servers.seen(), [2, 0]);
}

#[tokio::test]
async fn an_entry_for_a_port_opens_that_port_alone() {
    let servers = Servers::start(|_| "200 OK".into()).await;
    let other = Servers::start(|_| "200 OK".into()).await;
    let (transport, names) = transport(&format!("store.example:{}", servers.port));
    names.say("store.example", &[&["127.0.0.1"]]);
    assert_eq!(get(&transport, servers.url("store.example")).await.unwrap(), 200);
    refusal(get(&transport, other.url("store.example")).await);
    assert_eq!((servers.seen(), other.seen()), ([1, 0], [0, 0]));
}

#[tokio::test]
async fn an_ipv6_literal_is_judged_and_reached_like_any_other() {
    // Not every machine has IPv6.
    let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
    let url: Url = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 1024]).await;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    });
    let said = refusal(get(&transport("").0, url.clone()).await);
    assert!(said.starts_with("[::1] is a loopback address"), "{said}");
    for entry in ["::1", "[::1]", "::/64"] {
        assert_eq!(get(&transport(entry).0, url.clone()).await.unwrap(), 200, "{entry}");
    }
    let admins = transport("").0.trusting(&url).unwrap();
    assert_eq!(get(&admins, url).await.unwrap(), 200);
}

#[tokio::test]
async fn redirects_are_answers_and_not_followed() {
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let servers = Servers::start(|port| format!("{status}\r\nlocation: http://127.0.0.2:{port}/v1")).await;
        let (transport, _) = transport("127.0.0.0/8");
        let answered = get(&transport, servers.url("127.0.0.1")).await.unwrap();
        assert_eq!(answered.to_string(), status[..3]);
        assert_eq!(servers.seen(), [1, 0], "{status}");
    }
}

#[tokio::test]
async fn what_an_admins_client_is_connected_to_is_not_lent_to_others() {
    let servers = Servers::start(|_| "200 OK".into()).await;
    let (transport, names) = transport("");
    names.say("llm.internal", &[&["127.0.0.1"]]);
    let url = servers.url("llm.internal");
    let admins = transport.trusting(&url).unwrap();
    for _ in 0..3 {
        assert_eq!(get(&transport.trusting(&url).unwrap(), url.clone()).await.unwrap(), 200);
    }
    assert_eq!(servers.seen(), [1, 0], "the admin's own connection is kept");
    refusal(get(&transport, url).await);
    names.say("elsewhere.internal", &[&["127.0.0.1"]]);
    refusal(get(&admins, servers.url("elsewhere.internal")).await);
    names.say("llm.internal", &[&["169.254.169.254"]]);
    refusal(
        get(
            &transport.trusting(&"http://llm.internal/".parse().unwrap()).unwrap(),
            "http://llm.internal/".parse().unwrap(),
        )
        .await,
    );
}

#[tokio::test]
async fn nothing_is_sent_in_clear_text_to_a_public_address_not_even_through_a_proxy() {
    let servers = Servers::start(|_| "200 OK".into()).await;
    let (proxy, seen) = proxy().await;
    let (direct, names) = transport("127.0.0.0/8,api.example");
    let proxied = direct.clone().through(Some(proxy.parse().unwrap())).unwrap();
    names.say("llm.internal", &[&["127.0.0.1"]]);
    names.say("api.example", &[&["8.8.8.8"]]);
    let through = proxied.in_clear_text().unwrap();
    for transport in [direct, proxied] {
        let clear = transport.in_clear_text().unwrap();
        assert_eq!(get(&clear, servers.url("llm.internal")).await.unwrap(), 200);
        for host in ["api.example", "8.8.8.8"] {
            let url: Url = format!("http://{host}/v1").parse().unwrap();
            let admins = transport.trusting(&url).unwrap().in_clear_text().unwrap();
            for transport in [&clear, &admins] {
                let why = refusal(get(transport, url.clone()).await);
                assert!(why.contains("in clear text") && why.contains("use https://"), "{why}");
            }
        }
    }
    let unknown = refusal(get(&through, "http://unknown.example/v1".parse().unwrap()).await);
    assert!(unknown.contains("is not known to the operator's DNS") && unknown.contains("use https://"), "{unknown}");
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_create_at_a_refused_host_is_certain_not_to_be_sent() {
    let servers = Servers::start(|_| "200 OK".into()).await;
    let (transport, names) = transport("");
    names.say("llm.internal", &[&["127.0.0.1"]]);
    for host in ["127.0.0.1", "llm.internal"] {
        let api = OpenAi::new(transport.clone(), servers.url(host).as_str(), None, false).unwrap();
        let Created::Rejected(error) = api.create(&ask()).await else { panic!("{host}") };
        assert_eq!(error.kind, ErrorKind::NotAllowed);
        assert!(error.message.contains(host) && error.message.contains("--allow-private-hosts"), "{}", error.message);
    }
    assert_eq!(servers.seen(), [0, 0]);
}

#[tokio::test]
async fn object_storage_goes_the_same_way_and_is_not_tried_again() {
    let servers = Servers::start(|_| "200 OK".into()).await;
    let (transport, names) = transport("");
    names.say("minio.storage.svc", &[&["127.0.0.1"]]);
    names.say("s3.eu-central-1.amazonaws.com", &[&["10.0.0.9"]]);
    let secret = || "x".to_string().into();
    let credentials = Credentials::from_iter([("aws_access_key_id", secret()), ("aws_secret_access_key", secret())]);
    let own = |host: &str| Some(servers.url(host).as_str().trim_end_matches("/v1").to_string());
    for endpoint in [own("127.0.0.1"), own("minio.storage.svc"), None] {
        let region = Some("eu-central-1".into());
        let location = ObjectStoreLocation { endpoint: endpoint.clone(), region, ..Default::default() };
        let folder = Folder::open(&location, "s3://bucket/folder/", &credentials, &transport).unwrap();
        let began = Instant::now();
        for outcome in [folder.exists("a").await, folder.put_new("a", "b".into()).await] {
            let Err(StoreError::NotAllowed(why)) = outcome else { panic!("{endpoint:?}: {outcome:?}") };
            assert!(why.contains("--allow-private-hosts") && why.contains("s3://bucket/folder/a"), "{why}");
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{endpoint:?}: {:?}", began.elapsed());
    }
    assert_eq!(servers.seen(), [0, 0]);
}

/// Runs itself again with proxies in its environment.
#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    if let Ok(port) = std::env::var("REACH_SERVER_PORT") {
        let direct = Transport::with(hosts("127.0.0.1"), Arc::new(SystemLookup), None).unwrap();
        assert_eq!(get(&direct, format!("http://127.0.0.1:{port}/v1").parse().unwrap()).await.unwrap(), 200);
        return;
    }
    let servers = Servers::start(|_| "200 OK".into()).await;
    let proxy = format!("http://127.0.0.2:{}", servers.port);
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "proxies_of_the_environment_are_not_used"]);
    child.env("REACH_SERVER_PORT", servers.port.to_string()).env_remove("NO_PROXY").env_remove("no_proxy");
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, &proxy);
    }
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(servers.seen(), [1, 0]);
}

/// A proxy that answers what it is asked for by itself, refuses tunnels, and notes the first line of each request.
async fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:s3cret@{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(vec![]));
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![];
            while !request.windows(4).any(|w| w == b"\r\n\r\n") && socket.read_buf(&mut request).await.unwrap() > 0 {}
            let first = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_string();
            let status = if first.starts_with("CONNECT") { "403 Forbidden" } else { "200 OK" };
            log.lock().unwrap().push(first.trim_end_matches(" HTTP/1.1").into());
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (url, seen)
}

#[tokio::test]
async fn an_admins_proxy_leads_outside_and_what_is_inside_is_reached_straight() {
    let servers = Servers::start(|_| "200 OK".into()).await;
    let (proxy, seen) = proxy().await;
    let (transport, names) = transport("llm.internal");
    let transport = transport.through(Some(proxy.parse().unwrap())).unwrap();
    names.say("api.example", &[&["8.8.8.8"]]);
    names.say("llm.internal", &[&["127.0.0.1"]]);
    names.say("tenant.example", &[&["10.0.0.1"]]);
    names.say("both.example", &[&["8.8.8.8", "10.0.0.1"]]);
    names.say("metadata.example", &[&["169.254.169.254"]]);
    let url = |url: &str| url.parse::<Url>().unwrap();
    // By name, for that is what proxies are told to allow; a name that is not known here, the proxy may know.
    for dependencies in ["http://api.example/v1", "http://unknown.example/v1", "http://8.8.8.8:8080/v1"] {
        assert_eq!(get(&transport, url(dependencies)).await.unwrap(), 200);
        assert_eq!(seen.lock().unwrap().pop().as_deref(), Some(format!("GET {dependencies}").as_str()));
    }
    assert_eq!(get(&transport, servers.url("llm.internal")).await.unwrap(), 200);
    let admins = transport.trusting(&servers.url("127.0.0.1")).unwrap();
    assert_eq!(get(&admins, servers.url("127.0.0.1")).await.unwrap(), 200);
    assert_eq!(servers.seen(), [2, 0]);
    for refused in ["tenant.example", "both.example", "metadata.example", "10.0.0.1", "169.254.169.254", "[::1]"] {
        refusal(get(&transport, url(&format!("http://{refused}/v1"))).await);
    }
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new(), "what is refused is not asked of the proxy");
    // Stores go the same way.
    let secret = || "x".to_string().into();
    let credentials = Credentials::from_iter([("aws_access_key_id", secret()), ("aws_secret_access_key", secret())]);
    let location = ObjectStoreLocation { endpoint: Some("http://store.example".into()), ..Default::default() };
    let folder = Folder::open(&location, "s3://bucket/folder/", &credentials, &transport).unwrap();
    assert!(folder.exists("a").await.unwrap());
    assert_eq!(*seen.lock().unwrap(), ["HEAD http://store.example/bucket/folder/a"]);
}

#[tokio::test]
async fn a_create_that_the_proxy_refuses_is_certain_not_to_be_sent_and_the_proxy_is_named() {
    let (refusing, seen) = proxy().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for proxy in [refusing, format!("http://user:s3cret@{gone}")] {
        let (transport, names) = transport("");
        names.say("api.example", &[&["8.8.8.8"]]);
        let transport = transport.through(Some(proxy.parse().unwrap())).unwrap();
        let api =
            OpenAi::new(transport, "https://api.example/v1", Some("sk-canary".to_string().into()), false).unwrap();
        let Created::Rejected(error) = api.create(&ask()).await else { panic!("it may have been sent") };
        let said = error.message;
        assert_eq!(error.kind, ErrorKind::NotSent);
        assert!(said.contains("through the proxy http://127.0.0.1:") && !said.contains("s3cret"), "{said}");
    }
    assert_eq!(*seen.lock().unwrap(), ["CONNECT api.example:443"]);
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named_and_nowhere_else() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let servers = Servers::start(|_| "200 OK\r\nconnection: close".into()).await;
    let port = tls_front::tls_front(format!("127.0.0.1:{}", servers.port));
    let (transport, names) = transport("127.0.0.1");
    names.say("llm.example", &[&["127.0.0.1"]]);
    names.say("other.example", &[&["127.0.0.1"]]);
    let url = |host: &str| format!("https://{host}:{port}/v1").parse::<Url>().unwrap();
    let named =
        |pem: &str| transport.trusting_authorities(&CaBundle::from_pem(pem).unwrap(), granted).unwrap().unwrap();
    let both = format!("{}\n{}", tls_front::ANOTHER_AUTHORITY, tls_front::AUTHORITY);
    for trusting in [named(tls_front::AUTHORITY), named(&both)] {
        assert_eq!(get(&trusting, url("llm.example")).await.unwrap(), 200);
        let other_name = get(&trusting, url("other.example")).await;
        assert!(matches!(other_name, Err(SendError::NotSent(_))), "{other_name:?}");
    }
    for without in [transport.clone(), named(tls_front::ANOTHER_AUTHORITY)] {
        let Err(SendError::NotSent(why)) = get(&without, url("llm.example")).await else { panic!("trusted") };
        assert!(why.contains("name that in `tls.caBundleRef`"), "{why}");
    }
    assert_eq!(servers.seen(), [2, 0]);
}

/// Grants memory to anybody.
fn granted(_: u64) -> Option<Granted> {
    Some(Granted(Box::new(())))
}

#[tokio::test]
async fn clients_that_trust_the_same_authorities_share_memory_and_none_is_made_without_it() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (transport, _) = transport("");
    let budget = Budget::new(1 << 20);
    let trusting = |pem: &str| {
        let grant = |bytes| Some(Granted(Box::new(budget.take("shop", bytes)?)));
        transport.trusting_authorities(&CaBundle::from_pem(pem).unwrap(), grant).unwrap()
    };
    let many: Vec<_> = (0..1_000).map(|_| trusting(tls_front::AUTHORITY)).collect();
    assert!(many.iter().all(Option::is_some), "one bundle of a thousand jobs");
    let mut others = vec![];
    for n in 0..100 {
        // Text around certificates is read over.
        others.extend(trusting(&format!("bundle {n}\n{}", tls_front::AUTHORITY)));
    }
    assert!((1..20).contains(&others.len()), "{} bundles", others.len());
    drop((many, others));
    assert!(budget.take("shop", 1 << 20).is_some(), "what nobody uses takes no memory");
    let long = format!("{}{}", "x".repeat(512 << 10), tls_front::AUTHORITY);
    assert!(CaBundle::from_pem(&long).unwrap_err().contains("at most 524288 are read"));
}

#[test]
fn certificates_of_no_use_are_refused() {
    for (pem, words) in [
        ("", "no certificate in PEM form"),
        ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", ""),
        ("MIIBszCCAVmgAwIBAgIU", "no certificate in PEM form"),
        ("-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n", "no certificate in PEM form"),
    ] {
        let error = CaBundle::from_pem(pem).unwrap_err();
        assert!(error.contains(words), "{pem}: {error}");
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let no_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let (transport, _) = transport("");
    let used = CaBundle::from_pem(no_der).map(|bundle| transport.trusting_authorities(&bundle, granted).is_err());
    assert!(used.unwrap_or(true), "what is no certificate is told before it is connected with");
}
