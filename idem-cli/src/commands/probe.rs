//! `idem probe`: whether an HTTP API keeps to the contract, whoever wrote it. It asks no store.

use clap::Args;

use crate::failure::{Failure, with_sources};
use crate::output::Output;
use crate::progress::interruptible;

/// It carries the operation out, about ten times, and so takes servers on this machine alone, unless it
/// is told that the server may be probed.
#[derive(Args, Debug)]
pub(crate) struct Probe {
    #[command(flatten)]
    options: idem_probe::Options,
}

impl Probe {
    pub(crate) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        let probe = async { idem_probe::run(&self.options).await.map_err(failure) };
        let report = interruptible(probe).await?;
        if output.is_json() {
            output.object(&report)?;
        } else {
            for line in report.to_string().lines() {
                output.line(line)?;
            }
        }
        match report.verdict {
            idem_probe::Verdict::Fail => Err(Failure::NotWell("it breaks the contract".to_owned())),
            idem_probe::Verdict::CannotTell => Err(Failure::Unknown(
                "its answers do not say whether it keeps to the contract".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

fn failure(error: idem_probe::Error) -> Failure {
    let message = with_sources(&error);
    match error {
        idem_probe::Error::NotLoopback => Failure::Refused(message),
        _ => Failure::Usage(message),
    }
}
