//! The arguments with which a record is named.

use clap::Args;
use idem::RecordId;

use crate::failure::Failure;
use crate::naming::{Composite, Name};

/// Which record: by its id, or as the application names it.
#[derive(Args)]
pub(crate) struct RecordArguments {
    /// The record's id, as log lines and `idem list` have it: all of its 64 hexadecimal digits.
    #[arg(value_name = "RECORD", required_unless_present = "operation")]
    record: Option<String>,
    /// The operation's name: `name = "…"` of the attribute, or else its module path and function.
    #[arg(long, value_name = "NAME", conflicts_with = "record", help_heading = NAMED)]
    operation: Option<String>,
    /// The engine's namespace, if it has one.
    #[arg(
        long,
        value_name = "NAME",
        env = "IDEM_NAMESPACE",
        default_value = "",
        hide_default_value = true,
        help_heading = NAMED
    )]
    namespace: String,
    /// The scope. Repeated: the elements of a tuple, in their order. Without it: no scope.
    #[arg(
        long = "scope",
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with_all = ["record", "scope_json"],
        help_heading = NAMED
    )]
    scopes: Vec<String>,
    /// The scope as JSON, as `--key-json`.
    #[arg(long, value_name = "JSON", conflicts_with = "record", help_heading = NAMED)]
    scope_json: Option<String>,
    /// The key: a text, a number in decimal, or a UUID with hyphens in lower case. Repeated: the elements
    /// of a tuple, in their order.
    #[arg(
        long = "key",
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with_all = ["record", "key_json", "key_header"],
        help_heading = NAMED
    )]
    keys: Vec<String>,
    /// The key as JSON: a text, a whole number, {"hex": "00ff"} for bytes, or an array of these for a
    /// tuple. An array within is a value of a type of your own with several parts.
    #[arg(
        long,
        value_name = "JSON",
        conflicts_with_all = ["record", "key_header"],
        help_heading = NAMED
    )]
    key_json: Option<String>,
    /// The key header's value as a client has sent it, quoted or bare.
    #[arg(long, value_name = "VALUE", conflicts_with = "record", help_heading = NAMED)]
    key_header: Option<String>,
}

const NAMED: &str = "A record as the application names it";

/// It holds a key.
impl std::fmt::Debug for RecordArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordArguments").finish_non_exhaustive()
    }
}

impl RecordArguments {
    pub(crate) fn record_id(&self) -> Result<RecordId, Failure> {
        if let Some(id) = &self.record {
            return id.parse().map_err(|_| {
                Failure::usage(
                    "a record's id is 64 hexadecimal digits, as log lines have it; or name the record with --operation, --scope and --key",
                )
            });
        }
        let name = Name {
            namespace: self.namespace.clone(),
            operation: self.operation.clone().unwrap_or_default(),
            scope: self.scope()?,
            key: self.key()?,
        };
        let id = name.record_id();
        id.map_err(|error| Failure::usage(format!("the key or the scope: {error}")))
    }

    fn scope(&self) -> Result<Option<Composite>, Failure> {
        match &self.scope_json {
            Some(json) => parsed("--scope-json", json).map(Some),
            None if self.scopes.is_empty() => Ok(None),
            None => Ok(Some(Composite::of_texts(self.scopes.iter().cloned()))),
        }
    }

    fn key(&self) -> Result<Composite, Failure> {
        if let Some(json) = &self.key_json {
            return parsed("--key-json", json);
        }
        if let Some(value) = &self.key_header {
            let key = idem::http::key_as_sent(value);
            let key = key.map_err(|error| Failure::usage(format!("--key-header: {error}")))?;
            return Ok(Composite::of_texts([key]));
        }
        match self.keys.is_empty() {
            true => Err(Failure::usage(
                "which record of the operation? Give its key with --key, --key-json or --key-header",
            )),
            false => Ok(Composite::of_texts(self.keys.iter().cloned())),
        }
    }

    /// What to look at when there is no such record.
    pub(crate) fn no_record(&self) -> Failure {
        let mut message =
            "there is no such record: it was never claimed, was freed, or is forgotten".to_owned();
        if self.record.is_none() {
            message.push_str("; or its operation's name, namespace, scope or key is another");
            if self.keys.iter().any(|key| key.starts_with('"')) {
                message.push_str(" (a header's value in quotes is given with --key-header)");
            }
            let upper_case = |key: &String| {
                key.len() == 36
                    && key.contains('-')
                    && key.bytes().any(|byte| byte.is_ascii_uppercase())
            };
            if self.keys.iter().chain(&self.scopes).any(upper_case) {
                message.push_str(" (a UUID is written in lower case)");
            }
        }
        Failure::NoRecord(message)
    }
}

fn parsed(option: &str, json: &str) -> Result<Composite, Failure> {
    Composite::of_json(json).map_err(|error| Failure::usage(format!("{option}: {error}")))
}

/// A duration on the command line: `90s`, `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "a duration is written as 90s, 10m, 24h or 1h 30m".to_owned())
}
