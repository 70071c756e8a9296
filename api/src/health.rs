//! What orchestrators and load balancers ask: is it alive, and should it get requests?

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use longhand_shared::cache::Cache;
use longhand_shared::queue::ChunkQueue;
use longhand_shared::store::JobStore;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::edge;
use crate::error::ApiError;

/// The dependency without which nothing works.
const TABLE: &str = "table";

/// What is said to be missing when the process was asked to stop: itself.
const STOPPING: &str = "this server is stopping";

/// How long a dependency may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer is good for: many probes cost as little as one.
const REUSE: Duration = Duration::from_secs(1);

/// `GET /healthz`: the process answers. It asks nobody: restarting us would not mend the table.
pub(crate) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /readyz`: the table answers too. A queue that does not is told, but is no reason to send the
/// clients away: jobs are taken and read without it, and the sweeper sends their messages later. Were
/// it one, a bad hour of SQS would take every server from behind the load balancer at once. Nor is Redis:
/// without it results come from the table. A server that was asked to stop is not ready, though it still answers:
/// the load balancer has until then to send its clients elsewhere.
pub(crate) async fn ready(State(readiness): State<Arc<Readiness>>) -> Result<Json<Value>, ApiError> {
    if readiness.stop.is_cancelled() {
        return Err(ApiError::NotReady(vec![STOPPING]));
    }
    let missing = readiness.missing().await;
    if missing.contains(&TABLE) {
        return Err(ApiError::NotReady(missing));
    }
    let status = if missing.is_empty() { "ready" } else { "degraded" };
    Ok(Json(json!({"status": status, "missing": missing})))
}

/// `GET /metrics`: what has happened, in Prometheus' text form. Not for those who come through API Gateway: that is
/// the whole Internet, and the figures are those of the one server, or function, that happens to answer.
pub(crate) async fn metrics(headers: HeaderMap) -> Result<String, ApiError> {
    if edge::through_gateway(&headers) {
        Err(ApiError::NoSuchRoute)
    } else {
        Ok(longhand_shared::metrics::render())
    }
}

/// Asks the dependencies, and remembers for a second what they said.
#[derive(Debug)]
pub(crate) struct Readiness {
    store: Arc<dyn JobStore>,
    queue: Arc<dyn ChunkQueue>,
    cache: Cache,
    stop: CancellationToken,
    last: Mutex<Option<(Instant, Vec<&'static str>)>>,
}

impl Readiness {
    pub(crate) fn new(
        store: Arc<dyn JobStore>,
        queue: Arc<dyn ChunkQueue>,
        cache: Cache,
        stop: CancellationToken,
    ) -> Self {
        Self { store, queue, cache, stop, last: Mutex::new(None) }
    }

    /// Which dependencies do not answer. Probes that come while one is asking wait for its answer.
    async fn missing(&self) -> Vec<&'static str> {
        let mut last = self.last.lock().await;
        if let Some((at, missing)) = &*last
            && at.elapsed() < REUSE
        {
            return missing.clone();
        }
        let (table, queue, redis) = tokio::join!(
            timeout(CHECK_TIMEOUT, self.store.ping()),
            timeout(CHECK_TIMEOUT, self.queue.depth()),
            timeout(CHECK_TIMEOUT, self.cache.ping()),
        );
        let answers = [(TABLE, failure(table)), ("queue", failure(queue)), ("redis", failure(redis))];
        let mut missing = Vec::new();
        for (dependency, failure) in answers {
            if let Some(cause) = failure {
                warn!(dependency, cause, "does not answer");
                missing.push(dependency);
            }
        }
        *last = Some((Instant::now(), missing.clone()));
        missing
    }
}

fn failure<T, E: Display>(answer: Result<Result<T, E>, tokio::time::error::Elapsed>) -> Option<String> {
    match answer {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {CHECK_TIMEOUT:?}")),
    }
}
