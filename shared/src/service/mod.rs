//! What each program needs: settings, logs, metrics, health, shutdown, AWS clients.

pub mod api_key;
pub mod aws;
pub mod health;
pub mod metrics;
pub mod secret;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod trace;
