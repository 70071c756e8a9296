//! The text of a job with its times, for captions and for JSON.
//!
//! A chunk begins where the previous one ends, so its times are shifted by the lengths of all previous chunks. A length
//! is what the model measured. Without a measured length it is *estimated*: the end of the chunk's last segment, else
//! the time that its text takes to speak, else one second (a gap). Words whose times rest on an estimate make
//! [`Timeline::times_exact`] false, which clients see as `timesExact` in JSON and as a header with captions. So do
//! times that Longhand repaired, and segments with other words than the text.

mod format;
mod split;
#[cfg(test)]
mod tests;

use longhand_shared::domain::id::ChunkIndex;
use longhand_shared::domain::job::{Chunk, Transcription, Word};
use longhand_shared::domain::stitch::{join, text_or_mark};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

pub use split::DEFAULT_LINE_CHARS;

/// The assumed speed of speech: 15 bytes of UTF-8 a second are as many Latin letters, or five Chinese characters.
const BYTES_PER_SECOND: u64 = 15;

/// The shortest estimate, in milliseconds: long enough to read a mark or a word.
const LEAST_ESTIMATE: u64 = 1000;

/// The segments of a job, in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// By time: none begins before the previous one.
    pub segments: Vec<Cue>,
    /// `false`: the time of a word rests on an estimated length or was repaired, or segments have other words than the
    /// text.
    pub times_exact: bool,
    /// The first chunk whose length is estimated.
    #[serde(skip)]
    estimated: Option<ChunkIndex>,
}

/// A segment: text with its times, or a mark for a chunk without text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cue {
    /// The index of its chunk.
    pub chunk: ChunkIndex,
    /// Seconds from the beginning of the first chunk, or of the recording if the job has a `startOffset`.
    // Milliseconds here, seconds in JSON.
    #[serde(serialize_with = "seconds")]
    #[schema(value_type = f64)]
    pub start: u64,
    /// In seconds, from the same beginning as `start`. After `start`.
    #[serde(serialize_with = "seconds")]
    #[schema(value_type = f64)]
    pub end: u64,
    /// The text, on one line; never empty.
    pub text: String,
    /// `true`: the chunk failed or is not done yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gap: bool,
    /// The speaker, as the model names them in this chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// How sure the model is of the text, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// The words, with `?words=true`, if the model returned them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<CueWord>,
    /// Whether its times rest on any estimate.
    #[serde(skip)]
    estimated: bool,
    /// Whether its times rest on the estimated length of its chunk or of an earlier one.
    #[serde(skip)]
    length_estimated: bool,
}

/// A word with its time.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CueWord {
    /// With its punctuation.
    pub word: String,
    /// In seconds, from the same beginning as the segment's `start`.
    #[serde(serialize_with = "seconds")]
    #[schema(value_type = f64)]
    pub start: u64,
    /// In seconds, from the same beginning as the segment's `start`. Not before the word's `start`.
    #[serde(serialize_with = "seconds")]
    #[schema(value_type = f64)]
    pub end: u64,
    /// How sure the model is of the word, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// The speaker, if the model names one for each word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
}

impl Timeline {
    /// `chunks` are all chunks of a job, in order of index.
    pub fn new(chunks: &[Chunk]) -> Self {
        let mut segments = Vec::new();
        let mut begin = 0;
        let mut estimated = None;
        for chunk in chunks {
            let text = text_or_mark(chunk);
            let gap = text.is_err();
            let (measured, length, mut spoken, text) = match text {
                Ok(words) => {
                    let measured = measured(words);
                    let length = measured.unwrap_or_else(|| estimate(words));
                    (measured, length, spoken(chunk.index, words, length), line(words.text()))
                }
                Err(mark) => (None, LEAST_ESTIMATE, Vec::new(), mark),
            };
            // Segments with other words than the text do not replace it.
            let differ = !gap && !spoken.is_empty() && !same_words(&spoken, &text);
            if differ {
                spoken.clear();
            }
            // An estimated length shifts what follows, and is the end of a text without segments.
            let length_estimated = estimated.is_some() || (measured.is_none() && spoken.is_empty());
            if measured.is_none() {
                estimated = estimated.or(Some(chunk.index));
            }
            if spoken.is_empty() && !text.is_empty() {
                spoken.push(Cue { chunk: chunk.index, end: length, text, gap, ..Cue::default() });
            }
            for cue in &mut spoken {
                cue.length_estimated = length_estimated;
                cue.estimated |= length_estimated || differ;
                cue.shift(begin);
            }
            segments.append(&mut spoken);
            begin += length;
        }
        separate(&mut segments);
        let times_exact = !segments.iter().any(Cue::is_estimated_speech);
        Self { segments, times_exact, estimated }
    }

    /// The same with all times later by `seconds`.
    #[must_use]
    pub fn starting_at(mut self, seconds: f64) -> Self {
        let by = millis(seconds);
        for cue in &mut self.segments {
            cue.shift(by);
        }
        self
    }

    /// The same without words.
    #[must_use]
    pub fn without_words(mut self) -> Self {
        for cue in &mut self.segments {
            cue.words.clear();
        }
        self
    }

    /// The text, with a line for each turn of a speaker.
    pub fn text_by_speaker(&self) -> String {
        let turns = self.segments.chunk_by(|a, b| a.speaker == b.speaker);
        let turn = |cues: &[Cue]| cues[0].named(&join(cues.iter().map(|cue| cue.text.as_str())));
        turns.map(turn).collect::<Vec<_>>().join("\n")
    }

    /// Whether some of the text is missing.
    pub fn partial(&self) -> bool {
        self.segments.iter().any(|cue| cue.gap)
    }
}

impl Cue {
    fn is_estimated_speech(&self) -> bool {
        self.estimated && !self.gap
    }

    /// Moves its times and those of its words.
    fn shift(&mut self, by: u64) {
        self.start += by;
        self.end += by;
        for word in &mut self.words {
            word.start += by;
            word.end += by;
        }
    }
}

/// The length that the model measured. Zero is not a length of a chunk that has text.
fn measured(words: &Transcription) -> Option<u64> {
    words.duration_seconds().map(millis).filter(|length| *length > 0 || words.text().is_empty())
}

fn estimate(words: &Transcription) -> u64 {
    let end = words.segments().iter().map(|segment| millis(segment.end)).max();
    end.unwrap_or_else(|| (words.text().len() as u64 * 1000 / BYTES_PER_SECOND).max(LEAST_ESTIMATE))
}

/// The segments that have text, by their beginnings, with their times within the chunk. Models round up: none ends after
/// its chunk.
fn spoken(chunk: ChunkIndex, words: &Transcription, length: u64) -> Vec<Cue> {
    let within = |seconds| millis(seconds).min(length);
    let word = |word: &Word| CueWord {
        word: line(&word.text),
        start: within(word.start),
        end: within(word.end),
        confidence: word.confidence,
        speaker: word.speaker.clone(),
    };
    let mut spoken: Vec<_> = words
        .segments()
        .iter()
        .map(|segment| Cue {
            chunk,
            start: within(segment.start),
            end: within(segment.end),
            text: line(&segment.text),
            speaker: segment.speaker.as_deref().map(line),
            confidence: segment.confidence,
            words: segment.words.iter().map(word).collect(),
            estimated: segment.repaired,
            ..Cue::default()
        })
        .filter(|segment| !segment.text.is_empty())
        .collect();
    spoken.sort_by_key(|segment| segment.start);
    spoken
}

/// Whether the segments have the words of the text in its order. Servers differ in spaces.
fn same_words(spoken: &[Cue], text: &str) -> bool {
    let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    spoken.iter().map(|segment| letters(&segment.text)).collect::<String>() == letters(text)
}

/// Players show cues that overlap on top of each other, and cues without a length not at all: so neither remains.
fn separate(cues: &mut [Cue]) {
    let mut free_from = 0;
    for place in 0..cues.len() {
        let next = cues.get(place + 1).map(|next| next.start);
        let cue = &mut cues[place];
        cue.start = cue.start.max(free_from);
        let end = next.map_or(cue.end, |next| cue.end.min(next));
        cue.end = end.max(cue.start + 1);
        free_from = cue.end;
    }
}

/// A text on one line: a blank line would end its cue.
fn line(text: &str) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let parts = text.split(breaks).map(str::trim).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and NaN is 0"
)]
fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0).round().min(1e12) as u64
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
#[expect(clippy::cast_precision_loss, reason = "at most 1e14")]
fn seconds<S: Serializer>(millis: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(*millis as f64 / 1000.0)
}
