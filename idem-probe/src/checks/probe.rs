//! What all checks share: requests, and what answers say of executions.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderValue, LOCATION, RETRY_AFTER};
use tokio::time::{Instant, sleep};

use crate::Profile;
use crate::client::{Answer, Call, Client, NoAnswer};
use crate::options::Options;
use crate::report::Verdict;

/// What a check has found, or why it has not ended.
pub(super) type Found = Result<(Verdict, String), NoAnswer>;

pub(super) fn pass(detail: impl Into<String>) -> Found {
    Ok((Verdict::Pass, detail.into()))
}

pub(super) fn fail(detail: impl Into<String>) -> Found {
    Ok((Verdict::Fail, detail.into()))
}

pub(super) fn advice(detail: impl Into<String>) -> Found {
    Ok((Verdict::Advice, detail.into()))
}

pub(super) fn cannot_tell(detail: impl Into<String>) -> Found {
    Ok((Verdict::CannotTell, detail.into()))
}

/// What of an answer differs from one execution to another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Body,
    Location,
    /// With the reason.
    Nothing(&'static str),
}

pub(super) struct Probe<'a> {
    pub(super) client: &'a Client,
    pub(super) profile: Profile,
    body: Bytes,
    pub(super) mark: Mark,
}

impl<'a> Probe<'a> {
    pub(super) fn new(client: &'a Client, options: &Options) -> Self {
        Self {
            client,
            profile: options.profile,
            body: options.body.clone().into(),
            mark: Mark::Nothing("two executions were not compared"),
        }
    }

    /// The request, with a key that nobody has used.
    pub(super) fn fresh(&self) -> Call {
        self.with_keys(vec![self.profile.fresh_key()])
    }

    pub(super) fn with_keys(&self, keys: Vec<HeaderValue>) -> Call {
        Call {
            keys,
            body: self.body.clone(),
            as_other_tenant: false,
        }
    }

    /// Whether two answers are of one execution, as far as they say so; `beginning` may be cut off.
    pub(super) fn is_same(
        &self,
        beginning: &Answer,
        answer: &Answer,
    ) -> Result<bool, &'static str> {
        match self.mark {
            Mark::Body => Ok(answer.body.starts_with(&beginning.body)),
            Mark::Location => Ok(location(beginning) == location(answer)),
            Mark::Nothing(why) => Err(why),
        }
    }

    /// Sends again for as long as the first request runs.
    pub(super) async fn settled(&self, call: &Call) -> Result<Answer, NoAnswer> {
        let patience = self.client.patience();
        loop {
            let answer = self.client.send(call).await?;
            let wait = wait(&answer);
            if !self.profile.is_in_flight(answer.status) || patience <= Instant::now() + wait {
                return Ok(answer);
            }
            sleep(wait).await;
        }
    }
}

/// As long as the server asks for, within reason.
fn wait(answer: &Answer) -> Duration {
    let asked = answer.headers.get(RETRY_AFTER);
    let asked = asked.and_then(|asked| asked.to_str().ok()?.parse().ok());
    asked.map_or(Duration::from_millis(200), |seconds: u64| {
        Duration::from_secs(seconds.min(2)).max(Duration::from_millis(50))
    })
}

pub(super) fn location(answer: &Answer) -> Option<&HeaderValue> {
    answer.headers.get(LOCATION)
}

pub(super) const fn is_success(answer: &Answer) -> bool {
    matches!(answer.status, 200..=299)
}

/// Whether the server says that an answer is a replay.
pub(super) fn is_marked(answer: &Answer) -> bool {
    let marker = answer.headers.get("idempotent-replayed");
    marker.is_some_and(|value| value == "true")
}
