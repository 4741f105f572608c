//! Holds a server until it is killed: `hold redis`, `hold postgres`, and `paused` after either. A
//! test kills it and looks after the server, whose processes it names. `hold sqlite FILE STATEMENT`
//! holds the lock that the statement takes, until its input ends, and `hold sqlite-writes FILE` writes
//! to the file until then.

use std::io::Read;
use std::time::Duration;

use idem_tests::{Postgres, Redis};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let (server, paused) = match args[..] {
        [server] => (server, false),
        [server, "paused"] => (server, true),
        ["sqlite", file, statement] => return lock(file, statement.to_owned()),
        ["sqlite-writes", file] => return write(file),
        _ => panic!("hold redis or postgres, and perhaps paused; not {args:?}"),
    };
    match server {
        "redis" => {
            let redis = Redis::start();
            if paused {
                redis.pause();
            }
            hold(&redis.process().pid().to_string());
        }
        "postgres" => {
            let postgres = Postgres::start();
            let others = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
            let others = postgres.psql(others).replace('\n', " ");
            if paused {
                postgres.pause();
            }
            hold(&format!("{} {others}", postgres.process().pid()));
        }
        _ => panic!("hold redis or postgres, not {server}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn lock(file: &str, statement: String) {
    let options = SqliteConnectOptions::new().filename(file);
    let mut connection = options.connect().await.expect("a database");
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .expect("a lock");
    println!("it is locked");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("a pipe");
    connection.close().await.expect("an unlocked database");
}

/// A transaction after the other, each of a few pages.
#[tokio::main(flavor = "current_thread")]
async fn write(file: &str) {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(std::time::Duration::from_secs(600));
    let mut connection = options.connect().await.expect("a database");
    let table = "CREATE TABLE IF NOT EXISTS beside (bytes BLOB NOT NULL)";
    sqlx::query(table)
        .execute(&mut connection)
        .await
        .expect("a table");
    println!("it writes");
    let (ended, mut end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        let _ = ended.send(());
    });
    while end.try_recv().is_err() {
        sqlx::raw_sql(
            "BEGIN IMMEDIATE;
             INSERT INTO beside SELECT randomblob(1000) FROM json_each('[1, 2, 3, 4, 5, 6, 7, 8]');
             DELETE FROM beside WHERE rowid <= (SELECT max(rowid) FROM beside) - 1000;
             COMMIT",
        )
        .execute(&mut connection)
        .await
        .expect("a commit");
    }
    connection.close().await.expect("a closed database");
}

fn hold(pids: &str) {
    println!("{pids}");
    std::thread::sleep(Duration::from_secs(600));
}
