//! Who has signed a webhook: the schemes of Standard Webhooks and of Stripe, HMAC-SHA256 both.

use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How far a signature's time may be from ours: an old one may have been recorded.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// What a provider signs with.
pub(crate) enum Secret {
    Standard(Vec<u8>),
    Stripe(Vec<u8>),
}

impl Secret {
    /// `whsec_` and base64.
    pub(crate) fn standard(text: &str) -> Option<Self> {
        let text = text.strip_prefix("whsec_").unwrap_or(text);
        STANDARD.decode(text).ok().map(Self::Standard)
    }

    /// Stripe's secrets are taken as they are written.
    pub(crate) fn stripe(text: &str) -> Self {
        Self::Stripe(text.as_bytes().to_vec())
    }

    pub(crate) fn has_signed(&self, headers: &HeaderMap, body: &[u8], now: SystemTime) -> bool {
        let signed = match self {
            Self::Standard(secret) => standard(secret, headers, body),
            Self::Stripe(secret) => stripe(secret, headers, body),
        };
        signed.is_some_and(|at| is_recent(at, now))
    }
}

/// When it was signed, if it was.
fn standard(secret: &[u8], headers: &HeaderMap, body: &[u8]) -> Option<u64> {
    let header = |name| headers.get(name)?.to_str().ok();
    let (id, time) = (header("webhook-id")?, header("webhook-timestamp")?);
    // Several, where the secret is being replaced.
    let signatures = header("webhook-signature")?.split(' ');
    let mut signatures = signatures.filter_map(|it| STANDARD.decode(it.strip_prefix("v1,")?).ok());
    let parts = [id.as_bytes(), b".", time.as_bytes(), b".", body];
    signatures
        .any(|it| verify(secret, &parts, &it))
        .then_some(())?;
    time.parse().ok()
}

fn stripe(secret: &[u8], headers: &HeaderMap, body: &[u8]) -> Option<u64> {
    let header = headers.get("stripe-signature")?.to_str().ok()?;
    let fields = || header.split(',').filter_map(|it| it.trim().split_once('='));
    let (_, time) = fields().find(|(name, _)| *name == "t")?;
    let mut signatures = fields()
        .filter(|(name, _)| *name == "v1")
        .filter_map(|(_, it)| hex(it));
    let parts = [time.as_bytes(), b".", body];
    signatures
        .any(|it| verify(secret, &parts, &it))
        .then_some(())?;
    time.parse().ok()
}

/// In constant time.
fn verify(secret: &[u8], parts: &[&[u8]], signature: &[u8]) -> bool {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return false;
    };
    parts.iter().for_each(|part| mac.update(part));
    mac.verify_slice(signature).is_ok()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16)
            .ok()
            .filter(|_| pair.len() == 2)
    });
    bytes.collect()
}

fn is_recent(signed_at: u64, now: SystemTime) -> bool {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs().abs_diff(signed_at) <= TOLERANCE.as_secs()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let lines = lines.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        lines.collect()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// The specification's own example.
    #[test]
    fn a_signature_of_standard_webhooks_is_known() {
        let secret = Secret::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let sent = headers(&[
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            (
                "webhook-signature",
                "v1,bm9ldHU9 v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ]);
        let body = br#"{"test": 2432232314}"#;
        assert!(secret.has_signed(&sent, body, at(1_614_265_330)));
        assert!(!secret.has_signed(&sent, br#"{"test": 2432232315}"#, at(1_614_265_330)));
        // Recorded and sent again.
        assert!(!secret.has_signed(&sent, body, at(1_614_265_330 + 301)));
        assert!(!secret.has_signed(&HeaderMap::new(), body, at(1_614_265_330)));
    }

    #[test]
    fn what_is_no_signature_of_stripes_is_refused() {
        let secret = Secret::stripe("whsec_test");
        for value in [
            "",
            "t=1",
            "v1=00",
            "t=1,v1=0",
            "t=1,v1=zz",
            "t=1,v1=00",
            "t=x,v1=00",
        ] {
            let sent = headers(&[("stripe-signature", value)]);
            assert!(!secret.has_signed(&sent, b"{}", at(1)), "{value}");
        }
    }
}
