//! Holds a server until it is killed. A test kills it and looks after the server.

use std::time::Duration;

use idem_tests::Redis;

fn main() {
    let redis = Redis::start();
    println!("{}", redis.process().pid());
    std::thread::sleep(Duration::from_secs(600));
}
