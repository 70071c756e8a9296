//! The paths and queries of events, as the router sees them.

use axum::extract::Query;
use serde_json::{Value, json};

use crate::lambda::{http_api, load_balancer, rest_api, seen_uri};

#[tokio::test]
async fn a_stage_and_a_base_path_are_not_part_of_the_path() {
    let staged = |path: &str, stage: &str| {
        let mut event = http_api("GET", path, "");
        event["requestContext"]["stage"] = stage.into();
        event
    };
    for (path, stage, expected) in [
        ("/transcribe", "$default", "/transcribe"),
        ("/prod/transcribe", "prod", "/transcribe"),
        ("/transcribe", "prod", "/transcribe"),
        ("/prod", "prod", "/prod"),
        // Stages called as a path is.
        ("/transcript/transcribe", "transcript", "/transcribe"),
        ("/transcript/transcript/search", "transcript", "/transcript/search"),
        ("/transcript/search", "transcript", "/transcript/search"),
        // Base paths of custom domains, of one segment or more.
        ("/asr/transcribe", "$default", "/transcribe"),
        ("/asr/v1/transcript/a/events", "$default", "/transcript/a/events"),
        ("/asr/transcribe", "prod", "/transcribe"),
        // Neither.
        ("/asr/other", "$default", "/asr/other"),
        ("/transcript/transcribe", "$default", "/transcript/transcribe"),
        ("//transcribe", "$default", "//transcribe"),
        ("/asr", "$default", "/asr"),
    ] {
        assert_eq!(seen_uri(staged(path, stage)).await, expected, "{path} in {stage}");
    }
    assert_eq!(seen_uri(rest_api("GET", "/transcribe", &Value::Null)).await, "/transcribe");
    assert_eq!(seen_uri(rest_api("GET", "/asr/transcribe", &Value::Null)).await, "/transcribe");
    assert_eq!(seen_uri(load_balancer("GET", "/asr/transcribe", true)).await, "/transcribe");
}

#[tokio::test]
async fn every_path_of_the_description_is_found_under_a_base_path() {
    let description: Value = serde_json::from_str(longhand_api::description()).expect("JSON");
    let described = description["paths"].as_object().expect("paths").keys().map(String::as_str);
    let others = ["/console", "/console/operations.js", "/docs", "/docs/swagger-ui.css", "/openapi.json"];
    for path in described.chain(others) {
        let path = path.replace("{jobId}", "a").replace("{index}", "0");
        assert_eq!(seen_uri(http_api("GET", &format!("/asr{path}"), "")).await, path);
    }
}

#[tokio::test]
async fn a_path_that_an_http_api_has_decoded_is_escaped_again() {
    for (raw, expected) in [
        ("/transcript/a b", "/transcript/a%20b"),
        ("/transcript/a?b#c", "/transcript/a%3Fb%23c"),
        ("/transcript/\\..\\x", "/transcript/%5C..%5Cx"),
        ("/transcript/é\u{1}\"<>", "/transcript/%C3%A9%01%22%3C%3E"),
        ("/transcript/a%252Fb%", "/transcript/a%252Fb%25"),
        ("/transcript/\t\n\u{0}", "/transcript/%09%0A%00"),
        // The crate's URL resolves dot segments.
        ("//transcript/../x", "//x"),
        ("/../../transcribe", "/transcribe"),
        ("", "/"),
        ("*", "/*"),
        (":99999/x", "/:99999/x"),
        ("@evil.example/x", "/@evil.example/x"),
    ] {
        assert_eq!(seen_uri(http_api("GET", raw, "")).await, expected, "{raw}");
    }
}

#[tokio::test]
async fn an_escaped_path_is_unchanged() {
    for path in ["/transcript/a%2Fb%20c%3F", "/transcript/%E9", "/transcript/a;b=c,d"] {
        assert_eq!(seen_uri(rest_api("GET", path, &Value::Null)).await, path);
        assert_eq!(seen_uri(load_balancer("GET", path, false)).await, path);
    }
    for (hostile, expected) in [("*", "/*"), ("", "/"), (":99999", "/:99999"), ("/a\u{1}b%", "/a%01b%25")] {
        assert_eq!(seen_uri(rest_api("GET", hostile, &Value::Null)).await, expected);
        assert_eq!(seen_uri(load_balancer("GET", hostile, true)).await, expected);
    }
}

#[tokio::test]
async fn a_query_of_an_http_api_is_unchanged() {
    assert_eq!(seen_uri(http_api("GET", "/x", "")).await, "/x");
    let sent = "a=1&a=2&b=x%20y+z%2B&c=?/:@&d";
    assert_eq!(seen_uri(http_api("GET", "/x", sent)).await, format!("/x?{sent}"));
    let hostile = http_api("GET", "/x", "a=<\"é|>#b c\u{1}%");
    assert_eq!(seen_uri(hostile).await, "/x?a=%3C%22%C3%A9%7C%3E%23b%20c%01%25");
}

#[tokio::test]
async fn every_kind_of_query_means_what_was_sent() {
    // Decoded by a REST API.
    let rest = rest_api("GET", "/x", &json!({"userId": ["a b&c=d+e%é<#"], "limit": ["1", "2"]}));
    // As it was sent to a load balancer.
    let mut multi = load_balancer("GET", "/x", true);
    multi["multiValueQueryStringParameters"] =
        json!({"userId": ["a%20b%26c%3Dd%2Be%25%C3%A9%3C%23"], "limit": ["1", "2"]});
    for event in [rest, multi] {
        let uri = seen_uri(event).await;
        let query = Query::<Vec<(String, String)>>::try_from_uri(&uri.parse().expect("a URI"));
        let mut pairs = query.expect("pairs").0;
        pairs.sort();
        let expected = [("limit", "1"), ("limit", "2"), ("userId", "a b&c=d+e%é<#")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let mut single = load_balancer("GET", "/x", false);
    single["queryStringParameters"] = json!({"userId": "a%20b"});
    assert_eq!(seen_uri(single).await, "/x?userId=a+b");
}
