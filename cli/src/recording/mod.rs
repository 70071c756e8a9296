//! Long recordings: decoded once, cut at pauses, and encoded piece by piece.

mod cuts;
mod ffmpeg;
mod levels;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use crate::progress;

pub(crate) use ffmpeg::stated_seconds;

/// The most seconds of a chunk.
pub(crate) const MAX_SECONDS: f64 = 300.0;

/// Bytes of a sample.
const SAMPLE: u64 = 2;

/// A decoded recording and its pieces.
#[derive(Debug)]
pub(crate) struct Recording {
    /// 16 kHz, mono, 16 bit. It has no name, so it is gone when the process ends, however it ends.
    pcm: File,
    pub(crate) pieces: Vec<Piece>,
}

/// A part of a recording, in samples from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece(Range<u64>);

impl Recording {
    /// Decodes a file and chooses where to cut it. `stated` is its length in seconds, for the progress bar.
    pub(crate) async fn decode(path: &Path, name: &str, stated: Option<f64>) -> Result<Self, String> {
        let mut pcm = tempfile::tempfile().map_err(|error| not_kept(&error))?;
        let bar = progress::steps(&format!("decoding {name}, seconds"), whole_seconds(stated));
        let (mut levels, mut samples) = (Vec::new(), 0);
        ffmpeg::decode(path, |block| {
            pcm.write_all(block).map_err(|error| not_kept(&error))?;
            levels.extend(levels::of(block));
            samples += block.len() as u64 / SAMPLE;
            bar.set_position(samples / ffmpeg::RATE);
            Ok(())
        })
        .await?;
        if samples == 0 {
            return Err("contains no audio".to_owned());
        }
        let frame = levels::FRAME_SAMPLES as u64;
        let piece = |frames: Range<usize>| {
            Piece(frames.start as u64 * frame..(frames.end as u64 * frame).min(samples))
        };
        let pieces = cuts::pieces(&levels).into_iter().map(piece).collect();
        Ok(Self { pcm, pieces })
    }

    /// The length in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.pieces.last().map_or(0.0, Piece::end)
    }

    /// A piece as Ogg Opus, with exactly its length.
    pub(crate) async fn encode(&self, piece: &Piece) -> Result<Bytes, String> {
        let length = usize::try_from(piece.samples() * SAMPLE).map_err(|error| error.to_string())?;
        let mut samples = vec![0; length];
        self.pcm.read_exact_at(&mut samples, piece.0.start * SAMPLE).map_err(|error| not_kept(&error))?;
        ffmpeg::encode(samples).await
    }
}

impl Piece {
    /// Seconds from the beginning of the recording.
    pub(crate) fn start(&self) -> f64 {
        seconds(self.0.start)
    }

    /// Seconds from the beginning of the recording.
    pub(crate) fn end(&self) -> f64 {
        seconds(self.0.end)
    }

    pub(crate) fn samples(&self) -> u64 {
        self.0.end - self.0.start
    }
}

/// Hours, minutes and seconds.
pub(crate) fn clock(seconds: f64) -> String {
    let seconds = whole_seconds(Some(seconds));
    format!("{}h{:02}m{:02}s", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[expect(clippy::cast_precision_loss, reason = "2^53 samples are thousands of years")]
pub(crate) fn seconds(samples: u64) -> f64 {
    samples as f64 / ffmpeg::RATE as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and NaN is 0"
)]
fn whole_seconds(seconds: Option<f64>) -> usize {
    seconds.unwrap_or_default() as usize
}

fn not_kept(error: &io::Error) -> String {
    let folder = std::env::temp_dir();
    format!(
        "the decoded audio cannot be written to {}: {error}. It needs 115 MB an hour; set TMPDIR to use another folder",
        folder.display()
    )
}
