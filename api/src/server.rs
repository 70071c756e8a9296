//! The router as a server, and as a Lambda function.

use std::io;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Answers requests until `stop` is cancelled; then accepts no more, and gives those that are in
/// hand `drain` to end. Made to stand behind a load balancer: a client that dawdles over its
/// headers is the balancer's to cut off.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    drain: Duration,
) -> io::Result<()> {
    info!(address = %listener.local_addr()?, "listening");
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let deadline = async {
        stop.cancelled().await;
        sleep(drain).await;
    };
    tokio::select! {
        ended = server => ended?,
        () = deadline => warn!(?drain, "some requests did not end in time"),
    }
    info!("stopped");
    Ok(())
}

/// Answers API Gateway's events (REST and HTTP APIs) for as long as Lambda gives them.
pub async fn serve_lambda(router: Router) -> io::Result<()> {
    lambda_http::run(router).await.map_err(io::Error::other)
}

/// Whether this process is a Lambda function's.
pub fn is_lambda() -> bool {
    std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some()
}
