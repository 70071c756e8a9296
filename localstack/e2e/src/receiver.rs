//! A receiver of webhooks. It verifies every event with the public library of Standard Webhooks.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use longhand_shared::UserId;
use longhand_shared::domain::url::AllowedHosts;
use longhand_shared::webhook::signature::{MasterSecret, MasterSecrets};
use parking_lot::Mutex;
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// `LONGHAND_WEBHOOK_SECRET` in tests.
pub const SECRET: &str = "only-for-tests-and-no-secret-at-all";

/// The secrets that sign webhooks in tests.
pub fn secrets() -> MasterSecrets {
    MasterSecrets { current: MasterSecret::new(SECRET).expect("long enough"), previous: None }
}

/// A received event with a valid signature.
#[derive(Clone, Debug)]
pub struct ReceivedEvent {
    /// `webhook-id`.
    pub id: String,
    pub event: Value,
}

#[derive(Debug, Default)]
struct Records {
    /// The next responses, in reverse order. After them the receiver returns 204.
    answers: Vec<StatusCode>,
    events: Vec<ReceivedEvent>,
    /// The number of requests with an invalid signature.
    forged: usize,
}

/// A running receiver.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<Records>>,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(Records::default()));
        let router = Router::new().route("/{*path}", post(receive)).with_state(Arc::clone(&state));
        let serving =
            tokio::spawn(async move { axum::serve(listener, router).await.expect("the receiver serves") });
        Self { address, state, _serving: AbortOnDropHandle::new(serving) }
    }

    /// A `callbackUrl`.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// `LONGHAND_CALLBACK_HOSTS` with this receiver alone.
    pub fn hosts(&self) -> AllowedHosts {
        format!("http://{}", self.address).parse().expect("a host")
    }

    /// Sets the next responses. After them the receiver returns 204.
    pub fn answer(&self, answers: &[u16]) {
        let answers = answers.iter().rev().map(|code| StatusCode::from_u16(*code).expect("a status"));
        self.state.lock().answers = answers.collect();
    }

    /// All events of a job so far.
    ///
    /// # Panics
    /// If a request had an invalid signature.
    pub fn events(&self, job: &str) -> Vec<ReceivedEvent> {
        let state = self.state.lock();
        assert_eq!(state.forged, 0, "every signature is valid");
        state.events.iter().filter(|event| event.event["data"]["jobId"] == job).cloned().collect()
    }
}

async fn receive(State(state): State<Arc<Mutex<Records>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let event = verified(&headers, &body);
    let mut state = state.lock();
    match event {
        Some(event) => state.events.push(event),
        None => state.forged += 1,
    }
    state.answers.pop().unwrap_or(StatusCode::NO_CONTENT)
}

/// Verifies an event like a receiver with one secret per user.
fn verified(headers: &HeaderMap, body: &[u8]) -> Option<ReceivedEvent> {
    let event: Value = serde_json::from_slice(body).ok()?;
    let user: UserId = event["data"]["userId"].as_str()?.parse().ok()?;
    let secret = secrets().current.of(&user).reveal();
    Webhook::new(&secret).ok()?.verify(body, headers).ok()?;
    Some(ReceivedEvent { id: headers.get("webhook-id")?.to_str().ok()?.to_owned(), event })
}
