//! What each program needs: settings, logs, metrics, health, shutdown, AWS clients.

pub mod api_key;
pub mod aws;
pub mod health;
#[cfg(feature = "server")]
pub mod metrics;
pub mod secret;
pub mod settings;
pub mod shutdown;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod trace;
