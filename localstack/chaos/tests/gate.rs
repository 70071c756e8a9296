//! The gate when it is open, closed, and open again.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use longhand_chaos::gate::Gate;
use longhand_e2e::eventually;
use reqwest::Client;

#[tokio::test]
async fn only_an_open_gate_accepts_connections() {
    let listener =
        tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    let server = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(async || "here"))).await });
    let gate = Gate::start(server).await.expect("a port");
    let http = Client::new();
    let here = async || http.get(gate.url()).send().await.is_ok_and(|answer| answer.status().is_success());
    assert!(here().await);
    for _ in 0..3 {
        gate.set_open(false);
        eventually("a refusal, of a connection that was open too", async || {
            let error = http.get(gate.url()).send().await.err()?;
            error.is_connect().then_some(())
        })
        .await;
        gate.set_open(true);
        eventually("an answer", async || here().await.then_some(())).await;
    }
}
