//! The words of an answer. Servers put them into each segment or beside the segments, name a word's text in three ways,
//! and send times as numbers or as strings.

use longhand_shared::domain::job::{Segment, Word};
use longhand_shared::domain::stitch::join;
use serde_json::Value;

use super::entry::{confidence, speaker, times};

/// Adds the words of an answer to its segments. A segment with several speakers is split between them.
pub(super) fn add(
    mut segments: Vec<Segment>,
    answer: &Value,
    text: &str,
    duration: Option<f64>,
) -> Vec<Segment> {
    let words = read(answer, duration);
    if words.is_empty() {
        return segments;
    }
    if segments.is_empty() && letters([text]) == letters(texts(&words)) {
        let (start, end) = (words[0].start, words[words.len() - 1].end);
        segments.push(Segment { start, end, text: text.to_owned(), ..Segment::default() });
    }
    distribute(words, &mut segments);
    segments.into_iter().flat_map(by_speaker).collect()
}

/// The entries of a list. Empty if it is missing.
pub(super) fn list<'a>(entry: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    entry.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// All words, in order, with repaired times.
fn read(answer: &Value, duration: Option<f64>) -> Vec<Word> {
    let mut entries: Vec<&Value> =
        list(answer, "segments").flat_map(|segment| list(segment, "words")).collect();
    if entries.is_empty() {
        entries = list(answer, "words").collect();
    }
    let text = |entry: &Value| {
        let text = ["word", "text", "punctuated_word"].iter().find_map(|name| entry.get(name)?.as_str())?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then_some(text)
    };
    let texts: Vec<(&Value, String)> =
        entries.into_iter().filter_map(|entry| Some((entry, text(entry)?))).collect();
    let times = times(texts.iter().map(|(entry, _)| *entry), duration);
    let words = texts.into_iter().zip(times).map(|((entry, text), (start, end, _))| Word {
        text,
        start,
        end,
        confidence: confidence(entry),
        speaker: speaker(entry),
    });
    words.collect()
}

/// Gives each segment its words: by their letters if these agree with the segments' texts, else by time.
fn distribute(words: Vec<Word>, segments: &mut [Segment]) {
    let by_letters = letters(texts(&words)) == letters(segments.iter().map(|segment| segment.text.as_str()));
    let (mut place, mut taken) = (0, 0);
    for word in words {
        while let Some(segment) = segments.get(place) {
            let full = if by_letters {
                taken >= letters([segment.text.as_str()])
            } else {
                place + 1 < segments.len() && f64::midpoint(word.start, word.end) >= segment.end
            };
            if !full {
                break;
            }
            (place, taken) = (place + 1, 0);
        }
        taken += letters([word.text.as_str()]);
        if let Some(segment) = segments.get_mut(place) {
            segment.words.push(word);
        }
    }
}

/// The number of letters of texts. Servers differ in spaces.
fn letters<'a>(texts: impl IntoIterator<Item = &'a str>) -> usize {
    texts.into_iter().flat_map(str::chars).filter(|c| !c.is_whitespace()).count()
}

fn texts(words: &[Word]) -> impl Iterator<Item = &str> {
    words.iter().map(|word| word.text.as_str())
}

/// A segment for each speaker in turn, if the words name several.
fn by_speaker(segment: Segment) -> Vec<Segment> {
    let turns: Vec<&[Word]> = segment.words.chunk_by(|a, b| a.speaker == b.speaker).collect();
    let whole = letters(texts(&segment.words)) == letters([segment.text.as_str()]);
    if turns.len() < 2 || !whole {
        let speaker = segment.words.first().and_then(|word| word.speaker.clone());
        return vec![Segment { speaker: segment.speaker.clone().or(speaker), ..segment }];
    }
    let turn = |words: &[Word]| Segment {
        start: words[0].start,
        end: words[words.len() - 1].end,
        text: join(texts(words)),
        speaker: words[0].speaker.clone().or_else(|| segment.speaker.clone()),
        words: words.to_vec(),
        ..segment.clone()
    };
    turns.into_iter().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::segments;
    use super::*;

    fn segments(answer: &Value) -> Vec<Segment> {
        segments::read(answer, answer["text"].as_str().unwrap_or_default(), Some(10.0))
    }

    fn words(segment: &Segment) -> Vec<(&str, f64, f64)> {
        segment.words.iter().map(|word| (word.text.as_str(), word.start, word.end)).collect()
    }

    #[test]
    fn words_are_read_in_each_common_form() {
        let expected = [("Hello,", 0.5, 1.0), ("you.", 1.0, 1.5)];
        let inside = |words: Value| json!({"text": "Hello, you.", "segments": [{"start": 0.5, "end": 1.5, "text": "Hello, you.", "words": words}]});
        let beside = |words: Value| json!({"text": "Hello, you.", "segments": [{"start": 0.5, "end": 1.5, "text": " Hello, you."}], "words": words});
        for words_of in [
            json!([{"word": "Hello,", "start": 0.5, "end": 1.0}, {"word": "you.", "start": 1.0, "end": 1.5}]),
            json!([{"text": " Hello,", "start": "0.5", "end": "1.0"}, {"text": " you.", "start": "1", "end": "1.5"}]),
            json!([{"punctuated_word": "Hello,", "start": 0.5, "end": 1.0},
                   {"punctuated_word": "you.", "start": 1.0, "end": 1.5}]),
            json!([{"word": "Hello,", "start": 0.5, "end": 1.0, "probability": 0.9, "speaker": null}, {"word": ""},
                   {"word": "you.", "start": null, "end": 1.5}]),
        ] {
            for answer in [inside(words_of.clone()), beside(words_of.clone())] {
                let read = segments(&answer);
                assert_eq!(read.len(), 1, "{answer}");
                assert_eq!(words(&read[0]), expected, "{answer}");
            }
            let alone = json!({"text": "Hello, you.", "words": words_of});
            assert_eq!(words(&segments(&alone)[0]), expected, "without segments");
        }
    }

    #[test]
    fn words_beside_segments_are_given_to_them() {
        let word = |text: &str, start: f64| json!({"word": text, "start": start, "end": start + 0.4});
        let parts = json!([{"start": 0, "end": 1, "text": "a b"}, {"start": 1, "end": 2, "text": "c"}]);
        let words_of = json!([word("a", 0.0), word("b", 0.9), word("c", 1.3)]);
        let read = segments(&json!({"text": "a b c", "segments": parts, "words": words_of}));
        assert_eq!(read.iter().map(|segment| segment.words.len()).collect::<Vec<_>>(), [2, 1], "by letters");
        let other = json!([word("A!", 0.0), word("beta", 0.5), word("c", 1.3)]);
        let read = segments(&json!({"text": "a b c", "segments": parts, "words": other}));
        assert_eq!(read.iter().map(|segment| segment.words.len()).collect::<Vec<_>>(), [2, 1], "by time");
    }

    #[test]
    fn a_segment_is_split_between_its_speakers() {
        let word = |text: &str, start: f64, speaker: Value| json!({"word": text, "start": start, "end": start + 0.4, "speaker": speaker});
        let words_of = json!([
            word("Hello,", 0.0, json!("A")),
            word("you.", 0.5, json!("A")),
            word("Bye.", 1.5, json!(2))
        ]);
        let part = json!([{"start": 0, "end": 2, "text": "Hello, you. Bye.", "words": words_of}]);
        let read = segments(&json!({"text": "Hello, you. Bye.", "segments": part}));
        let turns: Vec<_> =
            read.iter().map(|part| (part.speaker.as_deref(), part.text.as_str(), part.start)).collect();
        assert_eq!(turns, [(Some("A"), "Hello, you.", 0.0), (Some("2"), "Bye.", 1.5)]);
        for name in ["speaker", "speaker_id", "speaker_label", "speakerId"] {
            let named = json!([{"start": 0, "end": 2, "text": "Hello.", name: "S1"}]);
            let read = segments(&json!({"text": "Hello.", "segments": named}));
            assert_eq!(read[0].speaker.as_deref(), Some("S1"), "{name}");
        }
    }

    #[test]
    fn confidence_is_read_or_computed() {
        for (entry, expected) in [
            (json!({"confidence": 0.91234}), Some(0.912)),
            (json!({"probability": "0.5"}), Some(0.5)),
            (json!({"avg_logprob": -0.2, "no_speech_prob": 0.1}), Some(0.737)),
            (json!({"avg_logprob": 3}), Some(1.0)),
            (json!({"no_speech_prob": 0.1}), None),
            (json!({"score": "NaN"}), None),
        ] {
            assert_eq!(confidence(&entry), expected, "{entry}");
        }
    }

    proptest! {
        /// Whatever the words and their times are: none is lost, none runs backwards, and the text stays.
        #[test]
        fn no_word_is_lost_or_runs_backwards(
            given in prop::collection::vec(("[a-z語]{1,3}", prop::option::of(-1.0..20.0), prop::option::of("[AB]")), 1..12),
            cut in 0..12_usize,
        ) {
            let entry = |(text, start, speaker): &(String, Option<f64>, Option<String>)| {
                json!({"word": text, "start": start, "end": start, "speaker": speaker})
            };
            let text = |given: &[(String, Option<f64>, Option<String>)]| {
                given.iter().map(|(text, _, _)| text.as_str()).collect::<Vec<_>>().join(" ")
            };
            let (left, right) = given.split_at(cut.min(given.len()));
            let parts = [left, right].map(|part| json!({"start": 0, "end": 5, "text": text(part)}));
            let words_of: Vec<_> = given.iter().map(entry).collect();
            let read = segments(&json!({"text": text(&given), "segments": parts, "words": words_of}));
            let words: Vec<_> = read.iter().flat_map(|part| &part.words).collect();
            prop_assert_eq!(words.len(), given.len());
            let row: Vec<f64> = words.iter().flat_map(|word| [word.start, word.end]).collect();
            prop_assert!(row.is_sorted(), "{:?}", row);
            let kept = |text: String| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(kept(read.iter().map(|part| part.text.as_str()).collect()), kept(text(&given)));
        }
    }
}
