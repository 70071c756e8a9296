//! What is said when, in the time of the whole job: for captions and for JSON. Pure.
//!
//! A chunk begins where the one before ends, so its times are moved by the lengths of all chunks before
//! it. A length is what the model measured. Where it measured none, the length is *estimated*: the end of
//! the chunk's last segment, else the time that its text takes to speak, else one second (a gap). Words
//! whose times rest on an estimate make [`Timeline::times_exact`] false, and the captions say so.

use std::fmt::Write;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::id::ChunkIndex;
use crate::job::{Chunk, Transcription};
use crate::stitch::said;

/// How fast people speak, where nothing was measured: 15 bytes of UTF-8 a second are as many Latin
/// letters, or five Chinese characters.
const BYTES_PER_SECOND: u64 = 15;

/// The least estimate, in milliseconds, so that a mark or a word can be read.
const LEAST_ESTIMATE: u64 = 1000;

/// What is said in a job, in order, with its times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// By time; none begins before the one that it follows.
    pub segments: Vec<Cue>,
    /// Whether the time of every word rests on measured lengths alone.
    pub times_exact: bool,
    /// The first chunk whose length is estimated.
    #[serde(skip)]
    estimated: Option<ChunkIndex>,
}

/// A stretch of speech, or the mark of a chunk that has no text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cue {
    /// The chunk that it is from.
    pub chunk: ChunkIndex,
    /// Milliseconds from the beginning of the job; in JSON, seconds.
    #[serde(serialize_with = "seconds")]
    #[schema(value_type = f64)]
    pub start: u64,
    /// Likewise; after `start`.
    #[serde(serialize_with = "seconds")]
    #[schema(value_type = f64)]
    pub end: u64,
    /// What is said, on one line; never empty.
    pub text: String,
    /// Whether this stands for a chunk that failed or is not done yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gap: bool,
    /// Whether its times rest on an estimate.
    #[serde(skip)]
    estimated: bool,
}

impl Timeline {
    /// All chunks of a job (in order of index), one after the other.
    pub fn new(chunks: &[Chunk]) -> Self {
        let mut segments = Vec::new();
        let mut begin = 0;
        let mut estimated = None;
        for chunk in chunks {
            let said = said(chunk);
            let gap = said.is_err();
            let (measured, length, mut spoken, text) = match said {
                Ok(words) => {
                    let measured = measured(words);
                    let length = measured.unwrap_or_else(|| estimate(words));
                    (measured, length, spoken(words, length), line(words.text()))
                }
                Err(mark) => (None, LEAST_ESTIMATE, Vec::new(), mark),
            };
            // An estimated length moves what follows, and is itself the end of what has no segments.
            let rests_on_estimate = estimated.is_some() || (measured.is_none() && spoken.is_empty());
            if measured.is_none() {
                estimated = estimated.or(Some(chunk.index));
            }
            if spoken.is_empty() && !text.is_empty() {
                spoken.push((0, length, text));
            }
            segments.extend(spoken.into_iter().map(|(start, end, text)| Cue {
                chunk: chunk.index,
                start: begin + start,
                end: begin + end.max(start + 1),
                text,
                gap,
                estimated: rests_on_estimate,
            }));
            begin += length;
        }
        let times_exact = !segments.iter().any(Cue::is_estimated_speech);
        Self { segments, times_exact, estimated }
    }

    /// Whether some of the text is missing.
    pub fn partial(&self) -> bool {
        self.segments.iter().any(|cue| cue.gap)
    }

    /// As `WebVTT`: <https://www.w3.org/TR/webvtt1/>.
    pub fn vtt(&self) -> String {
        let mut text = "WEBVTT\n".to_owned();
        match self.segments.iter().filter(|cue| cue.gap).count() {
            0 => {}
            1 => text.push_str("\nNOTE This transcript is partial: 1 chunk is missing.\n"),
            gaps => put(
                &mut text,
                format_args!("\nNOTE This transcript is partial: {gaps} chunks are missing.\n"),
            ),
        }
        let mut noted = false;
        for cue in &self.segments {
            if let (false, true, Some(chunk)) = (noted, cue.is_estimated_speech(), self.estimated) {
                noted = true;
                put(
                    &mut text,
                    format_args!(
                        "\nNOTE Times from here on are estimated: the length of chunk {chunk} is not known.\n"
                    ),
                );
            }
            // The arrow that must not be in a text has a bracket, so it goes with the escapes.
            let words = cue.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let (start, end) = (stamp(cue.start, '.'), stamp(cue.end, '.'));
            put(&mut text, format_args!("\n{start} --> {end}\n{words}\n"));
        }
        text
    }

    /// As `SubRip`. It knows neither notes nor escapes; an arrow, which would be taken for a time, is parted.
    pub fn srt(&self) -> String {
        let mut text = String::new();
        for (number, cue) in (1..).zip(&self.segments) {
            let words = cue.text.replace("-->", "-- >");
            let (start, end) = (stamp(cue.start, ','), stamp(cue.end, ','));
            put(&mut text, format_args!("{number}\n{start} --> {end}\n{words}\n\n"));
        }
        text
    }
}

impl Cue {
    fn is_estimated_speech(&self) -> bool {
        self.estimated && !self.gap
    }
}

/// The length that the model measured. None at all is no measure of a chunk in which something is said.
fn measured(words: &Transcription) -> Option<u64> {
    words.duration_seconds().map(millis).filter(|length| *length > 0 || words.text().is_empty())
}

fn estimate(words: &Transcription) -> u64 {
    let end = words.segments().iter().map(|segment| millis(segment.end)).max();
    end.unwrap_or_else(|| (words.text().len() as u64 * 1000 / BYTES_PER_SECOND).max(LEAST_ESTIMATE))
}

/// The segments that say something, by their beginnings. Models round up: none goes beyond its chunk.
fn spoken(words: &Transcription, length: u64) -> Vec<(u64, u64, String)> {
    let within = |seconds| millis(seconds).min(length);
    let segments = words.segments().iter();
    let mut spoken: Vec<_> = segments
        .map(|segment| (within(segment.start), within(segment.end), line(&segment.text)))
        .filter(|(_, _, text)| !text.is_empty())
        .collect();
    spoken.sort_by_key(|(start, _, _)| *start);
    spoken
}

/// A text on one line, so that no blank line ends a cue before its time.
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
#[expect(clippy::cast_precision_loss, reason = "at most 24 times 1e12")]
fn seconds<S: Serializer>(millis: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(*millis as f64 / 1000.0)
}

/// `HH:MM:SS.mmm`, with more digits for the hours where it takes them.
fn stamp(millis: u64, decimal: char) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}{decimal}{millis:03}")
}

fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::clock::Timestamp;
    use crate::job::{ChunkError, ChunkState, ErrorCode, Segment, Verdict};

    type Said<'a> = (&'a str, Option<f64>, &'a [(f64, f64, &'a str)]);

    fn heard((text, duration, segments): Said<'_>) -> Verdict {
        let segment = |(start, end, text): &(f64, f64, &str)| Segment {
            start: *start,
            end: *end,
            text: (*text).to_owned(),
        };
        let segments = segments.iter().map(segment).collect();
        Verdict::Completed(Transcription::new(text, duration, segments).expect("small"))
    }

    fn failed() -> Verdict {
        Verdict::Failed(ChunkError::new(ErrorCode::AudioNotFound, "gone"))
    }

    /// Chunks that ended so; `None` has not.
    fn timeline(verdicts: Vec<Option<Verdict>>) -> Timeline {
        let chunk = |(index, verdict): (ChunkIndex, Option<Verdict>)| {
            let mut chunk = Chunk::new(index, "a.wav".parse().expect("a path"));
            if let Some(verdict) = verdict {
                chunk.state = ChunkState::Settled { at: Timestamp::from_unix(0), verdict };
            }
            chunk
        };
        Timeline::new(&ChunkIndex::first(verdicts.len()).zip(verdicts).map(chunk).collect::<Vec<_>>())
    }

    fn times(timeline: &Timeline) -> Vec<(u64, u64, &str)> {
        timeline.segments.iter().map(|cue| (cue.start, cue.end, cue.text.as_str())).collect()
    }

    #[test]
    fn measured_lengths_move_what_follows() {
        let timeline = timeline(vec![
            Some(heard(("And so,", Some(2.5), &[(0.1, 1.0, "And"), (1.0, 2.9, "so,")]))),
            Some(heard(("", Some(60.0), &[]))),
            Some(heard(("my fellow", Some(3.0), &[]))),
            Some(heard(("Americans.", Some(3600.0), &[(0.0, 3600.0, "Americans.")]))),
        ]);
        let expected = [
            (100, 1000, "And"),
            (1000, 2500, "so,"),
            (62_500, 65_500, "my fellow"),
            (65_500, 3_665_500, "Americans."),
        ];
        assert_eq!(times(&timeline), expected);
        assert!(timeline.times_exact && !timeline.partial());
        assert_eq!(
            json!(timeline.segments[2]),
            json!({"chunk": 2, "start": 62.5, "end": 65.5, "text": "my fellow"})
        );
        assert!(
            timeline.vtt().starts_with("WEBVTT\n\n00:00:00.100 --> 00:00:01.000\nAnd\n\n"),
            "{}",
            timeline.vtt()
        );
        assert!(
            timeline.srt().ends_with("\n4\n00:01:05,500 --> 01:01:05,500\nAmericans.\n\n"),
            "{}",
            timeline.srt()
        );
    }

    #[test]
    fn what_rests_on_an_estimate_says_so() {
        let words = |text| Some(heard((text, Some(2.0), &[])));
        let timeline = timeline(vec![words("One."), Some(failed()), words("Three."), None]);
        let expected = [
            (0, 2000, "One."),
            (2000, 3000, "[chunk 1 failed]"),
            (3000, 5000, "Three."),
            (5000, 6000, "[chunk 3 pending]"),
        ];
        assert_eq!(times(&timeline), expected);
        assert!(!timeline.times_exact && timeline.partial());
        assert_eq!(
            timeline.segments.iter().map(|cue| cue.gap).collect::<Vec<_>>(),
            [false, true, false, true]
        );
        let vtt = "WEBVTT\n\nNOTE This transcript is partial: 2 chunks are missing.\n\n\
            00:00:00.000 --> 00:00:02.000\nOne.\n\n00:00:02.000 --> 00:00:03.000\n[chunk 1 failed]\n\n\
            NOTE Times from here on are estimated: the length of chunk 1 is not known.\n\n\
            00:00:03.000 --> 00:00:05.000\nThree.\n\n00:00:05.000 --> 00:00:06.000\n[chunk 3 pending]\n";
        assert_eq!(timeline.vtt(), vtt);
    }

    #[test]
    fn only_words_that_an_estimate_moves_are_inexact() {
        let exact = |verdicts| timeline(verdicts).times_exact;
        let segments: &[_] = &[(0.0, 4.0, "a")];
        assert!(exact(vec![Some(heard(("a", Some(1.0), &[]))), None]), "nothing is after the gap");
        assert!(exact(vec![Some(heard(("a", None, segments)))]), "segments need no length");
        assert!(!exact(vec![Some(heard(("a", None, segments))), Some(heard(("b", Some(1.0), &[])))]));
        assert!(!exact(vec![Some(heard(("a", None, &[])))]), "its end is estimated");
        assert!(!exact(vec![Some(heard(("a", Some(0.0), &[])))]), "nobody says a word in no time");
    }

    #[test]
    fn lengths_are_estimated_by_segments_or_by_text() {
        let thirty_letters = "abcdefghij".repeat(3);
        let timeline = timeline(vec![
            Some(heard(("a", None, &[(0.0, 4.0, "a"), (1.0, 3.0, "b")]))),
            Some(heard((&thirty_letters, None, &[]))),
            Some(heard(("こんにちは世界です。", None, &[]))),
            Some(heard(("c", None, &[]))),
        ]);
        let starts: Vec<_> = timeline.segments.iter().map(|cue| (cue.start, cue.end)).collect();
        assert_eq!(starts, [(0, 4000), (1000, 3000), (4000, 6000), (6000, 8000), (8000, 9000)]);
    }

    #[test]
    fn texts_cannot_break_out_of_their_cue() {
        let text = "a\r\n\r\n2\n00:00:00.000 --> 00:00:01.000 <b>&amp;\u{0}b\u{2028}c";
        let timeline = timeline(vec![Some(heard((text, Some(1.0), &[])))]);
        let vtt = "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n\
            a 2 00:00:00.000 --&gt; 00:00:01.000 &lt;b&gt;&amp;amp; b c\n";
        assert_eq!(timeline.vtt(), vtt);
        let srt = "1\n00:00:00,000 --> 00:00:01,000\na 2 00:00:00.000 -- > 00:00:01.000 <b>&amp; b c\n\n";
        assert_eq!(timeline.srt(), srt);
    }

    #[test]
    fn nothing_said_is_no_cue() {
        let silence = timeline(vec![Some(heard(("", Some(3.0), &[(0.0, 3.0, " ")])))]);
        assert_eq!((silence.vtt().as_str(), silence.srt().as_str()), ("WEBVTT\n", ""));
        assert!(silence.times_exact && !silence.partial());
    }

    /// `HH:MM:SS.mmm` or with a comma, in milliseconds.
    fn parse_stamp(stamp: &str, decimal: char) -> u64 {
        let (whole, millis) = stamp.split_once(decimal).expect("a decimal sign");
        assert_eq!(millis.len(), 3, "{stamp}");
        let parts: Vec<&str> = whole.split(':').collect();
        assert!(parts.len() == 3 && parts.iter().all(|part| part.len() >= 2), "{stamp}");
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let seconds = parts.iter().fold(0, |sum, part| sum * 60 + number(part));
        seconds * 1000 + number(millis)
    }

    /// The cues of a file: blocks between blank lines, of which notes and the like are passed over.
    fn parse(file: &str, decimal: char, heading_lines: usize) -> Vec<(u64, u64, String)> {
        let blocks = file.split("\n\n").map(str::trim_end).filter(|block| !block.is_empty());
        let cues = blocks.filter(|block| !block.starts_with("WEBVTT") && !block.starts_with("NOTE "));
        cues.map(|block| {
            let lines: Vec<&str> = block.lines().skip(heading_lines).collect();
            let [times, text] = lines[..] else { panic!("no cue: {block:?}") };
            let (start, end) = times.split_once(" --> ").expect("an arrow");
            (parse_stamp(start, decimal), parse_stamp(end, decimal), text.to_owned())
        })
        .collect()
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z<>&\\-\n\r ]{0,30}", any::<String>(), Just(String::new())]
    }

    fn any_verdict() -> impl Strategy<Value = Option<Verdict>> {
        let segment =
            (0.0..400.0, 0.0..400.0, any_text()).prop_map(|(start, end, text)| Segment { start, end, text });
        let words = (any_text(), option::of(0.0..300.0), vec(segment, 0..5)).prop_map(
            |(text, duration, segments)| {
                Some(Verdict::Completed(Transcription::new(text, duration, segments).expect("small")))
            },
        );
        prop_oneof![4 => words, 1 => Just(Some(failed())), 1 => Just(None)]
    }

    proptest! {
        #[test]
        fn files_read_back_whole_and_in_order(verdicts in vec(any_verdict(), 1..25)) {
            let timeline = timeline(verdicts);
            let cues = times(&timeline);
            prop_assert!(cues.iter().all(|(start, end, text)| start < end && !text.is_empty()));
            prop_assert!(cues.is_sorted_by_key(|(start, _, _)| *start));
            let vtt = parse(&timeline.vtt(), '.', 0);
            let unescaped = vtt.iter().map(|(start, end, text)| {
                prop_assert!(!text.contains(['<', '>']));
                Ok((*start, *end, text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")))
            });
            let unescaped = unescaped.collect::<Result<Vec<_>, TestCaseError>>()?;
            let expected: Vec<_> = cues.iter().map(|(start, end, text)| (*start, *end, (*text).to_owned())).collect();
            prop_assert_eq!(unescaped, expected);
            let srt: Vec<_> = parse(&timeline.srt(), ',', 1);
            prop_assert_eq!(srt.len(), cues.len());
            let same_times = srt.iter().zip(&cues).all(|(a, b)| (a.0, a.1) == (b.0, b.1));
            prop_assert!(same_times);
        }
    }
}
