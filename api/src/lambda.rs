//! The router as a Lambda function behind an API Gateway HTTP API: events of payload format 2.0 in, answers out.
//!
//! An event is not the request that the client sent: the path is decoded, headers that were there twice are joined,
//! and a body may be base64. It is made a request here that the router answers as a server would.

use std::collections::HashMap;
use std::fmt::Write;
use std::io;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tower_service::Service;

use crate::edge;

/// The longest body that an answer has as text. JSON within JSON grows by what is escaped, nobody knows how much;
/// base64 grows by a third. So a longer one goes as base64, and the limit of [`edge::MAX_GATEWAY_ANSWER`] holds.
const MAX_TEXT_BYTES: usize = 1_000_000;

/// Whether this process is a Lambda function's.
pub fn is_lambda() -> bool {
    std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some()
}

/// Answers events for as long as Lambda gives them.
pub async fn serve(router: Router) -> io::Result<()> {
    let answer = |event: LambdaEvent<Value>| answer(router.clone(), event.payload);
    lambda_runtime::run(service_fn(answer)).await.map_err(io::Error::other)
}

async fn answer(mut router: Router, event: Value) -> Result<Answer, Error> {
    let event: Event = serde_json::from_value(event)
        .map_err(|error| format!("not an event of an HTTP API in payload format 2.0: {error}"))?;
    let response = router.call(event.into_request()?).await?;
    Answer::new(response).await
}

/// What is looked at of an event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    raw_path: String,
    #[serde(default)]
    raw_query_string: String,
    #[serde(default)]
    headers: HashMap<String, String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
    request_context: Context,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    http: Http,
    #[serde(default)]
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct Http {
    method: String,
}

impl Event {
    fn into_request(self) -> Result<Request, Error> {
        let mut uri = escaped(&self.raw_path, Part::Path);
        if !self.raw_query_string.is_empty() {
            uri = format!("{uri}?{}", escaped(&self.raw_query_string, Part::Query));
        }
        let body = match self.body {
            Some(body) if self.is_base64_encoded => BASE64_STANDARD.decode(body)?.into(),
            Some(body) => Body::from(body),
            None => Body::empty(),
        };
        let method = Method::from_bytes(self.request_context.http.method.as_bytes())?;
        let mut request = Request::builder().method(method).uri(uri).body(body)?;
        let headers = request.headers_mut();
        for (name, value) in self.headers {
            // One that cannot be a header is as good as none.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        headers.insert(edge::GATEWAY, HeaderValue::from_static("lambda"));
        // The gateway's own log has it too.
        if let Some(Ok(id)) = self.request_context.request_id.map(HeaderValue::try_from) {
            headers.entry(edge::X_REQUEST_ID).or_insert(id);
        }
        Ok(request)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Query,
}

/// A path or query with everything escaped that may not be in one (RFC 3986, section 3.3 and 3.4). The gateway decodes
/// paths, all but `%25`, and so hands on `?`, `#` and spaces that were escaped; queries it leaves as they were sent.
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

/// An answer of payload format 2.0.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status_code: u16,
    headers: HashMap<String, String>,
    body: String,
    is_base64_encoded: bool,
}

impl Answer {
    async fn new(response: Response) -> Result<Self, Error> {
        let (parts, body) = response.into_parts();
        let mut headers = HashMap::<String, String>::new();
        for (name, value) in &parts.headers {
            // The gateway counts what it sends.
            if name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
                continue;
            }
            let value = String::from_utf8_lossy(value.as_bytes());
            // What is there twice is one list (RFC 9110, section 5.3); no cookies are set here.
            let all = headers.entry(name.as_str().to_owned()).or_default();
            if !all.is_empty() {
                all.push_str(", ");
            }
            all.push_str(&value);
        }
        let bytes = to_bytes(body, edge::MAX_GATEWAY_ANSWER).await?;
        let (body, is_base64_encoded) = match std::str::from_utf8(&bytes) {
            Ok(text) if text.len() <= MAX_TEXT_BYTES => (text.to_owned(), false),
            _ => (BASE64_STANDARD.encode(&bytes), true),
        };
        Ok(Self { status_code: parts.status.as_u16(), headers, body, is_base64_encoded })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use serde_json::json;

    use super::*;

    fn request(path: &str, query: &str, change: impl FnOnce(&mut Value)) -> Request {
        let mut event = json!({
            "version": "2.0",
            "rawPath": path,
            "rawQueryString": query,
            "headers": {"x-forwarded-proto": "not a scheme", "host": "not a host"},
            "requestContext": {"http": {"method": "GET"}, "requestId": "JKJaXmPLvHcESHA="},
        });
        change(&mut event);
        let event: Event = serde_json::from_value(event).expect("an event");
        event.into_request().expect("a request")
    }

    #[test]
    fn a_decoded_path_is_escaped_again() {
        for (raw, expected) in [
            ("/transcript/a b", "/transcript/a%20b"),
            ("/transcript/a?b#c", "/transcript/a%3Fb%23c"),
            ("/transcript/\\..\\x", "/transcript/%5C..%5Cx"),
            ("/transcript/é\u{1}\"<>", "/transcript/%C3%A9%01%22%3C%3E"),
            ("/transcript/a%252Fb%", "/transcript/a%252Fb%25"),
            ("//transcript/../x", "//transcript/../x"),
            ("", "/"),
        ] {
            assert_eq!(request(raw, "", |_| {}).uri().to_string(), expected, "{raw}");
        }
    }

    #[test]
    fn a_query_stays_as_it_was_sent() {
        let query = |raw: &str| request("/x", raw, |_| {}).uri().query().map(str::to_owned);
        assert_eq!(query(""), None);
        let sent = "a=1&a=2&b=x%20y+z%2B&c=?/:@&d";
        assert_eq!(query(sent).as_deref(), Some(sent));
        assert_eq!(query("a=<\"é|>#b c").as_deref(), Some("a=%3C%22%C3%A9%7C%3E%23b%20c"));
    }

    #[tokio::test]
    async fn a_body_is_what_was_sent() {
        let body = async |body: Value, base64: bool| {
            let request = request("/", "", |event| {
                event["body"] = body;
                event["isBase64Encoded"] = base64.into();
            });
            to_bytes(request.into_body(), 100).await.expect("in memory")
        };
        assert_eq!(body(json!("{\"é\":1}"), false).await, "{\"é\":1}");
        assert_eq!(body(json!("AP8="), true).await, &[0, 255][..]);
        assert_eq!(body(Value::Null, false).await, "");
    }

    #[test]
    fn headers_are_taken_as_they_are_and_the_mark_is_ours() {
        let headers = json!({"X-Name": "é", "bad name": "x", "bad": "\n", "longhand-gateway": "client's"});
        let request = request("/", "", |event| event["headers"] = headers);
        let headers = request.headers();
        assert_eq!(headers["x-name"].as_bytes(), "é".as_bytes());
        assert_eq!(headers[edge::GATEWAY], "lambda");
        assert_eq!(headers["x-request-id"], "JKJaXmPLvHcESHA=");
        assert_eq!(headers.len(), 3, "{headers:?}");
    }

    #[tokio::test]
    async fn an_answer_is_text_unless_it_is_long_or_is_none() {
        let answer = async |bytes: Vec<u8>| {
            let response = Response::builder().status(StatusCode::OK);
            let response = response.header("vary", "a").header("vary", "b").header("content-length", "9");
            Answer::new(response.body(Body::from(bytes)).expect("a response")).await.expect("an answer")
        };
        let short = answer(b"{\"a\":\"b\"}".to_vec()).await;
        assert_eq!((short.body.as_str(), short.is_base64_encoded), ("{\"a\":\"b\"}", false));
        assert_eq!(short.headers, HashMap::from([("vary".to_owned(), "a, b".to_owned())]));
        let bytes = answer(vec![0, 255]).await;
        assert_eq!((bytes.body.as_str(), bytes.is_base64_encoded), ("AP8=", true));
        // The most that is let through, of what grows most: within what Lambda gives back.
        let longest = answer(vec![b'"'; edge::MAX_GATEWAY_ANSWER]).await;
        assert!(longest.is_base64_encoded);
        assert!(serde_json::to_vec(&longest).expect("JSON").len() < 6_291_556 - 20_000);
        let quotes = serde_json::to_vec(&answer(vec![1; MAX_TEXT_BYTES]).await).expect("JSON");
        assert!(quotes.len() < 6_291_556 - 20_000);
    }
}
