//! The sim's records of its calls, for tests and audits.

use std::{collections::BTreeMap, time::Duration};

use serde::{Serialize, Serializer};

/// How many of an upload's first bytes are recorded.
pub(crate) const FIRST_BYTES: usize = 16;

/// The records since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// The number of calls, counted at their head.
    pub calls: u64,
    /// The number of calls in flight: from their head to their answer or the client's disconnect.
    pub in_flight: usize,
    /// The maximum of `in_flight`.
    pub most_in_flight: usize,
    /// The number of answers by status, without cut and hanging answers.
    pub by_status: BTreeMap<u16, u64>,
    /// The number of calls over the concurrency limit. `by_status` includes them.
    pub refused: u64,
    /// The number of connections that were cut, before or within an answer.
    pub cut: u64,
    /// The number of calls without an answer or with an incomplete answer, counted when the sim starts to hang.
    pub hung: u64,
    /// The number of clients that disconnected before their answer, including those of hanging calls.
    pub aborted: u64,
    /// The records by file name.
    pub per_file: BTreeMap<String, FileBook>,
}

impl Books {
    /// The records of a file name, empty before its first call.
    pub fn file(&self, file_name: &str) -> FileBook {
        self.per_file.get(file_name).cloned().unwrap_or_default()
    }

    pub fn status(&self, code: u16) -> u64 {
        self.by_status.get(&code).copied().unwrap_or_default()
    }
}

/// The records of one file name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileBook {
    /// The number of calls with this file, including incomplete uploads.
    pub calls: u64,
    /// The number of calls that got a transcript, also in an odd form.
    pub ok: u64,
    /// The number of calls that got no transcript: an error, another answer, or a cut connection.
    pub errors: u64,
    /// The number of calls that the client aborted.
    pub aborted: u64,
    /// The arrival of each call's head since the start of the sim, by tokio's clock. In JSON: milliseconds.
    #[serde(serialize_with = "milliseconds")]
    pub arrived: Vec<Duration>,
    /// The duration of each finished call, from its head to its answer or the client's disconnect, in order of their
    /// ends. For sequential calls this is the order of `arrived`. In JSON: milliseconds.
    #[serde(serialize_with = "milliseconds")]
    pub took: Vec<Duration>,
    /// The size of the last complete upload, in bytes.
    pub bytes: u64,
    /// The first 16 bytes of that upload.
    pub first_bytes: Vec<u8>,
    /// The content type of the last file part.
    pub content_type: Option<String>,
    /// The other form fields of the last call (`model`, `language`, `prompt`, ..). Repeated fields are joined with
    /// commas.
    pub last_form: BTreeMap<String, String>,
    /// The `Authorization` header of the last call.
    pub authorization: Option<String>,
}

impl FileBook {
    /// The times between the arrivals of successive calls.
    pub fn gaps(&self) -> Vec<Duration> {
        self.arrived.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect()
    }
}

fn milliseconds<S: Serializer>(times: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(times.iter().map(Duration::as_millis))
}
