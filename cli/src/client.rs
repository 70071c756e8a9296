//! A client of the service's HTTP API.

use std::time::Duration;

use longhand_shared::JobId;
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::domain::upload::{Upload, Uploads};
use longhand_shared::service::secret::Secret;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Body, RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::bodies::{NewTranscription, NewUploads, Page, Query, Segments, Submitted};
use crate::error::{Exit, Failure, Fault, RetryAfter, chain};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The time limit of one call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// An older stream is opened again.
const LONGEST_STREAM: Duration = Duration::from_hours(24);

pub(crate) struct Api {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret>,
}

/// An answer of the service, as text and parsed.
pub(crate) struct Answer<T> {
    pub(crate) raw: String,
    pub(crate) value: T,
}

/// How captions are laid out, as parameters of the request. Those that are `None` or false are left out.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Layout {
    /// The longest line, in characters.
    pub(crate) max_line_chars: Option<u32>,
    /// Whether long captions are split between words.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) split: bool,
}

/// A transcript in another format than JSON.
pub(crate) struct Form {
    pub(crate) text: String,
    /// Whether no time is estimated.
    pub(crate) times_exact: bool,
}

/// An error (RFC 9457). Every field may be missing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    errors: Vec<Fault>,
}

impl Api {
    pub(crate) fn new(base: Url, token: Option<Secret>) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .build()
            .map_err(|error| Failure::internal(chain(&error)))?;
        Ok(Self { http, base, token })
    }

    /// Fails if the service cannot be reached. Any answer counts.
    pub(crate) async fn reach(&self) -> Result<(), Failure> {
        let request = self.http.get(self.at(&["healthz"]));
        request.send().await.map(drop).map_err(|error| self.unreachable(error))
    }

    /// Gets a text from the service, a worker or the simulated model, without the token.
    pub(crate) async fn page(&self, base: &Url, path: &[&str]) -> Result<String, String> {
        let get = async || self.http.get(join(base, path)).send().await?.error_for_status()?.text().await;
        get().await.map_err(|error| chain(&error))
    }

    /// `POST /transcribe`. Without an idempotency key a second call can create a second job.
    pub(crate) async fn submit(
        &self,
        new: &NewTranscription<'_>,
        key: Option<&str>,
    ) -> Result<Answer<Submitted>, Failure> {
        let request = self.http.post(self.at(&["transcribe"])).json(new);
        self.call(match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        })
        .await
    }

    /// `POST /uploads`.
    pub(crate) async fn uploads(&self, new: &NewUploads<'_>) -> Result<Uploads, Failure> {
        Ok(self.call(self.http.post(self.at(&["uploads"])).json(new)).await?.value)
    }

    /// Sends a file to an address from `POST /uploads`.
    pub(crate) async fn put(
        &self,
        upload: &Upload,
        file: impl Into<Body>,
        limit: Duration,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let request = self.http.put(&upload.url).timeout(limit).body(file);
        upload.headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send().await
    }

    /// `GET /transcript/{jobId}`, which must answer within `limit`. With `wait`, the service waits that long for the
    /// end of the job.
    pub(crate) async fn transcript(
        &self,
        job: JobId,
        wait: Duration,
        limit: Duration,
    ) -> Result<Answer<TranscriptResult>, Failure> {
        let mut request = self.http.get(self.at(&["transcript", &job.to_string()])).timeout(limit);
        if wait.as_secs() > 0 {
            request = request.header("prefer", format!("wait={}", wait.as_secs()));
        }
        self.call(request).await.map_err(|failure| self.about(job, failure))
    }

    /// `GET /transcript/{jobId}/events`, after `last_event`. `None` if there is no stream, or no unread event in it.
    /// The stream must begin within `limit`.
    pub(crate) async fn events(
        &self,
        job: JobId,
        last_event: Option<&str>,
        limit: Duration,
    ) -> Result<Option<reqwest::Response>, Failure> {
        let request = self.http.get(self.at(&["transcript", &job.to_string(), "events"]));
        // The reader of the stream has its own timeouts.
        let mut request = request.header(ACCEPT, "text/event-stream").timeout(LONGEST_STREAM);
        if let Some(id) = last_event {
            request = request.header("last-event-id", id);
        }
        let answer = timeout(limit, self.authorized(request).send()).await.map_err(|_| {
            let message = format!("the service at {} does not answer in time", self.base);
            Failure::new(Exit::Unavailable, "TIMEOUT", message).retryable(None)
        })?;
        let answer = answer.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        if !status.is_success() {
            let retry_after = retry_after(answer.headers());
            let body = timeout(limit, answer.text()).await.ok().and_then(Result::ok).unwrap_or_default();
            return Err(self.about(job, self.refusal(status, retry_after, &body)));
        }
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_stream = status == StatusCode::OK && kind.starts_with("text/event-stream");
        Ok(is_stream.then_some(answer))
    }

    /// `GET /transcript/{jobId}` as `media_type`.
    pub(crate) async fn form(&self, job: JobId, media_type: &str, layout: Layout) -> Result<Form, Failure> {
        let request = self.http.get(self.at(&["transcript", &job.to_string()]));
        let request = request.header(ACCEPT, media_type).query(&layout);
        let (headers, text) = self.send(request).await.map_err(|failure| self.about(job, failure))?;
        let times_exact = headers.get("longhand-times-exact").is_none_or(|value| value != "false");
        Ok(Form { text, times_exact })
    }

    /// `GET /transcript/{jobId}` with its segments and, with `words`, their words.
    pub(crate) async fn segments(&self, job: JobId, words: bool) -> Result<Answer<Segments>, Failure> {
        let mut request =
            self.http.get(self.at(&["transcript", &job.to_string()])).query(&[("segments", "true")]);
        if words {
            request = request.query(&[("words", "true")]);
        }
        self.call(request).await.map_err(|failure| self.about(job, failure))
    }

    /// `POST /transcript/{jobId}/retry`.
    pub(crate) async fn retry(&self, job: JobId) -> Result<Answer<TranscriptResult>, Failure> {
        let request = self.http.post(self.at(&["transcript", &job.to_string(), "retry"]));
        self.call(request).await.map_err(|failure| self.about(job, failure))
    }

    /// `DELETE /transcript/{jobId}`.
    pub(crate) async fn delete(&self, job: JobId, audio: bool) -> Result<(), Failure> {
        let mut request = self.http.delete(self.at(&["transcript", &job.to_string()]));
        if audio {
            request = request.query(&[("audio", "true")]);
        }
        self.send(request).await.map(drop).map_err(|failure| self.about(job, failure))
    }

    /// Adds the job to a failure, and recognises a job that does not exist.
    fn about(&self, job: JobId, mut failure: Failure) -> Failure {
        if failure.status == Some(StatusCode::NOT_FOUND.as_u16()) {
            failure.exit = Exit::NoSuchJob;
            failure.message = format!(
                "job {job} is not at {}: it does not exist, was erased, has expired, or belongs to another user",
                self.base
            );
        }
        failure.of_job(job)
    }

    /// `GET /transcript/search`.
    pub(crate) async fn search(&self, query: &Query) -> Result<Answer<Page>, Failure> {
        self.call(self.http.get(self.at(&["transcript", "search"])).query(query)).await
    }

    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    fn at(&self, path: &[&str]) -> Url {
        join(&self.base, path)
    }

    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Answer<T>, Failure> {
        let (_, raw) = self.send(request).await?;
        match serde_json::from_str(&raw) {
            Ok(value) => Ok(Answer { raw, value }),
            Err(error) => {
                Err(Failure::protocol(format!("{} does not answer as Longhand does: {error}", self.base)))
            }
        }
    }

    /// Adds the token. [`Api::page`] does not, since it also calls other servers.
    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<(HeaderMap, String), Failure> {
        let answer = self.authorized(request).send().await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        let headers = answer.headers().clone();
        let raw = answer.text().await.map_err(|error| self.unreachable(error))?;
        if !status.is_success() {
            return Err(self.refusal(status, retry_after(&headers), &raw));
        }
        Ok((headers, raw))
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let (code, what) = if error.is_timeout() && !error.is_connect() {
            ("TIMEOUT", "does not answer in time")
        } else if error.is_connect() {
            ("UNREACHABLE", "cannot be reached")
        } else {
            ("BROKEN_OFF", "closed the connection")
        };
        let message = format!("the service at {} {what}: {}", self.base, chain(&error.without_url()));
        Failure::new(Exit::Unavailable, code, message).retryable(None)
    }

    fn refusal(&self, status: StatusCode, retry_after: RetryAfter, body: &str) -> Failure {
        let problem: Problem = serde_json::from_str(body).unwrap_or_default();
        // A 501 is permanent: the service cannot do this here. 0.1.0 sends it behind API Gateway.
        let retryable = (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        let exit = if status.is_client_error() && !retryable { Exit::Refused } else { Exit::Unavailable };
        let what = match status {
            StatusCode::TOO_MANY_REQUESTS => "limits requests",
            StatusCode::REQUEST_TIMEOUT => "timed out on the request",
            StatusCode::NOT_IMPLEMENTED => "does not support the request",
            StatusCode::NOT_ACCEPTABLE => "cannot return the answer",
            _ if exit == Exit::Refused => "rejected the request",
            _ => "failed on the request",
        };
        let mut message = format!("the service at {} {what} ({status})", self.base);
        // With faults, the detail repeats the first one with its JSON pointer. All are printed below the message.
        if let Some(detail) = problem.detail.or(problem.title).filter(|_| problem.errors.is_empty()) {
            message = format!("{message}: {detail}");
        }
        if status == StatusCode::UNAUTHORIZED {
            let hint = match self.token {
                Some(_) => "the token is from LONGHAND_TOKEN or --token-file",
                None => "set LONGHAND_TOKEN, or give --token-file",
            };
            message = format!("{message} ({hint})");
        }
        let code = problem.code.unwrap_or_else(|| format!("HTTP_{}", status.as_u16()));
        let mut failure = Failure::new(exit, code, message).with_faults(problem.errors);
        failure.status = Some(status.as_u16());
        if retryable { failure.retryable(retry_after) } else { failure }
    }
}

fn join(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(path);
    url
}

/// In seconds: the service sends no dates.
fn retry_after(headers: &HeaderMap) -> RetryAfter {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
