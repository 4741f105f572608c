//! What a probe has found: a table for people, and the same for programs.

use std::fmt;

use serde::Serialize;

use crate::Profile;

/// What a check says of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// The server keeps to the contract.
    Pass,
    /// The check was not asked for.
    Skipped,
    /// Nothing is broken; clients would be better off with what the detail says.
    Advice,
    /// The answers do not say, or the check did not run within the bounds.
    CannotTell,
    /// The server breaks the contract.
    Fail,
}

impl Verdict {
    const fn shown(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skipped => "skipped",
            Self::Advice => "advice",
            Self::CannotTell => "cannot tell",
            Self::Fail => "FAIL",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// Its name: stable, for programs.
    pub name: &'static str,
    /// What it says of the server.
    pub verdict: Verdict,
    /// What was seen. It holds no key, no credential and no body.
    pub detail: String,
}

impl Check {
    pub(crate) fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
        }
    }
}

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Without its query.
    pub url: String,
    /// The contract that was expected.
    pub profile: Profile,
    /// The worst of all checks that ran.
    pub verdict: Verdict,
    /// How many requests were sent.
    pub requests: u32,
    /// In the order in which they ran.
    pub checks: Vec<Check>,
}

impl Report {
    pub(crate) fn new(url: String, profile: Profile, requests: u32, checks: Vec<Check>) -> Self {
        let verdicts = checks.iter().map(|check| check.verdict);
        let worst = verdicts.filter(|it| *it != Verdict::Skipped).max();
        Self {
            url,
            profile,
            verdict: worst.unwrap_or(Verdict::CannotTell),
            requests,
            checks,
        }
    }

    /// What a process exits with, as the tool `idem` does: 0 where nothing is broken, 5 where a check
    /// fails, 6 where none fails and one cannot tell.
    pub const fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Pass | Verdict::Skipped | Verdict::Advice => 0,
            Verdict::CannotTell => 6,
            Verdict::Fail => 5,
        }
    }

    /// As JSON: the members of [`Report`] and [`Check`], verdicts in kebab case.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// A table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max();
        let width = width.unwrap_or(0);
        for Check {
            name,
            verdict,
            detail,
        } in &self.checks
        {
            writeln!(f, "{name:width$}  {:11}  {detail}", verdict.shown())?;
        }
        let Self { url, requests, .. } = self;
        let verdict = self.verdict.shown();
        write!(f, "{url}: {verdict}, after {requests} requests")
    }
}
