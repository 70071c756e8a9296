//! What the tests share: a queue and a store with injected faults, a scripted handler, and a
//! small world of store, queues, simulated model and audio files.

mod handler;
mod queue;
mod store;
mod world;

use std::time::Duration;

use longhand_shared::Claimant;
use longhand_shared::queue::{Envelope, Outgoing, QueueError};
use tokio::time::{Instant, sleep};

pub(crate) use handler::{Running, limits, script};
pub(crate) use queue::{Fault, FaultyQueue, Kind};
pub(crate) use store::{FaultyStore, Op, StoreFault};
pub(crate) use world::{CLAIM_TIMEOUT, Whole, World, asr_settings, audio_store, chunk_of, wav};

/// More simulated time than anything here takes.
const FOREVER: Duration = Duration::from_mins(30);

/// Whole seconds.
pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Waits, on the paused clock, until the condition holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < FOREVER, "waited {FOREVER:?} for: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A message with this body and nothing else.
pub(crate) fn message(body: impl Into<String>) -> Outgoing {
    Outgoing { body: body.into(), group: None, envelope: Envelope::default(), delay: Duration::ZERO }
}

/// One who asks for a chunk for the message of this id.
pub(crate) fn by(message: &str) -> Claimant<'_> {
    Claimant { origin: message, message, generation: 0, redelivered: false, worker: "w" }
}

/// Messages named by their numbers.
pub(crate) fn messages(count: usize) -> Vec<Outgoing> {
    (0..count).map(|number| message(number.to_string())).collect()
}

/// The queue does not answer.
pub(crate) fn unavailable() -> QueueError {
    QueueError::Unavailable("as the test wants it".to_owned())
}
