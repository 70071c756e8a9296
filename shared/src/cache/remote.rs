//! Cached results, notifications and marks of erased jobs in Redis or Valkey.

use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use redis::aio::PubSub;
use redis::{Cmd, Pipeline, RedisResult};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::connection::{CONNECT_TIMEOUT, CommandError, Connection, IDLE_TIMEOUT, PAUSE};
pub use super::connection::{RedisUrl, TIMEOUT};
use crate::domain::id::JobId;
use crate::domain::job::Change;
use crate::domain::transcript::TranscriptResult;
use crate::store::codes;

/// How long Redis keeps a result.
pub const SHARED_TTL: Duration = Duration::from_mins(5);

/// How long the mark of an erased job stays: longer than any process takes between reading a result from the table, or
/// writing it there, and writing it to Redis.
const MARK_TTL: Duration = Duration::from_hours(1);

/// The maximum size of a cached result. The longest job of five-minute chunks has a tenth of it.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// The prefix of channels. Names contain the version of the content.
const CHANNELS: &str = "longhand:v1:job:";

fn key(id: JobId) -> String {
    format!("longhand:v1:result:{id}")
}

/// A message of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// The subscription is active. Earlier changes may have been missed.
    Connected,
    /// A job changed.
    Changed(JobId, Change),
    /// The subscription is interrupted. Changes may be missed until it is active again.
    Disconnected,
}

/// The client of Redis. Clones share the connection.
#[derive(Clone)]
pub struct Redis(Connection);

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects in the background.
    pub fn new(url: RedisUrl) -> RedisResult<Self> {
        Connection::new(url).map(Self)
    }

    /// Sends a command to a Redis that answers. `None` without an answer in time.
    pub(super) async fn call<T: redis::FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        self.0.call(command).await.ok()
    }

    pub(super) async fn get(&self, id: JobId) -> Result<Option<TranscriptResult>, CommandError> {
        let json: Option<Vec<u8>> = self.0.call(redis::cmd("GET").arg(key(id))).await?;
        // Empty: the mark of an erased job.
        let Some(json) = json.filter(|json| !json.is_empty()) else {
            return Ok(None);
        };
        codes::from_json(&String::from_utf8_lossy(&json)).map(Some).map_err(|error| {
            warn!(job_id = %id, %error, "cannot parse a result from Redis; it is read from the table");
            CommandError::Refused(error.to_string())
        })
    }

    pub(super) async fn put(&self, result: &TranscriptResult) {
        if let Some(set) = set(result) {
            self.call::<Option<String>>(&set).await;
        }
    }

    /// Stores the result of a job that has ended, if there is one to store, and publishes the end, in one round trip.
    /// The end is published even if Redis refuses the result.
    pub(super) async fn put_and_publish(&self, id: JobId, result: Option<&TranscriptResult>) {
        let mut commands = Pipeline::new();
        if let Some(set) = result.and_then(set) {
            commands.add_command(set).ignore();
        }
        commands.add_command(publish(id, Change::Job)).ignore();
        let _: Result<(), CommandError> = self.0.call_all(&commands).await;
    }

    pub(super) async fn erased(&self, id: JobId) {
        let mut set = redis::cmd("SET");
        set.arg(key(id)).arg("").arg("EX").arg(MARK_TTL.as_secs());
        if self.0.send::<String>(&set).await.is_ok() {
            return;
        }
        warn!(job_id = %id, "cannot mark a job as erased in Redis; trying again");
        let connection = self.0.clone();
        tokio::spawn(async move {
            let until = Instant::now() + SHARED_TTL;
            while Instant::now() < until {
                sleep(PAUSE).await;
                if connection.send::<String>(&set).await.is_ok() {
                    return;
                }
            }
        });
    }

    pub(super) async fn publish(&self, id: JobId, change: Change) {
        self.call::<i64>(&publish(id, change)).await;
    }

    pub(super) async fn ping(&self) -> Result<(), String> {
        self.0.send::<String>(&redis::cmd("PING")).await.map(drop).map_err(|error| error.to_string())
    }

    /// Passes the changes of all jobs to `on_notification`, from one subscription. Never returns; reconnects after
    /// an error.
    pub async fn listen(&self, on_notification: impl Fn(Notification)) {
        loop {
            // Commands log a connection failure.
            if let Ok(Ok(subscription)) = timeout(CONNECT_TIMEOUT, self.subscribe()).await {
                on_notification(Notification::Connected);
                relay(subscription, &on_notification).await;
                on_notification(Notification::Disconnected);
                warn!("the subscription to Redis ended; waits and event streams poll the table more often");
            }
            sleep(PAUSE).await;
        }
    }

    async fn subscribe(&self) -> RedisResult<PubSub> {
        let mut subscription = self.0.client().get_async_pubsub().await?;
        subscription.psubscribe(format!("{CHANNELS}*")).await?;
        Ok(subscription)
    }
}

/// The command that stores a result; `None` if the result is too large.
fn set(result: &TranscriptResult) -> Option<Cmd> {
    let json = codes::to_json(result).unwrap_or_default();
    if json.is_empty() || json.len() > MAX_BYTES {
        return None;
    }
    let mut set = redis::cmd("SET");
    // `NX` keeps a mark or a result, which is final.
    set.arg(key(result.job_id)).arg(json).arg("NX").arg("EX").arg(SHARED_TTL.as_secs());
    Some(set)
}

fn publish(id: JobId, change: Change) -> Cmd {
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(format!("{CHANNELS}{id}")).arg(<&str>::from(change));
    publish
}

/// Passes on notifications until the connection ends or does not answer a ping.
async fn relay(subscription: PubSub, on_notification: &impl Fn(Notification)) {
    let (mut pings, mut messages) = subscription.split();
    loop {
        match timeout(IDLE_TIMEOUT, messages.next()).await {
            Ok(Some(message)) => {
                let id = message.get_channel_name().strip_prefix(CHANNELS).and_then(|id| id.parse().ok());
                let change =
                    str::from_utf8(message.get_payload_bytes()).ok().and_then(|word| word.parse().ok());
                if let Some((id, change)) = id.zip(change) {
                    on_notification(Notification::Changed(id, change));
                }
            }
            Ok(None) => return,
            Err(_) => match timeout(PAUSE, pings.ping::<redis::Value>()).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hanging_redis_opens_the_circuit_for_a_second() {
        // It accepts connections and never answers.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let redis = Redis::new(format!("redis://{address}").parse().expect("a URL")).expect("a client");
        let id = JobId::random();
        let began = Instant::now();
        assert!(matches!(redis.get(id).await, Err(CommandError::NoAnswer(_))));
        assert!(began.elapsed() <= TIMEOUT * 2, "{:?}", began.elapsed());
        let began = Instant::now();
        for _ in 0..100 {
            assert!(matches!(redis.get(id).await, Err(CommandError::CircuitOpen)));
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        sleep(PAUSE).await;
        let (one, other) = tokio::join!(redis.get(id), redis.get(id));
        assert!(
            matches!((one, other), (Err(CommandError::NoAnswer(_)), Err(CommandError::CircuitOpen))),
            "one probe"
        );
    }
}
