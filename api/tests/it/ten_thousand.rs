//! Ten thousand malformed requests, through the router; some hundreds over a socket, where they
//! need not even be HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use futures::stream;
use longhand_shared::JobId;
use longhand_shared::store::JobStore;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::socket::{Server, exchange, start};
use crate::support::{Answer, Api, good_body};

const REQUESTS: usize = 10_000;
const SOCKETS: usize = 400;

/// The seed, printed when a test fails. `LONGHAND_TEST_SEED` sets another.
fn dice() -> StdRng {
    let given = std::env::var("LONGHAND_TEST_SEED").ok();
    let seed = given.map_or(1, |text| text.parse().expect("LONGHAND_TEST_SEED is a number"));
    eprintln!("LONGHAND_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn one<'a, T: ?Sized>(dice: &mut StdRng, of: &[&'a T]) -> &'a T {
    of.choose(dice).expect("some")
}

fn bytes(dice: &mut StdRng, longest: usize) -> Vec<u8> {
    let mut bytes = vec![0; dice.random_range(0..=longest)];
    dice.fill_bytes(&mut bytes);
    bytes
}

fn text(dice: &mut StdRng, longest: usize) -> String {
    let character = |dice: &mut StdRng| match dice.random_range(0..3) {
        0 => dice.random_range('!'..='~'),
        1 => char::from(*one(dice, &[&b'%', &b'/', &b'&', &b'=', &b'.', &b'"', &b'\\', &b'{'])),
        _ => dice.random::<char>(),
    };
    (0..dice.random_range(0..=longest)).map(|_| character(dice)).collect()
}

/// Text for a URI, encoded well or badly.
fn encoded(dice: &mut StdRng, longest: usize) -> String {
    let part = |dice: &mut StdRng| match dice.random_range(0..8) {
        0 => format!("%{:02X}", dice.random::<u8>()),
        1 => one(dice, &["%", "%g0", "%c3%28", "%00", "%2e%2e%2f", "%u0041", "+", "%F0%9F%8E%A7"]).to_owned(),
        _ => one(dice, &["a", "Z", "0", "-", ".", "_", "~", "/", ":", "@", "!", ";", ",", "|", "`", "{"])
            .to_owned(),
    };
    (0..dice.random_range(0..=longest)).map(|_| part(dice)).collect()
}

/// Jobs and cursors that are there, for requests that are nearly right.
#[derive(Default)]
struct Known {
    jobs: Vec<String>,
    cursors: Vec<String>,
}

fn target(dice: &mut StdRng, known: &Known) -> String {
    let job = known.jobs.choose(dice).cloned().unwrap_or_default();
    let path = match dice.random_range(0..12) {
        0..4 => "/transcribe".to_owned(),
        4..7 => "/transcript/search".to_owned(),
        7 => format!("/transcript/{job}"),
        8 => format!("/transcript/{}", damaged(dice, &job)),
        9 => format!("/transcript/{}", encoded(dice, 60)),
        10 => one(dice, &["/", "//", "*", "/healthz", "/readyz", "/metrics", "/transcript", "/transcribe/"])
            .to_owned(),
        _ => {
            let longest = if dice.random_ratio(1, 50) { 8_000 } else { 30 };
            format!("/{}", encoded(dice, longest))
        }
    };
    let pairs: Vec<String> = (0..dice.random_range(0..6))
        .map(|_| match dice.random_range(0..7) {
            0 | 1 => "userId=ana".to_owned(),
            2 => format!(
                "jobStatus={}",
                one(dice, &["IN_PROGRESS", "COMPLETED", "FAILED", "failed", "", "%00"])
            ),
            3 => format!(
                "limit={}",
                one(dice, &["1", "0", "-1", "101", "99999999999999999999", "1e3", "", "%31"])
            ),
            4 => format!("cursor={}", known.cursors.choose(dice).cloned().unwrap_or_default()),
            5 => {
                let cursor = known.cursors.choose(dice).cloned().unwrap_or_default();
                format!("cursor={}", damaged(dice, &cursor))
            }
            _ => format!("{}={}", encoded(dice, 10), encoded(dice, 30)),
        })
        .collect();
    if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) }
}

/// One character changed, or the end cut off, or something put in.
fn damaged(dice: &mut StdRng, text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    if !characters.is_empty() {
        let place = dice.random_range(0..characters.len());
        match dice.random_range(0..3) {
            0 => characters[place] = dice.random_range('!'..='~'),
            1 => characters.truncate(place),
            _ => characters.insert(place, dice.random_range('!'..='~')),
        }
    }
    characters.into_iter().collect()
}

fn any_json(dice: &mut StdRng, depth: usize) -> Value {
    match dice.random_range(0..if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => dice.random::<bool>().into(),
        2 => dice.random::<i64>().into(),
        3 => (dice.random::<f64>() * 1e300).into(),
        4 => text(dice, 30).into(),
        5 => (0..dice.random_range(0..26)).map(|_| any_json(dice, depth - 1)).collect(),
        _ => {
            let entries = (0..dice.random_range(0..18)).map(|_| (text(dice, 8), any_json(dice, depth - 1)));
            Value::Object(entries.collect())
        }
    }
}

fn body(dice: &mut StdRng) -> Vec<u8> {
    let mut good = good_body();
    let field = one(dice, &["userId", "audioChunkPaths", "language", "prompt", "metadata", "\u{0}"]);
    let good_text = good.to_string();
    let with = |raw: &str| good_text.replacen('{', &format!("{{{raw},"), 1).into_bytes();
    match dice.random_range(0..16) {
        0 => bytes(dice, 300),
        1 => text(dice, 300).into_bytes(),
        2 => any_json(dice, 4).to_string().into_bytes(),
        3..6 => {
            good[field] = any_json(dice, 3);
            good.to_string().into_bytes()
        }
        6 => damaged(dice, &good_text).into_bytes(),
        7 => {
            let mut bytes = good_text.into_bytes();
            let place = dice.random_range(0..bytes.len());
            bytes[place] ^= 1 << dice.random_range(0..8);
            bytes
        }
        8 => one(dice, &["[", "{\"a\":", "[{\"\":"]).repeat(dice.random_range(1..10_000)).into_bytes(),
        9 => with(&format!("\"metadata\":{{\"a\":{}}}", "9".repeat(dice.random_range(1..5_000)))),
        10 => with(one(
            dice,
            &[
                r#""prompt":"\ud800""#,
                r#""prompt":"\udc00\ud800""#,
                r#""language":"\u0000""#,
                r#""userId":"bob""#,
                r#""metadata":{"a":"1","a":"2"}"#,
                r#""metadata":{"":""}"#,
                r#""prompt":1e999"#,
                r#""prompt":-"#,
            ],
        )),
        11 => [b"\xef\xbb\xbf".to_vec(), good_text.into_bytes()].concat(),
        12 => good_text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        13 => {
            format!("{good_text}{}", one(dice, &[" ", "{}", "\0", "//"]).repeat(dice.random_range(1..40_000)))
                .into()
        }
        _ => good_text.into_bytes(),
    }
}

fn header(dice: &mut StdRng) -> Option<(HeaderName, HeaderValue)> {
    let odd = bytes(dice, 40);
    let (name, value) = match dice.random_range(0..9) {
        0 => (
            "content-type",
            one(dice, &["text/plain", "application/json; charset=utf-16", "application/json;", "é", ""])
                .as_bytes(),
        ),
        1 => ("content-type", b"application/json".as_slice()),
        2 => ("content-encoding", one(dice, &["gzip", "identity", "deflate, gzip", "\u{80}"]).as_bytes()),
        3 => (
            "content-length",
            one(dice, &["0", "1", "-1", "65536", "65537", "99999999999999999999", "1,2", " 7"]).as_bytes(),
        ),
        4 => ("accept", one(dice, &["text/html", "*/*;q=-1", "", "a/b;c=\""]).as_bytes()),
        5 => ("expect", b"100-continue".as_slice()),
        6 => ("x-request-id", odd.as_slice()),
        7 => ("traceparent", odd.as_slice()),
        _ => (
            one(dice, &["host", "transfer-encoding", "content-type", "connection", "cookie", "x-é"]),
            odd.as_slice(),
        ),
    };
    Some((name.parse().ok()?, HeaderValue::from_bytes(value).ok()?))
}

/// A request that can be made at all: what has no URI or no method ends before the router.
fn request(dice: &mut StdRng, known: &Known) -> Option<Request<Body>> {
    let uri: Uri = target(dice, known).parse().ok()?;
    let natural = if uri.path() == "/transcribe" { "POST" } else { "GET" };
    let method = match dice.random_range(0..10) {
        0 => text(dice, 12).into_bytes(),
        1 => one(dice, &["HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get", "PATCH"])
            .as_bytes()
            .to_vec(),
        _ => natural.as_bytes().to_vec(),
    };
    let body = body(dice);
    let body = match dice.random_range(0..20) {
        // A client that goes away in the middle.
        0 => Body::from_stream(stream::iter([Ok(Bytes::from(body)), Err(std::io::Error::other("gone"))])),
        1 => Body::from_stream(stream::iter(
            body.chunks(7).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect::<Vec<_>>(),
        )),
        _ => Body::from(body),
    };
    let mut request = Request::new(body);
    (*request.method_mut(), *request.uri_mut()) = (Method::from_bytes(&method).ok()?, uri);
    for _ in 0..dice.random_range(0..4) {
        if let Some((name, value)) = header(dice) {
            request.headers_mut().append(name, value);
        }
    }
    Some(request)
}

/// The answer is not a fault of ours, and a refusal says why.
fn assert_good(answer: &Answer, request: &str, is_head: bool) {
    assert!(!answer.status.is_server_error(), "{request}: {}", answer.text());
    if answer.status.is_client_error() && !is_head {
        let code = &answer.any_problem()["code"];
        let fit = |code: &str| code.len() > 3 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        assert!(code.as_str().is_some_and(fit), "{request}: {}", answer.text());
    }
}

#[tokio::test]
async fn ten_thousand_requests_meet_no_panic_and_no_fault_of_ours() {
    let mut dice = dice();
    let api = Api::new();
    let mut known = Known::default();
    let mut sent = std::collections::BTreeMap::<StatusCode, usize>::new();
    while sent.values().sum::<usize>() < REQUESTS {
        let Some(request) = request(&mut dice, &known) else { continue };
        let line = format!("{} {:.200}", request.method(), request.uri().to_string());
        let is_head = request.method() == Method::HEAD;
        let answer = api.send(request).await;
        assert_good(&answer, &line, is_head);
        *sent.entry(answer.status).or_default() += 1;
        if answer.status == StatusCode::ACCEPTED {
            let job = answer.json(202)["jobId"].as_str().expect("an id").to_owned();
            let id: JobId = job.parse().expect("an id");
            assert!(api.store.job(id).await.expect("memory answers").is_some(), "{line}: not in the store");
            known.jobs.push(job);
        } else if let Ok(page) = serde_json::from_slice::<Value>(&answer.body) {
            known.cursors.extend(page["nextCursor"].as_str().map(str::to_owned));
        }
    }
    // Some of each: neither all refused early nor all accepted.
    for status in [200, 202, 400, 404, 405, 413, 415] {
        let status = StatusCode::from_u16(status).expect("a status");
        assert!(sent.get(&status).is_some_and(|count| *count > 20), "too few {status}: {sent:?}");
    }
}

/// What is sent over a socket: HTTP that is damaged, or none.
fn stream_of_bytes(dice: &mut StdRng) -> Vec<u8> {
    let body = body(dice);
    let method = one(dice, &["POST", "GET", "HEAD", "BREW", "", "G\0T"]);
    let version = one(dice, &["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2", "HTTP/9.9", "http/1.1", ""]);
    let path = if dice.random::<bool>() { "/transcribe".to_owned() } else { encoded(dice, 40) };
    let length = match dice.random_range(0..8) {
        0 => format!("Content-Length: {}", dice.random::<i64>()),
        1 => "Transfer-Encoding: chunked".to_owned(),
        2 => format!("Content-Length: {0}\r\nContent-Length: {0}\r\nTransfer-Encoding: chunked", body.len()),
        3 => format!("Content-Length : {}", body.len()),
        4 => format!("X: {}", "x".repeat(dice.random_range(0..20_000))),
        5 => "X: 1\r\n".repeat(dice.random_range(1..300)),
        _ => format!("Content-Length: {}", body.len()),
    };
    let end = one(dice, &["\r\n", "\r\n", "\r\n", "\n", "\r"]);
    let head = format!("{method} {path} {version}{end}Host: x{end}{length}{end}{end}");
    let mut stream = [head.into_bytes(), body].concat();
    match dice.random_range(0..6) {
        0 => bytes(dice, 2_000),
        // A client of TLS, or of HTTP/2, at the wrong door.
        1 => [
            one(dice, &["\x16\x03\x01\x02\0\x01", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]).as_bytes(),
            &bytes(dice, 500),
        ]
        .concat(),
        2 => {
            stream.truncate(dice.random_range(0..stream.len()));
            stream
        }
        3 => {
            let place = dice.random_range(0..stream.len());
            stream[place] ^= 1 << dice.random_range(0..8);
            stream
        }
        _ => stream,
    }
}

/// Sends this, and reads until the server closes or has nothing more to say; then goes away.
async fn poke(address: SocketAddr, stream: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    // A server that has seen enough may close before it has read all.
    let _ = socket.write_all(stream).await;
    let mut answer = Vec::new();
    while let Ok(Ok(1..)) = timeout(Duration::from_millis(100), socket.read_buf(&mut answer)).await {}
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_server_survives_any_bytes_on_its_sockets() {
    let mut dice = dice();
    let api = Api::new();
    let Server { address, stop, task } = start(api.router.clone(), Duration::from_secs(5)).await;
    let mut answered = 0;
    for _ in 0..SOCKETS / 20 {
        // Twenty at once.
        let streams: Vec<_> = (0..20).map(|_| stream_of_bytes(&mut dice)).collect();
        let answers = streams.iter().map(|stream| poke(address, stream));
        for (answer, stream) in futures::future::join_all(answers).await.into_iter().zip(&streams) {
            let sent = String::from_utf8_lossy(stream);
            assert!(!answer.contains("HTTP/1.1 5"), "{sent:.300}\n{answer}");
            answered += usize::from(answer.starts_with("HTTP/1."));
        }
    }
    assert!(answered > SOCKETS / 4, "{answered} were answered");
    let good = good_body().to_string();
    let last = format!(
        "POST /transcribe HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{good}",
        good.len()
    );
    let answer = exchange(address, &last).await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    stop.cancel();
    task.await.expect("no panic").expect("a clean end");
}
