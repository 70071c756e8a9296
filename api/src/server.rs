//! The router as a server.

use std::io;
use std::time::Duration;

use ::metrics::counter;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// The most bytes of a request's line and headers. The longest credential takes a quarter of it.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// The most headers of a request.
const MAX_HEADERS: usize = 100;

/// The most bytes that are buffered of a connection, each way. The request's headers must fit.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// How many bytes of answers the system buffers for one connection. By default Linux buffers up to 4 MB for a client
/// that does not read, and no other bound covers that memory.
const SEND_BUFFER_BYTES: usize = 128 * 1024;

/// How long a client may receive nothing of an answer before its connection is closed. The system applies it too: a
/// client that is gone acknowledges nothing, not even a heartbeat.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the headers of a request may take, from the connection's beginning or the answer before: it is also
/// how long an idle connection is kept. Longer than a load balancer keeps one (60 s on AWS), which would
/// otherwise send a request into a connection that is just being closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a server that was asked to stop still accepts requests. Load balancers notice a stop late, or only by
/// refused connections; and they close idle connections themselves, our nginx after 4 s (`localstack/nginx.conf.in`),
/// so that none is closed here while a request is on its way.
const LINGER: Duration = Duration::from_secs(5);

/// How long a connection is polled for a request that has arrived before it is closed.
const LAST_POLL: Duration = Duration::from_millis(300);

/// How long nothing is accepted after the system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A token for when a server that was asked to `stop` closes, and how long the requests running then may take. `drain`
/// is the time for both.
pub fn closing(stop: &CancellationToken, drain: Duration) -> (CancellationToken, Duration) {
    let linger = LINGER.min(drain / 2);
    let (stop, closing) = (stop.clone(), CancellationToken::new());
    let closes = closing.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        sleep(linger).await;
        closes.cancel();
    });
    (closing, drain.saturating_sub(linger))
}

/// Answers requests, on `max_connections` at most, until `stop` is cancelled; then accepts no more, and gives running
/// ones `drain` to end. HTTP/1.1 alone, which load balancers use.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    stop: CancellationToken,
    drain: Duration,
) -> io::Result<()> {
    info!(address = %listener.local_addr()?, "listening");
    let mut connections = JoinSet::new();
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => break,
            socket = accept(&listener) => socket,
            Some(_) = connections.join_next() => continue,
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= max_connections {
            // Closed at once, so that its client tries elsewhere. Counted, not logged: there may be thousands.
            counter!("longhand_connections_refused_total").increment(1);
            continue;
        }
        connections.spawn(answer(socket, router.clone(), stop.clone()));
    }
    for socket in backlog(listener) {
        connections.spawn(answer(socket, router.clone(), stop.clone()));
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(drain, ended).await.is_err() {
        warn!(?drain, "some requests did not end in time");
    }
    info!("stopped");
    Ok(())
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return socket,
            // Only that connection failed: its client closed it.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionRefused
                ) => {}
            // Too many open files: some must close first.
            Err(error) => {
                error!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The connections in the system's backlog; the listener is closed then. Otherwise they would be reset, perhaps with a
/// request in them.
fn backlog(listener: TcpListener) -> Vec<TcpStream> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let mut sockets = Vec::new();
    // It does not block: an error means that there are no more.
    while let Ok((socket, _)) = listener.accept() {
        let socket = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
        sockets.extend(socket.ok());
    }
    sockets
}

/// Answers the requests of one connection.
async fn answer(socket: TcpStream, router: Router, stop: CancellationToken) {
    // Small answers, and events, go out at once.
    let _ = socket.set_nodelay(true);
    let options = SockRef::from(&socket);
    let _ = options.set_send_buffer_size(SEND_BUFFER_BYTES);
    #[cfg(target_os = "linux")]
    let _ = options.set_tcp_user_timeout(Some(WRITE_TIMEOUT));
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Box::pin(socket)), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        // A request that has arrived comes before the end of the wait for it.
        biased;
        ended = &mut connection => ended,
        () = async { stop.cancelled().await; sleep(LAST_POLL).await; } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection failed");
    }
}
