//! `POST /uploads`: what is signed, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::BehaviorVersion;
use axum::body::Body;
use axum::http::Request;
use longhand_api::waiting::Waiting;
use longhand_api::{AppState, Auth, Origins, router};
use longhand_shared::cache::Cache;
use longhand_shared::path::AudioSources;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::{AudioPath, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::{Api, s3};

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
        assert_eq!(upload["headers"], headers, "what is to be sent");
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
async fn every_fault_is_told() {
    let file = |field: &str, value: Value| {
        let mut file = wav("a.wav");
        file[field] = value;
        body(&[wav("good.wav"), file])
    };
    let size = "must be a whole number from 1 to 5242880, is";
    let type_ = "is not a type of audio that is known here";
    for (body, pointer, detail) in [
        (json!({"userId": "ana"}), "#/files", "is required"),
        (json!({"userId": "ana", "files": {}}), "#/files", "must be an array of objects, is an object"),
        (json!({"files": [wav("a")]}), "#/userId", "is required"),
        (json!({"userId": "a b", "files": [wav("a")]}), "#/userId", "no spaces"),
        (body(&[]), "#/files", "must have 1 to 24 entries, has 0"),
        (body(&vec![wav("a"); 25]), "#/files", "must have 1 to 24 entries, has 25"),
        (body(&[json!("a.wav")]), "#/files/0", "must be an object, is a string"),
        (file("bytes", json!(0)), "#/files/1/bytes", size),
        (file("bytes", json!(-1)), "#/files/1/bytes", size),
        (file("bytes", json!(5_242_881)), "#/files/1/bytes", size),
        (file("bytes", json!(1.5)), "#/files/1/bytes", size),
        (file("bytes", json!(u64::MAX)), "#/files/1/bytes", size),
        (file("bytes", json!("1000")), "#/files/1/bytes", "must be a number, is a string"),
        (file("bytes", Value::Null), "#/files/1/bytes", "is required"),
        (file("contentType", json!("text/html")), "#/files/1/contentType", type_),
        (file("contentType", json!("audio/wav\r\nx: y")), "#/files/1/contentType", type_),
        (file("contentType", json!(7)), "#/files/1/contentType", "must be a string, is a number"),
        (file("contentType", Value::Null), "#/files/1/contentType", "is required"),
        (file("name", json!("")), "#/files/1/name", "must have 1 to 255 characters, has 0"),
        (file("name", json!("x".repeat(256))), "#/files/1/name", "has 256"),
        (file("name", json!([])), "#/files/1/name", "must be a string, is an array"),
        (file("md5", json!("x")), "#/files/1/md5", "is not known here: expected name, contentType, bytes"),
    ] {
        Api::new().post_to("/uploads", body.to_string()).await.assert_fault(pointer, detail);
    }
    let all = json!({"files": [{}, 7, {"bytes": 0, "contentType": "x", "name": 1, "x": 1}], "y": 1});
    let faults = Api::new().post_to("/uploads", all.to_string()).await.faults();
    let pointers: Vec<&str> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
    let expected = [
        "#/userId",
        "#/files/0/contentType",
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

/// The problem that this bucket and client end in.
async fn problem(buckets: &[&str], s3: aws_sdk_s3::Client) -> (u16, Value) {
    let buckets = buckets.iter().map(|name| (*name).to_owned()).collect();
    let store = Arc::new(MemoryStore::new());
    let waiting = Waiting::new(store.clone(), Cache::local(), CancellationToken::new());
    let state = AppState {
        store,
        queue: Arc::new(MemoryQueue::new()),
        sources: Arc::new(AudioSources { buckets, ..AudioSources::default() }),
        callback_hosts: Arc::default(),
        s3,
        auth: Arc::new(Auth::none()),
        limits: Arc::default(),
        origins: Origins::default(),
        waiting,
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
async fn what_cannot_be_signed_may_be_another_time() {
    // No region, so there is nothing to sign for.
    let config = aws_sdk_s3::Config::builder().behavior_version(BehaviorVersion::latest()).build();
    let s3 = aws_sdk_s3::Client::from_conf(config);
    assert_eq!(problem(&["audio"], s3).await, (503, json!("UPLOADS_UNAVAILABLE")));
}
