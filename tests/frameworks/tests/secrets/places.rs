//! The stores, each with a login that nobody may read.

use std::any::Any;

use idem_tests::{DynamoDb, Emulator, MariaDb, Postgres, Redis, RedisCluster, TempDir};

use crate::{SECRET, WRONG};

const PASSWORD: &str = "s3cr3t-pass";

/// What the SDK of AWS signs with. It looks for it in its process's environment. The key's id, which the
/// emulator keeps tables apart by, is no secret: each request says it.
pub(crate) const AWS_CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "idem"),
    ("AWS_SECRET_ACCESS_KEY", "s3cr3t-aws-key"),
    ("AWS_SESSION_TOKEN", "s3cr3t-aws-token"),
];

/// A store, and how it goes away.
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) url: String,
    take_away: Box<dyn FnOnce()>,
}

/// Every store.
pub(crate) fn places() -> Vec<Place> {
    let mut places = vec![
        Place::of("memory", (), |()| "memory://".to_owned(), |()| {}),
        Place::of("sqlite", TempDir::new("secrets"), file, remove),
        Place::of("redis", redis(), redis_url, Redis::kill),
        Place::of("redis", cluster(), cluster_url, kill_nodes),
        Place::of("postgres", postgres(), Postgres::url, Postgres::kill),
        Place::of("mysql", mysql(), MariaDb::url, MariaDb::kill),
    ];
    if let Some(emulator) = Emulator::best() {
        let table = dynamodb(emulator);
        let kill = |table: &DynamoDb| table.process().kill();
        places.push(Place::of("dynamodb", table, DynamoDb::url, kill));
    }
    places
}

impl Place {
    fn of<S: Any>(name: &'static str, server: S, url: fn(&S) -> String, kill: fn(&S)) -> Self {
        Self {
            name,
            url: url(&server),
            take_away: Box::new(move || kill(&server)),
        }
    }

    /// Where there is a login.
    pub(crate) fn url_with_a_wrong_password(&self) -> Option<String> {
        let is_login = self.url.contains('@');
        is_login.then(|| self.url.replace(SECRET, WRONG))
    }

    /// Its URL with one more option.
    pub(crate) fn url_with(&self, option: &str) -> String {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{separator}{option}", self.url)
    }

    pub(crate) fn take_away(self) {
        (self.take_away)();
    }
}

fn file(directory: &TempDir) -> String {
    let directory = directory.path().join(SECRET);
    std::fs::create_dir_all(&directory).unwrap();
    format!("sqlite://{}/file.db", directory.display())
}

fn remove(directory: &TempDir) {
    std::fs::remove_dir_all(directory.path().join(SECRET)).unwrap();
}

fn redis() -> Redis {
    let user = format!("app on >{PASSWORD} ~* &* +@all");
    let mut args = vec!["--requirepass", "s3cr3t-admin", "--user"];
    args.extend(user.split(' '));
    Redis::with(&args)
}

fn redis_url(server: &Redis) -> String {
    logged_in(&server.url())
}

fn cluster() -> RedisCluster {
    let cluster = RedisCluster::start();
    let password = format!(">{PASSWORD}");
    for node in cluster.nodes() {
        let user = [
            "ACL", "SETUSER", "app", "on", &password, "~*", "&*", "+@all",
        ];
        node.console().call(&user);
    }
    cluster
}

fn cluster_url(cluster: &RedisCluster) -> String {
    logged_in(&cluster.url())
}

fn kill_nodes(cluster: &RedisCluster) {
    cluster.nodes().iter().for_each(Redis::kill);
}

fn logged_in(url: &str) -> String {
    url.replace("://", &format!("://app:{PASSWORD}@"))
}

fn mysql() -> MariaDb {
    MariaDb::builder().login("app", PASSWORD).start()
}

fn postgres() -> Postgres {
    Postgres::builder().login("app", PASSWORD).start()
}

fn dynamodb(emulator: Emulator) -> DynamoDb {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(DynamoDb::start_alone(emulator))
}
