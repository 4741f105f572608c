//! Certificates and keys that a URL names by their files.

use percent_encoding::percent_decode_str;

/// The drivers' options for them.
const OPTIONS: [&str; 8] = [
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-root-cert",
    "sslca",
    "sslcert",
    "sslkey",
    "sslrootcert",
];

/// Whether all of these options, `name=value` as a URL has them, that name a file name one that can be read. A driver
/// finds out when it connects, and its error looks like that of a server that is away.
pub(crate) fn are_readable(options: &[&str]) -> bool {
    let named = options.iter().filter_map(|option| option.split_once('='));
    named
        .filter(|(name, _)| OPTIONS.contains(name))
        .all(|(_, value)| is_readable(value))
}

fn is_readable(value: &str) -> bool {
    let value = value.replace('+', " ");
    let value = percent_decode_str(&value).decode_utf8_lossy();
    // The text of a certificate may stand in the place of its file.
    value.trim_start().starts_with("-----BEGIN") || std::fs::read(&*value).is_ok()
}
