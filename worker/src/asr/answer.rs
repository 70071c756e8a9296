//! Parses the model's response. The status comes before the body, since an error's body can be anything:
//! `{error:{message}}`, `{error:".."}`, `{detail}`, HTML, plain text.

use std::time::{Duration, SystemTime};

use longhand_shared::domain::job::{ChunkError, Segment, Transcription};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use super::{entry, language, lenient, segments};
use crate::failure::Failure;

/// The maximum length of a quoted answer, in characters.
const QUOTED_CHARS: usize = 120;

#[derive(Clone, Debug, PartialEq)]
pub struct CallError {
    pub failure: Failure,
    /// The chunk's error if there is no retry.
    pub error: ChunkError,
    /// The minimum pause: the response's `Retry-After`, or the time until the next probe.
    pub pause: Option<Duration>,
    pub status: Option<StatusCode>,
    /// The model's whole message, for logs and for `format.rs`. Users see at most a quotation: it may contain secrets.
    pub answer: String,
}

impl CallError {
    /// A failure with the code of its rule and a message for users.
    pub fn new(failure: Failure, message: impl AsRef<str>) -> Self {
        let error = ChunkError::new(failure.rule().code, message);
        Self { failure, error, pause: None, status: None, answer: String::new() }
    }
}

pub fn classify(
    status: StatusCode,
    pause: Option<Duration>,
    body: &[u8],
) -> Result<Transcription, CallError> {
    if status.is_success() {
        return transcription(body);
    }
    let answer = error_message(body);
    let failure = refusal(status, body);
    let message = match failure {
        // The model's message may contain keys, accounts and hosts of the installation.
        Failure::CallRefused | Failure::NoQuota => {
            format!(
                "the model refused the call with {}: the operator must check ASR_BASE_URL, ASR_API_KEY and the account",
                status.as_u16()
            )
        }
        _ => format!("the model answered {}: {}", status.as_u16(), quote(&answer)),
    };
    Err(CallError { pause, status: Some(status), answer, ..CallError::new(failure, message) })
}

fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    if status.is_client_error() && contains(body, b"insufficient_quota") {
        return Failure::NoQuota;
    }
    match status.as_u16() {
        402 => Failure::NoQuota,
        429 => Failure::Throttled,
        408 | 409 | 425 | 498 | 500.. => Failure::ServerError,
        401 | 403 | 404 | 405 | 407 | 300..=399 => Failure::CallRefused,
        _ => Failure::ChunkRefused,
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|window| window == text)
}

/// `retry-after-ms`, or `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3).
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let header = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(milliseconds) = header("retry-after-ms").and_then(number) {
        return duration(milliseconds / 1000.0);
    }
    let text = header(RETRY_AFTER.as_str())?;
    match number(text) {
        Some(seconds) => duration(seconds),
        // A past date means no pause.
        None => httpdate::parse_http_date(text).ok().map(|date| date.duration_since(now).unwrap_or_default()),
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

fn transcription(body: &[u8]) -> Result<Transcription, CallError> {
    let protocol = |what: String| CallError::new(Failure::NotATranscription, what);
    let answer = lenient::parse(body).map_err(|error| {
        // Not quoted: it may be speech.
        protocol(format!("the model's answer of {} bytes is not JSON: {error}", body.len()))
    })?;
    let Some(text) = answer.get("text").and_then(Value::as_str) else {
        return Err(protocol(format!("the model's answer of {} bytes has no string \"text\"", body.len())));
    };
    let duration = answer.get("duration").and_then(entry::seconds);
    let text = text.trim();
    let segments = segments::read(&answer, text, duration);
    let confidence = mean_confidence(&segments);
    let mut transcription = Transcription::new(text, duration, segments)
        .map_err(|error| CallError::new(Failure::TranscriptTooLarge, error.to_string()))?;
    transcription.language = answer.get("language").and_then(Value::as_str).and_then(language::detected);
    transcription.confidence = confidence;
    Ok(transcription)
}

/// The mean confidence of the segments that have one, by the length of their text.
#[expect(clippy::cast_precision_loss, reason = "a text has less than 2^52 bytes")]
fn mean_confidence(segments: &[Segment]) -> Option<f64> {
    let (mut sum, mut bytes) = (0.0, 0.0);
    for (confidence, text) in segments.iter().filter_map(|part| Some((part.confidence?, &part.text))) {
        sum += confidence * text.len() as f64;
        bytes += text.len() as f64;
    }
    (bytes > 0.0).then(|| (sum / bytes * 1000.0).round() / 1000.0)
}

/// The message in an error's body, whichever of the known forms it has.
fn error_message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return text.into_owned();
    };
    let places =
        ["/detail/error/message", "/error/message", "/error", "/detail", "/message", "/detail/0/msg"];
    let message = places.iter().find_map(|place| value.pointer(place)?.as_str());
    message.unwrap_or(&text).to_owned()
}

/// The beginning of a text, on one line.
pub(super) fn quote(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return "(nothing)".to_owned();
    }
    match line.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Transcription, CallError> {
        classify(StatusCode::from_u16(status).expect("a status"), None, body.as_bytes())
    }

    fn transcribed(body: &str) -> Transcription {
        answer(200, body).unwrap_or_else(|error| panic!("{body}: {error:?}"))
    }

    fn failed(status: u16, body: &str) -> (Failure, String) {
        let error = answer(status, body).expect_err("no transcription");
        (error.failure, error.error.message)
    }

    #[test]
    fn a_text_is_a_transcription_whatever_is_beside_it() {
        assert_eq!(transcribed(r#"{"text":" hello "}"#).text(), "hello");
        assert_eq!(transcribed(r#"{"text":""}"#).text(), "");
        assert_eq!(transcribed(r#"{"text":"a","duration":"7.1"}"#).duration_seconds(), Some(7.1));
        assert_eq!(transcribed(r#"{"text":"a","duration":7}"#).duration_seconds(), Some(7.0));
        assert_eq!(transcribed(r#"{"text":"a","duration":"long"}"#).duration_seconds(), None);
        let odd = r#"{"text":"a b","segments":[{"start":0,"end":"1.5","text":" a"},{"start":1},7],"words":[{"text":"a"}]}"#;
        let segments = transcribed(odd);
        assert_eq!(segments.segments().len(), 1);
        assert_eq!((segments.segments()[0].end, segments.segments()[0].text.as_str()), (1.5, "a"));
    }

    #[test]
    fn language_and_confidence_are_kept() {
        let body = r#"{"text":"a bcd","language":"english","segments":[
            {"start":0,"end":1,"text":"a","confidence":0.5},{"start":1,"end":2,"text":"bcd","confidence":0.9}]}"#;
        let read = transcribed(body);
        assert_eq!((read.language.as_deref(), read.confidence), (Some("en"), Some(0.8)));
    }

    #[test]
    fn success_without_a_text_is_never_silence() {
        for body in ["", "null", "[]", "{}", r#"{"text":null}"#, r#"{"text":7}"#, "<html>ok</html>", "hello"]
        {
            assert_eq!(failed(200, body).0, Failure::NotATranscription, "{body}");
        }
        let huge = format!(r#"{{"text":"{}"}}"#, "x".repeat(400_000));
        assert_eq!(failed(200, &huge).0, Failure::TranscriptTooLarge);
    }

    #[test]
    fn every_form_of_error_is_read() {
        let forms = [
            (r#"{"error":{"message":"bad audio"}}"#, "bad audio"),
            (r#"{"error":"bad audio"}"#, "bad audio"),
            (r#"{"detail":"bad audio"}"#, "bad audio"),
            (r#"{"detail":[{"msg":"bad audio"}]}"#, "bad audio"),
            (r#"{"detail":{"error":{"message":"bad audio"}}}"#, "bad audio"),
            (r#"{"object":"error","message":"bad audio"}"#, "bad audio"),
            ("<html><h1>bad\naudio</h1></html>", "<html><h1>bad audio</h1></html>"),
            ("", "(nothing)"),
        ];
        for (body, quoted) in forms {
            let expected = (Failure::ChunkRefused, format!("the model answered 400: {quoted}"));
            assert_eq!(failed(400, body), expected);
        }
    }

    #[test]
    fn statuses_are_about_the_chunk_the_call_or_the_model() {
        let about = |failure, statuses: &[u16]| {
            for status in statuses {
                assert_eq!(failed(*status, "x").0, failure, "{status}");
            }
        };
        about(Failure::ChunkRefused, &[400, 406, 413, 415, 422]);
        about(Failure::CallRefused, &[301, 307, 401, 403, 404, 405]);
        about(Failure::NoQuota, &[402]);
        about(Failure::Throttled, &[429]);
        about(Failure::ServerError, &[408, 409, 425, 498, 500, 502, 503, 504, 507, 520, 529, 530, 599]);
        let quota = r#"{"error":{"message":"You exceeded it","code":"insufficient_quota"}}"#;
        assert_eq!(failed(429, quota).0, Failure::NoQuota);
    }

    #[test]
    fn words_about_the_installation_are_not_for_users() {
        for status in [401, 402, 403, 404, 302] {
            let error = answer(status, "key sk-secret of account 7").expect_err("refused");
            assert!(!error.error.message.contains("secret"), "{error:?}");
            assert!(error.answer.contains("sk-secret"), "it is for the log");
        }
    }

    #[test]
    fn retry_after_in_all_its_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let ask = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a header"));
            retry_after(&headers, now)
        };
        assert_eq!(ask("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(ask("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(ask("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(ask("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT"), Some(Duration::ZERO));
        assert_eq!(ask("retry-after-ms", "1500"), Some(Duration::from_millis(1500)));
        for bad in ["-1", "soon", "NaN", "inf", "1e999"] {
            assert_eq!(ask("retry-after", bad), None, "{bad}");
        }
    }
}
