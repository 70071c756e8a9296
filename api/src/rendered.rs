//! The JSON of finished jobs and its `ETag`, kept while the result is in this process's cache.

use std::sync::{Arc, Weak};

use axum::body::Bytes;
use longhand_shared::JobId;
use longhand_shared::cache::LOCAL_TTL;
use longhand_shared::domain::transcript::TranscriptResult;
use moka::sync::Cache;

use crate::conditional::Body;

/// The maximum size, in bytes.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Rendered(Cache<JobId, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    of: Weak<TranscriptResult>,
    body: Body,
}

impl Default for Rendered {
    fn default() -> Self {
        let weight = |_: &JobId, entry: &Entry| u32::try_from(entry.body.bytes.len()).unwrap_or(u32::MAX);
        let builder = Cache::builder().max_capacity(MAX_BYTES).weigher(weight);
        Self(builder.time_to_live(LOCAL_TTL).build())
    }
}

impl Rendered {
    /// The JSON of a result. It is written once for a result that the cache shares.
    pub(crate) fn json(&self, result: &Arc<TranscriptResult>) -> Result<Body, serde_json::Error> {
        let is_shared = Arc::strong_count(result) > 1;
        if is_shared
            && let Some(entry) = self.0.get(&result.job_id)
            && entry.of.as_ptr() == Arc::as_ptr(result)
        {
            return Ok(entry.body);
        }
        let body = Body::new(Bytes::from(serde_json::to_vec(result)?.into_boxed_slice()));
        if is_shared {
            self.0.insert(result.job_id, Entry { of: Arc::downgrade(result), body: body.clone() });
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::examples;

    #[test]
    fn a_shared_result_is_written_once_and_another_one_again() {
        let rendered = Rendered::default();
        let bytes = |result: &Arc<TranscriptResult>| rendered.json(result).expect("JSON").bytes;
        let result: TranscriptResult = serde_json::from_value(examples::result()).expect("a result");
        let result = Arc::new(result);
        let alone = bytes(&result);
        let cached = Arc::clone(&result);
        let first = bytes(&result);
        assert_ne!(first.as_ptr(), alone.as_ptr(), "a result that no cache holds is not kept");
        assert_eq!((first.as_ptr(), &first), (bytes(&result).as_ptr(), &alone));
        let changed = Arc::new(TranscriptResult { partial: true, ..(*result).clone() });
        let shared = Arc::clone(&changed);
        assert_ne!(bytes(&shared), alone, "of the same job");
        drop((cached, shared));
    }
}
