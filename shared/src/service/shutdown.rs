//! Shutdown by SIGTERM (an orchestrator) or SIGINT (Ctrl-C).

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// A token that the first SIGTERM or SIGINT cancels. A second signal exits the process at once with
/// status 130, so that a person can skip a long drain.
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
                info!(signal = name, "second signal: exiting now");
                std::process::exit(130);
            }
            info!(signal = name, "stopping");
            stop.cancel();
        }
    });
    Ok(token)
}
