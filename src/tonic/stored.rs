//! Answers of gRPC as they are stored: a message or a status, and metadata.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use idem_core::{Error, NotReplayable, Outcome, Undecodable, Verdict};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Response, Status};

use super::refusal::is_refusal;

const REPLAYED: &str = "idempotent-replayed";

/// A stored answer. Its own encoding is protobuf's: a version that adds a field reads this one.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(int32, tag = "1")]
    code: i32,
    /// Of a status.
    #[prost(string, tag = "2")]
    message: String,
    /// Of a status.
    #[prost(bytes = "bytes", tag = "3")]
    details: Bytes,
    /// As it goes over the wire: binary values in base64.
    #[prost(message, repeated, tag = "4")]
    metadata: Vec<Line>,
    /// The response's message.
    #[prost(bytes = "bytes", tag = "5")]
    body: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// What an answer leaves behind. A code in `release` frees the key.
pub(super) fn verdict<N: Message>(
    answer: &Result<Response<N>, Status>,
    release: &[u16],
) -> Verdict {
    if let Err(status) = answer
        && status.code() != Code::Ok
    {
        if is_refusal(status) || idem_core::has_failed_step() {
            // A call or a step within was refused, after whatever this one had done before.
            return Verdict::of_one_stopped_within();
        }
        let code = i32::from(status.code());
        if release.iter().any(|released| i32::from(*released) == code) {
            return Verdict::Released;
        }
    }
    Verdict::Final(outcome_of(answer))
}

/// The outcome that stands for this answer of a method: what retries get, with its metadata, when a record
/// is [resolved](crate::Operation::resolve) with it. The message must be of the method's own type: another
/// one is an error on every retry, or is taken for it.
///
/// A `Status` that is an error and says `Ok` has nothing to give back: its outcome is not replayable.
pub fn outcome_of<N: Message>(answer: &Result<Response<N>, Status>) -> Outcome {
    stored_outcome(answer, |message| message.encode_to_vec().into())
}

/// [`outcome_of`] for a message that is encoded already, as a program has it that does not know its type.
pub fn outcome_of_encoded(answer: &Result<Response<Bytes>, Status>) -> Outcome {
    stored_outcome(answer, Bytes::clone)
}

fn stored_outcome<N>(
    answer: &Result<Response<N>, Status>,
    encoded: impl FnOnce(&N) -> Bytes,
) -> Outcome {
    let stored = match answer {
        Ok(response) => Stored {
            code: Code::Ok.into(),
            metadata: lines(response.metadata()),
            body: encoded(response.get_ref()),
            ..Stored::default()
        },
        // An error that says that it is none has no message to give back.
        Err(status) if status.code() == Code::Ok => {
            return Outcome::NotReplayable(NotReplayable::NotCaptured);
        }
        Err(status) => Stored {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Bytes::copy_from_slice(status.details()),
            metadata: lines(status.metadata()),
            ..Stored::default()
        },
    };
    Outcome::Rpc(stored.encode_to_vec().into())
}

fn lines(metadata: &MetadataMap) -> Vec<Line> {
    let headers = metadata.clone().into_headers();
    headers
        .iter()
        .filter(|(name, _)| *name != REPLAYED)
        .map(|(name, value)| Line {
            name: name.as_str().to_owned(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        })
        .collect()
}

/// The answer from a stored outcome, marked as a replay.
pub(super) fn replay<N: Message + Default>(
    outcome: &Outcome,
) -> Result<Result<Response<N>, Status>, Error> {
    let content = match outcome {
        Outcome::Rpc(content) => content,
        Outcome::NotReplayable(reason) => return Err(Error::NotReplayable(*reason)),
        _ => return Err(Undecodable.into()),
    };
    let stored = Stored::decode(content.clone()).map_err(|_| Undecodable)?;
    let mut headers = HeaderMap::new();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    for Line { name, value } in &stored.metadata {
        let name = HeaderName::try_from(name).map_err(|_| Undecodable)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Undecodable)?;
        headers.try_append(name, value).map_err(|_| Undecodable)?;
    }
    let metadata = MetadataMap::from_headers(headers);
    Ok(match Code::from_i32(stored.code) {
        Code::Ok => {
            let message = N::decode(stored.body).map_err(|_| Undecodable)?;
            Ok(Response::from_parts(
                metadata,
                message,
                Extensions::default(),
            ))
        }
        code => Err(Status::with_details_and_metadata(
            code,
            stored.message,
            stored.details,
            metadata,
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_never_comes_back_as_a_message() {
        for code in (0..=16).map(Code::from_i32) {
            let answer: Result<Response<Line>, _> = Err(Status::new(code, "why"));
            let Verdict::Final(outcome) = verdict(&answer, &[]) else {
                panic!("{code:?} is final");
            };
            match replay::<Line>(&outcome) {
                Ok(replay) => assert_eq!(replay.unwrap_err().code(), code),
                Err(_) => assert_eq!(code, Code::Ok),
            }
        }
    }

    #[test]
    fn many_lines_of_one_key_are_given_back() {
        let mut response = Response::new(Line::default());
        for number in 0..25_000_u32 {
            let value = number.to_string().parse().unwrap();
            response.metadata_mut().append("x-line", value);
        }
        let Verdict::Final(outcome) = verdict(&Ok(response), &[]) else {
            panic!("it is final");
        };
        let replay = replay::<Line>(&outcome).unwrap().unwrap();
        assert_eq!(replay.metadata().get_all("x-line").iter().count(), 25_000);
    }
}
