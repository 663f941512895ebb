//! The connection to the API server.
//!
//! A Pod connects directly, as its ServiceAccount says: its token is for no other host, and the proxy that an environment names
//! for every Pod mostly leads out of the cluster. Outside of a cluster, KUBECONFIG names the server, and the environment's
//! proxy is used as kubectl does. kube's own loader compares `NO_PROXY` with the proxy's host instead of the API server's, and
//! fails at an entry that it cannot parse; so the configuration is built here.

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::{Cluster, Kubeconfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Returns the cluster of the environment: that of KUBECONFIG, or of the Pod's ServiceAccount.
///
/// # Errors
/// When neither names one.
pub(crate) fn infer() -> Result<Config, String> {
    let of_kubeconfig =
        Kubeconfig::read().map_err(|e| e.to_string()).and_then(|kubeconfig| config(kubeconfig, variable));
    let mut config = match of_kubeconfig {
        Ok(config) => config,
        Err(why) => Config::incluster().map_err(|in_cluster| format!("{why}; {in_cluster}"))?,
    };
    config.apply_debug_overrides();
    Ok(config)
}

/// Returns a variable of the environment, in upper or lower case. As in kubectl, an empty one is not set.
fn variable(name: &str) -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    set(name).or_else(|| set(&name.to_ascii_lowercase()))
}

/// Returns the configuration for the current context of a kubeconfig, with these variables of the environment.
fn config(kubeconfig: Kubeconfig, variable: impl Fn(&str) -> Option<String>) -> Result<Config, String> {
    let name = kubeconfig.current_context.ok_or("the kubeconfig has no current context")?;
    let context = kubeconfig.contexts.into_iter().find(|c| c.name == name).and_then(|c| c.context);
    let context = context.ok_or_else(|| format!("the kubeconfig has no context '{name}'"))?;
    let cluster = kubeconfig.clusters.into_iter().find(|c| c.name == context.cluster).and_then(|c| c.cluster);
    let cluster = cluster.ok_or_else(|| format!("the kubeconfig has no cluster '{}'", context.cluster))?;
    let server = cluster.server.as_deref().ok_or("the kubeconfig's cluster names no server")?;
    let server: Uri = server.parse().map_err(|e| format!("the kubeconfig's server '{server}': {e}"))?;
    let user = kubeconfig.auth_infos.into_iter().find(|user| Some(&user.name) == context.user.as_ref());
    let mut user = user.and_then(|user| user.auth_info).unwrap_or_default();
    if let Some(exec) = user.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        exec.cluster = Some((&cluster).try_into().map_err(|e| format!("the kubeconfig's cluster: {e}"))?);
    }
    let mut config = Config::new(server);
    config.proxy_url = proxy(&cluster, &config.cluster_url, variable)?;
    (config.root_cert, config.root_cert_file) = (authorities(&cluster)?, cluster.certificate_authority.map(Into::into));
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.disable_compression = cluster.disable_compression.unwrap_or(false);
    config.tls_server_name = cluster.tls_server_name;
    config.default_namespace = context.namespace.unwrap_or(config.default_namespace);
    config.auth_info = user;
    Ok(config)
}

/// Returns the certificates that the kubeconfig contains, which take precedence over those of a file.
fn authorities(cluster: &Cluster) -> Result<Option<Vec<Vec<u8>>>, String> {
    use base64::Engine;
    let Some(data) = &cluster.certificate_authority_data else { return Ok(None) };
    let unfit = |e: String| format!("the kubeconfig's certificate-authority-data: {e}");
    let pem = base64::engine::general_purpose::STANDARD.decode(data).map_err(|e| unfit(e.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem).map(|der| der.map(|der| der.to_vec()));
    certificates.collect::<Result<_, _>>().map(Some).map_err(|e| unfit(e.to_string()))
}

/// Returns the proxy to the API server: the kubeconfig's own, or the environment's, unless `NO_PROXY` lists the server.
fn proxy(cluster: &Cluster, server: &Uri, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Uri>, String> {
    let own = cluster.proxy_url.clone().filter(|proxy| !proxy.is_empty());
    let (named_by, proxy) = match own {
        Some(proxy) => ("the kubeconfig's proxy-url", proxy),
        None => {
            let name = if server.scheme_str() == Some("http") { "HTTP_PROXY" } else { "HTTPS_PROXY" };
            match variable(name) {
                Some(proxy) if !is_spared(server, &variable("NO_PROXY").unwrap_or_default()) => (name, proxy),
                _ => return Ok(None),
            }
        }
    };
    let with_scheme = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
    // The URL may contain a password.
    match with_scheme.parse::<Uri>() {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => Ok(Some(uri)),
        _ => Err(format!(
            "{named_by} is no URL of an HTTP proxy; list the API server in NO_PROXY, or name an HTTP proxy"
        )),
    }
}

/// Returns true if requests to `server` bypass the proxy: those to this machine always, as with kubectl, and those to servers
/// that `NO_PROXY` lists. Its entries are names, which include their subdomains, addresses and networks, each optionally with a
/// port.
fn is_spared(server: &Uri, no_proxy: &str) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host.parse::<std::net::IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback());
    let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("http") { 80 } else { 443 });
    let suffix = format!(":{port}");
    let entries: Vec<&str> = no_proxy.split(',').map(|e| e.trim()).map(|e| without_port(e, &suffix)).collect();
    let matcher = Matcher::builder().all("http://proxy.invalid").no(entries.join(",")).build();
    is_here || matcher.intercept(server).is_none()
}

/// Returns the entry without this port. An entry with another port is returned unchanged, and matches no host.
fn without_port<'a>(entry: &'a str, port: &str) -> &'a str {
    match entry.strip_suffix(port) {
        // An entry with more colons is an IPv6 address.
        Some(host) if !host.contains(':') => host,
        Some(host) if host.starts_with('[') => host.trim_matches(['[', ']']),
        _ => entry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the proxy for a kubeconfig with this server and these additional lines, in an environment with these variables.
    fn proxy_of(server: &str, more: &str, environment: &[(&str, &str)]) -> Result<Option<String>, String> {
        let kubeconfig = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u, namespace: n}}}}]\n\
             users: [{{name: u, user: {{token: t}}}}]\nclusters:\n- name: k\n  cluster:\n    server: {server}\n    {more}\n"
        );
        let variable = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        let config = config(Kubeconfig::from_yaml(&kubeconfig).unwrap(), variable)?;
        assert_eq!(config.default_namespace, "n");
        Ok(config.proxy_url.map(|uri| uri.to_string()))
    }

    /// Case 41-proxy-in-the-environment.
    #[test]
    fn the_environments_proxy_is_used_unless_the_api_server_is_spared() {
        const PROXY: &str = "http://proxy.example:3128";
        for (server, no_proxy, spared) in [
            ("https://127.0.0.1:6443", "", true),
            ("https://localhost:6443", "", true),
            ("https://[::1]:6443", "", true),
            ("https://10.96.0.1", "", false),
            ("https://10.96.0.1", "10.96.0.1", true),
            ("https://10.96.0.1", ".svc, 10.96.0.0/12 ,", true),
            ("https://10.96.0.1", "10.96.0.1:443", true),
            ("https://10.96.0.1:6443", "10.96.0.1:443", false),
            ("https://[fd00:10::1]", "fd00:10::/64", true),
            ("https://[fd00:10::1]", "[fd00:10::1]:443", true),
            ("https://[fd00:11::1]", "fd00:10::/64", false),
            ("https://api.cluster.example:6443", "example", true),
            ("https://api.cluster.example:6443", ".cluster.example", true),
            ("https://api.cluster.example:6443", "cluster.example:6443,x", true),
            ("https://api.cluster.example:6443", "other.example,,not a host", false),
            ("https://api.cluster.example:6443", "*", true),
        ] {
            let found = proxy_of(server, "", &[("HTTPS_PROXY", PROXY), ("NO_PROXY", no_proxy)]).unwrap();
            assert_eq!(found.is_none(), spared, "{server} and {no_proxy}: {found:?}");
        }
        assert_eq!(proxy_of("https://10.0.0.1", "", &[]), Ok(None));
        let plain = proxy_of("http://10.0.0.1", "", &[("HTTP_PROXY", "proxy.example:3128")]).unwrap();
        assert_eq!(plain.as_deref(), Some("http://proxy.example:3128/"), "as curl and kubectl write it");
    }

    #[test]
    fn a_proxy_that_the_kubeconfig_names_is_used_whatever_the_environment_says() {
        let own = "proxy-url: http://own.example:8080";
        let environment = [("HTTPS_PROXY", "http://proxy.example:3128"), ("NO_PROXY", "*")];
        let found = proxy_of("https://127.0.0.1:6443", own, &environment).unwrap();
        assert_eq!(found.as_deref(), Some("http://own.example:8080/"));
    }

    #[test]
    fn a_proxy_that_is_of_no_use_is_told_without_its_password() {
        let error = proxy_of("https://10.0.0.1", "", &[("HTTPS_PROXY", "socks5://u:s3cret@proxy:1080")]).unwrap_err();
        assert!(error.contains("NO_PROXY") && error.contains("HTTPS_PROXY") && !error.contains("s3cret"), "{error}");
        let spared = [("HTTPS_PROXY", "socks5://proxy:1080"), ("NO_PROXY", "10.0.0.0/8")];
        assert_eq!(proxy_of("https://10.0.0.1", "", &spared), Ok(None));
    }
}
