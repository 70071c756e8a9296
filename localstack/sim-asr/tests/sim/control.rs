//! Control over HTTP.

use longhand_sim_asr::{Answer, Behaviour, Books, Schedule, Step};
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;

use crate::{client, form, start, status};

async fn control(
    sim: &longhand_sim_asr::SimAsr,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Response {
    let url = format!("{}{path}", sim.base_url());
    client().request(method, url).json(body).send().await.expect("an answer")
}

#[tokio::test]
async fn behaviour_schedule_and_scripts_are_set() {
    let sim = start(Behaviour::default()).await;
    let set = control(&sim, Method::PUT, "/_sim/behaviour", &Behaviour::answering(Answer::status(500))).await;
    assert_eq!(set.status(), StatusCode::NO_CONTENT);
    assert_eq!(status(&sim, form("a")).await, 500);

    let scripted = control(&sim, Method::PUT, "/_sim/script/a%2Fb.wav", &[Answer::status(418)]).await;
    assert_eq!(scripted.status(), StatusCode::NO_CONTENT);
    assert_eq!(status(&sim, form("a/b.wav")).await, 418);

    let schedule = Schedule(vec![
        Step::new(3_600_000, Behaviour::answering(Answer::Hang)),
        Step::new(0, Behaviour::answering(Answer::status(502))),
    ]);
    let set = control(&sim, Method::PUT, "/_sim/schedule", &schedule).await;
    assert_eq!(set.status(), StatusCode::NO_CONTENT);
    assert_eq!(status(&sim, form("a")).await, 502);
}

#[tokio::test]
async fn unknown_fields_of_a_behaviour_are_refused() {
    let sim = start(Behaviour::default()).await;
    let wrong = serde_json::json!({"latenzy": {"fixed": 1}});
    let refused = control(&sim, Method::PUT, "/_sim/behaviour", &wrong).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let part = serde_json::json!({"latency": {"fixed": 1}, "max_concurrent": 3});
    let set = control(&sim, Method::PUT, "/_sim/behaviour", &part).await;
    assert_eq!(set.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_books_can_be_read_and_reset() {
    let sim = start(Behaviour::default()).await;
    assert_eq!(status(&sim, form("a")).await, 200);
    let read = control(&sim, Method::GET, "/_sim/books", &()).await;
    let read: serde_json::Value = read.json().await.expect("books");
    let file = &read["per_file"]["a"];
    assert_eq!((&read["calls"], &read["by_status"]["200"], &file["ok"]), (&1.into(), &1.into(), &1.into()));
    assert!(file["arrived"][0].is_u64() && file["arrived"][1].is_null(), "{file}");

    let deleted = control(&sim, Method::DELETE, "/_sim/books", &()).await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(sim.books(), Books::default());
}

#[tokio::test]
async fn health_is_200_and_unknown_paths_are_404() {
    let sim = start(Behaviour::default()).await;
    assert_eq!(control(&sim, Method::GET, "/health", &()).await.status(), StatusCode::OK);
    let unknown = control(&sim, Method::GET, "/v1/chat/completions", &()).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}
