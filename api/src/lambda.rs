//! The router as a Lambda function: events of API Gateway (REST and HTTP APIs) and of load balancers in, answers out.
//!
//! `lambda_http` reads the events. It also builds a URL from each and panics when the result is not one, puts the stage
//! into the path, keeps one value of a repeated header, and fails the invocation for an invalid header, which the
//! client sees as a 502. So [`service`] changes each event before the crate's `Adapter`, and each answer after the
//! router. The crate's version is pinned, since the types of its `Adapter` are not documented.

use std::fmt::Write;
use std::future::ready;
use std::io;
use std::pin::Pin;

use axum::Router;
use axum::body::to_bytes;
use axum::http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Body, Error, IntoResponse, LambdaEvent, Request, lambda_runtime, service_fn};
use serde::Serialize;
use serde_json::Value;
use tower_service::Service;

use crate::edge;

/// The first segments of all paths but `/`. What comes before one of them is the base path of a custom domain.
const ROOTS: [&str; 11] = [
    "console",
    "docs",
    "healthz",
    "metrics",
    "openapi.json",
    "operations",
    "readyz",
    "serving",
    "transcribe",
    "transcript",
    "uploads",
];

/// Whether this process is a Lambda function.
pub fn is_lambda() -> bool {
    std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some()
}

/// Answers events for as long as Lambda gives them.
pub async fn serve(router: Router) -> io::Result<()> {
    lambda_runtime::run(service(router)).await.map_err(io::Error::other)
}

/// Answers one event. Fails for other events than those of API Gateway and load balancers.
pub fn service(
    router: Router,
) -> impl Service<LambdaEvent<Value>, Response = impl Serialize, Error = Error, Future: Send> {
    let adapter = Adapter::from(service_fn(move |request| answer(router.clone(), request)));
    service_fn(move |event: LambdaEvent<Value>| {
        let mut adapter = adapter.clone();
        async move { adapter.call(LambdaEvent::new(normalised(event.payload)?, event.context)).await }
    })
}

/// Changes an event so that the crate makes a request of it that the router answers as a server would.
fn normalised(mut event: Value) -> Result<LambdaRequest, Error> {
    let unreadable = remove_unreadable(&mut event);
    let mut request: LambdaRequest = serde_json::from_value(event)?;
    // Without a host, or a domain name in its place, the crate makes a URL of the path alone.
    let (headers, source, request_id) = match &mut request {
        LambdaRequest::ApiGatewayV2(event) => {
            let context = &mut event.request_context;
            context.domain_name = None;
            // The crate puts the stage before a path that does not have it.
            event.raw_path = Some(routed(event.raw_path.as_deref(), context.stage.take().as_deref()));
            event.raw_query_string =
                event.raw_query_string.as_deref().map(|query| escaped(query, Part::Query));
            (&mut event.headers, edge::LAMBDA, &context.request_id)
        }
        LambdaRequest::ApiGatewayV1(event) => {
            let context = &mut event.request_context;
            (context.domain_name, context.stage) = (None, None);
            event.path = Some(routed(event.path.as_deref(), None));
            all_values(&mut event.headers, &mut event.multi_value_headers);
            (&mut event.multi_value_headers, edge::LAMBDA, &context.request_id)
        }
        LambdaRequest::Alb(event) => {
            event.path = Some(routed(event.path.as_deref(), None));
            all_values(&mut event.headers, &mut event.multi_value_headers);
            (&mut event.multi_value_headers, edge::LOAD_BALANCER, &None)
        }
        _ => return Err("this is not an event of API Gateway or of an Application Load Balancer".into()),
    };
    headers.remove(HOST);
    headers.insert(edge::GATEWAY, source);
    headers.remove(edge::UNREADABLE);
    for what in unreadable {
        headers.append(edge::UNREADABLE, what);
    }
    // The gateway's own log has it too.
    if let Some(Ok(id)) = request_id.as_ref().map(HeaderValue::try_from) {
        headers.entry(edge::X_REQUEST_ID).or_insert(id);
    }
    Ok(request)
}

/// Removes from an event what cannot be in a request, and returns the names, for the router to answer with 400.
fn remove_unreadable(event: &mut Value) -> Vec<HeaderValue> {
    let mut unreadable = Vec::new();
    let mut note = |name: &str| {
        let printable = name.escape_default().to_string();
        unreadable.push(HeaderValue::try_from(printable).expect("visible ASCII and spaces"));
    };
    for member in ["headers", "multiValueHeaders"] {
        if let Some(headers) = event.get_mut(member).and_then(Value::as_object_mut) {
            headers.retain(|name, value| {
                let valid = HeaderName::try_from(name).is_ok()
                    && strings(value).all(|text| HeaderValue::from_str(text).is_ok());
                if !valid {
                    note(name);
                }
                valid
            });
        }
    }
    for pointer in ["/httpMethod", "/requestContext/httpMethod", "/requestContext/http/method"] {
        if let Some(method) = event.pointer_mut(pointer)
            && method.as_str().is_some_and(|method| Method::from_bytes(method.as_bytes()).is_err())
        {
            *method = "GET".into();
            note("the method");
        }
    }
    let base64 = event.get("isBase64Encoded") == Some(&Value::Bool(true));
    if let Some(body) = event.get_mut("body").filter(|_| base64)
        && body.as_str().is_some_and(|body| BASE64_STANDARD.decode(body).is_err())
    {
        *body = Value::Null;
        note("the body");
    }
    unreadable
}

/// The strings of a header: its value is one, or a list.
fn strings(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(Value::as_str)
}

/// Moves to `all` what only `last` has: one value of each header, which the crate would prefer.
fn all_values(last: &mut HeaderMap, all: &mut HeaderMap) {
    for (name, value) in last.drain().filter_map(|(name, value)| Some((name?, value))) {
        all.entry(name).or_insert(value);
    }
}

/// An event's path as the router knows it: without the stage, which is in the path of payload 2.0, and without the base
/// path of a custom domain, which no event names. So leading segments are removed until a path of ours begins; a path
/// without one is unchanged, for its 404.
fn routed(path: Option<&str>, stage: Option<&str>) -> String {
    let path = escaped(path.unwrap_or_default(), Part::Path);
    let known = |path: &str| path.split('/').nth(1).is_some_and(|root| ROOTS.contains(&root));
    // A stage may have the name of a path of ours.
    let within_stage = stage.and_then(|stage| path.strip_prefix('/')?.strip_prefix(stage));
    if let Some(rest) = within_stage.filter(|rest| known(rest)) {
        return rest.to_owned();
    }
    let mut rest = path.as_str();
    while !known(rest) {
        match rest[1..].split_once('/') {
            Some((segment, _)) if !matches!(segment, "" | "." | "..") => rest = &rest[1 + segment.len()..],
            _ => return path,
        }
    }
    rest.to_owned()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Query,
}

/// Escapes what may not be in a path or query (RFC 3986, section 3.3 and 3.4). An HTTP API decodes paths, all but `%25`,
/// and so passes on `?`, `#` and spaces that were escaped. Other paths, and queries, arrive as they were sent: nothing
/// valid is changed in them.
fn escaped(text: &str, part: Part) -> String {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let mut escaped = String::with_capacity(text.len());
    for (at, byte) in bytes.iter().copied().enumerate() {
        let stays = match byte {
            b'%' => hex(at + 1) && hex(at + 2),
            b'?' => part == Part::Query,
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte),
        };
        if stays {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    // A path begins with a slash.
    if part == Part::Path && !escaped.starts_with('/') {
        escaped.insert(0, '/');
    }
    escaped
}

/// An answer whose body is already text or bytes: the crate would decide by its type alone.
struct Answer(Response<Body>);

impl IntoResponse for Answer {
    fn into_response(self) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(ready(self.0))
    }
}

async fn answer(mut router: Router, request: Request) -> Result<Answer, Error> {
    let longest = edge::longest_answer(request.headers()).unwrap_or(edge::MAX_GATEWAY_ANSWER);
    let (mut parts, body) = router.call(request).await?.into_parts();
    parts.headers = joined(&parts.headers);
    let bytes = Vec::from(to_bytes(body, longest).await?);
    let body = match String::from_utf8(bytes) {
        // JSON within JSON grows six times at most. Base64 grows by a third, which `longest` has room for.
        Ok(text) if text.len() <= longest / 6 => Body::Text(text),
        Ok(text) => Body::Binary(text.into_bytes()),
        Err(error) => Body::Binary(error.into_bytes()),
    };
    Ok(Answer(Response::from_parts(parts, body)))
}

/// Each header once: the crate passes on one value of each. No cookies are set here, so repeated headers are lists
/// (RFC 9110, section 5.3). The gateway sets the length of the body.
fn joined(headers: &HeaderMap) -> HeaderMap {
    let once =
        headers.keys().filter(|name| ![CONTENT_LENGTH, TRANSFER_ENCODING].contains(name)).map(|name| {
            let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            let value = HeaderValue::from_bytes(&values.join(&b", "[..]));
            (name.clone(), value.expect("a list of values is a value"))
        });
    once.collect()
}
