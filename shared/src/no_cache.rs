//! Stands for the cache in programs without the feature `server`: they have none.

use crate::domain::id::JobId;
pub use crate::domain::job::Change;
use crate::domain::transcript::TranscriptResult;

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
