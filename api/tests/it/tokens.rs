//! Tokens: which are accepted, and that all others are 401 and say why.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use tokio::time::{advance, pause, resume};

use crate::issuer::{Issuer, Key, Publishes, api_by_secret, claims, claims_with, token_by_secret};
use crate::support::Api;

const JOB: &str = "/transcript/0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b";

/// The caller is known: the job that they ask for does not exist.
#[track_caller]
fn assert_accepted(answer: &crate::support::Answer) {
    answer.problem(404, "JOB_NOT_FOUND");
    assert!(!answer.headers.contains_key("www-authenticate"));
}

/// That the token is refused for this reason.
#[track_caller]
fn assert_refused(answer: &crate::support::Answer, reason: &str) {
    let problem = answer.problem(401, "UNAUTHORIZED");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains(reason), "{reason:?} is not in {detail:?}");
    let challenge =
        format!("Bearer realm=\"longhand\", error=\"invalid_token\", error_description=\"{detail}\"");
    assert_eq!(answer.header("www-authenticate"), challenge);
}

fn part(json: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json.to_string())
}

#[tokio::test]
async fn a_missing_token_is_refused_without_an_error_code() {
    let api = api_by_secret();
    for (method, path) in [
        ("GET", JOB),
        ("HEAD", JOB),
        ("POST", "/transcribe"),
        ("GET", "/transcript/search?userId=ana&jobStatus=FAILED"),
        ("GET", "/transcript/nonsense"),
    ] {
        let answer = api.call(method, path).await;
        assert_eq!(answer.status, 401, "{method} {path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"longhand\"");
    }
    api.get(JOB).await.problem(401, "UNAUTHORIZED");
    // What orchestrators ask is open, and so is what is nowhere.
    for path in ["/healthz", "/readyz", "/serving", "/metrics"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    api.get("/nothing").await.problem(404, "ROUTE_NOT_FOUND");
}

#[tokio::test]
async fn claims_are_checked() {
    let api = api_by_secret();
    let now = get_current_timestamp();
    let send = async |claims: Value| api.call_as(&token_by_secret(&claims), "GET", JOB, "").await;
    assert_accepted(&send(claims("ana")).await);
    assert_accepted(&send(claims_with("aud", json!(["other", "longhand"]))).await);
    assert_accepted(&send(claims_with("nbf", json!(now))).await);
    // The setting has a final slash.
    assert_accepted(&send(claims_with("iss", json!("https://issuer.example"))).await);
    // Within the leeway of 30 s.
    assert_accepted(&send(claims_with("exp", json!(now - 15))).await);
    assert_accepted(&send(claims_with("nbf", json!(now + 15))).await);
    assert_accepted(&send(claims_with("exp", json!(1e18))).await);

    let expected = "the token must have exp, iss, aud and sub";
    let unreadable = "the token cannot be read";
    for (name, value, reason) in [
        ("exp", json!(now - 60), "the token has expired"),
        ("exp", json!(0), "the token has expired"),
        ("exp", Value::Null, expected),
        ("exp", json!("2999-01-01"), expected),
        ("nbf", json!(now + 60), "the token is not valid yet"),
        ("nbf", json!("soon"), unreadable),
        ("iss", json!("https://issuer.example.evil"), "the token is from another issuer"),
        ("iss", json!("https://issuer.example//"), "the token is from another issuer"),
        ("iss", Value::Null, expected),
        ("aud", json!("other"), "the token is for another audience"),
        ("aud", json!(["other"]), "the token is for another audience"),
        ("aud", json!([]), "the token is for another audience"),
        ("aud", Value::Null, expected),
        ("sub", Value::Null, unreadable),
        ("sub", json!(""), unreadable),
        ("sub", json!("ana lopez"), unreadable),
        ("sub", json!("a".repeat(129)), unreadable),
        ("sub", json!(7), unreadable),
        ("scope", json!({}), unreadable),
    ] {
        assert_refused(&send(claims_with(name, value)).await, reason);
    }
}

#[tokio::test]
async fn signatures_are_checked() {
    let api = api_by_secret();
    let send = async |token: &str| api.call_as(token, "GET", JOB, "").await;
    let good = token_by_secret(&claims("ana"));
    assert_accepted(&send(&good).await);

    let body = part(&claims("ana"));
    let signature = good.rsplit('.').next().expect("a signature");
    let none = part(&json!({"alg": "none", "typ": "JWT"}));
    let header = part(&json!({"alg": "HS256"}));
    let no_token = "not a signed token";
    let wrong = "the token's signature is wrong";
    for (token, reason) in [
        (format!("{none}.{body}."), no_token),
        (format!("{none}.{body}.{signature}"), no_token),
        (format!("{}.{body}.", part(&json!({"alg": "NONE"}))), no_token),
        (format!("{}.{body}.", part(&json!({"typ": "JWT"}))), no_token),
        (format!("{header}.{body}."), wrong),
        (format!("{header}.{body}.{signature}"), wrong),
        (format!("{}x", good.strip_prefix("Bearer ").expect("a token")), ""),
        (String::new(), no_token),
        ("a.b".to_owned(), no_token),
        ("....".to_owned(), no_token),
        ("%.%.%".to_owned(), no_token),
        (
            format!("{}.{body}.{signature}", part(&json!({"alg": "HS256", "crit": ["b64"], "b64": false}))),
            "crit",
        ),
    ] {
        assert_refused(&send(&format!("Bearer {token}")).await, reason);
    }

    // The right secret, another algorithm; and another secret.
    let claims = claims("ana");
    let key = EncodingKey::from_secret(crate::issuer::SECRET.as_bytes());
    let token = encode(&Header::new(Algorithm::HS512), &claims, &key).expect("a token");
    assert_refused(&send(&format!("Bearer {token}")).await, "the token's algorithm does not fit its key");
    let key = EncodingKey::from_secret(b"another secret of more than thirty-two bytes");
    let token = encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token");
    assert_refused(&send(&format!("Bearer {token}")).await, wrong);

    // Before anything is decoded; and credentials that are not bearer tokens.
    assert_refused(&send(&format!("Bearer {}", "a".repeat(9000))).await, "the credential is over 8 KB");
    assert_refused(&send("Basic YW5hOmFuYQ==").await, "the scheme of Authorization is not Bearer");
    let request = Request::get(JOB).header("authorization", &good).header("authorization", &good);
    assert_refused(
        &api.send(request.body(Body::empty()).expect("a request")).await,
        "more than one credential",
    );
}

#[tokio::test]
async fn public_keys_of_every_kind() {
    let keys = [Key::rsa("r"), Key::ec("e"), Key::ed("d")];
    let mut published: Vec<Value> = keys.iter().map(|key| key.public.clone()).collect();
    published.push(json!({"kty": "new", "kid": "n"}));
    published
        .push(json!({"kty": "oct", "kid": "o", "k": BASE64_URL_SAFE_NO_PAD.encode(crate::issuer::SECRET)}));
    published.push(json!(7));
    let issuer = Issuer::start(Publishes::Keys(published)).await;
    let api = issuer.api();
    for key in &keys {
        assert_accepted(&api.call_as(&key.token("ana"), "GET", JOB, "").await);
    }
    // Without an id, a key is known by its algorithm.
    assert_accepted(&api.call_as(&keys[0].token_without_id("ana"), "GET", JOB, "").await);
    // A key of another kind under a known id, and another key of the same kind.
    let other = Key { id: "e", ..Key::ed("d") };
    let wrong = "the token's algorithm does not fit its key";
    assert_refused(&api.call_as(&other.token("ana"), "GET", JOB, "").await, wrong);
    assert_refused(
        &api.call_as(&Key::rsa("r").token("ana"), "GET", JOB, "").await,
        "the token's signature is wrong",
    );
    // `alg` of the key is RS256: no other of RSA's.
    let other = Key { algorithm: Algorithm::PS256, ..Key::rsa("r") };
    assert_refused(&api.call_as(&other.token("ana"), "GET", JOB, "").await, wrong);
    // Published keys are not secrets: neither the public key nor a shared secret in the set.
    let modulus = keys[0].public["n"].as_str().expect("text");
    let raw = BASE64_URL_SAFE_NO_PAD.decode(modulus).expect("base64");
    for (id, secret) in [("r", &raw[..]), ("r", modulus.as_bytes()), ("o", crate::issuer::SECRET.as_bytes())]
    {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::HS256) };
        let token = encode(&header, &claims("ana"), &EncodingKey::from_secret(secret)).expect("a token");
        let answer = api.call_as(&format!("Bearer {token}"), "GET", JOB, "").await;
        assert_refused(&answer, if id == "o" { "is signed with an unknown key" } else { wrong });
    }
    // A key that comes with the token is the sender's.
    let mine = Key::ec("mine");
    let mut header = Header { kid: Some("mine".to_owned()), ..Header::new(Algorithm::ES256) };
    header.jwk = Some(serde_json::from_value(mine.public.clone()).expect("a key"));
    header.jku = Some("https://evil.example/keys".to_owned());
    let token = encode(&header, &claims("ana"), &mine.private).expect("a token");
    assert_refused(
        &api.call_as(&format!("Bearer {token}"), "GET", JOB, "").await,
        "is signed with an unknown key",
    );
}

#[tokio::test]
async fn a_keys_type_and_use_decide_where_alg_is_missing() {
    let mut key = Key::rsa("r");
    key.public["alg"] = Value::Null;
    let mut sealed = Key::ec("s");
    sealed.public["use"] = json!("enc");
    let issuer = Issuer::start(Publishes::Keys(vec![key.public.clone(), sealed.public.clone()])).await;
    let api = issuer.api();
    for algorithm in [Algorithm::RS256, Algorithm::RS512, Algorithm::PS256] {
        key.algorithm = algorithm;
        assert_accepted(&api.call_as(&key.token("ana"), "GET", JOB, "").await);
    }
    assert_refused(&api.call_as(&sealed.token("ana"), "GET", JOB, "").await, "is signed with an unknown key");
    // The only one that is left needs no name.
    let token = encode(&Header::new(Algorithm::RS256), &claims("ana"), &key.private).expect("a token");
    assert_accepted(&api.call_as(&format!("Bearer {token}"), "GET", JOB, "").await);
}

#[tokio::test]
async fn keys_and_tokens_need_no_ids_where_one_key_fits() {
    let (rsa, other, ec) = (Key::rsa("k1"), Key::rsa("k2"), Key::ec("k3"));
    let call = async |published: Vec<Value>, token: &str| {
        Issuer::start(Publishes::Keys(published)).await.api().call_as(token, "GET", JOB, "").await
    };
    // One key without an id: the token may name any, or none.
    assert_accepted(&call(vec![rsa.without_id()], &rsa.token("ana")).await);
    assert_accepted(&call(vec![rsa.without_id()], &rsa.token_without_id("ana")).await);
    assert_refused(
        &call(vec![rsa.without_id()], &other.token("ana")).await,
        "the token's signature is wrong",
    );
    // Two keys of different algorithms.
    for token in [rsa.token_without_id("ana"), ec.token_without_id("ana")] {
        assert_accepted(&call(vec![rsa.public.clone(), ec.public.clone()], &token).await);
    }
    assert_accepted(&call(vec![rsa.without_id(), ec.without_id()], &ec.token("ana")).await);
    // Two that it may be, and one of another name.
    let two = vec![rsa.public.clone(), other.public.clone()];
    assert_refused(&call(two, &rsa.token_without_id("ana")).await, "is signed with an unknown key");
    let two = vec![rsa.without_id(), other.without_id()];
    assert_refused(&call(two, &rsa.token("ana")).await, "is signed with an unknown key");
    assert_refused(
        &call(vec![rsa.public.clone()], &other.token("ana")).await,
        "is signed with an unknown key",
    );
    // A key of that name goes before one without.
    assert_accepted(&call(vec![other.without_id(), rsa.public.clone()], &rsa.token("ana")).await);
}

/// Lets so much time pass for what counts it, without waking what waits for the network.
async fn later(by: Duration) {
    pause();
    advance(by).await;
    resume();
}

#[tokio::test]
async fn an_unknown_key_is_fetched_at_most_every_30_seconds() {
    let (old, new) = (Key::ec("old"), Key::ec("new"));
    let issuer = Issuer::start(Publishes::Keys(vec![old.public.clone()])).await;
    let api = issuer.api();
    assert_accepted(&api.call_as(&old.token("ana"), "GET", JOB, "").await);
    assert_eq!(issuer.asked(), 1);

    issuer.now(Publishes::Keys(vec![new.public.clone()]));
    for _ in 0..5 {
        assert_refused(
            &api.call_as(&new.token("ana"), "GET", JOB, "").await,
            "is signed with an unknown key",
        );
    }
    assert_eq!(issuer.asked(), 1);
    later(Duration::from_secs(30)).await;
    assert_accepted(&api.call_as(&new.token("ana"), "GET", JOB, "").await);
    assert_eq!(issuer.asked(), 2);
    // The old one was withdrawn.
    assert_refused(&api.call_as(&old.token("ana"), "GET", JOB, "").await, "is signed with an unknown key");
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn known_keys_outlive_the_issuer() {
    let key = Key::ec("k");
    let issuer = Issuer::start(Publishes::Keys(vec![key.public.clone()])).await;
    let api = issuer.api();
    assert_accepted(&api.call_as(&key.token("ana"), "GET", JOB, "").await);
    let elsewhere = Issuer::start(Publishes::Keys(vec![Key::ec("x").public])).await;
    for (asked, broken) in [
        Publishes::Text(StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        Publishes::Text(StatusCode::OK, "<html>".to_owned()),
        Publishes::Text(StatusCode::OK, "{\"keys\":[]}".to_owned()),
        Publishes::Text(StatusCode::OK, "[".repeat(100_000)),
        Publishes::Text(StatusCode::OK, format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300_000))),
        Publishes::Redirect(elsewhere.url()),
    ]
    .into_iter()
    .enumerate()
    {
        issuer.now(broken);
        later(Duration::from_secs(30)).await;
        assert_refused(
            &api.call_as(&Key::ec("x").token("ana"), "GET", JOB, "").await,
            "is signed with an unknown key",
        );
        assert_eq!(issuer.asked(), asked + 2);
        assert_accepted(&api.call_as(&key.token("ana"), "GET", JOB, "").await);
    }
    assert_eq!(elsewhere.asked(), 0, "no redirect is followed");
}

#[tokio::test]
async fn old_keys_are_fetched_again_while_they_are_used() {
    let key = Key::ec("k");
    let issuer = Issuer::start(Publishes::Keys(vec![key.public.clone()])).await;
    let api = issuer.api();
    assert_accepted(&api.call_as(&key.token("ana"), "GET", JOB, "").await);
    issuer.now(Publishes::Keys(vec![Key::ec("other").public]));
    later(Duration::from_secs(601)).await;
    // No request waits for the fetch; soon after, a withdrawn key is refused.
    assert_accepted(&api.call_as(&key.token("ana"), "GET", JOB, "").await);
    let refused = async {
        while api.call_as(&key.token("ana"), "GET", JOB, "").await.status != 401 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), refused).await.expect("the keys are fetched again");
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn a_request_waits_for_the_fetch_of_overdue_keys() {
    let (old, new) = (Key::ec("old"), Key::ec("new"));
    let issuer = Issuer::start(Publishes::Keys(vec![old.public.clone()])).await;
    let api = issuer.api();
    assert_accepted(&api.call_as(&old.token("ana"), "GET", JOB, "").await);
    issuer.now(Publishes::Text(StatusCode::BAD_GATEWAY, String::new()));
    later(Duration::from_secs(1201)).await;
    assert_accepted(&api.call_as(&old.token("ana"), "GET", JOB, "").await);
    assert_eq!(issuer.asked(), 2, "an issuer that is down still changes nothing");
    issuer.now(Publishes::Keys(vec![new.public]));
    assert_accepted(&api.call_as(&old.token("ana"), "GET", JOB, "").await);
    assert_eq!(issuer.asked(), 2, "nor is it asked at each request");
    later(Duration::from_secs(30)).await;
    assert_refused(&api.call_as(&old.token("ana"), "GET", JOB, "").await, "is signed with an unknown key");
}

#[tokio::test]
async fn without_any_keys_no_token_is_accepted() {
    let key = Key::ec("k");
    let issuer = Issuer::start(Publishes::Text(StatusCode::BAD_GATEWAY, String::new())).await;
    let api = issuer.api();
    for _ in 0..3 {
        let answer = api.call_as(&key.token("ana"), "GET", JOB, "").await;
        answer.problem(503, "AUTH_UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), "2");
    }
    assert_eq!(issuer.asked(), 1, "once a second");
    // A missing or malformed token is still refused as such.
    api.get(JOB).await.problem(401, "UNAUTHORIZED");
    assert_refused(&api.call_as("Bearer x", "GET", JOB, "").await, "not a signed token");
    issuer.now(Publishes::Keys(vec![key.public.clone()]));
    later(Duration::from_secs(1)).await;
    assert_accepted(&api.call_as(&key.token("ana"), "GET", JOB, "").await);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_hangs_is_given_five_seconds() {
    let issuer = Issuer::start(Publishes::Nothing).await;
    let began = tokio::time::Instant::now();
    let answer = issuer.api().call_as(&Key::ec("k").token("ana"), "GET", JOB, "").await;
    answer.problem(503, "AUTH_UNAVAILABLE");
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn the_scope_makes_an_operator() {
    let api = api_by_secret();
    let body = json!({"userId": "bob", "audioChunkPaths": ["a.wav"]}).to_string();
    let submit = async |api: &Api, name: &str, value: Value| {
        api.call_as(&token_by_secret(&claims_with(name, value)), "POST", "/transcribe", &body).await
    };
    for (name, value) in [
        ("scope", json!("openid longhand:operator")),
        ("scp", json!(["longhand:operator"])),
        ("scp", json!("longhand:operator openid")),
    ] {
        assert_eq!(submit(&api, name, value).await.json(202)["userId"], "bob");
    }
    for (name, value) in [
        ("scope", json!("longhand:operators")),
        ("scope", json!("xlonghand:operator")),
        ("scope", json!("")),
        ("scp", json!(["openid longhand:operator"])),
        ("roles", json!(["longhand:operator"])),
    ] {
        submit(&api, name, value).await.problem(403, "FORBIDDEN");
    }
}
