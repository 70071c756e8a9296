//! The service's HTTP API, as this command uses it.

use std::time::Duration;

use longhand_shared::job::{JobStatus, TranscribeOptions};
use longhand_shared::secret::Secret;
use longhand_shared::transcript::TranscriptResult;
use longhand_shared::upload::{Upload, Uploads};
use longhand_shared::{JobId, Timestamp, UserId};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::{Exit, Failure, Fault, RetryAfter, chain};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// One call, from the first byte to the last. The service answers in milliseconds.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A stream that is older is opened anew.
const LONGEST_STREAM: Duration = Duration::from_hours(24);

/// The service.
pub(crate) struct Api {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret>,
}

/// What the service answered, as it came and as it is understood here.
pub(crate) struct Answer<T> {
    pub(crate) raw: String,
    pub(crate) value: T,
}

/// A transcript as captions.
pub(crate) struct Captions {
    pub(crate) text: String,
    /// Whether all times are measured.
    pub(crate) times_exact: bool,
}

/// The body of `POST /transcribe`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewTranscription<'a> {
    pub(crate) user_id: &'a UserId,
    pub(crate) audio_chunk_paths: &'a [String],
    #[serde(flatten)]
    pub(crate) options: TranscribeOptions,
}

/// The body of `POST /uploads`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewUploads<'a> {
    pub(crate) user_id: &'a UserId,
    pub(crate) files: Vec<NewUpload>,
}

/// A file that is to be uploaded.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewUpload {
    pub(crate) name: String,
    pub(crate) content_type: &'static str,
    pub(crate) bytes: u64,
}

/// What matters here of the answer to `POST /transcribe`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Submitted {
    pub(crate) job_id: JobId,
}

/// The parameters of `GET /transcript/search`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Query {
    pub(crate) user_id: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job_status: Option<JobStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) submitted_after: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) submitted_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

/// One page of `GET /transcript/search`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page {
    pub(crate) results: Vec<TranscriptResult>,
    pub(crate) next_cursor: Option<String>,
}

/// An error as RFC 9457 has it. What is missing is made up for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    errors: Vec<ProblemFault>,
}

#[derive(Deserialize)]
struct ProblemFault {
    pointer: Option<String>,
    detail: String,
}

impl Api {
    pub(crate) fn new(base: Url, token: Option<Secret>) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .build()
            .map_err(|error| Failure::new(Exit::Unavailable, "INTERNAL", chain(&error)))?;
        Ok(Self { http, base, token })
    }

    /// Whether anybody is there, whatever is answered.
    pub(crate) async fn reach(&self) -> Result<(), Failure> {
        let request = self.http.get(self.at(&["healthz"]));
        request.send().await.map(drop).map_err(|error| self.unreachable(error))
    }

    /// A page of text that somebody serves: the service itself, a worker, the simulated model.
    pub(crate) async fn page(&self, base: &Url, path: &[&str]) -> Result<String, String> {
        let get = async || self.http.get(join(base, path)).send().await?.error_for_status()?.text().await;
        get().await.map_err(|error| chain(&error))
    }

    /// `POST /transcribe`. Without an idempotency key a second time might make a second job.
    pub(crate) async fn submit(
        &self,
        new: &NewTranscription<'_>,
        key: Option<Uuid>,
    ) -> Result<Answer<Submitted>, Failure> {
        let request = self.http.post(self.at(&["transcribe"])).json(new);
        self.call(match key {
            Some(key) => request.header("idempotency-key", key.to_string()),
            None => request,
        })
        .await
    }

    /// `POST /uploads`.
    pub(crate) async fn uploads(&self, new: &NewUploads<'_>) -> Result<Uploads, Failure> {
        Ok(self.call(self.http.post(self.at(&["uploads"])).json(new)).await?.value)
    }

    /// Sends a file where `POST /uploads` said.
    pub(crate) async fn put(
        &self,
        upload: &Upload,
        file: Vec<u8>,
        patience: Duration,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let request = self.http.put(&upload.url).timeout(patience).body(file);
        upload.headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send().await
    }

    /// `GET /transcript/{jobId}`, which must answer within `patience`. The service is asked to wait so long for the end.
    pub(crate) async fn transcript(
        &self,
        job: JobId,
        wait: Duration,
        patience: Duration,
    ) -> Result<Answer<TranscriptResult>, Failure> {
        let mut request = self.http.get(self.at(&["transcript", &job.to_string()])).timeout(patience);
        if wait.as_secs() > 0 {
            request = request.header("prefer", format!("wait={}", wait.as_secs()));
        }
        self.call(request).await.map_err(|failure| self.about(job, failure))
    }

    /// `GET /transcript/{jobId}/events`, from where it was last read. None where there is no such stream, or nothing
    /// in it that was not read. It must begin within `patience`.
    pub(crate) async fn events(
        &self,
        job: JobId,
        last_event: Option<&str>,
        patience: Duration,
    ) -> Result<Option<reqwest::Response>, Failure> {
        let request = self.http.get(self.at(&["transcript", &job.to_string(), "events"]));
        // Whoever listens says how long.
        let mut request = request.header(ACCEPT, "text/event-stream").timeout(LONGEST_STREAM);
        if let Some(id) = last_event {
            request = request.header("last-event-id", id);
        }
        let answer = timeout(patience, self.authorized(request).send()).await.map_err(|_| {
            let message = format!("the service at {} does not answer in time", self.base);
            Failure::new(Exit::Unavailable, "TIMEOUT", message).passing(None)
        })?;
        let answer = answer.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        if !status.is_success() {
            let retry_after = retry_after(answer.headers());
            let said = timeout(patience, answer.text()).await.ok().and_then(Result::ok).unwrap_or_default();
            return Err(self.about(job, self.refusal(status, retry_after, &said)));
        }
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_stream = status == StatusCode::OK && kind.starts_with("text/event-stream");
        Ok(is_stream.then_some(answer))
    }

    /// `GET /transcript/{jobId}` as `media_type`.
    pub(crate) async fn captions(&self, job: JobId, media_type: &str) -> Result<Captions, Failure> {
        let request = self.http.get(self.at(&["transcript", &job.to_string()])).header(ACCEPT, media_type);
        let (headers, text) = self.send(request).await.map_err(|failure| self.about(job, failure))?;
        let times_exact = headers.get("longhand-times-exact").is_none_or(|value| value != "false");
        Ok(Captions { text, times_exact })
    }

    /// `POST /transcript/{jobId}/retry`.
    pub(crate) async fn retry(&self, job: JobId) -> Result<Answer<TranscriptResult>, Failure> {
        let request = self.http.post(self.at(&["transcript", &job.to_string(), "retry"]));
        self.call(request).await.map_err(|failure| self.about(job, failure))
    }

    /// `DELETE /transcript/{jobId}`.
    pub(crate) async fn delete(&self, job: JobId) -> Result<(), Failure> {
        let request = self.http.delete(self.at(&["transcript", &job.to_string()]));
        self.send(request).await.map(drop).map_err(|failure| self.about(job, failure))
    }

    /// What failed in a call about a job.
    fn about(&self, job: JobId, mut failure: Failure) -> Failure {
        if failure.status == Some(StatusCode::NOT_FOUND.as_u16()) {
            failure.exit = Exit::NoSuchJob;
            failure.message = format!("there is no job {job} at {}", self.base);
        }
        failure.of_job(job)
    }

    /// `GET /transcript/search`.
    pub(crate) async fn search(&self, query: &Query) -> Result<Answer<Page>, Failure> {
        self.call(self.http.get(self.at(&["transcript", "search"])).query(query)).await
    }

    /// Where the service is.
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
            Err(error) => Err(Failure::new(
                Exit::Unavailable,
                "PROTOCOL",
                format!("{} does not answer as Longhand does: {error}", self.base),
            )),
        }
    }

    /// The token goes with these calls alone, not with [`Api::page`], which asks others too.
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
            ("BROKEN_OFF", "broke off")
        };
        let message = format!("the service at {} {what}: {}", self.base, chain(&error.without_url()));
        Failure::new(Exit::Unavailable, code, message).passing(None)
    }

    fn refusal(&self, status: StatusCode, retry_after: RetryAfter, body: &str) -> Failure {
        let problem: Problem = serde_json::from_str(body).unwrap_or_default();
        // 501 stays: the service cannot do it here, as it cannot stream through a gateway.
        let passing = (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        let exit = if status.is_client_error() && !passing { Exit::Refused } else { Exit::Unavailable };
        let verb = if exit == Exit::Refused { "refused" } else { "failed" };
        let mut message = format!("the service at {} {verb} ({status})", self.base);
        if let Some(said) = problem.detail.or(problem.title) {
            message = format!("{message}: {said}");
        }
        if status == StatusCode::UNAUTHORIZED {
            message = format!("{message} (set LONGHAND_TOKEN, or give --token-file)");
        }
        let code = problem.code.unwrap_or_else(|| format!("HTTP_{}", status.as_u16()));
        let faults = problem.errors.into_iter().map(|fault| Fault {
            pointer: fault.pointer,
            detail: fault.detail,
            ..Fault::default()
        });
        let mut failure = Failure::new(exit, code, message).with_faults(faults.collect());
        failure.status = Some(status.as_u16());
        if passing { failure.passing(retry_after) } else { failure }
    }
}

fn join(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(path);
    url
}

/// Seconds only: the service sends no dates.
fn retry_after(headers: &HeaderMap) -> RetryAfter {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
