//! The HTTP contract, for every framework: key syntax, problem answers, what of a request is
//! fingerprinted, and which responses are stored and how.
//!
//! Sources: the IETF draft "The Idempotency-Key HTTP Header Field" (-07), RFC 9651 (structured
//! fields), RFC 9457 (problem details), RFC 9110 (HTTP semantics).
//!
//! Adapters translate between these functions and their framework's types; they decide nothing.

mod attached;
mod body;
mod body_error;
mod draining;
mod flowing;
mod held;
mod key;
mod live;
mod media_type;
mod misplaced;
mod multipart;
mod problem;
mod renderer;
mod rendering;
mod request;
mod response;
mod settings;
mod stored;

#[doc(hidden)]
pub use attached::Attached;
pub use body::CapturedBody;
pub use body_error::{CapturedBodyError, ResponseCutOff};
pub use draining::drain;
pub use flowing::Recording;
pub use key::{KeySyntax, key_as_sent, parse_key};
#[doc(hidden)]
pub use misplaced::{notice_request, notice_response};
pub use problem::{Problem, ProblemKind};
pub use request::{BodyError, RequestIdentity, collect_body};
#[doc(hidden)]
pub use response::Incomplete;
pub use response::{Captured, DEFAULT_RELEASE, FlowingResponse, capture};
pub use settings::HttpSettings;
#[doc(hidden)]
pub use stored::replay_under;
pub use stored::{IDEMPOTENT_REPLAYED, outcome_of, replay};
