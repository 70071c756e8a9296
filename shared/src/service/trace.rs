//! Trace context: one trace per job, from the request through the message to the model call. It is
//! propagated as W3C Trace Context's `traceparent`, in the HTTP header and in the message attribute.
//!
//! Spans have trace ids even without a collector, so the logs of a job can be found by `trace_id`.
//! Without a subscriber that creates ids, as in tests, nothing is propagated.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub use crate::queue::TRACEPARENT;

/// Makes a new span part of the trace in `traceparent`, or of a new trace. The span must have a field
/// `trace_id`.
pub fn adopt(span: &Span, traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent {
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
        // Fails without a subscriber that creates ids, and for a span that has already started. Both are fine.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
    }
    let context = span.context();
    let id = context.span().span_context().trace_id();
    if id != opentelemetry::TraceId::INVALID {
        span.record("trace_id", id.to_string());
    }
}

/// The `traceparent` of the current span, for the next call or message.
pub fn current() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}
