//! What holds for every answer: security headers, CORS, and nothing that a client sends gets out of its place.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Request};
use longhand_api::{AppState, Limits};
use serde_json::json;

use crate::issuer::api_by_secret;
use crate::support::{Answer, Api, good_body};

const HEADERS: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
];

#[track_caller]
fn assert_secure(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    for (name, value) in HEADERS {
        assert_eq!(answer.header(name), value, "{status}");
        assert_eq!(answer.headers.get_all(name).iter().count(), 1);
    }
    for name in ["server", "x-powered-by", "strict-transport-security", "access-control-allow-origin"] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let api = Api::new();
    assert_secure(&api.get("/healthz").await, 200);
    assert_secure(&api.get("/metrics").await, 200);
    assert_secure(&api.transcribe(&good_body()).await, 202);
    assert_secure(&api.transcribe(&json!({})).await, 400);
    assert_secure(&api_by_secret().get("/transcript/x").await, 401);
    assert_secure(&api.get("/nothing").await, 404);
    assert_secure(&api.call("BREW", "/transcribe").await, 405);
    assert_secure(&api.post(" ".repeat(100_000)).await, 413);
    let limited = Api::with(|state| AppState { limits: Arc::new(Limits::new(1, 0)), ..state });
    limited.transcribe(&good_body()).await;
    assert_secure(&limited.transcribe(&good_body()).await, 429);
}

#[tokio::test]
async fn clients_over_tls_get_hsts() {
    let api = Api::new();
    let send = async |name: &str, value: &str| {
        let request = Request::get("/healthz").header("x-forwarded-proto", "http").header(name, value);
        api.send(request.body(Body::empty()).expect("a request")).await
    };
    let header = "strict-transport-security";
    let https = Request::get("/healthz").header("x-forwarded-proto", "https");
    let https = api.send(https.body(Body::empty()).expect("a request")).await;
    assert_eq!(https.header(header), "max-age=31536000");
    assert_eq!(send("accept", "*/*").await.header(header), "");
    // Behind a VPC link the load balancer itself is asked by HTTP.
    assert_eq!(send("longhand-gateway", "vpclink").await.header(header), "max-age=31536000");
}

async fn from_page(api: &Api, origin: &str, method: &str) -> Answer {
    let request = Request::builder().method(method).uri("/transcribe").header("origin", origin);
    let request = request.header("access-control-request-method", "POST").header(
        "access-control-request-headers",
        "authorization,cache-control,baggage,sentry-trace,tracestate",
    );
    api.send(request.body(good_body().to_string().into()).expect("a request")).await
}

#[tokio::test]
async fn pages_may_call_where_a_setting_names_them() {
    let (page, other) = ("https://app.example", "https://evil.example");
    let with = |origins: &str| {
        let origins = origins.parse().expect("origins");
        Api::with(|state| AppState { origins, ..state })
    };
    // By default none may: a preflight is a request without a route.
    let none = Api::new();
    from_page(&none, page, "OPTIONS").await.problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(from_page(&none, page, "POST").await.header("access-control-allow-origin"), "");

    let some = with("https://app.example,http://localhost:3000");
    let preflight = from_page(&some, page, "OPTIONS").await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-origin"), page);
    assert!(preflight.header("access-control-allow-methods").contains("POST"));
    for asked in ["authorization", "cache-control", "baggage", "sentry-trace", "tracestate"] {
        assert!(preflight.header("access-control-allow-headers").contains(asked), "{asked}");
    }
    assert!(preflight.header("vary").contains("access-control-request-headers"));
    assert_eq!(preflight.header("x-content-type-options"), "nosniff");
    let answer = from_page(&some, page, "POST").await;
    answer.json(202);
    assert_eq!(answer.header("access-control-allow-origin"), page);
    assert!(answer.header("vary").contains("origin"));
    assert!(answer.header("access-control-expose-headers").contains("location"));
    for method in ["OPTIONS", "POST"] {
        assert_eq!(from_page(&some, other, method).await.header("access-control-allow-origin"), "");
    }

    let all = with("*");
    let answer = from_page(&all, other, "POST").await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    for api in [&some, &all] {
        for method in ["OPTIONS", "POST"] {
            let answer = from_page(api, page, method).await;
            assert!(!answer.headers.contains_key("access-control-allow-credentials"));
        }
    }
}

#[tokio::test]
async fn a_preflight_needs_no_credentials_and_pages_can_read_errors() {
    let origins: longhand_api::Origins = "https://app.example".parse().expect("an origin");
    let settings = longhand_api::auth::settings::AuthSettings::Jwt(crate::issuer::settings_by_secret());
    let auth = longhand_api::Auth::new(settings).expect("good settings");
    let api = Api::with(|state| AppState { origins, auth: Arc::new(auth), ..state });
    assert_eq!(from_page(&api, "https://app.example", "OPTIONS").await.status, 200);
    let answer = from_page(&api, "https://app.example", "POST").await;
    answer.problem(401, "UNAUTHORIZED");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
}

#[tokio::test]
async fn nothing_that_is_sent_makes_a_header() {
    let api = Api::new();
    let injections = [
        "a%0d%0aset-cookie:%20x=1",
        "%0D%0A%0D%0A%3Cscript%3E",
        "x%0aset-cookie:x",
        "%E5%98%8A%E5%98%8Dset-cookie:x",
    ];
    for injected in injections {
        for path in [
            format!("/transcript/{injected}"),
            format!("/{injected}"),
            format!("/transcript/search?userId={injected}&jobStatus=FAILED"),
            format!("/transcript/search?userId=ana&jobStatus=FAILED&cursor={injected}"),
        ] {
            let answer = api.get(&path).await;
            assert!(answer.status.is_client_error(), "{path}");
            assert!(!answer.headers.contains_key("set-cookie"), "{path}");
            for value in answer.headers.values() {
                assert!(!String::from_utf8_lossy(value.as_bytes()).contains("set-cookie"), "{path}");
            }
        }
    }
    for text in ["ana\r\nset-cookie: x=1", "ana\nb", "ana\u{0}"] {
        let answer = api.transcribe(&json!({"userId": text, "audioChunkPaths": ["a.wav"]})).await;
        answer.assert_fault("#/userId", "no control characters");
        assert!(!answer.headers.contains_key("set-cookie"));
    }
    // What a header may not hold cannot be sent; what it may, comes back in none but its own.
    assert!(HeaderValue::from_bytes(b"a\r\nset-cookie: x").is_err());
    let request = Request::get("/healthz").header("x-request-id", "a\tset-cookie: x");
    let answer = api.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(answer.header("x-request-id").len(), 36);
}
