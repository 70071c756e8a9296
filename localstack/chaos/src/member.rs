//! One process of the fleet.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Duration;

use longhand_e2e::processes::{Process, binary, free_address};
use longhand_e2e::redis;
use tokio::net::TcpStream;

use crate::balancer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Kind {
    Api,
    Worker,
    Nginx,
    Redis,
}

impl Kind {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The value of `AWS_SDK_UA_APP_ID` for the programs of this kind, of the old version or of this one.
pub fn app(kind: Kind, old: bool) -> String {
    format!("{}-{}", if old { "old" } else { "new" }, kind.name())
}

/// A process of the fleet, which is restarted.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) log: PathBuf,
    /// The folder of its program, if it is not of this build.
    pub(crate) programs: Option<PathBuf>,
    /// Its fixed address, if others connect to it.
    pub(crate) address: Option<String>,
    /// `None` while it is down.
    pub(crate) process: Option<Process>,
}

impl Member {
    /// Starts the process and waits until it answers. Returns its address: a new port each time, unless others connect
    /// to it, since another process may have taken the old one. nginx forwards to `apis`.
    pub(crate) async fn start(&mut self, http: &reqwest::Client, apis: &[String]) -> String {
        loop {
            let address = self.address.clone().unwrap_or_else(free_address);
            let mut process = self.spawn(&address, apis);
            if self.answers(&mut process, http, &address).await {
                self.process = Some(process);
                return address;
            }
        }
    }

    fn spawn(&self, address: &str, apis: &[String]) -> Process {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let folder = self.log.with_extension("");
        let (name, variable) = match self.kind {
            Kind::Api => ("longhand-api", "LONGHAND_LISTEN"),
            Kind::Worker => ("longhand-worker", "LONGHAND_HEALTH_LISTEN"),
            Kind::Redis => return redis::start(address, log),
            Kind::Nginx => return Process::start_group(&mut balancer::nginx(&folder, address, apis), log),
        };
        let mut variables = self.variables.clone();
        variables.push((variable, address.to_owned()));
        let program = self.programs.as_ref().map_or_else(|| binary(name), |folder| folder.join(name));
        Process::start_logging(&program, &variables, log)
    }

    /// Waits until the process answers. Returns false if it ends before, such as one whose port was taken.
    async fn answers(&self, process: &mut Process, http: &reqwest::Client, address: &str) -> bool {
        let url = format!("http://{address}/healthz");
        while process.has_ended().is_none() {
            let answers = match self.kind {
                // An api behind nginx may be down.
                Kind::Nginx | Kind::Redis => TcpStream::connect(address).await.is_ok(),
                _ => http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()),
            };
            if answers {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

/// Makes Redis the replica of a primary that does not exist, for this time.
pub(crate) async fn demote(address: &str, down: Duration) {
    let take = async |command: &str| {
        let answer = async || redis::ask(address, command).await.filter(|answer| answer.starts_with("+OK"));
        longhand_e2e::eventually(command, answer).await;
    };
    take("REPLICAOF 127.0.0.1 1").await;
    tokio::time::sleep(down).await;
    take("REPLICAOF NO ONE").await;
}
