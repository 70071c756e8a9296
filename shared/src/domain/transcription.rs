//! What the model returned for one chunk: the text, its times, its words.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The maximum size of a chunk's transcription in the table, in bytes: `DynamoDB`'s 400 KB for an item, less room for
/// its other attributes. Five minutes of speech take about a tenth of this.
pub const MAX_TRANSCRIPTION_BYTES: usize = 380_000;

/// A word with its time in the audio. It is stored as `[text, start, end, confidence, speaker]` without the names of
/// the fields, which would take most of the space: 700 words take about 20 KB.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredWord", into = "StoredWord")]
pub struct Word {
    pub text: String,
    /// Seconds from the beginning of the chunk.
    pub start: f64,
    /// Seconds from the beginning of the chunk.
    pub end: f64,
    /// From 0 to 1.
    pub confidence: Option<f64>,
    pub speaker: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredWord(String, f64, f64, Option<f64>, Option<String>);

impl From<StoredWord> for Word {
    fn from(StoredWord(text, start, end, confidence, speaker): StoredWord) -> Self {
        Self { text, start, end, confidence, speaker }
    }
}

impl From<Word> for StoredWord {
    fn from(Word { text, start, end, confidence, speaker }: Word) -> Self {
        Self(text, start, end, confidence, speaker)
    }
}

/// A piece of the text with its time in the audio.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Seconds from the beginning of the chunk.
    pub start: f64,
    /// Seconds from the beginning of the chunk.
    pub end: f64,
    pub text: String,
    /// Whether the start or the end is an estimate, since the model returned no usable time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repaired: bool,
    /// The model's name for the speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// From 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// The words of the text, in order. Empty if they were not asked for or the model returned none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Word>,
}

/// What may be wrong with a completed chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(description = "What may be wrong with a completed chunk. Programs of later versions may add codes.")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WarningCode {
    /// The model decoded much less audio than the file states: the file is probably cut off or damaged.
    AudioShorter,
    /// The model sent characters that are not valid. The text has U+FFFD in their place.
    TextDamaged,
    /// Some times are estimates, since the model returned no usable ones.
    TimesEstimated,
    /// Times of words were requested, and the model returned none.
    NoWords,
    /// A worker of a later version gave a warning whose code this server does not know. `message` explains it.
    #[serde(other)]
    Other,
}

/// A warning about a completed chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// A stable code for programs.
    pub code: WarningCode,
    /// A message for people.
    pub message: String,
}

/// The model's transcription of one chunk. It fits in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transcription {
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    segments: Vec<Segment>,
    /// The speakers in order of appearance. Reads without segments have them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    speakers: Vec<String>,
    /// The detected language, as a language tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// From 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the transcription has {0} bytes, more than the maximum of {MAX_TRANSCRIPTION_BYTES}")]
pub struct TooLarge(usize);

impl Transcription {
    /// An empty `text` is valid: the audio is silent.
    pub fn new(
        text: impl Into<String>,
        duration_seconds: Option<f64>,
        segments: Vec<Segment>,
    ) -> Result<Self, TooLarge> {
        let text = text.into();
        let weight = text.len() + segments.iter().map(Segment::weight).sum::<usize>();
        if weight > MAX_TRANSCRIPTION_BYTES {
            return Err(TooLarge(weight));
        }
        let mut speakers = Vec::new();
        for speaker in segments.iter().filter_map(|segment| segment.speaker.as_ref()) {
            if !speakers.contains(speaker) {
                speakers.push(speaker.clone());
            }
        }
        let (language, confidence, warnings) = (None, None, vec![]);
        Ok(Self { text, duration_seconds, segments, speakers, language, confidence, warnings })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The length of the audio in seconds, if the model measured it.
    pub fn duration_seconds(&self) -> Option<f64> {
        self.duration_seconds
    }

    /// The text's segments with their times. Empty if the model returns none.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub fn speakers(&self) -> &[String] {
        &self.speakers
    }

    pub fn drop_segments(&mut self) {
        self.segments = Vec::new();
    }
}

impl Segment {
    /// The approximate size in the table, in bytes: names and numbers take about 60 for a segment and 20 for a word.
    fn weight(&self) -> usize {
        let named = |speaker: &Option<String>| speaker.as_ref().map_or(0, String::len);
        let word = |word: &Word| word.text.len() + named(&word.speaker) + 20;
        self.text.len() + named(&self.speaker) + 60 + self.words.iter().map(word).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;

    /// The size of a value in an item, by the rules of the `DynamoDB` developer guide ("item sizes").
    fn size(value: &AttributeValue) -> usize {
        match value {
            AttributeValue::S(text) => text.len(),
            AttributeValue::N(number) => number.len().div_ceil(2) + 1,
            AttributeValue::L(list) => 3 + list.iter().map(|entry| size(entry) + 1).sum::<usize>(),
            AttributeValue::M(map) => {
                3 + map.iter().map(|(name, entry)| name.len() + size(entry) + 1).sum::<usize>()
            }
            _ => 1,
        }
    }

    /// 700 words of five letters in 70 segments, as a chunk of five minutes may have.
    fn spoken(words: bool) -> usize {
        let seconds = |millis: u32| f64::from(millis) / 1000.0;
        let word = |place: u32| Word {
            text: "words".to_owned(),
            start: seconds(place * 417),
            end: seconds(place * 417 + 300),
            confidence: Some(0.987),
            speaker: None,
        };
        let segment = |place: u32| Segment {
            start: seconds(place * 4170),
            end: seconds(place * 4170 + 4100),
            text: ["words"; 10].join(" "),
            confidence: Some(0.987),
            words: if words { (place * 10..place * 10 + 10).map(word).collect() } else { vec![] },
            ..Segment::default()
        };
        let text = ["words"; 700].join(" ");
        let spoken = Transcription::new(text, Some(300.0), (0..70).map(segment).collect()).expect("it fits");
        size(&serde_dynamo::to_attribute_value(spoken).expect("a value"))
    }

    /// `docs/api.md` has these figures. A write costs one unit for each KB.
    #[test]
    fn words_of_a_full_chunk_cost_at_most_22_kb() {
        let (with, without) = (spoken(true), spoken(false));
        assert!((9_000..15_000).contains(&without), "{without} bytes without words");
        assert!((14_000..22_000).contains(&(with - without)), "{} bytes of words", with - without);
    }

    #[test]
    fn a_transcription_over_the_limit_is_an_error() {
        assert!(Transcription::new("", None, vec![]).is_ok());
        assert!(Transcription::new("x".repeat(MAX_TRANSCRIPTION_BYTES + 1), None, vec![]).is_err());
        let word = Word { text: "a".to_owned(), start: 0.0, end: 1.0, confidence: None, speaker: None };
        let words = |count| Segment { words: vec![word.clone(); count], ..Segment::default() };
        assert!(Transcription::new("a", None, vec![words(700)]).is_ok());
        assert!(Transcription::new("a", None, vec![words(20_000)]).is_err());
    }

    #[test]
    fn a_transcription_of_0_1_0_is_read() {
        let old = r#"{"text":"a b","durationSeconds":2.5,"segments":[{"start":0,"end":2,"text":"a b"}]}"#;
        let read: Transcription = serde_json::from_str(old).expect("a transcription");
        assert_eq!((read.segments().len(), read.language.as_deref(), read.warnings.len()), (1, None, 0));
        assert!(read.segments()[0].words.is_empty());
    }

    #[test]
    fn a_warning_of_a_later_version_is_read() {
        let read: Warning = serde_json::from_str(r#"{"code":"NEW","message":"x"}"#).expect("a warning");
        assert_eq!(read.code, WarningCode::Other);
    }
}
