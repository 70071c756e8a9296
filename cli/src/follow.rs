//! Follows a job until it ends: by its event stream, or by polling where the service has no streams.
//! Normally two requests suffice: one for the job with the names of its chunks, one for the stream.

use std::time::Duration;

use longhand_shared::JobId;
use longhand_shared::domain::job::JobStatus;
use longhand_shared::domain::transcript::TranscriptResult;
use tokio::time::Instant;

use crate::client::{Answer, CALL_TIMEOUT};
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::events::{ChunkEvent, Events, StreamEvent};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long to wait for the first answer of the service. After that only the user's own limit counts.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A stream without data for this long is dead: the service sends a comment every 15 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// The first event of a stream arrives at once, unless a proxy buffers the stream.
const FIRST_EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// When polling, how long each request waits for the end of the job. Changes appear with this delay at most.
const WAIT: Duration = Duration::from_secs(5);

/// What [`Follow::next`] reports.
pub(crate) enum Update {
    /// The job is in progress. It may be unchanged.
    InProgress(Box<TranscriptResult>),
    Ended(Box<Answer<TranscriptResult>>),
    /// Requests fail and are repeated: the message for the user. Reported once for each run of failures.
    Retrying(String),
}

/// Follows one job and retries after transient failures.
pub(crate) struct Follow<'a> {
    context: &'a Context,
    job: JobId,
    timeout: Duration,
    started: Instant,
    /// The pause before the next request; `None` before the first one.
    pause: Option<Duration>,
    retry_after_hint: Duration,
    failure: Option<Failure>,
    /// The last known state of the job.
    known: Option<Box<TranscriptResult>>,
    stream: Option<Events>,
    last_event: Option<String>,
    /// Whether the open stream has sent anything.
    stream_alive: bool,
    /// Whether the last stream ended before it sent anything.
    stream_was_silent: bool,
    /// Whether the service supports streams.
    streaming: bool,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(context: &'a Context, job: JobId, timeout: Duration) -> Self {
        Self {
            context,
            job,
            timeout,
            started: Instant::now(),
            pause: None,
            retry_after_hint: Duration::ZERO,
            failure: None,
            known: None,
            stream: None,
            last_event: None,
            stream_alive: false,
            stream_was_silent: false,
            streaming: true,
        }
    }

    /// The next update. Must not be called after [`Update::Ended`].
    pub(crate) async fn next(&mut self) -> Result<Update, Failure> {
        loop {
            if self.stream.is_some() {
                match self.read_stream().await {
                    Some(update) => return Ok(update),
                    None => continue,
                }
            }
            self.pause().await?;
            let use_stream = self.known.is_some() && self.streaming && !self.stream_was_silent;
            let result = if use_stream { self.open_stream().await } else { self.poll().await };
            match result {
                Ok(update) => {
                    (self.failure, self.retry_after_hint) = (None, Duration::ZERO);
                    self.context.jobs.add(self.job);
                    if let Some(update) = update {
                        return Ok(update);
                    }
                }
                Err(failure) => {
                    let Some(retry_after) = failure.retryable else { return Err(failure) };
                    self.retry_after_hint = retry_after.unwrap_or_default();
                    let line = self.failure.is_none().then(|| format!("{failure}; trying again"));
                    self.failure = Some(failure);
                    if let Some(line) = line {
                        return Ok(Update::Retrying(line));
                    }
                }
            }
        }
    }

    fn remaining(&self) -> Duration {
        self.timeout.saturating_sub(self.started.elapsed())
    }

    /// The time limit of one request: at least a second, even at the end of the user's limit.
    fn answer_timeout(&self) -> Duration {
        self.remaining().clamp(Duration::from_secs(1), CALL_TIMEOUT)
    }

    async fn poll(&mut self) -> Result<Option<Update>, Failure> {
        let wait = if self.known.is_some() { WAIT.min(self.remaining()) } else { Duration::ZERO };
        let limit = self.answer_timeout();
        let started = Instant::now();
        let answer = self.context.api.transcript(self.job, wait, wait + limit).await?;
        self.stream_was_silent = false;
        if self.known.is_none() {
            self.pause = Some(Duration::ZERO);
        } else if started.elapsed() >= LONGEST_PAUSE {
            // The service has waited. If it does not, the pauses between requests grow.
            self.pause = Some(FIRST_PAUSE);
        }
        if answer.value.job_status != JobStatus::InProgress {
            return Ok(Some(Update::Ended(Box::new(answer))));
        }
        let known = Box::new(answer.value);
        self.known = Some(known.clone());
        Ok(Some(Update::InProgress(known)))
    }

    /// Opens the stream after the last event that was read, or polls if that is not possible.
    async fn open_stream(&mut self) -> Result<Option<Update>, Failure> {
        match self.context.api.events(self.job, self.last_event.as_deref(), self.answer_timeout()).await {
            Ok(Some(answer)) => {
                (self.stream, self.stream_alive) = (Some(Events::new(answer)), false);
                Ok(None)
            }
            // There is no stream, or no unread event in it.
            Ok(None) => {
                self.streaming = false;
                self.poll().await
            }
            Err(failure) if failure.status.is_none() => Err(failure),
            Err(failure) => {
                // A server with too many streams, or one that is stopping, may offer streams later.
                self.streaming = failure.retryable.is_some();
                self.poll().await
            }
        }
    }

    /// Reads one event. `None` if it changes nothing or the stream has ended.
    async fn read_stream(&mut self) -> Option<Update> {
        let limit = if self.stream_alive { IDLE_TIMEOUT } else { FIRST_EVENT_TIMEOUT };
        let limit = limit.min(self.remaining());
        let stream = self.stream.as_mut()?;
        let event = stream.next(limit).await;
        if let Some(id) = stream.last_id() {
            self.last_event = Some(id.to_owned());
        }
        let known = self.known.as_mut()?;
        match event {
            StreamEvent::Chunk(ChunkEvent { index, chunk_status, running }) if index < known.chunks.len() => {
                (self.stream_alive, self.pause) = (true, Some(FIRST_PAUSE));
                known.chunks[index].chunk_status = chunk_status;
                known.chunks[index].history = running.into_iter().collect();
                return Some(Update::InProgress(known.clone()));
            }
            StreamEvent::Ended(raw, value) if value.job_id == self.job => {
                return Some(Update::Ended(Box::new(Answer { raw, value: *value })));
            }
            StreamEvent::Alive => {
                self.stream_alive = true;
                return None;
            }
            StreamEvent::Disconnected => {
                self.retry_after_hint = stream.retry().unwrap_or_default().min(LONGEST_PAUSE);
                self.stream_was_silent = !self.stream_alive;
            }
            // A stream without a first event is buffered by a proxy.
            StreamEvent::TimedOut => self.streaming = self.stream_alive,
            StreamEvent::Invalid | StreamEvent::Chunk(_) | StreamEvent::Ended(..) => {
                self.streaming = false;
            }
        }
        self.stream = None;
        None
    }

    /// Waits before the next request. Fails at the end of the time limit.
    async fn pause(&mut self) -> Result<(), Failure> {
        let Some(pause) = self.pause else {
            self.pause = Some(FIRST_PAUSE);
            return Ok(());
        };
        let seen = self.context.jobs.all().contains(&self.job);
        let limit = if seen { self.timeout } else { self.timeout.min(FIRST_ANSWER_TIMEOUT) };
        let left = limit.saturating_sub(self.started.elapsed());
        if left.is_zero() {
            return Err(match self.failure.take() {
                // It is unknown whether the job exists.
                Some(failure) if !seen => failure,
                failure => self.gave_up(failure),
            });
        }
        let next = pause.mul_f64(rand::random_range(0.8..1.2)).max(self.retry_after_hint);
        tokio::time::sleep(next.min(left)).await;
        self.pause = Some(pause.mul_f64(1.25).clamp(FIRST_PAUSE, LONGEST_PAUSE));
        Ok(())
    }

    fn gave_up(&self, failure: Option<Failure>) -> Failure {
        let job = self.job;
        let mut message = format!(
            "stopped waiting after {:.0} s; job {job} continues. Get the transcript with: {}",
            self.started.elapsed().as_secs_f64(),
            self.context.get_command(&self.context.jobs_with(job))
        );
        if let Some(failure) = failure {
            message = format!("{message} (last error: {})", failure.message);
        }
        Failure::new(Exit::GaveUp, "GAVE_UP", message).of_job(job)
    }
}
