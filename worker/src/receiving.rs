//! Two receive loops. The second only receives while the first is overdue or came back full: so one receive that is
//! never answered keeps no message waiting, and a quiet queue is asked no more often than by one loop.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How much longer than its poll a receive takes before a second one begins beside it.
const OVERDUE: Duration = Duration::from_secs(1);

/// Which of the two receive loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Second,
}

/// What the second loop has to know.
#[derive(Debug, Default)]
pub(crate) struct Receiving {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When the first loop's receive began, if it is not answered yet.
    waits_since: Option<Instant>,
    /// Whether the last receive brought as many messages as were asked for.
    full: bool,
}

impl Receiving {
    pub(crate) fn begins(&self, place: Place) {
        if place == Place::First {
            self.lock().waits_since = Some(Instant::now());
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn ends(&self, place: Place, full: bool) {
        let mut state = self.lock();
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
                let state = self.lock();
                let overdue = state.waits_since.map(|since| since + poll + OVERDUE);
                if state.full || overdue.is_some_and(|at| at <= Instant::now()) {
                    return;
                }
                overdue
            };
            match overdue {
                // Either way there is something new to look at.
                Some(at) => drop(timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
