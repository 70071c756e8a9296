//! The model's client when the model fails: how often it is asked, after which pauses, and whether the
//! chunk is to blame in the end.

use std::time::{Duration, SystemTime};

use longhand_shared::domain::job::ErrorCode;
use longhand_sim_asr::{Answer, Behaviour, ErrorBody, text_for};
use longhand_worker::asr::TranscribeError;
use tokio::net::TcpSocket;
use tokio::time::Instant;

use crate::asr::{AsrClient, CallOutcome, permanent, text};
use crate::support::{secs, wav};

/// What the clock's rounding may take off a gap.
const ROUNDING: Duration = Duration::from_millis(5);

fn transient(outcome: CallOutcome) -> Option<Duration> {
    match outcome {
        Err(TranscribeError::GivenBack { pause, .. }) => pause,
        other => panic!("expected a transient error, got {other:?}"),
    }
}

async fn client() -> AsrClient {
    AsrClient::new(Behaviour::default()).await
}

#[tokio::test(start_paused = true)]
async fn two_errors_and_then_a_text_are_three_calls_with_growing_gaps() {
    let mut firsts = Vec::new();
    for _ in 0..5 {
        let client = client().await;
        let outcome = client.scripted([Answer::status(500), Answer::status(500)]).await;
        assert_eq!(text(&outcome), text_for("a.wav"));
        assert_eq!(client.calls(), 3);
        let gaps = client.gaps();
        assert!(gaps[0] + ROUNDING >= Duration::from_millis(250), "{gaps:?}");
        assert!(gaps[1] + ROUNDING >= Duration::from_millis(500) && gaps[1] > gaps[0], "{gaps:?}");
        assert!(gaps[1] <= secs(1) + ROUNDING, "{gaps:?}");
        firsts.push(gaps[0].as_millis());
    }
    assert!(firsts.iter().any(|gap| *gap != firsts[0]), "no jitter: {firsts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_always_fails_is_asked_four_times() {
    for code in [408, 409, 425, 500, 503, 529, 599] {
        let client = AsrClient::new(Behaviour::answering(Answer::status(code))).await;
        let error = permanent(client.transcribe("a.wav").await);
        assert_eq!(error.code, ErrorCode::AsrUnavailable, "{code}");
        assert!(error.message.contains(&code.to_string()), "{}", error.message);
        assert_eq!(client.calls(), 4, "{code}");
        let gaps = client.gaps();
        assert!(gaps.is_sorted(), "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_tried_once_more_as_json_and_then_final() {
    for code in [400, 404, 405, 413, 415, 422] {
        let client = AsrClient::new(Behaviour::answering(Answer::status(code))).await;
        let error = permanent(client.transcribe("a.wav").await);
        assert_eq!(error.code, ErrorCode::AsrRejected);
        assert!(error.message.contains(&code.to_string()), "{}", error.message);
        assert_eq!((client.calls(), client.gaps()), (2, vec![Duration::ZERO]), "{code}");
    }
    for code in [401, 403] {
        let client = AsrClient::new(Behaviour::answering(Answer::status(code))).await;
        let error = permanent(client.transcribe("a.wav").await);
        assert_eq!((error.code, client.calls()), (ErrorCode::AsrRejected, 1), "{code}");
        assert!(
            !error.message.contains("simulated"),
            "the model's words are not for users: {}",
            error.message
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_errors_ends_the_tries() {
    let client = client().await;
    let refusal = Answer::status(400);
    let outcome = client.scripted([Answer::status(500), refusal.clone(), refusal, Answer::Echo]).await;
    assert_eq!(permanent(outcome).code, ErrorCode::AsrRejected);
    assert_eq!(client.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed_in_all_its_forms() {
    let date = SystemTime::now() + secs(19);
    let milliseconds = Answer::Status {
        code: 429,
        body: ErrorBody::default(),
        retry_after: Some("1".to_owned()),
        retry_after_ms: Some(2_500),
    };
    let asked = [
        // Real time passes until the date is read, on a loaded machine some seconds.
        (Answer::status_retry_after(429, httpdate::fmt_http_date(date)), Duration::from_secs(3)),
        (Answer::status_retry_after(429, "2"), Duration::from_secs(2)),
        (Answer::status_retry_after(503, "2"), Duration::from_secs(2)),
        (Answer::status_retry_after(500, "2"), Duration::from_secs(2)),
        (milliseconds, Duration::from_millis(2_500)),
    ];
    for (answer, least) in asked {
        let client = client().await;
        let outcome = client.scripted([answer.clone()]).await;
        assert_eq!(text(&outcome), text_for("a.wav"));
        let gaps = client.gaps();
        assert_eq!(gaps.len(), 1);
        assert!(gaps[0] + ROUNDING >= least && gaps[0] <= secs(20), "{answer:?}: {gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_asks_for_one_pause_only_and_nonsense_for_none() {
    let client = client().await;
    let answers = [Answer::status_retry_after(429, "10"), Answer::status_retry_after(500, "tomorrow")];
    text(&client.scripted(answers).await);
    let gaps = client.gaps();
    assert!(gaps[0] >= secs(10) && gaps[1] <= secs(1) + ROUNDING, "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_is_not_waited_out_in_hand() {
    for code in [429, 503, 500, 502] {
        let client = AsrClient::new(Behaviour::answering(Answer::status_retry_after(code, "600"))).await;
        let began = Instant::now();
        let pause = transient(client.transcribe("a.wav").await);
        assert_eq!((pause, client.calls()), (Some(secs(600)), 1), "{code}");
        assert!(began.elapsed() < secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_model_is_not_held_against_the_chunk() {
    let client = AsrClient::new(Behaviour::answering(Answer::status(429))).await;
    assert_eq!(transient(client.transcribe("a.wav").await), None);
    assert_eq!(client.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_there_is_not_held_against_the_chunk() {
    // Bound, so that no other test can have the port, but not listening.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let nobody = socket.local_addr().expect("bound");
    let client =
        AsrClient::with(Behaviour::default(), |settings| settings.base_url = format!("http://{nobody}"))
            .await;
    assert_eq!(transient(client.transcribe("a.wav").await), None);
    assert_eq!(client.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hang_is_cut_by_the_timeout_and_asked_again() {
    for hang in [Answer::Hang, Answer::HangMidBody, Answer::Echo.after_ms(31_000)] {
        let client = client().await;
        let outcome = client.scripted([hang.clone()]).await;
        assert_eq!(text(&outcome), text_for("a.wav"), "{hang:?}");
        let gaps = client.gaps();
        assert_eq!(gaps.len(), 1);
        assert!(gaps[0] >= secs(30) && gaps[0] <= secs(31), "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_always_hangs_times_out_four_times() {
    for hang in [Answer::Hang, Answer::HangMidBody] {
        let client = AsrClient::new(Behaviour::answering(hang)).await;
        let began = Instant::now();
        assert_eq!(permanent(client.transcribe("a.wav").await).code, ErrorCode::AsrTimeout);
        assert_eq!(client.calls(), 4);
        assert!((120..=124).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_is_asked_again() {
    for cut in [Answer::Cut, Answer::CutMidBody] {
        let client = client().await;
        assert_eq!(text(&client.scripted([cut.clone()]).await), text_for("a.wav"), "{cut:?}");
        assert_eq!(client.calls(), 2, "{cut:?}");

        client.sim.set(Behaviour::answering(cut.clone()));
        client.sim.reset_books();
        assert_eq!(permanent(client.transcribe("a.wav").await).code, ErrorCode::AsrUnavailable, "{cut:?}");
        assert_eq!(client.calls(), 4, "{cut:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_answers_before_it_has_read_the_upload_is_understood() {
    let behaviour = Behaviour { reads_upload: false, answer: Answer::status(413), ..Behaviour::default() };
    let client = AsrClient::new(behaviour).await;
    client.file("big.wav", wav(5_000_000));
    let outcome = client.transcribe("big.wav").await;
    // The answer may be lost to the reset that an unread upload causes; then it is asked for again.
    let error = permanent(outcome);
    assert!(matches!(error.code, ErrorCode::AsrRejected | ErrorCode::AsrUnavailable), "{error:?}");
    assert!(client.calls() <= 4);
}

#[tokio::test(start_paused = true)]
async fn bad_audio_is_never_sent() {
    let client = client().await;
    client.file("empty.wav", b"");
    client.file("text.wav", b"not audio at all");
    client.file("large.wav", wav(5 * 1024 * 1024 + 1));
    let too_long = format!("{}.wav", "a".repeat(300));
    let cases = [
        ("missing.wav", ErrorCode::AudioNotFound),
        ("empty.wav", ErrorCode::AudioEmpty),
        ("text.wav", ErrorCode::AudioUnsupported),
        ("large.wav", ErrorCode::AudioTooLarge),
        ("s3://another/a.wav", ErrorCode::AudioForbidden),
    ];
    for (file, code) in cases {
        assert_eq!(permanent(client.transcribe(file).await).code, code, "{file}");
    }
    assert_eq!(
        permanent(client.transcribe(&too_long).await).code,
        ErrorCode::AudioNotFound,
        "no file has such a name"
    );
    assert_eq!(client.calls(), 0);
}
