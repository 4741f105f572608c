//! What a URL says.

use std::str::FromStr;
use std::time::Duration;

use super::lanes::Bounds;
use crate::ConnectError;

pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const MIN_TIMEOUT: Duration = Duration::from_millis(50);
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) table: String,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

/// What a URL says beside the target.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) bounds: Bounds,
    pub(super) timeout: Duration,
}

pub(super) fn bad(expected: &'static str) -> ConnectError {
    ConnectError::BadOption {
        scheme: "dynamodb",
        expected,
    }
}

/// Reads `dynamodb://table[?option=value&…]`.
pub(super) fn parse(url: &str) -> Result<(Target, Options), ConnectError> {
    let (scheme, rest) = url.split_once("://").ok_or(ConnectError::NotAUrl)?;
    if scheme != "dynamodb" {
        return Err(ConnectError::UnknownScheme);
    }
    if url.contains('#') {
        return Err(bad("a # is percent-encoded, as %23"));
    }
    let (table, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut target = Target {
        table: checked_table(table)?,
        region: None,
        endpoint: None,
    };
    let mut options = Options {
        bounds: Bounds::default(),
        timeout: DEFAULT_TIMEOUT,
    };
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = decoded(value)?;
        match name {
            "region" if !value.is_empty() => target.region = Some(value),
            "endpoint" if value.starts_with("http://") || value.starts_with("https://") => {
                target.endpoint = Some(value);
            }
            "endpoint" => return Err(bad("endpoint is a URL: http://host:port or https://…")),
            "timeout" => {
                options.timeout = humantime::parse_duration(&value)
                    .ok()
                    .filter(|timeout| (MIN_TIMEOUT..=MAX_TIMEOUT).contains(timeout))
                    .ok_or(bad(
                        "timeout is a duration such as 2s or 500ms, from 50ms to 60s",
                    ))?;
            }
            "max_claims" => {
                options.bounds.claims = match whole_number(&value)? {
                    0 => return Err(bad("max_claims is 1 at least")),
                    claims => claims,
                };
            }
            "max_waiting" => options.bounds.waiting = whole_number(&value)?,
            _ => {
                return Err(bad(
                    "the options are region, endpoint, timeout, max_claims and max_waiting",
                ));
            }
        }
    }
    Ok((target, options))
}

/// A table's name as DynamoDB allows it.
pub(super) fn checked_table(name: &str) -> Result<String, ConnectError> {
    if name.contains(['@', ':', '/']) {
        return Err(bad(
            "it is dynamodb://table?option=value; the endpoint is an option, and credentials come from the environment",
        ));
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    match (3..=255).contains(&name.len()) && name.bytes().all(is_allowed) {
        true => Ok(name.to_owned()),
        false => Err(bad(
            "a table's name has 3 to 255 letters, digits, underscores, hyphens and dots",
        )),
    }
}

fn decoded(value: &str) -> Result<String, ConnectError> {
    percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| bad("an option's value is not UTF-8"))
}

fn whole_number<N: FromStr>(value: &str) -> Result<N, ConnectError> {
    let number = value.parse();
    number.map_err(|_| bad("max_claims and max_waiting are whole numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_the_table_is() {
        let (target, options) = parse(
            "dynamodb://idem-prod?region=eu-west-1&endpoint=http://127.0.0.1:8000&timeout=900ms&max_claims=7&max_waiting=0",
        )
        .unwrap();
        assert_eq!(target.table, "idem-prod");
        assert_eq!(target.region.as_deref(), Some("eu-west-1"));
        assert_eq!(target.endpoint.as_deref(), Some("http://127.0.0.1:8000"));
        assert_eq!(options.timeout, Duration::from_millis(900));
        assert_eq!((options.bounds.claims, options.bounds.waiting), (7, 0));
        let (target, options) = parse("dynamodb://idem?endpoint=http%3A%2F%2Flocalhost").unwrap();
        assert_eq!(target.endpoint.as_deref(), Some("http://localhost"));
        assert_eq!(options.timeout, DEFAULT_TIMEOUT);
    }

    #[test]
    fn what_it_cannot_say_is_an_error_that_does_not_repeat_it() {
        for wrong in [
            "dynamodb://",
            "dynamodb://ab",
            "dynamodb://key:secret@idem",
            "dynamodb://idem/secret",
            "dynamodb://idem?secret=1",
            "dynamodb://idem?region=",
            "dynamodb://idem?endpoint=secret",
            "dynamodb://idem?timeout=secret",
            "dynamodb://idem?timeout=1ms",
            "dynamodb://idem?max_claims=0",
            "dynamodb://idem?max_claims=secret",
            "dynamodb://idem#secret",
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(
                error.starts_with("the dynamodb:// store URL is malformed"),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
