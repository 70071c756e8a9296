//! Metrics in Prometheus' text format, served at `/metrics`.
//!
//! Names and units follow Prometheus' conventions: seconds, `_total` for counters. Each label has few
//! values: never a job, a user or a path.

mod process;

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Histogram buckets from milliseconds to minutes, in seconds.
const SECONDS: [f64; 14] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0];

/// How often recorded samples are merged into the histograms.
const UPKEEP: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder for the rest of the process. Without it, recording a metric does nothing.
pub fn install() -> Result<(), BuildError> {
    let builder =
        PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?;
    let handle = builder.install_recorder()?;
    describe();
    // Without this, samples would accumulate in a process whose metrics are never read.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let handle = handle.clone();
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                handle.run_upkeep();
            }
        });
    }
    // A second call has already failed above.
    let _ = HANDLE.set(handle);
    Ok(())
}

/// All metrics and the process statistics, for `/metrics`. Empty before [`install`].
pub fn render() -> String {
    let Some(handle) = HANDLE.get() else {
        return String::new();
    };
    handle.run_upkeep();
    let mut text = handle.render();
    text.push_str(&process::render());
    text
}

fn describe() {
    describe_counter!("longhand_http_requests_total", "Requests, by method, route and status");
    describe_histogram!("longhand_http_request_seconds", Unit::Seconds, "Time to respond, by route");
    describe_counter!(
        "longhand_connections_refused_total",
        "Connections that the api closed at once, since it had LONGHAND_MAX_CONNECTIONS"
    );
    describe_counter!("longhand_cache_total", "Cache lookups of results, by outcome: hit, miss, error");
    describe_counter!("longhand_receives_total", "Receives, by outcome: messages, empty, error");
    describe_counter!(
        "longhand_messages_total",
        "Handled messages, by outcome: done, superfluous, requeue, retry, abandon, reject"
    );
    describe_counter!("longhand_queue_refusals_total", "Sends that a queue refused, by SQS's code");
    describe_histogram!(
        "longhand_queue_wait_seconds",
        Unit::Seconds,
        "Time from sending a message to its first receive, including its delay"
    );
    describe_gauge!("longhand_in_hand", "Messages that this worker holds");
    describe_gauge!(
        "longhand_slots",
        "The concurrency limit of model calls, which is also the number of slots"
    );
    describe_gauge!(
        "longhand_queue_messages",
        "Messages in the chunk queue, by state; SQS's approximate count"
    );
    describe_work();
}

fn describe_work() {
    describe_histogram!(
        "longhand_chunk_seconds",
        Unit::Seconds,
        "Time from claim to outcome, by outcome: completed, or the error's code"
    );
    describe_counter!(
        "longhand_settle_conflicts_total",
        "Outcomes that were not stored: the chunk was settled or claimed again, or its job is gone"
    );
    describe_counter!("longhand_asr_calls_total", "Model calls, by outcome");
    describe_histogram!("longhand_asr_call_seconds", Unit::Seconds, "Duration of a model call");
    describe_counter!("longhand_asr_probes_total", "Probes of the model, by outcome: answered, failed");
    describe_gauge!("longhand_asr_circuit_open", "1 while the model's circuit breaker is open");
    describe_counter!(
        "longhand_renewals_total",
        "Renewals of visibility timeouts, by outcome: ok, lost, error"
    );
    describe_counter!(
        "longhand_sweep_repairs_total",
        "Repairs by the sweeper, by kind: sent (message sent again), struck (settled chunk removed from the job's \
         unsettled set), failed (the queue refuses the chunk's message), finished (job ended)"
    );
    describe_counter!(
        "longhand_dead_letters_total",
        "Dead letters, by outcome: failed, stale (nothing to do), blameless (returned to the queue), foreign (not a chunk message), error"
    );
    describe_counter!(
        "longhand_webhooks_total",
        "Webhook delivery attempts, by outcome: delivered, gone, failed"
    );
    describe_counter!(
        "longhand_aws_calls_total",
        "Attempts of AWS calls, including retries, by service, operation and outcome: ok, refused, throttled, \
         failed, no_answer"
    );
    describe_histogram!(
        "longhand_job_turnaround_seconds",
        Unit::Seconds,
        "Time from a job's submission, or its last retry, to its end, by status"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_metrics_are_rendered() {
        assert_eq!(render(), "");
        install().expect("once");
        metrics::counter!("longhand_receives_total", "outcome" => "empty").increment(2);
        metrics::histogram!("longhand_asr_call_seconds").record(0.3);
        let text = render();
        assert!(text.contains("longhand_receives_total{outcome=\"empty\"} 2"), "{text}");
        assert!(text.contains("longhand_asr_call_seconds_bucket{le=\"0.5\"} 1"), "{text}");
        assert!(text.contains("# HELP longhand_receives_total"), "{text}");
        assert!(text.contains("\nprocess_start_time_seconds "), "{text}");
        assert!(install().is_err());
    }
}
