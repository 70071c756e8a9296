//! A proxy in front of the emulator that injects faults into AWS calls and records them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use futures::{StreamExt, stream};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING, USER_AGENT};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fault::{
    Fault, Operation, Service, forbidden, messages, server_error, throttled, transaction_throttled,
    with_failed_entry,
};
use crate::ledger::Ledger;

/// The maximum size of a request or an answer.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// How long a silent connection stays open: longer than any client waits.
const SILENCE: Duration = Duration::from_mins(2);

/// The time between the first half of a body and the reset. The half is sent by then.
const BEFORE_RESET: Duration = Duration::from_millis(50);

/// The calls and faults of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationBook {
    /// The number of calls, retries included.
    pub calls: u64,
    /// The number of calls with each fault.
    pub faults: BTreeMap<Fault, u64>,
}

/// The calls of one kind of program of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppBook {
    pub calls: u64,
    /// Successful transactions: an api creates a job with one.
    pub transactions: u64,
    /// Outcomes and ends that the table accepted.
    pub settled: u64,
}

/// The records of the proxy.
#[derive(Clone, Debug, Default)]
pub struct Books {
    pub operations: BTreeMap<Operation, OperationBook>,
    /// By `AWS_SDK_UA_APP_ID`.
    pub apps: BTreeMap<String, AppBook>,
    /// How often S3 refused each file.
    pub forbidden: BTreeMap<String, u64>,
    /// The number of messages in lost answers.
    pub messages_lost: u64,
    pub ledger: Ledger,
}

impl Books {
    /// The number of each fault, over all operations.
    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        let mut all = BTreeMap::new();
        for book in self.operations.values() {
            for (fault, count) in &book.faults {
                *all.entry(*fault).or_default() += count;
            }
        }
        all
    }

    /// Records a successful call of the table.
    fn accepted(&mut self, call: &Call, at: Duration) {
        let settled = self.ledger.note(&call.operation.name, &call.body, at, call.app.as_deref());
        if let Some(app) = &call.app {
            let book = self.apps.entry(app.clone()).or_default();
            book.transactions += u64::from(call.operation.name == "TransactWriteItems");
            book.settled += settled;
        }
    }
}

/// A running proxy. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    inner: Arc<Inner>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Inner {
    upstream: String,
    client: reqwest::Client,
    seed: u64,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rate: f64,
    books: Books,
}

impl Proxy {
    /// Starts in front of `upstream` (`http://host:port`), on a free port. `rate` (0 to 1) is the share of calls with a
    /// fault.
    pub async fn start(upstream: &str, seed: u64, rate: f64) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let client =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
        let inner = Arc::new(Inner {
            upstream: upstream.trim_end_matches('/').to_owned(),
            client: client.map_err(io::Error::other)?,
            seed,
            began: Instant::now(),
            state: Mutex::new(State { rate, books: Books::default() }),
        });
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, Arc::clone(&inner), stop.clone()));
        Ok(Self { address, inner, _stop: stop.drop_guard() })
    }

    /// The value for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the share of calls with a fault.
    pub fn set_rate(&self, rate: f64) {
        self.inner.state.lock().rate = rate;
    }

    pub fn books(&self) -> Books {
        self.inner.state.lock().books.clone()
    }
}

async fn serve(listener: TcpListener, inner: Arc<Inner>, stop: CancellationToken) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&inner), stop.clone()));
            }
            // There may be too many open sockets. Some will close.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(stream: TcpStream, inner: Arc<Inner>, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let Ok((stream, twin)) = twin(stream) else { return };
    let reset = AtomicBool::new(false);
    let answer = service_fn(|request: Request<Incoming>| Arc::clone(&inner).answer(request, &reset));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    // An error means that the client is gone, or that the proxy cut the connection.
    stop.run_until_cancelled(served).await;
    if reset.load(Ordering::Relaxed) {
        // The socket closes with its last handle, and sends a reset then.
        let _ = twin.set_zero_linger();
    }
}

/// A second handle of the same socket.
fn twin(stream: TcpStream) -> io::Result<(TcpStream, TcpStream)> {
    let stream = stream.into_std()?;
    let twin = TcpStream::from_std(stream.try_clone()?)?;
    Ok((TcpStream::from_std(stream)?, twin))
}

/// A complete call.
struct Call {
    operation: Operation,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    app: Option<String>,
}

impl Inner {
    /// Answers one call. An error closes the connection, or resets it if `reset` is set.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        reset: &AtomicBool,
    ) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        let operation = Operation::of(target, head.method.as_str());
        let body = to_bytes(Body::new(body), MAX_BODY_BYTES).await.map_err(io::Error::other)?;
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let app = head.headers.get(USER_AGENT).and_then(|agent| app(agent.to_str().ok()?)).map(str::to_owned);
        let fault = self.draw(&operation, app.as_deref());
        let call = Call { operation, method: head.method, path, headers: head.headers, body, app };
        let Some((fault, late)) = fault else {
            return Ok(self.forward(call).await?.map(Body::from));
        };
        let answer = match fault {
            Fault::Throttled => Ok(throttled(&call.operation)),
            Fault::ServerError => Ok(server_error(&call.operation)),
            Fault::TransactionThrottled => {
                let chance = usize::try_from(late.as_millis()).unwrap_or_default();
                Ok(transaction_throttled(&call.body, chance))
            }
            Fault::Forbidden => {
                *self.state.lock().books.forbidden.entry(file(&call.path).to_owned()).or_default() += 1;
                Ok(forbidden())
            }
            Fault::CutBefore => Err(cut()),
            _ => return self.damage(call, fault, late, reset).await,
        };
        self.note(&call.operation, fault);
        answer
    }

    /// Forwards a call and damages its answer.
    async fn damage(
        self: &Arc<Self>,
        call: Call,
        fault: Fault,
        late: Duration,
        reset: &AtomicBool,
    ) -> io::Result<Response<Body>> {
        let operation = call.operation.clone();
        let mut answered = self.forward(call).await?;
        let messages = messages(answered.body());
        let is_harmless = match fault {
            Fault::ReceiveLost => messages == 0,
            Fault::BodyStalled | Fault::BodyReset => {
                !answered.status().is_success() || answered.body().len() < 2
            }
            _ => false,
        };
        if is_harmless {
            return Ok(answered.map(Body::from));
        }
        self.note(&operation, fault);
        match fault {
            Fault::AnswerLost | Fault::ReceiveLost => {
                self.state.lock().books.messages_lost += messages as u64;
                if fault == Fault::ReceiveLost {
                    tokio::time::sleep(SILENCE).await;
                }
                return Err(cut());
            }
            Fault::BodyStalled => return Ok(half(answered, SILENCE)),
            Fault::BodyReset => {
                reset.store(true, Ordering::Relaxed);
                return Ok(half(answered, BEFORE_RESET));
            }
            Fault::EntryFailed => {
                if let Some(body) = with_failed_entry(answered.body()) {
                    *answered.body_mut() = body.into();
                }
            }
            _ => tokio::time::sleep(late).await,
        }
        Ok(answered.map(Body::from))
    }

    /// Counts a call and draws its fault.
    fn draw(&self, operation: &Operation, app: Option<&str>) -> Option<(Fault, Duration)> {
        let mut state = self.state.lock();
        let rate = state.rate;
        if let Some(app) = app {
            state.books.apps.entry(app.to_owned()).or_default().calls += 1;
        }
        let book = state.books.operations.entry(operation.clone()).or_default();
        book.calls += 1;
        Fault::draw(self.seed, rate, operation, book.calls)
    }

    fn note(&self, operation: &Operation, fault: Fault) {
        let mut state = self.state.lock();
        let book = state.books.operations.entry(operation.clone()).or_default();
        *book.faults.entry(fault).or_default() += 1;
    }

    /// Forwards a call. It continues if the client disconnects, since the emulator executes it, and the ledger must be
    /// complete. Only a receive ends with its client, as with SQS.
    async fn forward(self: &Arc<Self>, call: Call) -> io::Result<Response<Bytes>> {
        let ends_with_client = call.operation.name == "ReceiveMessage";
        let forwarding = Arc::clone(self).forward_now(call);
        if ends_with_client {
            return forwarding.await;
        }
        tokio::spawn(forwarding).await.map_err(io::Error::other)?
    }

    async fn forward_now(self: Arc<Self>, call: Call) -> io::Result<Response<Bytes>> {
        let mut headers = call.headers.clone();
        for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
            headers.remove(name);
        }
        let url = format!("{}{}", self.upstream, call.path);
        let request = self.client.request(call.method.clone(), url).headers(headers).body(call.body.clone());
        let response = request.send().await.map_err(io::Error::other)?;
        let (mut parts, body) = Response::<reqwest::Body>::from(response).into_parts();
        let body = to_bytes(Body::new(body), MAX_BODY_BYTES).await.map_err(io::Error::other)?;
        for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
            parts.headers.remove(name);
        }
        if call.operation.service == Service::Dynamodb && parts.status.is_success() {
            let at = self.began.elapsed();
            self.state.lock().books.accepted(&call, at);
        }
        Ok(Response::from_parts(parts, body))
    }
}

/// The error that ends a connection without an answer.
fn cut() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

/// The first half of a body, and after a pause the end of the connection.
fn half(answered: Response<Bytes>, pause: Duration) -> Response<Body> {
    let (mut head, body) = answered.into_parts();
    head.headers.insert(CONTENT_LENGTH, body.len().into());
    let first = body.slice(..body.len() / 2);
    let end = async move {
        tokio::time::sleep(pause).await;
        Err(cut())
    };
    let parts = stream::once(async { Ok(first) }).chain(stream::once(end));
    Response::from_parts(head, Body::from_stream(parts))
}

/// The `AWS_SDK_UA_APP_ID` in a user agent.
fn app(agent: &str) -> Option<&str> {
    agent.split(' ').find_map(|part| part.strip_prefix("app/"))
}

/// The last part of an object's key.
fn file(path: &str) -> &str {
    let key = path.split_once('?').map_or(path, |(key, _)| key);
    key.rsplit('/').next().unwrap_or_default()
}
