//! Redis, or Valkey: the only file that names the client. Nothing here is needed for an answer to be right,
//! so nothing here may cost much time: each command has a tenth of a second, and after one that was not answered
//! the others are not tried for a second.
//!
//! In a failover the address comes to mean another server. The old one either closes its connections or goes on as a
//! replica, which answers, but refuses what is written. Both lead to a new connection and one more try.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, PubSub};
use redis::{
    Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, RedisError,
    RedisResult, ServerErrorKind,
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Change, SHARED_TTL};
use crate::domain::id::JobId;
use crate::domain::transcript::TranscriptResult;
use crate::store::codes;

/// How long a command may take, with its second try.
pub const TIMEOUT: Duration = Duration::from_millis(100);

/// How long Redis is left alone after it failed.
const REST: Duration = Duration::from_secs(1);

/// How long a mark for an erased job stays: longer than any process is between reading a result from
/// the table, or writing it there, and putting it here.
const MARK_TTL: Duration = Duration::from_hours(1);

/// How long it may take to connect. The commands that come meanwhile wait no longer than [`TIMEOUT`].
const CONNECT: Duration = Duration::from_secs(2);

/// How long a silent subscription is trusted before it is asked whether it lives.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

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
pub enum Notification {
    /// The subscription is active. Earlier changes may have been missed.
    Connected,
    /// A job changed.
    Changed(JobId, Change),
    /// The subscription is interrupted. Changes may be missed until it is active again.
    Disconnected,
}

/// Why there is no answer to a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Failed(String),
    #[error("it failed a moment ago and is not asked")]
    Resting,
}

/// How a command failed.
enum Failure {
    /// Redis answered, and refused it.
    Refused(String),
    /// No answer came in time, or the connection ended.
    NoAnswer(String),
}

impl Failure {
    fn text(self) -> String {
        match self {
            Self::Refused(text) | Self::NoAnswer(text) => text,
        }
    }
}

/// A connection to Redis that mends itself. Cloning shares it.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    link: Arc<Mutex<Link>>,
    /// Until when it is left alone; `None` while it answers.
    failing: Arc<Mutex<Option<Instant>>>,
}

/// The connection that commands go by. It mends itself when it breaks, but not when the server at its other end has
/// become a replica.
struct Link {
    connection: ConnectionManager,
    /// How many there were before it.
    number: u64,
    /// When the one before it was given up.
    replaced: Option<Instant>,
    /// When a refusal was last logged.
    warned: Option<Instant>,
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
        let connection = connect(&client)?;
        let link = Link { connection, number: 0, replaced: None, warned: None };
        Ok(Self { client, link: Arc::new(Mutex::new(link)), failing: Arc::default() })
    }

    pub(super) async fn get(&self, id: JobId) -> Result<Option<TranscriptResult>, Trouble> {
        let kept: Option<Vec<u8>> = self.call(redis::cmd("GET").arg(key(id))).await?;
        // An empty one is the mark of an erased job.
        let Some(json) = kept.filter(|json| !json.is_empty()) else {
            return Ok(None);
        };
        codes::from_json(&String::from_utf8_lossy(&json)).map(Some).map_err(|error| {
            warn!(job_id = %id, %error, "cannot parse a result from Redis");
            Trouble::Failed(error.to_string())
        })
    }

    pub(super) async fn put(&self, result: &TranscriptResult) {
        if let Some(set) = set(result) {
            let _: Result<Option<String>, Trouble> = self.call(&set).await;
        }
    }

    /// Keeps the result of a job that has ended, if there is one to keep, and publishes its end. One round trip: the
    /// end is published whatever becomes of the result.
    pub(super) async fn put_and_publish(&self, id: JobId, result: Option<&TranscriptResult>) {
        let mut commands = Pipeline::new();
        if let Some(set) = result.and_then(set) {
            commands.add_command(set).ignore();
        }
        commands.add_command(publish(id, Change::Job)).ignore();
        let _: Result<(), Trouble> = self.call_all(&commands).await;
    }

    pub(super) async fn erased(&self, id: JobId) {
        let mut set = redis::cmd("SET");
        set.arg(key(id)).arg("").arg("PX").arg(millis(MARK_TTL));
        let set = alone(&set);
        let first = self.bounded::<(String,)>(&set).await;
        if first.is_ok() {
            return;
        }
        warn!(job_id = %id, "Redis does not take the mark of an erased job; trying on");
        let redis = self.clone();
        tokio::spawn(async move {
            let until = Instant::now() + SHARED_TTL;
            while Instant::now() < until {
                sleep(REST).await;
                if redis.bounded::<(String,)>(&set).await.is_ok() {
                    return;
                }
            }
        });
    }

    pub(super) async fn publish(&self, id: JobId, change: Change) {
        let _: Result<i64, Trouble> = self.call(&publish(id, change)).await;
    }

    pub(super) async fn ping(&self) -> Result<(), String> {
        let answer = self.bounded::<(String,)>(&alone(&redis::cmd("PING"))).await;
        answer.map(drop).map_err(Failure::text)
    }

    /// A command, unless one was not answered within the last second. Of those that come after that, one is the
    /// probe; the others go on without Redis until it has answered.
    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
        self.call_all(&alone(command)).await.map(|(answer,)| answer)
    }

    async fn call_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Trouble> {
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
        let answer = self.bounded(commands).await;
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(Failure::NoAnswer(error)) = answer {
            if failing.replace(Instant::now() + REST).is_none() {
                warn!(error, "Redis does not answer; going on without it");
            }
            return Err(Trouble::Failed(error));
        }
        // A command that was sent before another one failed says nothing about Redis as it is now.
        if probe {
            *failing = None;
            info!("Redis answers again");
        }
        drop(failing);
        answer.map_err(|refusal| {
            let error = refusal.text();
            self.warn_of_refusal(&error);
            Trouble::Failed(error)
        })
    }

    /// The time is that of both tries.
    async fn bounded<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Failure> {
        let tries = async {
            let (mut connection, number) = self.connection();
            match commands.query_async(&mut connection).await {
                Err(error) if self.is_worth_a_retry(&error, number) => {}
                answer => return answer,
            }
            let (mut connection, _) = self.connection();
            commands.query_async(&mut connection).await
        };
        match timeout(TIMEOUT, tries).await {
            Ok(answer) => answer.map_err(|error| match error.kind() {
                ErrorKind::Server(_) | ErrorKind::Extension => Failure::Refused(error.to_string()),
                _ => Failure::NoAnswer(error.to_string()),
            }),
            Err(_) => Err(Failure::NoAnswer(format!("no answer within {TIMEOUT:?}"))),
        }
    }

    /// Whether there is another connection after this failure of that connection. A refusal leads to at most one in
    /// each [`REST`]: until the address means the new primary, the next server is the same replica.
    fn is_worth_a_retry(&self, error: &RedisError, number: u64) -> bool {
        if error.is_connection_dropped() {
            return true;
        }
        // A connection whose password was refused never tries another.
        let outdated = matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
                | ErrorKind::AuthenticationFailed
        );
        let mut link = self.link();
        if !outdated || link.number != number {
            return outdated;
        }
        if link.replaced.is_some_and(|replaced| replaced.elapsed() < REST) {
            return false;
        }
        let Ok(connection) = connect(&self.client) else { return false };
        warn!(%error, "connecting to Redis again, since the address may mean another server now");
        *link = Link { connection, number: number + 1, replaced: Some(Instant::now()), warned: link.warned };
        true
    }

    fn connection(&self) -> (ConnectionManager, u64) {
        let link = self.link();
        (link.connection.clone(), link.number)
    }

    fn warn_of_refusal(&self, error: &str) {
        let mut link = self.link();
        if link.warned.is_none_or(|warned| warned.elapsed() >= REST) {
            link.warned = Some(Instant::now());
            warn!(error, "Redis refuses a command");
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes the changes of all jobs to `on_notification`, from one subscription. Never returns; reconnects after
    /// an error.
    pub async fn listen(&self, on_notification: impl Fn(Notification)) {
        loop {
            // `call` logs a connection failure once.
            if let Ok(Ok(subscription)) = timeout(CONNECT, self.subscribe()).await {
                on_notification(Notification::Connected);
                relay(subscription, &on_notification).await;
                on_notification(Notification::Disconnected);
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

/// A connection that is made in the background.
fn connect(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(CONNECT))
        .set_number_of_retries(1)
        .set_max_delay(REST);
    let connection = ConnectionManager::new_lazy_with_config(client.clone(), config)?;
    // A first command would have to do with what is left of its time.
    let mut first = connection.clone();
    tokio::spawn(async move {
        let _: RedisResult<String> = redis::cmd("PING").query_async(&mut first).await;
    });
    Ok(connection)
}

/// A pipeline of one command. Its answer is a tuple of one.
fn alone(command: &Cmd) -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.add_command(command.clone());
    pipeline
}

/// What keeps a result; `None` when it is too large.
fn set(result: &TranscriptResult) -> Option<Cmd> {
    let json = codes::to_json(result).unwrap_or_default();
    if json.is_empty() || json.len() > MAX_BYTES {
        return None;
    }
    let mut set = redis::cmd("SET");
    // `NX`: a mark, and a result, stay. They are the same for ever.
    set.arg(key(result.job_id)).arg(json).arg("NX").arg("PX").arg(millis(SHARED_TTL));
    Some(set)
}

fn publish(id: JobId, change: Change) -> Cmd {
    let word = match change {
        Change::Chunk => "chunk",
        Change::Job => "job",
    };
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(format!("{CHANNELS}{id}")).arg(word);
    publish
}

/// Until the connection is cut, or silent in answer to a question.
async fn relay(subscription: PubSub, on_notification: &impl Fn(Notification)) {
    let (mut questions, mut messages) = subscription.split();
    loop {
        match timeout(CLAIM_TIMEOUT, messages.next()).await {
            Ok(Some(message)) => {
                let id = message.get_channel_name().strip_prefix(CHANNELS).and_then(|id| id.parse().ok());
                let change = match message.get_payload_bytes() {
                    b"chunk" => Some(Change::Chunk),
                    b"job" => Some(Change::Job),
                    _ => None,
                };
                if let Some((id, change)) = id.zip(change) {
                    on_notification(Notification::Changed(id, change));
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
    let settings = info.tcp_settings().clone().set_user_timeout(CLAIM_TIMEOUT);
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
        assert!(began.elapsed() <= TIMEOUT * 2, "{:?}", began.elapsed());
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
