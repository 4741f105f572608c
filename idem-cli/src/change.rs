//! What every change of a record passes through: look, ask, write it down, change, write down how it ended.

use std::time::{Duration, SystemTime};

use clap::Args;
use idem::store::{Change, Forgotten, RecordState, Seen};
use idem::{Inspection, Outcome, RecordId, Resolution, Verdict};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::arguments::RecordArguments;
use crate::audit::{AuditArguments, Record, What};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::output::{Output, short};
use crate::report::{Answer, Report, age, lease_left, state_of};
use crate::target::Target;

#[derive(Args, Debug)]
pub(crate) struct ChangeArguments {
    #[command(flatten)]
    pub(crate) record: RecordArguments,
    /// Also takes the lease from an attempt that holds it. Its body may go on: a retry can then run
    /// beside it.
    #[arg(long)]
    force: bool,
    /// Does not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    audit: AuditArguments,
}

/// What is to become of a record.
pub(crate) enum Order {
    /// As it ended: the answer, and how long it is kept; unless given, as long as a record of its
    /// operation can be.
    Settle(Verdict, Option<Duration>),
    Forget,
}

impl Order {
    const fn command(&self) -> &'static str {
        match self {
            Self::Settle(Verdict::Final(_), _) => "resolve",
            Self::Settle(..) => "release",
            Self::Forget => "forget",
        }
    }

    const fn done(&self) -> &'static str {
        match self {
            Self::Settle(Verdict::Final(_), _) => "resolved",
            Self::Settle(..) => "released",
            Self::Forget => "forgotten",
        }
    }

    /// What happens, for who is asked.
    fn question(&self, found: &Inspection, forced: bool) -> String {
        let mut question = String::new();
        if forced {
            question
                .push_str("An attempt runs and its lease is taken away; what it does goes on. ");
        }
        let steps = found.finished_steps().len();
        if steps > 0 && !matches!(self, Self::Settle(Verdict::Final(_), _)) {
            question.push_str(&format!("Its {steps} finished steps are forgotten. "));
        }
        question.push_str(&match self {
            Self::Settle(Verdict::Final(outcome), _) => {
                let answer = Answer::of(outcome, false).in_words();
                format!("Every retry gets this answer: {answer}. Resolve it?")
            }
            Self::Settle(..) => "The next retry runs as a first call. Release it?".to_owned(),
            Self::Forget if state_of(found) == RecordState::Finished => {
                "Its outcome is lost, and the next retry runs as a first call. Forget it?"
                    .to_owned()
            }
            Self::Forget => "The next retry runs as a first call. Forget it?".to_owned(),
        });
        question
    }
}

/// What scripts are told.
#[derive(Serialize)]
struct Changed {
    record: String,
    result: &'static str,
}

impl ChangeArguments {
    pub(crate) async fn carry_out(
        &self,
        target: &Target,
        order: Order,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let id = self.record.record_id()?;
        let found = target.engine.operation("").inspect_record(&id).await?;
        let found = found.ok_or_else(|| self.record.no_record())?;
        let forced = self.refuse_or_force(&found, &order)?;
        let order = with_retention(order, target, &found).await?;
        if !self.yes {
            let now = target.time().await?;
            // Beside the question; the output is for what was done.
            let mut shown = Output::to_stderr();
            Report::of(&id, &found, now, false).write(&mut shown)?;
            shown.flush()?;
            confirm(&order.question(&found, forced))?;
        }
        let audited = self
            .audit
            .begin(&what(target, &id, &found, &order, forced))?;
        let done = order.done();
        // From here on Ctrl-C waits for the end, which the store's timeouts bound.
        let ended = uninterrupted(change(target, &id, &found, order, forced)).await;
        let result = match &ended {
            Ok(()) => "done",
            Err(Failure::Refused(_)) => "refused",
            Err(Failure::Store { .. }) => "failed",
            Err(_) => "unknown",
        };
        let detail = ended.as_ref().err().and_then(Failure::message);
        audited.end(result, detail.as_deref())?;
        ended?;
        match output.is_json() {
            true => output.object(&Changed {
                record: id.to_string(),
                result: done,
            }),
            false => output.line(&format!("{id} {done}")),
        }
    }

    /// For who cannot be asked, because standard input is something else.
    pub(crate) fn refuse_to_ask(&self) -> Result<(), Failure> {
        match self.yes {
            true => Ok(()),
            false => Err(Failure::refused(
                "nothing was changed: standard input is the answer's, so that nobody can be asked; give --yes to confirm",
            )),
        }
    }

    /// Whether a lease is to be taken away.
    fn refuse_or_force(&self, found: &Inspection, order: &Order) -> Result<bool, Failure> {
        match (state_of(found), lease_left(found)) {
            (RecordState::Finished, _) if !matches!(order, Order::Forget) => Err(finished()),
            (_, Some(left)) if !self.force => Err(still_running(left)),
            (_, left) => Ok(left.is_some()),
        }
    }
}

fn finished() -> Failure {
    Failure::refused(
        "nothing was changed: the record is finished, and every retry gets its outcome",
    )
}

fn still_running(left: Duration) -> Failure {
    Failure::refused(format!(
        "nothing was changed: an attempt runs, and {} of its lease are left; an owner that lives renews it. --force takes it away",
        short(left)
    ))
}

fn changed_meanwhile() -> Failure {
    Failure::refused(
        "the record was claimed, freed or resolved by somebody else meanwhile: look with `idem get`",
    )
}

/// An answer is kept as long as that of the attempt would be: what is left of the record, and what has
/// passed since it was claimed, are the retention at least.
async fn with_retention(
    order: Order,
    target: &Target,
    found: &Inspection,
) -> Result<Order, Failure> {
    let Order::Settle(verdict, None) = order else {
        return Ok(order);
    };
    if !matches!(verdict, Verdict::Final(_)) {
        return Ok(Order::Settle(verdict, None));
    }
    let now: SystemTime = target.time().await?;
    match (found.kept_for, age(found.claimed_at, now)) {
        (Some(left), Some(age)) => Ok(Order::Settle(verdict, Some(left.saturating_add(age)))),
        _ => Err(Failure::usage(
            "for how long is the answer kept? The record does not say: give the operation's ttl with --ttl",
        )),
    }
}

fn what(target: &Target, id: &RecordId, found: &Inspection, order: &Order, forced: bool) -> What {
    let (answer, answer_sha256) = match order {
        Order::Settle(Verdict::Final(outcome), _) => Some(answer_of(outcome)),
        _ => None,
    }
    .unzip();
    What {
        command: order.command(),
        store: target.name(),
        address: target.address.clone(),
        record: Some(Record {
            record: id.to_string(),
            operation: found.operation.as_str().to_owned(),
            state: state_of(found).as_str(),
            attempt: found.attempt,
            forced,
            answer,
            answer_sha256,
        }),
    }
}

/// What the audit log has of an answer: in words, and its SHA-256.
pub(crate) fn answer_of(outcome: &Outcome) -> (String, String) {
    let hash = Sha256::digest(outcome.encode());
    let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    (Answer::of(outcome, false).in_words(), hash)
}

/// Does it, if the record is as it was found.
async fn change(
    target: &Target,
    id: &RecordId,
    found: &Inspection,
    order: Order,
    forced: bool,
) -> Result<(), Failure> {
    if forced {
        match target.maintenance()?.revoke(id, found.attempt).await? {
            Change::Applied => {}
            // It has ended by itself, perhaps with an outcome.
            _ => return Err(changed_meanwhile()),
        }
    }
    match settle(target, id, found, order).await {
        Err(Failure::Refused(message)) if forced => Err(Failure::Unknown(format!(
            "the lease was taken away, and then: {message}"
        ))),
        Err(Failure::Store {
            message,
            may_have_effect,
        }) => {
            let stands = !may_have_effect && !forced && is_as_found(target, id, found).await;
            Err(match stands {
                true => Failure::Store {
                    message: format!("nothing was changed: {message}"),
                    may_have_effect,
                },
                false => Failure::Unknown(format!(
                    "{message}; it may have been done: look with `idem get`"
                )),
            })
        }
        settled => settled,
    }
}

/// A change of several calls may end between two of them.
async fn is_as_found(target: &Target, id: &RecordId, found: &Inspection) -> bool {
    let now = target.engine.operation("").inspect_record(id).await;
    matches!(now, Ok(Some(now)) if now.attempt == found.attempt && state_of(&now) == state_of(found))
}

async fn settle(
    target: &Target,
    id: &RecordId,
    found: &Inspection,
    order: Order,
) -> Result<(), Failure> {
    match order {
        Order::Settle(verdict, ttl) => {
            let mut operation = target.engine.operation(found.operation.as_str().to_owned());
            if let Some(ttl) = ttl {
                operation = operation.ttl(ttl);
            }
            match operation
                .resolve_attempt(id, found.attempt, verdict)
                .await?
            {
                Resolution::Resolved => Ok(()),
                Resolution::StillRunning { lease_left } => Err(still_running(lease_left)),
                Resolution::Finished => Err(finished()),
                _ => Err(changed_meanwhile()),
            }
        }
        Order::Forget => match target.engine.forget_seen(id, seen(found)).await? {
            Forgotten::Removed => Ok(()),
            Forgotten::Running { lease_left } => Err(still_running(lease_left)),
            _ => Err(changed_meanwhile()),
        },
    }
}

/// What is to be forgotten. A lease that was taken away has left a crashed attempt.
fn seen(found: &Inspection) -> Seen {
    match Seen::of(found) {
        Seen {
            attempt,
            state: RecordState::Running,
            ..
        } => Seen::new(attempt, RecordState::Crashed),
        seen => seen,
    }
}

/// Ctrl-C would leave a lease behind.
async fn uninterrupted<T>(work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            ended = &mut work => return ended,
            pressed = tokio::signal::ctrl_c() => {
                if pressed.is_err() {
                    return work.await;
                }
                eprintln!("idem: the change is under way; it ends within seconds");
            }
        }
    }
}
