//! Coordinates the receive loops of one consumer. The first loop always receives, with a long poll. So does the second
//! while the first is overdue. While receives come back full and many slots are free, one more loop receives for each full
//! receive in a row, without a long poll. So a receive without an answer delays no message, a burst is received quickly,
//! and a quiet queue gets no more calls than from one loop.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The number of receive loops.
pub(crate) const LOOPS: usize = 8;

/// How much longer than its poll the first loop's receive takes before the second loop receives too.
const OVERDUE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Receiving {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When the first loop's receive began, if it is not answered yet.
    waits_since: Option<Instant>,
    /// How many loops may help the first one.
    helpers: usize,
}

impl Receiving {
    pub(crate) fn begins(&self, place: usize) {
        if place == 0 {
            self.state.lock().waits_since = Some(Instant::now());
            self.changed.notify_waiters();
        }
    }

    /// `full`: the receive returned as many messages as requested, and there is room for many more.
    pub(crate) fn ends(&self, place: usize, full: bool) {
        let mut state = self.state.lock();
        state.helpers = if full { (state.helpers + 1).min(LOOPS - 1) } else { 0 };
        if place == 0 {
            state.waits_since = None;
        }
        self.changed.notify_waiters();
    }

    /// Waits until the loop at this place should receive, and returns the duration of its poll.
    pub(crate) async fn turn(&self, place: usize, poll: Duration) -> Duration {
        if place == 0 {
            return poll;
        }
        loop {
            // It receives each wakeup after its creation, so a change after the look below is not missed.
            let changed = self.changed.notified();
            let overdue = {
                let state = self.state.lock();
                if state.helpers >= place {
                    return Duration::ZERO;
                }
                let since = state.waits_since.filter(|_| place == 1);
                since.map(|since| since + poll + OVERDUE)
            };
            match overdue {
                Some(at) if at <= Instant::now() => return poll,
                Some(at) => drop(timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }
}
