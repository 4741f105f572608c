//! Holds a server until it is killed: `hold redis`, `hold postgres`, and `paused` after either. A
//! test kills it and looks after the server, whose processes it names. `hold sqlite FILE STATEMENT`
//! holds the lock that the statement takes, until its input ends.

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

fn hold(pids: &str) {
    println!("{pids}");
    std::thread::sleep(Duration::from_secs(600));
}
