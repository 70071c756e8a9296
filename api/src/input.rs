//! Reads the fields of a JSON object or of a query one by one, and collects every fault.

use std::fmt::{Display, Write};
use std::ops::RangeInclusive;

use axum::extract::Query;
use axum::http::Uri;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::InvalidChunkCount;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fault::Fault;

/// The most faults that are listed: the answer must not be many times larger than the request.
const MAX_FAULTS: usize = 100;

/// The fields of a request that have not been read yet, and the faults of those that have.
///
/// A reader removes each field that it knows and ends with [`Fields::finish`], which faults the rest.
pub(crate) struct Fields {
    /// The pointer of the object itself, before the name of a field.
    prefix: String,
    values: Map<String, Value>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl Fields {
    /// The fields of a JSON body.
    pub(crate) fn of_body(body: Value) -> Result<Self, ApiError> {
        let Value::Object(values) = body else {
            let detail = format!("must be an object, is {}", kind(&body));
            return Err(ApiError::Invalid(vec![Fault::new("#", detail)]));
        };
        Ok(Self { prefix: "#/".to_owned(), values, known: vec![], faults: vec![] })
    }

    /// The parameters of a query; none may be repeated.
    pub(crate) fn of_query(uri: &Uri) -> Self {
        let mut fields = Self { prefix: "?".to_owned(), values: Map::new(), known: vec![], faults: vec![] };
        // Bytes that are not UTF-8 become U+FFFD, which no parameter accepts.
        match Query::<Vec<(String, String)>>::try_from_uri(uri) {
            Ok(Query(pairs)) => {
                for (name, value) in pairs {
                    if fields.values.contains_key(&name) {
                        fields.fault(&name, "is repeated");
                    } else {
                        fields.values.insert(name, value.into());
                    }
                }
            }
            Err(rejection) => fields.faults.push(Fault::new("?", rejection.body_text())),
        }
        fields
    }

    /// Records that a field is wrong.
    pub(crate) fn fault(&mut self, name: &str, detail: impl Display) {
        self.faults.push(Fault::new(self.pointer(name), detail));
    }

    /// Records that something inside a field is wrong.
    pub(crate) fn fault_inside(&mut self, name: &str, part: impl Display, detail: impl Display) {
        let pointer = format!("{}/{}", self.pointer(name), escaped(&part.to_string()));
        self.faults.push(Fault::new(pointer, detail));
    }

    /// A field that may be absent or null.
    pub(crate) fn optional(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.values.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn required(&mut self, name: &'static str) -> Option<Value> {
        let value = self.optional(name);
        if value.is_none() {
            self.fault(name, "is required");
        }
        value
    }

    /// A required array with an entry for each chunk. If there are too many, the rest is left out: the count is a fault
    /// already.
    pub(crate) fn for_chunks(&mut self, name: &'static str, entries: &str) -> Option<Vec<Value>> {
        match self.required(name)? {
            Value::Array(mut array) => {
                if !(1..=MAX_CHUNKS).contains(&array.len()) {
                    self.fault(name, InvalidChunkCount(array.len()));
                }
                array.truncate(MAX_CHUNKS);
                Some(array)
            }
            other => {
                self.fault(name, format_args!("must be an array of {entries}, is {}", kind(&other)));
                None
            }
        }
    }

    /// A parameter that is `true` or `false`, by default `false`.
    pub(crate) fn flag(&mut self, name: &'static str) -> bool {
        self.parsed(name, |text| text.parse().map_err(|_| "must be true or false")).unwrap_or_default()
    }

    /// A text that may be absent, parsed.
    pub(crate) fn parsed<T, E: Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.optional_text::<String>(name)?;
        self.check(name, parse(&text))
    }

    /// A boolean of a JSON body.
    pub(crate) fn optional_bool(&mut self, name: &'static str) -> Option<bool> {
        let value = self.optional(name)?;
        let detail = format!("must be a boolean, is {}", kind(&value));
        self.check(name, value.as_bool().ok_or(detail))
    }

    /// [`Fields::optional`], parsed from text.
    pub(crate) fn optional_text<T>(&mut self, name: &'static str) -> Option<T>
    where
        T: TryFrom<String, Error: Display>,
    {
        let value = self.optional(name)?;
        self.check(name, text(value))
    }

    /// Records the error, if there is one.
    pub(crate) fn check<T>(&mut self, name: &str, made: Result<T, impl Display>) -> Option<T> {
        made.map_err(|detail| self.fault(name, detail)).ok()
    }

    /// The parsed value, or every fault. A reader that returns `None` has recorded one.
    pub(crate) fn finish<T>(mut self, made: Option<T>) -> Result<T, ApiError> {
        self.fault_unknown();
        match made {
            Some(made) if self.faults.is_empty() => Ok(made),
            _ => {
                if let Some(rest) = self.faults.len().checked_sub(MAX_FAULTS).filter(|rest| *rest > 0) {
                    self.faults.truncate(MAX_FAULTS);
                    self.faults.push(Fault::new(
                        self.prefix.trim_end_matches('/'),
                        format_args!("has {rest} more faults"),
                    ));
                }
                Err(ApiError::Invalid(self.faults))
            }
        }
    }

    /// Reads an object that is an entry of a field; its faults are recorded here.
    pub(crate) fn entry<T>(
        &mut self,
        name: &str,
        index: usize,
        entry: Value,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let Value::Object(values) = entry else {
            self.fault_inside(name, index, format_args!("must be an object, is {}", kind(&entry)));
            return None;
        };
        let prefix = format!("{}/{index}/", self.pointer(name));
        let mut fields = Self { prefix, values, known: vec![], faults: vec![] };
        let made = read(&mut fields);
        fields.fault_unknown();
        self.faults.append(&mut fields.faults);
        made
    }

    fn fault_unknown(&mut self) {
        let expected = self.known.join(", ");
        for name in std::mem::take(&mut self.values).keys() {
            self.fault(name, format_args!("is unknown: expected {expected}"));
        }
    }

    pub(crate) fn pointer(&self, name: &str) -> String {
        format!("{}{}", self.prefix, escaped(name))
    }
}

/// Parses a value from text.
pub(crate) fn text<T>(value: Value) -> Result<T, String>
where
    T: TryFrom<String, Error: Display>,
{
    match value {
        Value::String(text) => T::try_from(text).map_err(|error| error.to_string()),
        other => Err(format!("must be a string, is {}", kind(&other))),
    }
}

/// Parses a number in this range.
pub(crate) fn number(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("must be a number from {} to {}", range.start(), range.end()))
}

/// The kind of JSON, with its article.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A part of a JSON pointer in a URI fragment: with RFC 6901's escapes, then those of a URI.
fn escaped(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'~' => text.push_str("~0"),
            b'/' => text.push_str("~1"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'$' | b':' | b'@' => {
                text.push(char::from(byte));
            }
            other => {
                let _ = write!(text, "%{other:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use longhand_shared::UserId;
    use serde_json::json;

    use super::*;

    fn faults(result: Result<(), ApiError>) -> Vec<(String, String)> {
        match result {
            Err(ApiError::Invalid(faults)) => faults.into_iter().map(|f| (f.pointer, f.detail)).collect(),
            other => panic!("expected faults, got {other:?}"),
        }
    }

    #[test]
    fn all_faults_are_collected() {
        let body = json!({"userId": 7, "a/b~c é": 1, "language": null});
        let mut fields = Fields::of_body(body).expect("an object");
        let user: Option<UserId> = fields.optional_text("userId");
        let language: Option<String> = fields.optional_text("language");
        let paths = fields.required("audioChunkPaths");
        assert_eq!((user, language, paths), (None, None, None));
        let expected = [
            ("#/userId", "must be a string, is a number"),
            ("#/audioChunkPaths", "is required"),
            ("#/a~1b~0c%20%C3%A9", "is unknown: expected userId, language, audioChunkPaths"),
        ];
        let expected = expected.map(|(pointer, detail)| (pointer.to_owned(), detail.to_owned()));
        assert_eq!(faults(fields.finish(None)), expected);
    }

    #[test]
    fn a_long_list_of_faults_is_cut() {
        let body: Map<_, _> = (0..250).map(|i| (i.to_string(), Value::Null)).collect();
        let faults = faults(Fields::of_body(body.into()).expect("an object").finish(Some(())));
        assert_eq!(faults.len(), MAX_FAULTS + 1);
        assert_eq!(faults.last(), Some(&("#".to_owned(), "has 150 more faults".to_owned())));
    }

    #[test]
    fn a_long_pointer_is_cut() {
        let body: Map<_, _> = [("é/".repeat(5000), Value::Null)].into_iter().collect();
        let faults = faults(Fields::of_body(body.into()).expect("an object").finish(Some(())));
        assert_eq!(faults[0].0.chars().count(), 200);
        assert!(faults[0].0.starts_with("#/%C3%A9~1"), "{}", faults[0].0);
    }

    #[test]
    fn a_query_with_bad_escapes_is_read() {
        let uri = Uri::from_static("/?a=1&a=2&b=%ff&%zz&c=%2");
        let mut fields = Fields::of_query(&uri);
        assert_eq!(fields.optional("b"), Some(json!("\u{fffd}")));
        let faults = faults(fields.finish(Some(())));
        let pointers: Vec<_> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(pointers, ["?a", "?%25zz", "?a", "?c"]);
    }
}
