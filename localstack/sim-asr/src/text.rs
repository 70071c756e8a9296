//! The texts of simulated transcripts. They depend on the file name alone, so that an audit can verify them.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// The duration of every simulated word, in seconds. A power of two, so that sums are exact.
const SECONDS_PER_WORD: f64 = 0.5;

/// The duration of a recording without words, in seconds.
const SILENCE_SECONDS: f64 = 1.0;

/// The text of [`Answer::Echo`](crate::Answer::Echo) for a file: the file's name between words that depend on it. An
/// audit can detect the transcript of another file and a truncated one.
pub fn text_for(file_name: &str) -> String {
    Speech::naming(file_name).text
}

/// The language and script of [`Answer::Words`](crate::Answer::Words).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Script {
    /// English words.
    Latin,
    /// Russian words.
    Cyrillic,
    /// Arabic words, written from right to left.
    Arabic,
    /// Hindi words, with combining vowel signs.
    Devanagari,
    /// Korean words, with spaces.
    Hangul,
    /// Chinese words, without spaces.
    Han,
    /// Japanese words in kana, without spaces.
    Kana,
    /// Thai words, without spaces and with combining marks.
    Thai,
}

impl Script {
    /// Whether words are separated by spaces.
    pub fn has_spaces(self) -> bool {
        !matches!(self, Self::Han | Self::Kana | Self::Thai)
    }

    /// The language's name in `verbose_json`.
    pub(crate) fn language(self) -> &'static str {
        match self {
            Self::Latin => "english",
            Self::Cyrillic => "russian",
            Self::Arabic => "arabic",
            Self::Devanagari => "hindi",
            Self::Hangul => "korean",
            Self::Han => "chinese",
            Self::Kana => "japanese",
            Self::Thai => "thai",
        }
    }

    fn vocabulary(self) -> [&'static str; 8] {
        match self {
            Self::Latin => ["amber", "river", "seven", "candle", "winter", "paper", "orchard", "signal"],
            Self::Cyrillic => ["янтарь", "река", "семь", "свеча", "зима", "бумага", "сад", "сигнал"],
            Self::Arabic => ["نهر", "سبعة", "شمعة", "شتاء", "ورق", "بستان", "إشارة", "عنبر"],
            Self::Devanagari => ["नदी", "सात", "मोमबत्ती", "सर्दी", "काग़ज़", "बाग़", "संकेत", "पत्थर"],
            Self::Hangul => ["호박", "강물", "일곱", "촛불", "겨울", "종이", "과수원", "신호"],
            Self::Han => ["琥珀", "河流", "七", "蜡烛", "冬天", "纸", "果园", "信号"],
            Self::Kana => ["こはく", "かわ", "なな", "ろうそく", "ふゆ", "かみ", "リンゴ", "シグナル"],
            Self::Thai => ["อำพัน", "แม่น้ำ", "เจ็ด", "เทียน", "ฤดูหนาว", "กระดาษ", "สวน", "สัญญาณ"],
        }
    }
}

/// A text and its words.
#[derive(Debug, Clone)]
pub(crate) struct Speech {
    pub(crate) text: String,
    pub(crate) words: Vec<String>,
    pub(crate) separator: &'static str,
    pub(crate) language: &'static str,
}

impl Speech {
    /// Splits a text into words at its spaces.
    pub(crate) fn of(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            words: text.split_whitespace().map(str::to_owned).collect(),
            separator: " ",
            language: Script::Latin.language(),
        }
    }

    /// See [`text_for`].
    pub(crate) fn naming(file_name: &str) -> Self {
        let mut words = pick(file_name, 4, Script::Latin);
        words.insert(2, file_name.to_owned());
        Self::of(&words.join(" "))
    }

    /// Words that depend on the file name and are rarely equal for two names.
    pub(crate) fn at_length(file_name: &str, count: usize, script: Script) -> Self {
        let words = pick(file_name, count, script);
        let separator = if script.has_spaces() { " " } else { "" };
        Self { text: words.join(separator), words, separator, language: script.language() }
    }

    pub(crate) fn duration(&self) -> f64 {
        if self.words.is_empty() { SILENCE_SECONDS } else { seconds_before(self.words.len()) }
    }
}

/// The start of the word with this index, in seconds.
pub(crate) fn seconds_before(word: usize) -> f64 {
    f64::from(u32::try_from(word).unwrap_or(u32::MAX)) * SECONDS_PER_WORD
}

fn pick(file_name: &str, count: usize, script: Script) -> Vec<String> {
    let vocabulary = script.vocabulary();
    let mut rng = StdRng::seed_from_u64(fingerprint(file_name));
    (0..count).map(|_| vocabulary[rng.random_range(0..vocabulary.len())].to_owned()).collect()
}

/// FNV-1a, 64 bits: a hash that is the same in every build and on every machine.
pub(crate) fn fingerprint(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
