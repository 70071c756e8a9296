//! Fixtures for the tests of the whole service: resources in the emulator, clients that count their calls,
//! and the service itself, in this process or as the real programs.

pub mod calls;
pub mod gateway;
pub mod processes;
pub mod receiver;
pub mod redis;
pub mod relay;
pub mod resources;
pub mod service;
pub mod written;

use std::time::Duration;

use tokio::time::Instant;

/// The timeout of every wait. It is far longer than needed, so that no test fails on a slow machine. Only a
/// failing test waits that long.
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// Calls `ask` every few milliseconds until it returns a value. `what` describes the condition in the panic.
///
/// # Panics
/// After [`TIMEOUT`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {TIMEOUT:?} for {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
