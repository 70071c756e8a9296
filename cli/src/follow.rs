//! Following a job until it has ended. The service is asked again and again here and nowhere else: its
//! stream of events can take the place of [`Follow::next`] without anybody noticing.

use std::time::Duration;

use longhand_shared::JobId;
use longhand_shared::transcript::TranscriptResult;
use tokio::time::Instant;

use crate::Context;
use crate::client::{Answer, CALL_TIMEOUT};
use crate::error::{Exit, Failure};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a service that has never answered may stay silent. Later on only the user's own limit
/// counts: the job is there, and outages pass.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// What is heard of a job.
pub(crate) enum News {
    /// How it stands. It may stand as it did before.
    Stands(Box<Answer<TranscriptResult>>),
    /// Nothing for now: a line that says why. Told once for each run of failures.
    Trouble(String),
}

/// A job that is followed, through failures that pass.
pub(crate) struct Follow<'a> {
    context: &'a Context,
    job: JobId,
    timeout: Duration,
    began: Instant,
    /// Until it is asked for again; none before the first time.
    pause: Option<Duration>,
    hint: Duration,
    trouble: Option<Failure>,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(context: &'a Context, job: JobId, timeout: Duration) -> Self {
        let (began, hint) = (Instant::now(), Duration::ZERO);
        Self { context, job, timeout, began, pause: None, hint, trouble: None }
    }

    /// The next news. Not to be asked for after the job has ended.
    pub(crate) async fn next(&mut self) -> Result<News, Failure> {
        loop {
            self.pause().await?;
            let left = self.timeout.saturating_sub(self.began.elapsed());
            // The last look gets a moment too.
            let patience = left.clamp(Duration::from_secs(1), CALL_TIMEOUT);
            match self.context.api.transcript(self.job, patience).await {
                Ok(answer) => {
                    (self.trouble, self.hint) = (None, Duration::ZERO);
                    let _ = self.context.job.set(self.job);
                    return Ok(News::Stands(Box::new(answer)));
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

    /// Waits before the job is asked for again, or gives up.
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
        self.pause = Some(pause.mul_f64(1.25).min(LONGEST_PAUSE));
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
