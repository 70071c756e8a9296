//! Traces: one for each job, from the request through the message to the call of the model. What is
//! passed on is W3C Trace Context's `traceparent`, in HTTP's header and in the message's attribute.
//!
//! Spans have ids of a trace whether or not anybody collects them, so that the logs of one job can be
//! found by `trace_id`. Where there is no subscriber that makes them, as in tests, nothing is passed on.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header's and the attribute's name.
pub const TRACEPARENT: &str = "traceparent";

/// Makes a new span, which has a field `trace_id`, part of the trace that `traceparent` names, or of a
/// new one.
pub fn adopt(span: &Span, traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent {
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
        // Fails where nobody makes ids, or the span has begun; then there is nothing to tell.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
    }
    let context = span.context();
    let id = context.span().span_context().trace_id();
    if id != opentelemetry::TraceId::INVALID {
        span.record("trace_id", id.to_string());
    }
}

/// What names the running span to whoever is called next.
pub fn current() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}
