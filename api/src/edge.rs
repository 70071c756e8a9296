//! What is done for every request: its id, its log line, its time limit, and the headers of every answer.

use std::cell::Cell;
use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use longhand_shared::service::trace;
use metrics::{counter, histogram};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error_span, field, info};
use uuid::Uuid;

use crate::error::ApiError;
use crate::error_codes::ErrorCode;
use crate::fault::Fault;
use crate::request_id::REQUEST_ID;

/// The longest time that a request may take, including its body and a wait (`waiting/prefer.rs`). A stream of events
/// continues after its request was answered.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(28);

/// The longest `x-request-id` that is kept, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Marks a request through API Gateway or to a Lambda function. Setting it, as `lambda.rs` does, only restricts the
/// answer, so it need not be protected.
pub(crate) const GATEWAY: HeaderName = HeaderName::from_static("longhand-gateway");

/// The value for a Lambda function behind API Gateway.
pub(crate) const LAMBDA: HeaderValue = HeaderValue::from_static("lambda");

/// The value for a Lambda function behind a load balancer.
pub(crate) const LOAD_BALANCER: HeaderValue = HeaderValue::from_static("alb");

/// Names what an event had and a request cannot have (`lambda.rs`). Such a request is refused, so this need not be
/// protected either.
pub(crate) const UNREADABLE: HeaderName = HeaderName::from_static("longhand-unreadable");

/// The longest body of an answer through API Gateway. A Lambda function may answer with 6 MB, of which base64
/// leaves three quarters; some of that is for the headers. Behind a VPC link 10 MB would be possible, but the limit is
/// the same, so that answers do not depend on what is behind the gateway.
pub(crate) const MAX_GATEWAY_ANSWER: usize = 4_700_000;

/// The longest body of a function's answer through a load balancer, which passes on 1 MB.
const MAX_LOAD_BALANCER_ANSWER: usize = 700_000;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// No answer is a page, unless its handler sets a policy of its own.
const NO_CONTENT: &str = "default-src 'none'; frame-ancestors 'none'";

tokio::task_local! {
    /// How long the running request has waited at its client's request.
    static WAITED: Cell<Duration>;
}

/// Runs a wait that a client asked for. Its time is excluded from `own_ms`, by which slow servers are found.
pub(crate) async fn waited<T>(waiting: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let waited = waiting.await;
    // Not set outside of a request, as in a test.
    let _ = WAITED.try_with(|all| all.set(all.get() + began.elapsed()));
    waited
}

/// The outermost layer. Once `stop` is cancelled each answer closes its connection, so that a load balancer does not
/// reuse it while it is being closed.
pub(crate) async fn edge(State(stop): State<CancellationToken>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    // A span of the highest level, so that no filter of the log removes it.
    let span = error_span!(
        "request",
        request_id = id,
        trace_id = field::Empty,
        job_id = field::Empty,
        otel.name = format!("{} {}", request.method(), route(&request)),
        otel.kind = "server",
        http.response.status_code = field::Empty,
    );
    trace::adopt(&span, traceparent(request.headers()));
    // A gateway accepts only HTTPS, but the load balancer behind it reports its own connection, which is HTTP.
    let https =
        only(request.headers(), "x-forwarded-proto") == Some("https") || through_gateway(request.headers());
    let mut response = REQUEST_ID.scope(id.clone(), answer(request, next)).instrument(span).await;
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(const { HeaderValue::from_static(NO_CONTENT) });
    if https {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    if stop.is_cancelled() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(X_REQUEST_ID, HeaderValue::try_from(id).expect("only visible ASCII, see request_id"));
    response
}

async fn answer(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = route(&request);
    let (response, waited) =
        WAITED.scope(Cell::default(), async { (next.run(request).await, WAITED.with(Cell::get)) }).await;
    let status = response.status().as_u16();
    let code = response.extensions().get::<&'static ErrorCode>().map(|row| row.code);
    Span::current().record("http.response.status_code", status);
    let took = started.elapsed();
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let own_ms = u64::try_from(took.saturating_sub(waited).as_millis()).unwrap_or(u64::MAX);
    // A client may invent methods; labels must be bounded.
    let known =
        matches!(method, Method::GET | Method::POST | Method::DELETE | Method::HEAD | Method::OPTIONS);
    let name = if known { method.to_string() } else { "other".to_owned() };
    counter!(
        "longhand_http_requests_total",
        "method" => name, "route" => route.clone(), "status" => status.to_string()
    )
    .increment(1);
    histogram!("longhand_http_request_seconds", "route" => route.clone()).record(took);
    // Probes arrive every few seconds and would drown the rest.
    if matches!(route.as_str(), "/healthz" | "/readyz" | "/serving" | "/metrics") {
        debug!(%method, route, status, code, ms, own_ms, "request");
    } else {
        info!(%method, route, status, code, ms, own_ms, "request");
    }
    response
}

/// Limits an answer in time and, through API Gateway, in bytes. This layer is inside that of CORS, so that pages can
/// read these errors too.
pub(crate) async fn bounded(request: Request, next: Next) -> Response {
    let unreadable = unreadable(request.headers());
    if !unreadable.is_empty() {
        return ApiError::Invalid(unreadable).into_response();
    }
    let longest = longest_answer(request.headers());
    let Ok(response) = timeout(REQUEST_TIMEOUT, next.run(request)).await else {
        return ApiError::Timeout { limit: REQUEST_TIMEOUT }.into_response();
    };
    match longest.and_then(|longest| too_long(&response, longest)) {
        Some(error) => error.into_response(),
        None => response,
    }
}

fn unreadable(headers: &HeaderMap) -> Vec<Fault> {
    let names = headers.get_all(UNREADABLE).iter().filter_map(|name| name.to_str().ok());
    names.map(|name| Fault::new(name, "is not valid in a request")).collect()
}

/// The error for an answer that has more than `longest` bytes.
pub(crate) fn too_long(response: &Response, longest: usize) -> Option<ApiError> {
    let bytes = response.body().size_hint().lower();
    (bytes > longest as u64).then_some(ApiError::AnswerTooLarge { bytes, longest })
}

/// The largest body of the answer to such a request, if it is limited.
pub(crate) fn longest_answer(headers: &HeaderMap) -> Option<usize> {
    let mark = headers.get(GATEWAY)?;
    Some(if mark == LOAD_BALANCER { MAX_LOAD_BALANCER_ANSWER } else { MAX_GATEWAY_ANSWER })
}

/// The pattern, not the path: clients must not write into log lines.
fn route(request: &Request) -> String {
    request.extensions().get::<MatchedPath>().map_or_else(|| "-".to_owned(), |path| path.as_str().to_owned())
}

/// Whether the request comes through API Gateway or to a Lambda function: no streams, shorter waits, limited answers.
pub(crate) fn through_gateway(headers: &HeaderMap) -> bool {
    headers.contains_key(GATEWAY)
}

/// The id that the client or the load balancer sent, if it is fit for a log and a header, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = only(headers, "x-request-id").filter(|id| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&b))
    });
    given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// The `traceparent`, if it is well-formed (W3C Trace Context, section 3.2.2).
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let text = only(headers, "traceparent")?;
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else {
        return None;
    };
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let nonzero = |part: &str| part.bytes().any(|b| b != b'0');
    let good = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && nonzero(trace)
        && hex(parent, 16)
        && nonzero(parent)
        && hex(flags, 2);
    good.then_some(text)
}

/// A header that occurs exactly once, as text.
pub(crate) fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_str(value).expect("a header's value"));
        }
        headers
    }

    #[test]
    fn only_a_good_traceparent_is_passed_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(&headers("traceparent", &[good])), Some(good));
        assert_eq!(traceparent(&headers("traceparent", &[good, good])), None);
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        ] {
            assert_eq!(traceparent(&headers("traceparent", &[bad])), None, "{bad}");
        }
    }

    #[test]
    fn a_request_id_is_kept_when_it_is_fit_to_be_logged() {
        let kept = |id: &str| request_id(&headers("x-request-id", &[id])) == id;
        assert!(kept("a-1"));
        assert!(kept("Root=1-5eb33c07-de25b420912dee103a5db434"));
        assert!(!kept(""));
        assert!(!kept("a b"));
        assert!(!kept("<script>"));
        assert!(!kept(&"x".repeat(129)));
    }
}
