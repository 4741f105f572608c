//! What it costs: round trips, counted between the store and its server, and what they leave behind.

use std::sync::Arc;

use idem::store::{Change, Lease, Store};
use idem::stores::memory::MemoryStore;
use idem::stores::mysql::MySqlStore;
use idem::{Engine, EngineBuilder, Error, Fingerprint, Operation};
use idem_tests::MariaDb;
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;

use crate::conformance::{claim, finish, patient_at};
use crate::packets::Packets;

async fn run(operation: &Operation, key: &str) -> Result<u32, Error> {
    let fingerprint = Fingerprint::of(&key).unwrap();
    operation
        .run(key, fingerprint, async { Ok(idem::attempt().number()) })
        .await
}

#[tokio::test]
async fn a_first_call_is_two_round_trips_and_a_replay_one() {
    let server = MariaDb::start();
    let packets = Packets::to(server.port()).await;
    let store = patient_at(&packets.url()).await;
    let operation = EngineBuilder::new(Arc::new(store)).build().operation("op");
    // Opens a connection.
    run(&operation, "another").await.unwrap();
    packets.count();
    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    assert_eq!(packets.count(), 2);
    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    assert_eq!(packets.count(), 1);
}

#[tokio::test]
async fn every_transition_of_a_holder_is_one_round_trip() {
    let server = MariaDb::start();
    let packets = Packets::to(server.port()).await;
    let store = patient_at(&packets.url()).await;
    for number in 0..4 {
        store.claim(&claim(number)).await.unwrap();
    }
    packets.count();
    let leases = [0, 1, 2, 3].map(|number| Lease::of(&claim(number), 1));
    for mut lease in leases {
        lease.token = store_token(&server, &lease);
        assert_eq!(store.renew(&lease).await.unwrap(), Change::Applied);
        let step = store.checkpoint(&lease, 0, b"step".as_slice().into());
        assert_eq!(step.await.unwrap(), Change::Applied);
        let (id, token) = (&lease.id, &lease.token);
        let ended = match id.as_bytes()[0] {
            0 => store.release(id, token).await,
            1 => store.abandon(id, token).await,
            2 => store.suspend(id, token).await,
            _ => store.complete(&lease, b"done".as_slice().into()).await,
        };
        assert_eq!(ended.unwrap(), Change::Applied);
        assert_eq!(packets.count(), 3);
    }
}

fn store_token(server: &MariaDb, lease: &Lease) -> idem::store::Token {
    let ask = format!(
        "SELECT HEX(token) FROM idem_records WHERE id = x'{}'",
        lease.id
    );
    let digits = server.sql(&ask);
    let byte = |place| u8::from_str_radix(&digits[2 * place..2 * place + 2], 16).unwrap();
    idem::store::Token::from_bytes(std::array::from_fn(byte))
}

/// Without what the pool itself sends.
async fn quiet(url: &str) -> MySqlPool {
    MySqlPoolOptions::new()
        .max_connections(2)
        .min_connections(2)
        .test_before_acquire(false)
        .connect(url)
        .await
        .unwrap()
}

#[tokio::test]
async fn in_a_transaction_a_first_call_is_four_round_trips_beside_the_bodys_own() {
    let server = MariaDb::start();
    let packets = Packets::to(server.port()).await;
    let pool = quiet(&packets.url()).await;
    MySqlStore::from_pool(pool.clone()).migrate().await.unwrap();
    // With what the pool asks of a connection that comes back, behind the answer.
    let book = async |key: &str, commands: u64| {
        let booked: Result<i64, Error> = Engine::new(MemoryStore::new())
            .operation("tests.costs")
            .transaction(&pool)
            .run(key, Fingerprint::of(key).unwrap(), |tx| async move {
                (tx, Ok(1))
            })
            .await;
        assert_eq!(booked.unwrap(), 1);
        packets.count_to(commands).await
    };
    // A sweep comes behind the first one.
    book("another", 5).await;
    packets.quiet().await;
    // Beginning, savepoint, outcome, commit, and the pool's ping.
    for key in ["one", "two", "three"] {
        assert_eq!(book(key, 5).await, 5, "{key}");
    }
    // The look, and the pool's ping.
    for key in ["one", "two", "three"] {
        assert_eq!(book(key, 2).await, 2, "{key}");
    }
}

#[tokio::test]
async fn replays_leave_nothing_behind() {
    let server = MariaDb::builder().with_log().start();
    let store = patient_at(&server.url()).await;
    finish(&store, &claim(1), &[7; 350]).await;
    let state = || {
        server.sql(
            "SELECT @@gtid_binlog_pos; \
             SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME IN \
                ('INNODB_ROWS_INSERTED', 'INNODB_ROWS_UPDATED', 'INNODB_ROWS_DELETED', \
                'HANDLER_WRITE', 'HANDLER_UPDATE', 'BINLOG_COMMITS') AND VARIABLE_NAME NOT LIKE \
                'HANDLER%'",
        )
    };
    let before = state();
    for _ in 0..1000 {
        store.claim(&claim(1)).await.unwrap();
    }
    assert_eq!(state(), before);
    // The look itself sees what there is to see.
    finish(&store, &claim(2), &[7; 350]).await;
    assert_ne!(state(), before);
}
