//! The optional fields of a job: hints for the model, and metadata.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The maximum length of a prompt, in characters. Whisper itself reads only the last 224 tokens.
pub const MAX_PROMPT_CHARS: usize = 1000;

/// The maximum number of entries of [`Metadata`], a common limit of such APIs.
pub const MAX_METADATA_ENTRIES: usize = 16;

/// The maximum length of a key or value of [`Metadata`], in bytes.
pub const MAX_METADATA_BYTES: usize = 512;

/// The maximum `startOffset`, in seconds: over eleven days.
pub const MAX_START_OFFSET: f64 = 1_000_000.0;

/// Hints for the model. Every message of the job contains them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TranscribeOptions {
    /// The spoken language. Without it the model detects the language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// Text that helps the model: names, spellings, the preceding text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    #[serde(default, skip_serializing_if = "Timestamps::is_segment")]
    pub timestamps: Timestamps,
    /// Whether the text is translated to English.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub translate: bool,
}

/// What has times: segments only, or also words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, strum::EnumIs)]
#[serde(rename_all = "lowercase")]
pub enum Timestamps {
    #[default]
    Segment,
    Word,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be \"segment\" or \"word\"")]
pub struct InvalidTimestamps;

impl TryFrom<String> for Timestamps {
    type Error = InvalidTimestamps;

    fn try_from(text: String) -> Result<Self, InvalidTimestamps> {
        match text.as_str() {
            "segment" => Ok(Self::Segment),
            "word" => Ok(Self::Word),
            _ => Err(InvalidTimestamps),
        }
    }
}

/// A BCP 47 language tag: `en`, `pt-BR`, `zh-Hans-CN`. Underscores count as hyphens.
///
/// The stored value, which messages contain, is a language with at most one subtag of two to four characters: workers
/// of version 0.1.0 accept nothing longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Language(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a language tag: expected one like \"en\", \"pt-BR\" or \"zh-Hans-CN\" (BCP 47)")]
pub struct InvalidLanguage;

/// The BCP 47 tag for an undetermined language.
const UNDETERMINED: &str = "und";

/// The maximum length of a tag, in bytes.
pub const MAX_TAG_BYTES: usize = 100;

/// Grandfathered tags of BCP 47 whose first part is not the language that they mean, and that language.
const IRREGULAR: [(&str, &str); 16] = [
    ("art-lojban", "jbo"),
    ("i-ami", "ami"),
    ("i-bnn", "bnn"),
    ("i-hak", "hak"),
    ("i-klingon", "tlh"),
    ("i-lux", "lb"),
    ("i-navajo", "nv"),
    ("i-pwn", "pwn"),
    ("i-tao", "tao"),
    ("i-tay", "tay"),
    ("i-tsu", "tsu"),
    ("no-bok", "nb"),
    ("no-nyn", "nn"),
    ("zh-hakka", "hak"),
    ("zh-min-nan", "nan"),
    ("zh-xiang", "hsn"),
];

impl Language {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The language without its region or script, in lower case: `pt` of `pt-BR`. `None` if it is undetermined.
    pub fn primary(&self) -> Option<String> {
        let primary = self.0.split('-').next().unwrap_or(&self.0).to_ascii_lowercase();
        (primary != UNDETERMINED).then_some(primary)
    }
}

impl TryFrom<String> for Language {
    type Error = InvalidLanguage;

    fn try_from(tag: String) -> Result<Self, InvalidLanguage> {
        let tag = tag.replace('_', "-");
        let letters = |part: &str| part.bytes().all(|b| b.is_ascii_alphabetic());
        let subtags: Vec<&str> = tag.split('-').collect();
        let well_formed = tag.len() <= MAX_TAG_BYTES
            && subtags
                .iter()
                .all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()));
        let lower = tag.to_ascii_lowercase();
        let (language, rest) = subtags.split_first().ok_or(InvalidLanguage)?;
        if let Some((_, language)) = IRREGULAR.into_iter().find(|(irregular, _)| *irregular == lower) {
            return Ok(Self(language.to_owned()));
        }
        match language.len() {
            _ if !well_formed => Err(InvalidLanguage),
            // Private use, or IANA's former registry.
            1 if matches!(*language, "x" | "X" | "i" | "I") && !rest.is_empty() => {
                Ok(Self(UNDETERMINED.to_owned()))
            }
            2 | 3 if letters(language) => Ok(Self(match rest {
                [] => tag,
                // An extended language subtag: `zh-yue`.
                [within, ..] if within.len() == 3 && letters(within) => within.to_ascii_lowercase(),
                [part] if (2..=4).contains(&part.len()) => tag,
                _ => (*language).to_owned(),
            })),
            _ => Err(InvalidLanguage),
        }
    }
}

/// A hint for the model: 1 to 1,000 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Prompt(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {MAX_PROMPT_CHARS} characters, has {0}")]
pub struct InvalidPrompt(usize);

impl Prompt {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Prompt {
    type Error = InvalidPrompt;

    fn try_from(text: String) -> Result<Self, InvalidPrompt> {
        match text.chars().count() {
            1..=MAX_PROMPT_CHARS => Ok(Self(text)),
            count => Err(InvalidPrompt(count)),
        }
    }
}

/// A client's metadata of a job. Longhand returns it unchanged.
pub type Metadata = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_of_bcp_47_is_accepted() {
        for (tag, kept, primary) in [
            ("en", "en", Some("en")),
            ("yue", "yue", Some("yue")),
            ("pt-BR", "pt-BR", Some("pt")),
            ("pt_BR", "pt-BR", Some("pt")),
            ("zh-Hant", "zh-Hant", Some("zh")),
            ("es-419", "es-419", Some("es")),
            ("zh-Hans-CN", "zh", Some("zh")),
            ("sr-Latn-RS", "sr", Some("sr")),
            ("de-CH-1996", "de", Some("de")),
            ("sl-rozaj-biske", "sl", Some("sl")),
            ("zh-cmn-Hans-CN", "cmn", Some("cmn")),
            ("zh-yue", "yue", Some("yue")),
            ("en-US-u-islamcal", "en", Some("en")),
            ("de-x-goethe-a", "de", Some("de")),
            ("EN-gb-oed", "EN", Some("en")),
            ("i-klingon", "tlh", Some("tlh")),
            ("no-nyn", "nn", Some("nn")),
            ("i-default", "und", None),
            ("x-mine", "und", None),
            ("und", "und", None),
        ] {
            let language = Language::try_from(tag.to_owned()).unwrap_or_else(|_| panic!("{tag}"));
            assert_eq!((language.as_str(), language.primary().as_deref()), (kept, primary), "{tag}");
            assert_eq!(Language::try_from(kept.to_owned()).map(|language| language.0), Ok(kept.to_owned()));
        }
        for bad in ["", "e", "x", "english", "en-", "-en", "e1", "en-US-x y", "en--US", "de-ninechars", "é"]
        {
            assert!(Language::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    /// A worker of version 0.1.0 accepts a language with at most one subtag.
    #[test]
    fn stored_languages_are_valid_for_old_workers() {
        for tag in ["zh-Hans-CN", "de-CH-1996", "x-mine", "de_DE", "zh-yue-HK", "sl-rozaj", "en-a-b1-x-y"] {
            let sent = Language::try_from(tag.to_owned()).expect("a tag").0;
            let (language, rest) = sent.split_once('-').unwrap_or((&sent, "us"));
            assert!(matches!(language.len(), 2 | 3) && matches!(rest.len(), 2..=4), "{tag}: {sent}");
        }
    }
}
