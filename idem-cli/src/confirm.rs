//! Asks before something is changed.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::Failure;

/// Goes on if somebody says yes at the terminal.
pub(crate) fn confirm(question: &str) -> Result<(), Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::refused(
            "nothing was changed: nobody can be asked here; give --yes to confirm",
        ));
    }
    let mut stderr = io::stderr();
    let asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let answered = asked.and_then(|()| stdin.lock().read_line(&mut answer).map(drop));
    match answered {
        Ok(()) if matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") => Ok(()),
        _ => Err(Failure::refused(
            "nothing was changed: it was not confirmed",
        )),
    }
}
