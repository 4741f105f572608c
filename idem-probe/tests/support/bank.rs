//! A server over plain sockets that keeps to the contract, but for one fault.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use idem_probe::Profile;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Answers nothing, ever.
    Hangs,
    RefusesAll,
    Redirects,
    /// The body alone names an operation.
    IgnoresKeys,
    /// Executions have no ids.
    SaysOk,
    /// The same, but for the header `Location`.
    SaysWhere,
    ReplaysWithAnotherStatus,
    ReplaysWithoutLocation,
    ReplaysWithAnotherBody,
    DoesNotMarkReplays,
    MarksFirstAnswers,
    ReplaysToAnotherBody,
    CarriesAnotherBodyOut,
    RefusesAnotherBodyAsInFlight,
    ForgetsAtAnotherBody,
    ChecksThenInserts,
    FailsAtDuplicates,
    NeedsNoKey,
    /// A key of this name in [`MALFORMED`].
    Accepts(&'static str),
    RefusesKeysWith(u16),
    TakesTheFirstLine,
    SharesKeysAmongTenants,
    ClaimsBeforeTheBody,
    StopsWhenTheClientGoes,
    ForgetsWhatWasNotRead,
}

type Is = fn(&[u8]) -> bool;

/// How a raw key is known.
pub(crate) const MALFORMED: [(&str, Is); 8] = [
    ("key-empty", |key| key.is_empty()),
    ("key-empty-string", |key| key == b"\"\""),
    ("key-unterminated", |key| {
        key.starts_with(b"\"") && key.iter().filter(|byte| **byte == b'"').count() == 1
    }),
    ("key-trailing-text", |key| key.ends_with(b"\"x")),
    ("key-bad-escape", |key| key.ends_with(b"\\n\"")),
    ("key-not-ascii", |key| !key.is_ascii()),
    ("key-two-in-one-line", |key| key.contains(&b',')),
    ("key-too-long", |key| key.len() > 255),
];

enum Record {
    Running(Vec<u8>),
    Finished(Vec<u8>, u32),
}

/// A server that runs as long as the test's runtime.
#[derive(Clone)]
pub(crate) struct Bank(Arc<Inside>);

struct Inside {
    address: SocketAddr,
    fault: Fault,
    profile: Profile,
    requests: AtomicU32,
    executed: AtomicU32,
    records: Mutex<HashMap<Vec<u8>, Record>>,
}

struct Request {
    keys: Vec<Vec<u8>>,
    tenant: Vec<u8>,
    body: Vec<u8>,
    is_whole: bool,
    /// Before its body was read.
    has_claimed: bool,
}

struct Reply {
    status: u16,
    location: Option<u32>,
    marked: bool,
    body: String,
}

impl Reply {
    fn refused(status: u16) -> Self {
        Self {
            status,
            location: None,
            marked: false,
            body: String::new(),
        }
    }
}

impl Bank {
    pub(crate) async fn start(fault: Fault, profile: Profile) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bank = Self(Arc::new(Inside {
            address: listener.local_addr().unwrap(),
            fault,
            profile,
            requests: AtomicU32::new(0),
            executed: AtomicU32::new(0),
            records: Mutex::default(),
        }));
        let serving = bank.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let bank = serving.clone();
                // A client that goes away is no fault of the test.
                tokio::spawn(async move { bank.serve(stream).await });
            }
        });
        bank
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/charges", self.0.address)
    }

    pub(crate) fn requests(&self) -> u32 {
        self.0.requests.load(Relaxed)
    }

    fn is(&self, fault: Fault) -> bool {
        self.0.fault == fault
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        // So that a client that does not read is noticed before the whole answer is in buffers.
        SockRef::from(&stream).set_send_buffer_size(128 * 1024)?;
        stream.set_nodelay(true)?;
        self.0.requests.fetch_add(1, Relaxed);
        let request = self.read(&mut stream).await?;
        if self.is(Fault::Hangs) {
            return std::future::pending().await;
        }
        if !request.is_whole {
            return Ok(());
        }
        let record = self.record(&request);
        let reply = match &record {
            Ok(record) => match self.answer(record, &request, &stream).await {
                Some(reply) => reply,
                None => return Ok(()),
            },
            Err(status) => Reply::refused(*status),
        };
        let written = self.write(&mut stream, reply).await;
        if let Ok(record) = record
            && written.is_err()
            && self.is(Fault::ForgetsWhatWasNotRead)
        {
            self.0.records.lock().unwrap().remove(&record);
        }
        written
    }

    async fn read(&self, stream: &mut TcpStream) -> io::Result<Request> {
        let mut bytes = Vec::new();
        let end = loop {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            match end {
                Some(end) => break end,
                None if stream.read_buf(&mut bytes).await? == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                None => {}
            }
        };
        let mut body = bytes.split_off(end + 4);
        let mut request = Request {
            keys: Vec::new(),
            tenant: Vec::new(),
            body: Vec::new(),
            is_whole: true,
            has_claimed: false,
        };
        let mut length = 0;
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
            let value = line[colon + 1..].trim_ascii().to_vec();
            match &*name {
                "idempotency-key" => request.keys.push(value),
                "authorization" => request.tenant = value,
                "content-length" => length = String::from_utf8(value).unwrap().parse().unwrap(),
                _ => {}
            }
        }
        if self.is(Fault::ClaimsBeforeTheBody)
            && let Ok(record) = self.record(&request)
        {
            let mut records = self.0.records.lock().unwrap();
            request.has_claimed = !records.contains_key(&record);
            records.entry(record).or_insert(Record::Running(Vec::new()));
        }
        while body.len() < length {
            if stream.read_buf(&mut body).await? == 0 {
                request.is_whole = false;
                break;
            }
        }
        request.body = body;
        Ok(request)
    }

    /// The record that a request names, or the status that refuses it.
    fn record(&self, request: &Request) -> Result<Vec<u8>, u16> {
        let bad = match self.0.fault {
            Fault::RefusesKeysWith(status) => status,
            _ => 400,
        };
        let key = match &request.keys[..] {
            // As if each had a key of its own.
            [] if self.is(Fault::NeedsNoKey) || self.0.profile == Profile::Stripe => {
                return Ok(format!("none {}", self.requests()).into_bytes());
            }
            [key] => key,
            [key, ..] if self.is(Fault::TakesTheFirstLine) => key,
            _ => return Err(bad),
        };
        let table = match self.0.profile {
            Profile::Ietf => &MALFORMED[..],
            _ => &MALFORMED[7..],
        };
        let malformed = table.iter().find(|(_, is)| is(key));
        if let Some((name, _)) = malformed
            && !self.is(Fault::Accepts(name))
        {
            return Err(bad);
        }
        Ok(match self.0.fault {
            Fault::IgnoresKeys => [&request.tenant[..], &request.body].concat(),
            Fault::SharesKeysAmongTenants => key.clone(),
            _ => [&request.tenant[..], b" ", key].concat(),
        })
    }

    /// `None` where the server gives up.
    async fn answer(&self, record: &[u8], request: &Request, client: &TcpStream) -> Option<Reply> {
        match self.0.fault {
            Fault::RefusesAll => return Some(Reply::refused(401)),
            Fault::Redirects => return Some(Reply::refused(307)),
            _ => {}
        }
        pause().await;
        if !request.has_claimed
            && let Some(reply) = self.known(record, &request.body)
        {
            return Some(reply);
        }
        if self.is(Fault::ChecksThenInserts) {
            pause().await;
        }
        let running = Record::Running(request.body.clone());
        self.0
            .records
            .lock()
            .unwrap()
            .insert(record.to_vec(), running);
        pause().await;
        let has_gone = || client.try_read(&mut [0; 1]).is_ok_and(|read| read == 0);
        if self.is(Fault::StopsWhenTheClientGoes) && has_gone() {
            return None;
        }
        let number = self.0.executed.fetch_add(1, Relaxed) + 1;
        let finished = Record::Finished(request.body.clone(), number);
        self.0
            .records
            .lock()
            .unwrap()
            .insert(record.to_vec(), finished);
        let marked = self.is(Fault::MarksFirstAnswers);
        Some(self.charged(number, marked))
    }

    fn known(&self, record: &[u8], body: &[u8]) -> Option<Reply> {
        let mut records = self.0.records.lock().unwrap();
        let (is_equal, number) = match records.get(record)? {
            Record::Running(of) if of.is_empty() => (true, None),
            Record::Running(of) => (of == body, None),
            Record::Finished(of, number) => (of == body, Some(*number)),
        };
        let mismatch = match self.0.profile {
            Profile::Ietf => 422,
            _ => 400,
        };
        if !is_equal {
            return match self.0.fault {
                Fault::ReplaysToAnotherBody => number.map(|number| self.charged(number, true)),
                Fault::CarriesAnotherBodyOut => None,
                Fault::RefusesAnotherBodyAsInFlight => Some(Reply::refused(409)),
                Fault::ForgetsAtAnotherBody => {
                    records.remove(record);
                    Some(Reply::refused(mismatch))
                }
                _ => Some(Reply::refused(mismatch)),
            };
        }
        Some(match number {
            Some(number) => self.replay(number),
            None if self.is(Fault::FailsAtDuplicates) => Reply::refused(500),
            None => Reply::refused(409),
        })
    }

    fn replay(&self, number: u32) -> Reply {
        let mut replay = self.charged(number, !self.is(Fault::DoesNotMarkReplays));
        match self.0.fault {
            Fault::ReplaysWithAnotherStatus => replay.status = 200,
            Fault::ReplaysWithoutLocation => replay.location = None,
            Fault::ReplaysWithAnotherBody => replay.body.insert(0, ' '),
            _ => {}
        }
        replay
    }

    fn charged(&self, number: u32, marked: bool) -> Reply {
        let mut body = format!("{{\"id\":{number}}}");
        let mut location = Some(number);
        match self.0.fault {
            Fault::SaysOk => (body, location) = ("{\"ok\":true}".to_owned(), None),
            Fault::SaysWhere => body = "{\"ok\":true}".to_owned(),
            Fault::ForgetsWhatWasNotRead => body.push_str(&" ".repeat(2 * 1024 * 1024)),
            _ => {}
        }
        Reply {
            status: 201,
            location,
            marked,
            body,
        }
    }

    async fn write(&self, stream: &mut TcpStream, reply: Reply) -> io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 {} -\r\nx-request-id: {}\r\ncontent-length: {}\r\nconnection: close\r\n",
            reply.status,
            self.requests(),
            reply.body.len()
        );
        if let Some(number) = reply.location {
            head.push_str(&format!("location: /charges/{number}\r\n"));
        }
        if reply.marked {
            head.push_str("idempotent-replayed: true\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(reply.body.as_bytes()).await
    }
}

/// On a runtime of one thread: everybody else who can go on goes on.
async fn pause() {
    for _ in 0..200 {
        yield_now().await;
    }
}
