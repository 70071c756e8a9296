//! Audio from S3 whose body stalls, breaks off or lies: a fault of the audio's store, and never of the model.

use std::sync::atomic::AtomicU32;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use futures::FutureExt;
use futures::future::ready;
use longhand_shared::domain::job::{ErrorCode, JobStatus, TranscribeOptions};
use longhand_shared::domain::path::AudioSources;
use longhand_shared::net::outbound::Outbound;
use longhand_shared::queue::{ChunkMessage, Progress};
use longhand_shared::store::JobStore;
use longhand_sim_asr::{Behaviour, SimAsr};
use longhand_worker::asr::{Asr, ChunkRequest, TranscribeError};
use longhand_worker::audio::{AudioError, AudioStore, ChunkAudio};
use longhand_worker::failure::Failure;
use longhand_worker::slots::HeldSlot;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support::{Op, World, asr_settings, limits, secs, wav};

/// What happens after the bytes of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    Stall,
    Close,
}

/// An S3 that gives this answer to every call.
pub(crate) async fn s3(answer: Vec<u8>, then: Then) -> AudioStore {
    s3_after(0, Vec::new(), answer, then).await
}

/// The same, but it gives another answer to so many calls first.
async fn s3_after(count: usize, first: Vec<u8>, answer: Vec<u8>, then: Then) -> AudioStore {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        for call in 0.. {
            let Ok((mut connection, _)) = listener.accept().await else { return };
            let answer = if call < count { first.clone() } else { answer.clone() };
            tokio::spawn(async move {
                let mut request = vec![0; 16 * 1024];
                let _ = connection.read(&mut request).await;
                let _ = connection.write_all(&answer).await;
                if let Then::Stall = then {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("a", "b", None, None, "test"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .build();
    let sources = AudioSources { buckets: vec!["audio".to_owned()], ..AudioSources::default() };
    AudioStore::new(aws_sdk_s3::Client::from_conf(config), Outbound::new().expect("a client"), sources)
}

fn ok(stated: usize, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\ncontent-length: {stated}\r\n\r\n").as_bytes(), body].concat()
}

pub(crate) fn refusal(status: &str, code: &str) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_or_breaks_off_never_reaches_the_model() {
    for then in [Then::Stall, Then::Close] {
        let audio = s3(ok(1_000_000, &wav(64 * 1024)), then).await;
        let sim = SimAsr::start(Behaviour::default()).await.expect("a port");
        let asr = Asr::new(asr_settings(sim.base_url())).expect("a client");
        let path = "s3://audio/a.wav".parse().expect("a path");
        let request = ChunkRequest {
            audio: &ChunkAudio::new(&audio, &path),
            options: &TranscribeOptions::default(),
            traceparent: None,
            progress: Progress::default(),
            first_delivery: true,
            slot: &HeldSlot::default(),
            calls: &AtomicU32::new(0),
            failed: &watch::Sender::new(None),
            still_ours: &|| ready(true).boxed(),
        };
        match asr.transcribe(&request).await {
            Err(TranscribeError::GivenBack { failure, progress, .. }) => {
                assert_eq!((failure, progress), (Failure::AudioUnavailable, Progress::default()), "{then:?}");
            }
            other => panic!("{then:?}: {other:?}"),
        }
        assert_eq!(sim.books().calls, 0, "{then:?}");
        assert!(asr.guard().is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn each_refusal_of_s3_has_its_meaning() {
    let path = "s3://audio/a.wav".parse().expect("a path");
    let open = async |answer| match s3(answer, Then::Close).await.open(&path).await {
        Err(error) => error,
        Ok(audio) => panic!("{} was opened", audio.name),
    };
    let not_found = open(refusal("404 Not Found", "NoSuchKey")).await;
    assert!(matches!(not_found, AudioError::Bad(error) if error.code == ErrorCode::AudioNotFound));
    let forbidden = open(refusal("403 Forbidden", "AccessDenied")).await;
    assert!(
        matches!(&forbidden, AudioError::NotYet(error) if error.code == ErrorCode::AudioForbidden),
        "a policy may be corrected: {forbidden:?}"
    );
    // The bucket is elsewhere: S3 redirects, or refuses a signature for this region.
    for (status, code) in
        [("301 Moved Permanently", "PermanentRedirect"), ("400 Bad Request", "AuthorizationHeaderMalformed")]
    {
        let elsewhere = open(refusal(status, code)).await;
        assert!(
            matches!(&elsewhere, AudioError::NotYet(error) if error.code == ErrorCode::AudioForbidden
                && error.message.contains("another region")),
            "{elsewhere:?}"
        );
    }
    let named = b"HTTP/1.1 301 x\r\nx-amz-bucket-region: eu-north-1\r\ncontent-length: 0\r\n\r\n".to_vec();
    let named = open(named).await;
    assert!(
        matches!(&named, AudioError::NotYet(error) if error.message.contains("another region (eu-north-1)")),
        "{named:?}"
    );
    let new_bucket = open(refusal("307 Temporary Redirect", "TemporaryRedirect")).await;
    assert!(matches!(&new_bucket, AudioError::Unavailable(_)), "{new_bucket:?}");
    let too_large = open(ok(6_000_000, b"")).await;
    assert!(matches!(too_large, AudioError::Bad(error) if error.code == ErrorCode::AudioTooLarge));
}

/// S3's own events name keys URL-encoded; here a key is taken as it is.
#[tokio::test(start_paused = true)]
async fn a_missing_key_that_looks_encoded_gets_a_hint() {
    for (path, hinted) in
        [("s3://audio/a%20b.wav", true), ("s3://audio/a+b.wav", true), ("s3://audio/a b.wav", false)]
    {
        for (status, code) in [("404 Not Found", "NoSuchKey"), ("403 Forbidden", "AccessDenied")] {
            let store = s3(refusal(status, code), Then::Close).await;
            let opened = store.open(&path.parse().expect("a path")).await.map(|audio| audio.name);
            let Err(AudioError::Bad(error) | AudioError::NotYet(error)) = opened else {
                panic!("{opened:?}")
            };
            assert_eq!(error.message.contains("the path looks URL-encoded"), hinted, "{}", error.message);
        }
    }
}

/// Turns for other reasons, such as throttling and shutdowns, say nothing about the audio.
#[tokio::test(start_paused = true)]
async fn only_its_own_turns_count_against_audio() {
    let sound = wav(2_000);
    let world = World::new(Behaviour::default()).await;
    let mut processor = world.processor();
    let refused = refusal("403 Forbidden", "AccessDenied");
    processor.audio = s3_after(3, refused, ok(sound.len(), &sound), Then::Close).await;
    let new = world.job(&["s3://audio/a.wav"], false);
    world.store.create(&new, new.submitted.plus(secs(3_000))).await.expect("memory answers");
    let mut message = ChunkMessage::outgoing(&new.job(), &new.chunks()[0], None);
    message.envelope.requeues = 200;
    world.queue.put(&[message]).await;
    let running = world.work_with(processor, limits(8));
    assert_eq!(world.ended(new.id).await.job_status, JobStatus::Completed);
    running.stop().await;
}

/// A wrong policy must not fail the whole backlog at once, and a chunk must end.
#[tokio::test(start_paused = true)]
async fn audio_that_may_not_be_read_is_waited_for_ten_times() {
    let sound = wav(2_000);
    for (refusals, expected) in [(3, JobStatus::Completed), (usize::MAX, JobStatus::Failed)] {
        let world = World::new(Behaviour::default()).await;
        let refused = refusal("403 Forbidden", "AccessDenied");
        let mut processor = world.processor();
        processor.audio = s3_after(refusals, refused, ok(sound.len(), &sound), Then::Close).await;
        let job = world.send(&world.job(&["s3://audio/a.wav"], false)).await;
        let running = world.work_with(processor, limits(8));
        let result = world.ended(job).await;
        running.stop().await;
        assert_eq!(result.job_status, expected);
        let chunk = &result.chunks[0];
        assert_eq!(chunk.attempts, 1, "waiting costs no attempt");
        if expected == JobStatus::Failed {
            let error = chunk.error.as_ref().expect("it failed");
            assert_eq!(error.code, ErrorCode::AudioForbidden);
            assert!(
                error.message.starts_with("gave up after returning the message to the queue 10 times"),
                "{}",
                error.message
            );
            assert_eq!(world.store.count(Op::Claim), 11);
        }
    }
}
