//! A real Redis for one test.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use longhand_shared::cache::Cache;
use longhand_shared::cache::remote::Redis;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::eventually;
use crate::processes::free_port;

/// A Redis server that is killed when it is dropped.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    child: Child,
}

impl RedisServer {
    /// Starts an empty server.
    ///
    /// # Panics
    /// If Redis is not installed.
    pub async fn start() -> Self {
        let port = free_port();
        let server = Self { port, child: spawn(port) };
        server.ready().await;
        server
    }

    /// `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
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
        let answer = self.ask(&format!("REPLICAOF 127.0.0.1 {}", primary.port)).await;
        assert_eq!(answer.as_deref(), Some("+OK\r\n"));
    }

    /// Kills the server.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the server can be killed");
    }

    /// Starts an empty server on the same port.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.port);
        self.ready().await;
    }

    /// Sends a signal: after `STOP` the server accepts connections but does not respond, until `CONT`.
    pub async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("the server runs").to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &id]).status().await;
        assert!(sent.expect("kill can be run").success(), "cannot send {signal} to redis-server");
    }

    /// Sends a command and returns the raw response.
    pub async fn ask(&self, command: &str) -> Option<String> {
        ask(&format!("127.0.0.1:{}", self.port), command).await
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

/// An address that forwards to one Redis and later to another, like the primary endpoint of a replication group. Open
/// connections stay with the first.
#[derive(Debug)]
pub struct PrimaryEndpoint {
    port: u16,
    target: Arc<AtomicU16>,
    serving: JoinHandle<()>,
}

impl PrimaryEndpoint {
    /// An address that forwards to `primary`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn of(primary: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let target = Arc::new(AtomicU16::new(primary.port));
        let current = Arc::clone(&target);
        let serving = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let port = current.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { port, target, serving }
    }

    /// Forwards new connections to this server.
    pub fn move_to(&self, primary: &RedisServer) {
        self.target.store(primary.port, Ordering::SeqCst);
    }

    /// `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for PrimaryEndpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn spawn(port: u16) -> Child {
    let port = port.to_string();
    Command::new("redis-server")
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--dir", &std::env::temp_dir().display().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server is not installed: run `make test`, or apt-get install redis-server")
}
