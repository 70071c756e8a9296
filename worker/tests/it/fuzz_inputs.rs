//! What comes from outside, damaged: ten thousand answers of the model and two thousand beginnings of audio. Nothing
//! panics, no text that can be read is lost, every chunk ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use longhand_api::captions::Timeline;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::{Chunk, ChunkState, JobStatus, Transcription, Verdict};
use longhand_shared::domain::media::{self, Format};
use longhand_shared::{ChunkIndex, Timestamp};
use longhand_sim_asr::Behaviour;
use longhand_worker::asr::answer::classify;
use longhand_worker::audio::AudioError;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::formats::encoded;
use crate::fuzz::seed;
use crate::support::{World, asr_settings, audio_store, limits};

const ANSWERS: usize = 10_000;
const HEADS: usize = 2_000;

/// Words that are looked for: each is there once in every answer.
const WORDS: [&str; 6] = ["winter", "<paper>", "caf\u{e9}", "\u{8a9e}\u{5b66}", "sig\\\"nal", "end."];

/// A time as models write it, good and bad.
fn time(dice: &mut StdRng) -> String {
    let odd = [
        "null",
        "NaN",
        "-Infinity",
        "1e999",
        "-0.02",
        "\"1.5\"",
        "\"\"",
        "{}",
        "-1e9",
        "true",
        "99999999999999999999",
    ];
    match dice.random_range(0..3) {
        0 => (*odd.choose(dice).expect("some")).to_owned(),
        _ => format!("{:.2}", dice.random_range(0.0..30.0)),
    }
}

/// An answer whose text can be read, whatever is around it.
fn readable(dice: &mut StdRng) -> Vec<u8> {
    let pause = |dice: &mut StdRng| *[" ", "\n", "\t", "\r\n", "  "].choose(dice).expect("some");
    let text = WORDS.iter().fold(String::new(), |text, word| text + pause(dice) + word);
    let mut fields = vec![format!("\"text\":\"{text}\"")];
    if dice.random() {
        fields.push(format!("\"duration\":{}", time(dice)));
    }
    if dice.random() {
        let kept = WORDS.iter().filter(|_| dice.random_ratio(9, 10)).copied().collect::<Vec<_>>();
        let segment = |word: &&str, dice: &mut StdRng| {
            let (start, end) = (time(dice), time(dice));
            format!("{{\"start\":{start},\"text\":\" {word}\",\"avg_logprob\":{},\"end\":{end}}}", time(dice))
        };
        let mut segments: Vec<String> = kept.iter().map(|word| segment(word, dice)).collect();
        if dice.random_ratio(1, 5) {
            segments.insert(
                0,
                ["7", "null", "{}", "{\"text\":null}", "[]"]
                    .choose(dice)
                    .map(ToString::to_string)
                    .expect("some"),
            );
        }
        fields.push(format!("\"segments\":[{}]", segments.join(",")));
    }
    let odd = [
        "\"language\":\"en\"",
        "\"x\":[NaN,-NaN,nan,Infinity]",
        "\"id\":1e999",
        "\"half\":\"\\ud83d\"",
        "\"words\":null",
        "\"bell\":\"\u{7}\u{0}\"",
        "\"deep\":[[[[{}]]]]",
        "\"segments_\":{}",
        "\"odd\":\"\\q\"",
    ];
    for _ in 0..dice.random_range(0..4) {
        fields.push((*odd.choose(dice).expect("some")).to_owned());
    }
    for place in (1..fields.len()).rev() {
        fields.swap(place, dice.random_range(0..=place));
    }
    let mut body = format!("{{{}}}", fields.join(&format!(",{}", pause(dice)))).into_bytes();
    if dice.random_ratio(1, 4) {
        // A byte that is not UTF-8, between two words.
        let at = body.windows(6).position(|part| part == b"winter").expect("it is there");
        body.insert(at + 6, b' ');
        body.insert(at + 7, *[0xE9, 0xFF, 0xC3, 0x80].choose(dice).expect("some"));
    }
    if dice.random_ratio(1, 4) {
        body.splice(..0, *b"\xEF\xBB\xBF");
    }
    body
}

/// The same with some bytes changed, lost or doubled.
fn damaged(dice: &mut StdRng, mut body: Vec<u8>) -> Vec<u8> {
    for _ in 0..dice.random_range(1..5) {
        let at = dice.random_range(0..body.len().max(1));
        match dice.random_range(0..5) {
            0 => body.truncate(at),
            1 if at < body.len() => body[at] = dice.random(),
            2 if at < body.len() => body[at] ^= 1 << dice.random_range(0..8),
            3 => {
                let end = (at + dice.random_range(1..9)).min(body.len());
                body.drain(at.min(end)..end);
            }
            _ => {
                let part = body[at.min(body.len())..(at + 9).min(body.len())].to_vec();
                body.splice(at.min(body.len())..at.min(body.len()), part);
            }
        }
    }
    body
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// Everything that is in the text is in the captions.
#[track_caller]
fn assert_shown(words: &Transcription) {
    let mut chunk = Chunk::new(ChunkIndex::first(1).next().expect("one"), "a.wav".parse().expect("a path"));
    chunk.state =
        ChunkState::Settled { at: Timestamp::from_unix(0), verdict: Verdict::Completed(words.clone()) };
    let timeline = Timeline::new(&[chunk]);
    let shown: String = timeline.segments.iter().map(|cue| cue.text.as_str()).collect();
    let visible = |text: &str| letters(text).chars().filter(|c| !c.is_control()).collect::<String>();
    assert_eq!(visible(&shown), visible(words.text()));
    assert!(timeline.segments.iter().all(|cue| cue.start < cue.end), "{:?}", timeline.segments);
    assert!(timeline.segments.is_sorted_by(|one, next| one.end <= next.start), "{:?}", timeline.segments);
    assert!(!timeline.vtt(Some(42)).is_empty() && (shown.is_empty() || !timeline.srt(None).is_empty()));
}

#[test]
fn ten_thousand_damaged_answers_lose_no_text_that_can_be_read() {
    eprintln!("LONGHAND_TEST_SEED={}", seed());
    let mut dice = StdRng::seed_from_u64(seed());
    let (mut read, mut refused) = (0, 0);
    for turn in 0..ANSWERS {
        let body = readable(&mut dice);
        if turn % 2 == 0 {
            let words = classify(StatusCode::OK, None, &body)
                .unwrap_or_else(|error| panic!("{}: {error:?}", String::from_utf8_lossy(&body)));
            for word in WORDS {
                let word = word.replace('\\', "");
                assert!(words.text().contains(&word), "{word} of {}", String::from_utf8_lossy(&body));
            }
            assert_shown(&words);
            continue;
        }
        let body = damaged(&mut dice, body);
        let status = if turn % 20 == 1 { dice.random_range(200..600) } else { 200 };
        let status = StatusCode::from_u16(status).expect("a status");
        let answer = classify(status, None, &body);
        // What any reader of JSON can read has to be read here.
        let json = serde_json::from_slice::<Value>(&body).ok();
        let plain = json.as_ref().and_then(|json| json.get("text")?.as_str()).filter(|_| status.is_success());
        match answer {
            Ok(words) => {
                assert!(status.is_success());
                assert!(plain.is_none_or(|plain| plain.trim() == words.text()), "{plain:?}");
                assert_shown(&words);
                read += 1;
            }
            Err(error) => {
                assert_eq!(plain, None, "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(read > ANSWERS / 20 && refused > ANSWERS / 20, "{read} read, {refused} refused");
}

/// A model that gives these answers in turn, and the last one for ever.
async fn answering(answers: Vec<(u16, Vec<u8>)>) -> String {
    type Answers = Arc<Mutex<VecDeque<(u16, Vec<u8>)>>>;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let here = format!("http://{}", listener.local_addr().expect("bound"));
    let answer = async |State(answers): State<Answers>, request: Request| {
        let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        let mut answers = answers.lock().expect("nobody panics");
        let (status, body) =
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.expect("some");
        (StatusCode::from_u16(status).expect("a status"), body)
    };
    let answers: Answers = Arc::new(Mutex::new(answers.into()));
    tokio::spawn(axum::serve(listener, Router::new().fallback(answer).with_state(answers)).into_future());
    here
}

#[tokio::test(start_paused = true)]
async fn every_chunk_ends_whatever_the_model_answers() {
    eprintln!("LONGHAND_TEST_SEED={}", seed());
    let mut dice = StdRng::seed_from_u64(seed());
    let mut answers: Vec<_> = (0..600)
        .map(|_| {
            let body = readable(&mut dice);
            let body = if dice.random() { damaged(&mut dice, body) } else { body };
            let status = [200, 200, 200, 400, 404, 413, 429, 500, 502, 529][dice.random_range(0..10)];
            (status, body)
        })
        .collect();
    answers.push((200, b"{\"text\":\"late\"}".to_vec()));
    let world = World::new(Behaviour::default()).await;
    let asr = asr_settings(answering(answers).await);
    let names: Vec<String> = (0..MAX_CHUNKS).map(|index| format!("{index}.wav")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let running = world.work_with(world.processor_with(asr), limits(8));
    let consumer = world.consume_dead_letters();
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(world.submit(&names).await);
    }
    let mut texts = 0;
    for job in jobs {
        let result = world.ended(job).await;
        assert!(matches!(result.job_status, JobStatus::Completed | JobStatus::Failed));
        let failed = result.chunks.iter().filter(|chunk| chunk.error.is_some()).count();
        let completed = result.chunks.iter().filter(|chunk| chunk.completed_time.is_some()).count();
        assert_eq!(completed, MAX_CHUNKS, "{failed} failed: {result:?}");
        texts += MAX_CHUNKS - failed;
    }
    running.stop().await;
    consumer.stop().await;
    assert!(texts > 100, "{texts} chunks have a text");
}

#[tokio::test]
async fn two_thousand_damaged_beginnings_of_audio_panic_nowhere() {
    eprintln!("LONGHAND_TEST_SEED={}", seed());
    let mut dice = StdRng::seed_from_u64(seed());
    let root = tempfile::tempdir().expect("a folder");
    let store = audio_store(root.path());
    let path = "a.wav".parse().expect("a path");
    let seeds: Vec<Vec<u8>> = [
        "-f wav",
        "-f mp3",
        "-c:a aac -f ipod",
        "-c:a libopus -f webm",
        "-c:a libopus -f ogg",
        "-f flac",
        "-c:a aac -f adts",
        "-c:a aac -f mpegts",
        "-f aiff",
        "-f caf",
    ]
    .map(encoded)
    .to_vec();
    let (mut known, mut unknown, mut refused) = (0, 0, 0);
    for _ in 0..HEADS {
        let good = seeds.choose(&mut dice).expect("some").clone();
        let bytes = damaged(&mut dice, good);
        // Most damage is to the first bytes: they matter most.
        let mut bytes = bytes;
        for _ in 0..dice.random_range(0..4) {
            let last = bytes.len().min(64);
            if last > 0 {
                bytes[dice.random_range(0..last)] = dice.random();
            }
        }
        match media::detect(&bytes) {
            Ok(Format::Unknown) => unknown += 1,
            Ok(_) => known += 1,
            Err(_) => refused += 1,
        }
        std::fs::write(root.path().join("a.wav"), &bytes).expect("written");
        match store.open(&path).await {
            Ok(audio) => assert_eq!(audio.bytes, bytes.len() as u64),
            Err(AudioError::Bad(error)) => assert!(!error.message.is_empty()),
            Err(other) => panic!("{other:?}: the file is there and can be read"),
        }
    }
    assert!(known > HEADS / 2 && refused < HEADS / 10, "{known} known, {unknown} not, {refused} refused");
}
