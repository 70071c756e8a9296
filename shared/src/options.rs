//! What a client may say beside the audio: hints for the model, and notes of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The longest prompt, in characters; Whisper itself looks at the last 224 tokens only.
pub const MAX_PROMPT_CHARS: usize = 1000;

/// The most entries of [`Metadata`], as most APIs of this kind have it.
pub const MAX_METADATA_ENTRIES: usize = 16;

/// The longest key or value of [`Metadata`], in bytes.
pub const MAX_METADATA_BYTES: usize = 512;

/// What the client asks of the model. Travels with every message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TranscribeOptions {
    /// The language spoken, as ISO 639-1 or a BCP 47 tag; the model guesses without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// Words that help the model: names, spellings, what was said before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
}

/// A language tag: `en`, `pt-BR`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Language(String);

/// A text that is no [`Language`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a language tag: expected one like \"en\" or \"pt-BR\"")]
pub struct InvalidLanguage;

impl Language {
    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The language without its region or script, in lower case: `pt` of `pt-BR`. Whisper and
    /// `OpenAI` take ISO 639-1 codes alone.
    pub fn primary(&self) -> String {
        self.0.split('-').next().unwrap_or(&self.0).to_ascii_lowercase()
    }
}

impl TryFrom<String> for Language {
    type Error = InvalidLanguage;

    fn try_from(tag: String) -> Result<Self, InvalidLanguage> {
        let (language, rest) = tag.split_once('-').map_or((tag.as_str(), None), |(l, r)| (l, Some(r)));
        let letters = |part: &str| part.bytes().all(|b| b.is_ascii_alphabetic());
        let good = matches!(language.len(), 2 | 3)
            && letters(language)
            && rest.is_none_or(|part| {
                matches!(part.len(), 2..=4) && part.bytes().all(|b| b.is_ascii_alphanumeric())
            });
        if good { Ok(Self(tag)) } else { Err(InvalidLanguage) }
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.0
    }
}

/// A hint for the model: 1 to 1,000 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prompt(String);

/// A text that is no [`Prompt`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {MAX_PROMPT_CHARS} characters, has {0}")]
pub struct InvalidPrompt(usize);

impl Prompt {
    /// The words.
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

impl From<Prompt> for String {
    fn from(prompt: Prompt) -> Self {
        prompt.0
    }
}

/// The client's own notes on a job, given back as they came.
pub type Metadata = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn language_tags() {
        for good in ["en", "yue", "pt-BR", "zh-Hant", "es-419"] {
            assert!(Language::try_from(good.to_owned()).is_ok(), "{good}");
        }
        assert_eq!(Language::try_from("pt-BR".to_owned()).map(|tag| tag.primary()), Ok("pt".to_owned()));
        for bad in ["", "e", "english", "en_US", "en-", "e1", "en-US-x"] {
            assert!(Language::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
