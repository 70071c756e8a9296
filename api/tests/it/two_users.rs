//! Two users with tokens: what is one's is, to the other, not there.

use axum::body::Body;
use axum::http::Request;
use longhand_shared::JobId;
use longhand_shared::store::JobStore;
use serde_json::{Value, json};

use crate::issuer::{Issuer, Key, Publishes, claims, token_by_secret};
use crate::support::{Answer, Api};

struct Two {
    api: Api,
    ana: String,
    bob: String,
    operator: String,
}

impl Two {
    async fn new() -> Self {
        let key = Key::ec("k");
        let api = Issuer::start(Publishes::Keys(vec![key.public.clone()])).await.api();
        let mut operator = claims("ops");
        operator["scope"] = json!("longhand:operator");
        let (ana, bob, operator) = (key.token("ana"), key.token("bob"), key.sign(&operator));
        Self { api, ana, bob, operator }
    }

    async fn submit(&self, token: &str, body: &Value) -> Answer {
        self.api.call_as(token, "POST", "/transcribe", &body.to_string()).await
    }

    /// A job of Ana's.
    async fn job(&self) -> JobId {
        let answer = self.submit(&self.ana, &json!({"audioChunkPaths": ["a.wav"]})).await;
        answer.json(202)["jobId"].as_str().expect("text").parse().expect("an id")
    }
}

/// All of an answer that could distinguish one job from another, without its own ids.
fn shape(answer: &Answer, id: &str) -> String {
    let mut headers: Vec<_> = answer.headers.iter().filter(|(name, _)| *name != "x-request-id").collect();
    headers.sort_by_key(|(name, _)| name.as_str());
    let body = answer.text().replace(answer.header("x-request-id"), "REQUEST").replace(id, "JOB");
    format!("{} {headers:?} {body}", answer.status)
}

#[tokio::test]
async fn another_users_job_looks_missing_and_stays_unchanged() {
    let two = Two::new().await;
    let job = two.job().await;
    let before = two.api.store.job(job).await.expect("a store in memory");
    let unknown = JobId::random();
    // Every route under a job's id, present or future.
    for (method, path) in [
        ("GET", ""),
        ("HEAD", ""),
        ("DELETE", ""),
        ("DELETE", "?audio=true"),
        ("PUT", ""),
        ("PATCH", ""),
        ("POST", ""),
        ("POST", "/retry"),
        ("GET", "/events"),
        ("POST", "/tickets"),
        ("GET", "/audio/0"),
        ("GET", "/audio/23"),
        ("GET", "?segments=true"),
    ] {
        for spelled in [str::to_owned, str::to_uppercase] {
            let ask = async |id: JobId, token: &str| {
                let id = spelled(&id.to_string());
                two.api.call_as(token, method, &format!("/transcript/{id}{path}"), "").await
            };
            let theirs = ask(job, &two.bob).await;
            let none = ask(unknown, &two.bob).await;
            assert!(theirs.status == 404 || theirs.status == 405, "{method} {path}: {}", theirs.status);
            assert_eq!(
                shape(&theirs, &job.to_string()),
                shape(&none, &unknown.to_string()),
                "{method} {path}"
            );
        }
    }
    let request = |id: JobId| {
        let request = Request::get(format!("/transcript/{id}"))
            .header("authorization", &two.bob)
            .header("prefer", "wait=1")
            .header("if-none-match", "*")
            .header("last-event-id", "0");
        request.body(Body::empty()).expect("a request")
    };
    let (theirs, none) = (two.api.send(request(job)).await, two.api.send(request(unknown)).await);
    theirs.problem(404, "JOB_NOT_FOUND");
    assert_eq!(shape(&theirs, &job.to_string()), shape(&none, &unknown.to_string()));

    assert_eq!(two.api.store.job(job).await.expect("a store in memory"), before);
    for token in [&two.ana, &two.operator] {
        let path = format!("/transcript/{job}");
        assert_eq!(two.api.call_as(token, "GET", &path, "").await.json(200)["userId"], "ana");
    }
}

#[tokio::test]
async fn a_submit_is_for_the_caller() {
    let two = Two::new().await;
    let paths = json!(["a.wav"]);
    let answer = two.submit(&two.bob, &json!({"audioChunkPaths": paths})).await;
    assert_eq!(answer.json(202)["userId"], "bob");
    let answer = two.submit(&two.bob, &json!({"userId": "bob", "audioChunkPaths": paths})).await;
    assert_eq!(answer.json(202)["userId"], "bob");
    let answer = two.submit(&two.bob, &json!({"userId": null, "audioChunkPaths": paths})).await;
    assert_eq!(answer.json(202)["userId"], "bob");

    // Whether there is such a user makes no difference.
    two.job().await;
    for other in ["ana", "nobody", "BOB", "bob "] {
        let answer = two.submit(&two.bob, &json!({"userId": other, "audioChunkPaths": paths})).await;
        if other == "bob " {
            answer.assert_fault("#/userId", "no spaces");
            continue;
        }
        let problem = answer.problem(403, "FORBIDDEN");
        assert_eq!(problem["errors"][0]["pointer"], "#/userId");
        assert!(!answer.text().contains(other), "{problem}");
    }
    let answer = two.submit(&two.bob, &json!({"userId": 7, "audioChunkPaths": paths})).await;
    answer.assert_fault("#/userId", "must be a string");

    let answer = two.submit(&two.operator, &json!({"userId": "ana", "audioChunkPaths": paths})).await;
    assert_eq!(answer.json(202)["userId"], "ana");
    let answer = two.submit(&two.operator, &json!({"audioChunkPaths": paths})).await;
    assert_eq!(answer.json(202)["userId"], "ops");
}

#[tokio::test]
async fn a_search_finds_the_callers_jobs() {
    let two = Two::new().await;
    let (first, second) = (two.job().await, two.job().await);
    let search = async |token: &str, query: &str| {
        two.api.call_as(token, "GET", &format!("/transcript/search?jobStatus=IN_PROGRESS{query}"), "").await
    };
    let found = search(&two.ana, "&limit=1").await.json(200);
    assert_eq!(found["results"].as_array().map(Vec::len), Some(1));
    assert!([first, second].iter().any(|job| found["results"][0]["jobId"] == job.to_string()));
    let cursor = found["nextCursor"].as_str().expect("a second page");

    assert_eq!(search(&two.bob, "").await.json(200)["results"], json!([]));
    let problem = search(&two.bob, "&userId=ana").await.problem(403, "FORBIDDEN");
    assert_eq!(problem["errors"][0]["pointer"], "?userId");
    search(&two.bob, &format!("&cursor={cursor}")).await.assert_fault("?cursor", "belongs to another search");
    search(&two.bob, &format!("&userId=ana&cursor={cursor}")).await.problem(403, "FORBIDDEN");
    assert_eq!(
        search(&two.operator, "&userId=ana").await.json(200)["results"].as_array().map(Vec::len),
        Some(2)
    );
}

#[tokio::test]
async fn a_token_is_in_no_answer_and_no_debug() {
    let api = crate::issuer::api_by_secret();
    let token = token_by_secret(&claims("ana"));
    let signature = token.rsplit('.').next().expect("a signature");
    for body in ["", "{\"userId\":\"bob\"}", "{"] {
        let answer = api.call_as(&token, "POST", "/transcribe", body).await;
        assert!(!format!("{answer:?}").contains(signature));
    }
    let keys =
        longhand_api::auth::settings::JwtKeys::Secret(crate::issuer::SECRET.parse().expect("any text"));
    assert_eq!(format!("{keys:?}"), "Secret(***)");
}

#[tokio::test]
async fn another_users_upload_is_not_transcribed() {
    let two = Two::new().await;
    let submit = async |token: &str, folder: &str| {
        let path = format!("s3://audio/uploads/{folder}/0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b/a.wav");
        two.submit(token, &json!({"audioChunkPaths": ["a.wav", path]})).await
    };
    for others in ["ana", "bobby", "", "=62ob"] {
        submit(&two.bob, others).await.assert_fault("#/audioChunkPaths/1", "is in another user's uploads");
    }
    submit(&two.bob, "bob").await.json(202);
    submit(&two.operator, "ana").await.json(202);
}
