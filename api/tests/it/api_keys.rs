//! API keys: whom each identifies, and until when.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use longhand_api::auth::settings::{ApiKeys, AuthSettings};
use longhand_api::{AppState, Auth};
use longhand_shared::service::api_key::{KeyDigest, KeyEntry, new_key};
use longhand_shared::service::secret::Secret;
use tempfile::TempDir;
use tokio::time::{advance, pause, resume};

use crate::support::{Answer, Api};

const JOB: &str = "/transcript/0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b";

struct Keys {
    folder: TempDir,
}

impl Keys {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    fn write(&self, lines: &[String]) {
        std::fs::write(self.path(), lines.join("\n")).expect("a file");
    }

    fn api(&self) -> Api {
        let auth = Auth::new(AuthSettings::ApiKeys(ApiKeys::File(self.path()))).expect("a good file");
        Api::with(|state| AppState { auth: Arc::new(auth), ..state })
    }
}

fn line(user: &str, key: &Secret, operator: bool) -> String {
    let user: longhand_shared::UserId = user.parse().expect("a user");
    let entry = KeyEntry { id: user.to_string(), sha256: KeyDigest::of(key.reveal()), user, operator };
    serde_json::to_string(&entry).expect("JSON")
}

async fn get(api: &Api, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(JOB);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.send(request.body(Body::empty()).expect("a request")).await
}

async fn later() {
    pause();
    advance(Duration::from_secs(1)).await;
    resume();
}

#[tokio::test]
async fn a_key_is_accepted_in_either_header() {
    let (ana, bob, keys) = (new_key(), new_key(), Keys::new());
    keys.write(&[line("ana", &ana, false), line("bob", &bob, true)]);
    let api = keys.api();
    let bearer = format!("Bearer {}", ana.reveal());
    get(&api, &[("authorization", &bearer)]).await.problem(404, "JOB_NOT_FOUND");
    get(&api, &[("x-api-key", ana.reveal())]).await.problem(404, "JOB_NOT_FOUND");
    let body = r#"{"audioChunkPaths":["a.wav"]}"#;
    let mine = api.call_as(&bearer, "POST", "/transcribe", body).await.json(202);
    assert_eq!(mine["userId"], "ana");
    let body = r#"{"userId":"zoe","audioChunkPaths":["a.wav"]}"#;
    api.call_as(&bearer, "POST", "/transcribe", body).await.problem(403, "FORBIDDEN");
    let operator = format!("Bearer {}", bob.reveal());
    assert_eq!(api.call_as(&operator, "POST", "/transcribe", body).await.json(202)["userId"], "zoe");
    let path = format!("/transcript/{}", mine["jobId"].as_str().expect("text"));
    assert_eq!(api.call_as(&operator, "GET", &path, "").await.status, 200);
}

#[tokio::test]
async fn other_credentials_are_refused() {
    let (ana, keys) = (new_key(), Keys::new());
    keys.write(&[line("ana", &ana, false)]);
    let api = keys.api();
    assert_eq!(get(&api, &[]).await.header("www-authenticate"), "Bearer realm=\"longhand\"");
    let bearer = format!("Bearer {}", ana.reveal());
    let shorter = &ana.reveal()[..ana.reveal().len() - 1];
    let digest = String::from(KeyDigest::of(ana.reveal()));
    for (headers, reason) in [
        (&[("x-api-key", new_key().reveal())][..], "unknown API key"),
        (&[("x-api-key", shorter)], "unknown API key"),
        (&[("x-api-key", "lh_")], "unknown API key"),
        (&[("x-api-key", "")], "not an API key: API keys begin with lh_"),
        // A digest from the file is not a key.
        (&[("x-api-key", &digest)], "not an API key: API keys begin with lh_"),
        (&[("x-api-key", &format!("lh_{digest}"))], "unknown API key"),
        (&[("authorization", ana.reveal())], "the scheme of Authorization is not Bearer"),
        (
            &[("authorization", &bearer), ("x-api-key", ana.reveal())],
            "there is more than one credential: send one",
        ),
    ] {
        let answer = get(&api, headers).await;
        assert_eq!(answer.problem(401, "UNAUTHORIZED")["detail"], reason);
        assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
    }
}

#[tokio::test]
async fn the_file_is_read_again_when_it_changes() {
    let (ana, bob, keys) = (new_key(), new_key(), Keys::new());
    keys.write(&[line("ana", &ana, false)]);
    let api = keys.api();
    let status = async |key: &Secret| get(&api, &[("x-api-key", key.reveal())]).await.status.as_u16();
    assert_eq!((status(&ana).await, status(&bob).await), (404, 401));
    keys.write(&[line("ana", &ana, false), line("bob", &bob, false)]);
    later().await;
    assert_eq!((status(&ana).await, status(&bob).await), (404, 404));
    keys.write(&[line("bob", &bob, false)]);
    later().await;
    assert_eq!((status(&ana).await, status(&bob).await), (401, 404));
    // A file that is half written, or missing, revokes no key.
    keys.write(&["{\"id\":".to_owned()]);
    later().await;
    assert_eq!((status(&ana).await, status(&bob).await), (401, 404));
    std::fs::remove_file(keys.path()).expect("it was there");
    later().await;
    assert_eq!((status(&ana).await, status(&bob).await), (401, 404));
    // An empty one revokes all.
    keys.write(&[]);
    later().await;
    assert_eq!((status(&ana).await, status(&bob).await), (401, 401));
}

#[tokio::test]
async fn a_bad_file_is_a_fault_at_start() {
    let keys = Keys::new();
    let open = || Auth::new(AuthSettings::ApiKeys(ApiKeys::File(keys.path()))).expect_err("a fault");
    assert!(open().contains("No such file"), "{}", open());
    keys.write(&["lh_SECRET".to_owned()]);
    assert!(open().contains("line 1, column 1: must be") && !open().contains("SECRET"), "{}", open());
}

#[tokio::test]
async fn keys_may_come_as_a_text() {
    let (ana, bob) = (new_key(), new_key());
    let text = |lines: &[String]| AuthSettings::ApiKeys(ApiKeys::Text(lines.join("\n").into()));
    let auth = Auth::new(text(&[line("ana", &ana, false)])).expect("good keys");
    let api = Api::with(|state| AppState { auth: Arc::new(auth), ..state });
    get(&api, &[("x-api-key", ana.reveal())]).await.problem(404, "JOB_NOT_FOUND");
    get(&api, &[("x-api-key", bob.reveal())]).await.problem(401, "UNAUTHORIZED");
    let fault = Auth::new(text(&[line("ana", &ana, false), "{}".to_owned()])).expect_err("a fault");
    assert!(fault.starts_with("LONGHAND_API_KEYS: line 2, column 2: must be"), "{fault}");
}
