//! When to stop: SIGTERM (an orchestrator) or SIGINT (Ctrl-C).

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// A token that is cancelled at the first SIGTERM or SIGINT. A second one ends the process at once,
/// with status 130: the person at the keyboard has decided.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        for turn in 0.. {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if turn > 0 {
                info!(signal = name, "second signal: ending at once");
                std::process::exit(130);
            }
            info!(signal = name, "stopping");
            stop.cancel();
        }
    });
    Ok(token)
}
