//! `idem create-table`: the table of a DynamoDB store, which no application creates by itself.

use clap::Args;
use idem::stores::dynamodb::{DynamoDbStore, TableOptions};

use crate::audit::{AuditArguments, What};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::interruptible;
use crate::target::TargetArguments;

/// It takes about half a minute, and rights that the store itself does not need. A table that is there
/// already stays as it is, but for its TTL, which is turned on.
#[derive(Args, Debug)]
pub(crate) struct CreateTable {
    /// With the sparse index `unfinished`: looking for what runs, has crashed or is suspended reads that,
    /// and not the whole table. Each first call costs two write units more.
    #[arg(long)]
    index: bool,
    #[command(flatten)]
    audit: AuditArguments,
}

impl CreateTable {
    pub(crate) async fn run(
        self,
        target: &TargetArguments,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let url = target.url()?;
        if !url.starts_with("dynamodb://") {
            return Err(Failure::usage(
                "a table is created for dynamodb://… alone; applications create those of other stores",
            ));
        }
        let builder = DynamoDbStore::builder(url)?;
        let options = match self.index {
            true => TableOptions::new().with_index(),
            false => TableOptions::new(),
        };
        let audited = self.audit.begin(&What {
            command: "create-table",
            store: "dynamodb",
            address: target.address()?,
            record: None,
        })?;
        let created = async { Ok(builder.create_table(options).await?) };
        let created = interruptible(created).await;
        let result = match &created {
            Ok(()) => "done",
            Err(Failure::Interrupted) => "interrupted",
            Err(_) => "failed",
        };
        audited.end(result, None)?;
        created?;
        match output.is_json() {
            true => output.object(&serde_json::json!({ "created": target.address()? })),
            false => output.line(&format!("{} is there", target.address()?)),
        }
    }
}
