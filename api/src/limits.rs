//! What each user may do at most: jobs a minute, and jobs in progress.
//!
//! Both are counted in this process. Behind a balancer over ten servers a user may submit up to ten times as
//! fast as the setting says; to share the count would cost a call for every submit. It is there
//! to keep one user's runaway loop from everybody else, and for that it does.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use longhand_shared::job::JobStatus;
use longhand_shared::settings::Reader;
use longhand_shared::store::{JobStore, Search, StoreError};
use longhand_shared::{Timestamp, UserId};
use tokio::time::Instant;
use tracing::warn;

use crate::error::ApiError;

/// How long a count of open jobs is good for, jobs submitted since added to it. One that says that there
/// is no room is good for [`FULL_RECOUNT`] only.
pub(crate) const RECOUNT: Duration = Duration::from_secs(10);
const FULL_RECOUNT: Duration = Duration::from_secs(1);

/// How many users are remembered at most. Then the idle ones are forgotten; when that is not half of them,
/// all: rather too lenient than out of memory.
const MAX_USERS: usize = 20_000;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

tokio::task_local! {
    /// Where the user of the running request stands, for the headers of its answer.
    static STANDING: Cell<Option<Standing>>;
}

/// What each user may do at most. The default is anything.
#[derive(Debug, Default)]
pub struct Limits {
    /// Jobs submitted in a minute; 0 for any number.
    per_minute: u32,
    /// Jobs in progress; 0 for any number.
    max_open: usize,
    users: Mutex<HashMap<UserId, Usage>>,
}

/// What a user has used up.
#[derive(Debug)]
struct Usage {
    /// How many jobs may be submitted at `at`: a bucket that fills up in a minute.
    room: f64,
    at: Instant,
    /// How many jobs are in progress, as counted then and submitted since.
    open: usize,
    counted: Option<Instant>,
}

/// Where a user stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    per_minute: u32,
    /// How many jobs may be submitted now.
    remaining: u32,
    /// When it is as many as ever, in seconds.
    full_in: u64,
}

impl Limits {
    /// So many jobs a minute, and so many in progress; 0 for any number.
    pub fn new(per_minute: u32, max_open: usize) -> Self {
        Self { per_minute, max_open, users: Mutex::default() }
    }

    /// Reads them.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let per_minute = reader.within(
            "LONGHAND_RATE_PER_MINUTE",
            600,
            0..=1_000_000,
            "jobs that a user may submit in a minute, to each server; 0 for any number",
        );
        let max_open = reader.within(
            "LONGHAND_MAX_OPEN_JOBS",
            1000,
            0..=1_000_000,
            "jobs that a user may have in progress; 0 for any number",
        );
        Self::new(per_minute, max_open)
    }

    /// Counts one more job of a user's, or says that it is one too many. A request that is refused for its
    /// open jobs counts towards the rate all the same.
    pub(crate) async fn submit(&self, store: &dyn JobStore, user: &UserId) -> Result<(), ApiError> {
        self.rate(user)?;
        self.open(store, user).await
    }

    fn rate(&self, user: &UserId) -> Result<(), ApiError> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let (most, a_second) = (f64::from(self.per_minute), f64::from(self.per_minute) / 60.0);
        let room = self.with(user, |usage| {
            let now = Instant::now();
            let gained = now.duration_since(usage.at).as_secs_f64() * a_second;
            usage.room = (usage.room + gained).min(most);
            usage.at = now;
            let before = usage.room;
            if before >= 1.0 {
                usage.room -= 1.0;
            }
            before
        });
        let left = if room >= 1.0 { room - 1.0 } else { room };
        let standing = Standing {
            per_minute: self.per_minute,
            remaining: whole(left.floor()),
            full_in: whole(((most - left) / a_second).ceil()).into(),
        };
        // Outside of a request, as in some tests, there is no answer to say it in.
        let _ = STANDING.try_with(|cell| cell.set(Some(standing)));
        if room >= 1.0 {
            return Ok(());
        }
        let retry_after = Duration::from_secs(whole(((1.0 - room) / a_second).ceil()).max(1).into());
        Err(ApiError::RateLimited { per_minute: self.per_minute, retry_after })
    }

    async fn open(&self, store: &dyn JobStore, user: &UserId) -> Result<(), ApiError> {
        if self.max_open == 0 {
            return Ok(());
        }
        let stale = self.with(user, |usage| {
            let good_for = if usage.open >= self.max_open { FULL_RECOUNT } else { RECOUNT };
            let stale = usage.counted.is_none_or(|at| at.elapsed() >= good_for);
            if stale {
                // Whoever comes while this one counts goes on with the number that there is.
                usage.counted = Some(Instant::now());
            }
            stale
        });
        if stale {
            match self.count(store, user).await {
                Ok(open) => self.with(user, |usage| usage.open = open),
                // The submit itself will say so, if it is the table; if it is the index alone, this is no
                // reason to take no jobs.
                Err(error) => warn!(%error, "cannot count open jobs"),
            }
        }
        let admitted = self.with(user, |usage| {
            let admitted = usage.open < self.max_open;
            usage.open += usize::from(admitted);
            admitted
        });
        if admitted { Ok(()) } else { Err(ApiError::TooManyOpenJobs { most: self.max_open }) }
    }

    /// How many open jobs a user has, as far as it matters. Read from an index, which may lag by a moment.
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
            // After a minute a bucket is full and a count is old: nothing is lost.
            users.retain(|_, usage| usage.at.elapsed() < Duration::from_mins(1));
            if users.len() > MAX_USERS / 2 {
                users.clear();
            }
        }
        let usage = users.entry(user.clone()).or_insert_with(|| Usage {
            room: f64::from(self.per_minute),
            at: Instant::now(),
            open: 0,
            counted: None,
        });
        use_it(usage)
    }
}

/// A number that is whole and small already.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a million")]
fn whole(number: f64) -> u32 {
    number as u32
}

impl Standing {
    /// As draft-ietf-httpapi-ratelimit-headers has it, version 8 and later.
    fn tell(self, headers: &mut HeaderMap) {
        let Self { per_minute, remaining, full_in } = self;
        let value = |text: String| HeaderValue::try_from(text).expect("only visible ASCII");
        headers.insert(RATE_LIMIT_POLICY, value(format!("\"submits\";q={per_minute};w=60")));
        headers.insert(RATE_LIMIT, value(format!("\"submits\";r={remaining};t={full_in}")));
    }
}

/// The layer that tells clients where they stand, on every answer to a request that was counted.
pub(crate) async fn report(request: Request, next: Next) -> Response {
    let answer = async {
        let mut response = next.run(request).await;
        if let Some(standing) = STANDING.with(Cell::get) {
            standing.tell(response.headers_mut());
        }
        response
    };
    STANDING.scope(Cell::new(None), answer).await
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
            limits.rate(&user(number)).expect("room");
        }
        assert_eq!(known(&limits), MAX_USERS);
        tokio::time::advance(Duration::from_secs(61)).await;
        limits.rate(&user(0)).expect("room");
        limits.rate(&user(MAX_USERS)).expect("room");
        assert_eq!(known(&limits), 2, "those of this minute");
        // All of them busy.
        for number in 0..3 * MAX_USERS {
            limits.rate(&user(number)).expect("room");
            assert!(known(&limits) <= MAX_USERS);
        }
    }
}
