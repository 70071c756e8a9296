//! Reads a JSON body, with limits on size and time. Repeated keys are refused.

use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::url::MAX_URL_BYTES;
use std::fmt;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::error::ApiError;

/// The maximum size of a body, 64 KiB: the longest paths, and 16 KiB for everything else.
pub(crate) const MAX_BODY_BYTES: usize = MAX_CHUNKS * MAX_URL_BYTES + 16 * 1024;

/// How long a client may take to send it. A client that sends less than its `Content-Length` is disconnected then.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Byte order marks, which JSON must not begin with (RFC 8259 section 8.1). Windows tools write them invisibly.
const MARKS: [(&[u8], &str); 3] =
    [(b"\xEF\xBB\xBF", "UTF-8"), (b"\xFF\xFE", "UTF-16"), (b"\xFE\xFF", "UTF-16")];

/// The request's body as JSON.
pub(crate) async fn json(request: Request) -> Result<Value, ApiError> {
    check_type(request.headers())?;
    // A client that sends `Expect: 100-continue` gets this error before it sends the body.
    if stated_length(request.headers()).is_some_and(|length| length > MAX_BODY_BYTES) {
        return Err(ApiError::BodyTooLarge { limit: MAX_BODY_BYTES });
    }
    let bytes = timeout(BODY_TIMEOUT, Bytes::from_request(request, &()))
        .await
        .map_err(|_| ApiError::BodyTimeout { limit: BODY_TIMEOUT })?
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge { limit: MAX_BODY_BYTES },
            _ => ApiError::BodyBroken,
        })?;
    if bytes.trim_ascii().is_empty() {
        return Err(ApiError::NoBody);
    }
    if let Some((mark, encoding)) = MARKS.into_iter().find(|(mark, _)| bytes.starts_with(mark)) {
        let bytes = mark.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" ");
        return Err(ApiError::ByteOrderMark(format!("the bytes {bytes}, a byte order mark of {encoding}")));
    }
    let Unambiguous(value) = serde_json::from_slice(&bytes).map_err(ApiError::NotJson)?;
    Ok(value)
}

fn stated_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A body without a type is parsed.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(coding) = headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        return Err(ApiError::NotJsonType(format!("the body is encoded as {}", quoted(coding))));
    }
    match headers.get(CONTENT_TYPE) {
        Some(value) if !is_json(value) => {
            Err(ApiError::NotJsonType(format!("the body is of type {}", quoted(value))))
        }
        _ => Ok(()),
    }
}

/// `application/json` and types with its suffix (`application/merge-patch+json`), with any parameters.
fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else {
        return false;
    };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn quoted(value: &HeaderValue) -> String {
    let text: String = String::from_utf8_lossy(value.as_bytes()).chars().take(100).collect();
    format!("{text:?}")
}

/// JSON in which no object repeats a key (RFC 7493 section 2.3). `Value` alone would keep the last one, where a proxy
/// before us may have read the first.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unambiguous(entry)) = entries.next_element()? {
            array.push(entry);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                let key: String = key.chars().take(60).collect();
                return Err(A::Error::custom(format_args!("the key {key:?} is repeated in one object")));
            }
            let Unambiguous(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        let read = serde_json::from_str(text).map(|Unambiguous(value)| value);
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn an_object_must_not_repeat_a_key() {
        let text = r#"{"a":[{"b":1},{"b":-2.5}],"b":{"a":null,"c":"é","d":true}}"#;
        assert_eq!(read(text).map(|value| value.to_string()), Ok(text.to_owned()));
        let error = read("{\"a\":{\"b\":1,\n\"b\":2}}").expect_err("a repeated key");
        assert_eq!(error, "the key \"b\" is repeated in one object at line 2 column 3");
    }

    #[test]
    fn json_types() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(is_json(&HeaderValue::from_static(good)), "{good}");
        }
        for bad in ["", "text/plain", "application/x-www-form-urlencoded", "json", "text/x+json"] {
            assert!(!is_json(&HeaderValue::from_static(bad)), "{bad}");
        }
    }
}
