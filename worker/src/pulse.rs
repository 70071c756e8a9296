//! The activity of a consumer, for health checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::lease::Leases;
use crate::slots::Slots;

#[derive(Debug)]
pub struct Pulse {
    last_poll: Mutex<Instant>,
    answered: AtomicU64,
    leases: Arc<Leases>,
    slots: Arc<Slots>,
}

impl Pulse {
    pub(crate) fn new(leases: Arc<Leases>, slots: Arc<Slots>) -> Self {
        Self { last_poll: Mutex::new(Instant::now()), answered: AtomicU64::new(0), leases, slots }
    }

    /// The time since the last receive began or ended.
    pub fn last_poll_age(&self) -> Duration {
        self.last_poll.lock().elapsed()
    }

    /// The number of answered receives.
    pub fn polls(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Messages in hand.
    pub fn in_hand(&self) -> usize {
        self.leases.in_hand()
    }

    /// Whether the consumer polls: a receive began or ended within this time, or no slot is free.
    pub fn is_polling(&self, within: Duration) -> bool {
        self.last_poll_age() <= within || self.slots.free() == 0
    }

    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a receive begins or has ended.
    pub(crate) fn beat(&self) {
        *self.last_poll.lock() = Instant::now();
    }
}
