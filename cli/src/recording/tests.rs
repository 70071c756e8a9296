//! Real recordings through ffmpeg.

use std::ops::Range;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

const FILES: [&str; 6] = ["lv_0870", "lv_0880", "lv_0890", "lv_0920", "lv_0930", "jfk"];

/// The samples of a recording of `localstack/samples`.
fn spoken(name: &str) -> Vec<i16> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../localstack/samples/{name}.wav"));
    let wav = std::fs::read(path).expect("a sample");
    let data = wav.windows(4).position(|tag| tag == b"data").expect("samples") + 8;
    wav[data..].as_chunks().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect()
}

/// A WAV file with these samples.
fn wav(folder: &TempDir, samples: &[i16]) -> PathBuf {
    let bytes = u32::try_from(samples.len() * 2).expect("short");
    let mut file = Vec::new();
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(bytes + 36).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend_from_slice(&[16_000_u32.to_le_bytes(), 32_000_u32.to_le_bytes()].concat());
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&bytes.to_le_bytes());
    file.extend(samples.iter().copied().flat_map(i16::to_le_bytes));
    let path = folder.path().join("talk.wav");
    std::fs::write(&path, file).expect("written");
    path
}

/// The samples in turn with gaps of 0.8 to 1.6 s, for at least this long, and where the gaps are.
fn talk_with_gaps(seconds: usize) -> (Vec<i16>, Vec<Range<u64>>) {
    let (mut talk, mut gaps) = (Vec::new(), Vec::new());
    let files = FILES.map(spoken);
    for turn in 0.. {
        if talk.len() >= seconds * 16_000 {
            break;
        }
        talk.extend_from_slice(&files[turn * 5 % files.len()]);
        let start = talk.len();
        talk.resize(start + 12_800 + turn * 7919 % 12_800, 0);
        gaps.push(start as u64..talk.len() as u64);
    }
    // An odd length: the last frame is incomplete.
    talk.push(0);
    (talk, gaps)
}

async fn decoded(samples: &[i16]) -> Recording {
    let folder = tempfile::tempdir().expect("a folder");
    Recording::decode(&wav(&folder, samples), "talk.wav", Some(60.0)).await.expect("decoded")
}

fn assert_whole(recording: &Recording, samples: usize) {
    let starts = recording.pieces.iter().map(|piece| piece.0.start);
    let ends: Vec<_> = recording.pieces.iter().map(|piece| piece.0.end).collect();
    assert!(starts.eq(std::iter::once(0).chain(ends.iter().copied()).take(ends.len())), "{recording:?}");
    assert_eq!(ends.last(), Some(&(samples as u64)));
    assert!(recording.pieces.iter().all(|piece| piece.end() - piece.start() <= 290.0), "{recording:?}");
}

#[tokio::test]
async fn every_cut_is_in_a_gap_and_no_sample_is_lost() {
    let (talk, gaps) = talk_with_gaps(1_000);
    let recording = decoded(&talk).await;
    assert_whole(&recording, talk.len());
    assert!(recording.pieces.len() >= 4, "{recording:?}");
    for piece in &recording.pieces[1..] {
        assert!(gaps.iter().any(|gap| gap.contains(&piece.0.start)), "{piece:?}");
    }
}

#[tokio::test]
async fn an_encoded_piece_has_exactly_its_length_and_its_times() {
    let (talk, gaps) = talk_with_gaps(310);
    let recording = decoded(&talk).await;
    let folder = tempfile::tempdir().expect("a folder");
    for piece in &recording.pieces {
        let encoded = recording.encode(piece).await.expect("encoded");
        let path = folder.path().join("piece.ogg");
        std::fs::write(&path, &encoded).expect("written");
        let (mut samples, mut levels) = (0, Vec::new());
        ffmpeg::decode(&path, |block| {
            samples += block.len() as u64 / SAMPLE;
            levels.extend(levels::of(block));
            Ok(())
        })
        .await
        .expect("decoded");
        assert_eq!(samples, piece.0.end - piece.0.start);
        // 40 kbit/s at most.
        assert!(encoded.len() as u64 * 16_000 <= 5_000 * samples, "{} bytes", encoded.len());
        // The gaps are where they were, to 20 ms.
        let inside = gaps.iter().filter(|gap| piece.0.contains(&gap.start) && piece.0.contains(&gap.end));
        for gap in inside {
            let frame = |at: u64| usize::try_from((at - piece.0.start) / 320).expect("short");
            let (start, end) = (frame(gap.start), frame(gap.end));
            assert!(levels[start + 3..end - 2].iter().all(|level| *level < -55.0), "{gap:?}");
            let speech = levels.get(end + 1..end + 26);
            assert!(speech.is_none_or(|speech| speech.iter().any(|level| *level > -50.0)), "{gap:?}");
        }
    }
}

#[tokio::test]
async fn speech_without_gaps_is_cut_between_words() {
    let talk: Vec<_> = FILES.map(spoken).concat().repeat(9);
    let recording = decoded(&talk).await;
    assert_whole(&recording, talk.len());
    let bytes: Vec<_> = talk.iter().copied().flat_map(i16::to_le_bytes).collect();
    let levels: Vec<_> = levels::of(&bytes).collect();
    let mut sorted = levels.clone();
    sorted.sort_by(f32::total_cmp);
    let quiet = sorted[levels.len() / 10];
    for piece in &recording.pieces[1..] {
        let frame = usize::try_from(piece.0.start / 320).expect("short");
        let around = &levels[frame - 7..frame + 7];
        assert!(around.iter().all(|level| *level <= quiet + 6.0), "{quiet} {around:?}");
    }
}

#[tokio::test]
async fn sound_that_begins_late_keeps_its_times() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = wav(&folder, &spoken("jfk"));
    let late = folder.path().join("late.mkv");
    let mut command = tokio::process::Command::new("ffmpeg");
    command.args([
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "color=size=16x16:duration=13",
        "-itsoffset",
        "2",
        "-i",
    ]);
    let made = command.arg(plain).args(["-c:a", "flac"]).arg(&late).status().await.expect("ffmpeg runs");
    assert!(made.success());
    let recording = Recording::decode(&late, "late.mkv", None).await.expect("decoded");
    assert!((12.9..13.1).contains(&recording.seconds()), "{recording:?}");
}

#[tokio::test]
async fn what_cannot_be_decoded_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("noise.mp3");
    std::fs::write(&path, "not audio").expect("written");
    let error = Recording::decode(&path, "noise.mp3", None).await.expect_err("not audio");
    assert!(error.contains("ffmpeg could not process it"), "{error}");
    assert!(stated_seconds(&path).await.is_err());
    let empty = wav(&folder, &[]);
    let error = Recording::decode(&empty, "talk.wav", None).await.expect_err("no sound");
    assert_eq!(error, "contains no audio");
}

#[tokio::test]
async fn the_stated_length_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = wav(&folder, &spoken("jfk"));
    assert_eq!(stated_seconds(&path).await, Ok(Some(11.0)));
    assert_eq!(clock(3_725.9), "1h02m05s");
}
