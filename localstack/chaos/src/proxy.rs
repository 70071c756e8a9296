//! A proxy before the emulator that makes AWS fail as it does on a bad day, and keeps books of it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use hyper::http::response::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fault::{Fault, Operation, Service, server_error, throttled, with_failed_entry};
use crate::ledger::Ledger;

/// The largest body of a call or of an answer.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The calls and faults of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationBook {
    /// How many calls there were, tries counted singly.
    pub calls: u64,
    /// How many of them each fault struck.
    pub faults: BTreeMap<Fault, u64>,
}

/// What the proxy has seen.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// By operation.
    pub operations: BTreeMap<Operation, OperationBook>,
    /// What the table took.
    pub ledger: Ledger,
}

impl Books {
    /// How often each fault struck, over all operations.
    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        let mut all = BTreeMap::new();
        for book in self.operations.values() {
            for (fault, count) in &book.faults {
                *all.entry(*fault).or_default() += count;
            }
        }
        all
    }
}

/// A running proxy. It stops when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    inner: Arc<Inner>,
    stop: CancellationToken,
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

/// The connection ends without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut")
    }
}

impl std::error::Error for Cut {}

impl Proxy {
    /// Starts before `upstream` (`http://host:port`), on a free port. `rate` (0 to 1) is the share of calls that
    /// something goes wrong with.
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
        Ok(Self { address, inner, stop })
    }

    /// What to set `AWS_ENDPOINT_URL` to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the share of calls that something goes wrong with.
    pub fn set_rate(&self, rate: f64) {
        self.inner.lock().rate = rate;
    }

    /// What it has seen so far.
    pub fn books(&self) -> Books {
        self.inner.lock().books.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(listener: TcpListener, inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&inner), stop.clone()));
            }
            // Out of sockets, perhaps: there will be some again.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(stream: TcpStream, inner: Arc<Inner>, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let answer = service_fn(|request: Request<Incoming>| Arc::clone(&inner).answer(request));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    // An error is a client that has gone, or a cut of our own.
    tokio::select! {
        () = stop.cancelled() => {}
        _ = served => {}
    }
}

/// A call, read to its end.
struct Call {
    operation: Operation,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// The emulator's answer, read to its end.
struct Answered {
    head: Parts,
    body: Bytes,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one call. An error closes the connection.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (head, body) = request.into_parts();
        let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        let operation = Operation::of(target, head.method.as_str());
        let body = to_bytes(Body::new(body), MAX_BODY_BYTES).await.map_err(|_| Cut)?;
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let fault = self.draw(&operation);
        let call = Call { operation, method: head.method, path, headers: head.headers, body };
        match fault {
            None => self.pass(call).await.map(whole),
            Some((Fault::Throttled, _)) => Ok(throttled(&call.operation)),
            Some((Fault::ServerError, _)) => Ok(server_error(&call.operation)),
            Some((Fault::CutBefore, _)) => Err(Cut),
            Some((Fault::Slow, late)) => {
                let answered = self.pass(call).await?;
                tokio::time::sleep(late).await;
                Ok(whole(answered))
            }
            Some((Fault::AnswerLost, _)) => {
                self.pass(call).await?;
                Err(Cut)
            }
            Some((Fault::EntryFailed, _)) => {
                let mut answered = self.pass(call).await?;
                if let Some(body) = with_failed_entry(&answered.body) {
                    answered.body = body.into();
                }
                Ok(whole(answered))
            }
        }
    }

    fn draw(&self, operation: &Operation) -> Option<(Fault, Duration)> {
        let mut state = self.lock();
        let rate = state.rate;
        let book = state.books.operations.entry(operation.clone()).or_default();
        book.calls += 1;
        let fault = Fault::draw(self.seed, rate, operation, book.calls);
        if let Some((fault, _)) = fault {
            *book.faults.entry(fault).or_default() += 1;
        }
        fault
    }

    /// Passes a call on, to its end even if the client goes: what was sent will be done, and the ledger must know.
    /// Only a receive ends with its client, since a service sees that nobody waits any more.
    async fn pass(self: &Arc<Self>, call: Call) -> Result<Answered, Cut> {
        let ends_with_client = call.operation.name == "ReceiveMessage";
        let passing = Arc::clone(self).pass_on(call);
        if ends_with_client {
            return passing.await;
        }
        tokio::spawn(passing).await.map_err(|_| Cut)?
    }

    async fn pass_on(self: Arc<Self>, call: Call) -> Result<Answered, Cut> {
        let mut headers = call.headers;
        for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
            headers.remove(name);
        }
        let url = format!("{}{}", self.upstream, call.path);
        let request = self.client.request(call.method, url).headers(headers).body(call.body.clone());
        let response = request.send().await.map_err(|_| Cut)?;
        let (mut parts, body) = Response::<reqwest::Body>::from(response).into_parts();
        let body = to_bytes(Body::new(body), MAX_BODY_BYTES).await.map_err(|_| Cut)?;
        for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
            parts.headers.remove(name);
        }
        if call.operation.service == Service::Dynamodb && parts.status.is_success() {
            let at = self.began.elapsed();
            self.lock().books.ledger.note(&call.operation.name, &call.body, at);
        }
        Ok(Answered { head: parts, body })
    }
}

fn whole(answered: Answered) -> Response<Body> {
    Response::from_parts(answered.head, Body::from(answered.body))
}
