//! A real Redis for one test.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use longhand_shared::cache::Cache;
use longhand_shared::cache::remote::Redis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::eventually;
use crate::processes::{Process, free_address};

/// A Redis server that is killed when it is dropped.
#[derive(Debug)]
pub struct RedisServer {
    address: String,
    process: Process,
}

impl RedisServer {
    /// Starts an empty server.
    ///
    /// # Panics
    /// If Redis is not installed.
    pub async fn start() -> Self {
        let address = free_address();
        let server = Self { process: start(&address, Stdio::inherit()), address };
        server.ready().await;
        server
    }

    /// `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address.parse().expect("an address")
    }

    /// A cache with a connection of its own.
    pub fn cache(&self) -> Cache {
        let url = self.url().parse().expect("a URL");
        Cache::shared(Redis::new(url).expect("a client"))
    }

    /// Makes the server a replica of `primary`, which refuses writes.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn replicate(&self, primary: &Self) {
        let answer = self.ask(&format!("REPLICAOF {}", primary.address.replace(':', " "))).await;
        assert_eq!(answer.as_deref(), Some("+OK\r\n"));
    }

    /// Kills the server.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Starts an empty server on the same port.
    pub async fn start_again(&mut self) {
        self.process = start(&self.address, Stdio::inherit());
        self.ready().await;
    }

    /// Sends a signal: after `STOP` the server accepts connections but does not respond, until `CONT`.
    pub async fn signal(&self, signal: &str) {
        self.process.signal(&format!("-{signal}")).await;
    }

    /// Sends a command and returns the raw response.
    pub async fn ask(&self, command: &str) -> Option<String> {
        ask(&self.address, command).await
    }

    /// Sets a key.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn set(&self, key: &str, value: &str) {
        // An inline command would need quotes around the value.
        let part = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let answer = self.ask(&format!("*3\r\n{}{}{}", part("SET"), part(key), part(value))).await;
        assert!(answer.as_deref().is_some_and(|answer| answer.starts_with("+OK")), "{answer:?}");
    }

    async fn ready(&self) {
        eventually("redis-server", async || self.ask("PING").await.filter(|answer| answer == "+PONG\r\n"))
            .await;
    }
}

/// Sends a command to the Redis at `address` (`host:port`) and returns the raw response.
pub async fn ask(address: &str, command: &str) -> Option<String> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    socket.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
    let mut answer = vec![0; 64 * 1024];
    let read = timeout(Duration::from_secs(2), socket.read(&mut answer)).await.ok()?.ok()?;
    answer.truncate(read);
    String::from_utf8(answer).ok()
}

/// Starts a Redis without persistence at `address` (`host:port`).
///
/// # Panics
/// If Redis is not installed.
pub fn start(address: &str, log: impl Into<Stdio>) -> Process {
    let (host, port) = address.split_once(':').expect("host:port");
    let mut command = Command::new("redis-server");
    command.args(["--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir"]);
    Process::spawn(command.arg(std::env::temp_dir()), log)
}
