//! Error codes at rest. Programs of 0.1.0 cannot read a code that is newer than they are, and they work beside new
//! ones during a deployment. So a newer code is stored as one that they know, with the exact code beside it.

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::domain::job::ErrorCode;
use crate::domain::transcript::TranscriptResult;

/// The attribute with the exact code.
const EXACT: &str = "exactCode";

/// The code that 0.1.0 reads in place of a newer one.
fn known_to_0_1_0(newer: ErrorCode) -> Option<ErrorCode> {
    Some(newer.known_to_0_1_0()).filter(|known| *known != newer)
}

/// An error or an attempt as it is stored.
pub(crate) struct Stored<T>(pub(crate) T);

impl<T: Serialize> Serialize for Stored<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value = serde_json::to_value(&self.0).map_err(S::Error::custom)?;
        store(&mut value);
        value.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Stored<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        restore(&mut value);
        serde_json::from_value(value).map(Self).map_err(D::Error::custom)
    }
}

fn store(coded: &mut Value) {
    let code = coded.get("code").cloned();
    let known = code.clone().and_then(|code| serde_json::from_value(code).ok()).and_then(known_to_0_1_0);
    if let (Some(known), Some(code), Some(fields)) = (known, code, coded.as_object_mut()) {
        fields.insert("code".to_owned(), known.as_str().into());
        fields.insert(EXACT.to_owned(), code);
    }
}

fn restore(coded: &mut Value) {
    if let Some(fields) = coded.as_object_mut()
        && let Some(exact) = fields.remove(EXACT)
    {
        fields.insert("code".to_owned(), exact);
    }
}

/// Applies `change` to the error and to each attempt of each chunk.
fn each_coded(result: &mut Value, change: fn(&mut Value)) {
    for chunk in result["chunks"].as_array_mut().into_iter().flatten() {
        chunk.get_mut("error").into_iter().for_each(change);
        chunk.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten().for_each(change);
    }
}

/// The JSON of a result as it is stored and cached.
pub(crate) fn to_json(result: &TranscriptResult) -> serde_json::Result<String> {
    let newer = result.chunks.iter().any(|chunk| {
        let codes = chunk.history.iter().filter_map(|attempt| attempt.code);
        codes.chain(chunk.error.as_ref().map(|error| error.code)).any(|code| known_to_0_1_0(code).is_some())
    });
    if !newer {
        return serde_json::to_string(result);
    }
    let mut value = serde_json::to_value(result)?;
    each_coded(&mut value, store);
    serde_json::to_string(&value)
}

/// Reads what [`to_json`] wrote.
pub(crate) fn from_json(json: &str) -> serde_json::Result<TranscriptResult> {
    // Most results have no newer code, and are read in one step.
    if !json.contains(EXACT) {
        return serde_json::from_str(json);
    }
    let mut value = serde_json::from_str(json)?;
    each_coded(&mut value, restore);
    serde_json::from_value(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attempt::{Attempt, AttemptRecord, Claimant};
    use crate::domain::clock::Timestamp;
    use crate::domain::job::{Chunk, ChunkError, ChunkState, Metadata, NewJob, TranscribeOptions, Verdict};

    /// A result whose chunk failed with `code`, with the same key in the client's metadata.
    fn failed(code: ErrorCode) -> TranscriptResult {
        let (user, path) = ("ana".parse().expect("a user"), "a.wav".parse().expect("a path"));
        let now = Timestamp::from_unix(1);
        let metadata: Metadata =
            serde_json::from_value(serde_json::json!({"exactCode": "mine", "code": "AUDIO_TOO_LONG"}))
                .expect("metadata");
        let new = NewJob::new(user, vec![path], TranscribeOptions::default(), metadata, now).expect("a job");
        let verdict = Verdict::Failed(ChunkError::new(code, "no"));
        let by = Claimant { origin: "o", message: "m", generation: 0, redelivered: false, worker: "w" };
        let begun = Attempt { number: 1, history: vec![AttemptRecord::begun(by, now)] };
        let attempt = begun.settled(&verdict, now, 0);
        let chunk = Chunk {
            state: ChunkState::Settled { at: now, verdict },
            history: attempt.history,
            ..new.chunks().remove(0)
        };
        TranscriptResult::ended(&new.job().head, &[chunk], now).expect("settled")
    }

    #[test]
    fn a_newer_code_is_readable_by_0_1_0_and_restored() {
        for code in [ErrorCode::AudioTooLong, ErrorCode::AudioTooLarge] {
            let result = failed(code);
            let json = to_json(&result).expect("JSON");
            let chunk = &serde_json::from_str::<Value>(&json).expect("JSON")["chunks"][0];
            assert_eq!(chunk["error"]["code"], "AUDIO_TOO_LARGE", "{json}");
            for attempt in chunk["history"].as_array().into_iter().flatten() {
                assert_eq!(attempt["code"], "AUDIO_TOO_LARGE", "{json}");
            }
            assert_eq!(from_json(&json).expect("a result"), result);
        }
    }

    #[test]
    fn items_keep_the_exact_code_beside_the_known_one() {
        let error = ChunkError::new(ErrorCode::AudioTooLong, "no");
        let item: serde_dynamo::Item = serde_dynamo::to_item(Stored(error.clone())).expect("an item");
        let read: ChunkError = serde_dynamo::from_item(item.clone()).expect("as 0.1.0 reads it");
        assert_eq!(read.code, ErrorCode::AudioTooLarge);
        let Stored(read) = serde_dynamo::from_item::<_, Stored<ChunkError>>(item).expect("an error");
        assert_eq!(read, error);
    }
}
