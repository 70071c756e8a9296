//! Redis, or Valkey: the only file that names the client. Nothing here is needed for an answer to be right,
//! so nothing here may cost much time: each command has a tenth of a second, and after one that failed
//! the others are not tried for a second.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, PubSub};
use redis::{Client, Cmd, ConnectionInfo, FromRedisValue, IntoConnectionInfo, RedisResult};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Change, SHARED_TTL};
use crate::id::JobId;
use crate::transcript::TranscriptResult;

/// How long a command may take.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// How long Redis is left alone after it failed.
const REST: Duration = Duration::from_secs(1);

/// How long a mark for an erased job stays: longer than any process is between reading a result from
/// the table, or writing it there, and putting it here.
const MARK_TTL: Duration = Duration::from_hours(1);

/// How long it may take to connect. The commands that come meanwhile wait no longer than [`PATIENCE`].
const CONNECT: Duration = Duration::from_secs(2);

/// How long a silent subscription is trusted before it is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(5);

/// A larger result is left to the table: 24 chunks of five minutes weigh a tenth of this.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Names carry the version of what is under them.
const CHANNELS: &str = "longhand:v1:job:";

fn key(id: JobId) -> String {
    format!("longhand:v1:result:{id}")
}

/// Where Redis is: `redis://` or `rediss://` (TLS), with a password in it perhaps, which never shows.
#[derive(Clone)]
pub struct RedisUrl(ConnectionInfo);

impl FromStr for RedisUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let right = text.starts_with("redis://") || text.starts_with("rediss://");
        let info = text.into_connection_info().ok().filter(|_| right);
        info.map(Self).ok_or("must be a URL: redis://host:port or rediss://user:password@host:port")
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", self.0.addr())
    }
}

/// What a subscription tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// From here on changes are told. Those before may have been missed.
    Connected,
    /// A job changed.
    Changed(JobId, Change),
    /// Changes are not told any more, for now.
    Cut,
}

/// Why a command brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Failed(String),
    #[error("it failed a moment ago and is not asked")]
    Resting,
}

/// A connection to Redis that mends itself. Cloning shares it.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    connection: ConnectionManager,
    /// Until when it is left alone; `None` while it answers.
    failing: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Redis {
    /// Begins to connect, and does not wait for it.
    pub fn new(url: RedisUrl) -> RedisResult<Self> {
        let client = Client::open(cut_dead_connections(url.0))?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(CONNECT))
            .set_number_of_retries(1)
            .set_max_delay(REST);
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), config)?;
        let redis = Self { client, connection, failing: Arc::default() };
        // A first command would have to do with what is left of its time.
        let mut first = redis.connection.clone();
        tokio::spawn(async move {
            let _: RedisResult<String> = redis::cmd("PING").query_async(&mut first).await;
        });
        Ok(redis)
    }

    pub(super) async fn get(&self, id: JobId) -> Result<Option<TranscriptResult>, Trouble> {
        let kept: Option<Vec<u8>> = self.call(redis::cmd("GET").arg(key(id))).await?;
        // An empty one is the mark of an erased job.
        let Some(json) = kept.filter(|json| !json.is_empty()) else {
            return Ok(None);
        };
        serde_json::from_slice(&json).map(Some).map_err(|error| {
            warn!(job_id = %id, %error, "what Redis keeps is no result");
            Trouble::Failed(error.to_string())
        })
    }

    pub(super) async fn put(&self, result: &TranscriptResult) {
        let json = serde_json::to_vec(result).unwrap_or_default();
        if json.is_empty() || json.len() > MAX_BYTES {
            return;
        }
        let mut set = redis::cmd("SET");
        // `NX`: a mark, and a result, stay. They are the same for ever.
        set.arg(key(result.job_id)).arg(json).arg("NX").arg("PX").arg(millis(SHARED_TTL));
        let _: Result<Option<String>, Trouble> = self.call(&set).await;
    }

    pub(super) async fn erased(&self, id: JobId) {
        let mut set = redis::cmd("SET");
        set.arg(key(id)).arg("").arg("PX").arg(millis(MARK_TTL));
        let first: Result<String, String> = self.bounded(&set).await;
        if first.is_ok() {
            return;
        }
        warn!(job_id = %id, "Redis does not take the mark of an erased job; trying on");
        let redis = self.clone();
        tokio::spawn(async move {
            let until = Instant::now() + SHARED_TTL;
            while Instant::now() < until {
                sleep(REST).await;
                let marked: Result<String, String> = redis.bounded(&set).await;
                if marked.is_ok() {
                    return;
                }
            }
        });
    }

    pub(super) async fn publish(&self, id: JobId, change: Change) {
        let word = match change {
            Change::Chunk => "chunk",
            Change::Job => "job",
        };
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(format!("{CHANNELS}{id}")).arg(word);
        let _: Result<i64, Trouble> = self.call(&publish).await;
    }

    pub(super) async fn ping(&self) -> Result<(), String> {
        self.bounded::<String>(&redis::cmd("PING")).await.map(drop)
    }

    /// A command, unless one failed within the last second. Of those that come after that, one is the
    /// probe; the others go on without Redis until it has answered.
    async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
        let probe = {
            let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
            if failing.is_some_and(|until| Instant::now() < until) {
                return Err(Trouble::Resting);
            }
            let probe = failing.is_some();
            if probe {
                *failing = Some(Instant::now() + REST);
            }
            probe
        };
        let answer = self.bounded(command).await;
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(value) => {
                // What was under way when another failed says nothing of how it is now.
                if probe {
                    *failing = None;
                    info!("Redis answers again");
                }
                Ok(value)
            }
            Err(error) => {
                if failing.replace(Instant::now() + REST).is_none() {
                    warn!(error, "Redis does not answer; going on without it");
                }
                Err(Trouble::Failed(error))
            }
        }
    }

    async fn bounded<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, String> {
        let mut connection = self.connection.clone();
        match timeout(PATIENCE, command.query_async(&mut connection)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }

    /// Tells `hear` of every job's changes, by one connection, for ever. A cut connection is made anew.
    pub async fn listen(&self, hear: impl Fn(Heard)) {
        loop {
            // That it cannot be had is said once, by `call`.
            if let Ok(Ok(subscription)) = timeout(CONNECT, self.subscribe()).await {
                hear(Heard::Connected);
                relay(subscription, &hear).await;
                hear(Heard::Cut);
                warn!("the subscription to Redis was cut; waits poll the table");
            }
            sleep(REST).await;
        }
    }

    async fn subscribe(&self) -> RedisResult<PubSub> {
        let mut subscription = self.client.get_async_pubsub().await?;
        subscription.psubscribe(format!("{CHANNELS}*")).await?;
        Ok(subscription)
    }
}

/// Until the connection is cut, or silent in answer to a question.
async fn relay(subscription: PubSub, hear: &impl Fn(Heard)) {
    let (mut questions, mut messages) = subscription.split();
    loop {
        match timeout(SILENCE, messages.next()).await {
            Ok(Some(message)) => {
                let id = message.get_channel_name().strip_prefix(CHANNELS).and_then(|id| id.parse().ok());
                let change = match message.get_payload_bytes() {
                    b"chunk" => Some(Change::Chunk),
                    b"job" => Some(Change::Job),
                    _ => None,
                };
                if let Some((id, change)) = id.zip(change) {
                    hear(Heard::Changed(id, change));
                }
            }
            Ok(None) => return,
            Err(_) => match timeout(REST, questions.ping::<redis::Value>()).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            },
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Else a host that went without a word would be waited for until TCP gives up, in a quarter of an hour.
#[cfg(target_os = "linux")]
fn cut_dead_connections(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.tcp_settings().clone().set_user_timeout(SILENCE);
    info.set_tcp_settings(settings)
}

#[cfg(not(target_os = "linux"))]
fn cut_dead_connections(info: ConnectionInfo) -> ConnectionInfo {
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_redis_can_be() {
        for good in ["redis://127.0.0.1:6379", "redis://cache", "rediss://user:secret@cache:6380/0"] {
            let url = good.parse::<RedisUrl>();
            assert!(!format!("{url:?}").contains("secret"), "{url:?}");
            assert!(url.is_ok(), "{good}: {url:?}");
        }
        for bad in ["127.0.0.1:6379", "http://cache", "redis://", "redis+unix:///tmp/redis", "redis://a:b"] {
            assert!(bad.parse::<RedisUrl>().is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_left_alone_for_a_second() {
        // It takes connections and says nothing.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let redis = Redis::new(format!("redis://{address}").parse().expect("a URL")).expect("a client");
        let id = JobId::random();
        let began = Instant::now();
        assert!(matches!(redis.get(id).await, Err(Trouble::Failed(_))));
        assert!(began.elapsed() <= PATIENCE * 2, "{:?}", began.elapsed());
        let began = Instant::now();
        for _ in 0..100 {
            assert!(matches!(redis.get(id).await, Err(Trouble::Resting)));
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        sleep(REST).await;
        let (one, other) = tokio::join!(redis.get(id), redis.get(id));
        assert!(matches!((one, other), (Err(Trouble::Failed(_)), Err(Trouble::Resting))), "one probe");
    }
}
