//! The real binaries, as `make test` built them.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::PATIENCE;

/// One of the workspace's binaries, of the profile that this one has.
///
/// # Panics
/// When it was not built.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this process's own path");
    // Tests are in target/PROFILE/deps, binaries in target/PROFILE.
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).expect("target/PROFILE");
    let binary = folder.join(name);
    assert!(
        binary.is_file(),
        "{} is not built: `make test` does it, or cargo build --workspace --bins",
        binary.display()
    );
    binary
}

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Its process group, where it has children that must not outlive it.
    group: Option<u32>,
}

impl Process {
    /// Starts a binary with these variables beside the emulator's. Its log goes to this test's
    /// output: errors alone, or what `LONGHAND_TEST_LOG` says, in `RUST_LOG`'s form.
    pub fn start(name: &str, variables: &[(&str, String)]) -> Self {
        let child = Command::new(binary(name))
            .env("RUST_LOG", std::env::var("LONGHAND_TEST_LOG").as_deref().unwrap_or("error"))
            .envs(variables.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        Self { name: name.to_owned(), child, group: None }
    }

    /// The same, but its log goes to the end of a file. What it logs is said by `RUST_LOG` among the variables.
    pub fn start_logging(name: &str, variables: &[(&str, String)], log: std::fs::File) -> Self {
        let mut command = Command::new(binary(name));
        command.envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
        let child = Self::spawn(&mut command, log);
        Self { name: name.to_owned(), child, group: None }
    }

    /// Any program, with the children that it makes: they are killed when it is. Its log goes to the end of a file.
    ///
    /// # Panics
    /// When it is not installed.
    pub fn start_group(name: &str, command: &mut Command, log: std::fs::File) -> Self {
        let child = Self::spawn(command.process_group(0), log);
        let group = child.id();
        Self { name: name.to_owned(), child, group }
    }

    fn spawn(command: &mut Command, log: std::fs::File) -> Child {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn();
        child.unwrap_or_else(|error| {
            let name = command.as_std().get_program().display();
            panic!("{name} cannot be started, and `make test` installs what tests start: {error}")
        })
    }

    /// Its end, if it has ended.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it can be asked")
    }

    /// Sends a signal.
    pub async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([signal, &id]).status().await.expect("kill can be run");
        assert!(sent.success(), "{} could not be sent {signal}", self.name);
    }

    /// `kill -9`, and gone.
    pub async fn kill(mut self) {
        self.kill_group();
        self.child.kill().await.expect("it can be killed");
    }

    /// Its end.
    pub async fn ended(mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("{} did not end within {PATIENCE:?}", self.name))
            .expect("it can be waited for")
    }

    fn kill_group(&mut self) {
        let Some(group) = self.group.take() else { return };
        // Those that are gone cannot be killed.
        let _ = std::process::Command::new("kill")
            .args(["-9", "--", &format!("-{group}")])
            .stderr(Stdio::null())
            .status();
    }

    /// Its peak memory in MB and the CPU it has used in seconds, as Linux counts them.
    pub fn used(&self) -> (u64, f64) {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("Linux's account of it");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("Linux's account of it");
        // After the name: fields 14 and 15 are ticks of a hundredth of a second.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("a rest").split_whitespace().collect();
        let ticks = |field: usize| fields[field - 3].parse::<f64>().expect("a number");
        (kilobytes / 1024, (ticks(14) + ticks(15)) / 100.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// A port that nobody has just now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// Asks until a URL answers with success.
pub async fn ready(url: &str) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().expect("a client");
    crate::eventually(url, async || {
        client.get(url).send().await.ok().filter(|answer| answer.status().is_success()).map(|_| ())
    })
    .await;
}
