//! `idem doctor`: whether the store can keep what it promises.

use std::time::{Duration, SystemTime};

use clap::Args;
use idem::store::{Finding, Severity};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Output, short};
use crate::progress::interruptible;
use crate::target::{Target, TargetArguments};

/// Clocks that differ by more are worth a word: times of two logs cannot be compared.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

/// Tries what cannot be looked up, with records of its own, which it removes again. A setting that an
/// application makes for its own connections is not seen from here.
#[derive(Args, Debug)]
pub(crate) struct Doctor {}

#[derive(Serialize)]
struct Report<'a> {
    address: &'a str,
    findings: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    severity: &'static str,
    subject: &'static str,
    found: &'a str,
    meaning: &'a str,
    advice: &'a str,
}

impl Doctor {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let findings = interruptible(examine(target)).await?;
        if output.is_json() {
            output.object(&Report {
                address: &target.address()?,
                findings: findings.iter().map(shown).collect(),
            })?;
        } else {
            for finding in &findings {
                write(finding, output)?;
            }
        }
        let problems = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Problem)
            .count();
        match problems {
            0 => Ok(()),
            1 => Err(Failure::NotWell("there is a problem".to_owned())),
            problems => Err(Failure::NotWell(format!("there are {problems} problems"))),
        }
    }
}

async fn examine(target: &TargetArguments) -> Result<Vec<Finding>, Failure> {
    let target = match target.attach().await {
        // That it cannot be worked with is what was to be found out.
        Err(Failure::Unfit(message)) => {
            let advice = "see that the URL is the application's, and that its version of idem is this tool's";
            return Ok(vec![Finding::problem("store", "unfit", message, advice)]);
        }
        attached => attached?,
    };
    let mut findings = target.maintenance()?.examine().await?;
    findings.push(clock(&target).await?);
    Ok(findings)
}

fn shown(finding: &Finding) -> Shown<'_> {
    Shown {
        severity: finding.severity.as_str(),
        subject: finding.subject,
        found: &finding.found,
        meaning: &finding.meaning,
        advice: &finding.advice,
    }
}

fn write(finding: &Finding, output: &mut Output) -> Result<(), Failure> {
    let Finding {
        severity,
        subject,
        found,
        meaning,
        advice,
        ..
    } = finding;
    output.line(&format!("{severity:8} {subject}: {found}"))?;
    for text in [meaning, advice] {
        if !text.is_empty() {
            output.line(&format!("{:8}   {text}", ""))?;
        }
    }
    Ok(())
}

/// How far this machine's clock is from the store's. Leases do not depend on it.
async fn clock(target: &Target) -> Result<Finding, Failure> {
    const SUBJECT: &str = "clock";
    let before = SystemTime::now();
    let store = target.time().await?;
    let took = before.elapsed().unwrap_or_default();
    let here = before + took / 2;
    let (apart, direction) = match here.duration_since(store) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let found = format!("{} {direction} the store's", short(apart));
    Ok(match apart > CLOCKS_DIFFER + took {
        false => Finding::fine(SUBJECT, found),
        true => Finding::warning(
            SUBJECT,
            found,
            "this machine's clock is not the store's: leases are judged by the store's alone and do not suffer, and the times of their logs cannot be compared",
            "set both by the same time server",
        ),
    })
}
