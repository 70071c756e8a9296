//! A real Redis on a port of its own.

use std::process::Stdio;
use std::time::Duration;

use longhand_shared::cache::Cache;
use longhand_shared::cache::remote::Redis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::eventually;
use crate::processes::free_port;

/// A Redis that is killed when it is dropped.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    child: Child,
}

impl RedisServer {
    /// Starts one, with nothing in it.
    ///
    /// # Panics
    /// When it is not installed.
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

    /// A cache in it, by a connection of its own.
    pub fn cache(&self) -> Cache {
        let url = self.url().parse().expect("a URL");
        Cache::shared(Redis::new(url).expect("a client"))
    }

    /// It is gone, and refuses connections.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// It is there again on its port, with nothing in it.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.port);
        self.ready().await;
    }

    /// It takes connections and says nothing (`STOP`), until it is told to go on (`CONT`).
    pub async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &id]).status().await;
        assert!(sent.expect("kill can be run").success(), "redis-server could not be sent {signal}");
    }

    /// What it answers to a command, as it comes.
    pub async fn ask(&self, command: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        socket.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
        let mut answer = vec![0; 64 * 1024];
        let read = timeout(Duration::from_secs(2), socket.read(&mut answer)).await.ok()?.ok()?;
        answer.truncate(read);
        String::from_utf8(answer).ok()
    }

    async fn ready(&self) {
        eventually("redis-server", async || self.ask("PING").await.filter(|answer| answer == "+PONG\r\n"))
            .await;
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
        .expect("redis-server is needed: `make test` installs it; by hand: apt-get install redis-server")
}
