//! What a URL says.

use std::str::FromStr;
use std::time::Duration;

use redis::IntoConnectionInfo;

use super::durability::Durability;
use super::lanes::Bounds;
use super::target::{Kind, MAX_TIMEOUT, MIN_TIMEOUT, Target};
use crate::ConnectError;

const SENTINEL_PORT: u16 = 26379;

/// What a URL says beside the target.
#[derive(Default)]
pub(super) struct Options {
    pub(super) prefix: Option<String>,
    pub(super) bounds: Bounds,
    pub(super) durability: Durability,
}

fn bad(expected: &'static str) -> ConnectError {
    ConnectError::BadOption {
        scheme: "redis",
        expected,
    }
}

/// Reads `scheme://[user[:password]@]host[:port][,host[:port]…][/database][?option=value&…]`.
pub(super) fn parse(url: &str) -> Result<(Target, Options), ConnectError> {
    let (scheme, rest) = url.split_once("://").ok_or(ConnectError::NotAUrl)?;
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = location.split_once('/').unwrap_or((location, ""));
    let (login, hosts) = authority
        .rsplit_once('@')
        .map_or(("", authority), |(login, hosts)| (login, hosts));

    let mut options = Options::default();
    let mut command_timeout = Duration::from_secs(2);
    let mut master = None;
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = decoded(value)?;
        match name {
            "prefix" => options.prefix = Some(value),
            "timeout" => {
                command_timeout = humantime::parse_duration(&value)
                    .ok()
                    .filter(|timeout| *timeout >= MIN_TIMEOUT)
                    .ok_or(bad(
                        "timeout is a duration such as 2s or 500ms, 10ms at least",
                    ))?;
            }
            "max_claims" => {
                options.bounds.claims = match whole_number(&value)? {
                    0 => return Err(bad("max_claims is 1 at least")),
                    claims => claims,
                };
            }
            "max_waiting" => options.bounds.waiting = whole_number(&value)?,
            "wait_replicas" => options.durability.replicas = whole_number(&value)?,
            "wait_aof" => options.durability.aof_replicas = Some(whole_number(&value)?),
            "master" => master = Some(value),
            _ => {
                return Err(bad(
                    "the options are prefix, timeout, max_claims, max_waiting, wait_replicas, wait_aof and, with sentinels, master",
                ));
            }
        }
    }

    if url.contains('#') {
        return Err(bad("a # is percent-encoded, as %23"));
    }
    let tls = scheme.starts_with("rediss");
    let (kind, default_port) = match scheme {
        "redis" | "rediss" => (Kind::Single, None),
        "redis-cluster" | "rediss-cluster" => (Kind::Cluster, None),
        "redis-sentinel" | "rediss-sentinel" => {
            let master = master.take().ok_or(bad(
                "the sentinels' name of the primary is given with ?master=NAME",
            ))?;
            (Kind::Sentinel { master }, Some(SENTINEL_PORT))
        }
        _ => return Err(ConnectError::UnknownScheme),
    };
    if master.is_some() {
        return Err(bad("the option master is for redis-sentinel:// only"));
    }
    if !login.is_empty() && !login.contains(':') {
        return Err(bad(
            "a login is user:password@, or :password@ for the default user",
        ));
    }
    if hosts.is_empty() {
        return Err(bad("there is no host"));
    }
    if matches!(kind, Kind::Single) && hosts.contains(',') {
        return Err(bad(
            "redis:// has one host; several are redis-cluster:// or redis-sentinel://",
        ));
    }
    if matches!(kind, Kind::Cluster) && !database.is_empty() {
        return Err(bad("a cluster has no database numbers"));
    }
    let nodes = hosts
        .split(',')
        .map(|host| {
            let scheme = if tls { "rediss" } else { "redis" };
            let port = match default_port {
                Some(port) if !has_port(host) => format!(":{port}"),
                _ => String::new(),
            };
            format!("{scheme}://{login}@{host}{port}/{database}")
                .into_connection_info()
                .map_err(|_| {
                    bad("it is redis://[user:password@]host[:port][/database][?option=value]")
                })
        })
        .collect::<Result<_, _>>()?;
    let target = Target::new(kind, nodes, tls, command_timeout.min(MAX_TIMEOUT));
    Ok((target, options))
}

fn has_port(host: &str) -> bool {
    // The colons of an address in brackets are not the port's.
    host.rsplit(']').next().is_some_and(|end| end.contains(':'))
}

fn decoded(value: &str) -> Result<String, ConnectError> {
    percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| bad("an option's value is not UTF-8"))
}

fn whole_number<N: FromStr>(value: &str) -> Result<N, ConnectError> {
    let number = value.parse();
    number.map_err(|_| bad("max_claims, max_waiting, wait_replicas and wait_aof are whole numbers"))
}
