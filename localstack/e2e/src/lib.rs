//! What the tests of the whole service stand on: real resources in the emulator, clients that count
//! their calls, and the service itself, in this process or as the real binaries.

pub mod calls;
pub mod gateway;
pub mod processes;
pub mod receiver;
pub mod redis;
pub mod resources;
pub mod service;

use std::time::Duration;

use tokio::time::Instant;

/// How long anything that should happen may take. Far longer than it does: a slow machine must not
/// fail a test, and a test that passes never waits for it.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Asks until the answer is there, every few milliseconds.
///
/// # Panics
/// When it is not there within [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
