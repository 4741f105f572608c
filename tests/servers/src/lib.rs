//! Private real servers for tests: each test starts its own, on free ports of 127.0.0.1.
//!
//! A server dies with the value that holds it, and with the test's process, however that ends.
//! Everything here blocks and panics: it is for tests. Every wait has a limit and says what
//! did not happen. In a test on one async thread, call it through `spawn_blocking`.
//!
//! ```
//! let redis = idem_tests::Redis::start();
//! redis.console().call(&["SET", "key", "value"]);
//! redis.pause(); // clients of redis.url() now wait
//! redis.resume();
//!
//! let postgres = idem_tests::Postgres::start();
//! postgres.psql("CREATE TABLE kept (key text)");
//! postgres.kill();
//! postgres.restart();
//! assert_eq!(postgres.psql("SELECT count(*) FROM kept"), "0");
//! ```

mod certificates;
mod console;
pub mod declared;
pub mod dynamodb;
mod mariadb;
mod pgbouncer;
mod postgres;
mod process;
mod redis;
mod support;
mod wall_clock;

pub use console::{Console, Reply};
pub use dynamodb::{DynamoDb, Emulator};
pub use mariadb::{MariaDb, MariaDbBuilder};
pub use pgbouncer::{PgBouncer, PoolMode};
pub use postgres::{Backup, Postgres, PostgresBuilder};
pub use process::{Process, Signal};
pub use redis::{Flavor, Redis, RedisBuilder, RedisCluster, RedisSentinel, redis_server_program};
pub use support::{TempDir, free_port, wait_until};
pub use wall_clock::wall_clock_off;
