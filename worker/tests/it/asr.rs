//! The model's client: what it sends, and what it makes of good and odd answers.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use futures::FutureExt;
use futures::future::{join_all, ready};
use longhand_shared::domain::job::{ChunkError, ErrorCode, TranscribeOptions, Transcription};
use longhand_shared::queue::Progress;
use longhand_sim_asr::{Answer, Behaviour, Books, ErrorBody, Latency, Odd, Script, SimAsr, text_for};
use longhand_worker::asr::{Asr, AsrSettings, ChunkRequest, TranscribeError};
use longhand_worker::audio::{AudioStore, ChunkAudio};
use longhand_worker::slots::HeldSlot;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::support::{asr_settings, audio_store, secs, wav};

/// What a call returned.
pub(crate) type CallOutcome = Result<Transcription, TranscribeError>;

/// A client and the model that it calls.
pub(crate) struct AsrClient {
    pub(crate) sim: SimAsr,
    pub(crate) asr: Asr,
    pub(crate) root: TempDir,
    audio: AudioStore,
}

impl AsrClient {
    pub(crate) async fn new(behaviour: Behaviour) -> Self {
        Self::with(behaviour, |_| ()).await
    }

    pub(crate) async fn with(behaviour: Behaviour, change: impl FnOnce(&mut AsrSettings)) -> Self {
        let sim = SimAsr::start(behaviour).await.expect("a free port of the loopback");
        let mut settings = asr_settings(sim.base_url());
        change(&mut settings);
        let root = tempfile::tempdir().expect("a folder");
        let audio = audio_store(root.path());
        let client = Self { sim, asr: Asr::new(settings).expect("a client"), root, audio };
        client.file("a.wav", wav(100_000));
        client
    }

    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.root.path().join(name), bytes).expect("the folder can be written");
    }

    pub(crate) async fn transcribe(&self, file: &str) -> CallOutcome {
        self.transcribe_with(file, &TranscribeOptions::default(), None).await
    }

    pub(crate) async fn transcribe_with(
        &self,
        file: &str,
        options: &TranscribeOptions,
        traceparent: Option<&str>,
    ) -> CallOutcome {
        let path = file.parse().expect("a path");
        let request = ChunkRequest {
            audio: &ChunkAudio::new(&self.audio, &path),
            options,
            traceparent,
            progress: Progress::default(),
            first_delivery: true,
            slot: &HeldSlot::default(),
            calls: &AtomicU32::new(0),
            failed: &watch::Sender::new(None),
            still_ours: &|| ready(true).boxed(),
        };
        self.asr.transcribe(&request).await
    }

    /// The outcome for `a.wav` when its calls get these answers, in order.
    pub(crate) async fn scripted(&self, answers: impl IntoIterator<Item = Answer>) -> CallOutcome {
        self.sim.script("a.wav", answers);
        self.transcribe("a.wav").await
    }

    pub(crate) fn calls(&self) -> u64 {
        self.sim.books().calls
    }

    pub(crate) fn gaps(&self) -> Vec<Duration> {
        self.sim.books().file("a.wav").gaps()
    }
}

pub(crate) fn text(outcome: &CallOutcome) -> &str {
    match outcome {
        Ok(transcription) => transcription.text(),
        Err(error) => panic!("expected a text, got {error:?}"),
    }
}

pub(crate) fn permanent(outcome: CallOutcome) -> ChunkError {
    match outcome {
        Err(TranscribeError::Failed(error)) => error,
        other => panic!("expected a permanent error, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_form_is_what_servers_of_this_kind_expect() {
    let client = AsrClient::with(Behaviour::default(), |settings| {
        settings.api_key = Some("sk-secret".parse().expect("infallible"));
        settings.base_url.push('/');
        settings.model = "large-v3".to_owned();
    })
    .await;
    std::fs::create_dir(client.root.path().join("folder")).expect("made");
    client.file("folder/speech", wav(70_000));
    let options: TranscribeOptions =
        serde_json::from_str(r#"{"language":"pt-BR","prompt":"Ana, São Paulo"}"#).expect("options");
    let outcome = client.transcribe_with("folder/speech", &options, None).await;
    assert_eq!(text(&outcome), text_for("speech.wav"));
    assert!(outcome.expect("a transcription").duration_seconds().is_some());

    let book = client.sim.books().file("speech.wav");
    assert_eq!(book.calls, 1);
    assert_eq!((book.bytes, book.first_bytes.as_slice()), (70_000, &wav(16)[..]));
    assert_eq!(book.content_type.as_deref(), Some("audio/wav"));
    assert_eq!(book.authorization.as_deref(), Some("Bearer sk-secret"));
    let form: Vec<_> = book.last_form.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let expected = [
        ("language", "pt"),
        ("model", "large-v3"),
        ("prompt", "Ana, São Paulo"),
        ("response_format", "verbose_json"),
        ("temperature", "0"),
        ("timestamp_granularities[]", "segment"),
    ];
    assert_eq!(form, expected);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_asked_for_is_not_sent() {
    let client = AsrClient::new(Behaviour::default()).await;
    text(&client.transcribe("a.wav").await);
    let book = client.sim.books().file("a.wav");
    assert_eq!(book.authorization, None);
    assert!(!book.last_form.contains_key("language") && !book.last_form.contains_key("prompt"));
}

#[tokio::test(start_paused = true)]
async fn every_odd_answer_gives_its_text_or_a_protocol_error_in_one_call() {
    let odds = [
        Odd::NoText,
        Odd::TextNull,
        Odd::TextNotString,
        Odd::NotObject,
        Odd::NotJson,
        Odd::HalfJson,
        Odd::NotUtf8,
        Odd::EmptyBody,
        Odd::NoContent,
        Odd::Html200,
        Odd::Error200,
        Odd::DurationAsString,
        Odd::NoDuration,
        Odd::WordsAsText,
        Odd::WordsInSegments,
        Odd::NullFields,
        Odd::UnknownFields,
        Odd::PaddedText,
        Odd::WrongContentType,
        Odd::NoContentType,
        Odd::HugeText(300_000),
    ];
    for odd in odds {
        let client = AsrClient::new(Behaviour::default()).await;
        let answer = Answer::Odd(odd.clone());
        let outcome = client.scripted([answer.clone()]).await;
        match answer.expected_text("a.wav") {
            Some(expected) => assert_eq!(text(&outcome), expected, "{odd:?}"),
            None => assert_eq!(permanent(outcome).code, ErrorCode::AsrProtocol, "{odd:?}"),
        }
        assert_eq!(client.calls(), 1, "{odd:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_huge_answer_is_refused_before_it_is_held() {
    for (bytes, code) in [(400_000, ErrorCode::TranscriptTooLarge), (50_000_000, ErrorCode::AsrProtocol)] {
        let client = AsrClient::new(Behaviour::default()).await;
        let outcome = client.scripted([Answer::Odd(Odd::HugeText(bytes))]).await;
        assert_eq!(permanent(outcome).code, code, "{bytes} bytes");
        assert_eq!(client.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_and_all_scripts_are_returned_unchanged() {
    let client = AsrClient::new(Behaviour::default()).await;
    assert_eq!(text(&client.scripted([Answer::Empty]).await), "");
    for script in [Script::Latin, Script::Arabic, Script::Devanagari, Script::Han, Script::Thai] {
        let answer = Answer::Words { count: 700, script };
        let expected = answer.expected_text("a.wav");
        assert_eq!(Some(text(&client.scripted([answer]).await)), expected.as_deref(), "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_without_verbose_json_is_asked_for_json() {
    let behaviour = Behaviour { supports_verbose_json: false, ..Behaviour::default() };
    let client = AsrClient::with(behaviour, |settings| settings.max_retries = 1).await;
    for file in ["b.wav", "c.wav"] {
        client.file(file, wav(100));
    }
    assert_eq!(text(&client.transcribe("a.wav").await), text_for("a.wav"));
    assert_eq!(client.calls(), 2);
    assert_eq!(client.gaps(), [Duration::ZERO], "asked again at once");
    assert_eq!(text(&client.transcribe("b.wav").await), text_for("b.wav"));
    assert_eq!(text(&client.transcribe("c.wav").await), text_for("c.wav"));
    let books = client.sim.books();
    assert_eq!(books.calls, 5, "after two chunks it is asked for json at once");
    assert_eq!(books.file("c.wav").last_form["response_format"], "json");
    assert!(!books.file("c.wav").last_form.contains_key("timestamp_granularities[]"));
}

#[tokio::test(start_paused = true)]
async fn one_chunk_refused_as_verbose_json_costs_no_other_its_segments() {
    let message = "response_format 'verbose_json' is not supported";
    for body in [ErrorBody::ErrorObject, ErrorBody::Plain, ErrorBody::Empty] {
        let client = AsrClient::new(Behaviour::default()).await;
        client.file("b.wav", wav(100));
        let outcome = client.scripted([Answer::status_body(400, body)]).await;
        assert_eq!(text(&outcome), text_for("a.wav"), "{message}");
        text(&client.transcribe("b.wav").await);
        assert_eq!(client.sim.books().file("b.wav").last_form["response_format"], "verbose_json");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_in_another_form_are_within_the_bound() {
    for (status, code) in [(400, ErrorCode::AsrRejected), (500, ErrorCode::AsrUnavailable)] {
        for (retries, calls) in [(0, 1), (1, 2), (3, 4)] {
            let behaviour = Behaviour::answering(Answer::status(status));
            let client = AsrClient::with(behaviour, |settings| settings.max_retries = retries).await;
            assert_eq!(permanent(client.transcribe("a.wav").await).code, code);
            let calls = if status == 400 { calls.min(2) } else { calls };
            assert_eq!(client.calls(), calls, "{status}, {retries} retries");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_server_errors_are_followed_by_a_plain_call() {
    let client = AsrClient::new(Behaviour::default()).await;
    text(&client.scripted([Answer::status(500), Answer::status(500)]).await);
    assert_eq!(client.sim.books().file("a.wav").last_form["response_format"], "json");
    text(&client.scripted([Answer::status(500)]).await);
    assert_eq!(client.sim.books().file("a.wav").last_form["response_format"], "verbose_json");
}

#[tokio::test(start_paused = true)]
async fn three_server_errors_are_followed_by_a_call_without_language() {
    let client = AsrClient::new(Behaviour::default()).await;
    let options: TranscribeOptions = serde_json::from_str(r#"{"language":"tlh"}"#).expect("options");
    client.sim.script("a.wav", [Answer::status(500), Answer::status(500), Answer::status(500)]);
    text(&client.transcribe_with("a.wav", &options, None).await);
    let book = client.sim.books().file("a.wav");
    assert_eq!((book.calls, book.last_form.contains_key("language")), (4, false));
    client.sim.script("a.wav", [Answer::status(500), Answer::status(500)]);
    text(&client.transcribe_with("a.wav", &options, None).await);
    assert_eq!(client.sim.books().file("a.wav").last_form["language"], "tlh");
}

#[tokio::test(start_paused = true)]
async fn a_language_that_the_model_refuses_is_left_out() {
    let client = AsrClient::new(Behaviour::default()).await;
    let body = r#"{"error":"language 'xx' is not supported"}"#;
    client.sim.script("a.wav", [Answer::status_body(400, ErrorBody::Text(body.to_owned()))]);
    let options: TranscribeOptions = serde_json::from_str(r#"{"language":"pt"}"#).expect("options");
    text(&client.transcribe_with("a.wav", &options, None).await);
    let book = client.sim.books().file("a.wav");
    assert_eq!((book.calls, book.last_form.contains_key("language")), (2, false));
    assert_eq!(book.last_form["response_format"], "verbose_json");
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_in_flight_than_the_cap() {
    let behaviour = Behaviour::taking(Latency::Fixed(5_000));
    let client = AsrClient::with(behaviour, |settings| settings.max_concurrency = 3).await;
    let began = Instant::now();
    let outcomes = join_all((0..12).map(|_| client.transcribe("a.wav"))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(client.sim.books().most_in_flight, 3);
    assert_eq!(began.elapsed().as_secs(), 20, "and all three are used");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_next_try_holds_no_place() {
    let client = AsrClient::with(Behaviour::default(), |settings| settings.max_concurrency = 1).await;
    client.file("b.wav", wav(100));
    client.sim.script("a.wav", [Answer::status_retry_after(429, "15")]);
    let began = Instant::now();
    let other = async {
        let outcome = client.transcribe("b.wav").await;
        (outcome.is_ok(), began.elapsed())
    };
    let (first, (second_ok, after)) = tokio::join!(client.transcribe("a.wav"), other);
    assert!(first.is_ok() && second_ok);
    assert!(after < secs(1), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_frees_its_place() {
    let client = AsrClient::with(Behaviour::default(), |settings| settings.max_concurrency = 1).await;
    client.sim.script("a.wav", [Answer::Hang]);
    assert!(tokio::time::timeout(secs(3), client.transcribe("a.wav")).await.is_err());
    assert!(client.transcribe("a.wav").await.is_ok());
    assert!(client.sim.wait_until(|books: &Books| books.in_flight == 0, secs(1)).await);
    assert_eq!(client.sim.books().aborted, 1);
}

/// Requests as a server saw them: the path, and the trace they were part of.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// A server that sends every caller elsewhere, on itself, with this status.
async fn redirecting(status: StatusCode) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let here = format!("http://{}", listener.local_addr().expect("bound"));
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let router = Router::new().fallback(async move |request: Request| {
        let trace = request.headers().get("traceparent").map(|value| value.to_str().expect("text"));
        let note = (request.uri().path().to_owned(), trace.unwrap_or_default().to_owned());
        notes.lock().expect("nobody panics").push(note);
        let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        (status, [(header::LOCATION, "/elsewhere")])
    });
    tokio::spawn(axum::serve(listener, router).into_future());
    (here, seen)
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_not_followed_and_the_trace_is_passed_on() {
    for status in [StatusCode::FOUND, StatusCode::SEE_OTHER, StatusCode::TEMPORARY_REDIRECT] {
        let (here, seen) = redirecting(status).await;
        let client = AsrClient::with(Behaviour::default(), |settings| settings.base_url = here).await;
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let outcome = client.transcribe_with("a.wav", &TranscribeOptions::default(), Some(trace)).await;
        let error = permanent(outcome);
        assert_eq!((error.code, error.message.contains("elsewhere")), (ErrorCode::AsrRejected, false));
        let seen = seen.lock().expect("nobody panics").clone();
        assert_eq!(seen, [("/v1/audio/transcriptions".to_owned(), trace.to_owned())], "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_quote_the_model() {
    let bodies = [
        (ErrorBody::ErrorObject, "simulated 400"),
        (ErrorBody::ErrorString, "simulated 400"),
        (ErrorBody::Detail, "simulated 400"),
        (ErrorBody::ObjectError, "simulated 400"),
        (ErrorBody::Plain, "simulated 400"),
        (ErrorBody::Html, "This is a page"),
        (ErrorBody::Empty, "(nothing)"),
    ];
    for (body, quoted) in bodies {
        let client = AsrClient::new(Behaviour::default()).await;
        let answer = Answer::status_body(400, body.clone());
        let error = permanent(client.scripted([answer.clone(), answer]).await);
        assert_eq!(error.code, ErrorCode::AsrRejected);
        assert!(error.message.contains(quoted), "{body:?}: {}", error.message);
        assert_eq!(client.calls(), 2, "{body:?}: verbose_json and json");
    }
}
