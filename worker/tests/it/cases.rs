//! Inputs modelled on public bug reports of comparable systems, each with what should come of it. Others of their kind
//! are elsewhere: formats in `formats.rs`, bad chunks beside good ones in `isolation.rs`.

use aws_sdk_s3::config::BehaviorVersion;
use axum::Router;
use axum::http::StatusCode;
use longhand_api::captions::Timeline;
use longhand_shared::domain::job::{ChunkStatus, ErrorCode, JobStatus, TranscribeOptions};
use longhand_shared::domain::path::AudioSources;
use longhand_shared::net::outbound::Outbound;
use longhand_shared::store::JobStore;
use longhand_sim_asr::{Answer, Behaviour, ErrorBody, text_for};
use longhand_worker::asr::answer::classify;
use longhand_worker::audio::AudioStore;
use longhand_worker::process::Processor;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::asr::{AsrClient, text};
use crate::support::{World, limits, secs, wav};

fn refusal(status: u16, body: &str) -> Answer {
    Answer::status_body(status, ErrorBody::Text(body.to_owned()))
}

/// The captions of one chunk that the model answered so.
async fn captions(answer: &str) -> Timeline {
    let world = World::new(Behaviour::default()).await;
    world.sim.script("a.wav", [refusal(200, answer)]);
    let job = world.submit(&["a.wav"]).await;
    let running = world.work();
    let ended = world.ended(job).await;
    running.stop().await;
    assert_eq!(ended.job_status, JobStatus::Completed, "{answer}");
    Timeline::new(&world.store.inner.chunks(job).await.expect("in memory"))
}

/// Segments without an end, that run backwards, that are too few, that begin before the beginning.
#[tokio::test(start_paused = true)]
async fn segments_keep_every_word_in_the_models_order() {
    let end_null = r#"{"text":"a b c","duration":4.0,"segments":[{"start":0.0,"end":2.0,"text":"a"},
        {"start":2.0,"end":null,"text":"b"},{"start":-0.02,"end":1.0,"text":"c"}]}"#;
    let end_first = r#"{"text":"a b c","duration":4.0,"segments":[{"start":0,"end":1,"text":"a"},
        {"start":3,"end":2,"text":"b"},{"start":2,"end":3.5,"text":"c"}]}"#;
    let fewer = r#"{"text":"a b c d","duration":4.0,"segments":[{"start":0,"end":1,"text":"a"},
        {"start":1,"end":2,"text":"b"}]}"#;
    let negative = r#"{"text":"a b","duration":4.0,"segments":[{"start":-0.02,"end":1.0,"text":"a"},
        {"start":1.0,"end":2.0,"text":"b"}]}"#;
    for (answer, words, exact) in [
        (end_null, "a b c", false),
        (end_first, "a b c", false),
        (fewer, "a b c d", false),
        (negative, "a b", true),
    ] {
        let timeline = captions(answer).await;
        let cues: Vec<&str> = timeline.segments.iter().map(|cue| cue.text.as_str()).collect();
        assert_eq!(cues.join(" "), words, "{answer}");
        assert_eq!(timeline.times_exact, exact, "{answer}");
        assert!(timeline.segments.is_sorted_by(|one, next| one.end <= next.start), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn languages_go_to_the_model_as_it_knows_them() {
    let client = AsrClient::new(Behaviour::default()).await;
    for (tag, sent) in [
        ("nb-NO", "no"),
        ("fil-PH", "tl"),
        ("jv", "jw"),
        ("iw", "he"),
        ("in", "id"),
        ("cmn-CN", "zh"),
        ("eng", "en"),
        ("zh-Hans-CN", "zh"),
        ("sr-Latn-RS", "sr"),
        ("de-CH-1996", "de"),
        ("pt_BR", "pt"),
    ] {
        let options: TranscribeOptions =
            serde_json::from_str(&format!(r#"{{"language":"{tag}"}}"#)).expect("every tag is taken");
        text(&client.transcribe_with("a.wav", &options, None).await);
        assert_eq!(client.sim.books().file("a.wav").last_form["language"], sent, "{tag}");
    }
    let options: TranscribeOptions = serde_json::from_str(r#"{"language":"x-mine"}"#).expect("taken");
    text(&client.transcribe_with("a.wav", &options, None).await);
    assert!(!client.sim.books().file("a.wav").last_form.contains_key("language"));
}

/// A gateway or an account that refuses everything for a while, then works again.
#[tokio::test(start_paused = true)]
async fn a_gateway_that_refuses_for_a_while_costs_no_chunk() {
    for (status, body) in [
        (404, "404 page not found\n"),
        (402, r#"{"error":{"message":"insufficient credit"}}"#),
        (429, r#"{"error":{"message":"You exceeded your quota","code":"insufficient_quota"}}"#),
        (498, r#"{"error":{"message":"capacity exceeded"}}"#),
        (520, "<html><title>error 520</title></html>"),
        (522, "<html><title>error 522</title></html>"),
        (530, "<html><title>error 530</title></html>"),
        (529, r#"{"error":{"message":"overloaded"}}"#),
    ] {
        let world = World::new(Behaviour::answering(refusal(status, body))).await;
        let whole = world.whole(4, secs(30));
        let job = world.submit(&["a.wav", "b.wav"]).await;
        sleep(secs(10)).await;
        world.sim.set(Behaviour::default());
        let ended = world.ended(job).await;
        assert_eq!(ended.job_status, JobStatus::Completed, "{status}: {ended:?}");
        whole.stop().await;
    }
}

/// Refusals of `verbose_json` in the words of several servers. Each is worth one plain call.
#[tokio::test(start_paused = true)]
async fn every_wording_of_a_refused_form_is_understood() {
    for (status, body) in [
        (400, r#"{"error":{"message":"property `timestamp_granularities[]` is not supported"}}"#),
        (
            400,
            r#"{"detail":[{"type":"enum","loc":["body","response_format"],"msg":"Input should be 'json' or 'text'"}]}"#,
        ),
        (400, r#"{"error":{"message":"Unsupported response format"}}"#),
        (
            400,
            r#"{"error":{"message":"chunking_strategy is required for diarization models","param":"chunking_strategy"}}"#,
        ),
        (
            422,
            r#"{"detail":[{"type":"literal_error","loc":["body","response_format"],"msg":"Input should be 'json'"}]}"#,
        ),
        (501, r#"{"error":{"message":"verbose_json is not implemented"}}"#),
    ] {
        let client = AsrClient::new(Behaviour::default()).await;
        let outcome = client.scripted([refusal(status, body)]).await;
        assert_eq!(text(&outcome), text_for("a.wav"), "{status} {body}");
        assert_eq!(
            (client.calls(), &*client.sim.books().file("a.wav").last_form["response_format"]),
            (2, "json")
        );
    }
    // A 500 may pass by itself: it is tried once more as it was.
    let client = AsrClient::new(Behaviour::default()).await;
    let error = refusal(500, r#"{"error":{"message":"verbose_json is not supported"}}"#);
    assert_eq!(text(&client.scripted([error.clone(), error]).await), text_for("a.wav"));
    assert_eq!(client.sim.books().file("a.wav").last_form["response_format"], "json");
}

/// One chunk that cannot be decoded, refused in words that name the form.
#[tokio::test(start_paused = true)]
async fn one_refusal_does_not_take_the_segments_of_all_others() {
    let client = AsrClient::new(Behaviour::default()).await;
    let body = r#"{"error":{"message":"could not decode this file; request was model=whisper-1 response_format=verbose_json"}}"#;
    client.sim.script("a.wav", [refusal(400, body), refusal(400, body)]);
    assert!(client.transcribe("a.wav").await.is_err());
    for file in ["b.wav", "c.wav", "d.wav"] {
        client.file(file, wav(100));
        text(&client.transcribe(file).await);
        assert_eq!(client.sim.books().file(file).last_form["response_format"], "verbose_json", "{file}");
    }
}

/// A host that has the recording a little later than the job: it answers so for five seconds, then with the audio.
async fn late_host(status: StatusCode) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let here = format!("http://{}", listener.local_addr().expect("bound"));
    let began = Instant::now();
    let router = Router::new().fallback(async move || {
        let early = began.elapsed() < secs(5);
        if early { (status, Vec::new()) } else { (StatusCode::OK, wav(2_000)) }
    });
    tokio::spawn(axum::serve(listener, router).into_future());
    here
}

#[tokio::test(start_paused = true)]
async fn a_recording_that_appears_late_is_waited_for() {
    for status in [StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::LOCKED] {
        let host = late_host(status).await;
        let world = World::new(Behaviour::default()).await;
        let sources = AudioSources { hosts: host.parse().expect("a host"), ..AudioSources::default() };
        let s3 = aws_sdk_s3::Config::builder().behavior_version(BehaviorVersion::latest()).build();
        let outbound = Outbound::new().expect("a client");
        let audio = AudioStore::new(aws_sdk_s3::Client::from_conf(s3), outbound, sources);
        let job = world.send(&world.job(&[&format!("{host}/a.wav")], false)).await;
        let running = world.work_with(Processor { audio, ..world.processor() }, limits(8));
        let ended = world.ended(job).await;
        running.stop().await;
        assert_eq!(ended.job_status, JobStatus::Completed, "{status}: {ended:?}");
        assert_eq!(ended.chunks[0].attempts, 1, "waiting costs no attempt");
    }
}

/// A WAV file of silence: 1,000 samples a second, a byte each.
pub(crate) fn silence(seconds: u32) -> Vec<u8> {
    let bytes = seconds * 1_000;
    let mut file = b"RIFF\0\0\0\0WAVEfmt ".to_vec();
    // Length of the format, PCM, one channel, samples and bytes a second, bytes and bits a sample.
    file.extend(
        [16_u32, 0x0001_0001, 1_000, 1_000, 0x0008_0001].iter().flat_map(|field| field.to_le_bytes()),
    );
    file.extend(b"data");
    file.extend(bytes.to_le_bytes());
    file.resize(file.len() + usize::try_from(bytes).expect("small"), 0x80);
    file
}

#[tokio::test(start_paused = true)]
async fn audio_that_states_too_long_a_duration_fails() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["long.wav", "short.wav"], false);
    world.file("long.wav", silence(331));
    world.file("short.wav", silence(330));
    let job = world.send(&new).await;
    let running = world.work();
    let ended = world.ended(job).await;
    running.stop().await;
    let error = ended.chunks[0].error.as_ref().expect("it failed");
    assert_eq!(error.code, ErrorCode::AudioTooLong, "{}", error.message);
    assert!(error.message.contains("331 s long, more than 330 s"), "{}", error.message);
    assert_eq!(ended.chunks[1].chunk_status, ChunkStatus::Completed);
    assert_eq!(world.sim.books().calls, 1, "the model gets only the short one");
}

#[test]
fn answers_that_are_almost_json_keep_their_text() {
    let answers: [(&[u8], &str); 8] = [
        (br#"{"text":"hello","duration":2.0,"id":1e999}"#, "hello"),
        (b"\xEF\xBB\xBF{\"text\":\"hello\",\"duration\":2.0}", "hello"),
        (
            br#"{"text":"hello","segments":[{"start":0,"end":2,"text":"hello","avg_logprob":-Infinity}]}"#,
            "hello",
        ),
        (br#"{"text":"hello","segments":[{"start":0,"end":2,"text":"hello","avg_logprob":NaN}]}"#, "hello"),
        (b"{\"text\":\"caf\xE9\",\"duration\":2.0}", "caf\u{fffd}"),
        (b"{\"text\":\"caf\xC3\",\"duration\":2.0}", "caf\u{fffd}"),
        (br#"{"text":"a\ud83d b","duration":2.0}"#, "a\u{fffd} b"),
        (b"{\"text\":\"a\nb\",\"duration\":2.0}", "a b"),
    ];
    for (body, expected) in answers {
        let read = classify(StatusCode::OK, None, body);
        assert_eq!(read.map(|words| words.text().to_owned()), Ok(expected.to_owned()));
    }
}
