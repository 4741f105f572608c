//! How answers are shown in a failure.

use std::fmt;

use bytes::Bytes;

use crate::listing::{Forgotten, Seen};
use crate::record::{Change, Claimed, Inspection, Phase};

/// Shows an answer, and of a large outcome only its size and beginning.
pub(super) struct Brief<'a, T>(pub(super) &'a T);

impl fmt::Display for Brief<'_, Change> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Brief<'_, Forgotten> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Brief<'_, Option<Forgotten>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Brief<'_, Option<Seen>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Brief<'_, usize> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Brief<'_, Bytes> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.0.slice(..self.0.len().min(24));
        write!(f, "{} bytes {head:?}", self.0.len())?;
        f.write_str(if head.len() < self.0.len() { "…" } else { "" })
    }
}

impl fmt::Display for Brief<'_, Claimed> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Claimed::Finished { outcome, .. } => write!(f, "Finished with {}", Brief(outcome)),
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Brief<'_, Option<Inspection>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Inspection {
            fingerprint,
            attempt,
            phase,
            steps,
            ..
        }) = self.0
        else {
            return f.write_str("no record");
        };
        write!(f, "attempt {attempt} of ")?;
        for byte in &fingerprint.to_bytes()[..4] {
            write!(f, "{byte:02x}")?;
        }
        match phase {
            Phase::Finished { outcome } => write!(f, "…, finished with {}", Brief(outcome)),
            Phase::Running { lease_left } => write!(f, "…, running, lease left {lease_left:?}"),
            Phase::Suspended => f.write_str("…, suspended"),
        }?;
        match steps.len() {
            0 => Ok(()),
            length => write!(f, ", {length} bytes of steps"),
        }
    }
}
