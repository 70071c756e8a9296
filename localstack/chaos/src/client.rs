//! A standard client behind nginx: it submits with an idempotency key, waits in one of three ways, and retries what
//! standard clients retry. Every other failure is a surprise: something that no client may see.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use longhand_sim_asr::text_for;
use parking_lot::Mutex;
use rand::RngExt;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client as Http, RequestBuilder, Response};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use crate::draw;
use crate::load::{Load, Submitted, prepare};
use crate::world::World;

/// The pause between polls, and before a retry without `Retry-After`.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest pause before a retry, even if the server asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The time limit of a request: longer than any may take.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The records of all clients.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Books {
    /// The number of requests, retries included.
    pub asked: u64,
    /// The number of retries by reason.
    pub again: BTreeMap<String, u64>,
    /// The number of event streams that ended before their job and were resumed.
    #[serde(rename = "streamsResumed")]
    pub resumed: u64,
    /// The number of jobs that were followed to their end.
    #[serde(skip)]
    pub done: u64,
    /// Answers that no standard client retries, and wrong ones.
    pub surprises: Vec<String>,
}

#[derive(Debug)]
pub struct Clients {
    http: Http,
    books: Mutex<Books>,
}

/// How a client waits for its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Poll,
    Wait,
    Follow,
}

/// A client stopped: after a surprise, which is recorded, or at its deadline.
struct GaveUp;

/// A complete answer.
struct Answer {
    headers: HeaderMap,
    body: Value,
}

impl Default for Clients {
    fn default() -> Self {
        let http = Http::builder().timeout(TIMEOUT).build().expect("a client");
        Self { http, books: Mutex::default() }
    }
}

impl Clients {
    pub fn books(&self) -> Books {
        self.books.lock().clone()
    }

    fn surprise(&self, what: String) -> GaveUp {
        self.books.lock().surprises.push(what);
        GaveUp
    }

    /// Submits all jobs and follows each to its end or to the load's deadline.
    pub async fn run(&self, world: &World, load: Load, submitted: &Submitted) {
        let began = Instant::now();
        let one = async |number: usize| {
            let mut rng = draw::rng(load.seed, &["job", &number.to_string()]);
            sleep_until(began + load.over.mul_f64(rng.random())).await;
            self.one(world, load, submitted, number).await;
        };
        join_all((0..load.jobs).map(one)).await;
    }

    /// Submits one job and follows it to its end. Failures are in the books.
    pub async fn one(&self, world: &World, load: Load, submitted: &Submitted, number: usize) {
        let (files, body) = prepare(world, load, submitted, number, 0).await;
        if self.job(world, load, submitted, number, &files, &body).await.is_ok() {
            self.books.lock().done += 1;
        }
    }

    async fn job(
        &self,
        world: &World,
        load: Load,
        submitted: &Submitted,
        number: usize,
        files: &[String],
        body: &Value,
    ) -> Result<(), GaveUp> {
        let base = world.fleet.apis().first().cloned().unwrap_or_default();
        let way = [Way::Poll, Way::Wait, Way::Follow][number % 3];
        let submit = || {
            *submitted.tries.lock() += 1;
            let request = self.http.post(format!("{base}/transcribe")).json(body);
            let request = request.header("idempotency-key", format!("{}-{number}", load.seed));
            if way == Way::Wait { request.header("prefer", "wait=5") } else { request }
        };
        let answer = self.call("a submit", load.until, &submit, &[200, 202]).await?;
        let id = text(&answer.body, "jobId").to_owned();
        submitted.accepted.lock().push(id.clone());
        let again = self.call("the same submit", load.until, &submit, &[200, 202]).await?;
        if text(&again.body, "jobId") != id || !again.headers.contains_key("idempotency-replayed") {
            return Err(self.surprise(format!("job {id} was submitted again and became {}", again.body)));
        }
        let url = format!("{base}/transcript/{id}");
        let end = match way {
            Way::Follow => self.follow(&url, load.until).await?,
            Way::Poll => self.wait(&url, load.until, "wait=0").await?,
            Way::Wait => self.wait(&url, load.until, "wait=20").await?,
        };
        let expected: Vec<String> = files.iter().map(|file| text_for(file)).collect();
        // The audit checks failed jobs.
        if text(&end, "jobStatus") == "COMPLETED" && text(&end, "transcription") != expected.join(" ") {
            return Err(self.surprise(format!("job {id} has a wrong transcript: {end}")));
        }
        Ok(())
    }

    /// Polls until the job has ended.
    async fn wait(&self, url: &str, until: Instant, prefer: &str) -> Result<Value, GaveUp> {
        loop {
            let get = || self.http.get(url).header("prefer", prefer);
            let answer = self.call("a read", until, &get, &[200]).await?;
            match text(&answer.body, "jobStatus") {
                "COMPLETED" | "FAILED" => return Ok(answer.body),
                "IN_PROGRESS" => sleep(PAUSE).await,
                _ => return Err(self.surprise(format!("{url} is not a job: {}", answer.body))),
            }
        }
    }

    /// Reads the job's events until it has ended. Resumes a dropped stream after the last event.
    async fn follow(&self, url: &str, until: Instant) -> Result<Value, GaveUp> {
        let mut last = String::new();
        loop {
            let get = || {
                let request = self.http.get(format!("{url}/events"));
                if last.is_empty() { request } else { request.header("last-event-id", &last) }
            };
            let mut stream = self.open("an event stream", until, &get, &[200]).await?;
            let (mut lines, mut first) = (String::new(), true);
            // An error is a dropped stream.
            while let Ok(Some(bytes)) = stream.chunk().await {
                lines.push_str(&String::from_utf8_lossy(&bytes));
                while let Some((event, rest)) = lines.split_once("\n\n") {
                    let field = |name: &str| {
                        event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
                    };
                    let (id, data) = (field("id:"), field("data:"));
                    if first && !id.is_empty() && id == last {
                        return Err(self.surprise(format!("{url} repeated the event {id}")));
                    }
                    if !id.is_empty() {
                        (last, first) = (id.to_owned(), false);
                    }
                    let data: Value = serde_json::from_str(data).unwrap_or_default();
                    if matches!(text(&data, "jobStatus"), "COMPLETED" | "FAILED") {
                        return Ok(data);
                    }
                    lines = rest.to_owned();
                }
            }
            self.books.lock().resumed += 1;
            sleep(PAUSE).await;
        }
    }

    /// Repeats the request until a `good` answer is complete. Its body must be JSON.
    async fn call(
        &self,
        what: &str,
        until: Instant,
        request: &impl Fn() -> RequestBuilder,
        good: &[u16],
    ) -> Result<Answer, GaveUp> {
        loop {
            let answer = self.open(what, until, request, good).await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let Ok(body) = answer.bytes().await else {
                self.pause("the answer was cut", None).await;
                continue;
            };
            let answer = serde_json::from_slice(&body).map(|body| Answer { headers, body });
            return answer.map_err(|error| {
                self.surprise(format!("{what} was answered {status} without JSON: {error}"))
            });
        }
    }

    /// Repeats the request until the status is `good`, or a surprise.
    async fn open(
        &self,
        what: &str,
        until: Instant,
        request: &impl Fn() -> RequestBuilder,
        good: &[u16],
    ) -> Result<Response, GaveUp> {
        while Instant::now() < until {
            self.books.lock().asked += 1;
            let answer = match request().send().await {
                Ok(answer) => answer,
                Err(error) => {
                    let why = match () {
                        () if error.is_connect() => "refused",
                        () if error.is_timeout() => "no answer in time",
                        () => "cut",
                    };
                    self.pause(why, None).await;
                    continue;
                }
            };
            let status = answer.status().as_u16();
            if good.contains(&status) {
                return Ok(answer);
            }
            let is_problem =
                answer.headers().get(CONTENT_TYPE).is_some_and(|it| it == "application/problem+json");
            if !(matches!(status, 429 | 502 | 503 | 504) && is_problem) {
                let body = answer.text().await.unwrap_or_default();
                return Err(self.surprise(format!("{what} was answered {status}: {body}")));
            }
            let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
            self.pause(&status.to_string(), after.map(Duration::from_secs)).await;
        }
        Err(GaveUp)
    }

    async fn pause(&self, why: &str, after: Option<Duration>) {
        *self.books.lock().again.entry(why.to_owned()).or_default() += 1;
        sleep(after.unwrap_or(PAUSE).min(LONGEST_PAUSE)).await;
    }
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    const PROBLEM: [(&str, &str); 1] = [("content-type", "application/problem+json")];

    /// Calls a server whose first answer is this one, and whose next is good. Returns whether the call succeeded.
    async fn asked(first: (StatusCode, [(&'static str, &'static str); 1], &'static str)) -> (bool, Books) {
        let calls = Arc::new(AtomicUsize::new(0));
        let answer = get(move || {
            let good = (StatusCode::OK, [("x-good", "yes")], "{}");
            let answer = if calls.fetch_add(1, Ordering::Relaxed) == 0 { first } else { good };
            async move { answer }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", answer)).await });
        let clients = Clients::default();
        let until = Instant::now() + TIMEOUT;
        let answer = clients.call("a read", until, &|| clients.http.get(&url), &[200]).await;
        (answer.is_ok(), clients.books())
    }

    #[tokio::test]
    async fn only_transient_problems_are_retried() {
        for status in [429, 502, 503, 504] {
            let status = StatusCode::from_u16(status).expect("a status");
            let (good, books) = asked((status, PROBLEM, "{}")).await;
            assert!(good && books.surprises.is_empty(), "{books:?}");
            assert_eq!(books.again, [(status.as_str().to_owned(), 1)].into());
        }
        for (status, headers, body, what) in [
            (StatusCode::INTERNAL_SERVER_ERROR, PROBLEM, "{}", "a read was answered 500"),
            (StatusCode::NOT_FOUND, PROBLEM, "{}", "a read was answered 404"),
            (StatusCode::BAD_GATEWAY, [("content-type", "text/html")], "<html>", "502: <html>"),
            (StatusCode::OK, PROBLEM, "half a do", "200 without JSON"),
        ] {
            let (good, books) = asked((status, headers, body)).await;
            assert!(!good && books.surprises.len() == 1 && books.surprises[0].contains(what), "{books:?}");
        }
    }
}
