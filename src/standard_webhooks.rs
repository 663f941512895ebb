//! Signatures of webhooks after the Standard Webhooks specification
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>), symmetric scheme `v1`: an
//! HMAC-SHA256 of `ID.TIMESTAMP.BODY`, as OpenAI, Azure OpenAI and Doubleword send it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderValue};

/// Header with the id of the message, which stays the same when the message is sent again.
pub const ID: &str = "webhook-id";
/// Header with the time of this sending, in Unix seconds.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// Header with the signatures, separated by spaces.
pub const SIGNATURE: &str = "webhook-signature";

/// Seconds by which the time of a message may differ from the clock of its receiver, in either direction.
pub const TOLERANCE: i64 = 300;

const PREFIX: &str = "whsec_";
const VERSION: &str = "v1,";
/// Most keys of a secret: each costs a hash of the body.
const KEYS: usize = 4;
/// Fewest and most bytes of a key. The specification asks for 24 to 64; senders are known that give 16, or 128.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=128;
/// Most bytes of the headers. An id of OpenAI has some 40 bytes, and a signature has 47.
const ID_BYTES: usize = 256;
const SIGNATURE_BYTES: usize = 1024;

/// Secrets come with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The signing keys of an endpoint: one, or several during a rotation.
#[derive(Clone)]
pub struct SigningKeys(Vec<hmac::Key>);

/// The reason why a text is no signing secret. It never shows the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SecretError {
    #[error("it is empty; put the signing secret there, which begins with `whsec_`")]
    Empty,
    #[error("a signing secret begins with `whsec_`, and several are separated by spaces")]
    NoPrefix,
    #[error("what follows `whsec_` is not base64; copy the signing secret as it was shown")]
    NotBase64,
    #[error("a key has {0} bytes, and a signing secret holds {min} to {max}; copy it whole, or make one with `openssl rand -base64 32`", min = KEY_BYTES.start(), max = KEY_BYTES.end())]
    Length(usize),
    #[error("it holds more than {KEYS} secrets; remove those that are no longer used")]
    TooMany,
}

/// The reason why a message is not taken for genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum VerifyError {
    #[error("the header `{0}` is missing, repeated, too long or malformed")]
    Header(&'static str),
    #[error("its time is more than {TOLERANCE} s off")]
    Stale,
    #[error("no signature is by one of the keys")]
    Forged,
}

/// The content of the headers of a genuine message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<'a> {
    /// Id of the message; the same in every repetition.
    pub id: &'a str,
    /// Time of this sending, in Unix seconds.
    pub timestamp: i64,
}

impl SigningKeys {
    /// Parses a secret: `whsec_` and a key in base64; several of them, separated by white space, while the secret is rotated.
    ///
    /// # Errors
    /// If the text is no signing secret. The error does not show the text.
    pub fn parse(secret: &str) -> Result<SigningKeys, SecretError> {
        let keys = secret.split_whitespace().take(KEYS + 1).map(key).collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => Err(SecretError::Empty),
            1..=KEYS => Ok(SigningKeys(keys)),
            _ => Err(SecretError::TooMany),
        }
    }

    /// Returns a key that nobody knows: no message is signed by it.
    pub fn unguessable() -> SigningKeys {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        SigningKeys(key.into_iter().collect())
    }

    /// Returns the value of the header `webhook-signature`, with one signature for each key. The time is in Unix seconds.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures = self.0.iter().map(|key| {
            let tag = tag(key, id, &timestamp.to_string(), body);
            format!("{VERSION}{}", BASE64.encode(tag.as_ref()))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }

    /// Checks that a message is signed by one of the keys, and that it was sent at `now` (Unix seconds), give or take
    /// [`TOLERANCE`]. Signatures are compared in constant time. The caller has to check whether the message is a
    /// repetition.
    ///
    /// # Errors
    /// If the message is not genuine.
    pub fn verify<'a>(&self, headers: &'a HeaderMap, body: &[u8], now: i64) -> Result<Verified<'a>, VerifyError> {
        let id = header(headers, ID, ID_BYTES)?;
        let signatures = header(headers, SIGNATURE, SIGNATURE_BYTES)?;
        let sent = header(headers, TIMESTAMP, 20)?;
        // A full stop ends the id in the signed text: with one in the id, two messages could have the same signature.
        if id.contains(['.', ' ']) {
            return Err(VerifyError::Header(ID));
        }
        let is_number = sent.bytes().all(|digit| digit.is_ascii_digit());
        let timestamp = sent.parse::<i64>().ok().filter(|_| is_number).ok_or(VerifyError::Header(TIMESTAMP))?;
        if now.abs_diff(timestamp) > TOLERANCE.unsigned_abs() {
            return Err(VerifyError::Stale);
        }
        let claimed = signatures.split(' ').filter_map(|one| BASE64.decode(one.strip_prefix(VERSION)?).ok());
        let claimed: Vec<Vec<u8>> = claimed.collect();
        let genuine = self.0.iter().any(|key| {
            let tag = tag(key, id, sent, body);
            claimed.iter().any(|claimed| verify_slices_are_equal(tag.as_ref(), claimed).is_ok())
        });
        if genuine { Ok(Verified { id, timestamp }) } else { Err(VerifyError::Forged) }
    }
}

fn key(secret: &str) -> Result<hmac::Key, SecretError> {
    let encoded = secret.strip_prefix(PREFIX).ok_or(SecretError::NoPrefix)?;
    let bytes = BASE64.decode(encoded).map_err(|_| SecretError::NotBase64)?;
    match KEY_BYTES.contains(&bytes.len()) {
        true => Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
        false => Err(SecretError::Length(bytes.len())),
    }
}

fn tag(key: &hmac::Key, id: &str, timestamp: &str, body: &[u8]) -> hmac::Tag {
    let mut signed = hmac::Context::with_key(key);
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        signed.update(part);
    }
    signed.sign()
}

/// Returns a header that is there once, with visible ASCII of at most `most` bytes.
fn header<'a>(headers: &'a HeaderMap, name: &'static str, most: usize) -> Result<&'a str, VerifyError> {
    let mut values = headers.get_all(name).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) if value.len() <= most => Some(value),
        _ => None,
    };
    let text = value.map(HeaderValue::to_str).and_then(Result::ok);
    text.filter(|text| !text.is_empty()).ok_or(VerifyError::Header(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example that the specification's libraries share as their test vector.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const MESSAGE: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SENT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const OTHER: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

    fn headers(signature: &str) -> HeaderMap {
        let sent = SENT.to_string();
        let named = [(ID, MESSAGE), (TIMESTAMP, sent.as_str()), (SIGNATURE, signature)];
        named.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn keys(secret: &str) -> SigningKeys {
        SigningKeys::parse(secret).unwrap()
    }

    #[test]
    fn the_published_example_is_signed_and_verified() {
        assert_eq!(keys(SECRET).sign(MESSAGE, SENT, BODY), SIGNED);
        let sent = headers(SIGNED);
        let verified = keys(SECRET).verify(&sent, BODY, SENT);
        assert_eq!(verified, Ok(Verified { id: MESSAGE, timestamp: SENT }));
        let unpadded = SIGNED.trim_end_matches('=');
        assert!(keys(SECRET).verify(&headers(unpadded), BODY, SENT).is_ok());
    }

    #[test]
    fn while_a_secret_is_rotated_any_signature_by_any_key_counts() {
        let both = format!(" {OTHER}\n {SECRET} ");
        assert!(keys(&both).verify(&headers(SIGNED), BODY, SENT).is_ok());
        let signatures = keys(&both).sign(MESSAGE, SENT, BODY);
        assert_eq!(signatures.split(' ').count(), 2);
        for secret in [SECRET, OTHER] {
            assert!(keys(secret).verify(&headers(&signatures), BODY, SENT).is_ok(), "{secret}");
        }
        let odd = format!("v1a,AAAA v1,not-base64 v1 {SIGNED}");
        assert!(keys(SECRET).verify(&headers(&odd), BODY, SENT).is_ok());
    }

    #[test]
    fn a_changed_message_is_forged() {
        let verify = |change: &dyn Fn(&mut HeaderMap), body: &[u8], secret: &str| {
            let mut headers = headers(SIGNED);
            change(&mut headers);
            keys(secret).verify(&headers, body, SENT).map(|_| ())
        };
        let set = |name: &'static str, value: &'static str| {
            move |headers: &mut HeaderMap| drop(headers.insert(name, HeaderValue::from_static(value)))
        };
        assert_eq!(verify(&|_| {}, BODY, SECRET), Ok(()));
        assert_eq!(verify(&|_| {}, b"{}", SECRET), Err(VerifyError::Forged));
        assert_eq!(verify(&|_| {}, BODY, OTHER), Err(VerifyError::Forged));
        assert_eq!(verify(&set(ID, "msg_other"), BODY, SECRET), Err(VerifyError::Forged));
        assert_eq!(verify(&set(TIMESTAMP, "1614265331"), BODY, SECRET), Err(VerifyError::Forged));
        assert_eq!(verify(&set(SIGNATURE, "v1,"), BODY, SECRET), Err(VerifyError::Forged));
        assert_eq!(verify(&set(SIGNATURE, "v1,g0hM"), BODY, SECRET), Err(VerifyError::Forged));
        assert_eq!(
            verify(&set(SIGNATURE, "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), BODY, SECRET),
            Err(VerifyError::Forged)
        );
    }

    #[test]
    fn a_message_counts_for_five_minutes_by_either_clock() {
        let verify = |now| keys(SECRET).verify(&headers(SIGNED), BODY, now).map(|_| ());
        for (off, verified) in
            [(-301, Err(VerifyError::Stale)), (-300, Ok(())), (300, Ok(())), (301, Err(VerifyError::Stale))]
        {
            assert_eq!(verify(SENT + off), verified, "{off}");
        }
        assert_eq!(verify(i64::MIN), Err(VerifyError::Stale));
        assert_eq!(verify(i64::MAX), Err(VerifyError::Stale));
    }

    #[test]
    fn headers_that_are_missing_repeated_long_or_malformed_are_named() {
        for name in [ID, TIMESTAMP, SIGNATURE] {
            let refused =
                |headers: &HeaderMap| keys(SECRET).verify(headers, BODY, SENT) == Err(VerifyError::Header(name));
            let mut missing = headers(SIGNED);
            missing.remove(name);
            let mut repeated = headers(SIGNED);
            repeated.append(name, repeated[name].clone());
            assert!(refused(&missing) && refused(&repeated), "{name}");
            for value in ["", &"1".repeat(1025), "\u{e9}"] {
                let mut odd = headers(SIGNED);
                odd.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
                assert!(refused(&odd), "{name}: {value}");
            }
        }
        for sent in ["+1614265330", "-1614265330", "1614265330.0", " 1614265330", "99999999999999999999"] {
            let mut odd = headers(SIGNED);
            odd.insert(TIMESTAMP, sent.parse().unwrap());
            assert_eq!(keys(SECRET).verify(&odd, BODY, SENT), Err(VerifyError::Header(TIMESTAMP)), "{sent}");
        }
    }

    #[test]
    fn the_parts_of_a_message_cannot_change_places() {
        let body = format!("{{\"at\": 1.{SENT}.5}}");
        let signature = keys(SECRET).sign("msg", SENT, body.as_bytes());
        let mut shifted = headers(&signature);
        shifted.insert(ID, format!("msg.{SENT}.{{\"at\": 1").parse().unwrap());
        assert_eq!(keys(SECRET).verify(&shifted, b"5}", SENT), Err(VerifyError::Header(ID)));
    }

    #[test]
    fn a_text_that_is_no_secret_is_refused_without_being_shown() {
        let parse = |secret: &str| SigningKeys::parse(secret).err();
        assert_eq!(parse(" \n"), Some(SecretError::Empty));
        assert_eq!(parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), Some(SecretError::NoPrefix));
        assert_eq!(parse("whsec_canary-key!"), Some(SecretError::NotBase64));
        assert_eq!(parse("whsec_"), Some(SecretError::Length(0)));
        assert_eq!(parse("whsec_c2hvcnQ="), Some(SecretError::Length(5)));
        assert_eq!(parse(&format!("whsec_{}", "AAAA".repeat(43))), Some(SecretError::Length(129)));
        assert_eq!(parse(&[SECRET; 5].join(" ")), Some(SecretError::TooMany));
        assert!(!SecretError::NotBase64.to_string().contains("canary"));
    }

    proptest! {
        #[test]
        fn what_one_key_signs_it_alone_verifies(id in "[a-z0-9_-]{1,40}", body: Vec<u8>, off in -300i64..=300) {
            let signature = keys(SECRET).sign(&id, SENT, &body);
            let mut headers = headers(&signature);
            headers.insert(ID, id.parse().unwrap());
            prop_assert!(keys(SECRET).verify(&headers, &body, SENT + off).is_ok());
            prop_assert_eq!(keys(OTHER).verify(&headers, &body, SENT + off), Err(VerifyError::Forged));
        }
    }
}
