//! Probes for orchestrators and load balancers, and metrics.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::warn;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};

use crate::edge;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::openapi::problems::{COMMON, problems};
use crate::state::App;

/// The reason when the process was asked to stop.
const STOPPING: &str = "this server is stopping";

/// How long a dependency may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a check is reused: many probes cost as little as one.
const REUSE: Duration = Duration::from_secs(1);

/// The required dependency.
const TABLE: &str = "table";

/// The optional dependencies.
const QUEUE: &str = "queue";
const REDIS: &str = "redis";

#[derive(Serialize, ToSchema)]
pub(crate) struct Alive {
    #[schema(inline)]
    status: AliveStatus,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum AliveStatus {
    Ok,
}

const ALIVE: Json<Alive> = Json(Alive { status: AliveStatus::Ok });

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ready {
    #[schema(inline)]
    status: ReadyStatus,
    #[schema(schema_with = optional_dependencies)]
    missing: Vec<&'static str>,
    /// Why the service is degraded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(min_items = 1)]
    reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = always_false)]
    message_groups: Option<bool>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ReadyStatus {
    Ready,
    Degraded,
}

/// Without the table the answer is an error.
fn optional_dependencies() -> ArrayBuilder {
    ArrayBuilder::new()
        .items(ObjectBuilder::new().schema_type(Type::String).enum_values(Some([QUEUE, REDIS])))
        .description(Some("The optional dependencies that do not answer."))
}

fn always_false() -> ObjectBuilder {
    let description = "`false`: the queue refuses `MessageGroupId`, so one user's backlog may delay others. Otherwise absent.";
    let object = ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([false]));
    object.description(Some(description))
}

problems!(Problems: COMMON);
problems!(NotReady: COMMON, &[Code::NotReady]);
problems!(NoMetrics: COMMON, &[Code::RouteNotFound]);

/// Check that the process is alive
// It asks no dependency: a restart would not repair the table.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Service",
    operation_id = "healthz",
    security(()),
    responses(
        (
            status = 200,
            description = "The process answers.",
            body = inline(Alive),
            examples(("example" = (value = json!({"status": "ok"})))),
        ),
        Problems,
    ),
)]
pub(crate) async fn alive() -> Json<Alive> {
    ALIVE
}

/// Check that the server should get requests
// A queue that does not answer, or refuses messages, degrades the service but leaves it ready: jobs are accepted and
// read without it, and the sweeper sends their messages later. Otherwise a bad hour of SQS would take every server from
// behind the load balancer at once. The same is true of Redis: without it results come from the table. A server that
// was asked to stop is not ready, though it still answers until its clients are sent elsewhere.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Service",
    operation_id = "readyz",
    security(()),
    responses(
        (
            status = 200,
            description = "The table answers.",
            body = inline(Ready),
            examples(("example" = (value = json!({"status": "ready", "missing": []})))),
        ),
        NotReady,
    ),
)]
pub(crate) async fn ready(State(readiness): State<Arc<Readiness>>) -> Result<Json<Ready>, ApiError> {
    let missing = readiness.missing_but_table().await?;
    let queue = readiness.app.lifecycle.queue().standing();
    let silent =
        |name: &&str| format!("{} does not answer", if *name == REDIS { "Redis" } else { "the queue" });
    let mut reasons: Vec<String> = missing.iter().map(silent).collect();
    // The code alone: SQS's message may name accounts and users, and this is open to everybody.
    reasons.extend(queue.refused.map(|code| format!("the queue refuses messages: {code}")));
    let status = if reasons.is_empty() { ReadyStatus::Ready } else { ReadyStatus::Degraded };
    // Jobs are done all the same, so this does not degrade the service.
    let message_groups = queue.groups_refused.then_some(false);
    Ok(Json(Ready { status, missing, reasons, message_groups }))
}

/// Check that the server has started and is not stopping
// For a load balancer that replaces failed servers. It waits for the table when the process starts, so that a
// deployment with the wrong table gets no requests and is rolled back. Once the table has answered, only a server that
// is stopping fails: replacing all servers would not repair the table.
#[utoipa::path(
    get,
    path = "/serving",
    tag = "Service",
    operation_id = "serving",
    security(()),
    responses(
        (
            status = 200,
            description = "The table has answered once.",
            body = inline(Alive),
            examples(("example" = (value = json!({"status": "ok"})))),
        ),
        NotReady,
    ),
)]
pub(crate) async fn serving(State(readiness): State<Arc<Readiness>>) -> Result<Json<Alive>, ApiError> {
    if readiness.app.stop.is_cancelled() || !readiness.started.load(Ordering::Relaxed) {
        readiness.missing_but_table().await?;
        readiness.started.store(true, Ordering::Relaxed);
    }
    Ok(ALIVE)
}

/// Get metrics
///
/// Counters and histograms since the start, in Prometheus' text format. Not available through API Gateway or from a
/// Lambda function.
// Through API Gateway they would be open to the Internet, and each call would reach another server or function.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Service",
    operation_id = "metrics",
    security(()),
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain"), NoMetrics),
)]
pub(crate) async fn metrics(headers: HeaderMap) -> Result<String, ApiError> {
    if edge::through_gateway(&headers) {
        Err(ApiError::NoSuchRoute)
    } else {
        Ok(longhand_shared::service::metrics::render())
    }
}

/// Checks the dependencies, and reuses a check for a second.
#[derive(Debug)]
pub(crate) struct Readiness {
    app: App,
    /// Whether the table has ever answered this process.
    started: AtomicBool,
    last: Mutex<Option<(Instant, Vec<&'static str>)>>,
}

impl Readiness {
    pub(crate) fn new(app: App) -> Self {
        Self { app, started: AtomicBool::new(false), last: Mutex::new(None) }
    }

    /// The dependencies that do not answer. Without the table, or while the process stops, it is an error.
    async fn missing_but_table(&self) -> Result<Vec<&'static str>, ApiError> {
        if self.app.stop.is_cancelled() {
            return Err(ApiError::NotReady(STOPPING.to_owned()));
        }
        let missing = self.missing().await;
        if missing.contains(&TABLE) {
            return Err(ApiError::NotReady(format!("no answer from {}", missing.join(" and "))));
        }
        Ok(missing)
    }

    /// Probes that arrive during a check wait for its result.
    async fn missing(&self) -> Vec<&'static str> {
        let mut last = self.last.lock().await;
        if let Some((at, missing)) = &*last
            && at.elapsed() < REUSE
        {
            return missing.clone();
        }
        let (table, queue, redis) = tokio::join!(
            timeout(CHECK_TIMEOUT, self.app.store().ping()),
            timeout(CHECK_TIMEOUT, self.app.lifecycle.queue().depth()),
            timeout(CHECK_TIMEOUT, self.app.waiting.cache().ping()),
        );
        let answers = [(TABLE, failure(table)), (QUEUE, failure(queue)), (REDIS, failure(redis))];
        let mut missing = Vec::new();
        for (dependency, failure) in answers {
            if let Some(cause) = failure {
                warn!(dependency, cause, "a dependency does not answer");
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
