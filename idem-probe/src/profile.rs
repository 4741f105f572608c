//! What differs among contracts.

use http::HeaderValue;
use uuid::Uuid;

/// The contract that is expected of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Profile {
    /// The IETF draft "The Idempotency-Key HTTP Header Field" (-07): keys are structured-field strings
    /// and required; another request under a key is 422; a replay need not be marked.
    Ietf,
    /// As Stripe's API does it: keys are opaque, up to 255 characters and optional; another request
    /// under a key is 400; a replay carries `Idempotent-Replayed: true`.
    Stripe,
}

/// A key that must be refused.
#[derive(Debug)]
pub(crate) struct Malformed {
    /// The name of its check.
    pub(crate) check: &'static str,
    pub(crate) value: Vec<u8>,
}

impl Profile {
    /// A key that nobody has used.
    pub(crate) fn fresh_key(self) -> HeaderValue {
        let uuid = Uuid::new_v4();
        let key = match self {
            Self::Ietf => format!("\"{uuid}\""),
            Self::Stripe => uuid.to_string(),
        };
        HeaderValue::try_from(key).unwrap_or_else(|_| HeaderValue::from_static("\"probe\""))
    }

    /// The status that refuses another request under a key.
    pub(crate) const fn mismatch(self) -> u16 {
        match self {
            Self::Ietf => 422,
            Self::Stripe => 400,
        }
    }

    /// Whether a status says that the first request still runs.
    pub(crate) const fn is_in_flight(self, status: u16) -> bool {
        match self {
            Self::Ietf => status == 409,
            // 429: its lock was not had in time.
            Self::Stripe => status == 409 || status == 429,
        }
    }

    pub(crate) const fn requires_keys(self) -> bool {
        matches!(self, Self::Ietf)
    }

    pub(crate) const fn requires_marker(self) -> bool {
        matches!(self, Self::Stripe)
    }

    /// What must be refused with 400. A part of each is random, so that no probe meets the key of
    /// another one where a server takes it.
    pub(crate) fn malformed_keys(self) -> Vec<Malformed> {
        let id = Uuid::new_v4().simple().to_string();
        let malformed = |check, value: String| Malformed {
            check,
            value: value.into_bytes(),
        };
        match self {
            Self::Ietf => vec![
                malformed("key-empty", String::new()),
                malformed("key-empty-string", "\"\"".to_owned()),
                malformed("key-unterminated", format!("\"{id}")),
                malformed("key-trailing-text", format!("\"{id}\"x")),
                malformed("key-bad-escape", format!("\"{id}\\n\"")),
                malformed("key-not-ascii", format!("\"{id}é\"")),
                malformed("key-two-in-one-line", format!("\"{id}\", \"{id}2\"")),
            ],
            Self::Stripe => vec![malformed("key-too-long", id.repeat(8))],
        }
    }
}
