//! Over a real socket: what only a server does.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use longhand_api::server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::Api;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
}

pub(crate) async fn start(router: Router, drain: Duration) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let task = tokio::spawn(server::serve(listener, router, 4000, stop.clone(), drain));
    Server { address, stop, task }
}

/// Sends the bytes unchanged, and reads until the server closes.
pub(crate) async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // A server that closes on what it did not read may reset the connection after its answer.
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("UTF-8")
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /transcribe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n\r\n{body}")
}

#[tokio::test]
async fn lying_and_absent_lengths() {
    let api = Api::new();
    let Server { address, .. } = start(api.router.clone(), Duration::from_secs(5)).await;
    let good = r#"{"userId":"ana","audioChunkPaths":["a.wav"]}"#;
    let answer = exchange(address, &post(&format!("Content-Length: {}", good.len()), good)).await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    let answer = exchange(
        address,
        &post("Transfer-Encoding: chunked", &format!("{:x}\r\n{good}\r\n0\r\n\r\n", good.len())),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");

    // Announces too much and sends nothing: refused at once, without `100 Continue`.
    let answer = exchange(address, &post("Content-Length: 9999999\r\nExpect: 100-continue", "")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("BODY_TOO_LARGE"), "{answer}");
    // Says nothing and sends too much.
    let chunk = format!("{:x}\r\n{}\r\n", 40_000, " ".repeat(40_000));
    let answer = exchange(address, &post("Transfer-Encoding: chunked", &chunk.repeat(2))).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // Packed, and lying about it: refused for being packed, and nothing is read, let alone unpacked.
    for length in ["9999999\r\nExpect: 100-continue", "1", "0"] {
        let headers =
            format!("Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {length}");
        let answer = exchange(address, &post(&headers, "\u{1f}\u{8b}\u{8}\0")).await;
        assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
    }
    // Says less than it sends.
    let answer = exchange(address, &post("Content-Length: 9", good)).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("INVALID_JSON"), "{answer}");
    // An invalid length, or two.
    for bad in ["Content-Length: -1", "Content-Length: 5\r\nContent-Length: 6"] {
        let answer = exchange(address, &post(bad, good)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    // The server still answers.
    let answer = exchange(address, "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("content-length: 15\r\n"), "{answer}");
}

#[tokio::test]
async fn too_many_or_too_long_headers_are_refused() {
    let api = Api::new();
    let Server { address, .. } = start(api.router.clone(), Duration::from_secs(5)).await;
    let get =
        |headers: &str| format!("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    let many = |count: usize| "x-a: 1\r\n".repeat(count);
    let answer = exchange(address, &get(&many(90))).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("\r\nserver:"), "{answer}");
    for request in [
        get(&many(200)),
        get(&format!("x-long: {}\r\n", "a".repeat(40_000))),
        get(&format!("authorization: Bearer {}\r\n", "a".repeat(400_000))),
        get(&format!("{}: 1\r\n", "a".repeat(40_000))),
    ] {
        let answer = exchange(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let answer = exchange(address, &format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000))).await;
    assert!(answer.starts_with("HTTP/1.1 414 ") || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // Headers that another parser would read as two.
    for bad in
        ["x-a: 1\rset-cookie: x\r\n", "x a: 1\r\n", ": 1\r\n", "x-a : 1\r\n", " x-a: 1\r\n", "x-a: \0\r\n"]
    {
        let answer = exchange(address, &get(bad)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad:?}: {answer}");
    }
    // HTTP/2 without asking, another protocol, and no protocol.
    for preface in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\u{5}hello",
        "GET /\r\n\r\n",
        "\r\n\r\nnonsense\r\n\r\n",
    ] {
        let answer = exchange(address, preface).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{preface:?}: {answer}");
    }
    // An upgrade to it is not taken.
    let upgrade = "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let answer = exchange(address, &get(upgrade)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_with_slow_headers_is_disconnected() {
    let api = Api::new();
    let Server { address, .. } = start(api.router.clone(), Duration::from_secs(5)).await;
    for beginning in ["", "GET /healthz HTTP/1.1\r\nHost: x\r\nx-a: "] {
        let began = tokio::time::Instant::now();
        let answer = exchange(address, beginning).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_eq!(began.elapsed().as_secs(), 75, "longer than a load balancer keeps a connection");
    }
}

#[tokio::test]
async fn one_connection_takes_many_requests() {
    let api = Api::new();
    let Server { address, .. } = start(api.router.clone(), Duration::from_secs(5)).await;
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n";
    let answers =
        exchange(address, &format!("{request}\r\n{request}\r\n{request}Connection: close\r\n\r\n")).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answers}");
}

#[tokio::test]
async fn a_stop_waits_for_requests_but_not_for_idle_connections() {
    let (entered, mut enter) = tokio::sync::mpsc::channel::<()>(1);
    let leave = CancellationToken::new();
    let handler = {
        let leave = leave.clone();
        get(async move || {
            entered.send(()).await.expect("the test waits");
            leave.cancelled().await;
            "done"
        })
    };
    let server = start(Router::new().route("/", handler), Duration::from_mins(1)).await;
    let idle = TcpStream::connect(server.address).await.expect("a connection");
    let request = tokio::spawn(exchange(server.address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    enter.recv().await.expect("a request in hand");
    server.stop.cancel();
    leave.cancel();
    let answer = request.await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("done"), "{answer}");
    server.task.await.expect("no panic").expect("a clean end");
    drop(idle);
}

/// A server as the program runs it, and the token that stops it.
async fn program(api: &Api) -> Server {
    let (closing, drain) = server::closing(&api.stop, Duration::from_secs(25));
    let Server { address, task, stop } = start(api.router.clone(), drain).await;
    tokio::spawn(async move {
        closing.cancelled().await;
        stop.cancel();
    });
    Server { address, stop: api.stop.clone(), task }
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_stop_is_announced_before_the_listener_closes() {
    let api = Api::new();
    let server = program(&api).await;
    let mut used = TcpStream::connect(server.address).await.expect("a connection");
    used.write_all(HEALTH.as_bytes()).await.expect("sent");
    let mut first = [0; 15];
    used.read_exact(&mut first).await.expect("an answer");
    let mut idle = TcpStream::connect(server.address).await.expect("a connection");

    server.stop.cancel();
    let stopped = tokio::time::Instant::now();
    // What a load balancer sends until then is answered, with `Connection: close`.
    used.write_all(HEALTH.as_bytes()).await.expect("sent");
    let mut answers = String::new();
    used.read_to_string(&mut answers).await.expect("answers, and the end of the connection");
    assert_eq!(answers.matches("connection: close\r\n").count(), 1, "of two answers the last one: {answers}");
    assert!(answers.ends_with("{\"status\":\"ok\"}"), "{answers}");
    let new = exchange(server.address, HEALTH).await;
    assert!(new.starts_with("HTTP/1.1 200 OK\r\n") && new.contains("connection: close\r\n"), "{new}");
    for path in ["/readyz", "/serving"] {
        let ready = exchange(server.address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("this server is stopping"), "{ready}");
    }
    assert!(stopped.elapsed() < Duration::from_secs(5), "answered at once");

    // Idle connections are kept for longer than our nginx keeps them.
    assert_eq!(idle.read(&mut [0; 1]).await.expect("the end"), 0);
    assert_eq!(stopped.elapsed().as_secs(), 5);
    server.task.await.expect("no panic").expect("a clean end");
    assert!(TcpStream::connect(server.address).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn connections_in_the_backlog_are_answered() {
    let api = Api::new();
    let server = start(api.router.clone(), Duration::from_mins(1)).await;
    // The server does not run in between: it shares this thread, which does not yield.
    let mut sockets: Vec<_> = (0..20)
        .map(|_| {
            let mut socket = std::net::TcpStream::connect(server.address).expect("a connection");
            std::io::Write::write_all(&mut socket, HEALTH.as_bytes()).expect("sent");
            socket
        })
        .collect();
    server.stop.cancel();
    server.task.await.expect("no panic").expect("a clean end");
    for socket in &mut sockets {
        let mut answer = String::new();
        std::io::Read::read_to_string(socket, &mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_stop_ends_in_time_whatever_hangs() {
    let (entered, mut enter) = tokio::sync::mpsc::channel::<()>(1);
    let handler = get(async move || {
        entered.send(()).await.expect("the test waits");
        pending::<()>().await;
    });
    let server = start(Router::new().route("/", handler), Duration::from_millis(50)).await;
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    enter.recv().await.expect("a request in hand");
    server.stop.cancel();
    server.task.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn connections_over_the_bound_are_closed_at_once() {
    let api = Api::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (router, stop) = (api.router.clone(), CancellationToken::new());
    tokio::spawn(server::serve(listener, router, 3, stop, Duration::from_secs(5)));
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        socket.write_all(HEALTH.as_bytes()).await.expect("sent");
        socket.read_exact(&mut [0; 15]).await.expect("an answer");
        kept.push(socket);
    }
    assert_eq!(exchange(address, "").await, "", "closed without a word");
    kept.pop();
    // The server sees that one has gone.
    while !exchange(address, &HEALTH.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
        .await
        .contains("200 OK")
    {}
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_disconnected() {
    struct Big(Vec<u8>, Option<tokio::sync::oneshot::Sender<()>>);
    impl AsRef<[u8]> for Big {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Big {
        fn drop(&mut self) {
            let _ = self.1.take().map(|tell| tell.send(()));
        }
    }
    let (dropped, gone) = tokio::sync::oneshot::channel::<()>();
    let answer = axum::body::Bytes::from_owner(Big(vec![b'x'; 64 * 1024 * 1024], Some(dropped)));
    let answer = std::sync::Arc::new(std::sync::Mutex::new(Some(answer)));
    let router = Router::new()
        .route("/", get(async move || answer.lock().expect("not poisoned").take().expect("one")));
    let Server { address, .. } = start(router, Duration::from_secs(5)).await;
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let began = tokio::time::Instant::now();
    gone.await.expect("the answer's bytes are dropped");
    assert!((30..32).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}
