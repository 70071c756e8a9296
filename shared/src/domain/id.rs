//! Ids of jobs, users and chunks. Parsed once, at the edge.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The maximum number of chunks of a job.
pub const MAX_CHUNKS: usize = 24;

/// The maximum length of a user id, in bytes. It is SQS's limit for `MessageGroupId`, since the user id is
/// the message group of fair queues.
pub const MAX_USER_ID_BYTES: usize = 128;

/// A job's id: a UUID (Longhand generates version 7), always in its lower-case hyphenated form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Uuid);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not valid: expected a UUID such as 0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b")]
pub struct InvalidJobId;

impl JobId {
    /// A new id, unique and hard to guess: it has 73 random bits. Another id of the same process and millisecond
    /// reveals 41 of them.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 128 bits, to distribute jobs evenly.
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    /// Accepts the hyphenated form only (36 characters, either case), so that each id has one spelling.
    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        if text.len() != 36 {
            return Err(InvalidJobId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidJobId)
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidJobId;

    fn try_from(text: String) -> Result<Self, InvalidJobId> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

/// A user's id, as the client sends it: 1 to 128 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct UserId(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserId {
    #[error("must not be empty")]
    Empty,
    #[error("must have at most {MAX_USER_ID_BYTES} characters, has {0}")]
    TooLong(usize),
    /// The position of a character outside `!`..`~`, from 1.
    #[error(
        "may contain only ASCII letters, digits and punctuation (no spaces, no control characters); \
         character {0} is not allowed"
    )]
    Character(usize),
}

impl UserId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidUserId;

    fn try_from(text: String) -> Result<Self, InvalidUserId> {
        if text.is_empty() {
            return Err(InvalidUserId::Empty);
        }
        if let Some(at) = text.chars().position(|c| !c.is_ascii_graphic()) {
            return Err(InvalidUserId::Character(at + 1));
        }
        if text.len() > MAX_USER_ID_BYTES {
            return Err(InvalidUserId::TooLong(text.len()));
        }
        Ok(Self(text))
    }
}

impl FromStr for UserId {
    type Err = InvalidUserId;

    fn from_str(text: &str) -> Result<Self, InvalidUserId> {
        Self::try_from(text.to_owned())
    }
}

/// A chunk's index in its job, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct ChunkIndex(u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a chunk index: expected 0 to {max}", max = MAX_CHUNKS - 1)]
pub struct InvalidChunkIndex(u64);

impl ChunkIndex {
    /// The indexes of a job with `count` chunks, in order.
    pub fn first(count: usize) -> impl Iterator<Item = Self> {
        (0..).take(count.min(MAX_CHUNKS)).map(Self)
    }

    pub fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u64> for ChunkIndex {
    type Error = InvalidChunkIndex;

    fn try_from(number: u64) -> Result<Self, InvalidChunkIndex> {
        u8::try_from(number)
            .ok()
            .filter(|index| usize::from(*index) < MAX_CHUNKS)
            .map(Self)
            .ok_or(InvalidChunkIndex(number))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRef {
    pub job: JobId,
    pub index: ChunkIndex,
}

impl fmt::Display for ChunkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.job, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_has_one_spelling() {
        let id = JobId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for bad in ["", "x", "00000000000000000000000000000000", "{00000000-0000-0000-0000-000000000000}"] {
            assert_eq!(bad.parse::<JobId>(), Err(InvalidJobId), "{bad}");
        }
    }

    #[test]
    fn invalid_user_ids_name_the_fault() {
        assert!("auth0|ana.lopez+test@example.com".parse::<UserId>().is_ok());
        assert_eq!("".parse::<UserId>(), Err(InvalidUserId::Empty));
        assert_eq!("a\nb".parse::<UserId>(), Err(InvalidUserId::Character(2)));
        assert_eq!("josé".parse::<UserId>(), Err(InvalidUserId::Character(4)));
        assert_eq!("x".repeat(300).parse::<UserId>(), Err(InvalidUserId::TooLong(300)));
    }

    #[test]
    fn chunk_indexes_end_at_23() {
        assert_eq!(ChunkIndex::try_from(23).map(ChunkIndex::get), Ok(23));
        assert!(ChunkIndex::try_from(MAX_CHUNKS as u64).is_err());
        assert!(ChunkIndex::try_from(u64::MAX).is_err());
        assert_eq!(ChunkIndex::first(3).map(ChunkIndex::get).collect::<Vec<_>>(), [0, 1, 2]);
    }
    #[test]
    fn documents_name_the_maximum_number_of_chunks() {
        for (document, phrase) in [
            (include_str!("../../../README.md"), format!("1 to {MAX_CHUNKS} short audio chunks")),
            (include_str!("../../../docs/cli.md"), format!("More than {MAX_CHUNKS} chunks")),
            (include_str!("../../../ARCHITECTURE.md"), format!("1 to {MAX_CHUNKS} short audio chunks")),
            (include_str!("../../../docs/api.md"), format!("1 to {MAX_CHUNKS} paths")),
            (include_str!("../../../docs/api.md"), format!("1 to {MAX_CHUNKS} `files`")),
            (include_str!("../../../api/src/console/www/audio.js"), format!("MAX_PARTS = {MAX_CHUNKS};")),
        ] {
            assert!(document.contains(&phrase), "{phrase}");
        }
    }
}
