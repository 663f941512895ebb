//! Redirects, which are not followed but reported, without the secrets of their targets.

use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{StatusCode, Url};

/// Maximum length of a host that is shown, in bytes: that of a DNS name.
const HOST_LIMIT: usize = 253;

/// A redirect that a server answered instead of the requested content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Scheme, host and port. The rest of a Location may be secret, as in a signed URL.
    pub origin: String,
    /// The path, which is private because in a signed URL it names an object.
    path: String,
}

impl Redirect {
    /// Returns the redirect in `status` and `headers`; None if they are no redirect, or have no usable target.
    pub fn of(asked: &Url, status: StatusCode, headers: &HeaderMap) -> Option<Redirect> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = asked.join(headers.get(LOCATION)?.to_str().ok()?).ok()?;
        let host = location.host_str().filter(|host| host.len() <= HOST_LIMIT)?;
        let port = location.port().map(|port| format!(":{port}")).unwrap_or_default();
        let origin = format!("{}://{host}{port}", location.scheme());
        Some(Redirect { origin, path: location.path().into() })
    }

    /// Returns the base URL with which the request for `asked`, a URL below `base`, would have gone to the redirect's target. None if
    /// there is none, because the redirect is about this path alone.
    pub fn base(&self, base: &Url, asked: &Url) -> Option<String> {
        let below = asked.path().strip_prefix(base.path().trim_end_matches('/'))?;
        let path = self.path.strip_suffix(below).filter(|_| below.len() > 1)?;
        let new = format!("{}{}", self.origin, path.trim_end_matches('/'));
        (new != base.as_str().trim_end_matches('/')).then_some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(location: &str) -> Option<Redirect> {
        let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
        Redirect::of(&"http://gw.example/v1/files/f/content".parse().unwrap(), StatusCode::FOUND, &headers)
    }

    #[test]
    fn a_redirect_is_told_without_what_may_be_a_secret() {
        let told = redirect("https://u:pw@store.example:9000/bucket/key?X-Amz-Signature=s3cret#frag").unwrap();
        assert_eq!(told.origin, "https://store.example:9000");
        assert_eq!(redirect("/elsewhere").unwrap().origin, "http://gw.example");
        assert_eq!(redirect("//[fd00::1]/x").unwrap().origin, "http://[fd00::1]");
        assert_eq!(redirect(&format!("https://{}.example/", "a.".repeat(200))), None);
        assert_eq!(redirect("data:text/plain,x"), None, "it has no host");
        let asked: Url = "http://gw.example/v1".parse().unwrap();
        assert_eq!(Redirect::of(&asked, StatusCode::FOUND, &HeaderMap::new()), None, "it leads nowhere");
        let headers = HeaderMap::from_iter([(LOCATION, "https://gw.example/".parse().unwrap())]);
        assert_eq!(Redirect::of(&asked, StatusCode::NOT_MODIFIED, &headers), None);
    }

    #[test]
    fn the_base_that_leads_there_is_known_where_there_is_one() {
        let (base, asked) = ("http://gw.example/v1", "http://gw.example/v1/files/f/content");
        for (location, leads_there) in [
            ("https://gw.example/v1/files/f/content", Some("https://gw.example/v1")),
            ("https://gw.example/openai/v1/files/f/content?a=b", Some("https://gw.example/openai/v1")),
            ("https://files.example/files/f/content", Some("https://files.example")),
            ("https://store.example/bucket/0123", None),
            ("/v1/files/f/content/", None),
            ("/v1/files/f/content", None),
        ] {
            let found = redirect(location).unwrap().base(&base.parse().unwrap(), &asked.parse().unwrap());
            assert_eq!(found.as_deref(), leads_there, "{location}");
        }
    }
}
