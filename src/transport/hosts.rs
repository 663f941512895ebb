//! The hosts and addresses that may be reached.
//!
//! Special ranges are those of IANA's registries for IPv4 and IPv6 (<https://www.iana.org/assignments/iana-ipv4-special-registry>,
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::Url;
use url::Host;

/// A policy on the hosts that may be reached: public ones, and those that an admin lets in.
///
/// An entry with a host's name admits the private addresses that the name resolves to: RFC 1918, loopback, 100.64.0.0/10 and fc00::/7.
/// Every other address that is not public (link-local, documentation, multicast, …) needs an entry with its network, and the metadata
/// service of a cloud needs an entry with its exact address.
#[derive(Clone, Debug, Default)]
pub struct HostPolicy {
    entries: Arc<[AllowedHost]>,
    /// True for requests in clear text, for which public addresses need an entry with their network, too.
    in_clear_text: bool,
}

/// A host or network that an admin admits: `NAME`, `*.NAME` (every host below `NAME`, but not `NAME`), `ADDRESS` or `NETWORK/BITS`. An
/// optional `:PORT` limits the entry to that port; an IPv6 address before it is in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    what: HostPattern,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    /// A host's name, in lower case, without a final dot.
    Named(String),
    /// The end of a host's name, with the leading dot.
    Below(String),
    Network(Network),
}

/// The addresses whose first `bits` bits are those of `base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    base: IpAddr,
    bits: u32,
}

/// The kind of an address that is not reachable by default. It decides which entries would admit the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressKind {
    /// An address in a private network.
    Private(&'static str),
    /// An address of a special range, which a provider or a store should not have.
    Special(&'static str),
    /// The metadata service of a cloud, which returns the credentials of a machine or a Pod.
    Metadata,
    /// A public address, for requests in clear text.
    Public,
}

/// The error for a host that may not be reached. It names the host, the reason, and the flag that would admit the host.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct HostRefused(String);

/// Addresses of metadata services, which return the credentials of a node or a Pod: AWS (instance, IPv6, ECS, EKS), Google, Azure's wire
/// server, Alibaba and Oracle. From the manuals of these clouds.
const METADATA: [IpAddr; 10] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

const V4: [(Ipv4Addr, u32, AddressKind); 19] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, AddressKind::Special("an unspecified address")),
    (Ipv4Addr::new(10, 0, 0, 0), 8, AddressKind::Private("a private address")),
    (Ipv4Addr::new(100, 64, 0, 0), 10, AddressKind::Private("an address behind a carrier's NAT")),
    (Ipv4Addr::new(127, 0, 0, 0), 8, AddressKind::Private("a loopback address")),
    (Ipv4Addr::new(169, 254, 0, 0), 16, AddressKind::Special("a link-local address")),
    (Ipv4Addr::new(172, 16, 0, 0), 12, AddressKind::Private("a private address")),
    (Ipv4Addr::new(192, 0, 0, 0), 24, AddressKind::Special("an address for protocols")),
    (Ipv4Addr::new(192, 0, 2, 0), 24, AddressKind::Special("an address for documentation")),
    (Ipv4Addr::new(192, 31, 196, 0), 24, AddressKind::Special("an AS112 address")),
    (Ipv4Addr::new(192, 52, 193, 0), 24, AddressKind::Special("an AMT address")),
    (Ipv4Addr::new(192, 88, 99, 0), 24, AddressKind::Special("a 6to4 relay's address")),
    (Ipv4Addr::new(192, 168, 0, 0), 16, AddressKind::Private("a private address")),
    (Ipv4Addr::new(192, 175, 48, 0), 24, AddressKind::Special("an AS112 address")),
    (Ipv4Addr::new(198, 18, 0, 0), 15, AddressKind::Special("an address for benchmarks")),
    (Ipv4Addr::new(198, 51, 100, 0), 24, AddressKind::Special("an address for documentation")),
    (Ipv4Addr::new(203, 0, 113, 0), 24, AddressKind::Special("an address for documentation")),
    (Ipv4Addr::new(224, 0, 0, 0), 4, AddressKind::Special("a multicast address")),
    (Ipv4Addr::new(255, 255, 255, 255), 32, AddressKind::Special("a broadcast address")),
    (Ipv4Addr::new(240, 0, 0, 0), 4, AddressKind::Special("a reserved address")),
];

const V6: [(Ipv6Addr, u32, AddressKind); 14] = [
    (Ipv6Addr::UNSPECIFIED, 128, AddressKind::Special("an unspecified address")),
    (Ipv6Addr::LOCALHOST, 128, AddressKind::Private("a loopback address")),
    (Ipv6Addr::UNSPECIFIED, 96, AddressKind::Special("an IPv4-compatible address")),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, AddressKind::Special("an address for NAT64 of one's own")),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, AddressKind::Special("a discard-only address")),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, AddressKind::Special("a Teredo address")),
    (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48, AddressKind::Special("an address for benchmarks")),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, AddressKind::Special("an address for protocols")),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, AddressKind::Special("an address for documentation")),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, AddressKind::Special("an address for documentation")),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, AddressKind::Special("a 6to4 address")),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, AddressKind::Private("a unique-local address")),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, AddressKind::Special("a link-local address")),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, AddressKind::Special("a multicast address")),
];

/// The range of IPv6 addresses that are routed publicly.
const GLOBAL: Network = Network { base: IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0)), bits: 3 };
/// NAT64's well-known prefix (RFC 6052). The IPv4 address that is reached follows it.
const NAT64: Network = Network { base: IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0)), bits: 96 };

impl HostPolicy {
    /// Returns a policy that admits public hosts and `entries`.
    pub fn allowing(entries: impl IntoIterator<Item = AllowedHost>) -> HostPolicy {
        HostPolicy { entries: entries.into_iter().collect(), in_clear_text: false }
    }

    /// Returns the policy for requests in clear text. It admits the same private addresses, and public addresses only in networks that
    /// an entry names.
    pub(super) fn in_clear_text(&self) -> HostPolicy {
        HostPolicy { in_clear_text: true, ..self.clone() }
    }

    /// Returns the policy that also admits the host of `url`, at its port. For URLs that an admin wrote.
    pub(super) fn and_host_of(&self, url: &Url) -> HostPolicy {
        let named =
            url.host_str().map(|host| AllowedHost { what: HostPattern::Named(plain(host)), port: port_of(url) });
        HostPolicy { entries: self.entries.iter().cloned().chain(named).collect(), ..self.clone() }
    }

    /// Returns the ports that entries are limited to.
    pub(super) fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.entries.iter().filter_map(|e| e.port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Judges a URL before its host is resolved. Unusual spellings of addresses, such as `http://2130706433`, were normalized by the
    /// URL's parser.
    pub(super) fn check(&self, url: &Url) -> Result<(), HostRefused> {
        let denied = |why: &str| Err(HostRefused(format!("{}: {why}", url.host_str().unwrap_or("the URL"))));
        match (url.scheme(), url.username().is_empty() && url.password().is_none()) {
            ("http" | "https", true) => {}
            (_, false) => return denied("credentials belong in a Secret, not in the URL"),
            (scheme, _) => return denied(&format!("scheme '{scheme}' is not allowed; use https")),
        }
        let ip = match url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
            Some(Host::Domain(_)) => return Ok(()),
            None => return denied("a URL needs a host"),
        };
        let host = url.host_str().unwrap_or_default();
        match self.judge(host, port_of(url), ip) {
            Ok(()) => Ok(()),
            Err(closed) => Err(HostRefused::new(host, "is", closed)),
        }
    }

    /// Returns the addresses among `ips` that may be connected to as `host`.
    ///
    /// # Errors
    /// If there are addresses, and none of them is admitted.
    pub(super) fn admit(&self, host: &str, port: Option<u16>, ips: Vec<IpAddr>) -> Result<Vec<IpAddr>, HostRefused> {
        let judged: Vec<_> = ips.into_iter().map(|ip| (ip, self.judge(host, port, ip))).collect();
        let open: Vec<IpAddr> = judged.iter().filter(|(_, verdict)| verdict.is_ok()).map(|(ip, _)| *ip).collect();
        match judged.into_iter().find_map(|(_, verdict)| verdict.err()) {
            Some(closed) if open.is_empty() => Err(HostRefused::new(host, "resolves to", closed)),
            _ => Ok(open),
        }
    }

    /// Returns true if a host with these addresses is in a private or special network, and false if it is public.
    ///
    /// # Errors
    /// If one of the addresses is not admitted: a proxy resolves the name again and may use any of them. For requests in
    /// clear text also if there is no address.
    pub(super) fn is_inside(&self, host: &str, port: Option<u16>, ips: &[IpAddr]) -> Result<bool, HostRefused> {
        if self.in_clear_text && ips.is_empty() {
            return Err(HostRefused(format!(
                "{host} is not known to the operator's DNS, and nothing is sent in clear text through the proxy to a host that may \
                 be a public one; use https://"
            )));
        }
        for ip in ips {
            self.judge(host, port, *ip).map_err(|closed| HostRefused::new(host, "resolves to", closed))?;
        }
        Ok(ips.iter().any(|ip| closed(meant(*ip)).is_some()))
    }

    /// Judges one address of a host. `port` is None for a port that no entry is limited to.
    fn judge(&self, host: &str, port: Option<u16>, ip: IpAddr) -> Result<(), AddressKind> {
        let ip = meant(ip);
        let closed = match closed(ip) {
            Some(closed) => closed,
            None if self.in_clear_text => AddressKind::Public,
            None => return Ok(()),
        };
        let host = plain(host);
        let mut entries = self.entries.iter().filter(|e| e.port.is_none() || e.port == port);
        let is_open = entries.any(|entry| match (&entry.what, closed) {
            (HostPattern::Named(name), AddressKind::Private(_)) => *name == host,
            (HostPattern::Below(end), AddressKind::Private(_)) => {
                host.len() > end.len() && host.ends_with(end.as_str())
            }
            (HostPattern::Named(_) | HostPattern::Below(_), _) => false,
            (HostPattern::Network(network), AddressKind::Metadata) => network.is_one() && network.holds(ip),
            (HostPattern::Network(network), _) => network.holds(ip),
        });
        if is_open { Ok(()) } else { Err(closed) }
    }
}

impl HostRefused {
    fn new(host: &str, verb: &str, closed: AddressKind) -> HostRefused {
        let (what, remedy) = match closed {
            AddressKind::Public => {
                return HostRefused(format!(
                    "{host} {verb} a public address, to which the operator sends nothing in clear text unless \
                     --allow-private-hosts names its network; use https://, or ask the admin of the operator"
                ));
            }
            AddressKind::Private(what) => (what, "where --allow-private-hosts names the host or its network"),
            AddressKind::Special(what) => (what, "where --allow-private-hosts names its network"),
            AddressKind::Metadata => {
                ("the address of a cloud's metadata service", "where --allow-private-hosts names that very address")
            }
        };
        HostRefused(format!(
            "{host} {verb} {what}, which the operator reaches only {remedy}; choose a public host, or ask the admin of the \
             operator"
        ))
    }
}

/// Returns the form in which names are compared: in lower case, without a final dot.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

pub(super) fn port_of(url: &Url) -> Option<u16> {
    url.port_or_known_default()
}

/// Returns the address that is reached: for IPv4 in IPv6 (mapped, NAT64), the IPv4 address.
fn meant(ip: IpAddr) -> IpAddr {
    let ip = ip.to_canonical();
    match ip {
        IpAddr::V6(v6) if NAT64.holds(ip) => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        ip => ip,
    }
}

/// Returns the reason why an address is closed; None for a public address.
fn closed(ip: IpAddr) -> Option<AddressKind> {
    if METADATA.contains(&ip) {
        return Some(AddressKind::Metadata);
    }
    let holds = |base: IpAddr, bits: u32| Network { base, bits }.holds(ip);
    match ip {
        IpAddr::V4(_) => V4.iter().find(|(base, bits, _)| holds((*base).into(), *bits)).map(|(.., closed)| *closed),
        IpAddr::V6(_) => {
            let named = V6.iter().find(|(base, bits, _)| holds((*base).into(), *bits)).map(|(.., closed)| *closed);
            named.or((!GLOBAL.holds(ip)).then_some(AddressKind::Special("a reserved address")))
        }
    }
}

impl Network {
    fn holds(&self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => same(base.to_bits().into(), ip.to_bits().into(), 32 - self.bits),
            (IpAddr::V6(base), IpAddr::V6(ip)) => same(base.to_bits(), ip.to_bits(), 128 - self.bits),
            _ => false,
        }
    }

    /// Returns whether it is a single address.
    fn is_one(&self) -> bool {
        self.bits == length(self.base)
    }
}

/// Returns whether two addresses differ at most in their last `rest` bits.
fn same(a: u128, b: u128, rest: u32) -> bool {
    (a ^ b).checked_shr(rest).unwrap_or(0) == 0
}

/// Returns the number of bits of an address.
fn length(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 32 } else { 128 }
}

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = |why: &str| {
            format!("'{text}' {why}; write NAME, *.NAME, ADDRESS or NETWORK/BITS, and :PORT where it matters")
        };
        let (host, port) = split_port(text).ok_or_else(|| wrong("has no valid port"))?;
        let (address, bits) = match host.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (host, None),
        };
        let what = match (address.parse::<IpAddr>(), bits) {
            (Ok(base), None) => HostPattern::Network(Network { base, bits: length(base) }),
            (Ok(base), Some(bits)) => {
                let bits = bits.parse().ok().filter(|bits| *bits <= length(base));
                let bits = bits.ok_or_else(|| wrong("has no valid number of bits"))?;
                let network = Network { base, bits };
                if network.is_untidy() {
                    return Err(wrong("has bits set behind the network's own"));
                }
                HostPattern::Network(network)
            }
            (Err(_), None) if is_name(address) => HostPattern::Named(plain(address)),
            (Err(_), None) if address.strip_prefix("*.").is_some_and(is_narrow) => {
                HostPattern::Below(plain(address.trim_start_matches('*')))
            }
            _ => return Err(wrong("is no host and no network")),
        };
        Ok(AllowedHost { what, port })
    }
}

impl Network {
    /// Returns whether bits behind the network's own are set, which is most likely a mistake.
    fn is_untidy(&self) -> bool {
        let (all, rest) = match self.base {
            IpAddr::V4(base) => (u128::from(base.to_bits()), 32 - self.bits),
            IpAddr::V6(base) => (base.to_bits(), 128 - self.bits),
        };
        all.trailing_zeros() < rest && all != 0
    }
}

/// Splits text into the host without brackets, and the port. A second colon makes it an IPv6 address.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let number = |port: &str| port.parse().ok().filter(|port| *port > 0).map(Some);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, number(port)?)),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => Some((host, number(port)?)),
        _ => Some((text, None)),
    }
}

/// Returns whether the name has more than one label: `*.svc` would let in every service of the cluster.
fn is_narrow(text: &str) -> bool {
    is_name(text) && plain(text).contains('.')
}

/// Returns whether the text is a name that a URL may hold, and not an address that is spelled as a number.
fn is_name(text: &str) -> bool {
    let url = Url::parse(&format!("http://{text}/")).ok();
    let host = url.as_ref().and_then(|url| url.host());
    let plain_characters = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    plain_characters && matches!(host, Some(Host::Domain(_)))
}

#[cfg(test)]
mod tests;
