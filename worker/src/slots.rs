//! Slots: a semaphore whose size can change. When it shrinks, messages keep their slots, and released slots are withheld
//! until the new size is reached.
//!
//! A message that waits for a retry or a probe is parked: it releases its slot to another message. Messages that return
//! from parking use at most half of the slots, so that chunks on which the model hangs leave room for new ones.

use std::sync::Arc;

use longhand_shared::queue::MAX_BATCH;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The maximum number of parked messages per slot. Further messages keep their slots while they wait.
const PARKED_PER_SLOT: usize = 4;

#[derive(Debug)]
pub struct Slots {
    free: Semaphore,
    size: Mutex<Size>,
    parking: Arc<Semaphore>,
    /// Slots for messages that return from parking.
    returning: Arc<Semaphore>,
}

#[derive(Debug)]
struct Size {
    now: usize,
    /// How many released slots to withhold.
    owed: usize,
}

/// One slot, released on drop.
#[derive(Debug)]
pub struct Slot(Arc<Slots>);

impl Slots {
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(size),
            size: Mutex::new(Size { now: size, owed: 0 }),
            parking: Arc::new(Semaphore::new(size * PARKED_PER_SLOT)),
            returning: Arc::new(Semaphore::new(size.div_ceil(2))),
        })
    }

    pub fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// The number of slots, free or not.
    pub fn size(&self) -> usize {
        self.size.lock().now
    }

    /// Sets the number of slots. Slots in use stay in use.
    pub fn resize(&self, wanted: usize) {
        let mut size = self.size.lock();
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
        // The semaphore is never closed.
        self.free.acquire().await.ok()?.forget();
        Some(Slot(Arc::clone(self)))
    }

    /// Waits for a free slot, and takes up to [`MAX_BATCH`].
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
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut size = self.0.size.lock();
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
    /// The message was received without a slot, or has released it for good.
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
        *self.0.lock() = Held::Slot { slot, _returned: None };
    }

    /// Releases the slot at the end.
    pub fn release(&self) {
        *self.0.lock() = Held::Nothing;
    }

    /// Releases the slot while the message waits, unless too many messages are parked.
    pub fn park(&self) {
        let mut held = self.0.lock();
        let Held::Slot { slot, .. } = &*held else { return };
        let slots = Arc::clone(&slot.0);
        if let Ok(parked) = Arc::clone(&slots.parking).try_acquire_owned() {
            *held = Held::Parked { slots, _parked: parked };
        }
    }

    /// Waits for a slot again if the message is parked.
    pub async fn unpark(&self) {
        let slots = match &*self.0.lock() {
            Held::Parked { slots, .. } => Arc::clone(slots),
            Held::Nothing | Held::Slot { .. } => return,
        };
        // Neither semaphore is ever closed.
        let returned = Arc::clone(&slots.returning).acquire_owned().await.ok();
        if let Some(slot) = slots.one().await {
            *self.0.lock() = Held::Slot { slot, _returned: returned };
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
    fn at_most_a_batch_of_free_slots_is_taken() {
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
        #[test]
        fn free_slots_are_the_size_less_those_held(steps in prop::collection::vec((0..3u8, 0..30usize), 1..60)) {
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
