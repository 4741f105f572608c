//! Requests, each on a connection of its own, within the bounds of the probe.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future, stream};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::error::Error;
use crate::options::Options;
use crate::target::Target;

/// An answer longer than this is none that a check can use.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// How long the last byte of one of many equal requests waits for those of the others.
const TOGETHER: Duration = Duration::from_millis(500);

/// What one request has more than all have.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Lines of the key's header.
    pub(crate) keys: Vec<HeaderValue>,
    pub(crate) body: Bytes,
    pub(crate) as_other_tenant: bool,
}

/// An answer, or what was read of it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) enum NoAnswer {
    /// The probe's own bounds, which say nothing of the server.
    Bound(&'static str),
    /// The server's connection.
    Connection(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bound(bound) => write!(f, "not run: {bound}"),
            Self::Connection(why) => write!(f, "no answer: {why}"),
        }
    }
}

/// Where a client goes away.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HangUp {
    /// Half of the body is sent.
    InRequest,
    /// All is sent, and nothing is read.
    BeforeAnswer,
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Ends the connection with it.
struct Exchange {
    sender: http1::SendRequest<Sent>,
    connection: JoinHandle<()>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

type Sent = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Sends requests to one target.
pub(crate) struct Client {
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    method: Method,
    headers: HeaderMap,
    key_header: HeaderName,
    credentials: [Option<(HeaderName, HeaderValue)>; 2],
    deadline: Instant,
    answer_timeout: Duration,
    max_requests: u32,
    sent: AtomicU32,
}

impl Client {
    /// # Errors
    /// When an option cannot be used.
    pub(crate) fn new(target: Target, options: &Options) -> Result<Self, Error> {
        let roots = target.is_tls.then(system_roots).transpose()?;
        Self::trusting(target, options, roots)
    }

    fn trusting(
        target: Target,
        options: &Options,
        roots: Option<RootCertStore>,
    ) -> Result<Self, Error> {
        let wrong = |name, why| Error::Option { name, why };
        let mut headers = HeaderMap::new();
        for line in &options.headers {
            let (name, value) = header("header", line)?;
            headers.append(name, value);
        }
        headers
            .entry(http::header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("application/json"));
        let credential = |name, line: &Option<String>| {
            let line = line.as_deref().map(|line| header(name, line));
            let mut line = line.transpose()?;
            if let Some((_, value)) = &mut line {
                value.set_sensitive(true);
            }
            Ok(line)
        };
        let credentials = [
            credential("credential", &options.credential)?,
            credential("other-credential", &options.other_credential)?,
        ];
        let tls = roots.map(|roots| tls(&target, roots)).transpose()?;
        let method = options.method.parse();
        let key_header = options.key_header.parse();
        Ok(Self {
            tls,
            method: method.map_err(|_| wrong("method", "it is none of HTTP"))?,
            headers,
            key_header: key_header.map_err(|_| wrong("key-header", "it is no name of a header"))?,
            credentials,
            deadline: Instant::now() + options.timeout,
            answer_timeout: options.answer_timeout,
            max_requests: options.max_requests,
            sent: AtomicU32::new(0),
            target,
        })
    }

    /// How many requests were sent.
    pub(crate) fn sent(&self) -> u32 {
        self.sent.load(Relaxed)
    }

    pub(crate) fn has_two_tenants(&self) -> bool {
        self.credentials[1].is_some()
    }

    /// Until when a key may stay in flight.
    pub(crate) fn patience(&self) -> Instant {
        self.deadline.min(Instant::now() + self.answer_timeout)
    }

    /// Sends one request and reads the whole answer.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, NoAnswer> {
        self.spend(1)?;
        self.within(async {
            let mut exchange = self.connect().await?;
            let request = self.request(call, None);
            whole(exchange.send(request).await?, usize::MAX).await
        })
        .await
    }

    /// Sends equal requests, whose last bytes leave together.
    pub(crate) async fn send_at_once(
        &self,
        call: &Call,
        count: u32,
    ) -> Result<Vec<Result<Answer, NoAnswer>>, NoAnswer> {
        self.spend(count)?;
        let connected = (0..count).map(|_| self.within(self.connect()));
        let connected = future::try_join_all(connected).await?;
        let together = Arc::new(Barrier::new(connected.len()));
        let answers = connected.into_iter().map(|mut exchange| {
            let request = self.request(call, Some(Arc::clone(&together)));
            self.within(async move { whole(exchange.send(request).await?, usize::MAX).await })
        });
        Ok(future::join_all(answers).await)
    }

    /// Sends a request, or half of one, and closes the connection.
    pub(crate) async fn hang_up(&self, call: &Call, at: HangUp) -> Result<(), NoAnswer> {
        self.spend(1)?;
        let (head, _) = self.request(call, None).into_parts();
        let target = head.uri.path_and_query();
        let target = target.map_or("/", |target| target.as_str());
        let mut bytes = format!("{} {target} HTTP/1.1\r\n", head.method).into_bytes();
        for (name, value) in &head.headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(match at {
            HangUp::InRequest => &call.body[..call.body.len() / 2],
            HangUp::BeforeAnswer => &call.body,
        });
        self.within(async {
            let mut stream = self.open().await?;
            let written = async {
                stream.write_all(&bytes).await?;
                stream.flush().await
            };
            written.await.map_err(|error| connection(&error))
        })
        .await
    }

    /// Sends a request, reads the answer's head and what comes with it, and closes the connection.
    pub(crate) async fn cut_answer(&self, call: &Call) -> Result<Answer, NoAnswer> {
        self.spend(1)?;
        self.within(async {
            let mut exchange = self.connect().await?;
            let request = self.request(call, None);
            whole(exchange.send(request).await?, 1).await
        })
        .await
    }

    /// Takes so many requests from the bound.
    fn spend(&self, requests: u32) -> Result<(), NoAnswer> {
        if self.deadline <= Instant::now() {
            return Err(LATE);
        }
        let spent = self.sent.fetch_update(Relaxed, Relaxed, |sent| {
            let sent = sent.checked_add(requests)?;
            (sent <= self.max_requests).then_some(sent)
        });
        let bound = NoAnswer::Bound("the bound of requests is reached (`--max-requests`)");
        spent.map(|_| ()).map_err(|_| bound)
    }

    async fn within<T>(
        &self,
        exchange: impl Future<Output = Result<T, NoAnswer>>,
    ) -> Result<T, NoAnswer> {
        let bounded = timeout_at(self.patience(), exchange).await;
        bounded.unwrap_or_else(|_| {
            if self.deadline <= Instant::now() {
                return Err(LATE);
            }
            let seconds = self.answer_timeout.as_secs_f32();
            Err(NoAnswer::Connection(format!("none came in {seconds} s")))
        })
    }

    fn request(&self, call: &Call, together: Option<Arc<Barrier>>) -> Request<Sent> {
        let mut request = Request::new(body(call.body.clone(), together));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.path.clone().into();
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(self.target.authority.as_str()) {
            headers.insert(HOST, host);
        }
        headers.extend(self.headers.clone());
        let [one, other] = &self.credentials;
        if let Some((name, value)) = if call.as_other_tenant { other } else { one } {
            headers.insert(name, value.clone());
        }
        for key in &call.keys {
            headers.append(&self.key_header, key.clone());
        }
        headers.insert(CONTENT_LENGTH, call.body.len().into());
        request
    }

    async fn connect(&self) -> Result<Exchange, NoAnswer> {
        let stream = TokioIo::new(self.open().await?);
        let opened = http1::handshake(stream).await;
        let (sender, stream) = opened.map_err(|error| connection(&error))?;
        let connection = tokio::spawn(async move {
            let _ = stream.await;
        });
        Ok(Exchange { sender, connection })
    }

    /// A connection to one of the addresses that were admitted.
    async fn open(&self) -> Result<Box<dyn Connection>, NoAnswer> {
        let opened = TcpStream::connect(&self.target.addresses[..]).await;
        let stream = opened.map_err(|error| connection(&error))?;
        let _ = stream.set_nodelay(true);
        let Some((tls, name)) = &self.tls else {
            return Ok(Box::new(stream));
        };
        match tls.connect(name.clone(), stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(connection(&error)),
        }
    }
}

impl Exchange {
    async fn send(&mut self, request: Request<Sent>) -> Result<Response<Incoming>, NoAnswer> {
        let answer = self.sender.send_request(request).await;
        answer.map_err(|error| connection(&error))
    }
}

const LATE: NoAnswer = NoAnswer::Bound("the probe's time is over (`--timeout`)");

/// The last cause says most.
fn connection(error: &dyn std::error::Error) -> NoAnswer {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    NoAnswer::Connection(last.to_string())
}

/// Reads a body until it has at least so many bytes.
async fn whole(response: Response<Incoming>, enough: usize) -> Result<Answer, NoAnswer> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while bytes.len() < enough
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|error| connection(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_ANSWER_BYTES {
            let why = format!("it is longer than {MAX_ANSWER_BYTES} bytes");
            return Err(NoAnswer::Connection(why));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: bytes.freeze(),
    })
}

/// A body whose last byte leaves with those of others.
fn body(bytes: Bytes, together: Option<Arc<Barrier>>) -> Sent {
    let last = bytes.len().saturating_sub(1);
    let parts = [bytes.slice(..last), bytes.slice(last..)];
    let parts = stream::iter(parts).enumerate().then(move |(at, part)| {
        let together = together.clone().filter(|_| at == 1);
        async move {
            if let Some(together) = together {
                // A server that answers early ends the others' wait: none is longer than this.
                let _ = timeout(TOGETHER, together.wait()).await;
            }
            Ok(Frame::data(part))
        }
    });
    StreamBody::new(parts).boxed_unsync()
}

fn header(option: &'static str, line: &str) -> Result<(HeaderName, HeaderValue), Error> {
    let wrong = Error::Option {
        name: option,
        why: "it is not of the form `Name: value`",
    };
    let Some((name, value)) = line.split_once(':') else {
        return Err(wrong);
    };
    match (name.trim().parse(), HeaderValue::from_str(value.trim())) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(wrong),
    }
}

fn system_roots() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        true => Err(Error::Certificates("none were found".into())),
        false => Ok(roots),
    }
}

fn tls(
    target: &Target,
    roots: RootCertStore,
) -> Result<(TlsConnector, ServerName<'static>), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Certificates(error.into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let host = target.authority.host().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|_| Error::Option {
        name: "url",
        why: "its host is no name that a certificate can have",
    })?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use tokio::io::AsyncReadExt;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Answers 201 over TLS, as whom it is told to be.
    async fn serve() -> (String, CertificateDer<'static>) {
        let names = ["127.0.0.1".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate = certified.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.unwrap(), 0);
                let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        (url, certificate)
    }

    #[tokio::test]
    async fn over_tls_a_server_is_asked_who_has_a_trusted_certificate_and_no_other() {
        let (url, certificate) = serve().await;
        let (_, of_another) = serve().await;
        let options = Options::new(&url);
        for (trusted, is_answered) in [(certificate, true), (of_another, false)] {
            let target = Target::look_up(&url, false, options.timeout).await.unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(trusted).unwrap();
            let client = Client::trusting(target, &options, Some(roots)).unwrap();
            let call = Call {
                keys: Vec::new(),
                body: "{}".into(),
                as_other_tenant: false,
            };
            match client.send(&call).await {
                Ok(answer) => {
                    assert!(is_answered);
                    assert_eq!((answer.status, &answer.body[..]), (201, &b"ok"[..]));
                }
                Err(NoAnswer::Connection(why)) => assert!(!is_answered, "{why}"),
                Err(bound) => panic!("{bound}"),
            }
        }
    }
}
