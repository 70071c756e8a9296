//! The audio of chunks, and the tickets that it is played with.

use axum::body::Body;
use axum::http::Request;
use longhand_shared::domain::job::{Metadata, NewJob, TranscribeOptions};
use longhand_shared::store::JobStore;
use longhand_shared::{JobId, Timestamp};
use serde_json::{Value, json};

use crate::issuer::{api_by_secret, claims, token_by_secret};
use crate::support::{Answer, Api};

/// A job that was submitted when this path was allowed.
async fn stored(api: &Api, path: &str) -> JobId {
    let (user, paths) = ("ana".parse().expect("a user"), vec![path.parse().expect("a path")]);
    let new = NewJob::new(user, paths, TranscribeOptions::default(), Metadata::new(), Timestamp::now());
    let new = new.expect("a job");
    api.store.create(&new, Timestamp::now()).await.expect("a store in memory");
    new.id
}

struct World {
    api: Api,
    ana: String,
    bob: String,
    job: String,
}

impl World {
    /// A job of Ana's with audio of each kind.
    async fn new() -> Self {
        let api = api_by_secret();
        let token = |user: &str| token_by_secret(&claims(user));
        let (ana, bob) = (token("ana"), token("bob"));
        let paths = json!(["a.wav", "s3://audio/a b.wav", "https://good.example/a.wav?sig=1", "missing.wav"]);
        let body = json!({"audioChunkPaths": paths}).to_string();
        let job = api.call_as(&ana, "POST", "/transcribe", &body).await.json(202);
        let job = job["jobId"].as_str().expect("text").to_owned();
        Self { api, ana, bob, job }
    }

    fn audio(&self, index: &str) -> String {
        format!("/transcript/{}/audio/{index}", self.job)
    }

    async fn get(&self, index: &str) -> Answer {
        self.api.call_as(&self.ana, "GET", &self.audio(index), "").await
    }

    async fn ticket(&self, purpose: &str) -> String {
        let path = format!("/transcript/{}/tickets", self.job);
        let body = json!({"purpose": purpose}).to_string();
        let ticket = self.api.call_as(&self.ana, "POST", &path, &body).await.json(200);
        ticket["ticket"].as_str().expect("text").to_owned()
    }

    async fn ranged(&self, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(self.audio("0")).header("authorization", &self.ana);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.api.send(request.body(Body::empty()).expect("a request")).await
    }
}

#[tokio::test]
async fn local_audio_is_sent_in_ranges() {
    let world = World::new().await;
    let whole = world.get("0").await;
    assert_eq!((whole.status.as_u16(), whole.text()), (200, "RIFF"));
    assert_eq!(whole.header("content-length"), "4");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("cache-control"), "private, no-cache");
    let tag = whole.header("etag");

    let part = world.ranged(&[("range", "bytes=1-2")]).await;
    assert_eq!((part.status.as_u16(), part.text()), (206, "IF"));
    assert_eq!(part.header("content-range"), "bytes 1-2/4");
    let rest = world.ranged(&[("range", "bytes=2-"), ("if-range", tag)]).await;
    assert_eq!((rest.status.as_u16(), rest.text()), (206, "FF"));
    // The client has a part of another file.
    let other = world.ranged(&[("range", "bytes=2-"), ("if-range", "\"other\"")]).await;
    assert_eq!((other.status.as_u16(), other.text()), (200, "RIFF"));
    let behind = world.ranged(&[("range", "bytes=4-")]).await;
    behind.problem(416, "RANGE_NOT_SATISFIABLE");
    assert_eq!(behind.header("content-range"), "bytes */4");
}

#[tokio::test]
async fn audio_elsewhere_is_a_redirect() {
    let world = World::new().await;
    let signed = world.get("1").await;
    assert_eq!(signed.status, 307);
    let address = signed.header("location");
    assert!(address.starts_with("https://audio.s3.us-east-1.amazonaws.com/a%20b.wav?"), "{address}");
    assert!(address.contains("X-Amz-Signature=") && address.contains("X-Amz-Expires=900"), "{address}");
    assert_eq!(signed.header("cache-control"), "no-store");
    let web = world.get("2").await;
    assert_eq!((web.status.as_u16(), web.header("location")), (307, "https://good.example/a.wav?sig=1"));
}

#[tokio::test]
async fn audio_that_cannot_be_played_says_why() {
    let world = World::new().await;
    for (index, status, code, reason) in [
        ("3", 404, "AUDIO_UNAVAILABLE", "there is no readable file at its path"),
        ("4", 404, "AUDIO_UNAVAILABLE", "the job has no such chunk"),
        ("24", 400, "INVALID_REQUEST", "must be the index of a chunk, from 0 to 23"),
        ("x", 400, "INVALID_REQUEST", "must be the index of a chunk, from 0 to 23"),
        ("0?tickets=1", 400, "INVALID_REQUEST", "is unknown"),
    ] {
        let problem = world.get(index).await.problem(status, code);
        assert!(problem["detail"].as_str().expect("text").contains(reason), "{index}: {problem}");
    }
}

#[tokio::test]
async fn audio_that_is_no_longer_allowed_is_not_played() {
    // Jobs from when this server read these places.
    let api = Api::new();
    for (path, reason) in [
        ("s3://other/a.wav", "this service is not configured to read"),
        ("https://bad.example/a.wav", "its path"),
        ("link.wav", "outside the audio root"),
    ] {
        let job = stored(&api, path).await;
        let problem = api.get(&format!("/transcript/{job}/audio/0")).await.problem(404, "AUDIO_UNAVAILABLE");
        assert!(problem["detail"].as_str().expect("text").contains(reason), "{path}: {problem}");
    }
}

#[tokio::test]
async fn a_ticket_stands_for_one_purpose_of_one_job() {
    let world = World::new().await;
    let ticket = world.ticket("audio").await;
    let with = async |path: String, ticket: &str| world.api.get(&format!("{path}?ticket={ticket}")).await;
    assert_eq!(with(world.audio("0"), &ticket).await.text(), "RIFF");
    assert_eq!(with(world.audio("1"), &ticket).await.status, 307);

    let events = format!("/transcript/{}/events", world.job);
    let other = format!("/transcript/{}/audio/0", JobId::random());
    let bobs = ticket.replacen("YW5h", "Ym9i", 1);
    for (what, path, ticket) in [
        ("other purpose", events, ticket.clone()),
        ("other job", other, ticket.clone()),
        ("tampered", world.audio("0"), bobs),
        ("empty", world.audio("0"), String::new()),
    ] {
        let answer = with(path, &ticket).await;
        let problem = answer.problem(401, "UNAUTHORIZED");
        assert!(answer.header("www-authenticate").contains("invalid_token"), "{what}");
        let detail = "the ticket is not valid for this job and purpose, or another server issued it: request a new one";
        assert_eq!(problem["detail"], detail, "{what}");
    }
    // It is a credential, and only for these two calls.
    let both =
        world.api.call_as(&world.ana, "GET", &format!("{}?ticket={ticket}", world.audio("0")), "").await;
    assert!(both.problem(401, "UNAUTHORIZED")["detail"].as_str().expect("text").contains("more than one"));
    let job = format!("/transcript/{}", world.job);
    with(job, &ticket).await.problem(401, "UNAUTHORIZED");
    let bad = with("/transcript/x/audio/0".to_owned(), &ticket).await;
    bad.problem(400, "INVALID_JOB_ID");
}

#[tokio::test]
async fn a_ticket_for_events_opens_the_stream() {
    let world = World::new().await;
    let ticket = world.ticket("events").await;
    let erase = async |token: &str| {
        let path = format!("/transcript/{}", world.job);
        world.api.call_as(token, "DELETE", &path, "").await
    };
    // The stream stays open while the job is in progress, so this looks at its headers only.
    let request = Request::get(format!("/transcript/{}/events?ticket={ticket}", world.job));
    let request = request.body(Body::empty()).expect("a request");
    let response = tower::ServiceExt::oneshot(world.api.router.clone(), request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(erase(&world.ana).await.status, 204);
}

#[tokio::test]
async fn tickets_are_for_those_who_may_see_the_job() {
    let world = World::new().await;
    let path = format!("/transcript/{}/tickets", world.job);
    let audio = json!({"purpose": "audio"}).to_string();
    world.api.call_as(&world.bob, "POST", &path, &audio).await.problem(404, "JOB_NOT_FOUND");
    world.api.call_as(&world.bob, "GET", &world.audio("0"), "").await.problem(404, "JOB_NOT_FOUND");
    world.api.call("POST", &path).await.problem(401, "UNAUTHORIZED");
    for (body, pointer, detail) in [
        (json!({}), "#/purpose", "is required"),
        (json!({"purpose": "Audio"}), "#/purpose", "must be events or audio"),
        (json!({"purpose": 1}), "#/purpose", "must be a string"),
        (json!({"purpose": "audio", "chunk": 1}), "#/chunk", "is unknown"),
    ] {
        let answer = world.api.call_as(&world.ana, "POST", &path, &body.to_string()).await;
        answer.assert_fault(pointer, detail);
    }
}

#[tokio::test]
async fn the_audio_of_an_erased_job_is_gone() {
    let world = World::new().await;
    let ticket = world.ticket("audio").await;
    // Also if a cache still has the job.
    assert_eq!(world.get("0").await.status, 200);
    let id: JobId = world.job.parse().expect("an id");
    assert!(world.api.store.erase(id).await.expect("a store in memory"));
    world.get("0").await.problem(404, "JOB_NOT_FOUND");
    let path = format!("{}?ticket={ticket}", world.audio("0"));
    world.api.get(&path).await.problem(404, "JOB_NOT_FOUND");
    let tickets = format!("/transcript/{}/tickets", world.job);
    let body = Value::from_iter([("purpose", "audio")]).to_string();
    world.api.call_as(&world.ana, "POST", &tickets, &body).await.problem(404, "JOB_NOT_FOUND");
}
