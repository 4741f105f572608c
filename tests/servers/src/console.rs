//! A blocking connection for whatever a test has to tell a server. It speaks RESP2.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a command may take. A paused server answers nothing.
const ANSWER: Duration = Duration::from_secs(10);

trait Stream: Read + Write + Send + fmt::Debug {}
impl<S: Read + Write + Send + fmt::Debug> Stream for S {}

/// A connection to a server.
#[derive(Debug)]
pub struct Console {
    stream: BufReader<Box<dyn Stream>>,
}

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Status(String),
    /// `-ERR …`
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$5 …`
    Bulk(Vec<u8>),
    /// Neither a string nor an array.
    Nil,
    /// `*2 …`
    Array(Vec<Reply>),
}

impl Console {
    /// Connects to a port of 127.0.0.1, without TLS.
    pub fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self::over(stream))
    }

    /// Connects to a socket in the file system.
    pub fn connect_unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self::over(stream))
    }

    fn over(stream: impl Stream + 'static) -> Self {
        Self {
            stream: BufReader::new(Box::new(stream)),
        }
    }

    /// Sends a command and gives its answer, which is not an error.
    ///
    /// # Panics
    ///
    /// When the answer is an error, or there is none within ten seconds.
    #[track_caller]
    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Reply {
        let answer = self.try_call(words);
        let command = || -> Vec<_> {
            let text = |word: &W| String::from_utf8_lossy(word.as_ref()).into_owned();
            words.iter().map(text).collect()
        };
        match answer {
            Ok(Reply::Error(error)) => panic!("{:?}: {error}", command()),
            Ok(reply) => reply,
            Err(error) => panic!("{:?}: no answer: {error}", command()),
        }
    }

    /// Sends a command and gives its answer. After an `Err` the connection is of no more use.
    pub fn try_call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Reply> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words.iter().map(AsRef::as_ref) {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&request)?;
        self.reply()
    }

    /// One field of `INFO section`, such as `role` of `replication`.
    #[track_caller]
    pub fn info(&mut self, section: &str, field: &str) -> Option<String> {
        self.call(&["INFO", section]).field(field)
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let Some(line) = line.strip_suffix("\r\n") else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let strange = || io::Error::new(io::ErrorKind::InvalidData, line.to_owned());
        let (kind, rest) = line.split_at_checked(1).ok_or_else(strange)?;
        let number = || rest.parse::<i64>().map_err(|_| strange());
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => Reply::Nil,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Reply::Bulk(bytes)
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Reply::Nil,
                Ok(length) => Reply::Array(
                    (0..length)
                        .map(|_| self.reply())
                        .collect::<io::Result<_>>()?,
                ),
            },
            _ => return Err(strange()),
        })
    }
}

impl Reply {
    /// A string, an error or a number as text; `None` for the others.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Status(text) | Self::Error(text) => Some(text.clone()),
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Integer(number) => Some(number.to_string()),
            Self::Nil | Self::Array(_) => None,
        }
    }

    /// The elements of an array; none for the others.
    pub fn items(&self) -> &[Reply] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// A field's value, in an array of names and values or in a text of `name:value` lines.
    pub fn field(&self, name: &str) -> Option<String> {
        if let Self::Array(items) = self {
            let mut pairs = items.chunks_exact(2);
            return pairs
                .find(|pair| pair[0].text().as_deref() == Some(name))
                .and_then(|pair| pair[1].text());
        }
        self.text()?
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value.to_owned())
    }
}
