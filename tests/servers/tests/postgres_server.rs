//! What the harness promises to the tests that use PostgreSQL.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use idem_tests::{Postgres, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
/// For what must not happen.
const MOMENT: Duration = Duration::from_millis(300);
/// All processes but the first and the one that answers.
const OTHERS: &str = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()";

/// Whether there is a process of this number.
fn exists(pid: &str) -> bool {
    let kill = Command::new("sh")
        .args(["-c", r#"kill -0 "$1""#, "sh", pid])
        .output();
    kill.expect("sh").status.success()
}

fn wait_until_gone<'a>(pids: impl IntoIterator<Item = &'a str>) {
    for pid in pids {
        wait_until("a process is gone", LIMIT, || match exists(pid) {
            true => Err(format!("{pid} still exists")),
            false => Ok(()),
        });
    }
}

/// Whether a killed process has left shared memory.
fn left_memory(pid: &str) -> bool {
    let list = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    list.lines()
        .any(|line| line.split_whitespace().nth(4) == Some(pid))
}

/// A client whose connection stays open.
struct Client {
    psql: Child,
    input: ChildStdin,
    rows: Receiver<String>,
}

impl Client {
    fn connect(postgres: &Postgres) -> Self {
        let mut psql = postgres
            .psql_command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(psql.stdout.take().unwrap());
        let (sender, rows) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            lines.for_each(|line| drop(sender.send(line)));
        });
        Self {
            input: psql.stdin.take().unwrap(),
            rows,
            psql,
        }
    }

    fn send(&mut self, sql: &str) {
        writeln!(self.input, "{sql};").unwrap();
    }

    /// The next row; an error when it does not come, or the connection has ended.
    fn row(&self, limit: Duration) -> Result<String, RecvTimeoutError> {
        self.rows.recv_timeout(limit)
    }

    fn ask(&mut self, sql: &str) -> String {
        self.send(sql);
        self.row(LIMIT).unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

/// Asks for TLS, to which any server answers with one byte.
fn ask(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])
        .unwrap();
    stream
}

fn answer(stream: &mut TcpStream, limit: Duration) -> Result<u8, ErrorKind> {
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut byte = [0];
    let read = stream.read_exact(&mut byte);
    read.map(|()| byte[0]).map_err(|error| error.kind())
}

#[test]
fn a_server_answers() {
    let postgres = Postgres::start();
    let port = postgres.port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    assert_eq!(postgres.url(), url);
    assert_eq!(answer(&mut ask(port), LIMIT), Ok(b'N'));
    assert_eq!(postgres.psql("SELECT 1, 'a' || E'\\n' || 'b'"), "1|a\nb");
    assert_eq!(postgres.psql("SELECT 1 WHERE false"), "");
    assert_eq!(postgres.psql("SELECT 1; SELECT 2"), "1\n2");
    assert_eq!(postgres.psql("SHOW fsync"), "on");
    let version: u32 = postgres.psql("SHOW server_version_num").parse().unwrap();
    assert!(version >= 140_000, "{version}");
    let error = postgres.try_psql("SELECT nonsense; SELECT 1").unwrap_err();
    assert!(
        error.contains(r#"column "nonsense" does not exist"#),
        "{error}"
    );
    let file = postgres.psql("SELECT pg_read_file('postmaster.pid')");
    let pid = file.lines().next().unwrap();
    assert_eq!(pid, postgres.process().pid().to_string());
}

#[test]
#[should_panic(expected = "relation \"nowhere\" does not exist")]
fn a_statement_that_fails_says_why() {
    Postgres::start().psql("SELECT * FROM nowhere");
}

#[test]
fn a_server_has_the_settings_it_is_told() {
    let postgres = Postgres::builder()
        .setting("synchronous_commit", "off")
        .setting("fsync", "off")
        .setting("search_path", r#"it's, "a\b""#)
        .start();
    let show = "SHOW synchronous_commit; SHOW fsync; SHOW search_path";
    assert_eq!(postgres.psql(show), "off\noff\nit's, \"a\\b\"");
    postgres.psql("ALTER SYSTEM SET synchronous_commit = 'local'");
    postgres.restart();
    assert_eq!(postgres.psql("SHOW synchronous_commit"), "local");
}

#[test]
#[should_panic(expected = "unrecognized configuration parameter \"nonsense\"")]
fn a_server_that_does_not_start_says_why() {
    Postgres::builder().setting("nonsense", "1").start();
}

#[test]
fn a_login_needs_its_password() {
    let postgres = Postgres::builder().login("some body", "it's: @/%").start();
    let url = postgres.url();
    let port = postgres.port();
    assert_eq!(
        url,
        format!("postgres://some%20body:it%27s%3A%20%40%2F%25@127.0.0.1:{port}/postgres")
    );
    let connect = |url: &str| {
        let mut psql = postgres.psql_command();
        psql.args(["--dbname", url, "--command", "SELECT current_user"]);
        psql.output().unwrap()
    };
    let output = connect(&url);
    assert_eq!(output.stdout, b"some body\n", "{output:?}");
    for url in [url.replace("it", "that"), url.replace(":it%27s%3A", ":")] {
        assert!(!connect(&url).status.success());
    }
    let output = connect(&format!("postgres://postgres@127.0.0.1:{port}/postgres"));
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(postgres.psql("SELECT current_user"), "postgres");

    let postgres = Postgres::builder().login("postgres", "word").start();
    let mut psql = postgres.psql_command();
    psql.args(["--dbname", &postgres.url(), "--command", "SELECT 1"]);
    assert_eq!(psql.output().unwrap().stdout, b"1\n");
}

#[test]
fn a_server_comes_back_on_its_port_with_what_was_committed() {
    let postgres = Postgres::start();
    let port = postgres.port();
    postgres.psql("CREATE TABLE kept (number int)");
    let end: [fn(&Postgres); 5] = [
        Postgres::kill,
        |postgres| {
            postgres.pause();
            postgres.kill();
        },
        Postgres::stop,
        |postgres| {
            let pid = postgres.process().pid().to_string();
            Command::new("sh")
                .args(["-c", r#"kill -QUIT "$1""#, "sh", &pid])
                .status()
                .unwrap();
            wait_until("an end", LIMIT, || match postgres.process().is_alive() {
                true => Err("it runs".to_owned()),
                false => Ok(()),
            });
        },
        |_| {},
    ];
    for (number, end) in end.into_iter().enumerate() {
        let before = postgres.process().pid().to_string();
        let others = postgres.psql(OTHERS);
        // None of these is waited for.
        let mut clients = [(); 3].map(|()| Client::connect(&postgres));
        for client in &mut clients {
            assert_eq!(client.ask("SELECT 1"), "1");
        }
        let [idle, busy, open] = &mut clients;
        busy.send("SELECT sum(i) FROM generate_series(1, 10000000000) i");
        open.ask("BEGIN; INSERT INTO kept VALUES (-1); SELECT 1");
        postgres.psql(&format!("INSERT INTO kept VALUES ({number})"));
        end(&postgres);
        if number < 4 {
            assert!(!postgres.process().is_alive());
            assert!(postgres.try_psql("SELECT 1").is_err());
        }
        postgres.restart();
        wait_until_gone(others.lines().chain([before.as_str()]));
        assert_ne!(postgres.process().pid().to_string(), before);
        assert_eq!(postgres.port(), port);
        assert_eq!(answer(&mut ask(port), LIMIT), Ok(b'N'));
        idle.send("SELECT 2");
        assert_eq!(idle.row(LIMIT), Err(RecvTimeoutError::Disconnected));
        let rows = postgres.psql("SELECT count(*), max(number), min(number) FROM kept");
        assert_eq!(rows, format!("{}|{number}|0", number + 1));
    }
}

#[test]
fn a_paused_server_does_not_answer_and_then_does() {
    let postgres = Postgres::start();
    let mut client = Client::connect(&postgres);
    assert_eq!(client.ask("SELECT 1"), "1");
    postgres.pause();
    assert!(postgres.process().is_alive());
    let mut stream = ask(postgres.port());
    client.send("SELECT 2");
    assert_eq!(client.row(MOMENT), Err(RecvTimeoutError::Timeout));
    assert_eq!(answer(&mut stream, MOMENT), Err(ErrorKind::WouldBlock));
    postgres.resume();
    assert_eq!(client.row(LIMIT).unwrap(), "2");
    assert_eq!(answer(&mut stream, LIMIT), Ok(b'N'));
    assert_eq!(postgres.psql("SELECT 3"), "3");
}

#[test]
fn a_server_leaves_nothing_after_drop() {
    let end: [fn(&Postgres); 3] = [|_| {}, Postgres::pause, Postgres::kill];
    for end in end {
        let postgres = Postgres::start();
        let pid = postgres.process().pid().to_string();
        let directory = PathBuf::from(postgres.psql("SHOW data_directory"));
        let directory = directory.parent().unwrap();
        let others = postgres.psql(OTHERS);
        assert!(exists(&pid) && directory.exists());
        end(&postgres);
        drop(postgres);
        assert!(!exists(&pid) && !directory.exists());
        wait_until_gone(others.lines());
        // Memory that is removed stays listed until the last process that uses it has ended.
        assert!(!left_memory(&pid));
    }
}

#[test]
fn a_server_dies_with_the_process_that_holds_it() {
    for args in [&["postgres"][..], &["postgres", "paused"]] {
        let name = format!("idem-hold-{}-{}", args.len(), std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        // As where temporary files usually are.
        fs::set_permissions(&directory, Permissions::from_mode(0o1777)).unwrap();
        let mut holder = Command::new(env!("CARGO_BIN_EXE_hold"))
            .args(args)
            .env("TMPDIR", &directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pids = String::new();
        let output = holder.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut pids).unwrap();
        let pids: Vec<_> = pids.split_whitespace().collect();
        assert!(pids.len() > 3 && pids.iter().all(|pid| exists(pid)));
        holder.kill().unwrap();
        holder.wait().unwrap();
        wait_until_gone(pids.iter().copied());
        // Which takes only an empty one: the server's own is gone as well.
        wait_until("an empty directory", LIMIT, || {
            fs::remove_dir(&directory).map_err(|error| error.to_string())
        });
        assert!(!left_memory(pids[0]));
    }
}

#[test]
fn two_servers_know_nothing_of_each_other() {
    let servers = [Postgres::start(), Postgres::start()];
    assert_ne!(servers[0].port(), servers[1].port());
    servers[0].psql("CREATE TABLE here ()");
    assert!(servers[1].try_psql("TABLE here").is_err());
    servers[0].kill();
    assert_eq!(servers[1].psql("SELECT 1"), "1");
}

#[test]
fn statements_are_counted_where_the_extension_is_installed() {
    let postgres = Postgres::start();
    let name = "name = 'pg_stat_statements'";
    let installed = postgres.psql(&format!("SELECT FROM pg_available_extensions WHERE {name}"));
    let created = postgres.psql("SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'");
    println!("{created}, {installed:?}");
    if created.is_empty() {
        return;
    }
    postgres.psql("CREATE TABLE counted (number int); SELECT pg_stat_statements_reset()");
    for number in 0..3 {
        postgres.psql(&format!("INSERT INTO counted VALUES ({number})"));
    }
    let calls = "SELECT calls FROM pg_stat_statements WHERE query LIKE 'INSERT INTO counted%'";
    assert_eq!(postgres.psql(calls), "3");
}
