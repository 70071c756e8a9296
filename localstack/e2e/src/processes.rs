//! The real programs, as built by `make test`.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::TIMEOUT;

/// The path of a program of the workspace, of the same profile as this one.
///
/// # Panics
/// If the program is not built.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this process's own path");
    // Tests are in target/PROFILE/deps, binaries in target/PROFILE.
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).expect("target/PROFILE");
    let binary = folder.join(name);
    assert!(
        binary.is_file(),
        "{} is not built: run `make test`, or cargo build --workspace --bins",
        binary.display()
    );
    binary
}

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// The process group, if the process has children that must end with it.
    group: Option<u32>,
}

impl Process {
    /// Starts a program with these variables and the emulator's. Its log goes to the test's output, with the
    /// filter in `LONGHAND_TEST_LOG`, by default errors only.
    pub fn start(name: &str, variables: &[(&str, String)]) -> Self {
        let filter = std::env::var("LONGHAND_TEST_LOG").unwrap_or_else(|_| "error".to_owned());
        let variables = [&[("RUST_LOG", filter)][..], variables].concat();
        Self::start_logging(&binary(name), &variables, Stdio::inherit())
    }

    /// Starts a program, from [`binary`] or of another build, with these variables and the emulator's. It writes to `log`.
    /// `RUST_LOG` in the variables sets the filter.
    pub fn start_logging(program: &Path, variables: &[(&str, String)], log: impl Into<Stdio>) -> Self {
        let variables = variables.iter().map(|(name, value)| (*name, value.as_str()));
        Self::spawn(Command::new(program).envs(variables), log)
    }

    /// Starts any program in a process group of its own, which is killed with it. It writes to `log`.
    ///
    /// # Panics
    /// If the program is not installed.
    pub fn start_group(command: &mut Command, log: impl Into<Stdio>) -> Self {
        let mut process = Self::spawn(command.process_group(0), log);
        process.group = process.child.id();
        process
    }

    pub(crate) fn spawn(command: &mut Command, log: impl Into<Stdio>) -> Self {
        let name = command.as_std().get_program().display().to_string();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("cannot start {name} (`make test` installs the programs that tests need): {error}")
        });
        Self { name, child, group: None }
    }

    /// The exit status, if the process has ended.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process can be polled")
    }

    pub async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("the process runs").to_string();
        let sent = Command::new("kill").args([signal, &id]).status().await.expect("kill can be run");
        assert!(sent.success(), "cannot send {signal} to {}", self.name);
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub async fn kill(&mut self) {
        self.kill_group();
        self.child.kill().await.expect("the process can be killed");
    }

    /// Waits for the end of the process.
    pub async fn ended(mut self) -> ExitStatus {
        tokio::time::timeout(TIMEOUT, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("{} did not end within {TIMEOUT:?}", self.name))
            .expect("the process can be waited for")
    }

    fn kill_group(&mut self) {
        let Some(group) = self.group.take() else { return };
        // The command fails if the processes have already ended.
        let _ = std::process::Command::new("kill")
            .args(["-9", "--", &format!("-{group}")])
            .stderr(Stdio::null())
            .status();
    }

    /// The peak memory in MB and the CPU time in seconds, from `/proc`.
    pub fn used(&self) -> (u64, f64) {
        let id = self.child.id().expect("the process runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("Linux's /proc");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("Linux's /proc");
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

/// A free loopback port outside the system's range of ephemeral ports, so that it stays free until a process starts, or
/// starts again, and listens on it.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(12_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A free loopback address, `host:port`. See [`free_port`].
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Waits until a URL returns success.
pub async fn ready(url: &str) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().expect("a client");
    crate::eventually(url, async || {
        client.get(url).send().await.ok().filter(|answer| answer.status().is_success()).map(|_| ())
    })
    .await;
}
