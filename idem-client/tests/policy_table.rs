//! What an answer means: status × problem type × what earlier tries may have done → decision.

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use idem_client::{Policy, Problem, Refusal, UnknownReason, Verdict};
use proptest::prelude::*;

const ANSWERED: Verdict = Verdict::Answered;
/// This try was not executed.
const NOT_YET: Verdict = Verdict::Retry {
    may_have_executed: false,
};
const PERHAPS: Verdict = Verdict::Retry {
    may_have_executed: true,
};
const CRASHED: Verdict = Verdict::Unknown(UnknownReason::CrashedOnServer);
const LOST: Verdict = Verdict::Unknown(UnknownReason::AnswerLost);

fn later(status: u16) -> Verdict {
    Verdict::Unknown(UnknownReason::RefusedLater(code(status)))
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap()
}

/// A problem, as its body says it.
fn problem(kind: &str, retryable: Option<bool>) -> Option<Problem> {
    let retryable = retryable.map_or(String::new(), |it| format!(r#", "retryable": {it}"#));
    let body = format!(r#"{{"type": "urn:idem:problem:{kind}"{retryable}}}"#);
    let value = HeaderValue::from_static("application/problem+json");
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, value)]);
    Problem::read(&headers, body.as_bytes(), "urn:idem:problem:")
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let lines = lines.iter().map(|(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    lines.collect()
}

#[test]
fn statuses_without_a_problem_type() {
    // Status, on a first try, after one that may have been executed.
    let table = [
        (200, ANSWERED, ANSWERED),
        (201, ANSWERED, ANSWERED),
        (303, ANSWERED, ANSWERED),
        (400, ANSWERED, ANSWERED),
        (401, ANSWERED, later(401)),
        (402, ANSWERED, ANSWERED),
        (403, ANSWERED, ANSWERED),
        (404, ANSWERED, ANSWERED),
        (407, ANSWERED, later(407)),
        (408, NOT_YET, NOT_YET),
        (409, ANSWERED, PERHAPS),
        (410, ANSWERED, ANSWERED),
        (413, ANSWERED, ANSWERED),
        (422, ANSWERED, ANSWERED),
        (425, NOT_YET, NOT_YET),
        (429, NOT_YET, NOT_YET),
        (500, PERHAPS, PERHAPS),
        (501, ANSWERED, ANSWERED),
        (502, PERHAPS, PERHAPS),
        (503, PERHAPS, PERHAPS),
        (504, PERHAPS, PERHAPS),
        (505, ANSWERED, ANSWERED),
        (524, PERHAPS, PERHAPS),
    ];
    for (status, first, after) in table {
        let judge = |after| Policy::judge(code(status), &HeaderMap::new(), None, after);
        assert_eq!((judge(false), judge(true)), (first, after), "{status}");
    }
}

#[test]
fn problem_types_of_the_contract() {
    use Refusal as R;
    let refused = Verdict::Refused;
    // Type, status, on a first try, after an effect; what the server says of `retryable` is its own.
    let table = [
        ("key-missing", 400, refused(R::KeyMissing), later(400)),
        ("key-invalid", 400, refused(R::KeyInvalid), later(400)),
        ("scope-invalid", 400, refused(R::ScopeInvalid), later(400)),
        (
            "body-unreadable",
            400,
            refused(R::BodyUnreadable),
            later(400),
        ),
        ("body-too-large", 413, refused(R::BodyTooLarge), later(413)),
        ("mismatch", 422, refused(R::Mismatch), later(422)),
        ("in-flight", 409, PERHAPS, PERHAPS),
        ("outcome-unknown", 409, CRASHED, CRASHED),
        ("not-replayable", 409, LOST, LOST),
        ("undecodable", 500, LOST, LOST),
        ("crashed", 500, PERHAPS, PERHAPS),
        ("commit-refused", 500, refused(R::CommitRefused), later(500)),
        ("misconfigured", 500, refused(R::Misconfigured), later(500)),
        ("store-unavailable", 503, NOT_YET, NOT_YET),
        ("deadline-exceeded", 503, PERHAPS, PERHAPS),
        ("unsettled", 503, PERHAPS, PERHAPS),
    ];
    assert_eq!(table.map(|it| it.0), Refusal::ALL.map(Refusal::as_str));
    for (kind, status, first, after) in table {
        let judge = |retryable, after| {
            let problem = problem(kind, retryable);
            Policy::judge(code(status), &HeaderMap::new(), problem.as_ref(), after)
        };
        assert_eq!(
            (judge(None, false), judge(None, true)),
            (first, after),
            "{kind}"
        );
        let retried = matches!(first, Verdict::Retry { .. });
        let said = (judge(Some(retried), false), judge(Some(retried), true));
        assert_eq!(said, (first, after), "{kind}");
    }
    // A server that runs nothing again after a crash.
    for kind in ["crashed", "deadline-exceeded"] {
        let problem = problem(kind, Some(false));
        let judged = Policy::judge(code(503), &HeaderMap::new(), problem.as_ref(), false);
        assert_eq!(judged, CRASHED, "{kind}");
    }
}

#[test]
fn hints_decide_where_a_retry_may_help_and_nowhere_else() {
    for name in ["stripe-should-retry", "x-should-retry"] {
        for (status, yes, no) in [
            (200, ANSWERED, ANSWERED),
            (400, ANSWERED, ANSWERED),
            (409, PERHAPS, ANSWERED),
            (422, ANSWERED, ANSWERED),
            (429, NOT_YET, ANSWERED),
            (500, PERHAPS, ANSWERED),
            (501, PERHAPS, ANSWERED),
            (503, PERHAPS, ANSWERED),
        ] {
            let judge = |hint| Policy::judge(code(status), &headers(&[(name, hint)]), None, true);
            assert_eq!(
                (judge("true"), judge("False")),
                (yes, no),
                "{name} {status}"
            );
        }
    }
    // The member of a problem whose type is not known says the same.
    for (retryable, verdict) in [(true, PERHAPS), (false, ANSWERED)] {
        let problem = problem("of-another-kind", Some(retryable));
        let judged = Policy::judge(code(409), &HeaderMap::new(), problem.as_ref(), false);
        assert_eq!(judged, verdict);
    }
    let strange = headers(&[("stripe-should-retry", "perhaps")]);
    assert_eq!(Policy::judge(code(409), &strange, None, false), ANSWERED);
}

#[test]
fn a_409_that_names_a_time_is_in_flight() {
    let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("1"))]);
    assert_eq!(Policy::judge(code(409), &headers, None, false), PERHAPS);
}

#[test]
fn a_replay_is_final_whatever_it_says() {
    let replayed = headers(&[
        ("idempotent-replayed", "true"),
        ("stripe-should-retry", "true"),
    ]);
    for status in [200, 401, 409, 422, 429, 500, 503] {
        for after in [false, true] {
            let problem = problem("in-flight", Some(true));
            let judged = Policy::judge(code(status), &replayed, problem.as_ref(), after);
            assert_eq!(judged, ANSWERED, "{status}");
        }
    }
}

#[test]
fn post_and_patch_are_operations() {
    let methods = [
        Method::POST,
        Method::PATCH,
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let are: Vec<_> = methods.iter().map(Policy::is_operation).collect();
    assert_eq!(are, [true, true, false, false, false, false, false]);
}

proptest! {
    /// Never 422 or another 4xx, whatever is said beside it.
    #[test]
    fn no_other_4xx_is_retried(
        status in 400_u16..500,
        kind in prop::sample::select(&Refusal::ALL[..]),
        retryable: Option<bool>,
        hint in prop::option::of(prop::sample::select(&["true", "false", ""][..])),
        retry_after: bool,
        after: bool,
    ) {
        let mut said = HeaderMap::new();
        if let Some(hint) = hint {
            said.extend(headers(&[("stripe-should-retry", hint)]));
        }
        if retry_after {
            said.extend(headers(&[("retry-after", "1")]));
        }
        let problem = problem(kind.as_str(), retryable);
        for problem in [None, problem.as_ref()] {
            let judged = Policy::judge(code(status), &said, problem, after);
            let retried = matches!(judged, Verdict::Retry { .. });
            prop_assert!(!retried || [408, 409, 425, 429].contains(&status), "{judged:?}");
            // After an effect nothing is "refused": that would read as "not carried out".
            prop_assert!(!after || !matches!(judged, Verdict::Refused(_)), "{judged:?}");
        }
    }
}
