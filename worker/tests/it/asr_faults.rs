//! The model's client when the model fails: how often it is asked, after which pauses, and whether the
//! chunk is to blame in the end.

use std::time::{Duration, SystemTime};

use longhand_shared::job::ErrorCode;
use longhand_sim_asr::{Answer, Behaviour, ErrorBody, text_for};
use longhand_worker::asr::TranscribeError;
use tokio::net::TcpSocket;
use tokio::time::Instant;

use crate::asr::{Ears, Heard, permanent, text};
use crate::support::{secs, wav};

/// What the clock's rounding may take off a gap.
const ROUNDING: Duration = Duration::from_millis(5);

fn transient(heard: Heard) -> Option<Duration> {
    match heard {
        Err(TranscribeError::Transient { pause, .. }) => pause,
        other => panic!("expected a transient error, got {other:?}"),
    }
}

async fn ears() -> Ears {
    Ears::new(Behaviour::default()).await
}

#[tokio::test(start_paused = true)]
async fn two_errors_and_then_a_text_are_three_calls_with_growing_gaps() {
    let mut firsts = Vec::new();
    for _ in 0..5 {
        let ears = ears().await;
        let heard = ears.scripted([Answer::status(500), Answer::status(500)]).await;
        assert_eq!(text(&heard), text_for("a.wav"));
        assert_eq!(ears.calls(), 3);
        let gaps = ears.gaps();
        assert!(gaps[0] + ROUNDING >= Duration::from_millis(250), "{gaps:?}");
        assert!(gaps[1] + ROUNDING >= Duration::from_millis(500) && gaps[1] > gaps[0], "{gaps:?}");
        assert!(gaps[1] <= secs(1) + ROUNDING, "{gaps:?}");
        firsts.push(gaps[0].as_millis());
    }
    assert!(firsts.iter().any(|gap| *gap != firsts[0]), "no jitter: {firsts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_always_fails_is_asked_four_times() {
    for code in [408, 409, 425, 500, 599] {
        let ears = Ears::new(Behaviour::answering(Answer::status(code))).await;
        let error = permanent(ears.hear("a.wav").await);
        assert_eq!(error.code, ErrorCode::AsrUnavailable, "{code}");
        assert!(error.message.contains(&code.to_string()), "{}", error.message);
        assert_eq!(ears.calls(), 4, "{code}");
        let gaps = ears.gaps();
        assert!(gaps.is_sorted(), "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_asked_again() {
    for code in [400, 404, 413, 415, 422] {
        let ears = Ears::new(Behaviour::answering(Answer::status(code))).await;
        let error = permanent(ears.hear("a.wav").await);
        assert_eq!(error.code, ErrorCode::AsrRejected);
        assert_eq!(error.message, format!("the model answered {code}: simulated {code}"));
        assert_eq!(ears.calls(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_errors_ends_the_tries() {
    let ears = ears().await;
    let heard = ears.scripted([Answer::status(500), Answer::status(400), Answer::Echo]).await;
    assert_eq!(permanent(heard).code, ErrorCode::AsrRejected);
    assert_eq!(ears.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed_in_all_its_forms() {
    let in_ten = SystemTime::now() + secs(10);
    let milliseconds = Answer::Status {
        code: 429,
        body: ErrorBody::default(),
        retry_after: Some("1".to_owned()),
        retry_after_ms: Some(2_500),
    };
    let asked = [
        (Answer::status_retry_after(429, "2"), Duration::from_secs(2)),
        (Answer::status_retry_after(503, "2"), Duration::from_secs(2)),
        (Answer::status_retry_after(500, "2"), Duration::from_secs(2)),
        // A date has whole seconds, and some real time passes.
        (Answer::status_retry_after(429, httpdate::fmt_http_date(in_ten)), Duration::from_secs(7)),
        (milliseconds, Duration::from_millis(2_500)),
    ];
    for (answer, least) in asked {
        let ears = ears().await;
        let heard = ears.scripted([answer.clone()]).await;
        assert_eq!(text(&heard), text_for("a.wav"));
        let gaps = ears.gaps();
        assert_eq!(gaps.len(), 1);
        assert!(gaps[0] + ROUNDING >= least && gaps[0] <= secs(11), "{answer:?}: {gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_asks_for_one_pause_only_and_nonsense_for_none() {
    let ears = ears().await;
    let answers = [Answer::status_retry_after(429, "10"), Answer::status_retry_after(500, "tomorrow")];
    text(&ears.scripted(answers).await);
    let gaps = ears.gaps();
    assert!(gaps[0] >= secs(10) && gaps[1] <= secs(1) + ROUNDING, "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_is_not_waited_out_in_hand() {
    for code in [429, 503, 500, 502] {
        let ears = Ears::new(Behaviour::answering(Answer::status_retry_after(code, "600"))).await;
        let began = Instant::now();
        let pause = transient(ears.hear("a.wav").await);
        assert_eq!((pause, ears.calls()), (Some(secs(600)), 1), "{code}");
        assert!(began.elapsed() < secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_model_is_not_held_against_the_chunk() {
    for code in [429, 503] {
        let ears = Ears::new(Behaviour::answering(Answer::status(code))).await;
        assert_eq!(transient(ears.hear("a.wav").await), None);
        assert_eq!(ears.calls(), 4, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_there_is_not_held_against_the_chunk() {
    // Bound, so that no other test can have the port, but not listening.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let nobody = socket.local_addr().expect("bound");
    let ears =
        Ears::with(Behaviour::default(), |settings| settings.base_url = format!("http://{nobody}")).await;
    assert_eq!(transient(ears.hear("a.wav").await), None);
    assert_eq!(ears.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hang_is_cut_by_the_timeout_and_asked_again() {
    for hang in [Answer::Hang, Answer::HangMidBody, Answer::Echo.after_ms(31_000)] {
        let ears = ears().await;
        let heard = ears.scripted([hang.clone()]).await;
        assert_eq!(text(&heard), text_for("a.wav"), "{hang:?}");
        let gaps = ears.gaps();
        assert_eq!(gaps.len(), 1);
        assert!(gaps[0] >= secs(30) && gaps[0] <= secs(31), "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_always_hangs_times_out_four_times() {
    for hang in [Answer::Hang, Answer::HangMidBody] {
        let ears = Ears::new(Behaviour::answering(hang)).await;
        let began = Instant::now();
        assert_eq!(permanent(ears.hear("a.wav").await).code, ErrorCode::AsrTimeout);
        assert_eq!(ears.calls(), 4);
        assert!((120..=124).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_is_asked_again() {
    for cut in [Answer::Cut, Answer::CutMidBody] {
        let ears = ears().await;
        assert_eq!(text(&ears.scripted([cut.clone()]).await), text_for("a.wav"), "{cut:?}");
        assert_eq!(ears.calls(), 2, "{cut:?}");

        ears.sim.set(Behaviour::answering(cut.clone()));
        ears.sim.reset_books();
        assert_eq!(permanent(ears.hear("a.wav").await).code, ErrorCode::AsrUnavailable, "{cut:?}");
        assert_eq!(ears.calls(), 4, "{cut:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_answers_before_it_has_read_the_upload_is_understood() {
    let behaviour = Behaviour { reads_upload: false, answer: Answer::status(413), ..Behaviour::default() };
    let ears = Ears::new(behaviour).await;
    ears.file("big.wav", wav(5_000_000));
    let heard = ears.hear("big.wav").await;
    // The answer may be lost to the reset that an unread upload causes; then it is asked for again.
    let error = permanent(heard);
    assert!(matches!(error.code, ErrorCode::AsrRejected | ErrorCode::AsrUnavailable), "{error:?}");
    assert!(ears.calls() <= 4);
}

#[tokio::test(start_paused = true)]
async fn bad_audio_is_never_sent() {
    let ears = ears().await;
    ears.file("empty.wav", b"");
    ears.file("text.wav", b"not audio at all");
    ears.file("large.wav", wav(5 * 1024 * 1024 + 1));
    let too_long = format!("{}.wav", "a".repeat(300));
    let cases = [
        ("missing.wav", ErrorCode::AudioNotFound),
        ("empty.wav", ErrorCode::AudioEmpty),
        ("text.wav", ErrorCode::AudioUnsupported),
        ("large.wav", ErrorCode::AudioTooLarge),
        ("s3://another/a.wav", ErrorCode::AudioForbidden),
    ];
    for (file, code) in cases {
        assert_eq!(permanent(ears.hear(file).await).code, code, "{file}");
    }
    assert_eq!(
        permanent(ears.hear(&too_long).await).code,
        ErrorCode::AudioNotFound,
        "no file has such a name"
    );
    assert_eq!(ears.calls(), 0);
}
