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
