//! What the sim remembers of the calls it got, for tests and audits to ask.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// How many of an upload's first bytes are kept.
pub(crate) const FIRST_BYTES: usize = 16;

/// All that the sim has seen since it started, or since its books were reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// How many calls arrived, by their head.
    pub calls: u64,
    /// How many calls are being served: from their head to their answer or their client's leaving.
    pub in_flight: usize,
    /// The most that were being served at once.
    pub most_in_flight: usize,
    /// How many calls were answered with each status. Answers that were cut or that hang are not among them.
    pub by_status: BTreeMap<u16, u64>,
    /// How many calls were refused for want of capacity; they are in `by_status` too.
    pub refused: u64,
    /// How many connections were cut on a call, before its answer or within it.
    pub cut: u64,
    /// How many calls were left without an answer, or without the end of one. Counted when that begins.
    pub hung: u64,
    /// How many clients went away before their answer was ready, those that gave up on a hanging call included.
    pub aborted: u64,
    /// The calls by the name of the file they brought.
    pub per_file: BTreeMap<String, FileBook>,
}

impl Books {
    /// The book of a file, empty if no call brought it.
    pub fn file(&self, file_name: &str) -> FileBook {
        self.per_file.get(file_name).cloned().unwrap_or_default()
    }

    /// How many calls were answered with this status.
    pub fn status(&self, code: u16) -> u64 {
        self.by_status.get(&code).copied().unwrap_or_default()
    }
}

/// What the sim has seen of one file name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBook {
    /// How many calls brought this file; those whose upload broke off count too.
    pub calls: u64,
    /// How many of them got a transcript, be it in an odd form.
    pub ok: u64,
    /// How many of them got something else: an error, an answer without a transcript, a cut connection.
    pub errors: u64,
    /// How many of them were given up by their client.
    pub aborted: u64,
    /// When each call's head arrived, from the start of the sim, by tokio's clock. In JSON: milliseconds.
    #[serde(with = "milliseconds")]
    pub arrived: Vec<Duration>,
    /// How long each call that is over took, from its head to its answer or its client's leaving, in the order in which
    /// they ended; calls for one file that follow each other stand in the order of `arrived`. In JSON: milliseconds.
    #[serde(with = "milliseconds")]
    pub took: Vec<Duration>,
    /// The size, in bytes, of the last upload that was read to its end.
    pub bytes: u64,
    /// The first 16 bytes of that upload.
    pub first_bytes: Vec<u8>,
    /// The content type of the last file part.
    pub content_type: Option<String>,
    /// The other form fields of the last call (`model`, `language`, `prompt`, ..); repeated ones joined with commas.
    pub last_form: BTreeMap<String, String>,
    /// The `Authorization` header of the last call.
    pub authorization: Option<String>,
}

impl FileBook {
    /// The time between each call's arrival and the next one's: one fewer than there were calls.
    pub fn gaps(&self) -> Vec<Duration> {
        self.arrived.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect()
    }
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(times: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(times.iter().map(Duration::as_millis))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        let times = Vec::<u64>::deserialize(deserializer)?;
        Ok(times.into_iter().map(Duration::from_millis).collect())
    }
}
