//! The answers that a test can configure.

use serde::{Deserialize, Serialize};

use crate::text::{Script, Speech, text_for};

/// The answer to a call.
///
/// In JSON: `"echo"`, `{"text": "hello"}`, `{"status": {"code": 503, "retry_after": "2"}}`, `{"odd": "not_json"}`,
/// `{"after": {"ms": 30000, "answer": "echo"}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A transcript that contains the file's name: [`text_for`](crate::text_for).
    #[default]
    Echo,
    /// A transcript with this text.
    Text(String),
    /// A transcript of this many words, which depend on the file's name.
    Words { count: usize, script: Script },
    /// A transcript of silence: the text is `""`.
    Empty,
    /// An HTTP status with an error body.
    Status {
        /// The status code. An invalid one (below 200, above 999) is sent as 500.
        code: u16,
        #[serde(default)]
        body: ErrorBody,
        /// The `Retry-After` header: seconds, an HTTP date, or an invalid value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
        /// The `retry-after-ms` header, which `OpenAI` sends in addition to `Retry-After`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// No answer: the connection stays open until the client closes it.
    Hang,
    /// The head of an answer and half of its body. Then the connection stays open.
    HangMidBody,
    /// The connection is closed before the answer.
    Cut,
    /// The connection is closed after half of the answer's body.
    CutMidBody,
    /// A `200` that a client may misinterpret.
    Odd(Odd),
    /// Another answer after this delay, instead of the latency of the [`Behaviour`](crate::Behaviour).
    After {
        /// Milliseconds from the end of the upload to the answer.
        ms: u64,
        answer: Box<Answer>,
    },
}

impl Answer {
    /// A status with a body in `OpenAI`'s form and without `Retry-After`.
    pub fn status(code: u16) -> Self {
        Self::status_body(code, ErrorBody::default())
    }

    /// A status with this `Retry-After` header.
    pub fn status_retry_after(code: u16, retry_after: impl Into<String>) -> Self {
        let retry_after = Some(retry_after.into());
        Self::Status { code, body: ErrorBody::default(), retry_after, retry_after_ms: None }
    }

    /// A status with this form of body.
    pub fn status_body(code: u16, body: ErrorBody) -> Self {
        Self::Status { code, body, retry_after: None, retry_after_ms: None }
    }

    /// This answer, `ms` milliseconds after the upload.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Self {
        Self::After { ms, answer: Box::new(self) }
    }

    /// The trimmed text that a correct client reads from this answer, or `None` if it contains no transcript.
    pub fn expected_text(&self, file_name: &str) -> Option<String> {
        match self {
            Self::Odd(odd) => odd.expected_text(file_name),
            Self::After { answer, .. } => answer.expected_text(file_name),
            _ => self.speech(file_name).map(|speech| speech.text.trim().to_owned()),
        }
    }

    /// The content of an answer with an ordinary transcript.
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

/// An unusual `200` that real servers send or could send. It ignores `response_format`. The text, if any, is
/// [`text_for`](crate::text_for) the file.
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
    /// No transcript: the body is not JSON, contrary to its content type.
    NotJson,
    /// No transcript: truncated JSON in a complete HTTP body.
    HalfJson,
    /// A `text` with a byte that is not UTF-8: `caf\xe9`.
    NotUtf8,
    /// No transcript: an empty body.
    EmptyBody,
    /// No transcript: a `204`.
    NoContent,
    /// No transcript: an HTML page, as from a proxy.
    Html200,
    /// No transcript: `OpenAI`'s error object with status `200`.
    Error200,
    /// `duration` is a string, as with some servers.
    DurationAsString,
    /// `duration` is missing.
    NoDuration,
    /// The key of words is `text`, not `word`.
    WordsAsText,
    /// Words are inside the segments.
    WordsInSegments,
    /// `segments`, `words`, `language` and `duration` are null.
    NullFields,
    /// Unknown fields at every level.
    UnknownFields,
    /// White space around the text, as with whisper.cpp.
    PaddedText,
    /// A text of this many bytes.
    HugeText(usize),
    /// A `json` answer with the content type `text/plain`.
    WrongContentType,
    /// A `json` answer without a content type.
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
            | Self::EmptyBody
            | Self::NoContent
            | Self::Html200
            | Self::Error200 => None,
            Self::NotUtf8 => Some("caf\u{fffd}".to_owned()),
            Self::DurationAsString
            | Self::NoDuration
            | Self::WordsAsText
            | Self::WordsInSegments
            | Self::NullFields
            | Self::UnknownFields
            | Self::PaddedText
            | Self::WrongContentType
            | Self::NoContentType => Some(text_for(file_name)),
            Self::HugeText(bytes) => Some("a".repeat(*bytes)),
        }
    }
}

/// The form of an error's body. Each is used by some server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBody {
    /// `{"error": {"message", "type", "param", "code"}}`: `OpenAI`, Groq, vLLM.
    #[default]
    ErrorObject,
    /// `{"error": ".."}`: whisper.cpp.
    ErrorString,
    /// `{"detail": ".."}`: servers on `FastAPI`.
    Detail,
    /// `{"object": "error", "message": ..}`: vLLM in earlier versions.
    ObjectError,
    /// An HTML page: proxies.
    Html,
    /// A line of plain text.
    Plain,
    Empty,
    /// This text.
    Text(String),
}
