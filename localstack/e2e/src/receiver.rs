//! Someone who is told of the ends of jobs, and who checks every word with the public library of the scheme.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use longhand_shared::UserId;
use longhand_shared::outbound::AllowedHosts;
use longhand_shared::webhook::signature::{MasterSecret, MasterSecrets};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// `LONGHAND_WEBHOOK_SECRET` in tests.
pub const SECRET: &str = "only-for-tests-and-no-secret-at-all";

/// What webhooks are signed with in tests.
pub fn secrets() -> MasterSecrets {
    MasterSecrets { current: MasterSecret::new(SECRET).expect("long enough"), previous: None }
}

/// Something that was told, whose signature is good.
#[derive(Clone, Debug)]
pub struct Heard {
    /// `webhook-id`.
    pub id: String,
    /// The event.
    pub event: Value,
}

#[derive(Debug, Default)]
struct Books {
    /// What to answer, in turn; then 204.
    answers: Vec<StatusCode>,
    heard: Vec<Heard>,
    /// What came without a good signature.
    forged: usize,
}

/// A receiver on a port of its own.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    books: Arc<Mutex<Books>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// Begins to listen.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let books = Arc::new(Mutex::new(Books::default()));
        let router = Router::new().route("/{*path}", post(hear)).with_state(Arc::clone(&books));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { address, books, serving }
    }

    /// A `callbackUrl`.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// `LONGHAND_CALLBACK_HOSTS` with this receiver alone.
    pub fn hosts(&self) -> AllowedHosts {
        format!("http://{}", self.address).parse().expect("a host")
    }

    /// What it answers next, in turn; then 204.
    pub fn answer(&self, answers: &[u16]) {
        let answers = answers.iter().rev().map(|code| StatusCode::from_u16(*code).expect("a status"));
        self.books.lock().unwrap_or_else(PoisonError::into_inner).answers = answers.collect();
    }

    /// All that was told of one job so far.
    ///
    /// # Panics
    /// When anything came that was not signed well.
    pub fn heard(&self, job: &str) -> Vec<Heard> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(books.forged, 0, "every signature is good");
        books.heard.iter().filter(|heard| heard.event["data"]["jobId"] == job).cloned().collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn hear(State(books): State<Arc<Mutex<Books>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let heard = verified(&headers, &body);
    let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
    match heard {
        Some(heard) => books.heard.push(heard),
        None => books.forged += 1,
    }
    books.answers.pop().unwrap_or(StatusCode::NO_CONTENT)
}

/// As a receiver with one secret for each user does it.
fn verified(headers: &HeaderMap, body: &[u8]) -> Option<Heard> {
    let event: Value = serde_json::from_slice(body).ok()?;
    let user: UserId = event["data"]["userId"].as_str()?.parse().ok()?;
    let secret = secrets().current.of(&user).reveal();
    Webhook::new(&secret).ok()?.verify(body, headers).ok()?;
    Some(Heard { id: headers.get("webhook-id")?.to_str().ok()?.to_owned(), event })
}
