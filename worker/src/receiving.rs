//! Coordinates two receive loops. The second receives only while the first is overdue or was full. So a receive without
//! an answer delays no message, and a quiet queue gets no more calls than from one loop.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How much longer than its poll the first loop's receive takes before the second loop receives too.
const OVERDUE: Duration = Duration::from_secs(1);

/// Which of the two receive loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Second,
}

#[derive(Debug, Default)]
pub(crate) struct Receiving {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When the first loop's receive began, if it is not answered yet.
    waits_since: Option<Instant>,
    /// Whether the last receive returned as many messages as requested.
    full: bool,
}

impl Receiving {
    pub(crate) fn begins(&self, place: Place) {
        if place == Place::First {
            self.state.lock().waits_since = Some(Instant::now());
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn ends(&self, place: Place, full: bool) {
        let mut state = self.state.lock();
        state.full = full;
        if place == Place::First {
            state.waits_since = None;
        }
        self.changed.notify_waiters();
    }

    /// Waits until this loop should receive.
    pub(crate) async fn turn(&self, place: Place, poll: Duration) {
        if place == Place::First {
            return;
        }
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let overdue = {
                let state = self.state.lock();
                let overdue = state.waits_since.map(|since| since + poll + OVERDUE);
                if state.full || overdue.is_some_and(|at| at <= Instant::now()) {
                    return;
                }
                overdue
            };
            match overdue {
                Some(at) => drop(timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }
}
