//! What a probe is told.

use std::time::Duration;

use crate::Profile;

/// What to probe, as whom, and within which bounds.
///
/// With the feature `clap` it is a group of arguments: `#[command(flatten)] options: Options`.
#[derive(Clone)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[non_exhaustive]
pub struct Options {
    /// The operation's URL. Each new key makes the server carry the operation out
    pub url: String,

    /// The contract that is expected: `ietf` (draft-ietf-httpapi-idempotency-key-header-07) or `stripe`
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t = Profile::Ietf))]
    pub profile: Profile,

    /// The request's method
    #[cfg_attr(feature = "clap", arg(long, default_value = "POST"))]
    pub method: String,

    /// The request's body: one that the operation accepts as often as it comes
    #[cfg_attr(feature = "clap", arg(long, default_value = "{}"))]
    pub body: String,

    /// Another body that the operation accepts. By default the first number or text in a JSON body is
    /// changed
    #[cfg_attr(feature = "clap", arg(long))]
    pub other_body: Option<String>,

    /// A header of every request, `Name: value`; `Content-Type` is JSON unless it is given
    #[cfg_attr(
        feature = "clap",
        arg(long = "header", short = 'H', value_name = "NAME: VALUE")
    )]
    pub headers: Vec<String>,

    /// The header that says who calls, `Authorization: Bearer …`
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            value_name = "NAME: VALUE",
            env = "IDEM_PROBE_CREDENTIAL",
            hide_env_values = true
        )
    )]
    pub credential: Option<String>,

    /// The same header of another tenant. Without it the check of two tenants is skipped
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            value_name = "NAME: VALUE",
            env = "IDEM_PROBE_OTHER_CREDENTIAL",
            hide_env_values = true
        )
    )]
    pub other_credential: Option<String>,

    /// The header that carries the key
    #[cfg_attr(feature = "clap", arg(long, default_value = "Idempotency-Key"))]
    pub key_header: String,

    /// How many equal requests are sent at once, 2 to 64
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 8))]
    pub duplicates: u32,

    /// The most requests that are sent, of all kinds
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 100))]
    pub max_requests: u32,

    /// How long the whole probe may take, in seconds
    #[cfg_attr(feature = "clap", arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds))]
    pub timeout: Duration,

    /// How long one answer may take, and how long a key may stay in flight, in seconds
    #[cfg_attr(feature = "clap", arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds))]
    pub answer_timeout: Duration,

    /// Probe a server that is not on this machine. It is yours, and may carry the operation out
    #[cfg_attr(feature = "clap", arg(long))]
    pub i_own_this: bool,
}

impl Options {
    /// With the defaults of the command line.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            profile: Profile::Ietf,
            method: "POST".to_owned(),
            body: "{}".to_owned(),
            other_body: None,
            headers: Vec::new(),
            credential: None,
            other_credential: None,
            key_header: "Idempotency-Key".to_owned(),
            duplicates: 8,
            max_requests: 100,
            timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(10),
            i_own_this: false,
        }
    }
}

/// Without URL, headers, credentials and bodies, which may be secrets.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("profile", &self.profile)
            .field("method", &self.method)
            .field("duplicates", &self.duplicates)
            .field("max_requests", &self.max_requests)
            .field("timeout", &self.timeout)
            .field("answer_timeout", &self.answer_timeout)
            .field("i_own_this", &self.i_own_this)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "clap")]
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err("a whole number of seconds, 1 to 3600".to_owned()),
    }
}
