//! Following a job until it has ended: by its stream of events, or where there is none by asking again and again.
//! Two requests do when all goes well: how the job stands, with the names of its chunks, and the stream.

use std::time::Duration;

use longhand_shared::JobId;
use longhand_shared::job::JobStatus;
use longhand_shared::transcript::TranscriptResult;
use tokio::time::Instant;

use crate::Context;
use crate::client::{Answer, CALL_TIMEOUT};
use crate::error::{Exit, Failure};
use crate::events::{Events, Heard};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a service that has never answered may stay silent. Later on only the user's own limit
/// counts: the job is there, and outages pass.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// A stream that has said nothing for so long is dead: the service shows every 15 s that it lives.
const SILENCE: Duration = Duration::from_secs(45);

/// The first words of a stream come at once. If they do not, something between keeps them back.
const FIRST_WORDS: Duration = Duration::from_secs(10);

/// Where there are no streams, how long the service is asked to wait for the end: changes are shown as late as this.
const WAIT: Duration = Duration::from_secs(5);

/// What is heard of a job.
pub(crate) enum News {
    /// How it stands. It may stand as it did before.
    Stands(Box<TranscriptResult>),
    /// It has ended so.
    Ended(Box<Answer<TranscriptResult>>),
    /// Nothing for now: a line that says why. Told once for each run of failures.
    Trouble(String),
}

/// A job that is followed, through failures that pass.
pub(crate) struct Follow<'a> {
    context: &'a Context,
    job: JobId,
    timeout: Duration,
    began: Instant,
    /// Until the service is asked again; none before the first time.
    pause: Option<Duration>,
    hint: Duration,
    trouble: Option<Failure>,
    /// How the job stands, as far as it was heard.
    known: Option<Box<TranscriptResult>>,
    stream: Option<Events>,
    last_event: Option<String>,
    /// Whether the stream that is open has said anything.
    lives: bool,
    /// Whether the last stream was cut before it said anything.
    mute: bool,
    /// Whether there are streams here.
    streams: bool,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(context: &'a Context, job: JobId, timeout: Duration) -> Self {
        Self {
            context,
            job,
            timeout,
            began: Instant::now(),
            pause: None,
            hint: Duration::ZERO,
            trouble: None,
            known: None,
            stream: None,
            last_event: None,
            lives: false,
            mute: false,
            streams: true,
        }
    }

    /// The next news. Not to be asked for after the job has ended.
    pub(crate) async fn next(&mut self) -> Result<News, Failure> {
        loop {
            if self.stream.is_some() {
                match self.listen().await {
                    Some(news) => return Ok(news),
                    None => continue,
                }
            }
            self.pause().await?;
            let listen = self.known.is_some() && self.streams && !self.mute;
            let asked = if listen { self.open().await } else { self.look().await };
            match asked {
                Ok(news) => {
                    (self.trouble, self.hint) = (None, Duration::ZERO);
                    let _ = self.context.job.set(self.job);
                    if let Some(news) = news {
                        return Ok(news);
                    }
                }
                Err(failure) => {
                    let Some(retry_after) = failure.passing else { return Err(failure) };
                    self.hint = retry_after.unwrap_or_default();
                    let line = self.trouble.is_none().then(|| format!("{failure}; trying again"));
                    self.trouble = Some(failure);
                    if let Some(line) = line {
                        return Ok(News::Trouble(line));
                    }
                }
            }
        }
    }

    fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.began.elapsed())
    }

    /// How long an answer may take. The last one gets a moment too.
    fn patience(&self) -> Duration {
        self.left().clamp(Duration::from_secs(1), CALL_TIMEOUT)
    }

    /// Asks how the job stands.
    async fn look(&mut self) -> Result<Option<News>, Failure> {
        let wait = if self.known.is_some() { WAIT.min(self.left()) } else { Duration::ZERO };
        let patience = self.patience();
        let asked = Instant::now();
        let answer = self.context.api.transcript(self.job, wait, wait + patience).await?;
        self.mute = false;
        if self.known.is_none() {
            self.pause = Some(Duration::ZERO);
        } else if asked.elapsed() >= LONGEST_PAUSE {
            // It has waited; a service that does not is asked ever less often.
            self.pause = Some(FIRST_PAUSE);
        }
        if answer.value.job_status != JobStatus::InProgress {
            return Ok(Some(News::Ended(Box::new(answer))));
        }
        let known = Box::new(answer.value);
        self.known = Some(known.clone());
        Ok(Some(News::Stands(known)))
    }

    /// Opens the stream, from where it was last read; looks where that cannot be.
    async fn open(&mut self) -> Result<Option<News>, Failure> {
        match self.context.api.events(self.job, self.last_event.as_deref(), self.patience()).await {
            Ok(Some(answer)) => {
                (self.stream, self.lives) = (Some(Events::new(answer)), false);
                Ok(None)
            }
            // There is no stream, or nothing in it that was not read.
            Ok(None) => {
                self.streams = false;
                self.look().await
            }
            Err(failure) if failure.status.is_none() => Err(failure),
            Err(failure) => {
                // One that has too many, or is going down, may have one later.
                self.streams = failure.passing.is_some() && failure.status != Some(501);
                self.look().await
            }
        }
    }

    /// Listens to the stream that is open; none when it is no more, or tells nothing new.
    async fn listen(&mut self) -> Option<News> {
        let limit = if self.lives { SILENCE } else { FIRST_WORDS };
        let patience = limit.min(self.left());
        let stream = self.stream.as_mut()?;
        let heard = stream.next(patience).await;
        if let Some(id) = stream.last_id() {
            self.last_event = Some(id.to_owned());
        }
        let known = self.known.as_mut()?;
        match heard {
            Heard::Chunk { index, status } if index < known.chunks.len() => {
                (self.lives, self.pause) = (true, Some(FIRST_PAUSE));
                known.chunks[index].chunk_status = status;
                return Some(News::Stands(known.clone()));
            }
            Heard::Ended(raw, value) if value.job_id == self.job => {
                return Some(News::Ended(Box::new(Answer { raw, value: *value })));
            }
            Heard::Life => {
                self.lives = true;
                return None;
            }
            Heard::Cut => {
                self.hint = stream.retry().unwrap_or_default().min(LONGEST_PAUSE);
                self.mute = !self.lives;
            }
            // What says nothing from the beginning is kept back by something in between.
            Heard::Silence => self.streams = self.lives,
            Heard::Nonsense | Heard::Chunk { .. } | Heard::Ended(..) => self.streams = false,
        }
        self.stream = None;
        None
    }

    /// Waits before the service is asked again, or gives up.
    async fn pause(&mut self) -> Result<(), Failure> {
        let Some(pause) = self.pause else {
            self.pause = Some(FIRST_PAUSE);
            return Ok(());
        };
        let seen = self.context.job.get().is_some();
        let limit = if seen { self.timeout } else { self.timeout.min(FIRST_ANSWER) };
        let left = limit.saturating_sub(self.began.elapsed());
        if left.is_zero() {
            return Err(match self.trouble.take() {
                // Whether there is such a job was never learnt.
                Some(failure) if !seen => failure,
                trouble => self.gave_up(trouble),
            });
        }
        let next = pause.mul_f64(rand::random_range(0.8..1.2)).max(self.hint);
        tokio::time::sleep(next.min(left)).await;
        self.pause = Some(pause.mul_f64(1.25).clamp(FIRST_PAUSE, LONGEST_PAUSE));
        Ok(())
    }

    fn gave_up(&self, trouble: Option<Failure>) -> Failure {
        let job = self.job;
        let mut message = format!(
            "gave up waiting after {:.0} s; job {job} goes on. Get it with: {}",
            self.began.elapsed().as_secs_f64(),
            self.context.how_to_get(job)
        );
        if let Some(trouble) = trouble {
            message = format!("{message} (the last time it was asked for: {})", trouble.message);
        }
        Failure::new(Exit::GaveUp, "GAVE_UP", message).of_job(job)
    }
}
