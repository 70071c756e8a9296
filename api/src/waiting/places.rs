//! Limits the waits and event streams of one process, with shares for each user and each job.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use longhand_shared::{JobId, UserId};
use parking_lot::Mutex;

use crate::error::ApiError;

/// All places of a process. A user has a tenth of them at most, a job a twentieth.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    users: HashMap<UserId, usize>,
    jobs: HashMap<JobId, usize>,
}

/// A place for one client. Dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    pub(super) user: UserId,
    job: JobId,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    pub(super) fn take(self: &Arc<Self>, user: &UserId, job: JobId) -> Result<Place, ApiError> {
        let mut taken = self.taken.lock();
        let share = |part: usize| (self.most / part).max(1);
        let held = |count: Option<&usize>| count.copied().unwrap_or(0);
        if held(taken.users.get(user)) >= share(10) || held(taken.jobs.get(&job)) >= share(20) {
            return Err(ApiError::TooManyWaiting);
        }
        if taken.all >= self.most {
            return Err(ApiError::TooManyStreams);
        }
        taken.all += 1;
        *taken.users.entry(user.clone()).or_default() += 1;
        *taken.jobs.entry(job).or_default() += 1;
        Ok(Place { places: Arc::clone(self), user: user.clone(), job })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all -= 1;
        give_back(&mut taken.users, &self.user);
        give_back(&mut taken.jobs, &self.job);
    }
}

fn give_back<K: Eq + Hash>(held: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = held.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            held.remove(key);
        }
    }
}
