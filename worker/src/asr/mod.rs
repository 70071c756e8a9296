//! The client of the speech-to-text model: the `OpenAI`-compatible `POST /v1/audio/transcriptions`.
//!
//! `call.rs` makes one call. This file makes a bounded number of calls for one chunk, with backoff, by the rules in
//! [`crate::failure`].

pub mod answer;
mod call;
mod entry;
mod format;
pub mod guard;
mod language;
mod lenient;
mod limit;
pub mod probe;
mod segments;
mod settings;
mod warnings;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use longhand_shared::domain::job::{ChunkError, ErrorCode, Timestamps, TranscribeOptions, Transcription};
use longhand_shared::net::backoff::backoff;
use longhand_shared::queue::Progress;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::audio::{AudioError, ChunkAudio};
use crate::failure::{Failure, MAX_OUTAGES, Next, Signal};
use crate::slots::HeldSlot;
use answer::CallError;
use call::Client;
use format::Form;
use guard::{Guard, Open, Permit, Verdict};
use settings::LONGEST_PAUSE;

pub use settings::AsrSettings;

/// Why there is no transcription.
#[derive(Clone, Debug, PartialEq)]
pub enum TranscribeError {
    /// The chunk fails with this error.
    Failed(ChunkError),
    /// A newer attempt has claimed the chunk.
    Superseded,
    /// The message returns to the queue.
    GivenBack {
        failure: Failure,
        /// The chunk's error if it has returned too often.
        error: ChunkError,
        /// The minimum delay.
        pause: Option<Duration>,
        /// The chunk's progress, for the message.
        progress: Progress,
    },
}

/// One delivery of a chunk, to be transcribed.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "a closure has nothing to show")]
pub struct ChunkRequest<'a> {
    pub audio: &'a ChunkAudio<'a>,
    pub options: &'a TranscribeOptions,
    pub traceparent: Option<&'a str>,
    /// The progress of earlier deliveries.
    pub progress: Progress,
    /// Whether the message was never requeued.
    pub first_delivery: bool,
    /// The message's slot, which is released while the chunk waits.
    pub slot: &'a HeldSlot,
    /// Counts the calls. The caller reads it if it cancels the request.
    pub calls: &'a AtomicU32,
    /// Receives each counted failure that is followed by a retry.
    pub failed: &'a watch::Sender<Option<FailedCall>>,
    /// Whether this attempt still holds the claim. Checked before each call but the first.
    pub still_ours: &'a (dyn Fn() -> BoxFuture<'a, bool> + Send + Sync),
}

/// A failed call that is followed by a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedCall {
    pub code: ErrorCode,
    /// The number of calls so far.
    pub calls: u32,
    /// The maximum number of calls.
    pub most: u32,
}

/// The counts of one delivery.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    calls: u32,
    counted: u32,
    server_errors: u32,
    throttled: bool,
    /// The time of the latest failure that the model may have caused.
    suspected: Option<Instant>,
}

/// The longest pause before a chunk's last chance.
const LAST_CHANCE_SPREAD: Duration = Duration::from_mins(2);

/// The client and its guard.
#[derive(Debug)]
pub struct Asr {
    client: Client,
    settings: AsrSettings,
    guard: Arc<Guard>,
    known: format::Known,
    /// Held while a chunk that fails at the next outage is sent.
    last_chance: Semaphore,
}

impl Asr {
    pub fn new(settings: AsrSettings) -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: Client::new(&settings)?,
            guard: Guard::new(settings.max_concurrency, settings.probe.is_some()),
            known: format::Known::default(),
            last_chance: Semaphore::new(1),
            settings,
        })
    }

    pub fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.guard)
    }

    /// Probes the model. Never ends.
    pub async fn keep_probing(&self) {
        match &self.settings.probe {
            Some(recording) => self.guard.run(|| self.client.probe(recording).boxed()).await,
            None => std::future::pending().await,
        }
    }

    /// Transcribes a chunk with one call and up to `max_retries` retries.
    pub async fn transcribe(&self, request: &ChunkRequest<'_>) -> Result<Transcription, TranscribeError> {
        let mut pauses = backoff(self.settings.first_pause, LONGEST_PAUSE);
        let mut tally = Tally::default();
        let _last_chance = self.check_first(request).await?;
        loop {
            let error = match self.attempt(request, &mut tally).await {
                Ok(transcription) => return Ok(transcription),
                Err(error) if error.failure == Failure::LeaseLost => return Err(TranscribeError::Superseded),
                Err(error) => error,
            };
            let rule = error.failure.rule();
            // A waiting chunk gives its slot to another message. If the model has too many calls, it keeps the slot, so
            // that the worker receives fewer messages.
            if rule.signal != Signal::Busy {
                request.slot.park();
            }
            let pause = pauses.next().unwrap_or_default().max(error.pause.unwrap_or_default());
            let tries_left =
                request.progress.tries.saturating_add(tally.counted) <= self.settings.max_retries;
            let again = rule.next == Next::Retry && tally.calls <= self.settings.max_retries;
            if !(again && tries_left && pause <= LONGEST_PAUSE) {
                return Err(self.give_up(request, error, tally).await);
            }
            if rule.counts {
                let (calls, most) = (tally.calls, self.settings.max_retries.saturating_add(1));
                request.failed.send_replace(Some(FailedCall { code: error.error.code, calls, most }));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// A chunk that was in flight at the start of an outage is only sent to a working model. So only a new outage, which it
    /// may have caused, counts against it. A chunk that fails at the next outage is sent only if no other such chunk is in
    /// flight. They return at the same time, so otherwise the chunk that causes the outages would make the others fail.
    async fn check_first(
        &self,
        request: &ChunkRequest<'_>,
    ) -> Result<Option<SemaphorePermit<'_>>, TranscribeError> {
        let progress = request.progress;
        if progress.outages == 0 || self.settings.probe.is_none() {
            return Ok(None);
        }
        request.slot.park();
        let back = |CallError { failure, error, pause, .. }| {
            Err(TranscribeError::GivenBack { failure, error, pause, progress })
        };
        let mut alone = None;
        if progress.outages >= MAX_OUTAGES - 1 {
            // Its message waits in the queue. In hand it could hold a slot that the other chunk needs.
            alone = self.last_chance.try_acquire().ok();
            if alone.is_none() {
                return back(CallError { pause: Some(last_chance_pause()), ..no_permit() });
            }
        }
        match self.guard.probe_now().await {
            Verdict::Healthy => Ok(alone),
            Verdict::Down(open) => back(circuit_open(open)),
        }
    }

    /// One try. If the model may have refused the form of the call, it is called again at once with another form.
    async fn attempt(
        &self,
        request: &ChunkRequest<'_>,
        tally: &mut Tally,
    ) -> Result<Transcription, CallError> {
        let verbose = self.known.asks_verbose();
        let options = request.options;
        let first = Form {
            verbose,
            words: verbose && options.timestamps == Timestamps::Word,
            language: language::of(options).is_some() && !options.translate,
        };
        // Some servers answer 500 to an unknown form or language.
        let mut form = Form {
            verbose: first.verbose && tally.server_errors < 2,
            words: first.words && tally.server_errors < 2,
            language: first.language && tally.server_errors < 3,
        };
        loop {
            let error = match self.one_call(request, tally, form).await {
                Ok(transcription) => {
                    self.known.succeeded(form, first);
                    return Ok(transcription);
                }
                Err(error) => error,
            };
            tally.note(&error);
            match form.after_refusal(&error) {
                Some(other) if tally.calls <= self.settings.max_retries => form = other,
                _ => return Err(error),
            }
        }
    }

    async fn one_call(
        &self,
        request: &ChunkRequest<'_>,
        tally: &mut Tally,
        form: Form,
    ) -> Result<Transcription, CallError> {
        let mut permit = self.permit(request.slot).await?;
        if tally.calls > 0 && !(request.still_ours)().await {
            return Err(CallError::new(Failure::LeaseLost, "a newer attempt has claimed the chunk"));
        }
        let audio = request.audio.open().await?;
        permit.begin();
        tally.calls += 1;
        request.calls.fetch_add(1, Ordering::Relaxed);
        let stated = audio.length;
        let answer = self.client.transcribe(audio, request.options, request.traceparent, form).await;
        let answer = answer.map(|transcription| warnings::add(transcription, stated, request.options));
        if let Err(error) = &answer {
            warn!(
                failure = ?error.failure,
                error = error.error.message,
                answer = answer::quote(&error.answer),
                "the call of the model failed"
            );
        }
        let first = request.first_delivery && !tally.throttled;
        permit.ended(answer.as_ref().map(|_| ()).map_err(|error| error.failure), first);
        answer
    }

    /// Waits for a slot if the message is parked, and for a permit.
    async fn permit(&self, slot: &HeldSlot) -> Result<Permit<'_>, CallError> {
        tokio::select! {
            biased;
            opened = self.guard.opened() => return Err(circuit_open(opened)),
            () = slot.unpark() => {}
        }
        // If no permit is free in time, for example since the limit was cut, the message returns to the queue.
        let permit = timeout(self.settings.timeout, self.guard.permit()).await;
        permit.map_err(|_| no_permit())?.map_err(circuit_open)
    }

    /// The result of a delivery after its last call.
    async fn give_up(&self, request: &ChunkRequest<'_>, error: CallError, tally: Tally) -> TranscribeError {
        let rule = error.failure.rule();
        let mut progress = request.progress;
        let fails = match (rule.next, tally.suspected) {
            (Next::Fail | Next::Retry, Some(suspected)) => match self.guard.verdict(suspected).await {
                Verdict::Healthy => true,
                Verdict::Down(open) => return given_back_in_outage(progress, error, open),
            },
            (Next::Fail | Next::Retry, None) => true,
            (Next::GiveBack(_) | Next::Redeliver, _) => false,
        };
        if fails {
            progress.tries = progress.tries.saturating_add(tally.counted);
            if rule.next == Next::Fail || progress.tries > self.settings.max_retries {
                return TranscribeError::Failed(error.error);
            }
        } else if error.failure == Failure::CircuitOpen && tally.calls > 0 {
            return given_back_in_outage(progress, error, Open { pause: Duration::ZERO });
        }
        TranscribeError::GivenBack {
            failure: error.failure,
            error: error.error,
            pause: error.pause,
            progress,
        }
    }
}

/// Random, so that chunks of several workers rarely have their last chance at the same time.
fn last_chance_pause() -> Duration {
    LAST_CHANCE_SPREAD.mul_f64(rand::random())
}

fn no_permit() -> CallError {
    CallError::new(Failure::NoPermit, "no call was permitted in time: the model is at its concurrency limit")
}

fn circuit_open(Open { pause }: Open) -> CallError {
    CallError { pause: Some(pause), ..CallError::new(Failure::CircuitOpen, "the model is down") }
}

/// The model went down while the chunk was in flight. This is counted, since the chunk may be the cause.
fn given_back_in_outage(mut progress: Progress, error: CallError, open: Open) -> TranscribeError {
    progress.outages = progress.outages.saturating_add(1);
    if progress.outages >= MAX_OUTAGES {
        let message = format!(
            "the model went down {MAX_OUTAGES} times while it transcribed this chunk: {}",
            error.error.message
        );
        return TranscribeError::Failed(ChunkError::new(ErrorCode::AsrUnavailable, message));
    }
    let mut pause = error.pause.unwrap_or_default().max(open.pause);
    if progress.outages >= MAX_OUTAGES - 1 {
        pause += last_chance_pause();
    }
    TranscribeError::GivenBack {
        failure: Failure::CircuitOpen,
        error: error.error,
        pause: Some(pause),
        progress,
    }
}

impl Tally {
    fn note(&mut self, error: &CallError) {
        let rule = error.failure.rule();
        self.counted += u32::from(rule.counts);
        self.server_errors += u32::from(error.failure == Failure::ServerError);
        self.throttled |= rule.signal == Signal::Busy;
        if rule.signal == Signal::Suspect {
            self.suspected = Some(Instant::now());
        }
    }
}

impl From<AudioError> for CallError {
    fn from(error: AudioError) -> Self {
        match error {
            AudioError::Bad(error) => Self { error, ..Self::new(Failure::BadAudio, "") },
            AudioError::NotYet(error) => Self { error, ..Self::new(Failure::AudioNotYet, "") },
            AudioError::Unavailable(message) => Self::new(Failure::AudioUnavailable, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Open = Open { pause: Duration::ZERO };

    /// The pauses of 20 chunks that return to the queue after so many outages.
    fn pauses(outages: u32) -> std::collections::BTreeSet<Duration> {
        let again = |_| {
            let before = Progress { outages: outages - 1, ..Progress::default() };
            match given_back_in_outage(before, circuit_open(OPEN), OPEN) {
                TranscribeError::GivenBack { pause, .. } => pause.expect("a pause"),
                other => panic!("{other:?}"),
            }
        };
        (0..20).map(again).collect()
    }

    #[test]
    fn only_before_their_last_chance_are_chunks_spread_in_time() {
        assert_eq!(pauses(1).len(), 1);
        let spread = pauses(MAX_OUTAGES - 1);
        assert!(spread.len() > 10, "{spread:?}");
        assert!(spread.iter().all(|pause| *pause <= LAST_CHANCE_SPREAD), "{spread:?}");
    }

    #[test]
    fn the_last_outage_has_one_code_whatever_call_failed() {
        let before = Progress { outages: MAX_OUTAGES - 1, ..Progress::default() };
        let ended = given_back_in_outage(before, CallError::new(Failure::Timeout, "no answer"), OPEN);
        assert!(matches!(ended, TranscribeError::Failed(error) if error.code == ErrorCode::AsrUnavailable));
    }
}
