use super::*;

fn policy(entries: &str) -> HostPolicy {
    HostPolicy::allowing(entries.split(',').filter(|e| !e.is_empty()).map(|e| e.parse().unwrap()))
}

/// Returns a policy's refusal of a URL before any name is resolved; "" if it admits the URL.
fn said(entries: &str, url: &str) -> String {
    match policy(entries).check(&Url::parse(url).unwrap()) {
        Ok(()) => String::new(),
        Err(refused) => refused.to_string(),
    }
}

#[test]
fn literals_in_any_writing_are_judged_as_the_address_that_they_mean() {
    for (url, words) in [
        ("https://8.8.8.8/v1", ""),
        ("https://api.openai.com/v1", ""),
        ("https://100.63.255.255/", ""),
        ("https://100.128.0.0/", ""),
        ("https://172.15.255.255/", ""),
        ("https://172.32.0.0/", ""),
        ("https://[2606:4700::1111]/", ""),
        ("https://[::ffff:8.8.8.8]/", ""),
        ("https://[64:ff9b::8.8.8.8]/", ""),
        ("http://127.0.0.1/", "is a loopback address"),
        ("http://127.1/", "is a loopback address"),
        ("http://127.0.0.1./", "is a loopback address"),
        ("http://2130706433/", "is a loopback address"),
        ("http://0x7f.1/", "is a loopback address"),
        ("http://0x7F000001/", "is a loopback address"),
        ("http://0177.0.0.01/", "is a loopback address"),
        ("http://%31%32%37.0.0.1/", "is a loopback address"),
        ("http://127。0。0。1/", "is a loopback address"),
        ("http://①②⑦.0.0.1/", "is a loopback address"),
        ("http://0/", "is an unspecified address"),
        ("http://0.0.0.0:8080/", "is an unspecified address"),
        ("http://10.0.0.1/", "is a private address"),
        ("http://172.16.0.1/", "is a private address"),
        ("http://172.31.255.255/", "is a private address"),
        ("http://192.168.1.1/", "is a private address"),
        ("http://100.64.0.1/", "behind a carrier's NAT"),
        ("http://100.127.255.255/", "behind a carrier's NAT"),
        ("http://169.254.1.1/", "is a link-local address"),
        ("http://169.254.169.254/latest/meta-data", "cloud's metadata service"),
        ("http://2852039166/", "cloud's metadata service"),
        ("http://[::ffff:169.254.169.254]/", "cloud's metadata service"),
        ("http://[64:ff9b::a9fe:a9fe]/", "cloud's metadata service"),
        ("http://[fd00:ec2::254]/", "cloud's metadata service"),
        ("http://168.63.129.16/", "cloud's metadata service"),
        ("http://100.100.100.200/", "cloud's metadata service"),
        ("http://192.0.0.192/", "cloud's metadata service"),
        ("http://192.0.0.1/", "for protocols"),
        ("http://192.0.2.1/", "for documentation"),
        ("http://198.51.100.1/", "for documentation"),
        ("http://203.0.113.1/", "for documentation"),
        ("http://198.19.0.1/", "for benchmarks"),
        ("http://192.88.99.1/", "a 6to4 relay's address"),
        ("http://224.0.0.1/", "is a multicast address"),
        ("http://250.1.2.3/", "is a reserved address"),
        ("http://255.255.255.255/", "is a broadcast address"),
        ("http://[::1]/", "is a loopback address"),
        ("http://[::]/", "is an unspecified address"),
        ("http://[::ffff:127.0.0.1]/", "is a loopback address"),
        ("http://[::ffff:7f00:1]/", "is a loopback address"),
        ("http://[::127.0.0.1]/", "IPv4-compatible"),
        ("http://[64:ff9b::10.0.0.1]/", "is a private address"),
        ("http://[64:ff9b:1::a00:1]/", "NAT64 of one's own"),
        ("http://[2002:7f00:1::]/", "is a 6to4 address"),
        ("http://[2001:0:7f00:1::]/", "is a Teredo address"),
        ("http://[2001:db8::1]/", "for documentation"),
        ("http://[3fff::1]/", "for documentation"),
        ("http://[2001:2::1]/", "for benchmarks"),
        ("http://[2001:10::1]/", "for protocols"),
        ("http://[fc00::1]/", "unique-local"),
        ("http://[fdff::1]/", "unique-local"),
        ("http://[fe80::1]/", "is a link-local address"),
        ("http://[fec0::1]/", "is a reserved address"),
        ("http://[ff02::1]/", "is a multicast address"),
        ("http://[5f00::1]/", "is a reserved address"),
        ("http://[100::1]/", "discard-only"),
        ("https://me:secret@api.example/v1", "belong in a Secret"),
        ("https://me@api.example/v1", "belong in a Secret"),
        ("ftp://api.example/v1", "scheme 'ftp' is not allowed"),
        ("file:///etc/passwd", "scheme 'file' is not allowed"),
    ] {
        let said = said("", url);
        assert!(said.contains(words) && said.is_empty() == words.is_empty(), "{url}: {said}");
        assert!(!words.starts_with("is ") || said.contains("--allow-private-hosts"), "{url}: {said}");
    }
}

#[test]
fn an_entry_opens_what_an_admin_expects_of_it_and_no_more() {
    for (entries, host, port, ip, open) in [
        ("minio.storage.svc", "minio.storage.svc", 9000, "10.0.0.5", true),
        ("MinIO.storage.svc.", "minio.storage.svc", 9000, "10.0.0.5", true),
        ("minio.storage.svc", "MINIO.storage.svc.", 9000, "127.0.0.1", true),
        ("minio.storage.svc", "minio.storage.svc", 9000, "fd12::5", true),
        ("minio.storage.svc", "minio.storage.svc", 9000, "100.64.3.4", true),
        ("minio.storage.svc", "minio.storage.svc", 80, "169.254.169.254", false),
        ("minio.storage.svc", "minio.storage.svc", 80, "fd00:ec2::254", false),
        ("minio.storage.svc", "minio.storage.svc", 80, "169.254.7.7", false),
        ("minio.storage.svc", "minio.storage.svc", 80, "0.0.0.0", false),
        ("minio.storage.svc", "minio.storage.svc.cluster.local", 9000, "10.0.0.5", false),
        ("minio.storage.svc", "evil-minio.storage.svc", 9000, "10.0.0.5", false),
        ("minio.storage.svc:9000", "minio.storage.svc", 9000, "10.0.0.5", true),
        ("minio.storage.svc:9000", "minio.storage.svc", 22, "10.0.0.5", false),
        ("a,minio.storage.svc:9000,b:1", "minio.storage.svc", 9000, "10.0.0.5", true),
        ("*.minio.storage.svc", "shop.minio.storage.svc", 9000, "10.0.0.5", true),
        ("*.minio.storage.svc", "a.b.MINIO.storage.svc.", 9000, "10.0.0.5", true),
        ("*.minio.storage.svc:9000", "shop.minio.storage.svc", 80, "10.0.0.5", false),
        ("*.minio.storage.svc", "minio.storage.svc", 9000, "10.0.0.5", false),
        ("*.minio.storage.svc", "evil-minio.storage.svc", 9000, "10.0.0.5", false),
        ("*.minio.storage.svc", "shop.minio.storage.svc", 80, "169.254.169.254", false),
        ("*.minio.storage.svc", ".minio.storage.svc", 80, "10.0.0.5", false),
        ("10.0.0.0/8", "anything.example", 443, "10.255.0.1", true),
        ("10.0.0.0/8", "anything.example", 443, "11.0.0.1", true),
        ("10.0.0.0/8", "anything.example", 443, "192.168.0.1", false),
        ("10.0.0.0/8", "anything.example", 443, "::ffff:10.1.1.1", true),
        ("10.0.0.0/8:443", "anything.example", 443, "10.1.1.1", true),
        ("10.0.0.0/8:443", "anything.example", 80, "10.1.1.1", false),
        ("127.0.0.1", "127.0.0.1", 80, "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.2", 80, "127.0.0.2", false),
        ("169.254.0.0/16", "a.example", 80, "169.254.1.1", true),
        ("169.254.0.0/16", "a.example", 80, "169.254.169.254", false),
        ("0.0.0.0/0", "a.example", 80, "192.168.0.1", true),
        ("0.0.0.0/0", "a.example", 80, "169.254.169.254", false),
        ("0.0.0.0/0", "a.example", 80, "fd00::1", false),
        ("::/0", "a.example", 80, "fd00::1", true),
        ("::/0", "a.example", 80, "fd00:ec2::254", false),
        ("169.254.169.254", "a.example", 80, "169.254.169.254", true),
        ("fd00:10::/64", "a.example", 80, "fd00:10::8", true),
        ("[fd00:10::/64]:443", "a.example", 443, "fd00:10::8", true),
        ("[fd00:10::/64]:443", "a.example", 80, "fd00:10::8", false),
        ("[fd00:10::8]", "a.example", 80, "fd00:10::8", true),
        ("[fd00:10::8]:80", "a.example", 80, "fd00:10::9", false),
    ] {
        let verdict = policy(entries).judge(host, Some(port), ip.parse().unwrap());
        assert_eq!(verdict.is_ok(), open, "{entries}: {host}:{port} at {ip}: {verdict:?}");
    }
}

#[test]
fn of_the_addresses_of_a_name_only_those_that_passed_are_left() {
    let ips = |texts: &[&str]| texts.iter().map(|t| t.parse::<IpAddr>().unwrap()).collect::<Vec<_>>();
    let admit = |texts: &[&str]| policy("").admit("h.example", None, ips(texts)).map_err(|e| e.to_string());
    assert_eq!(admit(&["8.8.8.8", "10.0.0.1", "2606:4700::1"]).unwrap(), ips(&["8.8.8.8", "2606:4700::1"]));
    assert_eq!(admit(&[]).unwrap(), ips(&[]));
    let refused = admit(&["169.254.169.254", "fd00::7"]).unwrap_err();
    assert!(refused.starts_with("h.example resolves to"), "{refused}");
    assert!(!refused.contains("fd00::7"), "what a name is inside the network is not told: {refused}");
}

#[test]
fn clear_text_goes_to_networks_of_ones_own() {
    for (entries, host, ip, open) in [
        ("10.0.0.0/8", "llm.svc", "10.0.0.5", true),
        ("llm.svc", "llm.svc", "10.0.0.5", true),
        ("", "llm.svc", "10.0.0.5", false),
        ("", "api.example", "8.8.8.8", false),
        ("", "api.example", "2606:4700::1111", false),
        ("", "api.example", "::ffff:8.8.8.8", false),
        // A name opens private addresses, and a company's network may be of public ones.
        ("api.example,*.llm.example", "a.llm.example", "8.8.8.8", false),
        ("8.8.0.0/16", "api.example", "8.8.8.8", true),
        ("8.8.0.0/16:443", "api.example", "8.8.8.8", false),
        ("", "api.example", "169.254.169.254", false),
    ] {
        let verdict = policy(entries).in_clear_text().judge(host, Some(80), ip.parse().unwrap());
        assert_eq!(verdict.is_ok(), open, "{entries}: {host} at {ip}: {verdict:?}");
    }
    let admins = policy("").and_host_of(&Url::parse("http://8.8.8.8/v1").unwrap()).in_clear_text();
    let refused = admins.check(&Url::parse("http://8.8.8.8/v1").unwrap()).unwrap_err().to_string();
    assert!(refused.contains("8.8.8.8 is a public address") && refused.contains("use https://"), "{refused}");
}

#[test]
fn what_an_admin_wrote_into_a_url_is_let_in_but_no_metadata_service() {
    let trusts = |url: &str, asked: &str| {
        let policy = policy("").and_host_of(&Url::parse(url).unwrap());
        policy.check(&Url::parse(asked).unwrap()).is_ok()
    };
    assert!(trusts("http://10.0.0.7:8000/v1", "http://10.0.0.7:8000/v1/files"));
    assert!(trusts("http://[::1]:8000/v1", "http://[::1]:8000/v1/files"));
    assert!(!trusts("http://10.0.0.7:8000/v1", "http://10.0.0.7:22/"));
    assert!(!trusts("http://10.0.0.7:8000/v1", "http://10.0.0.8:8000/"));
    assert!(!trusts("http://169.254.169.254/v1", "http://169.254.169.254/v1"));
}

#[test]
fn odd_entries_are_refused_with_advice() {
    for (entry, words) in [
        ("10.1.2.3/8", "bits set"),
        ("10.0.0.0/33", "number of bits"),
        ("10.0.0.0/", "number of bits"),
        ("fd00::/129", "number of bits"),
        ("*.svc", "no host"),
        ("*", "no host"),
        ("*.10.0.0.1", "no host"),
        ("a.*.example", "no host"),
        ("http://minio:9000", "no host"),
        ("minio:0", "valid port"),
        ("minio:http", "valid port"),
        ("[fd00::1", "valid port"),
        ("2130706433", "no host"),
        ("minio/8", "no host"),
        ("a b", "no host"),
    ] {
        let said = entry.parse::<AllowedHost>().unwrap_err();
        assert!(said.contains(words) && said.contains("NETWORK/BITS"), "{entry}: {said}");
    }
}

/// The shipped NetworkPolicy and this module name the same addresses.
#[test]
fn the_network_policy_keeps_every_metadata_service_out() {
    let yaml = include_str!("../../../deploy/kustomize/networkpolicy.yaml");
    let excepted: Vec<Network> = yaml
        .lines()
        .filter_map(|line| line.trim().strip_prefix("except: [")?.strip_suffix(']'))
        .flat_map(|list| list.split(','))
        .map(|cidr| match cidr.trim().trim_matches('"').parse::<AllowedHost>().unwrap().what {
            HostPattern::Network(network) => network,
            other => panic!("{other:?}"),
        })
        .collect();
    for ip in METADATA {
        assert!(excepted.iter().any(|network| network.holds(ip)), "{ip} is not excepted");
    }
}
