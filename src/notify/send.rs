//! Delivery of a message: one POST, its signature, and the meaning of the answer.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_TYPE, USER_AGENT};
use reqwest::{Method, Request, Response, StatusCode, Url};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::{Notice, Retry, Target, Undelivered, cloudevents, slack};
use crate::api::NotificationFormat;
use crate::standard_webhooks::{self, SigningKeys};
use crate::transport::{PRIVATE_AUTHORITY, Redirect, SendError, Transport, retry_after, stream};

/// Time that a delivery may take, the connection and the answer included.
const DEADLINE: Duration = Duration::from_secs(20);
/// Time for the rest of an answer whose status is known. The rest is read only so that the connection can be used
/// again.
const DRAIN: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read; they are not kept.
const ANSWER_LIMIT: u64 = 4 << 10;
/// Longest URL that is taken, in bytes: that of a provider.
const URL_LIMIT: usize = 1_024;

/// Sends a message once. The message counts as delivered if the status of the answer is 2xx. It is signed for `now`, in
/// Unix milliseconds, since receivers refuse a message whose time is off.
///
/// # Errors
/// If the message was not delivered, or may not have been. A receiver may get a message several times, with the same
/// id.
pub async fn deliver(transport: &Transport, target: &Target, notice: &Notice, now: i64) -> Result<(), Undelivered> {
    deliver_within(DEADLINE, transport, target, notice, now).await
}

/// Sends a message as [`deliver`] does, with a deadline of its own.
///
/// # Errors
/// As [`deliver`].
pub async fn deliver_within(
    deadline: Duration,
    transport: &Transport,
    target: &Target,
    notice: &Notice,
    now: i64,
) -> Result<(), Undelivered> {
    let url = url(target.url.expose_secret())?;
    let host = host(&url);
    let transport = reaching(transport, target, &url).map_err(|e| later(&host, &e.without_url().to_string()))?;
    let request = request(&transport, target, notice, &url, now)?;
    match timeout(deadline, exchange(&transport, request)).await {
        Ok(Ok(answer)) => judge(target.format, &host, &answer),
        Ok(Err(error)) => Err(not_sent(&host, &error)),
        Err(_) => Err(later(&host, &format!("no answer within {} s", deadline.as_secs_f64()))),
    }
}

/// The parts of an answer that count.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    redirect: Option<Redirect>,
}

async fn exchange(transport: &Transport, request: Request) -> Result<Answer, SendError> {
    let asked = request.url().clone();
    let response = transport.send(request).await?;
    let status = response.status();
    let answer = Answer {
        status,
        retry_after: retry_after(response.headers()),
        redirect: Redirect::of(&asked, status, response.headers()),
    };
    drain(response).await;
    Ok(answer)
}

/// Discards the rest of an answer, so that the connection can be used again.
async fn drain(response: Response) {
    let read = stream(response, ANSWER_LIMIT).map(|chunk| chunk.map(|_| ())).try_collect::<()>();
    // The connection of a long or slow answer is closed.
    let _ = timeout(DRAIN, read).await;
}

/// Parses the URL in a Secret.
fn url(secret: &str) -> Result<Url, Undelivered> {
    let text = secret.trim();
    let refused = |why: &str| {
        let message = format!("`webhook.urlSecretKeyRef`: the URL in the Secret {why}");
        Err(Undelivered { retry: Retry::Later, message })
    };
    if text.is_empty() {
        return refused("is empty");
    }
    if text.len() > URL_LIMIT {
        return refused(&format!("has {} bytes, and at most {URL_LIMIT} are taken", text.len()));
    }
    let Ok(url) = text.parse::<Url>() else {
        return refused("is no URL; it has to be like https://hooks.example.com/…");
    };
    match (url.scheme(), url.has_host()) {
        ("http" | "https", true) => {}
        _ => return refused("has to begin with https:// or, for a host in a private network, http://"),
    }
    match url.username().is_empty() && url.password().is_none() {
        true => Ok(url),
        false => refused("holds a user name or a password before `@`, which are not sent; name a signing key instead"),
    }
}

/// Returns the host of a URL, with its port if it has one. Nothing else of the URL of a webhook is shown, since it may be a secret.
fn host(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

/// Returns a client for the host. The URL of a webhook is a credential, and so it is not sent in clear text to a public address.
fn reaching(transport: &Transport, target: &Target, url: &Url) -> Result<Transport, reqwest::Error> {
    let transport = transport.clone().for_webhooks();
    let transport = if target.by_admin { transport.trusting(url)? } else { transport };
    if url.scheme() == "http" { transport.in_clear_text() } else { Ok(transport) }
}

fn request(
    transport: &Transport,
    target: &Target,
    notice: &Notice,
    url: &Url,
    now: i64,
) -> Result<Request, Undelivered> {
    let (content_type, body) = match target.format {
        NotificationFormat::CloudEvents => (cloudevents::CONTENT_TYPE, cloudevents::body(notice)),
        NotificationFormat::Slack => (slack::CONTENT_TYPE, slack::body(notice)),
    };
    let host = host(url);
    let body = body.map_err(|e| never(&host, &format!("the message cannot be written: {e}")))?;
    let seconds = now.div_euclid(1_000);
    let mut request = transport
        .request(Method::POST, url.clone())
        .header(CONTENT_TYPE, content_type)
        .header(USER_AGENT, concat!("batchjob-operator/", env!("CARGO_PKG_VERSION")))
        .header(standard_webhooks::ID, &notice.id)
        .header(standard_webhooks::TIMESTAMP, seconds);
    if let Some(keys) = &target.signing_keys {
        let keys = SigningKeys::parse(keys.expose_secret())
            .map_err(|e| Undelivered { retry: Retry::Later, message: format!("`webhook.signingSecretKeyRef`: {e}") })?;
        request = request.header(standard_webhooks::SIGNATURE, keys.sign(&notice.id, seconds, &body));
    }
    request.body(body).build().map_err(|e| later(&host, &e.without_url().to_string()))
}

/// Judges an answer. A refusal of the message itself, or of all messages (410), is final. Other refusals may pass or be
/// mended: also those of a key (401, 403), of a path (404), and of a signature (400 at most receivers).
fn judge(format: NotificationFormat, host: &str, answer: &Answer) -> Result<(), Undelivered> {
    let status = answer.status;
    if status.is_success() {
        return Ok(());
    }
    let words = format!("it answered {}", status.as_u16());
    let words = match (hint(format, status), &answer.redirect) {
        (_, Some(Redirect { origin, .. })) => {
            format!(
                "{words}, a redirect to {origin}; redirects are not followed: put the new URL into the Secret of `webhook.urlSecretKeyRef`"
            )
        }
        (Some(hint), None) => format!("{words}: {hint}"),
        (None, None) => words,
    };
    let retry = match status.as_u16() {
        405 | 410 | 413 | 414 | 415 | 422 | 431 | 451 => Retry::Never,
        _ => answer.retry_after.map_or(Retry::Later, Retry::After),
    };
    Err(Undelivered { retry, message: format!("{host}: {words}") })
}

/// Returns the usual cause of a status, with the remedy. Slack's are from
/// <https://api.slack.com/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks>.
fn hint(format: NotificationFormat, status: StatusCode) -> Option<&'static str> {
    let is_slack = format == NotificationFormat::Slack;
    Some(match status.as_u16() {
        403 if is_slack => "the workspace does not let this webhook post; its admins decide that",
        404 if is_slack => {
            "the channel or the webhook is gone; make a new webhook and put its URL into the Secret of `webhook.urlSecretKeyRef`"
        }
        410 if is_slack => {
            "the channel is archived; make a webhook for another one and put its URL into the Secret of `webhook.urlSecretKeyRef`"
        }
        400 if !is_slack => {
            "if the receiver verifies signatures, compare its signing key with `webhook.signingSecretKeyRef`"
        }
        401 | 403 => {
            "it refuses the signature or the URL; compare the Secrets of `webhook` with what the receiver expects"
        }
        404 => "nothing is there under the path of the URL; compare `webhook.urlSecretKeyRef` with the receiver's",
        405 => "it takes no POST; compare `webhook.urlSecretKeyRef` with the receiver's",
        410 => {
            "it does not want any message; take the notification out, or put another URL into the Secret of `webhook.urlSecretKeyRef`"
        }
        413 => "the message is too large for it",
        415 => "it does not take the format; compare `format` with what the receiver expects",
        429 => "it takes no more messages for now",
        _ => return None,
    })
}

/// Returns the failure of an exchange without an answer.
fn not_sent(host: &str, error: &SendError) -> Undelivered {
    match error {
        // The message names the host already.
        SendError::NotAllowed(why) => Undelivered { retry: Retry::Later, message: why.clone() },
        // A notification has no field for certificate authorities.
        SendError::NotSent(why) => match why.strip_suffix(PRIVATE_AUTHORITY) {
            Some(why) => later(host, &format!("{why}; it needs a certificate that the operator's image trusts")),
            None => later(host, &format!("nothing was sent: {why}")),
        },
        SendError::MaybeSent(why) | SendError::TimedOut(why) => later(host, &format!("no answer: {why}")),
        SendError::TooLarge(_) => later(host, &error.to_string()),
    }
}

fn later(host: &str, why: &str) -> Undelivered {
    Undelivered { retry: Retry::Later, message: format!("{host}: {why}") }
}

fn never(host: &str, why: &str) -> Undelivered {
    Undelivered { retry: Retry::Never, message: format!("{host}: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(format: NotificationFormat, status: u16, retry_after: Option<u64>) -> Result<(), Undelivered> {
        let retry_after = retry_after.map(Duration::from_secs);
        let answer = Answer { status: StatusCode::from_u16(status).unwrap(), retry_after, redirect: None };
        judge(format, "hooks.example", &answer)
    }

    #[test]
    fn a_status_says_whether_a_further_try_can_help() {
        let of =
            |status| judged(NotificationFormat::CloudEvents, status, None).map_err(|undelivered| undelivered.retry);
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(of(status), Ok(()), "{status}");
        }
        for status in [405, 410, 413, 414, 415, 422, 431, 451] {
            assert_eq!(of(status), Err(Retry::Never), "{status}");
        }
        for status in [100, 300, 302, 304, 400, 401, 403, 404, 408, 409, 425, 429, 500, 501, 502, 503, 504, 599] {
            assert_eq!(of(status), Err(Retry::Later), "{status}");
        }
    }

    #[test]
    fn a_server_says_when_it_wants_to_be_asked_again() {
        for status in [429, 503, 500] {
            let undelivered = judged(NotificationFormat::Slack, status, Some(30)).unwrap_err();
            assert_eq!(undelivered.retry, Retry::After(Duration::from_secs(30)), "{status}");
        }
        let gone = judged(NotificationFormat::Slack, 410, Some(30)).unwrap_err();
        assert_eq!(gone.retry, Retry::Never, "it is gone for good");
    }

    #[test]
    fn refusals_are_told_with_their_remedies() {
        let told = |format| {
            let statuses = [302, 400, 401, 403, 404, 405, 410, 413, 415, 429, 500, 503];
            let told = statuses.map(|status| judged(format, status, None).unwrap_err().message);
            told.join("\n")
        };
        insta::assert_snapshot!(told(NotificationFormat::CloudEvents));
        insta::assert_snapshot!(told(NotificationFormat::Slack));
    }

    #[test]
    fn a_text_that_is_no_url_of_a_webhook_is_refused_without_being_shown() {
        for (secret, words) in [
            ("", "is empty"),
            ("  \n", "is empty"),
            ("canary", "is no URL"),
            ("https://", "is no URL"),
            ("file:///canary", "has to begin with https://"),
            ("ftp://hooks.example/canary", "has to begin with https://"),
            ("unix:/canary", "has to begin with https://"),
            ("data:text/plain,canary", "has to begin with https://"),
            ("https://canary:pw@hooks.example/", "holds a user name or a password"),
            ("https://canary@hooks.example/", "holds a user name or a password"),
            (&format!("https://hooks.example/{}", "canary".repeat(200)), "at most 1024 are taken"),
        ] {
            let undelivered = url(secret).unwrap_err();
            assert!(undelivered.message.contains(words), "{secret}: {undelivered}");
            assert!(undelivered.message.starts_with("`webhook.urlSecretKeyRef`: "), "{undelivered}");
            assert!(!undelivered.message.contains("canary"), "{undelivered}");
            assert_eq!(undelivered.retry, Retry::Later, "its owner may mend it");
        }
        assert_eq!(url(" https://hooks.example/a\n").unwrap().as_str(), "https://hooks.example/a");
    }
}
