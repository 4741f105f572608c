//! Refusals as statuses of gRPC, with the details that Google's error model has for them.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use idem_core::http::{Problem, ProblemKind};
use prost::Message;
use tonic::{Code, Status};

/// Why a body did not run, as a status: see the table in the [module](super).
pub fn status(error: &idem_core::Error) -> Status {
    of(&Problem::from(error))
}

/// The same, where a key that is wrong comes from this metadata.
pub(super) fn status_of_key(error: &idem_core::Error, metadata: Option<&HeaderName>) -> Status {
    match metadata {
        Some(name) => of(&Problem::from(error).of_a_key_in(&format!("the metadata `{name}`"))),
        None => status(error),
    }
}

pub(super) fn crashed() -> Status {
    of(&Problem::crashed())
}

fn of(problem: &Problem) -> Status {
    let code = match problem.kind {
        ProblemKind::KeyMissing | ProblemKind::KeyInvalid | ProblemKind::ScopeInvalid => {
            Code::InvalidArgument
        }
        // Both need someone to change something before a retry can help.
        ProblemKind::Mismatch | ProblemKind::OutcomeUnknown => Code::FailedPrecondition,
        ProblemKind::InFlight | ProblemKind::StoreUnavailable | ProblemKind::Unsettled => {
            Code::Unavailable
        }
        ProblemKind::DeadlineExceeded => Code::DeadlineExceeded,
        ProblemKind::NotReplayable | ProblemKind::Undecodable => Code::DataLoss,
        _ => Code::Internal,
    };
    let info = ErrorInfo {
        reason: problem.kind.as_str().replace('-', "_").to_uppercase(),
        domain: "idem".to_owned(),
    };
    let retry = problem.retry_after.map(|after| RetryInfo {
        retry_delay: Some(after.into()),
    });
    let details = Details {
        code: code.into(),
        message: problem.detail.clone(),
        details: [Any::of("ErrorInfo", &info)]
            .into_iter()
            .chain(retry.map(|retry| Any::of("RetryInfo", &retry)))
            .collect(),
    };
    let details = details.encode_to_vec().into();
    let mut status = Status::with_details(code, problem.detail.clone(), details);
    status.set_source(Arc::new(Refused(problem.kind)));
    status
}

/// The source of a refusal's status, by which a method that passes it on is known not to have
/// answered itself. It does not leave the process.
#[derive(Debug)]
struct Refused(ProblemKind);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an idempotent call was refused: {}", self.0.as_str())
    }
}

impl Error for Refused {}

/// Whether a status is a refusal of this library.
pub(super) fn is_refusal(status: &Status) -> bool {
    status.source().is_some_and(|source| source.is::<Refused>())
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Any {
    fn of(name: &str, message: &impl Message) -> Self {
        Self {
            type_url: format!("type.googleapis.com/google.rpc.{name}"),
            value: message.encode_to_vec(),
        }
    }
}

/// `google.rpc.ErrorInfo`, without its metadata.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl From<Duration> for Delay {
    fn from(duration: Duration) -> Self {
        Self {
            seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            // Below a thousand million.
            nanos: duration.subsec_nanos() as i32,
        }
    }
}
