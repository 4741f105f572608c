//! A way to an emulator that does what a rule says: throttles, breaks off, cuts answers, moves the clock. It
//! reads HTTP/1.1, one request for each connection, and counts what passes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};
use idem::stores::dynamodb::{DynamoDbStore, DynamoDbStoreBuilder};
use idem_tests::DynamoDb;
use idem_tests::dynamodb::{client_at, url_at};

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    Passes,
    /// This answer, and the emulator never hears of it.
    Answered(u16, String),
    /// The connection ends before the emulator has heard of it.
    CutBefore,
    /// The emulator does it, and the connection ends before its answer.
    CutAfter,
    /// The emulator does it that much later, and nobody hears its answer.
    Late(Duration),
}

impl Fate {
    /// An error as the service words it.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body = serde_json::json!({
            "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"),
            "message": "as the test wants it",
        });
        Self::Answered(status, body.to_string())
    }
}

/// A request that came by.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `PutItem`, `UpdateItem`, …
    pub(crate) operation: String,
    /// When its signature says that it was made, in seconds since 1970.
    pub(crate) signed: i64,
    pub(crate) body: serde_json::Value,
}

/// One that has passed, and how it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) request: Request,
    pub(crate) status: u16,
    pub(crate) answer: String,
}

type Rule = Box<dyn FnMut(&Request) -> Fate + Send>;

struct Way {
    upstream: u16,
    rule: Mutex<Rule>,
    passed: Mutex<Vec<Passed>>,
    /// How far the service's clock is from this machine's. `None`: it does not tell.
    clock_off: Mutex<Option<i64>>,
    late_arrivals: AtomicUsize,
}

impl Passed {
    /// The units that it cost, as its answer says.
    pub(crate) fn units(&self) -> Option<f64> {
        let answer: serde_json::Value = serde_json::from_str(&self.answer).ok()?;
        answer["ConsumedCapacity"]["CapacityUnits"].as_f64()
    }
}

/// A proxy on a port of 127.0.0.1.
pub(crate) struct Proxy {
    port: u16,
    table: String,
    way: Arc<Way>,
}

impl Proxy {
    pub(crate) fn to(server: &DynamoDb) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(Way {
            upstream: server.port(),
            rule: Mutex::new(Box::new(|_| Fate::Passes)),
            passed: Mutex::default(),
            clock_off: Mutex::new(Some(0)),
            late_arrivals: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&way);
        // Both end with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let way = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let _ = way.carry(client);
                });
            }
        });
        Self {
            port,
            table: server.table().to_owned(),
            way,
        }
    }

    pub(crate) fn url(&self) -> String {
        url_at(self.port, &self.table)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    pub(crate) fn builder(&self) -> DynamoDbStoreBuilder {
        DynamoDbStore::with_client(&client_at(self.port), &self.table).unwrap()
    }

    pub(crate) async fn store(&self) -> DynamoDbStore {
        let builder = self.builder().timeout(Duration::from_secs(10));
        builder.connect().await.unwrap()
    }

    /// What happens to requests from now on.
    pub(crate) fn rule(&self, rule: impl FnMut(&Request) -> Fate + Send + 'static) {
        *lock(&self.way.rule) = Box::new(rule);
    }

    /// The next request of this kind meets this; all others pass.
    pub(crate) fn once(&self, operation: &'static str, fate: Fate) {
        let mut fate = Some(fate);
        self.rule(move |request| match request.operation == operation {
            true => fate.take().unwrap_or(Fate::Passes),
            false => Fate::Passes,
        });
    }

    /// Moves the clock that answers tell.
    pub(crate) fn set_clock_off(&self, seconds: i64) {
        *lock(&self.way.clock_off) = Some(seconds);
    }

    /// Answers have no `Date`.
    pub(crate) fn hide_clock(&self) {
        *lock(&self.way.clock_off) = None;
    }

    /// What has passed since the last look.
    pub(crate) fn passed(&self) -> Vec<Passed> {
        std::mem::take(&mut lock(&self.way.passed))
    }

    /// Whether something has passed that `fits`. Forgets nothing.
    pub(crate) fn has_passed(&self, fits: impl Fn(&Passed) -> bool) -> bool {
        lock(&self.way.passed).iter().any(fits)
    }

    /// How many of those that were [`Fate::Late`] the emulator has answered.
    pub(crate) fn late_arrivals(&self) -> usize {
        self.way.late_arrivals.load(Ordering::SeqCst)
    }

    /// How much of each kind has passed since the last look.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for passed in self.passed() {
            *counts.entry(passed.request.operation).or_default() += 1;
        }
        counts
    }
}

pub(crate) fn counts(of: &[(&str, usize)]) -> BTreeMap<String, usize> {
    of.iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// The same request, which has its answer say what it cost.
fn asking_for_capacity(request: &Request) -> Vec<u8> {
    let mut body = request.body.clone();
    if request.operation.ends_with("Item") {
        body["ReturnConsumedCapacity"] = "TOTAL".into();
    }
    body.to_string().into_bytes()
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Way {
    fn carry(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some((head, body)) = read_message(&mut client)? else {
            return Ok(());
        };
        // The service's clock as of now: how long an emulator takes makes no call one that has to be
        // written again.
        let date = self.date();
        let request = Request {
            operation: header(&head, "x-amz-target")
                .and_then(|target| target.rsplit_once('.'))
                .map(|(_, name)| name.to_owned())
                .unwrap_or_default(),
            signed: header(&head, "x-amz-date").map_or(0, signed_at),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        let fate = (lock(&self.rule))(&request);
        let is_cut = matches!(fate, Fate::CutAfter);
        let (answer_head, answer) = match fate {
            Fate::CutBefore => return Ok(()),
            Fate::Answered(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} As Told\r\nContent-Type: application/x-amz-json-1.0\r\nDate: x"
                );
                (head, body.into_bytes())
            }
            Fate::Late(by) => {
                std::thread::sleep(by);
                self.forward(&head, &body)?;
                self.late_arrivals.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            Fate::Passes | Fate::CutAfter => {
                let asking = asking_for_capacity(&request);
                self.forward(&head, &asking)?
            }
        };
        let status = answer_head.split(' ').nth(1).and_then(|it| it.parse().ok());
        lock(&self.passed).push(Passed {
            request,
            status: status.unwrap_or_default(),
            answer: String::from_utf8_lossy(&answer).into_owned(),
        });
        if is_cut {
            return Ok(());
        }
        let kept: Vec<_> = answer_head
            .split("\r\n")
            .filter(|line| {
                let name = line
                    .split(':')
                    .next()
                    .unwrap_or_default()
                    .to_ascii_lowercase();
                !["date", "connection", "content-length", "transfer-encoding"]
                    .contains(&name.as_str())
            })
            .collect();
        let head = format!(
            "{}{}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            kept.join("\r\n"),
            date,
            answer.len()
        );
        client.write_all(head.as_bytes())?;
        client.write_all(&answer)?;
        client.flush()
    }

    fn date(&self) -> String {
        let Some(off) = *lock(&self.clock_off) else {
            return String::new();
        };
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap() + off;
        let date = DateTime::from_secs(seconds);
        format!("\r\nDate: {}", date.fmt(DateTimeFormat::HttpDate).unwrap())
    }

    fn forward(&self, head: &str, body: &[u8]) -> std::io::Result<(String, Vec<u8>)> {
        let mut server = TcpStream::connect(("127.0.0.1", self.upstream))?;
        let lines: Vec<_> = head
            .split("\r\n")
            .filter(|line| {
                let line = line.to_ascii_lowercase();
                !line.starts_with("connection:") && !line.starts_with("content-length:")
            })
            .collect();
        let head = format!(
            "{}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            lines.join("\r\n"),
            body.len()
        );
        server.write_all(head.as_bytes())?;
        server.write_all(body)?;
        let answer = read_message(&mut server)?;
        answer.ok_or_else(|| std::io::Error::other("the emulator hung up"))
    }
}

/// Head and body of a message. `None`: there is none.
fn read_message(from: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let mut part = [0; 16 * 1024];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            break end;
        }
        match from.read(&mut part)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&part[..count]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut body = bytes.split_off(end + 4);
    let length: Option<usize> = header(&head, "content-length").and_then(|it| it.parse().ok());
    while length.is_none_or(|length| body.len() < length) {
        match from.read(&mut part)? {
            0 => break,
            count => body.extend_from_slice(&part[..count]),
        }
    }
    Ok(Some((head, body)))
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.split("\r\n").find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// `20261129T165046Z`, in seconds since 1970.
fn signed_at(text: &str) -> i64 {
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    let written = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4),
        part(4..6),
        part(6..8),
        part(9..11),
        part(11..13),
        part(13..15)
    );
    DateTime::from_str(&written, DateTimeFormat::DateTime).map_or(0, |date| date.secs())
}
