//! The attempt whose body is running on this task.

use std::future::Future;

use crate::attempt::Attempt;
use crate::observe;
use crate::record::RecordId;

tokio::task_local! {
    pub(crate) static CURRENT: Attempt;

    /// The record whose attempt a layer has enclosing to what it calls.
    static ENCLOSING: Option<RecordId>;
}

/// An attempt that a layer lends to the handler within, which has the same operation name: it
/// runs as a part of it. A handler lends to nobody: if its body calls its own operation under its
/// own key, that is another call.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct EnclosingAttempt(Option<RecordId>);

impl EnclosingAttempt {
    /// To nobody.
    pub const NONE: Self = Self(None);

    pub(crate) const fn of(id: RecordId) -> Self {
        Self(Some(id))
    }

    pub(crate) fn includes(id: &RecordId) -> bool {
        ENCLOSING
            .try_with(|enclosing| enclosing.as_ref() == Some(id))
            .unwrap_or(false)
    }

    /// Runs what it is enclosing to.
    pub fn scope<F: Future>(self, within: F) -> impl Future<Output = F::Output> {
        ENCLOSING.scope(self.0, within)
    }
}

/// The attempt whose body is running on this task.
///
/// Work that the body moves to other tasks does not inherit it: clone it into them. Outside
/// of a body the answer is an attempt of its own that nothing else shares, and a warning in the
/// log; see [`Attempt::is_protected`].
pub fn attempt() -> Attempt {
    attempt_here().unwrap_or_else(|| {
        observe::outside_of_any_body();
        Attempt::unprotected(None)
    })
}

/// The attempt whose body is running on this task, if one is.
pub(crate) fn attempt_here() -> Option<Attempt> {
    CURRENT.try_with(Attempt::clone).ok()
}

/// Whether an attempt of this record is running on this task, or one that runs within it.
pub(crate) fn is_within(id: &RecordId) -> bool {
    CURRENT
        .try_with(|attempt| attempt.is_within(id))
        .unwrap_or(false)
}

/// Tells the attempt that runs here that a call which its body made was refused.
pub(crate) fn note_refusal() {
    let _ = CURRENT.try_with(Attempt::note_refusal_within);
}

/// Whether a call that the body here has made was refused.
pub(crate) fn was_refused_within() -> bool {
    CURRENT
        .try_with(Attempt::was_refused_within)
        .unwrap_or(false)
}

/// Whether a step of the body here was not run or not kept.
#[doc(hidden)]
pub fn has_failed_step() -> bool {
    CURRENT.try_with(Attempt::has_failed_step).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_a_body_nothing_is_shared() {
        let here = attempt();
        assert!(!here.is_protected());
        assert!(!here.lease_lost());
        assert_eq!(here.downstream_key("a"), here.downstream_key("a"));
        assert_ne!(here.downstream_key("a"), attempt().downstream_key("a"));
    }
}
