//! The API as a Lambda function: events of each kind that `lambda_http` reads, over the whole router or one that
//! answers with the request that it was given.

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::HeaderName;
use axum::response::{AppendHeaders, IntoResponse};
use lambda_http::{Context, LambdaEvent};
use longhand_api::lambda::service;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::jobs::{chunk, job_id, settle, words};
use crate::support::Api;

/// What Lambda may answer with, less what its frame and the headers may have.
const MAX_LAMBDA_ANSWER: usize = 6_291_556 - 20_000;

/// What a load balancer takes from a function.
const MAX_LOAD_BALANCER_ANSWER: usize = 1_048_576 - 20_000;

pub(crate) fn http_api(method: &str, path: &str, query: &str) -> Value {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "abc.execute-api.eu-central-1.amazonaws.com", "x-forwarded-proto": "https"},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc",
            "domainName": "abc.execute-api.eu-central-1.amazonaws.com",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
            "requestId": "JKJaXmPLvHcESHA=",
            "stage": "$default",
            "timeEpoch": 1_790_000_000_000_u64,
        },
        "isBase64Encoded": false,
    })
}

pub(crate) fn rest_api(method: &str, path: &str, query: &Value) -> Value {
    let last: Value =
        query.as_object().into_iter().flatten().map(|(name, all)| (name.clone(), all[0].clone())).collect();
    json!({
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": {"Host": "abc.execute-api.eu-central-1.amazonaws.com", "X-Forwarded-Proto": "https"},
        "multiValueHeaders": {"Host": ["abc.execute-api.eu-central-1.amazonaws.com"], "X-Forwarded-Proto": ["https"]},
        "queryStringParameters": if query.is_null() { Value::Null } else { last },
        "multiValueQueryStringParameters": query,
        "pathParameters": {"proxy": "x"},
        "stageVariables": null,
        "requestContext": {
            "accountId": "123456789012",
            "domainName": "abc.execute-api.eu-central-1.amazonaws.com",
            "httpMethod": method,
            "identity": {"sourceIp": "192.0.2.1"},
            "path": format!("/prod{path}"),
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "stage": "prod",
        },
        "body": null,
        "isBase64Encoded": false,
    })
}

/// Of a load balancer, whose values are as they were sent, in one of its two forms.
pub(crate) fn load_balancer(method: &str, path: &str, multi: bool) -> Value {
    let (headers, query) = if multi {
        ("multiValueHeaders", "multiValueQueryStringParameters")
    } else {
        ("headers", "queryStringParameters")
    };
    let host = if multi { json!(["lb.example.com"]) } else { json!("lb.example.com") };
    json!({
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/l/1"}},
        "httpMethod": method,
        "path": path,
        query: {},
        headers: {"host": host},
        "body": "",
        "isBase64Encoded": false,
    })
}

async fn invoke(router: Router, event: Value) -> Value {
    invoke_within(router, event, Context::default()).await
}

async fn invoke_within(router: Router, event: Value, context: Context) -> Value {
    let answer = service(router).oneshot(LambdaEvent::new(event, context)).await;
    serde_json::to_value(answer.expect("an answer")).expect("JSON")
}

/// The JSON body of an answer, whichever source it is for.
fn body(answer: &Value) -> Value {
    assert_eq!(answer["isBase64Encoded"], false, "{answer}");
    serde_json::from_str(answer["body"].as_str().expect("text")).expect("JSON")
}

/// Answers with the request.
fn echo() -> Router {
    Router::new().fallback(async |request: Request| {
        let (parts, body) = request.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.expect("a body in memory");
        let headers: Vec<_> = parts.headers.iter().map(|(name, value)| json!([name.as_str(), value.as_bytes()])).collect();
        let seen = json!({
            "method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "body": bytes.to_vec(),
        });
        axum::Json(seen).into_response()
    })
}

/// The request that the router is given for an event.
async fn seen(event: Value) -> Value {
    body(&invoke(echo(), event).await)
}

pub(crate) async fn seen_uri(event: Value) -> String {
    seen(event).await["uri"].as_str().expect("a text").to_owned()
}

async fn seen_headers(event: Value, name: &str) -> Vec<String> {
    let seen = seen(event).await;
    let all = seen["headers"].as_array().expect("a list").iter().filter(|header| header[0] == name);
    let bytes = |value: &Value| serde_json::from_value::<Vec<u8>>(value.clone()).expect("bytes");
    all.map(|header| String::from_utf8(bytes(&header[1])).expect("UTF-8")).collect()
}

#[tokio::test]
async fn a_job_is_made_and_read_by_each_kind_of_event() {
    let api = Api::new();
    let kinds: [fn(&str, &str) -> Value; 4] = [
        |method, path| http_api(method, path, ""),
        |method, path| rest_api(method, path, &Value::Null),
        |method, path| load_balancer(method, path, false),
        |method, path| load_balancer(method, path, true),
    ];
    for kind in kinds {
        let mut event = kind("POST", "/transcribe");
        event["body"] = json!({"userId": "ana", "audioChunkPaths": ["a.wav"]}).to_string().into();
        let accepted = invoke(api.router.clone(), event).await;
        assert_eq!(accepted["statusCode"], 202, "{accepted}");
        let job = body(&accepted)["jobId"].as_str().expect("a job id").to_owned();
        let read = invoke(api.router.clone(), kind("GET", &format!("/transcript/{job}"))).await;
        assert_eq!((&read["statusCode"], &body(&read)["jobId"]), (&json!(200), &json!(job)), "{read}");
        // Each source takes the headers in its own form.
        let id = &read["headers"]["content-type"];
        let ids = &read["multiValueHeaders"]["content-type"][0];
        assert!(id == "application/json" || ids == "application/json", "{read}");
        let streams = invoke(api.router.clone(), kind("GET", &format!("/transcript/{job}/events"))).await;
        assert_eq!(body(&streams)["code"], "STREAMS_NOT_SUPPORTED");
        let figures = invoke(api.router.clone(), kind("GET", "/metrics")).await;
        assert_eq!(body(&figures)["code"], "ROUTE_NOT_FOUND");
    }
}

#[tokio::test]
async fn minimal_events_are_read() {
    let api = Api::new();
    for (path, stage) in [("/prod/transcribe", "prod"), ("/asr/transcribe", "$default")] {
        let event = json!({
            "version": "2.0",
            "rawPath": path,
            "rawQueryString": "",
            "headers": {"content-type": "application/json"},
            "requestContext": {"http": {"method": "POST", "path": path}, "requestId": "q1", "stage": stage},
            "body": "{\"userId\": \"lam\", \"audioChunkPaths\": [\"a.wav\"]}",
            "isBase64Encoded": false,
        });
        let answer = invoke(api.router.clone(), event).await;
        assert_eq!(
            (&answer["statusCode"], &answer["headers"]["x-request-id"]),
            (&json!(202), &json!("q1")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn invalid_headers_are_refused_and_named() {
    let api = Api::new();
    for (name, value) in [("bad name", "x"), ("", "x"), ("x-bad", "a\nb"), ("x-bad", "\u{0}"), ("né", "x")] {
        let mut rest = rest_api("GET", "/healthz", &Value::Null);
        rest["headers"][name] = value.into();
        rest["multiValueHeaders"][name] = json!([value]);
        let mut multi = load_balancer("GET", "/healthz", true);
        multi["multiValueHeaders"][name] = json!(["good", value]);
        let mut http = http_api("GET", "/healthz", "");
        http["headers"][name] = value.into();
        for event in [http, rest, multi] {
            let answer = invoke(api.router.clone(), event).await;
            assert_eq!(
                (&answer["statusCode"], &body(&answer)["code"]),
                (&json!(400), &json!("INVALID_REQUEST"))
            );
            let named = name.escape_default().to_string();
            assert_eq!(body(&answer)["errors"][0]["pointer"], named, "{answer}");
        }
    }
    let fine = invoke(api.router.clone(), http_api("GET", "/healthz", "")).await;
    assert_eq!(fine["statusCode"], 200);
}

#[tokio::test]
async fn an_invalid_method_or_body_is_refused() {
    let api = Api::new();
    let mut not_base64 = http_api("POST", "/transcribe", "");
    (not_base64["body"], not_base64["isBase64Encoded"]) = ("?".into(), true.into());
    for (event, named) in [
        (http_api("GE T", "/healthz", ""), "the method"),
        (rest_api("GE T", "/healthz", &Value::Null), "the method"),
        (load_balancer("GE T", "/healthz", true), "the method"),
        (not_base64, "the body"),
    ] {
        let answer = invoke(api.router.clone(), event).await;
        assert_eq!(answer["statusCode"], 400, "{answer}");
        assert_eq!(body(&answer)["errors"][0]["pointer"], named);
    }
}

#[tokio::test]
async fn other_events_fail_the_invocation() {
    for event in [json!({}), json!(null), json!("text"), json!({"Records": []}), json!({"version": "2.0"})] {
        let answer = service(echo()).oneshot(LambdaEvent::new(event, Context::default())).await;
        assert!(answer.is_err());
    }
}

#[tokio::test]
async fn the_marks_of_a_gateway_are_ours() {
    let with = |headers: Value| {
        let mut event = http_api("GET", "/", "");
        event["headers"] = headers;
        event
    };
    let forged = json!({"longhand-gateway": "client's", "longhand-unreadable": "client's", "host": "a b", "X-Name": "é"});
    assert_eq!(seen_headers(with(forged.clone()), "longhand-gateway").await, ["lambda"]);
    assert_eq!(seen_headers(with(forged.clone()), "longhand-unreadable").await, [""; 0]);
    assert_eq!(seen_headers(with(forged.clone()), "host").await, [""; 0]);
    assert_eq!(seen_headers(with(forged.clone()), "x-request-id").await, ["JKJaXmPLvHcESHA="]);
    assert_eq!(seen_headers(with(forged), "x-name").await, ["é"]);
    let named = json!({"x-request-id": "client's"});
    assert_eq!(seen_headers(with(named), "x-request-id").await, ["client's"]);
    // An invalid scheme or host does not reach the URL.
    let odd = json!({"x-forwarded-proto": "not a scheme", "host": "not a host"});
    assert_eq!(seen_uri(with(odd)).await, "/");
    assert_eq!(seen_headers(load_balancer("GET", "/", false), "longhand-gateway").await, ["alb"]);
}

#[tokio::test]
async fn all_values_of_a_repeated_header_arrive() {
    let mut rest = rest_api("GET", "/", &Value::Null);
    rest["headers"]["Authorization"] = "b".into();
    rest["headers"]["x-only-here"] = "c".into();
    rest["multiValueHeaders"]["Authorization"] = json!(["a", "b"]);
    assert_eq!(seen_headers(rest.clone(), "authorization").await, ["a", "b"]);
    assert_eq!(seen_headers(rest, "x-only-here").await, ["c"]);
    let mut multi = load_balancer("GET", "/", true);
    multi["multiValueHeaders"]["authorization"] = json!(["a", "b"]);
    assert_eq!(seen_headers(multi, "authorization").await, ["a", "b"]);
}

#[tokio::test]
async fn the_trace_id_is_the_one_of_the_invocation() {
    let mut event = http_api("GET", "/", "");
    event["headers"]["x-amzn-trace-id"] = "Root=1-00000000-client".into();
    let mut context = Context::default();
    context.xray_trace_id = Some("Root=1-5759e988-bd862e3fe1be46a994272793".to_owned());
    let seen = body(&invoke_within(echo(), event.clone(), context).await);
    let value: Vec<u8> = b"Root=1-5759e988-bd862e3fe1be46a994272793".to_vec();
    let headers = seen["headers"].as_array().expect("a list");
    assert_eq!(headers.iter().filter(|header| header[0] == "x-amzn-trace-id").count(), 1);
    assert!(headers.contains(&json!(["x-amzn-trace-id", value])), "{seen}");
    // Without one the client's stays.
    assert_eq!(seen_headers(event, "x-amzn-trace-id").await, ["Root=1-00000000-client"]);
}

#[tokio::test]
async fn a_body_is_what_was_sent() {
    for kind in
        [http_api("POST", "/", ""), rest_api("POST", "/", &Value::Null), load_balancer("POST", "/", false)]
    {
        let sent = async |body: Value, base64: bool| {
            let mut event = kind.clone();
            (event["body"], event["isBase64Encoded"]) = (body, base64.into());
            serde_json::from_value::<Vec<u8>>(seen(event).await["body"].clone()).expect("bytes")
        };
        assert_eq!(sent(json!("{\"é\":1}"), false).await, "{\"é\":1}".as_bytes());
        assert_eq!(sent(json!("AP8="), true).await, [0, 255]);
        assert_eq!(sent(Value::Null, false).await, [0; 0]);
    }
}

#[tokio::test]
async fn an_answer_is_text_unless_it_is_long_or_is_not_text() {
    let answering = |bytes: Vec<u8>| {
        Router::new().fallback(async move || {
            let vary = HeaderName::from_static("vary");
            (AppendHeaders([(vary.clone(), "a"), (vary, "b")]), [("content-type", "application/json")], bytes)
        })
    };
    let short = invoke(answering(b"{\"a\":\"b\"}".to_vec()), http_api("GET", "/", "")).await;
    assert_eq!((&short["body"], &short["isBase64Encoded"]), (&json!("{\"a\":\"b\"}"), &json!(false)));
    assert_eq!(short["headers"], json!({"vary": "a, b", "content-type": "application/json"}));
    let rest = invoke(answering(Vec::new()), rest_api("GET", "/", &Value::Null)).await;
    assert_eq!(rest["multiValueHeaders"]["vary"], json!(["a, b"]));
    let bytes = invoke(answering(vec![0, 255]), http_api("GET", "/", "")).await;
    assert_eq!((&bytes["body"], &bytes["isBase64Encoded"]), (&json!("AP8="), &json!(true)));

    // The most that is let through, and the most that is text, of what grows most as JSON.
    for (event, longest, most) in [
        (http_api("GET", "/", ""), 4_700_000, MAX_LAMBDA_ANSWER),
        (load_balancer("GET", "/", true), 700_000, MAX_LOAD_BALANCER_ANSWER),
    ] {
        for (bytes, base64) in [(longest, true), (longest / 6, false)] {
            let answer = invoke(answering(vec![1; bytes]), event.clone()).await;
            assert_eq!(answer["isBase64Encoded"], base64, "{bytes}");
            assert!(answer.to_string().len() < most, "{bytes}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_not_passed_on_is_refused() {
    let api = Api::new();
    let paths = vec!["a.wav"; 2];
    let mut submit = load_balancer("POST", "/transcribe", true);
    submit["body"] = json!({"userId": "ana", "audioChunkPaths": paths}).to_string().into();
    let job = job_id(&body(&invoke(api.router.clone(), submit).await));
    for index in 0..2 {
        settle(&api, chunk(job, index), words(&"long ".repeat(75_000))).await;
    }
    let path = format!("/transcript/{job}");
    let whole = invoke(api.router.clone(), http_api("GET", &path, "")).await;
    assert_eq!((&whole["statusCode"], &whole["isBase64Encoded"]), (&json!(200), &json!(false)));
    let refused = invoke(api.router.clone(), load_balancer("GET", &path, true)).await;
    assert_eq!(refused["statusCode"], 406);
    assert_eq!(body(&refused)["code"], "ANSWER_TOO_LARGE");
}
