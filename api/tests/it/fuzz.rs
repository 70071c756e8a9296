//! Whatever is sent: never a 5xx, and every refusal is a problem that says so.

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Uri};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::support::Api;

fn assert_good_answer(request: Request<Body>) {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let head = request.method() == Method::HEAD;
        let answer = Api::new().send(request).await;
        assert!(!answer.status.is_server_error(), "{}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store");
        if answer.status.is_client_error() && !head {
            answer.any_problem();
        }
    });
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z./:\\\\]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 26, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..26).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..20)
                .prop_map(|entries| entries.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

/// Bodies that are nearly right get further than those that are not at all.
fn nearly_good_body() -> impl Strategy<Value = Value> {
    let field = prop_oneof![
        Just("userId".to_owned()),
        Just("audioChunkPaths".to_owned()),
        Just("language".to_owned()),
        Just("prompt".to_owned()),
        Just("metadata".to_owned()),
        any::<String>(),
    ];
    prop::collection::vec((field, any_json()), 0..4).prop_map(|changes| {
        let mut body = json!({"userId": "ana", "audioChunkPaths": ["a.wav", "s3://audio/a"]});
        for (field, value) in changes {
            body[field] = value;
        }
        body
    })
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        Just(Method::GET),
        Just(Method::POST),
        Just(Method::HEAD),
        Just(Method::PUT),
        Just(Method::DELETE),
        Just(Method::OPTIONS),
        Just(Method::CONNECT),
        "[A-Z]{1,10}".prop_map(|name| Method::from_bytes(name.as_bytes()).expect("a token")),
    ]
}

fn path_and_query() -> impl Strategy<Value = String> {
    let path = prop_oneof![
        Just("/transcribe".to_owned()),
        Just("/transcript/search".to_owned()),
        "/transcript/[!-~é]{0,40}",
        "/[!-~é]{0,40}",
        "(/[!-~]{0,6}){0,5}",
    ];
    let pair = prop_oneof![
        "userId=[ -~é]{0,8}",
        "jobStatus=(FAILED|COMPLETED|[!-~]{0,5})",
        "limit=[0-9a-]{0,3}",
        "cursor=[A-Za-z0-9_%=-]{0,40}",
        "[!-~]{0,10}"
    ];
    (path, prop::collection::vec(pair, 0..5)).prop_map(|(path, pairs)| format!("{path}?{}", pairs.join("&")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_body(body in prop_oneof![any_json(), nearly_good_body()]) {
        let request = Request::post("/transcribe").body(Body::from(body.to_string()));
        assert_good_answer(request.expect("a request"));
    }

    #[test]
    fn any_bytes_as_body(body in any::<Vec<u8>>(), kind in prop::option::of("[ -~]{0,30}")) {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/transcribe");
        if let Some(kind) = kind {
            let kind = HeaderValue::from_str(&kind).expect("visible ASCII");
            request.headers_mut().insert("content-type", kind);
        }
        assert_good_answer(request);
    }

    #[test]
    fn any_method_path_and_query(method in method(), uri in path_and_query(), id in "[ -~]{0,20}") {
        // Text that is not a URI is refused before the router.
        if let Ok(uri) = uri.parse::<Uri>() {
            let id = HeaderValue::from_str(&id).expect("visible ASCII");
            let request = Request::builder().method(method).uri(uri).header("x-request-id", &id).header("traceparent", id);
            assert_good_answer(request.body(Body::empty()).expect("a request"));
        }
    }
}
