//! What is checked at start-up. Whatever would keep an outcome from being stored later is an error.

use std::error::Error;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::TimeToLiveStatus;
use idem_core::{RecordId, StoreError};
use tracing::warn;

use super::NAME;
use super::calls::Calls;
use super::errors::{code_of, store_error};
use super::record::{self, EXPIRES};
use super::witness::Tries;
use crate::ConnectError;

/// # Errors
/// When the service cannot be reached, or refuses the login or one of the calls that the store makes.
pub(super) async fn run(calls: &Calls) -> Result<(), ConnectError> {
    let nobody = RecordId::from_bytes(rand::random());
    // It tells the clock, too.
    if let Err(error) = calls.get(&nobody).await {
        return Err(match code_of(&error) {
            Some("ResourceNotFoundException") => ConnectError::Unfit {
                store: NAME,
                problem: "there is no table of this name in this region; DynamoDbStoreBuilder::create_table makes one".into(),
            },
            _ => ConnectError::Store(error),
        });
    }
    try_writes(calls, &nobody)
        .await
        .map_err(ConnectError::Store)?;
    warn_without_ttl(calls).await;
    Ok(())
}

/// Tries each kind of write with a condition that does not hold.
async fn try_writes(calls: &Calls, nobody: &RecordId) -> Result<(), StoreError> {
    const NEVER: &str = "attribute_exists(id)";
    let key = || Some(record::key(nobody));
    let put = calls
        .claims
        .put_item()
        .table_name(&calls.table)
        .set_item(key())
        .condition_expression(NEVER)
        .send();
    let update = calls
        .claims
        .update_item()
        .table_name(&calls.table)
        .set_key(key())
        .update_expression("SET v = v")
        .condition_expression(NEVER)
        .send();
    let delete = calls
        .claims
        .delete_item()
        .table_name(&calls.table)
        .set_key(key())
        .condition_expression(NEVER)
        .send();
    let (put, update, delete) = tokio::join!(Box::pin(put), Box::pin(update), Box::pin(delete));
    refused(calls, put)?;
    refused(calls, update)?;
    refused(calls, delete)
}

fn refused<O, E>(
    calls: &Calls,
    tried: Result<O, SdkError<E, HttpResponse>>,
) -> Result<(), StoreError>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let Err(error) = tried else {
        return Ok(());
    };
    let code = error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code);
    if code == Some("ConditionalCheckFailedException") {
        return Ok(());
    }
    Err(store_error(&error, &Tries::one(), calls.timeout))
}

async fn warn_without_ttl(calls: &Calls) {
    let asked = calls
        .claims
        .describe_time_to_live()
        .table_name(&calls.table);
    // Whoever may not ask does not know.
    let Ok(answer) = Box::pin(asked.send()).await else {
        return;
    };
    let is_on = answer.time_to_live_description.is_some_and(|ttl| {
        let status = ttl.time_to_live_status;
        matches!(
            status,
            Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
        ) && ttl.attribute_name.as_deref() == Some(EXPIRES)
    });
    if !is_on {
        warn!(
            target: "idem",
            "the TTL of the dynamodb table is not on for the attribute `{EXPIRES}`: expired records count as absent, but are never deleted"
        );
    }
}
