//! Slots: a semaphore whose size can change. What is in hand when it shrinks stays in hand; slots
//! that come back then are kept until the new size is reached.
//!
//! A message that only waits (for its next try, or for a verdict about the model) gives its slot back and is
//! parked meanwhile, so that messages which wait keep no others from being worked on. Messages that come back from
//! there leave half of the slots to new ones: many chunks on which the model hangs must not take turns among
//! themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longhand_shared::queue::MAX_BATCH;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many messages may be parked, for each slot. One more keeps its slot while it waits.
const PARKED_PER_SLOT: usize = 4;

/// A number of slots.
#[derive(Debug)]
pub struct Slots {
    free: Semaphore,
    size: Mutex<Size>,
    parking: Arc<Semaphore>,
    /// Slots for messages that come back from parking.
    returning: Arc<Semaphore>,
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
        Arc::new(Self {
            free: Semaphore::new(size),
            size: Mutex::new(Size { now: size, owed: 0 }),
            parking: Arc::new(Semaphore::new(size * PARKED_PER_SLOT)),
            returning: Arc::new(Semaphore::new(size.div_ceil(2))),
        })
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// How many there are, free and taken.
    pub fn size(&self) -> usize {
        self.lock().now
    }

    /// Sets the number of slots. Slots in use are not taken away.
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

    /// Waits for one free slot.
    async fn one(self: &Arc<Self>) -> Option<Slot> {
        // A semaphore that is never closed always gives in the end.
        self.free.acquire().await.ok()?.forget();
        Some(Slot(Arc::clone(self)))
    }

    /// Waits for one free slot, and takes up to a batch of them.
    pub async fn take(self: &Arc<Self>) -> Vec<Slot> {
        let mut taken: Vec<Slot> = self.one().await.into_iter().collect();
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

/// The slot of one message in hand.
#[derive(Debug, Default)]
pub struct HeldSlot(Mutex<Held>);

#[derive(Debug, Default)]
enum Held {
    /// None: the message came without one, or is done.
    #[default]
    Nothing,
    Slot {
        slot: Slot,
        _returned: Option<OwnedSemaphorePermit>,
    },
    /// The message waits without a slot.
    Parked {
        slots: Arc<Slots>,
        _parked: OwnedSemaphorePermit,
    },
}

impl HeldSlot {
    /// The slot that a message was received into.
    pub fn hold(&self, slot: Slot) {
        *self.lock() = Held::Slot { slot, _returned: None };
    }

    /// Gives the slot back for good.
    pub fn release(&self) {
        *self.lock() = Held::Nothing;
    }

    /// Gives the slot back while the message waits, unless too many do.
    pub fn park(&self) {
        let mut held = self.lock();
        let Held::Slot { slot, .. } = &*held else { return };
        let slots = Arc::clone(&slot.0);
        if let Ok(parked) = Arc::clone(&slots.parking).try_acquire_owned() {
            *held = Held::Parked { slots, _parked: parked };
        }
    }

    /// Waits for a slot again if the message is parked.
    pub async fn unpark(&self) {
        let slots = match &*self.lock() {
            Held::Parked { slots, .. } => Arc::clone(slots),
            Held::Nothing | Held::Slot { .. } => return,
        };
        // Neither semaphore is ever closed.
        let returned = Arc::clone(&slots.returning).acquire_owned().await.ok();
        if let Some(slot) = slots.one().await {
            *self.lock() = Held::Slot { slot, _returned: returned };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn a_parked_message_lends_its_slot_and_waits_for_one_again() {
        let slots = Slots::new(1);
        let first = HeldSlot::default();
        for slot in take_now(&slots) {
            first.hold(slot);
        }
        assert_eq!(slots.free(), 0);
        first.park();
        first.park();
        let second = take_now(&slots);
        assert_eq!(second.len(), 1);
        assert!(first.unpark().now_or_never().is_none(), "the slot is taken");
        drop(second);
        assert!(first.unpark().now_or_never().is_some());
        assert_eq!(slots.free(), 0);
        first.release();
        assert_eq!((slots.free(), slots.parking.available_permits()), (1, PARKED_PER_SLOT));
    }

    #[test]
    fn messages_over_the_bound_keep_their_slots_while_they_wait() {
        let slots = Slots::new(1);
        let parked: Vec<HeldSlot> = (0..=PARKED_PER_SLOT).map(|_| HeldSlot::default()).collect();
        for held in &parked {
            for slot in take_now(&slots) {
                held.hold(slot);
            }
            held.park();
        }
        assert_eq!(slots.free(), 0, "the last one keeps its slot");
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
