//! Creating the table.

use std::error::Error;
use std::time::Duration;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use idem_core::StoreError;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::NAME;
use super::calls::Calls;
use super::errors::{Said, store_error};
use super::record::{EXPIRES, ID, UNFINISHED};
use super::witness::Tries;

/// How long a table may take to be there.
const PATIENCE: Duration = Duration::from_secs(120);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// What a new table has beside what every table has: on-demand capacity, and its TTL.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct TableOptions {
    has_index: bool,
}

impl TableOptions {
    /// A table without an index.
    pub const fn new() -> Self {
        Self { has_index: false }
    }

    /// With the sparse index `unfinished`: looking for what is running, crashed or suspended then reads that,
    /// and not the whole table. It costs each first call two write units more, one for its claim and one for
    /// its end, and doubles what first calls with small outcomes cost.
    pub const fn with_index(mut self) -> Self {
        self.has_index = true;
        self
    }
}

pub(super) async fn create(calls: &Calls, options: TableOptions) -> Result<(), StoreError> {
    let client = &calls.claims;
    let key = |name: &str| {
        KeySchemaElement::builder()
            .attribute_name(name)
            .key_type(KeyType::Hash)
            .build()
            .map_err(malformed)
    };
    let attribute = |name: &str| {
        AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::B)
            .build()
            .map_err(malformed)
    };
    let mut request = client
        .create_table()
        .table_name(&calls.table)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key(ID)?)
        .attribute_definitions(attribute(ID)?);
    if options.has_index {
        let projection = Projection::builder()
            .projection_type(ProjectionType::KeysOnly)
            .build();
        let index = GlobalSecondaryIndex::builder()
            .index_name(UNFINISHED)
            .key_schema(key(UNFINISHED)?)
            .projection(projection)
            .build()
            .map_err(malformed)?;
        request = request
            .attribute_definitions(attribute(UNFINISHED)?)
            .global_secondary_indexes(index);
    }
    match Box::pin(request.send()).await {
        // It is there already, or another process is at it.
        Err(error) if code(&error) == Some("ResourceInUseException") => {}
        created => {
            let _ = checked(calls, created)?;
        }
    }
    until_active(calls).await?;
    turn_ttl_on(calls).await
}

async fn until_active(calls: &Calls) -> Result<(), StoreError> {
    let start = Instant::now();
    loop {
        let look = calls.claims.describe_table().table_name(&calls.table);
        let seen = Box::pin(look.send()).await;
        let is_unknown = seen
            .as_ref()
            .is_err_and(|error| code(error) == Some("ResourceNotFoundException"));
        // What was just created may not be known everywhere.
        if !is_unknown {
            let table = checked(calls, seen)?.table;
            if table.and_then(|table| table.table_status) == Some(TableStatus::Active) {
                return Ok(());
            }
        }
        if start.elapsed() > PATIENCE {
            let why = "the table that was created is not active after two minutes";
            return Err(StoreError::not_ready(NAME, Said::new(why)));
        }
        sleep(PAUSE).await;
    }
}

async fn turn_ttl_on(calls: &Calls) -> Result<(), StoreError> {
    let look = calls
        .claims
        .describe_time_to_live()
        .table_name(&calls.table);
    let ttl = checked(calls, Box::pin(look.send()).await)?.time_to_live_description;
    let status = ttl.and_then(|ttl| ttl.time_to_live_status);
    if matches!(
        status,
        Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
    ) {
        return Ok(());
    }
    let specification = TimeToLiveSpecification::builder()
        .enabled(true)
        .attribute_name(EXPIRES)
        .build()
        .map_err(malformed)?;
    let request = calls
        .claims
        .update_time_to_live()
        .table_name(&calls.table)
        .time_to_live_specification(specification);
    match Box::pin(request.send()).await {
        // Of the service itself every table has a TTL.
        Err(error) if code(&error) == Some("UnknownOperationException") => {
            warn!(
                target: "idem",
                "this server of DynamoDB's protocol has no TTL: expired records count as absent, but are never deleted"
            );
            Ok(())
        }
        answer => checked(calls, answer).map(drop),
    }
}

fn malformed(error: BuildError) -> StoreError {
    StoreError::rejected(NAME, error)
}

fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code)
}

fn checked<O, E>(
    calls: &Calls,
    answer: Result<O, SdkError<E, HttpResponse>>,
) -> Result<O, StoreError>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    answer.map_err(|error| store_error(&error, &Tries::one(), calls.timeout))
}
