//! Load: who holds a lease goes first, whoever else comes.

use std::time::{Duration, Instant};

use idem::stores::dynamodb::DynamoDbStore;
use idem_tests::{DynamoDb, Emulator};

use crate::flood::{self, HELD, LEASE};

/// It bounds a hang, and says nothing of speed.
const LIMIT: Duration = Duration::from_secs(120);

/// The emulator serves few at once on a busy machine, and takes its time.
async fn store(server: &DynamoDb) -> DynamoDbStore {
    let builder = server.builder().max_claims(2).max_waiting(100);
    let builder = builder.timeout(Duration::from_secs(3));
    let started = Instant::now();
    loop {
        match builder.clone().connect().await {
            Ok(store) => return store,
            Err(error) => assert!(started.elapsed() < LIMIT, "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_callers_cost_no_lease() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start_alone(emulator).await;
    let [here, elsewhere] = [store(&server).await, store(&server).await];
    let fared = flood::costs_no_lease(here, elsewhere, 500, LEASE * 3 / 2).await;
    assert!(fared.unsent > 0, "{fared:?}");
    // Who was served, and nobody else, has left a record.
    let mut count = 0;
    let client = server.client();
    let scan = client.scan().table_name(server.table());
    let mut pages = scan.select(aws_sdk_dynamodb::types::Select::Count);
    loop {
        let page = pages.clone().send().await.unwrap();
        count += usize::try_from(page.count()).unwrap();
        match page.last_evaluated_key {
            Some(key) => pages = pages.set_exclusive_start_key(Some(key)),
            None => break,
        }
    }
    assert_eq!(count, fared.served + HELD, "{fared:?}");
}
