//! Limits on reading: how many results are read at once, and how much of them waits to be sent.
//!
//! A result can have several megabytes. A handler holds a `Reading` while it reads and writes one. The answer's
//! bytes are then charged until the client has received them, so that slow clients hold a bounded amount.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use longhand_shared::UserId;
use longhand_shared::service::settings::Reader;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::ApiError;

/// How long a request waits for a permit before it is refused.
const QUEUE: Duration = Duration::from_secs(5);

/// Answers up to this size are not charged: the limit on connections bounds them.
pub(crate) const SMALL: usize = 16 * 1024;

/// Answers are charged in units of this many bytes.
const UNIT: usize = 1024;

const DEFAULT_AT_ONCE: usize = 8;
const DEFAULT_ANSWERS_MB: usize = 64;

/// How many results are read at once, and how many bytes of answers are held. A user has half of each at most. Without
/// authentication, the permit to read a job by its id counts for no user.
#[derive(Clone, Debug)]
pub struct Reads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    at_once: Pool,
    answers: Pool,
}

impl Default for Reads {
    fn default() -> Self {
        Self::new(DEFAULT_AT_ONCE, DEFAULT_ANSWERS_MB)
    }
}

/// Permits, of which each user has half at most.
#[derive(Debug)]
struct Pool {
    size: usize,
    all: Arc<Semaphore>,
    users: Mutex<HashMap<UserId, Arc<Semaphore>>>,
}

/// Permits of a [`Pool`]; dropping them returns them.
#[derive(Debug)]
struct Permits {
    _user: Option<OwnedSemaphorePermit>,
    _all: OwnedSemaphorePermit,
}

/// A permit to read a result. It stays with the response until the answer's bytes are charged.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    user: Option<UserId>,
    _permits: Arc<Permits>,
}

/// Bytes of an answer that are held.
#[derive(Debug)]
pub(crate) struct Charge(#[expect(dead_code, reason = "held until it is dropped")] Permits);

impl Pool {
    fn new(size: usize) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        Self { size, all: Arc::new(Semaphore::new(size)), users: Mutex::default() }
    }

    fn share(&self) -> usize {
        (self.size / 2).max(1)
    }

    fn share_of(&self, user: &UserId) -> Arc<Semaphore> {
        let mut users = self.users.lock();
        users.retain(|_, share| Arc::strong_count(share) > 1 || share.available_permits() < self.share());
        Arc::clone(users.entry(user.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.share()))))
    }

    /// More than a user's share counts as the share: one answer may be larger.
    async fn take(&self, user: Option<&UserId>, permits: usize) -> Result<Permits, ApiError> {
        let permits = u32::try_from(permits.min(self.share())).unwrap_or(u32::MAX);
        let share = user.map(|user| self.share_of(user));
        let both = async {
            let user = match share {
                Some(share) => Some(share.acquire_many_owned(permits).await.ok()?),
                None => None,
            };
            let all = Arc::clone(&self.all).acquire_many_owned(permits).await.ok()?;
            Some(Permits { _user: user, _all: all })
        };
        timeout(QUEUE, both).await.ok().flatten().ok_or(ApiError::Busy)
    }
}

impl Reads {
    /// Limits the results read at once, and the megabytes of answers held.
    pub fn new(at_once: usize, answers_mb: usize) -> Self {
        let answers = Pool::new(answers_mb.saturating_mul(1024 * 1024 / UNIT));
        Self(Arc::new(Inner { at_once: Pool::new(at_once), answers }))
    }

    pub(crate) fn read_settings(reader: &mut Reader<'_>) -> Self {
        let at_once = reader.within(
            "LONGHAND_READS_AT_ONCE",
            DEFAULT_AT_ONCE,
            1..=1000,
            "concurrent reads of results and searches at each server; at most half for one user",
        );
        let answers = reader.within(
            "LONGHAND_ANSWERS_MB",
            DEFAULT_ANSWERS_MB,
            1..=100_000,
            "megabytes of memory for answers that are being sent, at each server; at most half for one user",
        );
        Self::new(at_once, answers)
    }

    /// Waits for a permit of `user` to read a result.
    pub(crate) async fn begin(&self, user: Option<&UserId>) -> Result<Reading, ApiError> {
        let permits = self.0.at_once.take(user, 1).await?;
        Ok(Reading { user: user.cloned(), _permits: Arc::new(permits) })
    }

    /// Waits until `bytes` may be held for `user`.
    pub(crate) async fn charge(&self, user: Option<&UserId>, bytes: usize) -> Result<Charge, ApiError> {
        self.0.answers.take(user, bytes.div_ceil(UNIT)).await.map(Charge)
    }
}

impl Reading {
    /// Keeps this permit until the response's bytes are charged.
    pub(crate) fn respond(self, response: impl IntoResponse) -> Response {
        let mut response = response.into_response();
        response.extensions_mut().insert(self);
        response
    }

    /// The response, once its bytes are charged. The permit is returned then.
    pub(crate) async fn charge(self, reads: &Reads, response: Response) -> Result<Response, ApiError> {
        let (parts, body) = response.into_parts();
        let bytes = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        let Some(bytes) = bytes.filter(|bytes| *bytes > SMALL) else {
            return Ok(Response::from_parts(parts, body));
        };
        let charge = reads.charge(self.user.as_ref(), bytes).await?;
        let bytes = to_bytes(body, bytes).await.map_err(ApiError::internal)?;
        Ok(Response::from_parts(parts, Body::from(charged(bytes, charge))))
    }
}

/// Bytes that return their charge when they are dropped, which is when they are sent.
pub(crate) fn charged(bytes: Bytes, charge: Charge) -> Bytes {
    struct Charged(Bytes, #[expect(dead_code, reason = "held until it is dropped")] Charge);
    impl AsRef<[u8]> for Charged {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Charged(bytes, charge))
}

/// The layer that charges answers, and returns the permits to read.
pub(crate) async fn account(State(reads): State<Reads>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Reading>() {
        Some(reading) => reading.charge(&reads, response).await.unwrap_or_else(IntoResponse::into_response),
        None => response,
    }
}
