//! The pauses between the tries of a call that the table could not complete.

use std::time::Duration;

use crate::net::backoff::backoff;
use crate::store::StoreError;

/// How often a step is tried if a concurrent transaction cancels it, or if a batch is not complete.
const TRIES: u32 = 6;

/// The pauses between these tries.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    backoff(Duration::from_millis(40), Duration::from_millis(640)).take(TRIES as usize - 1)
}

/// Waits for the next of `pauses`. An error if there are no more; `why` says why the step must be tried again.
pub(super) async fn pause(pauses: &mut impl Iterator<Item = Duration>, why: &str) -> Result<(), StoreError> {
    let Some(pause) = pauses.next() else {
        return Err(StoreError::Unavailable(format!("{why}, {TRIES} times")));
    };
    tokio::time::sleep(pause).await;
    Ok(())
}
