//! Listing a user's jobs, page by page.

use std::time::Duration;

use longhand_shared::Timestamp;
use longhand_shared::domain::job::{Metadata, NewJob, TranscribeOptions};
use longhand_shared::store::JobStore;
use serde_json::Value;

use crate::support::{Answer, Api};

/// Makes a job that was submitted `second` seconds after 1970, and returns its id.
async fn job(api: &Api, user: &str, second: u32) -> String {
    let submitted = Timestamp::from_unix(second);
    let user = user.parse().expect("a user");
    let paths = vec!["a.wav".parse().expect("a path")];
    let job = NewJob::new(user, paths, TranscribeOptions::default(), Metadata::new(), submitted);
    let job = job.expect("one chunk");
    api.store.create(&job, submitted.plus(Duration::from_secs(30))).await.expect("a store in memory");
    job.id.to_string()
}

fn ids(page: &Value) -> Vec<&str> {
    let results = page["results"].as_array().expect("results").iter();
    results.map(|result| result["jobId"].as_str().expect("text")).collect()
}

async fn search(api: &Api, limit: usize, cursor: Option<&str>) -> Answer {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    api.get(&format!("/transcript/search?userId=ana&jobStatus=IN_PROGRESS&limit={limit}{cursor}")).await
}

#[tokio::test]
async fn three_pages_newest_first() {
    let api = Api::new();
    let mut jobs = Vec::new();
    for second in [3, 1, 5, 2, 4] {
        jobs.push((second, job(&api, "ana", second).await));
        job(&api, "bob", second).await;
    }
    jobs.sort();
    jobs.reverse();
    let newest_first: Vec<&str> = jobs.iter().map(|(_, id)| id.as_str()).collect();

    let first = search(&api, 2, None).await.json(200);
    assert_eq!(ids(&first), newest_first[..2]);
    let second = search(&api, 2, first["nextCursor"].as_str()).await.json(200);
    assert_eq!(ids(&second), newest_first[2..4]);
    // A job that is made in between is on no later page.
    job(&api, "ana", 9).await;
    let third = search(&api, 2, second["nextCursor"].as_str()).await.json(200);
    assert_eq!(ids(&third), newest_first[4..]);
    assert_eq!(third["nextCursor"], Value::Null);
    let cursor = first["nextCursor"].as_str().expect("a cursor");
    assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{cursor}");
}

#[tokio::test]
async fn a_full_last_page_is_the_last() {
    let api = Api::new();
    for second in 0..4 {
        job(&api, "ana", second).await;
    }
    let first = search(&api, 2, None).await.json(200);
    let second = search(&api, 2, first["nextCursor"].as_str()).await.json(200);
    assert_eq!((ids(&second).len(), &second["nextCursor"]), (2, &Value::Null));
}

#[tokio::test]
async fn a_page_has_20_results_and_at_most_100() {
    let api = Api::new();
    for second in 0..101 {
        job(&api, "ana", second).await;
    }
    let page = api.get("/transcript/search?userId=ana&jobStatus=IN_PROGRESS").await.json(200);
    assert_eq!(ids(&page).len(), 20);
    assert_eq!(ids(&search(&api, 100, None).await.json(200)).len(), 100);
}

#[tokio::test]
async fn a_user_without_jobs_has_no_results() {
    let page = Api::new().get("/transcript/search?userId=a%2Bb%40c&jobStatus=COMPLETED").await.json(200);
    assert_eq!(page, serde_json::json!({"results": [], "nextCursor": null}));
}

#[tokio::test]
async fn all_statuses_and_a_stretch_of_time() {
    let api = Api::new();
    let mut jobs = Vec::new();
    for second in [10, 20, 30, 40] {
        jobs.push(job(&api, "ana", second).await);
    }
    let all = api.get("/transcript/search?userId=ana").await.json(200);
    assert_eq!(ids(&all), [&jobs[3], &jobs[2], &jobs[1], &jobs[0]]);
    let time = |second| Timestamp::from_unix(second).to_string();
    let query = format!("userId=ana&submittedAfter={}&submittedBefore={}", time(20), time(40));
    let some = api.get(&format!("/transcript/search?{query}&limit=1")).await.json(200);
    assert_eq!(ids(&some), [&jobs[2]]);
    let cursor = some["nextCursor"].as_str().expect("a next page");
    let rest = api.get(&format!("/transcript/search?{query}&cursor={cursor}")).await.json(200);
    assert_eq!((ids(&rest), &rest["nextCursor"]), (vec![jobs[1].as_str()], &Value::Null));
    let none = format!("userId=ana&submittedAfter={}&submittedBefore={}", time(40), time(20));
    assert_eq!(ids(&api.get(&format!("/transcript/search?{none}")).await.json(200)), [""; 0]);
}

#[tokio::test]
async fn pages_are_bounded_in_bytes_and_nothing_is_left_out() {
    let api = Api::new();
    let mut made = Vec::new();
    for second in 0..150 {
        let metadata = (0..16).map(|n| (format!("{n:02}{}", "k".repeat(500)), "v".repeat(512)));
        let (user, submitted) = ("ana".parse().expect("a user"), Timestamp::from_unix(second));
        let paths = vec!["a.wav".parse().expect("a path")];
        let options = TranscribeOptions::default();
        let job = NewJob::new(user, paths, options, metadata.collect(), submitted).expect("one chunk");
        api.store.create(&job, submitted).await.expect("a store in memory");
        made.insert(0, job.id.to_string());
    }
    for query in ["userId=ana&limit=100", "userId=ana&limit=100&fields=summary"] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let answer = api.get(&format!("/transcript/search?{query}{cursor}")).await;
            let page = answer.json(200);
            assert!(answer.body.len() < 2_500_000, "{} bytes", answer.body.len());
            seen.extend(ids(&page).into_iter().map(str::to_owned));
            let Some(next) = page["nextCursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, made, "{query}");
    }
}

#[tokio::test]
async fn a_summary_has_no_texts_and_reads_no_chunks() {
    let api = Api::new();
    let id = job(&api, "ana", 1).await;
    let before = api.store.reads();
    let page = api.get("/transcript/search?userId=ana&fields=summary").await.json(200);
    assert_eq!(api.store.reads(), before);
    let submitted = Timestamp::from_unix(1);
    let expected = serde_json::json!({"jobId": id, "userId": "ana", "jobStatus": "IN_PROGRESS",
        "submittedTime": submitted, "completedTime": null, "chunkCount": 1});
    assert_eq!(page["results"], serde_json::json!([expected]));
}
