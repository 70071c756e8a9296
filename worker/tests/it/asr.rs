//! The model's client: what it sends, and what it makes of good and odd answers.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use futures::future::join_all;
use longhand_shared::job::{ChunkError, ErrorCode, TranscribeOptions, Transcription};
use longhand_sim_asr::{Answer, Behaviour, Books, ErrorBody, Latency, Odd, Script, SimAsr, text_for};
use longhand_worker::asr::{Asr, AsrSettings, TranscribeError};
use longhand_worker::audio::AudioStore;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::{asr_settings, audio_store, secs, wav};

pub(crate) type Heard = Result<Transcription, TranscribeError>;

/// A client and the model that it calls.
pub(crate) struct Ears {
    pub(crate) sim: SimAsr,
    pub(crate) asr: Asr,
    pub(crate) root: TempDir,
    audio: AudioStore,
}

impl Ears {
    pub(crate) async fn new(behaviour: Behaviour) -> Self {
        Self::with(behaviour, |_| ()).await
    }

    pub(crate) async fn with(behaviour: Behaviour, change: impl FnOnce(&mut AsrSettings)) -> Self {
        let sim = SimAsr::start(behaviour).await.expect("a free port of the loopback");
        let mut settings = asr_settings(sim.base_url());
        change(&mut settings);
        let root = tempfile::tempdir().expect("a folder");
        let audio = audio_store(root.path());
        let ears = Self { sim, asr: Asr::new(settings).expect("a client"), root, audio };
        ears.file("a.wav", wav(100_000));
        ears
    }

    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.root.path().join(name), bytes).expect("the folder can be written");
    }

    pub(crate) async fn hear(&self, file: &str) -> Heard {
        self.hear_with(file, &TranscribeOptions::default(), None).await
    }

    pub(crate) async fn hear_with(
        &self,
        file: &str,
        options: &TranscribeOptions,
        traceparent: Option<&str>,
    ) -> Heard {
        let path = file.parse().expect("a path");
        self.asr.transcribe(&self.audio, &path, options, traceparent, &AtomicU32::new(0)).await
    }

    /// What comes of `a.wav` when its calls are answered so, one after the other.
    pub(crate) async fn scripted(&self, answers: impl IntoIterator<Item = Answer>) -> Heard {
        self.sim.script("a.wav", answers);
        self.hear("a.wav").await
    }

    pub(crate) fn calls(&self) -> u64 {
        self.sim.books().calls
    }

    pub(crate) fn gaps(&self) -> Vec<Duration> {
        self.sim.books().file("a.wav").gaps()
    }
}

pub(crate) fn text(heard: &Heard) -> &str {
    match heard {
        Ok(transcription) => transcription.text(),
        Err(error) => panic!("expected a text, got {error:?}"),
    }
}

pub(crate) fn permanent(heard: Heard) -> ChunkError {
    match heard {
        Err(TranscribeError::Permanent(error)) => error,
        other => panic!("expected a permanent error, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_form_is_what_servers_of_this_kind_expect() {
    let ears = Ears::with(Behaviour::default(), |settings| {
        settings.api_key = Some("sk-secret".parse().expect("infallible"));
        settings.base_url.push('/');
        settings.model = "large-v3".to_owned();
    })
    .await;
    std::fs::create_dir(ears.root.path().join("folder")).expect("made");
    ears.file("folder/speech", wav(70_000));
    let options: TranscribeOptions =
        serde_json::from_str(r#"{"language":"pt-BR","prompt":"Ana, São Paulo"}"#).expect("options");
    let heard = ears.hear_with("folder/speech", &options, None).await;
    assert_eq!(text(&heard), text_for("speech.wav"));
    assert!(heard.expect("heard").duration_seconds().is_some());

    let book = ears.sim.books().file("speech.wav");
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
    let ears = Ears::new(Behaviour::default()).await;
    text(&ears.hear("a.wav").await);
    let book = ears.sim.books().file("a.wav");
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
        let ears = Ears::new(Behaviour::default()).await;
        let answer = Answer::Odd(odd.clone());
        let heard = ears.scripted([answer.clone()]).await;
        match answer.expected_text("a.wav") {
            Some(expected) => assert_eq!(text(&heard), expected, "{odd:?}"),
            None => assert_eq!(permanent(heard).code, ErrorCode::AsrProtocol, "{odd:?}"),
        }
        assert_eq!(ears.calls(), 1, "{odd:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_huge_answer_is_refused_before_it_is_held() {
    for (bytes, code) in [(400_000, ErrorCode::TranscriptTooLarge), (50_000_000, ErrorCode::AsrProtocol)] {
        let ears = Ears::new(Behaviour::default()).await;
        let heard = ears.scripted([Answer::Odd(Odd::HugeText(bytes))]).await;
        assert_eq!(permanent(heard).code, code, "{bytes} bytes");
        assert_eq!(ears.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_and_all_scripts_are_heard_as_they_are() {
    let ears = Ears::new(Behaviour::default()).await;
    assert_eq!(text(&ears.scripted([Answer::Empty]).await), "");
    for script in [Script::Latin, Script::Arabic, Script::Devanagari, Script::Han, Script::Thai] {
        let answer = Answer::Words { count: 700, script };
        let expected = answer.expected_text("a.wav");
        assert_eq!(Some(text(&ears.scripted([answer]).await)), expected.as_deref(), "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_without_verbose_json_is_asked_for_json_and_no_retry_is_spent() {
    let behaviour = Behaviour { supports_verbose_json: false, ..Behaviour::default() };
    let ears = Ears::with(behaviour, |settings| settings.max_retries = 0).await;
    ears.file("b.wav", wav(100));
    assert_eq!(text(&ears.hear("a.wav").await), text_for("a.wav"));
    assert_eq!(ears.calls(), 2);
    assert_eq!(ears.gaps(), [Duration::ZERO], "asked again at once");
    assert_eq!(text(&ears.hear("b.wav").await), text_for("b.wav"));
    let books = ears.sim.books();
    assert_eq!(books.calls, 3, "the next chunk asks for json at once");
    assert_eq!(books.file("b.wav").last_form["response_format"], "json");
    assert!(!books.file("b.wav").last_form.contains_key("timestamp_granularities[]"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_verbose_json_with_many_words_is_understood() {
    let message = format!("{}: response_format 'verbose_json' is not supported", "bad request ".repeat(30));
    let body = serde_json::json!({"error": {"message": message}}).to_string();
    let meaning =
        longhand_worker::asr::answer::classify(StatusCode::BAD_REQUEST, None, body.as_bytes(), true);
    assert_eq!(meaning, longhand_worker::asr::answer::Meaning::NoVerboseJson);
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_in_flight_than_the_cap() {
    let behaviour = Behaviour::taking(Latency::Fixed(5_000));
    let ears = Ears::with(behaviour, |settings| settings.max_concurrency = 3).await;
    let began = Instant::now();
    let heard = join_all((0..12).map(|_| ears.hear("a.wav"))).await;
    assert!(heard.iter().all(Result::is_ok));
    assert_eq!(ears.sim.books().most_in_flight, 3);
    assert_eq!(began.elapsed().as_secs(), 20, "and all three are used");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_next_try_holds_no_place() {
    let ears = Ears::with(Behaviour::default(), |settings| settings.max_concurrency = 1).await;
    ears.file("b.wav", wav(100));
    ears.sim.script("a.wav", [Answer::status_retry_after(429, "15")]);
    let began = Instant::now();
    let other = async {
        let heard = ears.hear("b.wav").await;
        (heard.is_ok(), began.elapsed())
    };
    let (first, (heard, after)) = tokio::join!(ears.hear("a.wav"), other);
    assert!(first.is_ok() && heard);
    assert!(after < secs(1), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_frees_its_place() {
    let ears = Ears::with(Behaviour::default(), |settings| settings.max_concurrency = 1).await;
    ears.sim.script("a.wav", [Answer::Hang]);
    assert!(tokio::time::timeout(secs(3), ears.hear("a.wav")).await.is_err());
    assert!(ears.hear("a.wav").await.is_ok());
    assert!(ears.sim.wait_until(|books: &Books| books.in_flight == 0, secs(1)).await);
    assert_eq!(ears.sim.books().aborted, 1);
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
        let ears = Ears::with(Behaviour::default(), |settings| settings.base_url = here).await;
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let heard = ears.hear_with("a.wav", &TranscribeOptions::default(), Some(trace)).await;
        assert_eq!(permanent(heard).code, ErrorCode::AsrRejected);
        let seen = seen.lock().expect("nobody panics").clone();
        assert_eq!(seen, [("/v1/audio/transcriptions".to_owned(), trace.to_owned())], "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_are_told_in_the_words_of_the_model() {
    let bodies = [
        (ErrorBody::ErrorObject, "simulated 400"),
        (ErrorBody::ErrorString, "simulated 400"),
        (ErrorBody::Detail, "simulated 400"),
        (ErrorBody::ObjectError, "simulated 400"),
        (ErrorBody::Plain, "simulated 400"),
        (ErrorBody::Html, "This is a page"),
        (ErrorBody::Empty, "(nothing)"),
    ];
    for (body, said) in bodies {
        let ears = Ears::new(Behaviour::default()).await;
        let error = permanent(ears.scripted([Answer::status_body(400, body)]).await);
        assert_eq!(error.code, ErrorCode::AsrRejected);
        assert!(error.message.contains(said), "{body:?}: {}", error.message);
        assert_eq!(ears.calls(), 1, "{body:?}");
    }
}
