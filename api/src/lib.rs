//! Longhand's HTTP API. [`router`] is all of it: a server listens with it, a Lambda function runs
//! it, and tests call it. Start at `jobs.rs`: it is the story of every call that a client makes.

mod body;
mod cursor;
mod edge;
mod error;
mod health;
mod input;
mod jobs;
pub mod server;
pub mod settings;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use longhand_shared::outbound::AllowedHosts;
use longhand_shared::path::AudioSources;
use longhand_shared::queue::ChunkQueue;
use longhand_shared::store::JobStore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::ApiError;
use crate::health::Readiness;

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
    /// Signs uploads into the first of the sources' buckets.
    pub s3: aws_sdk_s3::Client,
}

/// All routes, with everything around them. Every answer, whatever goes wrong, is made here.
pub fn router(state: AppState) -> Router {
    let readiness = Arc::new(Readiness::new(state.store.clone(), state.queue.clone()));
    Router::new()
        .route("/transcribe", post(jobs::create))
        .route("/transcript/search", get(jobs::search))
        .route("/transcript/{jobId}", get(jobs::read).delete(jobs::erase))
        .route("/transcript/{jobId}/retry", post(jobs::retry))
        .route("/uploads", post(uploads::create))
        .with_state(state)
        .route("/healthz", get(health::alive))
        .route("/metrics", get(health::metrics))
        .route("/readyz", get(health::ready).with_state(readiness))
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(body::MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(from_fn(edge::edge))
}
