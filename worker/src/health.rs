//! `GET /healthz`: whether the worker polls its queues. `GET /metrics`. And a line about its state in the log, once a
//! minute.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use metrics::gauge;
use serde::Serialize;
use tokio::time::{Instant, interval_at};
use tracing::info;

use crate::asr::guard::Guard;
use crate::runner::Pulse;
use crate::service::Worker;

/// The interval of state lines in the log. Alarms count them by the minute.
const REPORT_EVERY: Duration = Duration::from_mins(1);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: &'static str,
    /// The first consumer that does not poll its queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_polling: Option<&'static str>,
    /// The time since the last receive began or ended, in seconds.
    last_poll_age_seconds: f64,
    /// Chunks in hand.
    in_hand: usize,
    /// The current concurrency limit.
    slots: usize,
    model: &'static str,
    /// Why the last probe failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    model_problem: Option<String>,
}

#[derive(Debug)]
struct Watched {
    /// The consumer of chunks.
    pulse: Arc<Pulse>,
    /// All consumers, by their names.
    pulses: Vec<(&'static str, Arc<Pulse>)>,
    guard: Arc<Guard>,
    longest: Duration,
}

/// The routes. `/healthz` returns 503 if a consumer has free slots and has not polled for `longest`.
pub fn router(worker: &Worker, longest: Duration) -> Router {
    let watched = Watched { pulse: worker.pulse(), pulses: worker.pulses(), guard: worker.guard(), longest };
    let watched = Arc::new(watched);
    Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics)).with_state(watched)
}

async fn metrics(State(watched): State<Arc<Watched>>) -> String {
    #[expect(clippy::cast_precision_loss, reason = "slots and messages are far below 2^52")]
    for (name, value) in [
        ("longhand_in_hand", watched.pulse.in_hand() as f64),
        ("longhand_slots", watched.guard.limit() as f64),
    ] {
        gauge!(name).set(value);
    }
    gauge!("longhand_asr_circuit_open").set(if watched.guard.is_closed() { 0.0 } else { 1.0 });
    longhand_shared::service::metrics::render()
}

async fn healthz(State(watched): State<Arc<Watched>>) -> (StatusCode, Json<Health>) {
    let age = watched.pulse.last_poll_age();
    let in_hand = watched.pulse.in_hand();
    let slots = watched.guard.limit();
    let silent = watched.pulses.iter().find(|(_, pulse)| !pulse.is_polling(watched.longest));
    let healthy = silent.is_none();
    let health = Health {
        status: if healthy { "ok" } else { "not polling" },
        not_polling: silent.map(|(name, _)| *name),
        last_poll_age_seconds: age.as_secs_f64(),
        in_hand,
        slots,
        model: if watched.guard.is_closed() { "called" } else { "down" },
        model_problem: watched.guard.problem(),
    };
    (if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(health))
}

/// Logs the worker's state every minute, for the alarms in `infra/alarms.yaml`.
pub async fn report(pulse: Arc<Pulse>, guard: Arc<Guard>) {
    let mut ticks = interval_at(Instant::now() + REPORT_EVERY, REPORT_EVERY);
    let mut before = 0;
    loop {
        ticks.tick().await;
        let polls = pulse.polls();
        info!(
            // A number: a metric filter cannot count `true`.
            circuit_open = u8::from(!guard.is_closed()),
            polls = polls - before,
            in_hand = pulse.in_hand(),
            slots = guard.limit(),
            "worker state"
        );
        before = polls;
    }
}
