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
    let task = tokio::spawn(server::serve(listener, router, stop.clone(), drain));
    Server { address, stop, task }
}

/// Sends what it is given, as it is, and reads until the server closes.
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

    // Says too much and sends nothing: told at once, without `100 Continue`.
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
    // Says what is no length, or two things.
    for bad in ["Content-Length: -1", "Content-Length: 5\r\nContent-Length: 6"] {
        let answer = exchange(address, &post(bad, good)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    // The server is none the worse for it.
    let answer = exchange(address, "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("content-length: 15\r\n"), "{answer}");
}

#[tokio::test]
async fn headers_that_are_too_many_too_long_or_none() {
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
    // Headers that would be two to whom reads them otherwise.
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
async fn a_client_that_dawdles_over_its_headers_is_let_go() {
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
async fn a_stop_waits_for_requests_in_hand_and_for_idle_connections_not_at_all() {
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

/// A server as the program runs it, and what tells it to stop.
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
async fn a_stop_is_announced_before_the_door_is_closed() {
    let api = Api::new();
    let server = program(&api).await;
    let mut used = TcpStream::connect(server.address).await.expect("a connection");
    used.write_all(HEALTH.as_bytes()).await.expect("sent");
    let mut first = [0; 15];
    used.read_exact(&mut first).await.expect("an answer");
    let mut idle = TcpStream::connect(server.address).await.expect("a connection");

    server.stop.cancel();
    let stopped = tokio::time::Instant::now();
    // What a load balancer sends meanwhile is answered, and it is told to send no more.
    used.write_all(HEALTH.as_bytes()).await.expect("sent");
    let mut answers = String::new();
    used.read_to_string(&mut answers).await.expect("answers, and the end of the connection");
    assert_eq!(answers.matches("connection: close\r\n").count(), 1, "of two answers the last one: {answers}");
    assert!(answers.ends_with("{\"status\":\"ok\"}"), "{answers}");
    let new = exchange(server.address, HEALTH).await;
    assert!(new.starts_with("HTTP/1.1 200 OK\r\n") && new.contains("connection: close\r\n"), "{new}");
    let ready = exchange(server.address, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("this server is stopping"), "{ready}");
    assert!(stopped.elapsed() < Duration::from_secs(5), "answered at once");

    // Connections that nobody uses are kept for longer than our nginx keeps them.
    assert_eq!(idle.read(&mut [0; 1]).await.expect("the end"), 0);
    assert_eq!(stopped.elapsed().as_secs(), 5);
    server.task.await.expect("no panic").expect("a clean end");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn connections_that_the_system_has_taken_are_answered() {
    let api = Api::new();
    let server = start(api.router.clone(), Duration::from_mins(1)).await;
    // The server is not asked meanwhile: this thread is its own, and does not let go of it.
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
