//! The answer that a record is resolved with: what every retry gets.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use idem::{Engine, Outcome};

use crate::failure::Failure;

/// The longest answer that is read: more than any store is made for.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Args)]
pub(crate) struct AnswerArguments {
    /// The response's status, for a handler: 200 to 599.
    #[arg(long, value_name = "STATUS", help_heading = ANSWER)]
    status: Option<u16>,
    /// A header of the response. Repeated: several. Content-Length is not given.
    #[arg(
        long = "header",
        value_name = "NAME: VALUE",
        requires = "status",
        help_heading = ANSWER
    )]
    headers: Vec<String>,
    /// The response's body: a file, or - for standard input. Without it the body is empty.
    #[arg(long, value_name = "FILE", requires = "status", help_heading = ANSWER)]
    body: Option<PathBuf>,
    /// The value that a function returns in Ok, as serde_json writes it: a file, or -.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["status", "failure"],
        help_heading = ANSWER
    )]
    value: Option<PathBuf>,
    /// The error that a function with errors = "store" returns in Err, as serde_json writes it.
    #[arg(long, value_name = "FILE", conflicts_with = "status", help_heading = ANSWER)]
    failure: Option<PathBuf>,
}

const ANSWER: &str =
    "The answer that every retry gets: of a handler --status, of a function --value or --failure";

/// It holds what an application answers.
impl std::fmt::Debug for AnswerArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerArguments").finish_non_exhaustive()
    }
}

impl AnswerArguments {
    /// Whether standard input is the answer's.
    pub(crate) fn reads_input(&self) -> bool {
        [&self.body, &self.value, &self.failure]
            .into_iter()
            .flatten()
            .any(|file| file.as_os_str() == "-")
    }

    pub(crate) fn outcome(&self, engine: &Engine) -> Result<Outcome, Failure> {
        if let Some(file) = &self.value {
            return json(file).map(Outcome::Value);
        }
        if let Some(file) = &self.failure {
            return json(file).map(Outcome::Failure);
        }
        let status = self.status.ok_or_else(|| {
            Failure::usage("resolved with which answer? Give --status for a handler, --value or --failure for a function; `idem release` frees the key instead")
        })?;
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|status| !status.is_informational() && status.as_u16() < 600)
            .ok_or_else(|| Failure::usage("--status is 200 to 599"))?;
        let body = match &self.body {
            Some(file) => read(file)?,
            None => Bytes::new(),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        for line in &self.headers {
            let (name, value) = header(line)
                .ok_or_else(|| Failure::usage("--header is written as 'Name: value'"))?;
            let appended = response.headers_mut().try_append(name, value);
            appended.map_err(|_| Failure::usage("--header: there are too many"))?;
        }
        Ok(idem::http::outcome_of(&response, engine.http()))
    }
}

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

fn json(file: &PathBuf) -> Result<Bytes, Failure> {
    let bytes = read(file)?;
    // As the store keeps it: the bytes that serde_json reads.
    match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => Err(Failure::usage("the function's value is not JSON")),
    }
}

fn read(file: &PathBuf) -> Result<Bytes, Failure> {
    let failed =
        |error: io::Error| Failure::usage(format!("{} cannot be read: {error}", file.display()));
    let mut bytes = Vec::new();
    match file.as_os_str() == "-" {
        true => io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes),
        false => File::open(file).and_then(|open| open.take(MAX_BYTES + 1).read_to_end(&mut bytes)),
    }
    .map_err(failed)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(Failure::usage(format!(
            "{} is longer than {MAX_BYTES} bytes",
            file.display()
        ))),
        false => Ok(bytes.into()),
    }
}
