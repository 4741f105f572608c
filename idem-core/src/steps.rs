//! The finished steps of an attempt: the bytes that its record keeps, and what its body knows of them.
//!
//! A record keeps one entry after the other, in the order in which steps finished:
//!
//! | bytes | |
//! |---|---|
//! | 1 | version: 1 |
//! | 2 | length of the name |
//! | 4 | length of the value |
//! | | the name, UTF-8 |
//! | | the value, JSON |
//!
//! Numbers are big-endian.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

const VERSION: u8 = 1;
const HEAD: usize = 7;

/// Why a step did not run, or is not kept.
///
/// Messages hold the step's name, and nothing of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepError {
    /// No attempt runs on this task. The step did not run.
    OutsideOfBody,
    /// The operation claims in a transaction, which keeps all of the body's writes or none. The step
    /// did not run.
    InTransaction,
    /// The attempt has no record, and a phase needs one. It did not run.
    WithoutRecord,
    /// The name is empty, or longer than [`StepError::MAX_NAME_BYTES`]. The step did not run.
    NameNotAcceptable,
    /// A step of this attempt has the name already, and has finished or is running. The step did not
    /// run.
    NameTaken {
        /// The step.
        name: String,
    },
    /// An earlier attempt has finished the step, and its value is of another type than the one that
    /// is asked for. The step did not run again.
    OtherType {
        /// The step.
        name: String,
    },
    /// The steps that earlier attempts have finished cannot be read by this version of the program.
    /// The step did not run.
    Unreadable,
    /// The record's steps would be larger than its outcome may be. Where the value is what is too
    /// large, the step has run: its attempt counts as crashed. Of a phase nothing is committed.
    TooLarge {
        /// The step.
        name: String,
        /// What names and values of all steps may take, in bytes.
        max_bytes: usize,
    },
    /// The step has run, and its value cannot be written as JSON: its attempt counts as crashed. Of a
    /// phase nothing is committed.
    NotWritten {
        /// The step.
        name: String,
    },
}

impl StepError {
    /// The longest name of a step, in bytes.
    pub const MAX_NAME_BYTES: usize = 255;
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideOfBody => f.write_str(
                "a step was begun outside of an idempotent body: take `idem::attempt()` in the body, move it into the task, and call its method `step`",
            ),
            Self::InTransaction => f.write_str(
                "this operation claims in a transaction, which keeps all of its writes or none: it needs no steps, and has none",
            ),
            Self::WithoutRecord => f.write_str(
                "this attempt has no record: send a key, or use a transaction of your own where there is none",
            ),
            Self::NameNotAcceptable => write!(
                f,
                "a step needs a name of 1 to {} bytes",
                Self::MAX_NAME_BYTES
            ),
            Self::NameTaken { name } => write!(
                f,
                "two steps of one attempt are called {name:?}: give each its own name, and number those of a loop"
            ),
            Self::OtherType { name } => write!(
                f,
                "step {name:?} was finished by an earlier version of the program, whose value is of another type; it is not run again"
            ),
            Self::Unreadable => f.write_str(
                "this version of the program cannot read the steps that earlier attempts have finished; they are not run again",
            ),
            Self::TooLarge { name, max_bytes } => write!(
                f,
                "with step {name:?} the steps of this attempt are larger than {max_bytes} bytes"
            ),
            Self::NotWritten { name } => {
                write!(f, "the value of step {name:?} cannot be written as JSON")
            }
        }
    }
}

impl std::error::Error for StepError {}

/// The steps of one attempt.
#[derive(Debug)]
pub(crate) struct Steps {
    known: Mutex<Known>,
    /// Held while the store is told of finished steps, so that it learns of them in their order.
    pub(crate) telling: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    bytes: Vec<u8>,
    /// So many bytes the store has acknowledged.
    acknowledged: usize,
    steps: HashMap<String, Step>,
    is_unreadable: bool,
    /// A step has run whose value is not among the bytes.
    has_lost_one: bool,
}

#[derive(Debug)]
enum Step {
    /// By an earlier attempt, or by this one. The value is there in the bytes.
    Finished {
        value: Range<usize>,
        is_used: bool,
    },
    Running,
}

/// What a step is to do.
#[derive(Debug)]
pub(crate) enum Begun<'a> {
    Run(RunningStep<'a>),
    /// The value, as JSON.
    GiveBack(Bytes),
}

impl Steps {
    /// With what earlier attempts have finished.
    pub(crate) fn handed(bytes: &[u8]) -> Self {
        let mut known = Known {
            bytes: bytes.to_vec(),
            acknowledged: bytes.len(),
            ..Known::default()
        };
        match entries(bytes) {
            Some(entries) => {
                let finished = entries.into_iter().map(|Entry { name, value }| {
                    let is_used = false;
                    (name.to_owned(), Step::Finished { value, is_used })
                });
                known.steps.extend(finished);
            }
            None => known.is_unreadable = true,
        }
        Self {
            known: Mutex::new(known),
            telling: tokio::sync::Mutex::default(),
        }
    }

    /// What the step with this name is to do.
    pub(crate) fn begin(&self, name: &str, max_bytes: usize) -> Result<Begun<'_>, StepError> {
        if name.is_empty() || name.len() > StepError::MAX_NAME_BYTES {
            return Err(StepError::NameNotAcceptable);
        }
        let mut known = self.known();
        if known.is_unreadable {
            return Err(StepError::Unreadable);
        }
        let Known { bytes, steps, .. } = &mut *known;
        match steps.get_mut(name) {
            Some(Step::Finished { value, is_used }) if !*is_used => {
                *is_used = true;
                Ok(Begun::GiveBack(Bytes::copy_from_slice(
                    &bytes[value.clone()],
                )))
            }
            Some(_) => Err(StepError::NameTaken {
                name: name.to_owned(),
            }),
            // The shortest value.
            None if bytes.len() + HEAD + name.len() + 1 > max_bytes => Err(StepError::TooLarge {
                name: name.to_owned(),
                max_bytes,
            }),
            None => {
                steps.insert(name.to_owned(), Step::Running);
                Ok(Begun::Run(RunningStep {
                    steps: self,
                    name: name.to_owned(),
                }))
            }
        }
    }

    /// Whether a step with this name may finish with a value of so many bytes.
    pub(crate) fn check_room(
        &self,
        name: &str,
        value: usize,
        max_bytes: usize,
    ) -> Result<(), StepError> {
        match self.known().bytes.len() + HEAD + name.len() + value > max_bytes {
            false => Ok(()),
            true => Err(StepError::TooLarge {
                name: name.to_owned(),
                max_bytes,
            }),
        }
    }

    /// What the store has not acknowledged, or all of it, and where it begins.
    pub(crate) fn unacknowledged(&self, all: bool) -> (usize, Bytes) {
        let known = self.known();
        let at = if all { 0 } else { known.acknowledged };
        (at, Bytes::copy_from_slice(&known.bytes[at..]))
    }

    /// The store has the steps up to this byte.
    pub(crate) fn acknowledge(&self, end: usize) {
        let mut known = self.known();
        known.acknowledged = known.acknowledged.max(end);
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.known().acknowledged
    }

    /// All finished steps, as a record keeps them.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.known().bytes)
    }

    /// Whether a step has run whose value is not kept.
    pub(crate) fn has_lost_one(&self) -> bool {
        self.known().has_lost_one
    }

    /// The names of the finished steps, in the order in which they finished.
    pub(crate) fn names(&self) -> Vec<String> {
        names(&self.known().bytes)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("bytes", &self.bytes.len())
            .field("acknowledged", &self.acknowledged)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// A step that runs. Dropped before it has finished it gives its name free.
#[derive(Debug)]
pub(crate) struct RunningStep<'a> {
    steps: &'a Steps,
    name: String,
}

impl RunningStep<'_> {
    /// The step has finished with this value. Answers where its entry ends.
    pub(crate) fn finish(self, value: &[u8], max_bytes: usize) -> Result<usize, StepError> {
        let mut known = self.steps.known();
        let end = known.bytes.len() + HEAD + self.name.len() + value.len();
        let (Ok(length), false) = (u32::try_from(value.len()), end > max_bytes) else {
            known.has_lost_one = true;
            drop(known);
            let name = self.name.clone();
            return Err(StepError::TooLarge { name, max_bytes });
        };
        // Checked when it began: it fits.
        let name_length = self.name.len() as u16;
        known.bytes.push(VERSION);
        known.bytes.extend_from_slice(&name_length.to_be_bytes());
        known.bytes.extend_from_slice(&length.to_be_bytes());
        known.bytes.extend_from_slice(self.name.as_bytes());
        known.bytes.extend_from_slice(value);
        let finished = Step::Finished {
            value: end - value.len()..end,
            is_used: true,
        };
        known.steps.insert(self.name.clone(), finished);
        Ok(end)
    }

    /// The step has finished with a value that cannot be kept.
    pub(crate) fn lose(self) -> StepError {
        self.steps.known().has_lost_one = true;
        StepError::NotWritten {
            name: self.name.clone(),
        }
    }
}

impl Drop for RunningStep<'_> {
    fn drop(&mut self) {
        let mut known = self.steps.known();
        if matches!(known.steps.get(&self.name), Some(Step::Running)) {
            known.steps.remove(&self.name);
        }
    }
}

/// The names of the steps that a record keeps.
pub(crate) fn names(bytes: &[u8]) -> Vec<String> {
    let entries = entries(bytes).unwrap_or_default();
    entries.iter().map(|entry| entry.name.to_owned()).collect()
}

/// The same steps, each with its value. `None` if the bytes are of another version, or damaged.
pub(crate) fn values(bytes: &Bytes) -> Option<Vec<(String, Bytes)>> {
    let with_value = |entry: &Entry<'_>| (entry.name.to_owned(), bytes.slice(entry.value.clone()));
    Some(entries(bytes)?.iter().map(with_value).collect())
}

struct Entry<'a> {
    name: &'a str,
    /// Where the value is in the bytes.
    value: Range<usize>,
}

/// `None` if the bytes are of another version, or damaged.
fn entries(bytes: &[u8]) -> Option<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let &[VERSION, a, b, c, d, e, f] = bytes.get(at..at + HEAD)? else {
            return None;
        };
        let name_end = at + HEAD + usize::from(u16::from_be_bytes([a, b]));
        let length = usize::try_from(u32::from_be_bytes([c, d, e, f])).ok()?;
        let value = name_end..name_end.checked_add(length)?;
        bytes.get(value.clone())?;
        let name = std::str::from_utf8(bytes.get(at + HEAD..name_end)?).ok()?;
        at = value.end;
        entries.push(Entry { name, value });
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(steps: &Steps, name: &str, value: &str) -> usize {
        match steps.begin(name, 1000).unwrap() {
            Begun::Run(running) => running.finish(value.as_bytes(), 1000).unwrap(),
            Begun::GiveBack(value) => panic!("{name} is finished with {value:?}"),
        }
    }

    #[test]
    fn the_next_attempt_is_given_what_was_finished_once() {
        let first = Steps::handed(b"");
        finish(&first, "hold", "1");
        finish(&first, "charge \u{20ac}", "{\"id\":\"ch\"}");
        assert!(matches!(
            first.begin("hold", 1000),
            Err(StepError::NameTaken { .. })
        ));
        let next = Steps::handed(&first.bytes());
        assert_eq!(next.names(), ["hold", "charge \u{20ac}"]);
        for (name, value) in [("charge \u{20ac}", "{\"id\":\"ch\"}"), ("hold", "1")] {
            match next.begin(name, 0).unwrap() {
                Begun::GiveBack(given) => assert_eq!(given, value),
                Begun::Run(_) => panic!("{name} would run again"),
            }
            assert!(next.begin(name, 1000).is_err());
        }
        assert_eq!(next.unacknowledged(false).1, "");
        let end = finish(&next, "mail", "null");
        let (at, missing) = next.unacknowledged(false);
        assert_eq!((at, at + missing.len()), (first.bytes().len(), end));
        next.acknowledge(end);
        assert_eq!(next.unacknowledged(false), (end, Bytes::new()));
        assert_eq!(next.unacknowledged(true), (0, next.bytes()));
    }

    #[test]
    fn a_step_that_did_not_finish_gives_its_name_free() {
        let steps = Steps::handed(b"");
        let running = steps.begin("hold", 1000).unwrap();
        assert!(steps.begin("hold", 1000).is_err());
        drop(running);
        finish(&steps, "hold", "2");
        assert!(!steps.has_lost_one());
    }

    #[test]
    fn what_does_not_fit_is_an_error_before_the_step_where_that_is_known() {
        let steps = Steps::handed(b"");
        for name in ["", &"n".repeat(256)] {
            let refused = steps.begin(name, 1000).unwrap_err();
            assert_eq!(refused, StepError::NameNotAcceptable);
        }
        assert!(matches!(
            steps.begin("hold", 11),
            Err(StepError::TooLarge { .. })
        ));
        let Begun::Run(running) = steps.begin("hold", 12).unwrap() else {
            panic!("it was never finished");
        };
        assert!(!steps.has_lost_one());
        assert!(running.finish(b"12", 12).is_err());
        assert!(steps.has_lost_one());
        assert_eq!(steps.bytes(), "");
    }

    #[test]
    fn damaged_steps_are_an_error_and_never_run_again() {
        let whole = Steps::handed(b"");
        finish(&whole, "hold", "1");
        let whole = whole.bytes();
        for damaged in [
            &whole[..whole.len() - 1],
            b"\x02",
            b"\x01\0\x01\0\0\0\0\xff",
        ] {
            let steps = Steps::handed(damaged);
            let refused = steps.begin("hold", 1000).unwrap_err();
            assert_eq!(refused, StepError::Unreadable);
            assert_eq!(steps.bytes(), damaged);
        }
    }
}
