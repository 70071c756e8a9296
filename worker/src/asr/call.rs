//! One call of the model.

use std::time::{Duration, SystemTime};

use longhand_shared::domain::job::{TranscribeOptions, Transcription};
use longhand_shared::net::{causes, model};
use longhand_shared::service::trace;
use reqwest::header::HeaderValue;
use reqwest::multipart::{Form as Multipart, Part};
use reqwest::{Body, RequestBuilder, StatusCode, redirect};
use tokio::time::timeout;
use tracing::{Instrument, Span, field, info_span};

use super::answer::{self, CallError};
use super::format::Form;
use super::guard::ProbeError;
use super::language;
use super::probe::Recording;
use super::settings::AsrSettings;
use crate::audio::Audio;
use crate::failure::Failure;

/// The maximum size of a response, in bytes. A transcription must be smaller.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// The end of the path for a translation to English.
const TRANSLATIONS: &str = "translations";

#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    translations: String,
    settings: AsrSettings,
}

impl Client {
    pub(super) fn new(settings: &AsrSettings) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(settings.timeout.min(Duration::from_secs(5)))
            // A redirect would send the audio and the API key to another server.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let url = format!("{}{}", model::server(&settings.base_url), model::TRANSCRIPTIONS);
        Ok(Self {
            http,
            translations: url.trim_end_matches("transcriptions").to_owned() + TRANSLATIONS,
            url,
            settings: settings.clone(),
        })
    }

    /// Sends one chunk.
    pub(super) async fn transcribe(
        &self,
        audio: Audio,
        options: &TranscribeOptions,
        traceparent: Option<&str>,
        form: Form,
    ) -> Result<Transcription, CallError> {
        let span = info_span!("asr call", otel.kind = "client", http.response.status_code = field::Empty);
        let sent = async {
            let url = if options.translate { &self.translations } else { &self.url };
            let mut request = self.http.post(url).multipart(self.chunk(audio, options, form)?);
            let own = trace::current();
            // A traceparent from a message may not be a valid header value.
            if let Some(traceparent) =
                own.as_deref().or(traceparent).and_then(|text| HeaderValue::from_str(text).ok())
            {
                request = request.header(trace::TRACEPARENT, traceparent);
            }
            self.send(request).await
        };
        let answer = sent.instrument(span).await;
        if options.translate { answer.map_err(no_translation) } else { answer }
    }

    /// Sends the probe's recording.
    pub(super) async fn probe(&self, recording: &Recording) -> Result<(), ProbeError> {
        let sent = async {
            let Recording { name, mime, bytes } = recording;
            let file = part(Part::stream(bytes.clone()).file_name(name.clone()), mime)?;
            let form = self.fields(file, false);
            self.send(self.http.post(&self.url).multipart(form)).await
        };
        match sent.await {
            Ok(_) => Ok(()),
            Err(error) => Err(ProbeError {
                timed_out: error.failure == Failure::Timeout,
                message: format!("{}: {}", error.error.message, answer::quote(&error.answer)),
            }),
        }
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<Transcription, CallError> {
        if let Some(key) = &self.settings.api_key {
            request = request.bearer_auth(key.reveal());
        }
        timeout(self.settings.timeout, exchange(request)).await.unwrap_or_else(|_| {
            let message =
                format!("the model did not answer within {} s", self.settings.timeout.as_secs_f64());
            Err(CallError::new(Failure::Timeout, message))
        })
    }

    fn chunk(&self, audio: Audio, options: &TranscribeOptions, form: Form) -> Result<Multipart, CallError> {
        let body = Part::stream_with_length(Body::wrap_stream(audio.body), audio.bytes);
        let mut fields = self.fields(part(body.file_name(audio.name), audio.mime)?, form.verbose);
        if let Some(language) = language::of(options).filter(|_| form.language) {
            fields = fields.text("language", language);
        }
        if let Some(prompt) = &options.prompt {
            fields = fields.text("prompt", prompt.as_str().to_owned());
        }
        if form.verbose && !options.translate {
            fields = fields.text("timestamp_granularities[]", "segment");
        }
        if form.words {
            fields = fields.text("timestamp_granularities[]", "word");
        }
        Ok(fields)
    }

    fn fields(&self, file: Part, verbose: bool) -> Multipart {
        Multipart::new()
            .part("file", file)
            .text("model", self.settings.model.clone())
            .text("response_format", if verbose { "verbose_json" } else { "json" })
            .text("temperature", "0")
    }
}

fn part(part: Part, mime: &str) -> Result<Part, CallError> {
    part.mime_str(mime).map_err(|error| CallError::new(Failure::BadAudio, error.to_string()))
}

async fn exchange(request: RequestBuilder) -> Result<Transcription, CallError> {
    let response = request.send().await.map_err(|error| no_answer(&error))?;
    let status = response.status();
    Span::current().record("http.response.status_code", status.as_u16());
    let pause = answer::retry_after(response.headers(), SystemTime::now());
    match body(response).await {
        Ok(body) => answer::classify(status, pause, &body),
        // The status is more specific than the lost connection.
        Err(_) if status != StatusCode::OK => answer::classify(status, pause, b""),
        Err(error) => Err(error),
    }
}

/// A server without translations answers 404, 405 or 501. That is about the request and not about the model's health.
fn no_translation(error: CallError) -> CallError {
    match error.status.map(|status| status.as_u16()) {
        Some(404 | 405 | 501) => CallError {
            status: error.status,
            answer: error.answer,
            ..CallError::new(
                Failure::ChunkRefused,
                "the model cannot translate; submit without \"translate\"",
            )
        },
        _ => error,
    }
}

/// A call that ended without an answer.
fn no_answer(error: &reqwest::Error) -> CallError {
    let failure = if error.is_connect() { Failure::Unreachable } else { Failure::ConnectionLost };
    CallError::new(failure, format!("the call to the model failed: {}", causes(error)))
}

async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| no_answer(&error))? {
        if body.len() + part.len() > MAX_ANSWER_BYTES {
            let message = format!("the model's answer has more than {MAX_ANSWER_BYTES} bytes");
            return Err(CallError::new(Failure::NotATranscription, message));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}
