//! Answers as HTTP responses.

use std::{convert::Infallible, future, io, iter};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, ErrorBody, Odd};
use crate::state::Call;
use crate::text::{Speech, seconds_before};
use crate::upload::{BadUpload, Form};

const HTML: &str = "<!DOCTYPE html><html><head><title>Sim</title></head>\
                    <body><h1>This is a page, not a transcript</h1></body></html>\n";
const JSON: &str = "application/json";
const WORDS_PER_SEGMENT: usize = 10;

/// The `response_format` of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Format {
    Json,
    /// With timestamps of segments, and of words if requested.
    VerboseJson {
        words: bool,
    },
    Text,
}

impl Format {
    pub(crate) fn requested(form: &Form) -> Result<Self, BadUpload> {
        match form.get("response_format").map(String::as_str) {
            None | Some("json") => Ok(Self::Json),
            Some("text") => Ok(Self::Text),
            Some("verbose_json") => Ok(Self::VerboseJson {
                words: form
                    .get("timestamp_granularities[]")
                    .is_some_and(|values| values.split(',').any(|one| one == "word")),
            }),
            Some(other) => Err(BadUpload::refused(
                format!("response_format '{other}' is not one of 'json', 'text', 'verbose_json'"),
                Some("response_format"),
            )),
        }
    }

    pub(crate) fn is_verbose(self) -> bool {
        matches!(self, Self::VerboseJson { .. })
    }
}

/// An error in `OpenAI`'s form.
pub(crate) fn refusal(status: StatusCode, message: &str, param: Option<&str>) -> Response {
    whole(status, Some(JSON), error_object(status.as_u16(), message, param).to_string())
}

/// Turns an answer into a response and records the call's result. Never returns for [`Answer::Hang`] and [`Answer::Cut`].
pub(crate) async fn send(
    answer: &Answer,
    format: Format,
    mut call: Call,
    cut: &CancellationToken,
) -> Response {
    match answer {
        Answer::Hang => {
            call.hung();
            future::pending().await
        }
        Answer::HangMidBody => {
            call.hung();
            let rest = stream::once(async move {
                let _in_flight = call;
                future::pending().await
            });
            half(rest.boxed())
        }
        Answer::Cut => {
            call.cut();
            drop(call);
            cut.cancel();
            future::pending().await
        }
        Answer::CutMidBody => {
            call.cut();
            // Flush the first half before the error that makes the server close the connection.
            half(
                stream::once(async {
                    tokio::task::yield_now().await;
                    Err(io::ErrorKind::ConnectionAborted.into())
                })
                .boxed(),
            )
        }
        Answer::Status { code, body, retry_after, retry_after_ms } => {
            let mut response = error(*code, body.clone());
            let headers = response.headers_mut();
            if let Some(value) = retry_after.as_ref().and_then(|raw| HeaderValue::from_str(raw).ok()) {
                headers.insert(header::RETRY_AFTER, value);
            }
            if let Some(ms) = retry_after_ms {
                headers.insert("retry-after-ms", HeaderValue::from(*ms));
            }
            settled(response, false, call)
        }
        Answer::Odd(odd) => {
            let transcript = answer.expected_text("").is_some();
            settled(odd_response(odd, call.file_name()), transcript, call)
        }
        good => {
            let speech = good.speech(call.file_name()).unwrap_or_else(|| Speech::of(""));
            settled(transcript(&speech, format), true, call)
        }
    }
}

fn settled(response: Response, transcript: bool, mut call: Call) -> Response {
    call.answered(response.status().as_u16(), transcript);
    response
}

fn whole(status: StatusCode, content_type: Option<&'static str>, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    if let Some(content_type) = content_type {
        let value = HeaderValue::from_static(content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

fn ok_json(body: impl Into<Body>) -> Response {
    whole(StatusCode::OK, Some(JSON), body)
}

/// The head of an answer, the first half of its body, and then `rest`.
fn half(rest: stream::BoxStream<'static, io::Result<Bytes>>) -> Response {
    let first = stream::once(future::ready(Ok(Bytes::from_static(b"{\"text\": \"what comes next is"))));
    ok_json(Body::from_stream(first.chain(rest)))
}

fn transcript(speech: &Speech, format: Format) -> Response {
    match format {
        Format::Text => {
            whole(StatusCode::OK, Some("text/plain; charset=utf-8"), format!("{}\n", speech.text))
        }
        Format::Json => ok_json(json!({"text": speech.text}).to_string()),
        Format::VerboseJson { words } => {
            let mut body = verbose(speech);
            if words {
                body["words"] = words_of(speech, "word");
            }
            ok_json(body.to_string())
        }
    }
}

/// `verbose_json` without words.
fn verbose(speech: &Speech) -> Value {
    let segments: Vec<Value> = speech
        .words
        .chunks(WORDS_PER_SEGMENT)
        .enumerate()
        .map(|(id, words)| {
            let first = id * WORDS_PER_SEGMENT;
            json!({
                "id": id,
                "seek": 0,
                "start": seconds_before(first),
                "end": seconds_before(first + words.len()),
                // Whisper's segments begin with the separating space.
                "text": format!("{}{}", speech.separator, words.join(speech.separator)),
                "tokens": [],
                "temperature": 0.0,
                "avg_logprob": -0.25,
                "compression_ratio": 1.0,
                "no_speech_prob": 0.0,
            })
        })
        .collect();
    json!({
        "task": "transcribe",
        "language": speech.language,
        "duration": speech.duration(),
        "text": speech.text,
        "segments": segments,
    })
}

fn words_of(speech: &Speech, key: &str) -> Value {
    let words = speech.words.iter().enumerate();
    words
        .map(|(index, word)| {
            json!({key: word, "start": seconds_before(index), "end": seconds_before(index + 1)})
        })
        .collect()
}

fn odd_response(odd: &Odd, file_name: &str) -> Response {
    let speech = Speech::naming(file_name);
    let text_only = || json!({"text": speech.text}).to_string();
    let words = |key| words_of(&speech, key);
    // Most are `verbose_json` with unusual fields.
    let mut body = verbose(&speech);
    match odd {
        Odd::NotObject => return ok_json(json!([speech.text]).to_string()),
        Odd::NotJson => return ok_json(speech.text),
        Odd::HalfJson => {
            let whole = body.to_string().into_bytes();
            return ok_json(whole[..whole.len() / 2].to_vec());
        }
        Odd::NotUtf8 => return ok_json(b"{\"text\": \"caf\xe9\"}".to_vec()),
        Odd::EmptyBody => return ok_json(Body::empty()),
        Odd::NoContent => return whole(StatusCode::NO_CONTENT, None, Body::empty()),
        Odd::Html200 => return whole(StatusCode::OK, Some("text/html"), HTML),
        Odd::Error200 => return ok_json(error_object(200, "simulated 200", None).to_string()),
        Odd::HugeText(bytes) => return huge(*bytes),
        Odd::WrongContentType => return whole(StatusCode::OK, Some("text/plain"), text_only()),
        Odd::NoContentType => return whole(StatusCode::OK, None, text_only()),
        Odd::TextNull => body["text"] = Value::Null,
        Odd::TextNotString => body["text"] = json!(42),
        Odd::PaddedText => body["text"] = json!(format!(" {}\n", speech.text)),
        Odd::DurationAsString => body["duration"] = json!(speech.duration().to_string()),
        Odd::WordsAsText => body["words"] = words("text"),
        // The text has fewer words than a segment may have, so there is one segment.
        Odd::WordsInSegments => body["segments"][0]["words"] = words("word"),
        Odd::NullFields => {
            for key in ["segments", "words", "language", "duration"] {
                body[key] = Value::Null;
            }
        }
        Odd::UnknownFields => {
            body["usage"] = json!({"type": "tokens", "total_tokens": 9});
            body["x_sim"] = json!([1, {"deep": [null]}]);
            body["segments"][0]["speaker"] = json!("A");
        }
        Odd::NoText | Odd::NoDuration => {
            let missing = if *odd == Odd::NoText { "text" } else { "duration" };
            body.as_object_mut().expect("`verbose` makes an object").remove(missing);
        }
    }
    ok_json(body.to_string())
}

/// A text of this many bytes, generated while it is sent.
fn huge(bytes: usize) -> Response {
    const PIECE: &[u8] = &[b'a'; 16 * 1024];
    let text = iter::repeat_n(PIECE, bytes / PIECE.len()).chain(iter::once(&PIECE[..bytes % PIECE.len()]));
    let body = iter::once(&b"{\"text\": \""[..]).chain(text).chain(iter::once(&b"\"}"[..]));
    ok_json(Body::from_stream(stream::iter(body.map(|piece| Ok::<_, Infallible>(Bytes::from_static(piece))))))
}

fn error_object(code: u16, message: &str, param: Option<&str>) -> Value {
    json!({"error": {
        "message": message,
        "type": if code == 429 { "rate_limit_error" } else if code < 500 { "invalid_request_error" } else { "server_error" },
        "param": param,
        "code": null,
    }})
}

fn error(code: u16, body: ErrorBody) -> Response {
    let status = StatusCode::from_u16(code)
        .ok()
        .filter(|status| !status.is_informational())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let message = format!("simulated {code}");
    let json = |body: Value| whole(status, Some(JSON), body.to_string());
    match body {
        ErrorBody::ErrorObject => json(error_object(code, &message, None)),
        ErrorBody::ErrorString => json(json!({"error": message})),
        ErrorBody::Detail => json(json!({"detail": message})),
        ErrorBody::ObjectError => json(json!({
            "object": "error",
            "message": message,
            "type": "BadRequestError",
            "param": null,
            "code": code,
        })),
        ErrorBody::Html => whole(status, Some("text/html"), HTML),
        ErrorBody::Plain => whole(status, Some("text/plain"), format!("{message}\n")),
        ErrorBody::Empty => whole(status, None, Body::empty()),
        ErrorBody::Text(text) => whole(status, Some(JSON), text),
    }
}
