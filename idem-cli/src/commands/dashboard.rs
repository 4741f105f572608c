//! `idem dashboard`: the page for operators, on this machine alone.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use idem::axum::dashboard::{Change, Stage};
use serde::Serialize;

use crate::audit::{AuditLog, Audited, Record, What};
use crate::change::answer_of;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::interruptible;
use crate::target::{Target, TargetArguments};

#[derive(Args, Debug)]
pub(crate) struct Dashboard {
    /// The port on 127.0.0.1; 0 for any free one.
    #[arg(long, default_value_t = 7332)]
    port: u16,
    /// Lets operators resolve, release and forget records on the page, and take the lease from an
    /// attempt that holds it.
    #[arg(long)]
    allow_changes: bool,
    /// Lets them look at bodies, header values and the values of steps.
    #[arg(long)]
    show_bodies: bool,
    /// The application's namespace: for records that are looked for by their key.
    #[arg(long, value_name = "TEXT", env = "IDEM_NAMESPACE", default_value = "")]
    namespace: String,
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
        let (log, engine) = (Log::of(self.audit, &target), target.within(self.namespace));
        let dashboard = idem::axum::dashboard(engine)
            .allow_changes(self.allow_changes)
            .show_bodies(self.show_bodies)
            .audit(move |change| {
                let log = log.clone();
                async move {
                    let written = tokio::task::spawn_blocking(move || log.write(&change));
                    Ok(written.await??)
                }
            });
        // Nobody else's machine reaches it.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port));
        let listener = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        });
        let no_port = |error: io::Error| {
            let port = self.port;
            Failure::usage(format!(
                "port {port} cannot be listened on: {error}; give another --port"
            ))
        };
        let listener = listener.map_err(no_port)?;
        let port = listener.local_addr().map_err(no_port)?.port();
        let url = format!("http://127.0.0.1:{port}/");
        match output.is_json() {
            true => output.object(&Listening { url })?,
            false => output.line(&url)?,
        }
        output.flush()?;
        let router = dashboard.into_router::<()>();
        interruptible(async { Ok(axum::serve(listener, router).await?) }).await
    }
}

/// The audit log of the tool, with what the page changes.
#[derive(Clone)]
struct Log(Arc<Inside>);

struct Inside {
    audit: AuditLog,
    store: &'static str,
    address: String,
    /// Changes that are under way, by their ids.
    begun: Mutex<HashMap<u128, Audited>>,
}

impl Log {
    fn of(audit: AuditLog, target: &Target) -> Self {
        Self(Arc::new(Inside {
            audit,
            store: target.name(),
            address: target.address.clone(),
            begun: Mutex::default(),
        }))
    }

    fn write(&self, change: &Change) -> Result<(), io::Error> {
        let mut begun = self.0.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, detail) = match change.stage {
            Stage::Before => {
                let audited = self.0.audit.begin(Some(&change.reason), &self.what(change));
                begun.insert(change.id, audited.map_err(told)?);
                return Ok(());
            }
            Stage::Made => ("done", None),
            Stage::NotMade => ("refused", None),
            Stage::OnlyRevoked => (
                "unknown",
                Some("the lease was taken away, and nothing else was changed"),
            ),
            _ => ("unknown", None),
        };
        let audited = begun.remove(&change.id);
        drop(begun);
        audited.map_or(Ok(()), |audited| audited.end(result, detail).map_err(told))
    }

    fn what(&self, change: &Change) -> What {
        let (answer, answer_sha256) = change.answer.as_ref().map(answer_of).unzip();
        What {
            command: change.action.as_str(),
            store: self.0.store,
            address: self.0.address.clone(),
            record: Some(Record {
                record: change.record.to_string(),
                operation: change.operation.clone(),
                state: change.state.as_str(),
                attempt: change.attempt,
                forced: change.forced,
                answer,
                answer_sha256,
            }),
        }
    }
}

fn told(failure: Failure) -> io::Error {
    io::Error::other(failure.message().unwrap_or_default())
}
