//! What the model's answer means. The status is looked at before the body, since an error's body
//! may be anything: `{error:{message}}`, `{error:".."}`, `{detail}`, HTML, plain text.

use std::time::{Duration, SystemTime};

use super::guard::Called;
use longhand_shared::job::{ChunkError, ErrorCode, Segment, Transcription};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

/// How much of an answer that is no JSON is quoted, in characters.
const QUOTED_CHARS: usize = 120;

/// What an answer means.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// A transcription; an empty text is silence.
    Heard(Transcription),
    /// The model does not speak `verbose_json`, and may be asked for `json` at once.
    NoVerboseJson,
    /// The next try would go no better.
    Permanent(ChunkError),
    /// The next try may go better.
    Again {
        /// What the chunk fails with if it does not.
        error: ChunkError,
        /// Whether this says that the model is down or busy, and nothing about the chunk.
        down: bool,
        /// What it says about the model.
        sign: Called,
        /// How long the model asked to be left alone.
        pause: Option<Duration>,
    },
}

/// Tells what an answer means. `verbose` is whether it was asked for as `verbose_json`.
pub fn classify(status: StatusCode, pause: Option<Duration>, body: &[u8], verbose: bool) -> Meaning {
    if status.is_success() {
        return match transcription(body) {
            Ok(transcription) => Meaning::Heard(transcription),
            Err(error) => Meaning::Permanent(error),
        };
    }
    let said = error_message(body);
    let message = format!("the model answered {}: {}", status.as_u16(), quote(&said));
    match status.as_u16() {
        400 if verbose && (said.contains("verbose_json") || said.contains("response_format")) => {
            Meaning::NoVerboseJson
        }
        // 401 and 403 are about our key, not about the chunk: it waits until somebody mends that.
        code @ (401 | 403 | 408 | 409 | 425 | 429 | 500..) => Meaning::Again {
            error: ChunkError::new(ErrorCode::AsrUnavailable, message),
            down: matches!(code, 401 | 403 | 429 | 502..=504),
            sign: match code {
                429 => Called::Throttled,
                401 | 403 | 502..=504 => Called::Down,
                _ => Called::Failed,
            },
            pause,
        },
        _ => Meaning::Permanent(ChunkError::new(ErrorCode::AsrRejected, message)),
    }
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
        // A date that has passed asks for no pause.
        None => httpdate::parse_http_date(text).ok().map(|date| date.duration_since(now).unwrap_or_default()),
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

fn transcription(body: &[u8]) -> Result<Transcription, ChunkError> {
    let protocol = |what: String| ChunkError::new(ErrorCode::AsrProtocol, what);
    let answer: Value = serde_json::from_slice(body).map_err(|error| {
        // Not quoted: it may be what somebody said.
        protocol(format!("the model's answer of {} bytes is not JSON: {error}", body.len()))
    })?;
    let Some(text) = answer.get("text").and_then(Value::as_str) else {
        return Err(protocol(format!("the model's answer of {} bytes has no string \"text\"", body.len())));
    };
    let duration = answer.get("duration").and_then(seconds);
    let segments = answer.get("segments").and_then(Value::as_array);
    let segments = segments.into_iter().flatten().filter_map(segment).collect();
    Transcription::new(text.trim(), duration, segments)
        .map_err(|error| ChunkError::new(ErrorCode::TranscriptTooLarge, error.to_string()))
}

/// A number, or a number in a string: servers differ. To the millisecond, and less than two weeks:
/// `DynamoDB` refuses numbers beyond its range.
fn seconds(value: &Value) -> Option<f64> {
    let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    (0.0..=1e6).contains(&seconds).then(|| (seconds * 1000.0).round() / 1000.0)
}

/// A segment that lacks a part is passed over: the text is whole without it.
fn segment(value: &Value) -> Option<Segment> {
    Some(Segment {
        start: seconds(value.get("start")?)?,
        end: seconds(value.get("end")?)?,
        text: value.get("text")?.as_str()?.trim().to_owned(),
    })
}

/// All that an error's body says, whichever of the known forms it has.
fn error_message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return text.into_owned();
    };
    let places = ["/error/message", "/error", "/detail", "/message", "/detail/0/msg"];
    let said = places.iter().find_map(|place| value.pointer(place)?.as_str());
    said.unwrap_or(&text).to_owned()
}

/// The beginning of a text, on one line.
fn quote(text: &str) -> String {
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

    fn meaning(status: u16, body: &str) -> Meaning {
        classify(StatusCode::from_u16(status).expect("a status"), None, body.as_bytes(), true)
    }

    fn heard(body: &str) -> Transcription {
        match meaning(200, body) {
            Meaning::Heard(transcription) => transcription,
            other => panic!("{body}: {other:?}"),
        }
    }

    fn permanent(status: u16, body: &str) -> (ErrorCode, String) {
        match meaning(status, body) {
            Meaning::Permanent(error) => (error.code, error.message),
            other => panic!("{status} {body}: {other:?}"),
        }
    }

    #[test]
    fn a_text_is_a_transcription_whatever_is_beside_it() {
        assert_eq!(heard(r#"{"text":" hello "}"#).text(), "hello");
        assert_eq!(heard(r#"{"text":""}"#).text(), "");
        assert_eq!(heard(r#"{"text":"a","duration":"7.1"}"#).duration_seconds(), Some(7.1));
        assert_eq!(heard(r#"{"text":"a","duration":7}"#).duration_seconds(), Some(7.0));
        assert_eq!(heard(r#"{"text":"a","duration":"long"}"#).duration_seconds(), None);
        let odd = r#"{"text":"a b","segments":[{"start":0,"end":"1.5","text":" a"},{"start":1},7],"words":[{"text":"a"}]}"#;
        assert_eq!(heard(odd).segments(), [Segment { start: 0.0, end: 1.5, text: "a".to_owned() }]);
    }

    #[test]
    fn success_without_a_text_is_never_silence() {
        for body in ["", "null", "[]", "{}", r#"{"text":null}"#, r#"{"text":7}"#, "<html>ok</html>", "hello"]
        {
            assert_eq!(permanent(200, body).0, ErrorCode::AsrProtocol, "{body}");
        }
        let huge = format!(r#"{{"text":"{}"}}"#, "x".repeat(400_000));
        assert_eq!(permanent(200, &huge).0, ErrorCode::TranscriptTooLarge);
    }

    #[test]
    fn every_form_of_error_is_read() {
        let forms = [
            (r#"{"error":{"message":"bad audio"}}"#, "bad audio"),
            (r#"{"error":"bad audio"}"#, "bad audio"),
            (r#"{"detail":"bad audio"}"#, "bad audio"),
            (r#"{"detail":[{"msg":"bad audio"}]}"#, "bad audio"),
            (r#"{"object":"error","message":"bad audio"}"#, "bad audio"),
            ("<html><h1>bad\naudio</h1></html>", "<html><h1>bad audio</h1></html>"),
            ("", "(nothing)"),
        ];
        for (body, said) in forms {
            let (code, message) = permanent(400, body);
            assert_eq!(code, ErrorCode::AsrRejected);
            assert_eq!(message, format!("the model answered 400: {said}"));
        }
    }

    #[test]
    fn which_statuses_are_tried_again_and_which_say_that_the_model_is_down() {
        for (status, expected_down) in [
            (408, false),
            (409, false),
            (425, false),
            (429, true),
            (500, false),
            (401, true),
            (403, true),
            (502, true),
            (503, true),
            (504, true),
            (599, false),
        ] {
            assert!(
                matches!(meaning(status, "x"), Meaning::Again { down, .. } if down == expected_down),
                "{status}"
            );
        }
        for status in [301, 400, 404, 413, 415, 422] {
            assert_eq!(permanent(status, "x").0, ErrorCode::AsrRejected, "{status}");
        }
    }

    #[test]
    fn a_model_without_verbose_json_is_told_from_a_bad_request() {
        let refusal =
            r#"{"error":{"message":"response_format 'verbose_json' is not compatible with this model"}}"#;
        assert_eq!(meaning(400, refusal), Meaning::NoVerboseJson);
        let asked_for_json = classify(StatusCode::BAD_REQUEST, None, refusal.as_bytes(), false);
        assert!(matches!(asked_for_json, Meaning::Permanent(_)));
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
