//! What a store answers to those who operate it: see `Maintenance` in `store.rs`.

use std::borrow::Cow;
use std::fmt;

/// What a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Swept {
    /// So many records were deleted.
    Deleted {
        /// How many.
        records: u64,
        /// Whether there may be more.
        more: bool,
    },
    /// The server deletes what is over by itself.
    ByServer,
}

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// It is as it should be.
    Fine,
    /// It weakens what the store promises, or could not be looked at.
    Warning,
    /// Operations fail, or are lost, until somebody sets it right.
    Problem,
}

impl Severity {
    /// One word, as tools write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an examination found. It holds no address, no credentials, no key and no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was looked at, in a word or two that stay the same: `"maxmemory-policy"`.
    pub subject: &'static str,
    /// What was found: `"noeviction"`, `"off"`. Empty where there is nothing to say.
    pub found: Cow<'static, str>,
    /// What that means. Empty where it is fine.
    pub meaning: Cow<'static, str>,
    /// What to do about it. Empty where it is fine.
    pub advice: Cow<'static, str>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn fine(subject: &'static str, found: impl Into<Cow<'static, str>>) -> Self {
        Self {
            severity: Severity::Fine,
            subject,
            found: found.into(),
            meaning: Cow::Borrowed(""),
            advice: Cow::Borrowed(""),
        }
    }

    /// Something that weakens a promise.
    pub fn warning(
        subject: &'static str,
        found: impl Into<Cow<'static, str>>,
        meaning: impl Into<Cow<'static, str>>,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            meaning: meaning.into(),
            advice: advice.into(),
            ..Self::fine(subject, found)
        }
    }

    /// Something that must be set right.
    pub fn problem(
        subject: &'static str,
        found: impl Into<Cow<'static, str>>,
        meaning: impl Into<Cow<'static, str>>,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            severity: Severity::Problem,
            ..Self::warning(subject, found, meaning, advice)
        }
    }
}

/// The meaning and the advice, as a log line has them.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.meaning, &*self.advice) {
            ("", _) => write!(f, "{}: {}", self.subject, self.found),
            (meaning, "") => f.write_str(meaning),
            (meaning, advice) => write!(f, "{meaning}; {advice}"),
        }
    }
}
