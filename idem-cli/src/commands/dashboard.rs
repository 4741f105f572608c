//! `idem dashboard`: the page for operators, for who is on this machine.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use idem::axum::dashboard::{Change, Stage};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::audit::{AuditLog, Audited, Record, What};
use crate::change::sha256;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::interruptible;
use crate::report::Answer;
use crate::target::TargetArguments;

/// It listens on 127.0.0.1 alone, until Ctrl-C. Whoever is on this machine can open it: it asks nobody
/// who they are.
#[derive(Args, Debug)]
pub(crate) struct Dashboard {
    /// The port. 0: one that is free.
    #[arg(long, value_name = "PORT", default_value_t = 8472)]
    port: u16,
    /// Records can be resolved, released and forgotten. Each change is written to the audit log before
    /// it is made.
    #[arg(long)]
    allow_changes: bool,
    /// Bodies, the values of headers and those of steps can be looked at.
    #[arg(long)]
    show_bodies: bool,
    #[command(flatten)]
    audit: AuditLog,
}

/// What scripts are told.
#[derive(Serialize)]
struct Listening {
    url: String,
}

impl Dashboard {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let target = target.attach().await?;
        let log = Arc::new(ChangeLog {
            audit: self.audit,
            store: target.name(),
            address: target.address.clone(),
            begun: Mutex::default(),
        });
        let router = idem::axum::dashboard(target.engine.clone())
            .allow_changes(self.allow_changes)
            .show_bodies(self.show_bodies)
            .audit(move |change| {
                let log = Arc::clone(&log);
                async move {
                    // It waits for the disk.
                    let written = tokio::task::spawn_blocking(move || log.write(&change));
                    written.await?.map_err(|message| message.into())
                }
            })
            .into_router();
        let cannot_listen =
            |error| Failure::usage(format!("port {} cannot be used: {error}", self.port));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await;
        let listener = listener.map_err(cannot_listen)?;
        let port = listener.local_addr().map_err(cannot_listen)?.port();
        let url = format!("http://127.0.0.1:{port}/");
        match output.is_json() {
            true => output.object(&Listening { url })?,
            false => output.line(&format!("{url} shows {}; Ctrl-C ends it", target.address))?,
        }
        output.flush()?;
        let served = async { axum::serve(listener, router).await.map_err(Failure::from) };
        match interruptible(served).await {
            // There is no other end.
            Err(Failure::Interrupted) => Ok(()),
            ended => ended,
        }
    }
}

/// Writes the page's changes to the audit log.
struct ChangeLog {
    audit: AuditLog,
    store: &'static str,
    address: String,
    /// By their ids.
    begun: Mutex<HashMap<u128, Audited>>,
}

impl ChangeLog {
    fn write(&self, change: &Change) -> Result<(), String> {
        let written = match change.stage {
            Stage::Before => {
                let begun = self.audit.begin(Some(&change.reason), &self.what(change));
                begun.map(|audited| drop(self.begun().insert(change.id, audited)))
            }
            Stage::Made => self.end(change, "done"),
            Stage::NotMade => self.end(change, "refused"),
            _ => self.end(change, "unknown"),
        };
        written.map_err(|failure| failure.message().unwrap_or_default())
    }

    fn end(&self, change: &Change, result: &str) -> Result<(), Failure> {
        let audited = self.begun().remove(&change.id);
        audited.map_or(Ok(()), |audited| audited.end(result, None))
    }

    fn begun(&self) -> std::sync::MutexGuard<'_, HashMap<u128, Audited>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn what(&self, change: &Change) -> What {
        let answer = change.answer.as_ref();
        What {
            command: change.action.as_str(),
            store: self.store,
            address: self.address.clone(),
            record: Some(Record {
                record: change.record.to_string(),
                operation: change.operation.clone(),
                state: change.state.as_str(),
                attempt: change.attempt,
                forced: false,
                answer: answer.map(|answer| Answer::of(answer, false).in_words()),
                answer_sha256: answer.map(sha256),
            }),
        }
    }
}
