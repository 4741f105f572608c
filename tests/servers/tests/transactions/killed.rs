//! Processes that are killed in a phase, and between its commit and its checkpoint, whichever store holds
//! the lease: another process goes on, and the rows are there once.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::databases::{postgres, sqlite};

/// It bounds a hang, and says nothing of speed.
const LIMIT: Duration = Duration::from_secs(120);

/// A process that calls the operation.
struct Caller {
    process: Child,
    lines: Receiver<String>,
}

impl Caller {
    fn start(args: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_phase"))
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { process, lines }
    }

    /// What it says next.
    #[track_caller]
    fn says(&self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Kills a process there, and says which amount the next one is given.
fn killed(store: &str, database: &str, at: &str, amounts: [&str; 2]) -> String {
    let first = Caller::start(&[store, database, amounts[0], at]);
    assert_eq!(first.says(), at);
    drop(first);
    Caller::start(&[store, database, amounts[1]]).says()
}

#[tokio::test]
async fn the_next_process_goes_on_and_the_rows_are_there_once() {
    for (at, given) in [("written", 2_i64), ("committed", 1)] {
        for is_apart in [false, true] {
            let (file, sqlite) = sqlite(2).await;
            let (server, postgres) = postgres(2).await;
            let mut stores = [file.url(), server.url()];
            if is_apart {
                stores.reverse();
            }
            let [beside_sqlite, beside_postgres] = stores;
            for (store, database) in [(beside_sqlite, file.url()), (beside_postgres, server.url())]
            {
                let value =
                    tokio::task::spawn_blocking(move || killed(&store, &database, at, ["1", "2"]));
                assert_eq!(value.await.unwrap(), given.to_string(), "{at}, {is_apart}");
            }
            let amounts = "SELECT amount FROM entries";
            let rows: Vec<i64> = sqlx::query_scalar(amounts)
                .fetch_all(&sqlite)
                .await
                .unwrap();
            assert_eq!(rows, [given], "{at}, {is_apart}");
            let rows: Vec<i64> = sqlx::query_scalar(amounts)
                .fetch_all(&postgres)
                .await
                .unwrap();
            assert_eq!(rows, [given], "{at}, {is_apart}");
        }
    }
}
