//! The body of a chunk's message.

use serde::{Deserialize, Serialize};

use crate::domain::id::{ChunkIndex, ChunkRef, JobId};
use crate::domain::job::{Chunk, Job, TranscribeOptions};
use crate::domain::path::AudioPath;

use super::{Envelope, Outgoing};

/// The supported version of the body.
pub const VERSION: u64 = 1;

/// The body of a chunk's message: everything that a worker needs to transcribe the chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkMessage {
    version: u64,
    job_id: JobId,
    chunk_index: ChunkIndex,
    /// The number of the job's chunks. 0.1.0 does not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chunk_count: Option<usize>,
    audio_chunk_path: AudioPath,
    #[serde(default)]
    options: TranscribeOptions,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    #[error("not a chunk message: {0}")]
    Unreadable(String),
    #[error("unsupported version {0} of the chunk message: only {VERSION} is supported")]
    Version(u64),
}

/// Escapes two characters that JSON allows and SQS refuses: U+FFFE and U+FFFF ([`SendMessage`]).
/// They can only occur inside strings, where JSON has escapes for them.
///
/// [`SendMessage`]: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
fn for_sqs(json: String) -> String {
    if json.contains(['\u{fffe}', '\u{ffff}']) {
        json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
    } else {
        json
    }
}

impl ChunkMessage {
    pub fn chunk(&self) -> ChunkRef {
        ChunkRef { job: self.job_id, index: self.chunk_index }
    }

    pub fn chunk_count(&self) -> Option<usize> {
        self.chunk_count
    }

    pub fn path(&self) -> &AudioPath {
        &self.audio_chunk_path
    }

    pub fn options(&self) -> &TranscribeOptions {
        &self.options
    }

    /// Parses a body. Unknown fields are ignored, since a newer sender may add some.
    pub fn parse(body: &str) -> Result<Self, InvalidMessage> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let unreadable = |error: serde_json::Error| InvalidMessage::Unreadable(error.to_string());
        match serde_json::from_str::<Version>(body).map_err(unreadable)?.version {
            VERSION => serde_json::from_str(body).map_err(unreadable),
            other => Err(InvalidMessage::Version(other)),
        }
    }

    /// The message for a chunk, without a delay.
    pub fn outgoing(job: &Job, chunk: &Chunk, traceparent: Option<&str>) -> Outgoing {
        let message = Self {
            version: VERSION,
            job_id: job.head.id,
            chunk_index: chunk.index,
            chunk_count: Some(job.head.chunk_count),
            audio_chunk_path: chunk.path.clone(),
            options: job.options.clone(),
        };
        Outgoing {
            body: for_sqs(
                serde_json::to_string(&message).expect("only strings and numbers, and string keys"),
            ),
            group: Some(job.head.user.to_string()),
            envelope: Envelope { traceparent: traceparent.map(str::to_owned), ..Envelope::default() },
            delay: std::time::Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bodies_give_a_reason() {
        for body in ["", "{", "null", "[]", "\"x\"", "{}", r#"{"version":"1"}"#, r#"{"version":1}"#] {
            assert!(matches!(ChunkMessage::parse(body), Err(InvalidMessage::Unreadable(_))), "{body}");
        }
        assert_eq!(ChunkMessage::parse(r#"{"version":2,"x":1}"#), Err(InvalidMessage::Version(2)));
    }

    #[test]
    fn the_body_has_the_documented_form() {
        let body = r#"{"version":1,"jobId":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","chunkIndex":7,"chunkCount":9,"audioChunkPath":"s3://audio/a.wav","options":{"language":"en"}}"#;
        let message = ChunkMessage::parse(body).expect("a chunk message");
        assert_eq!((message.chunk().index.get(), message.chunk_count()), (7, Some(9)));
        assert_eq!(serde_json::to_string(&message).expect("JSON"), body);
        let older = body.replace("\"chunkCount\":9,", "");
        let from_older = ChunkMessage::parse(&older).expect("a chunk message");
        assert_eq!(from_older.chunk_count(), None);
        assert_eq!(serde_json::to_string(&from_older).expect("JSON"), older);
        let newer = body.replace("\"version\":1,", "\"version\":1,\"new\":true,");
        assert_eq!(ChunkMessage::parse(&newer), Ok(message));
        let bad_index = body.replace(":7,", &format!(":{},", crate::domain::id::MAX_CHUNKS));
        assert!(ChunkMessage::parse(&bad_index).is_err());
    }

    #[test]
    fn characters_that_sqs_refuses_are_escaped() {
        let json = for_sqs("{\"a\":\"x\u{fffe}y\u{ffff}\"}".to_owned());
        assert_eq!(json, r#"{"a":"x\ufffey\uffff"}"#);
        let back: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(back["a"], "x\u{fffe}y\u{ffff}");
    }
}
