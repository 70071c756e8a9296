//! Metrics, in Prometheus' text form. Counted wherever something happens; served at `/metrics`.
//!
//! Names and units are as Prometheus advises: seconds, `_total` for what only grows. Labels have few
//! values each: never a job, a user or a path.

mod process;

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Bounds of what takes milliseconds to minutes, in seconds.
const SECONDS: [f64; 14] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0];

/// How often what was gathered is folded into the histograms.
const UPKEEP: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Begins to count, for the rest of the process. Before it, and without it, counting costs nothing.
pub fn install() -> Result<(), BuildError> {
    let builder =
        PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?;
    let handle = builder.install_recorder()?;
    describe();
    // Where nobody asks for metrics, what is gathered for histograms would only grow.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let handle = handle.clone();
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                handle.run_upkeep();
            }
        });
    }
    // Installing twice has failed above.
    let _ = HANDLE.set(handle);
    Ok(())
}

/// Everything counted so far, and how this process stands, for `/metrics`. Empty before [`install`].
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
    describe_histogram!("longhand_http_request_seconds", Unit::Seconds, "Time to answer, by route");
    describe_counter!(
        "longhand_cache_total",
        "Results looked for in the cache, by outcome: hit, miss, error"
    );
    describe_counter!("longhand_receives_total", "Receives, by outcome: messages, empty, error");
    describe_counter!(
        "longhand_messages_total",
        "Messages dealt with, by outcome: done, superfluous, requeue, retry, reject"
    );
    describe_histogram!(
        "longhand_queue_wait_seconds",
        Unit::Seconds,
        "From a message's being sent to its first receive, its delay included"
    );
    describe_gauge!("longhand_in_hand", "Messages in hand");
    describe_gauge!("longhand_slots", "Messages that may be in hand: the limit on calls of the model");
    describe_gauge!("longhand_queue_messages", "Messages in the queue of chunks, by state, as SQS guesses");
    describe_histogram!(
        "longhand_chunk_seconds",
        Unit::Seconds,
        "From claim to verdict, by outcome: completed or the error's code"
    );
    describe_counter!("longhand_settle_conflicts_total", "Verdicts that came after another");
    describe_counter!("longhand_asr_calls_total", "Calls of the model, by outcome");
    describe_histogram!("longhand_asr_call_seconds", Unit::Seconds, "One call of the model");
    describe_gauge!("longhand_asr_circuit_open", "1 while the model is taken to be down");
    describe_counter!("longhand_renewals_total", "Renewed visibility timeouts, by outcome: ok, lost, error");
    describe_counter!(
        "longhand_sweep_repairs_total",
        "What the sweeper mended, by kind: sent, struck, finished"
    );
    describe_counter!(
        "longhand_dead_letters_total",
        "Dead letters, by outcome: failed, stale, blameless, foreign"
    );
    describe_counter!("longhand_webhooks_total", "Tries to tell of a job's end: delivered, gone, failed");
    describe_counter!(
        "longhand_aws_calls_total",
        "Attempts of AWS calls that went out, retries included, by service, operation and outcome: ok, refused, \
         throttled, failed, no_answer"
    );
    describe_histogram!(
        "longhand_job_turnaround_seconds",
        Unit::Seconds,
        "From submit to the job's end, by status"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text() {
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
