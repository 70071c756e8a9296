//! Times of words, speakers, languages, translations: what is requested of the model and what is kept of its answer.

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use longhand_shared::domain::job::{ErrorCode, TranscribeOptions, Transcription, WarningCode};
use longhand_sim_asr::{Answer, Behaviour, ErrorBody, text_for};
use tokio::net::TcpListener;

use crate::asr::{AsrClient, permanent, text};
use crate::cases::silence;

fn options(json: &str) -> TranscribeOptions {
    serde_json::from_str(json).expect("options")
}

fn words(transcription: &Transcription) -> usize {
    transcription.segments().iter().map(|segment| segment.words.len()).sum()
}

#[tokio::test(start_paused = true)]
async fn words_are_requested_and_kept() {
    let client = AsrClient::new(Behaviour::default()).await;
    let outcome = client.transcribe_with("a.wav", &options(r#"{"timestamps":"word"}"#), None).await;
    let transcription = outcome.expect("a transcription");
    assert_eq!(words(&transcription), text_for("a.wav").split_whitespace().count());
    assert_eq!(transcription.language.as_deref(), Some("en"));
    assert!(transcription.confidence.is_some());
    let form = client.sim.books().file("a.wav").last_form.clone();
    assert_eq!(form["timestamp_granularities[]"], "segment,word");

    let without = client.transcribe("a.wav").await.expect("a transcription");
    assert_eq!((words(&without), without.warnings.len()), (0, 0), "words were not requested");
}

#[tokio::test(start_paused = true)]
async fn a_model_without_words_still_transcribes() {
    let client = AsrClient::new(Behaviour::default()).await;
    let body = r#"{"error":{"message":"timestamp_granularities: word is not supported"}}"#;
    client.sim.script("a.wav", [Answer::status_body(400, ErrorBody::Text(body.to_owned()))]);
    let outcome = client.transcribe_with("a.wav", &options(r#"{"timestamps":"word"}"#), None).await;
    let transcription = outcome.expect("a transcription");
    assert_eq!((client.calls(), transcription.text()), (2, text_for("a.wav").as_str()));
    assert_eq!(transcription.segments().len(), 1, "the segments are kept");
    let codes: Vec<_> = transcription.warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, [WarningCode::NoWords]);
}

/// A client of a server with these routes. Each reads the whole request, as the connection would be reset otherwise.
async fn client_of(server: Router) -> AsrClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, server).await });
    AsrClient::with(Behaviour::default(), |asr| asr.base_url = format!("http://{address}")).await
}

/// The 404 does not count as an outage.
#[tokio::test]
async fn a_model_that_cannot_translate_fails_the_chunk() {
    let server = Router::new()
        .route("/v1/audio/translations", post(async |_: Bytes| StatusCode::NOT_FOUND))
        .route("/v1/audio/transcriptions", post(async |_: Bytes| r#"{"text":"Guten Tag."}"#));
    let client = client_of(server).await;
    let error = permanent(client.transcribe_with("a.wav", &options(r#"{"translate":true}"#), None).await);
    assert_eq!(error.code, ErrorCode::AsrRejected);
    assert!(error.message.contains("cannot translate"), "{}", error.message);
    assert_eq!(text(&client.transcribe("a.wav").await), "Guten Tag.");
}

#[tokio::test]
async fn a_translation_is_requested_at_its_own_path() {
    let answer = post(async |_: Bytes| r#"{"text":"Good day.","language":"german"}"#);
    let client = client_of(Router::new().route("/v1/audio/translations", answer)).await;
    let outcome =
        client.transcribe_with("a.wav", &options(r#"{"translate":true,"language":"de"}"#), None).await;
    assert_eq!(text(&outcome), "Good day.");
    assert_eq!(outcome.expect("a transcription").language.as_deref(), Some("de"));
}

#[tokio::test(start_paused = true)]
async fn audio_that_is_cut_off_is_warned_of() {
    let client = AsrClient::new(Behaviour::default()).await;
    // Thirty seconds, of which the model says that it decoded one.
    client.file("long.wav", silence(30));
    let answer = r#"{"text":"a","duration":1.0}"#;
    client.sim.script("long.wav", [Answer::status_body(200, ErrorBody::Text(answer.to_owned()))]);
    let transcription = client.transcribe("long.wav").await.expect("a transcription");
    let codes: Vec<_> = transcription.warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, [WarningCode::AudioShorter], "{transcription:?}");
}
