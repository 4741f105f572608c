//! Holds a server until it is killed: `hold redis`, `hold postgres`, and `paused` after either. A
//! test kills it and looks after the server, whose processes it names.

use std::time::Duration;

use idem_tests::{Postgres, Redis};

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let (server, paused) = match args[..] {
        [server] => (server, false),
        [server, "paused"] => (server, true),
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

fn hold(pids: &str) {
    println!("{pids}");
    std::thread::sleep(Duration::from_secs(600));
}
