//! The connection to Redis or Valkey, with a short timeout, one retry and a circuit breaker.
//!
//! No correct response depends on Redis, so it must never cost much time. A command has 100 ms. After a command without
//! an answer, the others fail at once for a second; then one of them is the probe.
//!
//! After a failover the address belongs to another server. The old server closes its connections, or it continues as a
//! replica, which answers, but refuses writes. Both lead to a new connection and one retry.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{
    Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, RedisError,
    RedisResult, ServerErrorKind,
};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::service::settings::Reader;

/// The timeout of a command, including its retry.
pub const TIMEOUT: Duration = Duration::from_millis(100);

/// The pause between two probes, two reconnections, and two logged refusals.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// The timeout of a connection attempt. Commands do not wait for it longer than [`TIMEOUT`].
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a silent connection is taken for alive.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of Redis: `redis://` or `rediss://` (TLS). It may contain a password, which is never shown.
#[derive(Clone)]
pub struct RedisUrl(ConnectionInfo);

impl FromStr for RedisUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let supported = text.starts_with("redis://") || text.starts_with("rediss://");
        let info = text.into_connection_info().ok().filter(|_| supported);
        info.map(Self).ok_or("must be a URL: redis://host:port or rediss://user:password@host:port")
    }
}

impl RedisUrl {
    /// Reads `REDIS_URL`. The api and the worker use the same Redis for cached results and change events.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let about =
            "Redis or Valkey (redis:// or rediss://) that caches results and notifies waiting clients";
        reader.optional("REDIS_URL", about)
    }

    /// Without a limit, a connection to a host that vanished would last until TCP's own timeout of a quarter of an hour.
    fn with_timeout(self) -> ConnectionInfo {
        #[cfg(target_os = "linux")]
        return {
            let settings = self.0.tcp_settings().clone().set_user_timeout(IDLE_TIMEOUT);
            self.0.set_tcp_settings(settings)
        };
        #[cfg(not(target_os = "linux"))]
        self.0
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", self.0.addr())
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// Redis refused the command, or its answer is invalid.
    #[error("{0}")]
    Refused(String),
    /// No answer came in time, or the connection ended.
    #[error("{0}")]
    NoAnswer(String),
    /// The circuit is open: the command was not sent.
    #[error("Redis failed less than a second ago and is skipped")]
    CircuitOpen,
}

/// Clones share the connection.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Reconnects by itself after a broken connection, but not after the server has become a replica.
    manager: ConnectionManager,
    /// How many managers there were before.
    number: u64,
    /// When the previous manager was replaced.
    replaced: Option<Instant>,
    /// When a refusal was last logged.
    warned: Option<Instant>,
    /// The time of the next probe while the circuit is open.
    next_probe: Option<Instant>,
}

impl Connection {
    /// Connects in the background.
    pub(super) fn new(url: RedisUrl) -> RedisResult<Self> {
        let client = Client::open(url.with_timeout())?;
        let manager = connect(&client)?;
        let state = State { manager, number: 0, replaced: None, warned: None, next_probe: None };
        Ok(Self { client, state: Arc::new(Mutex::new(state)) })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a command, unless the circuit is open.
    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CommandError> {
        self.call_all(&single(command)).await.map(|(answer,)| answer)
    }

    /// Sends commands in one round trip, unless the circuit is open.
    pub(super) async fn call_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, CommandError> {
        let probe = self.state.lock().admit()?;
        let answer = self.send_all(commands).await;
        let mut state = self.state.lock();
        match &answer {
            Err(CommandError::NoAnswer(error)) => {
                if state.next_probe.replace(Instant::now() + PAUSE).is_none() {
                    warn!(error, "Redis does not answer; continuing without it");
                }
                return answer;
            }
            // A command sent before the circuit opened does not close it.
            _ if probe => {
                state.next_probe = None;
                info!("Redis answers again");
            }
            _ => {}
        }
        if let Err(error) = &answer
            && state.warned.is_none_or(|warned| warned.elapsed() >= PAUSE)
        {
            state.warned = Some(Instant::now());
            warn!(%error, "Redis refuses a command");
        }
        answer
    }

    /// Sends a command whether or not the circuit is open.
    pub(super) async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CommandError> {
        self.send_all(&single(command)).await.map(|(answer,)| answer)
    }

    async fn send_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, CommandError> {
        let tries = async {
            let (mut manager, number) = self.manager();
            match commands.query_async(&mut manager).await {
                Err(error) if self.is_worth_a_retry(&error, number) => {
                    commands.query_async(&mut self.manager().0).await
                }
                answer => answer,
            }
        };
        match timeout(TIMEOUT, tries).await {
            Ok(answer) => answer.map_err(|error| match error.kind() {
                ErrorKind::Server(_) | ErrorKind::Extension => CommandError::Refused(error.to_string()),
                _ => CommandError::NoAnswer(error.to_string()),
            }),
            Err(_) => Err(CommandError::NoAnswer(format!("no answer within {TIMEOUT:?}"))),
        }
    }

    /// Whether a retry may succeed after this error of the manager with this number. A refusal leads to at most one
    /// new connection per [`PAUSE`]: until DNS names the new primary, the next connection has the same replica.
    fn is_worth_a_retry(&self, error: &RedisError, number: u64) -> bool {
        if error.is_connection_dropped() {
            return true;
        }
        // A manager whose password was refused does not connect again.
        let outdated = matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
                | ErrorKind::AuthenticationFailed
        );
        let mut state = self.state.lock();
        if !outdated || state.number != number {
            return outdated;
        }
        if state.replaced.is_some_and(|replaced| replaced.elapsed() < PAUSE) {
            return false;
        }
        let Ok(manager) = connect(&self.client) else { return false };
        warn!(%error, "connecting to Redis again: the address may belong to another server now");
        (state.manager, state.number, state.replaced) = (manager, number + 1, Some(Instant::now()));
        true
    }

    fn manager(&self) -> (ConnectionManager, u64) {
        let state = self.state.lock();
        (state.manager.clone(), state.number)
    }
}

impl State {
    /// Whether the next command is the probe. An error while the circuit is open.
    fn admit(&mut self) -> Result<bool, CommandError> {
        let Some(next_probe) = self.next_probe else { return Ok(false) };
        if Instant::now() < next_probe {
            return Err(CommandError::CircuitOpen);
        }
        self.next_probe = Some(Instant::now() + PAUSE);
        Ok(true)
    }
}

/// A manager that connects in the background.
fn connect(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(CONNECT_TIMEOUT))
        .set_number_of_retries(1)
        .set_max_delay(PAUSE);
    let manager = ConnectionManager::new_lazy_with_config(client.clone(), config)?;
    // The first command connects. A real one would time out.
    let mut first = manager.clone();
    tokio::spawn(async move {
        let _: RedisResult<String> = redis::cmd("PING").query_async(&mut first).await;
    });
    Ok(manager)
}

/// A pipeline of one command. Its answer is a tuple of one.
fn single(command: &Cmd) -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.add_command(command.clone());
    pipeline
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_urls_have_a_supported_scheme_and_hide_the_password() {
        for good in ["redis://127.0.0.1:6379", "redis://cache", "rediss://user:secret@cache:6380/0"] {
            let url = good.parse::<RedisUrl>();
            assert!(!format!("{url:?}").contains("secret"), "{url:?}");
            assert!(url.is_ok(), "{good}: {url:?}");
        }
        for bad in ["127.0.0.1:6379", "http://cache", "redis://", "redis+unix:///tmp/redis", "redis://a:b"] {
            assert!(bad.parse::<RedisUrl>().is_err(), "{bad}");
        }
    }
}
