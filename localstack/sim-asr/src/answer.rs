//! The answers that the sim can be told to give, good and bad.

use serde::{Deserialize, Serialize};

use crate::text::{Script, Speech};

/// What one call is answered with.
///
/// In JSON: `"echo"`, `{"text": "hello"}`, `{"status": {"code": 503, "retry_after": "2"}}`, `{"odd": "not_json"}`,
/// `{"after": {"ms": 30000, "answer": "echo"}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A good transcript that names the file: [`text_for`](crate::text_for).
    #[default]
    Echo,
    /// A good transcript with this text.
    Text(String),
    /// A good transcript of this many words, which depend on the file's name.
    Words {
        /// How many words.
        count: usize,
        /// What they are written in.
        script: Script,
    },
    /// A good transcript of silence: the text is `""`.
    Empty,
    /// An HTTP status with an error body.
    Status {
        /// The status code. One that cannot end a call (below 200, above 999) is sent as 500.
        code: u16,
        /// The shape of the body.
        #[serde(default)]
        body: ErrorBody,
        /// The `Retry-After` header as it is sent: seconds, an HTTP date, or nonsense.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
        /// The `retry-after-ms` header, which `OpenAI` sends beside `Retry-After`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// Nothing, ever: the connection stays open until the client gives up.
    Hang,
    /// The head of a good answer and half of its body, then nothing, ever.
    HangMidBody,
    /// The connection is closed before the answer.
    Cut,
    /// The connection is closed after half of the answer's body.
    CutMidBody,
    /// A `200` that a careless client would take for a transcript, or a transcript that it would refuse.
    Odd(Odd),
    /// Another answer, this many milliseconds after the upload, whatever the latency of the [`Behaviour`](crate::Behaviour).
    After {
        /// Milliseconds from the end of the upload to the answer.
        ms: u64,
        /// What comes then.
        answer: Box<Answer>,
    },
}

impl Answer {
    /// A status with a body in `OpenAI`'s form and no `Retry-After`.
    pub fn status(code: u16) -> Self {
        Self::Status { code, body: ErrorBody::default(), retry_after: None, retry_after_ms: None }
    }

    /// A status with a `Retry-After` header, as it is to be sent.
    pub fn status_retry_after(code: u16, retry_after: impl Into<String>) -> Self {
        Self::Status {
            code,
            body: ErrorBody::default(),
            retry_after: Some(retry_after.into()),
            retry_after_ms: None,
        }
    }

    /// A status with a body of another form.
    pub fn status_body(code: u16, body: ErrorBody) -> Self {
        Self::Status { code, body, retry_after: None, retry_after_ms: None }
    }

    /// This answer, `ms` milliseconds after the upload.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Self {
        Self::After { ms, answer: Box::new(self) }
    }

    /// The text that a careful client gets out of this answer, spaces around it trimmed, or `None` if there is none to
    /// be had.
    pub fn expected_text(&self, file_name: &str) -> Option<String> {
        match self {
            Self::Odd(odd) => odd.expected_text(file_name),
            Self::After { answer, .. } => answer.expected_text(file_name),
            _ => self.speech(file_name).map(|speech| speech.text.trim().to_owned()),
        }
    }

    /// What is said in an answer that is good and not odd.
    pub(crate) fn speech(&self, file_name: &str) -> Option<Speech> {
        match self {
            Self::Echo => Some(Speech::naming(file_name)),
            Self::Text(text) => Some(Speech::of(text)),
            Self::Words { count, script } => Some(Speech::at_length(file_name, *count, *script)),
            Self::Empty => Some(Speech::of("")),
            _ => None,
        }
    }
}

/// A `200` that real servers were seen to send, or could. Whatever `response_format` was asked for, it is sent in the
/// form that the oddity needs. The text, where there is one, is [`text_for`](crate::text_for) the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Odd {
    /// No transcript: an object without `text`.
    NoText,
    /// No transcript: `text` is null.
    TextNull,
    /// No transcript: `text` is a number.
    TextNotString,
    /// No transcript: a list, not an object.
    NotObject,
    /// No transcript: not JSON, though the content type says so.
    NotJson,
    /// No transcript: JSON that ends in the middle, in a complete HTTP body.
    HalfJson,
    /// No transcript: JSON whose `text` is not UTF-8.
    NotUtf8,
    /// No transcript: a body of no bytes.
    EmptyBody,
    /// No transcript: a `204`.
    NoContent,
    /// No transcript: a page of HTML, as a proxy sends.
    Html200,
    /// No transcript: `OpenAI`'s error object under a `200`.
    Error200,
    /// `duration` is a string, as some servers send it.
    DurationAsString,
    /// There is no `duration`.
    NoDuration,
    /// Words call themselves `text`, not `word`.
    WordsAsText,
    /// Words sit in the segments, not beside them.
    WordsInSegments,
    /// `segments`, `words`, `language` and `duration` are null.
    NullFields,
    /// Fields that nobody knows, at every level.
    UnknownFields,
    /// White space around the text, as whisper.cpp leaves it.
    PaddedText,
    /// A text of this many bytes.
    HugeText(usize),
    /// A good `json` answer that calls itself `text/plain`.
    WrongContentType,
    /// A good `json` answer without a content type.
    NoContentType,
}

impl Odd {
    fn expected_text(&self, file_name: &str) -> Option<String> {
        match self {
            Self::NoText
            | Self::TextNull
            | Self::TextNotString
            | Self::NotObject
            | Self::NotJson
            | Self::HalfJson
            | Self::NotUtf8
            | Self::EmptyBody
            | Self::NoContent
            | Self::Html200
            | Self::Error200 => None,
            Self::DurationAsString
            | Self::NoDuration
            | Self::WordsAsText
            | Self::WordsInSegments
            | Self::NullFields
            | Self::UnknownFields
            | Self::PaddedText
            | Self::WrongContentType
            | Self::NoContentType => Some(crate::text_for(file_name)),
            Self::HugeText(bytes) => Some("a".repeat(*bytes)),
        }
    }
}

/// The shape of an error's body: each is some server's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBody {
    /// `{"error": {"message", "type", "param", "code"}}`: `OpenAI`, Groq, vLLM.
    #[default]
    ErrorObject,
    /// `{"error": ".."}`: whisper.cpp.
    ErrorString,
    /// `{"detail": ".."}`: whatever runs on `FastAPI`.
    Detail,
    /// `{"object": "error", "message": ..}`: vLLM in earlier versions.
    ObjectError,
    /// A page of HTML: proxies.
    Html,
    /// A line of plain text.
    Plain,
    /// No bytes at all.
    Empty,
}
