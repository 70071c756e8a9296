//! Clients that wait for a job: those who asked for it to be done in one call (`prefer.rs`), and those
//! who follow it (`events.rs`).
//!
//! However many of them wait for a job, one task of this process watches it. It looks when Redis says that
//! the job has changed. It also looks now and then by itself: seldom while Redis tells, since a word may be
//! lost, and more often without it.
//!
//! What a wait costs, in calls of the table: a look at a job in progress is one `GetItem`; reading it
//! whole, at the beginning (not after `POST /transcribe`) and at the end, is two, or none when the cache
//! has the result. A wait of 15 s is 16 looks without Redis and 2 with it.

pub(crate) mod events;
pub(crate) mod prefer;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longhand_shared::JobId;
use longhand_shared::cache::remote::Heard;
use longhand_shared::cache::{Cache, Change};
use longhand_shared::job::{JobState, JobStatus};
use longhand_shared::store::{JobStore, StoreError};
use longhand_shared::transcript::TranscriptResult;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::edge::waited;

/// From one look to the next when nobody tells: at first, ...
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// ... half as much again each time, and at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The same while Redis tells.
const TOLD_PAUSE: Duration = Duration::from_secs(5);

/// Changes that come together cost one look.
const TOGETHER: Duration = Duration::from_millis(50);

/// How long a wait that is over takes to see how the job stands.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// The most event streams of one process; each keeps a connection and some tens of kilobytes.
const MAX_STREAMS: usize = 1000;

/// All waits of this process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Waiting(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn JobStore>,
    cache: Cache,
    stop: CancellationToken,
    /// Whether Redis tells of changes just now.
    told: AtomicBool,
    watched: Mutex<HashMap<(JobId, Detail), Watched>>,
    streams: Arc<Semaphore>,
}

/// How much a watcher wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Detail {
    /// Whether the job has ended.
    End,
    /// How each of its chunks stands.
    Chunks,
}

#[derive(Clone, Debug)]
struct Watched {
    seen: watch::Sender<Option<Seen>>,
    /// Has it look now, at all of the job.
    poke: Arc<Notify>,
    /// Whether it was begun for a job that had just been made, and so without a first look.
    known: bool,
}

/// What a look at a job saw.
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
    /// Nobody waits yet. Once `stop` is cancelled all waits end, with the job as it stands.
    pub fn new(store: Arc<dyn JobStore>, cache: Cache, stop: CancellationToken) -> Self {
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        let (told, watched) = (AtomicBool::new(false), Mutex::default());
        Self(Arc::new(Inner { store, cache, stop, told, watched, streams }))
    }

    /// The cache that results are read from.
    pub fn cache(&self) -> &Cache {
        &self.0.cache
    }

    /// Whether one more event stream may be: it may while the permit is held.
    pub(crate) fn stream_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.streams).try_acquire_owned().ok()
    }

    /// A job as it stands.
    pub(crate) async fn read(&self, id: JobId) -> Result<Option<Arc<TranscriptResult>>, StoreError> {
        self.0.cache.read(self.0.store.as_ref(), id).await
    }

    /// Takes part in the watch of a job, or begins one. `known`: it was in progress a moment ago.
    pub(crate) fn watch(&self, id: JobId, detail: Detail, known: bool) -> Watch {
        let joined = Instant::now();
        let key = (id, detail);
        let mut watched = self.0.lock();
        let begun = !watched.contains_key(&key);
        let watched = watched.entry(key).or_insert_with(|| {
            let watched = Watched { seen: watch::channel(None).0, poke: Arc::default(), known };
            tokio::spawn(Arc::clone(&self.0).keep_watch(key, watched.clone()));
            watched
        });
        if !known && watched.known && watched.seen.borrow().is_none() {
            watched.poke.notify_one();
        }
        let seen = watched.seen.subscribe();
        Watch { waiting: self.clone(), id, begun, joined, seen, poke: Arc::clone(&watched.poke) }
    }

    /// Takes part in what Redis tells, until the process stops. Does nothing without Redis.
    pub async fn listen(&self) {
        let Some(redis) = self.0.cache.redis() else {
            return;
        };
        tokio::select! {
            () = redis.listen(|heard| self.hear(heard)) => {}
            () = self.0.stop.cancelled() => {}
        }
    }

    fn hear(&self, heard: Heard) {
        let watched = self.0.lock();
        match heard {
            Heard::Changed(id, change) => {
                let details: &[Detail] = match change {
                    Change::Chunk => &[Detail::Chunks],
                    Change::Job => &[Detail::Chunks, Detail::End],
                };
                let concerned = details.iter().filter_map(|detail| watched.get(&(id, *detail)));
                concerned.for_each(|watched| watched.poke.notify_one());
            }
            // Something may have been missed; and the pauses are other ones from now on.
            Heard::Connected | Heard::Cut => {
                self.0.told.store(heard == Heard::Connected, Ordering::Relaxed);
                watched.values().for_each(|watched| watched.poke.notify_one());
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<(JobId, Detail), Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a job until it has ended or nobody wants to know any more.
    async fn keep_watch(self: Arc<Self>, key: (JobId, Detail), watched: Watched) {
        let (id, detail) = key;
        // A job that was in progress a moment ago is not looked at before a first pause.
        let (mut due, mut whole) = (!watched.known, true);
        let mut pause = FIRST_PAUSE;
        loop {
            let seen = if due { self.look(id, whole).await } else { None };
            due = true;
            // One failed look does not end a wait, unless nothing at all is known of the job.
            let known = watched.known || watched.seen.borrow().is_some();
            if let Some(seen) = seen.filter(|seen| seen.job.is_ok() || !known) {
                let last = seen.is_last();
                if last {
                    // Whoever comes from here on begins a watch of their own.
                    self.lock().remove(&key);
                }
                watched.seen.send_replace(Some(seen));
                if last {
                    return;
                }
            }
            let told = self.told.load(Ordering::Relaxed);
            let wait = if told { TOLD_PAUSE } else { pause };
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
            whole = tokio::select! {
                () = sleep(wait) => detail == Detail::Chunks,
                () = watched.poke.notified() => {
                    if detail == Detail::Chunks {
                        sleep(TOGETHER).await;
                    }
                    true
                }
                () = watched.seen.closed() => {
                    let mut all = self.lock();
                    // Somebody may have come meanwhile.
                    if watched.seen.receiver_count() == 0 {
                        all.remove(&key);
                        return;
                    }
                    false
                }
                () = self.stop.cancelled() => {
                    self.lock().remove(&key);
                    return;
                }
            };
        }
    }

    /// One look. `None`: the job is in progress, and no more was asked.
    async fn look(&self, id: JobId, whole: bool) -> Option<Seen> {
        let at = Instant::now();
        if !whole {
            match self.store.job(id).await {
                Ok(Some(job)) if job.head.state == JobState::Open => return None,
                Ok(Some(_)) => {}
                Ok(None) => return Some(Seen { at, job: Ok(None) }),
                Err(error) => return Some(Seen { at, job: Err(error) }),
            }
        }
        Some(Seen { at, job: self.cache.read(self.store.as_ref(), id).await })
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
}

/// What became of a wait.
#[derive(Debug)]
pub(crate) enum Waited {
    /// The job has ended.
    Ended(Arc<TranscriptResult>),
    /// It has not.
    Over,
    /// There is no such job.
    Gone,
}

impl Watch {
    /// The job, as soon as anything is known of it: as it stands, or as it stood a moment ago, in progress.
    pub(crate) async fn first(&mut self) -> Result<Option<Arc<TranscriptResult>>, StoreError> {
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

    /// The job as it stands: no older than this part in the watch, unless the table is slow.
    pub(crate) async fn current(&mut self) -> Result<Option<Arc<TranscriptResult>>, StoreError> {
        let first = self.first().await;
        if self.begun { first } else { self.now().await }
    }

    /// The job's end, unless it is `until` before, or the process stops.
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

    /// The job as it stands now, as seen by one look for all who ask at the same time; or as it was seen
    /// last, when that look takes too long.
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

    /// A job that ended may have been opened again between the look that saw it and the call that began
    /// this wait: then it is looked at again.
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
