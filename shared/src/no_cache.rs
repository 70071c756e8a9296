//! Stands for the cache in programs without the feature `server`: they have none.

use crate::domain::id::JobId;
use crate::domain::transcript::TranscriptResult;

/// See the cache of servers.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Chunk,
    Job,
}

/// Has no values.
#[derive(Clone, Debug)]
pub enum Cache {}

#[expect(clippy::unused_async, reason = "as in the cache of servers")]
impl Cache {
    pub async fn put_and_publish(&self, _: &TranscriptResult, _: bool) {
        match *self {}
    }

    pub async fn erased(&self, _: JobId) {
        match *self {}
    }

    pub async fn publish(&self, _: JobId, _: Change) {
        match *self {}
    }
}
