//! Logins, TLS and URLs: they work, and credentials appear nowhere.

use std::error::Error;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use idem::store::{Change, Claimed, Forgotten, Listing, Store};
use idem::stores::redis::RedisStore;
use idem::{ConnectError, Engine, Fingerprint, InFlight, Phase, StoreError};
use idem_tests::{Flavor, Redis, RedisCluster, RedisSentinel};
use tokio::sync::Notify;
use tracing_subscriber::filter::LevelFilter;

use crate::conformance::claim;
use crate::log::{listen, listen_to};
use crate::patience::{PATIENCE, connect};

const SECRET: &str = "s3cr3t-p%40ss";
const DECODED: &str = "s3cr3t-p@ss";

/// The least that a user needs, as the documentation says.
const RIGHTS: &str = "~idem:* &idem:* -@all +set +get +getrange +setrange +del +pttl +pexpire \
                      +evalsha +eval +ssubscribe +sunsubscribe +spublish +ping +info +scan";

fn with_user() -> Redis {
    let user = format!("app on >{DECODED} {RIGHTS}");
    let mut args = vec!["--requirepass", "admin", "--user"];
    args.extend(user.split(' '));
    Redis::with(&args)
}

fn url(redis: &Redis, login: &str) -> String {
    redis.url().replace("://", &format!("://{login}@"))
}

/// Changes what a user may do, or makes one.
fn set_user(server: &Redis, user: &str) {
    let mut words = vec!["ACL", "SETUSER"];
    words.extend(user.split_whitespace());
    server.console().call(&words);
}

/// Everything that can be asked of a store.
async fn exercise(store: &RedisStore) {
    let (first, second) = (claim(1), claim(2));
    let acquired = store.claim(&first).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
    let answer = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(answer, Claimed::InFlight { .. }));
    let watch = store.watch(&first.id).await.unwrap();
    let _ = store
        .renew(&idem::store::Lease::of(&first, 1))
        .await
        .unwrap();
    let outcome = bytes::Bytes::from_static(b"outcome");
    let _ = store
        .complete(&idem::store::Lease::of(&first, 1), outcome)
        .await
        .unwrap();
    watch.await;
    store.claim(&second).await.unwrap();
    let _ = store.abandon(&second.id, &second.token).await.unwrap();
    let next = claim(2);
    assert_eq!(store.claim(&next).await.unwrap(), Claimed::acquired(2));
    let _ = store.release(&next.id, &next.token).await.unwrap();
    assert!(store.inspect(&next.id).await.unwrap().is_none());

    let (third, steps) = (claim(3), bytes::Bytes::from_static(b"steps"));
    store.claim(&third).await.unwrap();
    let lease = idem::store::Lease::of(&third, 1);
    let change = store.checkpoint(&lease, 0, steps.clone()).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let change = store.suspend(&third.id, &third.token).await;
    assert_eq!(change.unwrap(), Change::Applied);
    let next = claim(3);
    let handed_on = Claimed::Acquired { attempt: 2, steps };
    assert_eq!(store.claim(&next).await.unwrap(), handed_on);
    let _ = store.abandon(&next.id, &next.token).await.unwrap();
    let forgotten = store.forget(&third.id).await.unwrap();
    assert_eq!(forgotten, Forgotten::Removed);
}

#[tokio::test]
async fn a_user_with_the_documented_rights_is_enough() {
    let redis = with_user();
    let url = url(&redis, &format!("app:{SECRET}"));
    exercise(&connect(&url, PATIENCE).await).await;
}

#[tokio::test]
async fn two_rights_more_tell_when_a_record_was_claimed_and_list_it() {
    let redis = with_user();
    let url = url(&redis, &format!("app:{SECRET}"));
    let store = connect(&url, PATIENCE).await;
    store.claim(&claim(1)).await.unwrap();
    let seen = store.inspect(&claim(1).id).await.unwrap().unwrap();
    assert_eq!(seen.claimed_at, None);
    let refused = store.list(&Listing::new(10)).await;
    assert!(
        matches!(refused, Err(StoreError::Rejected { .. })),
        "{refused:?}"
    );
    set_user(&redis, "app +time +strlen");
    let store = connect(&url, PATIENCE).await;
    store.claim(&claim(2)).await.unwrap();
    let listed = store.list(&Listing::new(10)).await.unwrap().records;
    assert_eq!(listed.len(), 2);
    for listed in listed {
        assert_eq!(listed.claimed_at.is_some(), listed.id == claim(2).id);
    }
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_settings_is_enough() {
    let redis = with_user();
    set_user(&redis, "app -info -scan");
    let url = url(&redis, &format!("app:{SECRET}"));
    exercise(&connect(&url, PATIENCE).await).await;
}

#[tokio::test]
async fn a_cluster_and_a_database_number_need_one_documented_right_more() {
    let redis = with_user();
    set_user(&redis, "app +select");
    let url = url(&redis, &format!("app:{SECRET}"));
    exercise(&connect(&format!("{url}/1"), PATIENCE).await).await;

    let cluster = RedisCluster::start();
    for node in cluster.nodes() {
        set_user(node, &format!("app on >{DECODED} {RIGHTS} +cluster|slots"));
    }
    let url = cluster.url().replace("://", &format!("://app:{SECRET}@"));
    exercise(&connect(&url, PATIENCE).await).await;
}

#[tokio::test]
async fn who_may_not_publish_ends_watched_records_all_the_same() {
    let redis = Redis::start();
    let watcher = connect(&redis.url(), PATIENCE).await;
    for rights in ["+@all resetchannels", "+@all -spublish allchannels"] {
        set_user(&redis, &format!("mute reset on >pw ~idem:* {rights}"));
        let writer = connect(&url(&redis, "mute:pw"), PATIENCE).await;
        let (released, abandoned, completed) = (claim(1), claim(2), claim(3));
        let mut watches = Vec::new();
        for claim in [&released, &abandoned, &completed] {
            watcher.claim(claim).await.unwrap();
            watches.push(watcher.watch(&claim.id).await.unwrap());
        }

        let change = writer.release(&released.id, &released.token).await;
        assert_eq!(change.unwrap(), Change::Applied, "{rights}");
        assert_eq!(watcher.inspect(&released.id).await.unwrap(), None);
        let change = writer.abandon(&abandoned.id, &abandoned.token).await;
        assert_eq!(change.unwrap(), Change::Applied, "{rights}");
        let taken_over = watcher.claim(&claim(2)).await.unwrap();
        assert_eq!(taken_over, Claimed::acquired(2));
        let outcome = bytes::Bytes::from_static(b"outcome");
        let lease = idem::store::Lease::of(&completed, 1);
        let change = writer.complete(&lease, outcome).await;
        assert_eq!(change.unwrap(), Change::Applied, "{rights}");
        let seen = watcher.inspect(&completed.id).await.unwrap().unwrap();
        assert!(matches!(seen.phase, Phase::Finished { .. }), "{seen:?}");
        redis.console().call(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn a_right_that_is_missing_is_a_refusal_and_never_fails_open() {
    let redis = with_user();
    let app = url(&redis, &format!("app:{SECRET}"));
    let store = connect(&app, PATIENCE).await;
    set_user(&redis, "app -set");
    let refused = store.claim(&claim(1)).await;
    assert!(
        matches!(refused, Err(StoreError::Rejected { .. })),
        "{refused:?}"
    );
    let engine = Engine::builder(store).fail_open(true).build();
    let body = async { panic!("this body must not run") };
    let request = Fingerprint::of("request").unwrap();
    let refused: Result<u32, _> = engine.operation("op").run("k", request, body).await;
    assert!(
        matches!(
            refused,
            Err(idem::Error::Store(StoreError::Rejected { .. }))
        ),
        "{refused:?}"
    );
    // So is the password, when connecting.
    let refused = RedisStore::connect(&url(&redis, "app:wrong")).await;
    assert!(
        matches!(
            refused,
            Err(ConnectError::Store(StoreError::Rejected { .. }))
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_right_that_only_scripts_need_runs_nothing_twice_where_it_is_missing() {
    let redis = with_user();
    let app = url(&redis, &format!("app:{SECRET}"));
    let store = connect(&app, PATIENCE).await;
    let engine = Engine::builder(store).fail_open(true).build();
    let operation = engine.operation("op").in_flight(InFlight::Reject);
    let request = Fingerprint::of("request").unwrap();
    let (runs, ends) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let body = {
        let (runs, ends) = (Arc::clone(&runs), Arc::clone(&ends));
        async move {
            runs.notify_one();
            ends.notified().await;
            Ok::<_, idem::Error>(1)
        }
    };
    let first = tokio::spawn({
        let operation = operation.clone();
        async move { operation.run("k", request, body).await }
    });
    runs.notified().await;

    // Another process, which sees the record for the first time.
    let other = connect(&app, PATIENCE).await;
    set_user(&redis, "app -pttl");
    let other = Engine::builder(other).fail_open(true).build();
    let twice = async { panic!("this body must not run") };
    let refused: Result<u32, _> = other.operation("op").run("k", request, twice).await;
    assert!(
        matches!(
            refused,
            Err(idem::Error::Store(StoreError::Rejected { .. }))
        ),
        "{refused:?}"
    );
    set_user(&redis, "app +pttl");
    ends.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_database_that_the_login_may_not_select_is_no_outage() {
    let redis = with_user();
    let app = url(&redis, &format!("app:{SECRET}"));
    let refused = RedisStore::connect(&format!("{app}/1")).await;
    assert!(
        matches!(
            refused,
            Err(ConnectError::Store(StoreError::Rejected { .. }))
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_password_alone_is_the_default_users() {
    let redis = Redis::with(&["--requirepass", DECODED]);
    let url = url(&redis, &format!(":{SECRET}"));
    exercise(&connect(&url, PATIENCE).await).await;
}

#[tokio::test]
async fn a_primary_behind_sentinels_has_a_login_of_its_own() {
    let sentinel = RedisSentinel::start();
    for server in sentinel.servers() {
        set_user(server, &format!("app on >{DECODED} {RIGHTS} +role"));
    }
    for server in sentinel.sentinels() {
        set_user(server, "default resetpass >watch");
    }
    let url = sentinel.url().replace("://", &format!("://app:{SECRET}@"));
    let refused = RedisStore::connect(&url).await;
    assert!(refused.is_err(), "the sentinels ask for a password");
    let builder = RedisStore::builder(&url).unwrap();
    let store = builder.sentinel_login("", "watch").connect().await.unwrap();
    exercise(&store).await;
}

/// Redis of every distribution has it; a Valkey that was built otherwise need not.
fn has_tls() -> bool {
    let has_tls = Flavor::Redis.has_tls();
    let is_redis = Flavor::Redis.program().ends_with("redis-server");
    assert!(has_tls || !is_redis, "redis-server was built without TLS");
    has_tls
}

#[tokio::test]
async fn over_tls_with_a_certificate_that_is_trusted() {
    if !has_tls() {
        return;
    }
    let redis = Redis::start_tls();
    let builder = RedisStore::builder(&redis.url()).unwrap();
    let store = builder
        .root_certificates(redis.ca_pem())
        .connect()
        .await
        .unwrap();
    exercise(&store).await;
}

#[tokio::test]
async fn over_tls_a_certificate_that_nobody_trusts_is_refused() {
    if !has_tls() {
        return;
    }
    let redis = Redis::start_tls();
    let refused = RedisStore::connect(&redis.url()).await;
    let error = refused.unwrap_err();
    assert!(chain(&error).contains("ertificate"), "{}", chain(&error));
    // No outage: it will be refused again.
    assert!(
        matches!(error, ConnectError::Store(StoreError::Rejected { .. })),
        "{error:?}"
    );
    // Nor is a certificate of somebody else.
    let other = Redis::start_tls();
    let builder = RedisStore::builder(&redis.url()).unwrap();
    let refused = builder.root_certificates(other.ca_pem()).connect().await;
    assert!(refused.is_err());
}

/// An error with all its sources, both as they are displayed and as they are debugged.
fn chain(error: &dyn Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    text
}

#[tokio::test]
async fn urls_are_told_what_is_wrong_with_them_and_never_repeated() {
    let wrong = [
        ("redis://", "no host"),
        ("redis://user:hunter2@", "no host"),
        ("redis://user:hunter2@host:notaport", "redis://"),
        ("redis://user:hunter2@host/notadatabase", "redis://"),
        ("redis://user:hunter2@one,two", "redis-cluster://"),
        ("redis://user:hunter2@host?speed=9", "prefix, timeout"),
        ("redis://user:hunter2@host?max_claims=0", "1 at least"),
        (
            "redis://user:hunter2@host?max_waiting=many",
            "whole numbers",
        ),
        (
            "redis://user:hunter2@host?wait_replicas=-1",
            "whole numbers",
        ),
        ("redis://user:hunter2@host?timeout=soon", "2s or 500ms"),
        ("redis://user:hunter2@host?master=m", "redis-sentinel://"),
        ("redis://user:hunter2@host?prefix=%ff", "UTF-8"),
        ("redis-cluster://user:hunter2@one,two/3", "database"),
        ("redis-sentinel://user:hunter2@one,two", "?master=NAME"),
        ("redis://hunter2@host", "user:password@"),
        ("redis-cluster://hunter2@one,two", "user:password@"),
        ("redis://user:hunter2#@host", "%23"),
        ("redis-ring://user:hunter2@host", "no store"),
        ("redissss://user:hunter2@host", "no store"),
    ];
    for (url, hint) in wrong {
        let Err(error) = idem::connect(url).await else {
            panic!("{url} is no store");
        };
        let message = chain(&error);
        assert!(message.contains(hint), "{url}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

/// A server that notes whether anybody came.
struct Doorbell(TcpListener);

impl Doorbell {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Who has connected is seen here, also if nobody has let them in.
    fn was_rung(&self) -> bool {
        match self.0.accept() {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_scheme_that_is_not_exactly_known_sends_nobodys_password_in_plain_text() {
    let server = Doorbell::new();
    for scheme in [
        "REDISS",
        "Rediss",
        "valkeys",
        "https",
        "redis+tls",
        "REDISS-CLUSTER",
        "rediss-Sentinel",
        "redis-clusters",
        "rediss ",
    ] {
        let url = format!("{scheme}://:hunter2@127.0.0.1:{}", server.port());
        let by_hand = RedisStore::connect(&url).await;
        assert!(
            matches!(by_hand, Err(ConnectError::UnknownScheme)),
            "{scheme}: {by_hand:?}"
        );
        assert!(idem::connect(&url).await.is_err(), "{scheme}");
        assert!(!server.was_rung(), "{scheme}");
    }
}

#[tokio::test]
async fn a_hash_in_a_login_leads_nowhere_else() {
    // To a parser for which a # ends the authority, the login is the host.
    let elsewhere = Doorbell::new();
    let hash = format!("redis://127.0.0.1:{}#x@localhost:1", elsewhere.port());
    let refused = RedisStore::connect(&hash).await.unwrap_err();
    assert!(chain(&refused).contains("%23"), "{}", chain(&refused));
    assert!(!elsewhere.was_rung());
    // Encoded, it is a character like others.
    let redis = Redis::with(&["--requirepass", "p#ss"]);
    let encoded = url(&redis, ":p%23ss");
    exercise(&connect(&encoded, PATIENCE).await).await;
}

#[tokio::test]
async fn credentials_are_in_no_log_error_or_debug_form() {
    let (log, _guard) = listen_to(LevelFilter::TRACE);

    let redis = with_user();
    let wrong = url(&redis, "app:wr0ng-p4ssw0rd");
    let right = url(&redis, &format!("app:{SECRET}"));
    let mut seen = chain(&RedisStore::connect(&wrong).await.unwrap_err());
    let builder = RedisStore::builder(&right).unwrap();
    seen.push_str(&format!("{builder:?}"));
    let store = builder
        .command_timeout(Duration::from_secs(5))
        .connect()
        .await
        .unwrap();
    seen.push_str(&format!("{store:?}"));
    let engine = Engine::new(store.clone());
    let operation = engine.operation("op");
    seen.push_str(&format!("{engine:?} {operation:?}"));
    // Bad times are talkative.
    redis.kill();
    for _ in 0..2 {
        let fingerprint = Fingerprint::of("request").unwrap();
        let body = async { Ok::<_, idem::Error>(1) };
        let refused = operation.run("the client's key", fingerprint, body).await;
        seen.push_str(&chain(&refused.unwrap_err()));
    }

    let log = log.take();
    assert!(log.contains("store call failed"), "{log}");
    seen.push_str(&log);
    for secret in [SECRET, DECODED, "wr0ng-p4ssw0rd", "the client's key"] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
}

#[tokio::test]
async fn a_server_that_loses_records_is_warned_of() {
    let (log, _guard) = listen();
    let warned = async |args: &[&str]| {
        let redis = Redis::with(args);
        RedisStore::connect(&redis.url()).await.unwrap();
        log.take()
    };
    let log = warned(&["--maxmemory-policy", "allkeys-lru", "--appendonly", "yes"]).await;
    assert!(
        log.contains("allkeys-lru") && log.contains("noeviction"),
        "{log}"
    );
    assert!(!log.contains("append-only"), "{log}");
    let log = warned(&["--appendonly", "no"]).await;
    assert!(
        log.contains("append-only") && !log.contains("noeviction"),
        "{log}"
    );
    let log = warned(&["--appendonly", "yes"]).await;
    assert!(
        log.contains("appendfsync") && log.lines().count() == 1,
        "{log}"
    );
    let always = ["--appendonly", "yes", "--appendfsync", "always"];
    assert_eq!(warned(&always).await, "");
}
