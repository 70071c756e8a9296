//! Longhand's HTTP API. [`router`] is all of it: a server listens with it, a Lambda function runs
//! it, and tests call it. Start at `jobs.rs`: it is the story of every call that a client makes.

mod accept;
pub mod auth;
mod body;
mod conditional;
mod cors;
mod cursor;
mod edge;
mod error;
mod forms;
mod health;
mod input;
mod jobs;
pub mod lambda;
pub mod limits;
pub mod openapi;
pub mod server;
pub mod settings;
mod uploads;
pub mod waiting;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use longhand_shared::outbound::AllowedHosts;
use longhand_shared::path::AudioSources;
use longhand_shared::queue::ChunkQueue;
use longhand_shared::store::JobStore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

pub use crate::auth::Auth;
pub use crate::cors::Origins;
use crate::error::ApiError;
use crate::health::Readiness;
pub use crate::limits::Limits;
use crate::waiting::{Waiting, events};

/// What the handlers work with. Cloning shares it.
#[derive(Clone, Debug)]
pub struct AppState {
    /// Where jobs are kept.
    pub store: Arc<dyn JobStore>,
    /// What carries their chunks to the workers.
    pub queue: Arc<dyn ChunkQueue>,
    /// Where audio may be read from.
    pub sources: Arc<AudioSources>,
    /// Who may be told of a job's end; nobody when it is empty.
    pub callback_hosts: Arc<AllowedHosts>,
    /// How callers are told apart.
    pub auth: Arc<Auth>,
    /// What each user may have and do at most.
    pub limits: Arc<Limits>,
    /// Whose pages may call from a browser.
    pub origins: Origins,
    /// Signs uploads into the first of the sources' buckets.
    pub s3: aws_sdk_s3::Client,
    /// Who waits for a job's end, and the cache of results.
    pub waiting: Waiting,
    /// Cancelled when the process was asked to stop. It goes on answering for a while, and says to everybody that
    /// they had better go elsewhere.
    pub stop: CancellationToken,
}

/// All routes, with everything around them. Every answer, whatever goes wrong, is made here.
pub fn router(state: AppState) -> Router {
    let cache = state.waiting.cache().clone();
    let readiness = Readiness::new(state.store.clone(), state.queue.clone(), cache, state.stop.clone());
    let (auth, cors, stop) = (state.auth.clone(), state.origins.layer(), state.stop.clone());
    let router = Router::new()
        .route("/transcribe", post(jobs::create))
        .route("/transcript/search", get(jobs::search))
        .route("/transcript/{jobId}", get(jobs::read).delete(jobs::erase))
        .route("/transcript/{jobId}/retry", post(jobs::retry))
        .route("/transcript/{jobId}/events", get(events::follow))
        .route("/uploads", post(uploads::create))
        .route_layer(from_fn(limits::report))
        // Who is calling is asked for all that is above this line, and for nothing that is below it.
        .route_layer(from_fn_with_state(auth, auth::authenticate))
        .with_state(state)
        .route("/healthz", get(health::alive))
        .route("/metrics", get(health::metrics))
        .merge(openapi::routes())
        .route("/readyz", get(health::ready).with_state(Arc::new(readiness)))
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(body::MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(from_fn(edge::bounded));
    // Inside the edge, so that a preflight is logged; outside the rest, so that it asks nobody who they are.
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(from_fn_with_state(stop, edge::edge))
}
