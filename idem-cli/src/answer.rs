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
    /// The message that a gRPC method answers with, as protobuf encodes it: a file, or -. Metadata is not
    /// given.
    #[cfg(feature = "grpc")]
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["status", "value", "failure", "grpc_status"],
        help_heading = ANSWER
    )]
    grpc_message: Option<PathBuf>,
    /// The code of the status that a gRPC method ends with: 1 to 16.
    #[cfg(feature = "grpc")]
    #[arg(
        long,
        value_name = "CODE",
        value_parser = clap::value_parser!(i32).range(1..=16),
        conflicts_with_all = ["status", "value", "failure"],
        help_heading = ANSWER
    )]
    grpc_status: Option<i32>,
    /// What that status says. Without it, nothing.
    #[cfg(feature = "grpc")]
    #[arg(long, value_name = "TEXT", requires = "grpc_status", help_heading = ANSWER)]
    grpc_text: Option<String>,
}

const ANSWER: &str = "The answer that every retry gets: of a handler --status, of a function --value or --failure, of a gRPC method --grpc-message or --grpc-status";

/// It holds what an application answers.
impl std::fmt::Debug for AnswerArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerArguments").finish_non_exhaustive()
    }
}

impl AnswerArguments {
    /// Whether standard input is the answer's.
    pub(crate) fn reads_input(&self) -> bool {
        let files = [&self.body, &self.value, &self.failure];
        #[cfg(feature = "grpc")]
        let files = files.into_iter().chain([&self.grpc_message]);
        files
            .into_iter()
            .flatten()
            .any(|file| file.as_os_str() == "-")
    }

    /// Of a gRPC method, if it is one.
    #[cfg(feature = "grpc")]
    fn grpc_outcome(&self) -> Option<Result<Outcome, Failure>> {
        let answer = match (&self.grpc_message, self.grpc_status) {
            (Some(file), _) => read(file).map(|message| Ok(tonic::Response::new(message))),
            (None, Some(code)) => {
                let text = self.grpc_text.clone().unwrap_or_default();
                Ok(Err(tonic::Status::new(code.into(), text)))
            }
            (None, None) => return None,
        };
        Some(answer.map(|answer| idem::tonic::outcome_of_encoded(&answer)))
    }

    pub(crate) fn outcome(&self, engine: &Engine) -> Result<Outcome, Failure> {
        if let Some(file) = &self.value {
            return json(file).map(Outcome::Value);
        }
        if let Some(file) = &self.failure {
            return json(file).map(Outcome::Failure);
        }
        #[cfg(feature = "grpc")]
        if let Some(outcome) = self.grpc_outcome() {
            return outcome;
        }
        let status = self.status.ok_or_else(|| {
            Failure::usage("resolved with which answer? Give --status for a handler, --value or --failure for a function, --grpc-message or --grpc-status for a gRPC method; `idem release` frees the key instead")
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
