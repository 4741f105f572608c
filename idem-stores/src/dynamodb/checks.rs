//! What is checked at start-up. Whatever would keep an outcome from being stored later is an error.

use std::error::Error;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::TimeToLiveStatus;
use idem_core::{Finding, RecordId, StoreError};

use super::NAME;
use super::calls::Calls;
use super::errors::{code_of, store_error};
use super::record::{self, EXPIRES};
use super::witness::Tries;
use crate::ConnectError;

/// # Errors
/// When the service cannot be reached, or refuses the login or one of the calls that the store makes.
pub(super) async fn run(calls: &Calls) -> Result<(), ConnectError> {
    look(calls).await?;
    let nobody = RecordId::from_bytes(rand::random());
    try_writes(calls, &nobody)
        .await
        .map_err(ConnectError::Store)?;
    crate::findings::warn_of(&[ttl(calls).await]);
    Ok(())
}

/// Reads a record that is not there: it tells the clock.
pub(super) async fn look(calls: &Calls) -> Result<(), ConnectError> {
    let nobody = RecordId::from_bytes(rand::random());
    match calls.get(&nobody).await {
        Ok(_) => Ok(()),
        Err(error) if code_of(&error) == Some("ResourceNotFoundException") => {
            Err(ConnectError::Unfit {
                store: NAME,
                problem: "there is no table of this name in this region; DynamoDbStoreBuilder::create_table makes one".into(),
            })
        }
        Err(error) => Err(ConnectError::Store(error)),
    }
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

/// What an operator is told. Whatever keeps the store from working is an error of this call.
pub(super) async fn examine(calls: &Calls) -> Result<Vec<Finding>, StoreError> {
    let nobody = RecordId::from_bytes(rand::random());
    let _ = calls.get(&nobody).await?;
    let rights = match try_writes(calls, &nobody).await {
        Ok(()) => Finding::fine("rights", "read, write, change and delete"),
        Err(error @ StoreError::Rejected { .. }) => Finding::problem(
            "rights",
            code_of(&error).unwrap_or("refused").to_owned(),
            "the service refuses a call that the store makes: operations fail, or their outcomes are not stored",
            "see the rights of this login; `docs/dynamodb/policy.json` lists them",
        ),
        Err(error) => return Err(error),
    };
    Ok(vec![rights, ttl(calls).await])
}

async fn ttl(calls: &Calls) -> Finding {
    const SUBJECT: &str = "TTL";
    let asked = calls
        .claims
        .describe_time_to_live()
        .table_name(&calls.table);
    let Ok(answer) = Box::pin(asked.send()).await else {
        return Finding::warning(
            SUBJECT,
            "not known",
            "it is not known whether expired records are deleted: this login may not ask",
            "give it dynamodb:DescribeTimeToLive",
        );
    };
    let is_on = answer.time_to_live_description.is_some_and(|ttl| {
        let status = ttl.time_to_live_status;
        matches!(
            status,
            Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
        ) && ttl.attribute_name.as_deref() == Some(EXPIRES)
    });
    match is_on {
        true => Finding::fine(SUBJECT, EXPIRES),
        false => Finding::warning(
            SUBJECT,
            "off",
            "expired records count as absent, and are never deleted",
            "turn the table's TTL on for the attribute `expires`",
        ),
    }
}
