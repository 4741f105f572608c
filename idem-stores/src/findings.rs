//! What the checks of a server say of it: to the log at start-up, and to operators who ask.

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use std::time::Duration;

use idem_core::{Finding, Severity};
use tracing::warn;

/// Deleting expired records is late by then: stores do it every minute unless told otherwise.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
const LATE: Duration = Duration::from_secs(15 * 60);

/// Tells the log what is not as it should be.
pub(crate) fn warn_of(findings: &[Finding]) {
    for finding in findings {
        if finding.severity != Severity::Fine {
            warn!(target: "idem", found = &*finding.found, "{finding}");
        }
    }
}

/// What the oldest expired record says of who deletes them. `None`: there is none.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) fn sweeping(late_by: Option<Duration>) -> Finding {
    const SUBJECT: &str = "sweeping";
    let late_by = late_by.unwrap_or_default();
    let found = match late_by.is_zero() {
        true => "no expired record".to_owned(),
        false => {
            let seconds = Duration::from_secs(late_by.as_secs());
            let since = humantime::format_duration(seconds);
            format!("the oldest record is expired since {since}")
        }
    };
    match late_by > LATE {
        false => Finding::fine(SUBJECT, found),
        true => Finding::warning(
            SUBJECT,
            found,
            "expired records are not deleted: they count as absent, and the table grows",
            "see whether an application sweeps (`sweep` in its URL), or run `idem sweep`",
        ),
    }
}
