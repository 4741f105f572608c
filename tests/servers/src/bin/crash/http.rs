//! As much of HTTP/1.1 as a client of the ledger needs: one connection that is kept, answers that
//! say their length.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// How long an answer may take that nobody is in a hurry for. Longer than all the timeouts of
/// the server.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What may differ between an answer and its replay.
const NOT_COMPARED: [&str; 2] = ["date", REPLAYED];
const REPLAYED: &str = "idempotent-replayed";

/// A connection that is opened when there is something to send.
pub(crate) struct Connection {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Sorted, with names in small letters, but for those that are not compared.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Nothing was sent.
    NotConnected,
    /// The connection broke, and nobody knows what the server has read.
    Broken,
    /// The server is silent; its answer is not waited for.
    Silent,
}

/// What an answer means for a client that holds on to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Final,
    /// Final until somebody has looked.
    Unknown,
    TryLater,
}

impl Connection {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// Sends a request, and gives the answer and whether it is marked as a replay. After a
    /// failure the connection is a new one.
    pub(crate) fn call(
        &mut self,
        request: &str,
        patience: Duration,
    ) -> Result<(Answer, bool), Lost> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open().map_err(|_| Lost::NotConnected)?,
        };
        let answer = exchange(&mut stream, request, patience);
        match answer {
            Ok(answer) => {
                self.stream = Some(stream);
                Ok(answer)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(Lost::Silent),
                ErrorKind::InvalidData => panic!("no HTTP that we know: {error}"),
                _ => Err(Lost::Broken),
            },
        }
    }

    /// What a server that nobody kills has to say.
    pub(crate) fn get(&mut self, path: &str) -> Value {
        let request = format!("GET {path} HTTP/1.1\r\nhost: ledger\r\n\r\n");
        match self.call(&request, PATIENCE) {
            Ok((answer, _)) if answer.status == 200 => serde_json::from_str(&answer.body)
                .unwrap_or_else(|error| panic!("GET {path}: {error}: {}", answer.body)),
            other => panic!("GET {path}: {other:?}"),
        }
    }

    /// Whether somebody listens.
    pub(crate) fn is_possible(&self) -> bool {
        self.open().is_ok()
    }

    fn open(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }
}

fn exchange(
    stream: &mut BufReader<TcpStream>,
    request: &str,
    patience: Duration,
) -> io::Result<(Answer, bool)> {
    stream.get_mut().set_read_timeout(Some(patience))?;
    stream.get_mut().write_all(request.as_bytes())?;
    let strange = |line: &str| io::Error::new(ErrorKind::InvalidData, line.to_owned());

    let first = line(stream)?;
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| strange(&first))?;
    let (mut headers, mut length, mut replayed) = (Vec::new(), None, false);
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| strange(&line))?;
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        match &name[..] {
            "content-length" => length = value.parse().ok(),
            REPLAYED => replayed = true,
            _ => {}
        }
        if !NOT_COMPARED.contains(&&name[..]) {
            headers.push((name, value));
        }
    }
    headers.sort();
    let mut body = vec![0; length.ok_or_else(|| strange(&first))?];
    stream.read_exact(&mut body)?;
    let body = String::from_utf8(body).map_err(|_| strange("a body that is no text"))?;
    let answer = Answer {
        status,
        headers,
        body,
    };
    Ok((answer, replayed))
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(ErrorKind::UnexpectedEof.into()),
    }
}

impl Answer {
    pub(crate) fn meaning(&self) -> Meaning {
        match (self.status, self.problem().as_deref()) {
            (503, _) | (_, Some("in-flight")) => Meaning::TryLater,
            (_, Some("outcome-unknown")) => Meaning::Unknown,
            _ => Meaning::Final,
        }
    }

    /// The problem's kind, where it is one of the library's own answers.
    pub(crate) fn problem(&self) -> Option<String> {
        let kind = ("content-type", "application/problem+json");
        let mut headers = self.headers.iter();
        headers.find(|(name, value)| (&name[..], &value[..]) == kind)?;
        let body: Value = serde_json::from_str(&self.body).ok()?;
        let kind = body["type"].as_str()?.strip_prefix("urn:idem:problem:")?;
        Some(kind.to_owned())
    }

    /// In a word or two.
    pub(crate) fn brief(&self) -> String {
        let what = self.problem();
        format!("{} {}", self.status, what.as_deref().unwrap_or(&self.body))
    }
}
