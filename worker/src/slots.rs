//! Slots: a semaphore whose size can change. What is in hand when it shrinks stays in hand; slots
//! that come back then are kept until the new size is reached.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longhand_shared::queue::MAX_BATCH;
use tokio::sync::Semaphore;

/// A number of slots.
#[derive(Debug)]
pub struct Slots {
    free: Semaphore,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    now: usize,
    /// Slots to be kept when they come back.
    owed: usize,
}

/// One slot; it comes back when this is dropped.
#[derive(Debug)]
pub struct Slot(Arc<Slots>);

impl Slots {
    /// So many slots, all free.
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { free: Semaphore::new(size), size: Mutex::new(Size { now: size, owed: 0 }) })
    }

    /// How many there are, free and taken.
    pub fn size(&self) -> usize {
        self.lock().now
    }

    /// Makes it so many. None is taken from whoever has it.
    pub fn resize(&self, wanted: usize) {
        let mut size = self.lock();
        if wanted >= size.now {
            let more = wanted - size.now;
            let paid = more.min(size.owed);
            size.owed -= paid;
            self.free.add_permits(more - paid);
        } else {
            let fewer = size.now - wanted;
            size.owed += fewer - self.free.forget_permits(fewer);
        }
        size.now = wanted;
    }

    /// Waits for one free slot, and takes up to a batch of them.
    pub async fn take(self: &Arc<Self>) -> Vec<Slot> {
        let mut taken = Vec::new();
        // A semaphore that is never closed always gives in the end.
        if let Ok(first) = self.free.acquire().await {
            first.forget();
            taken.push(Slot(Arc::clone(self)));
        }
        while taken.len() < MAX_BATCH
            && let Ok(next) = self.free.try_acquire()
        {
            next.forget();
            taken.push(Slot(Arc::clone(self)));
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut size = self.0.lock();
        if size.owed > 0 {
            size.owed -= 1;
        } else {
            self.0.free.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn take_now(slots: &Arc<Slots>) -> Vec<Slot> {
        slots.take().now_or_never().unwrap_or_default()
    }

    #[test]
    fn a_batch_at_most_and_never_more_than_there_are() {
        let slots = Slots::new(13);
        let first = take_now(&slots);
        assert_eq!((first.len(), take_now(&slots).len()), (10, 3));
        drop(first);
        assert_eq!(take_now(&slots).len(), 10);
    }

    proptest! {
        /// However it is resized while slots come and go, as many can be had as there are, less
        /// those taken.
        #[test]
        fn as_many_as_there_are(steps in prop::collection::vec((0..3u8, 0..30usize), 1..60)) {
            let slots = Slots::new(8);
            let mut held = Vec::new();
            for (what, number) in steps {
                match what {
                    0 => slots.resize(number),
                    1 => held.extend(take_now(&slots)),
                    _ => held.truncate(held.len().saturating_sub(number)),
                }
                let free = slots.free.available_permits();
                prop_assert_eq!(free, slots.size().saturating_sub(held.len()));
            }
        }
    }
}
