//! The relay with a server, without one, and with one again.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use longhand_e2e::eventually;
use longhand_e2e::relay::Relay;
use reqwest::Client;

#[tokio::test]
async fn only_a_relay_with_a_server_accepts_connections() {
    let listener =
        tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    let server = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(async || "here"))).await });
    let relay = Relay::start(server).await;
    let url = format!("http://{}", relay.address());
    let http = Client::new();
    let here = async || http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success());
    assert!(here().await);
    for _ in 0..3 {
        relay.set(None);
        eventually("a refusal, of a connection that was open too", async || {
            let error = http.get(&url).send().await.err()?;
            error.is_connect().then_some(())
        })
        .await;
        relay.set(Some(server));
        eventually("an answer", async || here().await.then_some(())).await;
    }
}
