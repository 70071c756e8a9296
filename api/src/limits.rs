//! The limits of each user: submits and reads a minute, and jobs in progress.
//!
//! With Redis all servers count submits together, by one round trip. Without it, or while it is slow or gone, each
//! server counts for itself: behind a balancer over ten servers a user may then submit up to ten times as fast.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use longhand_shared::cache::remote::Redis;
use longhand_shared::domain::job::JobStatus;
use longhand_shared::service::settings::Reader;
use longhand_shared::store::{JobStore, Search, StoreError};
use longhand_shared::{Timestamp, UserId};
use tokio::time::Instant;
use tracing::warn;

use crate::error::ApiError;
use crate::reads::Reads;

/// How long a count of open jobs is used, with the jobs submitted since. At the limit it is used for [`FULL_RECOUNT`].
const RECOUNT: Duration = Duration::from_secs(10);
const FULL_RECOUNT: Duration = Duration::from_secs(1);

/// The most users in memory. Then the idle ones are removed; if that is less than half of them, all: rather too lenient
/// than out of memory.
const MAX_USERS: usize = 20_000;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

tokio::task_local! {
    /// The user's remaining quota, as headers of the answer (draft-ietf-httpapi-ratelimit-headers, version 8 and later).
    static QUOTA: Cell<Option<[(HeaderName, HeaderValue); 2]>>;
}

/// The limits of each user. By default there are no limits, except those of [`Reads`].
#[derive(Debug, Default)]
pub struct Limits {
    /// Submits, uploads and retries in a minute; 0 for any number.
    per_minute: u32,
    /// Jobs in progress; 0 for any number.
    max_open: usize,
    /// Reads in a minute; 0 for any number.
    reads_per_minute: u32,
    reads: Reads,
    /// Counts submits for all servers.
    redis: Option<Redis>,
    users: Mutex<HashMap<UserId, Usage>>,
}

/// What a user has used up.
#[derive(Debug)]
struct Usage {
    submits: Bucket,
    reads: Bucket,
    /// Jobs in progress: those counted at `counted`, and those submitted since.
    open: usize,
    counted: Option<Instant>,
}

/// A bucket that fills up in a minute.
#[derive(Debug)]
struct Bucket {
    /// How many are left at `at`.
    room: f64,
    at: Instant,
}

impl Bucket {
    fn full(most: u32) -> Self {
        Self { room: f64::from(most), at: Instant::now() }
    }

    /// Takes one, if one is left. Returns how many were left before.
    fn take(&mut self, most: u32) -> f64 {
        let now = Instant::now();
        let gained = now.duration_since(self.at).as_secs_f64() * f64::from(most) / 60.0;
        let before = (self.room + gained).min(f64::from(most));
        self.room = if before >= 1.0 { before - 1.0 } else { before };
        self.at = now;
        before
    }
}

impl Limits {
    /// Submits, uploads and retries in a minute, and jobs in progress; 0 for any number.
    pub fn new(per_minute: u32, max_open: usize) -> Self {
        Self { per_minute, max_open, ..Self::default() }
    }

    /// Adds a limit on reads a minute; 0 for any number.
    #[must_use]
    pub fn with_reads(self, reads_per_minute: u32, reads: Reads) -> Self {
        Self { reads_per_minute, reads, ..self }
    }

    /// Counts submits by Redis, for all servers.
    #[must_use]
    pub fn shared(self, redis: Option<Redis>) -> Self {
        Self { redis, ..self }
    }

    /// The bounds on reads at once.
    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(crate) fn read_settings(reader: &mut Reader<'_>) -> Self {
        let per_minute = reader.within(
            "LONGHAND_RATE_PER_MINUTE",
            600,
            0..=1_000_000,
            "submits, uploads and retries of a user per minute: across all servers with Redis, else at each server; 0 for no limit",
        );
        let max_open = reader.within(
            "LONGHAND_MAX_OPEN_JOBS",
            1000,
            0..=1_000_000,
            "jobs that a user may have in progress; 0 for no limit",
        );
        let reads_per_minute = reader.within(
            "LONGHAND_READS_PER_MINUTE",
            6000,
            0..=1_000_000,
            "reads, searches and streams that a user may start per minute at each server; 0 for no limit",
        );
        Self::new(per_minute, max_open).with_reads(reads_per_minute, Reads::read_settings(reader))
    }

    /// Counts one more job of a user, or refuses it. A request that is refused for its open jobs also counts towards the
    /// rate.
    pub(crate) async fn submit(&self, store: &dyn JobStore, user: &UserId) -> Result<(), ApiError> {
        self.rate(user).await?;
        self.open(store, user).await
    }

    /// Counts one more request that makes no job but has a cost.
    pub(crate) async fn rate(&self, user: &UserId) -> Result<(), ApiError> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let shared = match &self.redis {
            Some(redis) => redis.take("submits", user, self.per_minute).await,
            None => None,
        };
        let room = shared.unwrap_or_else(|| self.with(user, |usage| usage.submits.take(self.per_minute)));
        let (most, a_second) = (f64::from(self.per_minute), f64::from(self.per_minute) / 60.0);
        let left = if room >= 1.0 { room - 1.0 } else { room };
        let (remaining, full_in) = (whole(left.floor()), whole(((most - left) / a_second).ceil()));
        let header = |text: String| HeaderValue::try_from(text).expect("only visible ASCII");
        let quota = [
            (RATE_LIMIT_POLICY, header(format!("\"submits\";q={};w=60", self.per_minute))),
            (RATE_LIMIT, header(format!("\"submits\";r={remaining};t={full_in}"))),
        ];
        // Not set outside of a request, as in some tests.
        let _ = QUOTA.try_with(|cell| cell.set(Some(quota)));
        within(room, self.per_minute, || {
            format!("makes more than {} submits, uploads and retries", self.per_minute)
        })
    }

    /// Counts one more read, or refuses it. A read without a user is not limited: without authentication only searches
    /// have one.
    pub(crate) fn read(&self, user: Option<&UserId>) -> Result<(), ApiError> {
        let Some(user) = user.filter(|_| self.reads_per_minute > 0) else {
            return Ok(());
        };
        let room = self.with(user, |usage| usage.reads.take(self.reads_per_minute));
        within(room, self.reads_per_minute, || format!("reads more than {} times", self.reads_per_minute))
    }

    async fn open(&self, store: &dyn JobStore, user: &UserId) -> Result<(), ApiError> {
        if self.max_open == 0 {
            return Ok(());
        }
        let stale = self.with(user, |usage| {
            let good_for = if usage.open >= self.max_open { FULL_RECOUNT } else { RECOUNT };
            let stale = usage.counted.is_none_or(|at| at.elapsed() >= good_for);
            if stale {
                // Requests that arrive during this count use the old one.
                usage.counted = Some(Instant::now());
            }
            stale
        });
        if stale {
            match self.count(store, user).await {
                Ok(open) => self.with(user, |usage| usage.open = open),
                // If the table fails, the submit reports it; if only the index does, jobs are still accepted.
                Err(error) => warn!(%error, "cannot count open jobs; the last count is used"),
            }
        }
        let admitted = self.with(user, |usage| {
            let admitted = usage.open < self.max_open;
            usage.open += usize::from(admitted);
            admitted
        });
        if admitted {
            Ok(())
        } else {
            Err(ApiError::TooManyOpenJobs { most: self.max_open, retry_after: RECOUNT })
        }
    }

    /// Counts a user's open jobs, up to the limit. Read from an index, which may lag by a moment.
    async fn count(&self, store: &dyn JobStore, user: &UserId) -> Result<usize, StoreError> {
        let all = Search::all(user.clone(), 100, Timestamp::now());
        let mut search = Search { status: Some(JobStatus::InProgress), ..all };
        let mut count = 0;
        loop {
            let page = store.search(&search).await?;
            count += page.jobs.len();
            if count >= self.max_open || page.next.is_none() {
                return Ok(count);
            }
            search.after = page.next;
        }
    }

    fn with<T>(&self, user: &UserId, use_it: impl FnOnce(&mut Usage) -> T) -> T {
        let mut users = self.users.lock().expect("nothing panics with it locked");
        if users.len() >= MAX_USERS && !users.contains_key(user) {
            // After a minute a bucket is full and a count is stale: nothing is lost.
            let minute = Duration::from_mins(1);
            users.retain(|_, it| it.submits.at.elapsed() < minute || it.reads.at.elapsed() < minute);
            if users.len() > MAX_USERS / 2 {
                users.clear();
            }
        }
        let usage = users.entry(user.clone()).or_insert_with(|| Usage {
            submits: Bucket::full(self.per_minute),
            reads: Bucket::full(self.reads_per_minute),
            open: 0,
            counted: None,
        });
        use_it(usage)
    }
}

/// Refuses a request if there was no `room` for it.
fn within(room: f64, per_minute: u32, excess: impl FnOnce() -> String) -> Result<(), ApiError> {
    if room >= 1.0 {
        return Ok(());
    }
    let seconds = whole(((1.0 - room) * 60.0 / f64::from(per_minute)).ceil()).max(1);
    Err(ApiError::RateLimited { excess: excess(), retry_after: Duration::from_secs(seconds.into()) })
}

/// The number is already whole and small.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a million")]
fn whole(number: f64) -> u32 {
    number as u32
}

/// The layer that adds the quota to every answer to a request that was counted.
pub(crate) async fn report(request: Request, next: Next) -> Response {
    let answer = async {
        let response = next.run(request).await;
        (QUOTA.with(Cell::take), response).into_response()
    };
    QUOTA.scope(Cell::new(None), answer).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> UserId {
        format!("user-{number}").parse().expect("a user")
    }

    #[tokio::test(start_paused = true)]
    async fn idle_users_are_forgotten_and_memory_is_bounded() {
        let limits = Limits::new(60, 0);
        let known = |limits: &Limits| limits.users.lock().expect("not poisoned").len();
        for number in 0..MAX_USERS {
            limits.rate(&user(number)).await.expect("room");
        }
        assert_eq!(known(&limits), MAX_USERS);
        tokio::time::advance(Duration::from_secs(61)).await;
        limits.rate(&user(0)).await.expect("room");
        limits.rate(&user(MAX_USERS)).await.expect("room");
        assert_eq!(known(&limits), 2, "those of this minute");
        // All of them busy.
        for number in 0..3 * MAX_USERS {
            limits.rate(&user(number)).await.expect("room");
            assert!(known(&limits) <= MAX_USERS);
        }
    }
}
