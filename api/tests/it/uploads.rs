//! `POST /uploads`: what is signed, and what is refused.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, SharedCredentialsProvider};
use axum::body::Body;
use axum::http::Request;
use longhand_api::waiting::Waiting;
use longhand_api::{AppState, Auth, Origins, Rendered, Signer, Tickets, router};
use longhand_shared::cache::Cache;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::path::AudioSources;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::{AudioPath, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::{Api, s3, signer};

const QUARTER: Duration = Duration::from_mins(15);

fn wav(name: &str) -> Value {
    json!({"name": name, "contentType": "audio/wav", "bytes": 1000})
}

fn body(files: &[Value]) -> Value {
    json!({"userId": "ana@example.com", "files": files})
}

async fn uploads(files: &[Value]) -> Vec<Value> {
    let answer = Api::new().post_to("/uploads", body(files).to_string()).await.json(200);
    answer["uploads"].as_array().expect("uploads").clone()
}

#[tokio::test]
async fn each_file_gets_an_address_that_fixes_its_size_and_type() {
    let before = Timestamp::now();
    let files = [wav("día 1.wav"), json!({"contentType": "Audio/WebM;codecs=opus", "bytes": 5_242_880})];
    let signed = uploads(&files).await;
    assert_eq!(signed.len(), 2);
    let expected = [("d_a_1.wav", "audio/wav", "1000"), ("audio.webm", "audio/webm", "5242880")];
    for (upload, (name, media, bytes)) in signed.iter().zip(expected) {
        let path = upload["audioChunkPath"].as_str().expect("a path");
        let key = path.strip_prefix("s3://audio/").expect("the first bucket");
        let parts: Vec<&str> = key.split('/').collect();
        assert_eq!((parts[0], parts[1], parts[3]), ("uploads", "ana=40example.com", name), "{path}");
        assert!(path.parse::<AudioPath>().is_ok());
        assert_eq!(upload["method"], "PUT");
        let headers = json!({"content-length": bytes, "content-type": media});
        assert_eq!(upload["headers"], headers, "the headers to send");
        let url = upload["url"].as_str().expect("an address");
        let key = key.replace('=', "%3D");
        assert!(url.starts_with(&format!("https://audio.s3.us-east-1.amazonaws.com/{key}?")), "{url}");
        for part in ["X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost", "X-Amz-Expires=900"] {
            assert!(url.contains(part), "{part}: {url}");
        }
        let expires: Timestamp = upload["expiresTime"].as_str().expect("a time").parse().expect("a time");
        assert!(expires >= before.plus(QUARTER) && expires <= Timestamp::now().plus(QUARTER), "{expires}");
    }
    assert_ne!(signed[0]["audioChunkPath"], signed[1]["audioChunkPath"]);
}

#[tokio::test]
async fn addresses_name_the_endpoint_where_clients_reach_the_bucket() {
    let endpoint = "https://files.example:8443";
    let config = s3().config().to_builder().endpoint_url(endpoint).force_path_style(true).build();
    let upload_signer = Arc::new(signer(aws_sdk_s3::Client::from_conf(config)));
    let api = Api::with(|state| AppState { upload_signer, ..state });
    let answer = api.post_to("/uploads", body(&[wav("a.wav")]).to_string()).await.json(200);
    let upload = &answer["uploads"][0];
    let url = upload["url"].as_str().expect("an address");
    assert!(url.starts_with(&format!("{endpoint}/audio/uploads/ana%3D40example.com/")), "{url}");
    assert!(upload["audioChunkPath"].as_str().expect("a path").starts_with("s3://audio/uploads/"));
}

#[tokio::test]
async fn the_same_name_twice_is_two_files() {
    let signed = uploads(&[wav("a.wav"), wav("a.wav")]).await;
    assert_ne!(signed[0]["audioChunkPath"], signed[1]["audioChunkPath"]);
}

#[tokio::test]
async fn names_cannot_leave_the_folder() {
    for (name, kept) in
        [("../../x.wav", "x.wav"), ("..", "_."), ("a/..", "_."), ("x/", "_"), ("a\r\nb?c#d", "a__b_c_d")]
    {
        let path = uploads(&[wav(name)]).await[0]["audioChunkPath"].as_str().expect("a path").to_owned();
        assert_eq!(path.rsplit('/').next(), Some(kept), "{path}");
        assert_eq!(path.split('/').count(), 7, "{path}");
    }
}

#[tokio::test]
async fn every_fault_is_reported() {
    let file = |field: &str, value: Value| {
        let mut file = wav("a.wav");
        file[field] = value;
        body(&[wav("good.wav"), file])
    };
    let size = "must be a whole number from 1 to 5242880, is";
    for (body, pointer, detail) in [
        (json!({"userId": "ana"}), "#/files", "is required"),
        (json!({"userId": "ana", "files": {}}), "#/files", "must be an array of objects, is an object"),
        (json!({"files": [wav("a")]}), "#/userId", "is required"),
        (json!({"userId": "a b", "files": [wav("a")]}), "#/userId", "no spaces"),
        (body(&[]), "#/files", &*format!("must have 1 to {MAX_CHUNKS} entries, has 0")),
        (
            body(&vec![wav("a"); MAX_CHUNKS + 1]),
            "#/files",
            &*format!("must have 1 to {MAX_CHUNKS} entries, has {}", MAX_CHUNKS + 1),
        ),
        (body(&[json!("a.wav")]), "#/files/0", "must be an object, is a string"),
        (file("bytes", json!(0)), "#/files/1/bytes", size),
        (file("bytes", json!(-1)), "#/files/1/bytes", size),
        (file("bytes", json!(5_242_881)), "#/files/1/bytes", size),
        (file("bytes", json!(1.5)), "#/files/1/bytes", size),
        (file("bytes", json!(u64::MAX)), "#/files/1/bytes", size),
        (file("bytes", json!("1000")), "#/files/1/bytes", "must be a number, is a string"),
        (file("bytes", Value::Null), "#/files/1/bytes", "is required"),
        (file("contentType", json!(7)), "#/files/1/contentType", "must be a string, is a number"),
        (file("name", json!("")), "#/files/1/name", "must have 1 to 255 characters, has 0"),
        (file("name", json!("x".repeat(256))), "#/files/1/name", "has 256"),
        (file("name", json!([])), "#/files/1/name", "must be a string, is an array"),
        (file("md5", json!("x")), "#/files/1/md5", "is unknown: expected name, contentType, bytes"),
    ] {
        Api::new().post_to("/uploads", body.to_string()).await.assert_fault(pointer, detail);
    }
    let all = json!({"files": [{}, 7, {"bytes": 0, "contentType": 1, "name": 1, "x": 1}], "y": 1});
    let faults = Api::new().post_to("/uploads", all.to_string()).await.faults();
    let pointers: Vec<&str> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
    let expected = [
        "#/userId",
        "#/files/0/bytes",
        "#/files/1",
        "#/files/2/name",
        "#/files/2/contentType",
        "#/files/2/bytes",
        "#/files/2/x",
        "#/y",
    ];
    assert_eq!(pointers, expected);
}

#[tokio::test]
async fn any_content_type_is_a_hint() {
    for (announced, media) in [
        ("audio/vnd.dlna.adts", "audio/vnd.dlna.adts"),
        ("audio/amr-wb", "audio/amr-wb"),
        ("video/quicktime", "video/quicktime"),
        ("video/3gpp", "video/3gpp"),
        ("audio/x-hx-aac-adts", "audio/x-hx-aac-adts"),
        ("audio/x-pn-wav", "audio/x-pn-wav"),
        ("", "application/octet-stream"),
        ("text/html", "application/octet-stream"),
        ("audio/wav\r\nx: y", "application/octet-stream"),
        ("día", "application/octet-stream"),
    ] {
        let signed = uploads(&[json!({"name": "a.bin", "contentType": announced, "bytes": 100})]).await;
        assert_eq!(signed[0]["headers"], json!({"content-length": "100", "content-type": media}));
    }
    for file in [json!({"name": "a.opus", "bytes": 100}), json!({"bytes": 100, "contentType": null})] {
        let signed = uploads(&[file]).await;
        assert_eq!(signed[0]["headers"]["content-type"], "application/octet-stream");
    }
}

/// The problem that this bucket and client end in.
async fn problem(buckets: &[&str], s3: aws_sdk_s3::Client) -> (u16, Value) {
    let buckets = buckets.iter().map(|name| (*name).to_owned()).collect();
    let store = Arc::new(MemoryStore::new());
    let waiting = Waiting::new(store.clone(), Cache::local(), CancellationToken::new());
    let state = AppState {
        lifecycle: Lifecycle::new(store, Arc::new(MemoryQueue::new())),
        sources: Arc::new(AudioSources { buckets, ..AudioSources::default() }),
        callback_hosts: Arc::default(),
        s3: s3.clone(),
        upload_signer: Arc::new(signer(s3)),
        auth: Arc::new(Auth::none()),
        limits: Arc::default(),
        origins: Origins::default(),
        tickets: Tickets::new(None),
        dead_letters: None,
        waiting,
        rendered: Rendered::default(),
        stop: CancellationToken::new(),
    };
    let request = Request::post("/uploads").body(Body::from(body(&[wav("a.wav")]).to_string()));
    let answer = router(state).oneshot(request.expect("a request")).await.expect("an answer");
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    (status, serde_json::from_slice::<Value>(&body).expect("JSON")["code"].clone())
}

#[tokio::test]
async fn without_a_bucket_there_are_no_uploads() {
    assert_eq!(problem(&[], s3()).await, (404, json!("NO_UPLOADS")));
}

#[tokio::test]
async fn a_failed_signature_can_be_retried() {
    // No region, so there is nothing to sign for.
    let config = aws_sdk_s3::Config::builder().behavior_version(BehaviorVersion::latest()).build();
    let s3 = aws_sdk_s3::Client::from_conf(config);
    assert_eq!(problem(&["audio"], s3).await, (503, json!("UPLOADS_UNAVAILABLE")));
}

/// Gives credentials that end after these times, one after the other; then none.
#[derive(Debug)]
struct Ending(Mutex<VecDeque<Option<Duration>>>);

impl ProvideCredentials for Ending {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let mut left = self.0.lock().expect("nothing panics with it locked");
        future::ProvideCredentials::ready(match left.pop_front() {
            Some(after) => {
                let name = format!("key-{}", left.len());
                let end = after.map(|after| SystemTime::now() + after);
                Ok(Credentials::new(name, "secret", None, end, "test"))
            }
            None => Err(CredentialsError::not_loaded("there are no more")),
        })
    }
}

fn ending_after(ends: &[Option<u64>]) -> Api {
    let ends = ends.iter().map(|end| end.map(Duration::from_secs)).collect();
    let provider = SharedCredentialsProvider::new(Ending(Mutex::new(ends)));
    let upload_signer = Arc::new(Signer::new(s3(), provider));
    Api::with(|state| AppState { upload_signer, ..state })
}

/// The key that signs the next address, and for how long, in seconds.
async fn signed_by(api: &Api) -> (String, u64) {
    let before = Timestamp::now();
    let answer = api.post_to("/uploads", body(&[wav("a.wav")]).to_string()).await.json(200);
    let upload = &answer["uploads"][0];
    let url = upload["url"].as_str().expect("an address");
    let part = |name: &str| {
        let (_, rest) = url.split_once(name).expect(name);
        rest.split(['&', '%']).next().expect("a value").to_owned()
    };
    let seconds: u64 = part("X-Amz-Expires=").parse().expect("seconds");
    let expires: Timestamp = upload["expiresTime"].as_str().expect("a time").parse().expect("a time");
    let (from, to) = (before, Timestamp::now());
    let lifetime = Duration::from_secs(seconds);
    assert!(expires >= from.plus(lifetime) && expires <= to.plus(lifetime), "{expires}, {seconds} s");
    (part("X-Amz-Credential="), seconds)
}

#[tokio::test]
async fn an_address_does_not_outlive_its_credentials() {
    let (key, seconds) = signed_by(&ending_after(&[Some(60)])).await;
    assert_eq!(key, "key-0");
    assert!((1..=60).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_end_before_an_address_are_replaced() {
    // The second last longer than an address; they are kept.
    let api = ending_after(&[Some(60), Some(3600), None]);
    for _ in 0..2 {
        let (first, _) = signed_by(&api).await;
        assert_eq!(first, "key-2", "the provider is not asked at each request");
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    for _ in 0..2 {
        assert_eq!(signed_by(&api).await, ("key-1".to_owned(), 900));
    }
    let api = ending_after(&[None, None]);
    for _ in 0..2 {
        assert_eq!(signed_by(&api).await, ("key-1".to_owned(), 900));
    }
}

#[tokio::test(start_paused = true)]
async fn without_new_credentials_the_old_ones_do_while_they_last() {
    let api = ending_after(&[Some(600)]);
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(10)).await;
        let (key, seconds) = signed_by(&api).await;
        assert_eq!(key, "key-0");
        assert!(seconds <= 600, "{seconds}");
    }
    let none = ending_after(&[]).post_to("/uploads", body(&[wav("a.wav")]).to_string()).await;
    none.problem(503, "UPLOADS_UNAVAILABLE");
    let ended = ending_after(&[Some(0)]).post_to("/uploads", body(&[wav("a.wav")]).to_string()).await;
    ended.problem(503, "UPLOADS_UNAVAILABLE");
}
