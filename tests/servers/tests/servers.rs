//! What the harness promises to the tests that use it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use idem_tests::{
    Console, Flavor, Process, Redis, RedisCluster, RedisSentinel, Reply, Signal, wait_until,
};

const LIMIT: Duration = Duration::from_secs(20);

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.into())
}

fn each_flavor(test: impl Fn(Flavor)) {
    for flavor in Flavor::installed() {
        println!("{flavor:?}");
        test(flavor);
    }
}

/// Whether there is a process of this number.
fn exists(pid: &str) -> bool {
    let kill = Command::new("sh")
        .args(["-c", r#"kill -0 "$1""#, "sh", pid])
        .output();
    kill.expect("sh").status.success()
}

fn wait_until_gone(pid: &str) {
    wait_until("a process is gone", LIMIT, || match exists(pid) {
        true => Err(format!("{pid} still exists")),
        false => Ok(()),
    });
}

/// A directory of the test's own.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("idem-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_server_answers_at_its_url_and_on_its_console() {
    each_flavor(|flavor| {
        let redis = Redis::builder().flavor(flavor).start();
        assert_eq!(redis.url(), format!("redis://127.0.0.1:{}", redis.port()));
        redis.console().call(&["SET", "key", "a\r\nvalue"]);
        let mut client = Console::connect(redis.port()).unwrap();
        assert_eq!(client.call(&["GET", "key"]), bulk("a\r\nvalue"));
        assert_eq!(client.call(&["GET", "other"]), Reply::Nil);
        assert_eq!(client.call(&["EXISTS", "key"]), Reply::Integer(1));
        let info = client.info("server", "process_id").unwrap();
        assert_eq!(info, redis.process().pid().to_string());
        assert!(matches!(
            client.try_call(&["NONSENSE"]),
            Ok(Reply::Error(_))
        ));
        let both = client.call(&["MGET", "key", "other"]);
        assert_eq!(both.items(), [bulk("a\r\nvalue"), Reply::Nil]);
    });
}

#[test]
fn a_server_and_its_directory_are_gone_after_drop_paused_or_not() {
    for pause in [false, true] {
        let redis = Redis::start();
        let pid = redis.process().pid().to_string();
        let directory = redis
            .console()
            .call(&["CONFIG", "GET", "dir"])
            .field("dir")
            .unwrap();
        assert!(exists(&pid) && Path::new(&directory).exists());
        if pause {
            redis.pause();
        }
        drop(redis);
        assert!(!exists(&pid) && !Path::new(&directory).exists());
    }
}

#[test]
fn a_server_dies_with_the_process_that_holds_it() {
    let directory = Directory::new("hold");
    for args in [&["redis"][..], &["redis", "paused"]] {
        let mut holder = Command::new(env!("CARGO_BIN_EXE_hold"))
            .args(args)
            // Nobody is left to remove what the server leaves behind.
            .env("TMPDIR", &directory.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        let output = holder.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut pid).unwrap();
        let pid = pid.trim();
        assert!(exists(pid));
        holder.kill().unwrap();
        holder.wait().unwrap();
        wait_until_gone(pid);
    }
}

#[test]
fn a_paused_server_keeps_its_connections_and_resumes() {
    let redis = Redis::start();
    let mut client = redis.console();
    client.call(&["SET", "key", "value"]);
    redis.pause();
    assert!(redis.process().is_alive());
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| client.call(&["GET", "key"]));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!answer.is_finished());
        redis.resume();
        assert_eq!(answer.join().unwrap(), bulk("value"));
    });
}

#[test]
fn a_server_comes_back_on_its_port_with_what_it_wrote() {
    each_flavor(|flavor| {
        let redis = Redis::builder()
            .flavor(flavor)
            .args(&["--appendonly", "yes", "--appendfsync", "always"])
            .start();
        let port = redis.port();
        redis.console().call(&["SET", "key", "value"]);
        let end: [fn(&Redis); 4] = [
            Redis::kill,
            Redis::stop,
            |redis| {
                // It answers by ending.
                let _ = redis.console().try_call(&["SHUTDOWN"]);
                wait_until("a shutdown", LIMIT, || match redis.process().is_alive() {
                    true => Err("it runs".to_owned()),
                    false => Ok(()),
                });
            },
            |_| {},
        ];
        for end in end {
            let before = redis.process().pid();
            end(&redis);
            redis.restart();
            assert_ne!(redis.process().pid(), before);
            assert_eq!(redis.port(), port);
            let mut client = Console::connect(port).unwrap();
            assert_eq!(client.call(&["GET", "key"]), bulk("value"));
        }
    });
}

#[test]
fn a_server_without_a_file_forgets() {
    let redis = Redis::with(&["--maxmemory", "8mb"]);
    let limit = redis.console().call(&["CONFIG", "GET", "maxmemory"]);
    assert_eq!(limit.field("maxmemory").unwrap(), (8 << 20).to_string());
    redis.console().call(&["SET", "key", "value"]);
    redis.kill();
    assert!(!redis.process().is_alive());
    assert!(redis.try_console().is_err());
    redis.restart();
    assert_eq!(redis.console().call(&["GET", "key"]), Reply::Nil);
}

#[test]
fn servers_with_passwords_become_ready() {
    let secret = Redis::with(&["--requirepass", "secret"]);
    let mut client = Console::connect(secret.port()).unwrap();
    assert!(matches!(client.try_call(&["PING"]), Ok(Reply::Error(_))));
    client.call(&["AUTH", "secret"]);
    client.call(&["PING"]);

    let named = Redis::builder()
        .args(&["--user", "default", "off"])
        .args(&["--user", "tester", "on", ">word", "~*", "&*", "+@all"])
        .login("tester", "word")
        .start();
    assert_eq!(named.console().call(&["ACL", "WHOAMI"]), bulk("tester"));
    named.restart();
    named.console().call(&["PING"]);
}

#[test]
fn a_server_with_tls_shows_a_certificate_of_its_authority() {
    let redis = Redis::start_tls();
    assert_eq!(redis.url(), format!("rediss://127.0.0.1:{}", redis.port()));
    redis.console().call(&["SET", "key", "value"]);
    let directory = Directory::new("tls");
    let ca = directory.0.join("ca.pem");
    std::fs::write(&ca, redis.ca_pem()).unwrap();
    // `redis-cli` comes with the server's package.
    let client = Command::new("redis-cli")
        .args([
            "--tls",
            "--cacert",
            ca.to_str().unwrap(),
            "-h",
            "127.0.0.1",
            "-p",
        ])
        .args([&redis.port().to_string(), "GET", "key"])
        .output()
        .expect("redis-cli in PATH");
    assert_eq!(
        String::from_utf8_lossy(&client.stdout).trim(),
        "value",
        "{client:?}"
    );
    let plain = Console::connect(redis.port()).unwrap().try_call(&["PING"]);
    assert!(!matches!(plain, Ok(Reply::Status(_))), "{plain:?}");
}

#[test]
#[should_panic(expected = "Bad directive")]
fn a_server_that_does_not_start_says_why() {
    Redis::with(&["--nonsense", "1"]);
}

#[test]
fn a_cluster_serves_every_slot_and_takes_a_node_back() {
    each_flavor(|flavor| {
        let cluster = RedisCluster::start_on(flavor);
        let ports: Vec<_> = cluster.nodes().iter().map(Redis::port).collect();
        assert_eq!(
            cluster.url(),
            format!(
                "redis-cluster://127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}",
                ports[0], ports[1], ports[2]
            )
        );
        for key in 0..100 {
            let key = format!("key{key}");
            let set = ["SET", &key, "value"];
            let reply = cluster.nodes()[0].console().try_call(&set).unwrap();
            let Reply::Error(moved) = reply else { continue };
            let (_, port) = moved.rsplit_once("127.0.0.1:").expect(&moved);
            Console::connect(port.parse().unwrap()).unwrap().call(&set);
        }
        for node in cluster.nodes() {
            let keys = node.console().call(&["DBSIZE"]);
            assert!(matches!(keys, Reply::Integer(1..)), "{keys:?}");
        }
        cluster.nodes()[1].kill();
        cluster.nodes()[1].restart();
        cluster.wait_until_ok();
    });
}

#[test]
fn sentinels_move_the_primary_and_back() {
    each_flavor(|flavor| {
        let group = RedisSentinel::start_on(flavor);
        let port = |server: &Redis| server.port();
        let (first, second) = (port(group.primary()), port(group.replica()));
        assert!(group.url().starts_with("redis-sentinel://127.0.0.1:"));
        assert!(group.url().ends_with("?master=idem"));
        let mut console = group.primary().console();
        console.call(&["SET", "key", "value"]);
        assert_eq!(console.call(&["WAIT", "1", "5000"]), Reply::Integer(1));

        group.fail_over();
        assert_eq!(
            (port(group.primary()), port(group.replica())),
            (second, first)
        );
        let mut console = group.primary().console();
        assert_eq!(console.call(&["GET", "key"]), bulk("value"));
        console.call(&["SET", "key", "other"]);
        group.revive();
        assert_eq!(
            (port(group.primary()), port(group.replica())),
            (second, first)
        );
        assert_eq!(
            group.replica().console().call(&["GET", "key"]),
            bulk("other")
        );

        group.sentinel_failover();
        assert_eq!(
            (port(group.primary()), port(group.replica())),
            (first, second)
        );
        group.primary().console().call(&["SET", "key", "last"]);
    });
}

#[test]
fn any_program_can_be_signalled() {
    let directory = Directory::new("process");
    let log = directory.0.join("log");
    let process = Process::start("sleep", ["600"], &log);
    let first = process.pid().to_string();
    assert!(process.is_alive() && exists(&first));
    process.pause();
    process.signal(Signal::Cont);
    process.stop();
    assert!(!process.is_alive() && !exists(&first));
    process.stop();
    process.restart();
    process.pause();
    process.kill();
    process.kill();
    assert!(!process.is_alive());
    process.restart();
    assert!(process.is_alive());
}

#[test]
fn a_program_that_cannot_start_has_ended_and_its_log_says_why() {
    let directory = Directory::new("none");
    let log = directory.0.join("log");
    let process = Process::start("/no/such/program", [""; 0], &log);
    wait_until("an end", LIMIT, || match process.is_alive() {
        true => Err("it runs".to_owned()),
        false => Ok(()),
    });
    assert!(process.log_tail().contains("/no/such/program"));
}
