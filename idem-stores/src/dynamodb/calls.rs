//! A call to the service: sent, witnessed, and its answer. Knows no transition.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::SharedInterceptor;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure,
};
use idem_core::{RecordId, StoreError};

use super::clock::{self, Clock, Now, Reading};
use super::errors::{no_date, store_error};
use super::lanes::Lanes;
use super::record::{self, Item, Record};
use super::witness::{Tries, Witness};

/// Where the records are.
pub(super) struct Calls {
    /// For claims and all else that holds no lease, and for whatever creates a record: the SDK sends nothing
    /// again that may have been done.
    pub(super) claims: Client,
    /// For changes of lease holders, which may be made twice.
    pub(super) holders: Client,
    pub(super) table: String,
    pub(super) timeout: Duration,
    pub(super) clock: Clock,
    pub(super) lanes: Lanes,
}

/// An expression with its values.
#[derive(Clone, Debug, Default)]
pub(super) struct Expression {
    text: String,
    values: HashMap<String, AttributeValue>,
}

impl Expression {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            values: HashMap::new(),
        }
    }

    #[must_use]
    pub(super) fn value(mut self, name: &str, value: AttributeValue) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }

    #[must_use]
    pub(super) fn and(mut self, text: &str) -> Self {
        self.text.push_str(" AND ");
        self.text.push_str(text);
        self
    }

    /// There is no record.
    pub(super) fn absent() -> Self {
        Self::new("attribute_not_exists(id)")
    }

    /// The record is as it was read: the same attempt, in the same state, with the same ends.
    pub(super) fn as_read(record: &Record) -> Self {
        let same = Self::new("t = :seen_t AND s = :seen_s AND expires = :seen_x")
            .value(
                ":seen_t",
                record::binary(record.token.as_bytes().as_slice()),
            )
            .value(":seen_s", record.state.value())
            .value(":seen_x", record::number(record.expires));
        match record.lease_end {
            Some(end) => same
                .and("l = :seen_l")
                .value(":seen_l", record::number(end)),
            None => same,
        }
    }
}

/// What became of a conditional write.
#[derive(Debug)]
pub(super) enum Write {
    /// It was made. With the item that was asked for: as it is after an update, as it was before a deletion.
    Done(Option<Item>),
    /// Its condition does not hold: this is what is there.
    Unmet(Option<Box<Record>>),
}

/// When a call began, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    /// What was taken for the server's clock.
    pub(super) now: Now,
    pub(super) at: Instant,
}

/// An answer, when it was given, and by how many tries.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    pub(super) reading: Reading,
    /// A try before the last one may have taken effect.
    pub(super) earlier_may_have_effect: bool,
    began: Began,
}

impl<T> Answer<T> {
    /// The server's clock, in whole seconds since 1970: what the item in the answer is judged by.
    pub(super) const fn date(&self) -> i64 {
        self.reading.date
    }

    /// Whether an end that was counted from the beginning of this call is known to be late enough.
    pub(super) fn is_proven(&self) -> bool {
        clock::is_proven(self.began.now, self.began.at, &self.reading)
    }

    fn map<U>(self, map: impl FnOnce(T) -> Result<U, StoreError>) -> Result<Answer<U>, StoreError> {
        Ok(Answer {
            value: map(self.value)?,
            reading: self.reading,
            earlier_may_have_effect: self.earlier_may_have_effect,
            began: self.began,
        })
    }
}

/// Errors of writes with a condition.
trait Conditional {
    /// The item that is there, where the condition does not hold.
    fn unmet(self) -> Option<Option<Item>>;
}

macro_rules! conditional {
    ($($error:ident),*) => {$(
        impl Conditional for $error {
            fn unmet(self) -> Option<Option<Item>> {
                match self {
                    Self::ConditionalCheckFailedException(failed) => Some(failed.item),
                    _ => None,
                }
            }
        }
    )*};
}

conditional!(PutItemError, UpdateItemError, DeleteItemError);

impl Calls {
    /// The server's clock. An answer has told it since the store was opened.
    pub(super) fn now(&self) -> Result<Now, StoreError> {
        self.clock.now().ok_or_else(no_date)
    }

    /// A call begins. What it writes is counted from here.
    pub(super) fn begin(&self) -> Result<Began, StoreError> {
        let at = Instant::now();
        Ok(Began {
            now: self.now()?,
            at,
        })
    }

    /// Writes an item in the place of what is there.
    pub(super) async fn put(
        &self,
        id: &RecordId,
        item: Item,
        began: Began,
        condition: Expression,
    ) -> Result<Answer<Write>, StoreError> {
        let request = self
            .claims
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(condition.text)
            .set_expression_attribute_values(some(condition.values))
            .return_values_on_condition_check_failure(OLD)
            .customize();
        let written = self.witnessed(began, |witness| request.interceptor(witness).send());
        let written = conditional(written.await, self.timeout, |_| None)?;
        self.with_what_is_there(id, written).await
    }

    /// Changes an item. Answers with it as it is then where that is what is `returned`.
    pub(super) async fn update(
        &self,
        client: &Client,
        id: &RecordId,
        began: Began,
        update: Expression,
        condition: Expression,
        returned: ReturnValue,
    ) -> Result<Answer<Write>, StoreError> {
        let mut values = update.values;
        values.extend(condition.values);
        let request = client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(record::key(id)))
            .update_expression(update.text)
            .condition_expression(condition.text)
            .set_expression_attribute_values(some(values))
            .return_values(returned)
            .return_values_on_condition_check_failure(OLD)
            .customize();
        let written = self.witnessed(began, |witness| request.interceptor(witness).send());
        let written = conditional(written.await, self.timeout, |output| output.attributes)?;
        self.with_what_is_there(id, written).await
    }

    /// Deletes an item, and answers with it as it was.
    pub(super) async fn delete(
        &self,
        client: &Client,
        id: &RecordId,
        condition: Expression,
    ) -> Result<Answer<Write>, StoreError> {
        let request = client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(record::key(id)))
            .condition_expression(condition.text)
            .set_expression_attribute_values(some(condition.values))
            .return_values(ReturnValue::AllOld)
            .return_values_on_condition_check_failure(OLD)
            .customize();
        let began = self.begin()?;
        let written = self.witnessed(began, |witness| request.interceptor(witness).send());
        let written = conditional(written.await, self.timeout, |output| output.attributes)?;
        self.with_what_is_there(id, written).await
    }

    /// Reads an item, strongly consistent. The first call of a store: it learns the clock, and needs none.
    pub(super) async fn get(&self, id: &RecordId) -> Result<Answer<Option<Record>>, StoreError> {
        let request = self
            .claims
            .get_item()
            .table_name(&self.table)
            .set_key(Some(record::key(id)))
            .consistent_read(true)
            .customize();
        let began = Began {
            now: self.clock.now().unwrap_or_default(),
            at: Instant::now(),
        };
        let answer = self
            .witnessed(began, |witness| request.interceptor(witness).send())
            .await;
        told(answer, self.timeout)?.map(|output| output.item.map(Record::read).transpose())
    }

    /// Reads a page of the table, or of an index: the items, and where the next page begins.
    pub(super) async fn scan(
        &self,
        scan: Scan<'_>,
    ) -> Result<Answer<(Vec<Item>, Option<Item>)>, StoreError> {
        let filter = scan.filter;
        let (text, values) = match filter {
            Some(filter) => (Some(filter.text), some(filter.values)),
            None => (None, None),
        };
        let request = self
            .claims
            .scan()
            .table_name(&self.table)
            .set_index_name(scan.index.map(str::to_owned))
            .consistent_read(scan.index.is_none())
            .limit(i32::try_from(scan.limit).unwrap_or(i32::MAX))
            .projection_expression(scan.attributes)
            .set_filter_expression(text)
            .set_expression_attribute_values(values)
            .set_exclusive_start_key(scan.after)
            .customize();
        let began = self.begin()?;
        let answer = self
            .witnessed(began, |witness| request.interceptor(witness).send())
            .await;
        told(answer, self.timeout)?
            .map(|output| Ok((output.items.unwrap_or_default(), output.last_evaluated_key)))
    }

    /// Reads these items, strongly consistent, without their steps and outcomes. Some may be missing from
    /// the answer: those that the service had no time for are the second part of it.
    pub(super) async fn get_many(
        &self,
        ids: &[RecordId],
    ) -> Result<Answer<(Vec<Item>, usize)>, StoreError> {
        let keys = KeysAndAttributes::builder()
            .set_keys(Some(ids.iter().map(record::key).collect()))
            .consistent_read(true)
            .projection_expression(record::LISTED)
            .build()
            .map_err(|error| StoreError::rejected(super::NAME, error))?;
        let request = self
            .claims
            .batch_get_item()
            .request_items(&self.table, keys)
            .customize();
        let began = self.begin()?;
        let answer = self
            .witnessed(began, |witness| request.interceptor(witness).send())
            .await;
        told(answer, self.timeout)?.map(|output| {
            let unread = output.unprocessed_keys.unwrap_or_default();
            let unread = unread.into_values().map(|keys| keys.keys.len()).sum();
            let items = output.responses.unwrap_or_default();
            Ok((items.into_values().flatten().collect(), unread))
        })
    }

    /// Nothing is there, says an answer without an item; so does a server that never tells. It is looked for:
    /// a record that is gone is rare.
    async fn with_what_is_there(
        &self,
        id: &RecordId,
        written: Answer<Write>,
    ) -> Result<Answer<Write>, StoreError> {
        if !matches!(written.value, Write::Unmet(None)) {
            return Ok(written);
        }
        let found = self.get(id).await?;
        Ok(Answer {
            value: Write::Unmet(found.value.map(Box::new)),
            reading: found.reading,
            ..written
        })
    }

    async fn witnessed<O, E, F>(
        &self,
        began: Began,
        send: impl FnOnce(SharedInterceptor) -> F,
    ) -> Witnessed<O, E>
    where
        F: Future<Output = Result<O, SdkError<E, HttpResponse>>>,
    {
        let witness = Witness::default();
        // Boxed: the SDK's future is large, and a claim's own is moved about.
        let sent = send(SharedInterceptor::new(witness.clone()));
        let result = Box::pin(sent).await;
        let tries = witness.tries();
        if let Some(reading) = &tries.reading {
            self.clock.learn(reading);
        }
        Witnessed {
            result,
            tries,
            began,
        }
    }
}

/// A call's result, before anybody has judged it.
struct Witnessed<O, E> {
    result: Result<O, SdkError<E, HttpResponse>>,
    tries: Tries,
    began: Began,
}

/// A page of items to be read.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    pub(super) index: Option<&'a str>,
    pub(super) attributes: &'a str,
    pub(super) limit: usize,
    pub(super) filter: Option<Expression>,
    pub(super) after: Option<Item>,
}

const OLD: ReturnValuesOnConditionCheckFailure = ReturnValuesOnConditionCheckFailure::AllOld;

/// The service takes no empty map.
fn some(values: HashMap<String, AttributeValue>) -> Option<HashMap<String, AttributeValue>> {
    (!values.is_empty()).then_some(values)
}

fn answer<T, E>(value: T, witnessed: &Witnessed<(), E>) -> Result<Answer<T>, StoreError> {
    Ok(Answer {
        value,
        reading: witnessed.tries.reading.ok_or_else(no_date)?,
        earlier_may_have_effect: witnessed.tries.earlier_may_have_effect,
        began: witnessed.began,
    })
}

fn told<O, E>(witnessed: Witnessed<O, E>, timeout: Duration) -> Result<Answer<O>, StoreError>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let Witnessed {
        result,
        tries,
        began,
    } = witnessed;
    let rest = Witnessed::<(), E> {
        result: Ok(()),
        tries,
        began,
    };
    match result {
        Ok(output) => answer(output, &rest),
        Err(error) => Err(store_error(&error, &tries, timeout)),
    }
}

fn conditional<O, E>(
    witnessed: Witnessed<O, E>,
    timeout: Duration,
    item_of: impl FnOnce(O) -> Option<Item>,
) -> Result<Answer<Write>, StoreError>
where
    E: Conditional + ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let Witnessed {
        result,
        tries,
        began,
    } = witnessed;
    let rest = Witnessed::<(), E> {
        result: Ok(()),
        tries,
        began,
    };
    let error = match result {
        Ok(output) => return answer(Write::Done(item_of(output)), &rest),
        Err(error) => error,
    };
    match error {
        SdkError::ServiceError(failed)
            if failed.err().code() == Some("ConditionalCheckFailedException") =>
        {
            let item = failed.into_err().unmet().flatten();
            let record = item.map(Record::read).transpose()?;
            answer(Write::Unmet(record.map(Box::new)), &rest)
        }
        other => Err(store_error(&other, &tries, timeout)),
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("table", &self.table)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
