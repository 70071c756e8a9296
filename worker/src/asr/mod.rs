//! The client of the speech-to-text model: the `OpenAI`-compatible `POST /v1/audio/transcriptions`.
//!
//! One call is bounded in time, all calls together in number, and the tries for one chunk in count
//! and pauses. What an answer means is in [`answer`].

pub mod answer;
pub mod guard;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use longhand_shared::attempt::AttemptOutcome;
use longhand_shared::job::{ChunkError, ErrorCode, TranscribeOptions, Transcription};
use longhand_shared::secret::Secret;
use longhand_shared::{AudioPath, trace};
use rand::RngExt;
use reqwest::header::HeaderValue;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client, StatusCode, redirect};
use tokio_retry::RetryIf;
use tracing::{Instrument, Span, debug, field, info_span, warn};

use crate::audio::{Audio, AudioError, AudioStore};
use answer::Meaning;
use guard::{Called, Guard, Open};

/// The most that an answer may have, in bytes; what can be kept is less.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// The longest `Retry-After` that is waited out with the chunk in hand. A longer one sends the
/// message back to the queue for that long.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// How long the audio may take to open. Its bytes come during the call, and within its time; those from
/// the web come before, and within this time.
const AUDIO_TIMEOUT: Duration = Duration::from_secs(15);

/// How the model is called.
#[derive(Clone, Debug)]
pub struct AsrSettings {
    /// `ASR_BASE_URL`, without `/v1`.
    pub base_url: String,
    /// `ASR_API_KEY`.
    pub api_key: Option<Secret>,
    /// `ASR_MODEL`.
    pub model: String,
    /// `ASR_TIMEOUT_SECONDS`: one call, from the first byte sent to the last received.
    pub timeout: Duration,
    /// `ASR_MAX_RETRIES`: tries after the first.
    pub max_retries: usize,
    /// Calls in flight at once.
    pub max_concurrency: usize,
    /// The pause before the first retry; each further one is twice as long.
    pub first_pause: Duration,
}

/// Why there is no transcription.
#[derive(Clone, Debug, PartialEq)]
pub enum TranscribeError {
    /// The chunk is to blame, or its tries are used up: it fails with this.
    Permanent(ChunkError),
    /// The chunk is not to blame: what it needs is down or busy. Worth another try after `pause`.
    Transient {
        /// What was in the way: [`AttemptOutcome::Throttled`], [`AttemptOutcome::ModelDown`] or
        /// [`AttemptOutcome::AudioDown`].
        why: AttemptOutcome,
        /// The same, for people.
        message: String,
        /// How long it asked to be left alone.
        pause: Option<Duration>,
    },
}

/// Why one try gave nothing.
#[derive(Clone, Debug)]
enum Failure {
    /// The chunk fails with this.
    Permanent(ChunkError),
    /// The audio cannot be had for now.
    Audio(String),
    /// The circuit is open: no call was made.
    Circuit(Open),
    /// The model may do better at the next try.
    Again { error: ChunkError, down: bool, sign: Called, pause: Option<Duration> },
}

impl Failure {
    fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Permanent(_) | Self::Audio(_) | Self::Circuit(_) => false,
            Self::Again { pause, .. } => pause.is_none_or(|pause| pause <= LONGEST_PAUSE),
        }
    }
}

impl Failure {
    /// What comes of it once there are no more tries. While the circuit is open, the model has
    /// failed more than this chunk.
    fn last(self, circuit_is_open: bool) -> TranscribeError {
        use TranscribeError::{Permanent, Transient};
        // Who asks for a longer pause than is waited out here has not used up the chunk's tries.
        let put_off = !self.is_worth_a_retry();
        match self {
            Self::Again { error, down, sign, pause } if down || put_off || circuit_is_open => {
                let throttled = sign == Called::Throttled;
                let why = if throttled { AttemptOutcome::Throttled } else { AttemptOutcome::ModelDown };
                Transient { why, message: error.message, pause }
            }
            Self::Circuit(Open { pause }) => {
                let message = "the model is down".to_owned();
                Transient { why: AttemptOutcome::ModelDown, message, pause: Some(pause) }
            }
            Self::Permanent(error) | Self::Again { error, .. } => Permanent(error),
            Self::Audio(message) => Transient { why: AttemptOutcome::AudioDown, message, pause: None },
        }
    }
}

/// The client.
#[derive(Debug)]
pub struct Asr {
    http: Client,
    url: String,
    settings: AsrSettings,
    guard: Arc<Guard>,
    /// Whether the model has refused `verbose_json` once.
    plain_json: AtomicBool,
}

impl Asr {
    /// A client. Connections are kept and used again.
    pub fn new(settings: AsrSettings) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .connect_timeout(settings.timeout.min(Duration::from_secs(5)))
            // A redirect would send the audio, and the key, elsewhere.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            url: format!("{}/v1/audio/transcriptions", settings.base_url.trim_end_matches('/')),
            guard: Guard::new(settings.max_concurrency),
            plain_json: AtomicBool::new(false),
            settings,
        })
    }

    /// What protects the model from this worker.
    pub fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.guard)
    }

    /// Has one chunk transcribed: the first call and up to `max_retries` more. `calls` counts them, for
    /// one who stops waiting as well.
    pub async fn transcribe(
        &self,
        audio: &AudioStore,
        path: &AudioPath,
        options: &TranscribeOptions,
        traceparent: Option<&str>,
        calls: &AtomicU32,
    ) -> Result<Transcription, TranscribeError> {
        // What the model asked for in `Retry-After`, for the pause that follows.
        let asked = Mutex::new(None);
        let pauses = pauses(self.settings.first_pause).map(|pause| {
            let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).take();
            asked.map_or(pause, |asked: Duration| asked.max(pause))
        });
        let tries = || async {
            let answer = self.call(audio, path, options, traceparent, calls).await;
            if let Err(Failure::Again { error, pause, .. }) = &answer {
                warn!(code = ?error.code, error = error.message, "the model gave nothing");
                *asked.lock().unwrap_or_else(PoisonError::into_inner) = *pause;
            }
            answer
        };
        let answer =
            RetryIf::start(pauses.take(self.settings.max_retries), tries, Failure::is_worth_a_retry).await;
        answer.map_err(|failure| failure.last(!self.guard.is_closed()))
    }

    /// One try. A model that refuses `verbose_json` is asked again at once, for `json`.
    async fn call(
        &self,
        audio: &AudioStore,
        path: &AudioPath,
        options: &TranscribeOptions,
        traceparent: Option<&str>,
        calls: &AtomicU32,
    ) -> Result<Transcription, Failure> {
        loop {
            // Waiting for a place is no fault of the chunk's; it can do so in the queue.
            let entered = tokio::time::timeout(self.settings.timeout, self.guard.enter()).await;
            let mut leave =
                entered.unwrap_or(Err(Open { pause: Duration::ZERO })).map_err(Failure::Circuit)?;
            let opened = tokio::time::timeout(AUDIO_TIMEOUT, audio.open(path)).await;
            let opened = opened.unwrap_or_else(|_| {
                Err(AudioError::Unavailable(format!("{} did not open in time", path.shown())))
            });
            let opened = opened.map_err(|error| match error {
                AudioError::Bad(error) => Failure::Permanent(error),
                AudioError::Unavailable(message) => Failure::Audio(message),
            })?;
            leave.begin();
            calls.fetch_add(1, Ordering::Relaxed);
            let verbose = !self.plain_json.load(Ordering::Relaxed);
            let timeout = self.settings.timeout;
            let span = info_span!("asr call", otel.kind = "client", http.response.status_code = field::Empty);
            let once = self.call_once(opened, options, traceparent, verbose).instrument(span);
            let Ok(answer) = tokio::time::timeout(timeout, once).await else {
                let message = format!("the model did not answer within {} s", timeout.as_secs_f64());
                let error = ChunkError::new(ErrorCode::AsrTimeout, message);
                leave.ended(Called::Down);
                return Err(Failure::Again { error, down: false, sign: Called::Down, pause: None });
            };
            let meaning = answer?;
            leave.ended(match meaning {
                Meaning::Again { sign, .. } => sign,
                Meaning::Heard(_) => Called::Answered,
                Meaning::NoVerboseJson | Meaning::Permanent(_) => Called::Refused,
            });
            return match meaning {
                Meaning::Heard(transcription) => Ok(transcription),
                Meaning::NoVerboseJson => {
                    debug!("the model does not speak verbose_json: json from now on");
                    self.plain_json.store(true, Ordering::Relaxed);
                    continue;
                }
                Meaning::Permanent(error) => Err(Failure::Permanent(error)),
                Meaning::Again { error, down, sign, pause } => {
                    Err(Failure::Again { error, down, sign, pause })
                }
            };
        }
    }

    async fn call_once(
        &self,
        audio: Audio,
        options: &TranscribeOptions,
        traceparent: Option<&str>,
        verbose: bool,
    ) -> Result<Meaning, Failure> {
        let form = self.form(audio, options, verbose)?;
        let mut request = self.http.post(&self.url).multipart(form);
        if let Some(key) = &self.settings.api_key {
            request = request.bearer_auth(key.reveal());
        }
        let own = trace::current();
        // What came in a message need not be fit for a header.
        if let Some(traceparent) =
            own.as_deref().or(traceparent).and_then(|text| HeaderValue::from_str(text).ok())
        {
            request = request.header(trace::TRACEPARENT, traceparent);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(transport(&error)),
        };
        let status = response.status();
        Span::current().record("http.response.status_code", status.as_u16());
        let pause = answer::retry_after(response.headers(), SystemTime::now());
        match body(response).await {
            Ok(body) => Ok(answer::classify(status, pause, &body, verbose)),
            // The status says more than the connection's end.
            Err(_) if status != StatusCode::OK => Ok(answer::classify(status, pause, b"", verbose)),
            Err(meaning) => Ok(meaning),
        }
    }

    fn form(&self, audio: Audio, options: &TranscribeOptions, verbose: bool) -> Result<Form, Failure> {
        let file = Part::stream_with_length(Body::wrap_stream(audio.body), audio.bytes)
            .file_name(audio.name)
            .mime_str(audio.mime)
            .map_err(|error| Failure::Permanent(ChunkError::new(ErrorCode::Internal, error.to_string())))?;
        let mut form = Form::new()
            .part("file", file)
            .text("model", self.settings.model.clone())
            .text("response_format", if verbose { "verbose_json" } else { "json" })
            .text("temperature", "0");
        if let Some(language) = &options.language {
            form = form.text("language", language.primary());
        }
        if let Some(prompt) = &options.prompt {
            form = form.text("prompt", prompt.as_str().to_owned());
        }
        if verbose {
            form = form.text("timestamp_granularities[]", "segment");
        }
        Ok(form)
    }
}

/// From `first`, doubled each time, half of it at random: the gaps grow, and no two workers keep step.
fn pauses(first: Duration) -> impl Iterator<Item = Duration> {
    (0..).map(move |turn| {
        let longest = first.saturating_mul(2u32.saturating_pow(turn));
        longest.mul_f64(rand::rng().random_range(0.5..1.0)).min(LONGEST_PAUSE)
    })
}

/// A call that ended without an answer. One that found nobody there says that the model is down.
fn transport(error: &reqwest::Error) -> Meaning {
    let message = format!("the call to the model failed: {}", causes(error));
    Meaning::Again {
        error: ChunkError::new(ErrorCode::AsrUnavailable, message),
        down: error.is_connect(),
        sign: if error.is_connect() { Called::Down } else { Called::Failed },
        pause: None,
    }
}

/// An error with all that is behind it, but without the address it went to.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let outermost: &dyn std::error::Error = error;
    let chain = std::iter::successors(outermost.source(), |cause| cause.source());
    let causes: Vec<String> = chain.map(ToString::to_string).collect();
    if causes.is_empty() { "no cause given".to_owned() } else { causes.join(": ") }
}

/// The whole answer, up to [`MAX_ANSWER_BYTES`].
async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, Meaning> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| transport(&error))? {
        if body.len() + part.len() > MAX_ANSWER_BYTES {
            let message = format!("the model's answer has more than {MAX_ANSWER_BYTES} bytes");
            return Err(Meaning::Permanent(ChunkError::new(ErrorCode::AsrProtocol, message)));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}
