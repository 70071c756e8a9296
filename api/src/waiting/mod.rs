//! Clients that wait for a job: those who asked for it to be done in one call (`prefer.rs`), and those
//! who follow it (`events.rs`).
//!
//! However many of them wait for a job, this process has one task that watches its end, and one that watches its chunks
//! for those who follow it. A task reads the job when Redis announces a change. It also polls: seldom while Redis is
//! connected, since a message may be lost, and more often without it.
//!
//! What a wait costs, in calls of the table: for those who wait for the end, the first read (none after
//! `POST /transcribe`) and each poll of a job in progress are one `GetItem`. For those who follow a job, each read is
//! of the whole job, which is two calls. At the end the job is read whole, unless the cache has the result. A wait of
//! 15 s polls 16 times without Redis and twice with it.

pub(crate) mod events;
mod in_progress;
mod places;
pub(crate) mod prefer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longhand_shared::cache::remote::Notification;
use longhand_shared::cache::{Cache, Change};
use longhand_shared::domain::job::{JobState, JobStatus};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::store::{JobStore, StoreError};
use longhand_shared::{JobId, UserId};
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::edge::waited;
use crate::error::ApiError;
use in_progress::without_text;
use places::{Place, Places};

/// The interval of polling without Redis: at first, ...
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// ... half as much again each time, and at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The same while Redis is connected.
const ANNOUNCED_PAUSE: Duration = Duration::from_secs(5);

/// Changes within this time cost one read.
const TOGETHER: Duration = Duration::from_millis(50);

/// How long a wait that is over may take for a last read.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How many clients may follow a job or wait for one, in one process. Each keeps a connection and some tens of
/// kilobytes.
pub(crate) const MAX_WAITING: usize = 2000;

/// How long a stream lasts. The client then resumes, perhaps from another server.
pub(crate) const STREAM_AGE: Duration = Duration::from_mins(15);

/// All waits of this process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Waiting(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn JobStore>,
    cache: Cache,
    stop: CancellationToken,
    /// Whether Redis announces changes at the moment.
    announced: AtomicBool,
    watched: Mutex<HashMap<(JobId, Detail), Watched>>,
    places: Arc<Places>,
    stream_age: Duration,
}

/// How much a watcher wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Detail {
    /// Whether the job has ended. Clients wait for it only if they have seen that the job is in progress.
    End,
    /// The status of each of its chunks.
    Chunks,
}

#[derive(Clone, Debug)]
struct Watched {
    seen: watch::Sender<Option<Seen>>,
    /// Makes the task that watches the job read all of it now.
    poke: Arc<Notify>,
    /// The first read for those who wait for the end. Replaced if the job was not found in progress.
    first: Arc<OnceCell<First>>,
}

/// The user of a job, and whether the job has ended. `None`: it does not exist.
type First = Result<Option<(UserId, bool)>, StoreError>;

/// What a read of a job saw.
#[derive(Clone, Debug)]
struct Seen {
    /// When it began: what was changed before is in it.
    at: Instant,
    job: Result<Option<Arc<TranscriptResult>>, StoreError>,
}

impl Seen {
    /// Whether nothing more will be seen: it ended, it is gone, or it could not be read at all.
    fn is_last(&self) -> bool {
        !matches!(&self.job, Ok(Some(result)) if result.job_status == JobStatus::InProgress)
    }
}

impl Waiting {
    /// Once `stop` is cancelled all waits end, with the current state of the job.
    pub fn new(store: Arc<dyn JobStore>, cache: Cache, stop: CancellationToken) -> Self {
        Self::bounded(store, cache, stop, MAX_WAITING, STREAM_AGE)
    }

    /// The same, with at most `most` clients, and streams of this age.
    pub fn bounded(
        store: Arc<dyn JobStore>,
        cache: Cache,
        stop: CancellationToken,
        most: usize,
        stream_age: Duration,
    ) -> Self {
        let (announced, watched) = (AtomicBool::new(false), Mutex::default());
        let places = Places::new(most);
        Self(Arc::new(Inner { store, cache, stop, announced, watched, places, stream_age }))
    }

    /// The cache that results are read from.
    pub fn cache(&self) -> &Cache {
        &self.0.cache
    }

    /// A place for one more stream or wait of `user`, for `job`.
    pub(crate) fn place(&self, user: &UserId, job: JobId) -> Result<Place, ApiError> {
        self.0.places.take(user, job)
    }

    /// The current state of a job.
    pub(crate) async fn read(&self, id: JobId) -> Result<Option<Arc<TranscriptResult>>, StoreError> {
        self.0.cache.read(self.0.store.as_ref(), id).await
    }

    /// Takes part in the watch of a job, or begins one.
    pub(crate) fn watch(&self, id: JobId, detail: Detail) -> Watch {
        let joined = Instant::now();
        let key = (id, detail);
        let mut watched = self.0.watched.lock();
        let begun = !watched.contains_key(&key);
        let watched = watched.entry(key).or_insert_with(|| {
            let watched =
                Watched { seen: watch::channel(None).0, poke: Arc::default(), first: Arc::default() };
            tokio::spawn(Arc::clone(&self.0).keep_watch(key, watched.clone()));
            watched
        });
        let seen = watched.seen.subscribe();
        let (poke, first) = (Arc::clone(&watched.poke), Arc::clone(&watched.first));
        Watch { waiting: self.clone(), id, begun, joined, seen, poke, first }
    }

    /// Listens to Redis's announcements until the process stops. Does nothing without Redis.
    pub async fn listen(&self) {
        let Some(redis) = self.0.cache.redis() else {
            return;
        };
        tokio::select! {
            () = redis.listen(|event| self.announce(event)) => {}
            () = self.0.stop.cancelled() => {}
        }
    }

    fn announce(&self, event: Notification) {
        let watched = self.0.watched.lock();
        match event {
            Notification::Changed(id, change) => {
                let details: &[Detail] = match change {
                    Change::Chunk => &[Detail::Chunks],
                    Change::Job => &[Detail::Chunks, Detail::End],
                };
                let concerned = details.iter().filter_map(|detail| watched.get(&(id, *detail)));
                concerned.for_each(|watched| watched.poke.notify_one());
            }
            // Changes may have been missed; and the interval of polling changes.
            Notification::Connected | Notification::Disconnected => {
                self.0.announced.store(event == Notification::Connected, Ordering::Relaxed);
                watched.values().for_each(|watched| watched.poke.notify_one());
            }
        }
    }
}

impl Inner {
    /// Watches a job until it has ended or no client waits for it.
    async fn keep_watch(self: Arc<Self>, key: (JobId, Detail), watched: Watched) {
        let (id, detail) = key;
        // Clients that wait for the end have read the job or created it, so it is not read here before a pause.
        let in_progress = detail == Detail::End;
        let (mut due, mut whole, mut text) = (!in_progress, true, false);
        let mut pause = FIRST_PAUSE;
        loop {
            let seen = if due { self.look(id, whole, text).await } else { None };
            due = true;
            // One failed look does not end a wait, unless nothing at all is known of the job.
            let known = in_progress || watched.seen.borrow().is_some();
            if let Some(seen) = seen.filter(|seen| seen.job.is_ok() || !known) {
                let last = seen.is_last();
                if last {
                    // Clients from here on begin a new watch.
                    self.watched.lock().remove(&key);
                }
                watched.seen.send_replace(Some(seen));
                if last {
                    return;
                }
            }
            let announced = self.announced.load(Ordering::Relaxed);
            let wait = if announced { ANNOUNCED_PAUSE } else { pause };
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
            text = false;
            whole = tokio::select! {
                () = sleep(wait) => detail == Detail::Chunks,
                () = watched.poke.notified() => {
                    if detail == Detail::Chunks {
                        sleep(TOGETHER).await;
                    }
                    // With the text: clients whose time is over are about to be answered with this read.
                    text = detail == Detail::End;
                    true
                }
                () = watched.seen.closed() => {
                    let mut all = self.watched.lock();
                    // A client may have joined in between.
                    if watched.seen.receiver_count() == 0 {
                        all.remove(&key);
                        return;
                    }
                    false
                }
                () = self.stop.cancelled() => {
                    self.watched.lock().remove(&key);
                    return;
                }
            };
        }
    }

    /// One read. `None`: the job is in progress, and no more was asked.
    async fn look(&self, id: JobId, whole: bool, text: bool) -> Option<Seen> {
        let at = Instant::now();
        if !whole {
            match self.store.job(id).await {
                Ok(Some(job)) if job.head.state == JobState::Open => return None,
                Ok(Some(_)) => {}
                Ok(None) => return Some(Seen { at, job: Ok(None) }),
                Err(error) => return Some(Seen { at, job: Err(error) }),
            }
        }
        let job = self.cache.read(self.store.as_ref(), id).await;
        Some(Seen { at, job: if text { job } else { job.map(|job| job.map(without_text)) } })
    }
}

/// One client's part in the watch of a job. Dropping it ends it.
pub(crate) struct Watch {
    waiting: Waiting,
    id: JobId,
    /// Whether the watch began with this part in it.
    begun: bool,
    joined: Instant,
    seen: watch::Receiver<Option<Seen>>,
    poke: Arc<Notify>,
    first: Arc<OnceCell<First>>,
}

/// What became of a wait.
#[derive(Debug)]
pub(crate) enum Waited {
    /// The job has ended.
    Ended(Arc<TranscriptResult>),
    /// It has not.
    Over,
    /// It does not exist.
    Gone,
}

impl Watch {
    /// The job's user, and whether the job has ended: one read for all who wait at the same time.
    pub(crate) async fn first(&self) -> First {
        let read = async || {
            let job = self.waiting.0.store.job(self.id).await?;
            Ok(job.map(|job| (job.head.user, job.head.state != JobState::Open)))
        };
        let first = self.first.get_or_init(read).await;
        if !matches!(first, Ok(Some((_, false))))
            && let Some(watched) = self.waiting.0.watched.lock().get_mut(&(self.id, Detail::End))
            && Arc::ptr_eq(&watched.first, &self.first)
        {
            // Later clients read again.
            watched.first = Arc::default();
        }
        first.clone()
    }

    /// The current state of the job: no older than this watch, unless the table is slow. A job in progress has no text
    /// here.
    pub(crate) async fn current(&mut self) -> Result<Option<Arc<TranscriptResult>>, StoreError> {
        if !self.begun {
            return self.now().await;
        }
        loop {
            let seen = self.seen.borrow_and_update().clone();
            if let Some(seen) = seen {
                return self.checked(seen).await;
            }
            if !self.changed().await {
                return self.waiting.read(self.id).await;
            }
        }
    }

    /// Waits for the job's end, at most until `until`, or until the process stops.
    pub(crate) async fn end(&mut self, until: Instant) -> Result<Waited, StoreError> {
        loop {
            let seen = self.seen.borrow_and_update().clone();
            if let Some(seen) = seen {
                match self.checked(seen).await? {
                    None => return Ok(Waited::Gone),
                    Some(result) if result.job_status != JobStatus::InProgress => {
                        return Ok(Waited::Ended(result));
                    }
                    Some(_) => {}
                }
            }
            if !matches!(waited(timeout_at(until, self.changed())).await, Ok(true)) {
                return Ok(Waited::Over);
            }
        }
    }

    /// The next change, whatever it is. `None`: the process stops, or there is nothing more to come.
    async fn next(&mut self) -> Option<Result<Option<Arc<TranscriptResult>>, StoreError>> {
        if !self.changed().await {
            return None;
        }
        let seen = self.seen.borrow_and_update().clone()?;
        Some(self.checked(seen).await)
    }

    /// The state of the job now, by one read for all who ask at the same time; or the last known one, if that read takes
    /// too long.
    pub(crate) async fn now(&mut self) -> Result<Option<Arc<TranscriptResult>>, StoreError> {
        let asked = Instant::now();
        self.poke.notify_one();
        let fresh = async {
            loop {
                let seen = self.seen.borrow_and_update().clone();
                if let Some(seen) = seen.filter(|seen| seen.at >= asked || seen.is_last()) {
                    return Some(self.checked(seen).await);
                }
                if !self.changed().await {
                    return None;
                }
            }
        };
        if let Ok(Some(job)) = timeout(LAST_LOOK, fresh).await {
            return job;
        }
        let seen = self.seen.borrow().clone();
        match seen {
            Some(seen) => seen.job,
            None => self.waiting.read(self.id).await,
        }
    }

    /// A job that ended may have been retried between the read that saw it and the call that began this wait: then it is
    /// read again.
    async fn checked(&self, seen: Seen) -> Result<Option<Arc<TranscriptResult>>, StoreError> {
        if seen.is_last() && seen.at < self.joined { self.waiting.read(self.id).await } else { seen.job }
    }

    /// `false`: nothing more will be seen, or the process stops.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.seen.changed() => changed.is_ok(),
            () = self.waiting.0.stop.cancelled() => false,
        }
    }
}

#[cfg(test)]
mod tests;
