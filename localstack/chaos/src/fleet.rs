//! The real processes, and the task that kills them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longhand_e2e::processes::free_address;
use parking_lot::Mutex;
use rand::RngExt;
use serde::Serialize;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::draw;
use crate::member::{Kind, Member, app, demote};

/// Every fourth process is stopped with SIGTERM; the others are killed.
const SIGTERM_EACH: u64 = 4;

/// The longest pause between a process's end and its restart, in milliseconds.
const RESTART_MS: u64 = 2_000;

/// How a process is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `kill -9`.
    Kill,
    /// SIGTERM. nginx gets SIGHUP instead: it reloads its configuration and keeps running.
    Gently,
    /// Redis becomes a read-only replica for some time, as in a failover.
    Demote,
}

/// The end of a process that was not killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// `worker-2`.
    #[serde(rename = "process")]
    pub name: String,
    /// Whether it got SIGTERM. If not, it ended by itself.
    pub asked: bool,
    /// Such as `exit status: 0`.
    pub how: String,
    #[serde(skip)]
    pub success: bool,
}

/// The records of what was done to the processes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Books {
    /// `kill -9`.
    pub killed: u64,
    /// SIGTERM, without those at the end of the run.
    pub stopped: u64,
    /// Reloads of nginx.
    pub reloaded: u64,
    /// How often Redis became a replica.
    pub demoted: u64,
    pub restarted: u64,
    /// All of these by kind of process.
    pub disturbed: BTreeMap<&'static str, u64>,
    /// The ends of processes, without those that were killed.
    pub exits: Vec<Exit>,
}

/// The processes to start.
#[derive(Clone, Debug)]
pub struct Crew {
    pub apis: usize,
    pub workers: usize,
    /// Whether clients connect to an nginx in front of the apis.
    pub balanced: bool,
    /// Whether apis and workers share a Redis.
    pub redis: bool,
    /// The folder of the programs of an old version, which every second api and worker uses.
    pub old: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Fleet {
    members: Vec<Arc<AsyncMutex<Member>>>,
    /// The names and URLs of the running apis.
    apis: Mutex<Vec<(String, String)>>,
    /// The addresses of nginx and of the apis behind it.
    balanced: Option<(String, Vec<String>)>,
    books: Mutex<Books>,
    http: reqwest::Client,
}

impl Fleet {
    /// Starts the processes. `variables` are for apis and workers; `logs` is the folder of their logs.
    pub async fn start(crew: Crew, variables: &[(&'static str, String)], logs: &Path) -> Arc<Self> {
        let mut variables = variables.to_vec();
        let mut members = Vec::new();
        let mut add = |kind: Kind, number: usize, address: Option<String>, variables: &[_]| {
            let name = if number == 0 { kind.name().to_owned() } else { format!("{}-{number}", kind.name()) };
            let programs = crew.old.clone().filter(|_| number > 0 && number.is_multiple_of(2));
            let name = if programs.is_some() { format!("{name}-old") } else { name };
            let log = logs.join(format!("{name}.log"));
            let mut variables = variables.to_vec();
            if crew.old.is_some() {
                variables.push(("AWS_SDK_UA_APP_ID", app(kind, programs.is_some())));
            }
            members.push(Member { kind, name, variables, log, programs, address, process: None });
        };
        let lasting = || crew.balanced.then(free_address);
        if crew.redis {
            let address = free_address();
            variables.push(("REDIS_URL", format!("redis://{address}")));
            add(Kind::Redis, 0, Some(address), &[]);
        }
        let mut addresses = Vec::new();
        for number in 1..=crew.apis {
            let address = lasting();
            addresses.extend(address.clone());
            add(Kind::Api, number, address, &variables);
        }
        for number in 1..=crew.workers {
            add(Kind::Worker, number, None, &variables);
        }
        let balanced = lasting().map(|nginx| {
            add(Kind::Nginx, 0, Some(nginx.clone()), &[]);
            (nginx, addresses)
        });
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().expect("a client");
        let fleet = Arc::new(Self {
            members: members.into_iter().map(|member| Arc::new(AsyncMutex::new(member))).collect(),
            apis: Mutex::default(),
            balanced,
            books: Mutex::default(),
            http,
        });
        for member in &fleet.members {
            fleet.run(&mut *member.lock().await).await;
        }
        fleet
    }

    pub fn books(&self) -> Books {
        self.books.lock().clone()
    }

    /// The URLs of the running apis, or of nginx in front of them.
    pub fn apis(&self) -> Vec<String> {
        if let Some((nginx, _)) = &self.balanced {
            return vec![format!("http://{nginx}")];
        }
        self.apis.lock().iter().map(|(_, url)| url.clone()).collect()
    }

    /// Disturbs a random process after each pause, of `every` milliseconds, until `until` or until `end` is cancelled.
    /// Returns when all run again.
    pub async fn kill(self: Arc<Self>, seed: u64, every: Range<u64>, until: Instant, end: CancellationToken) {
        let mut rng = draw::rng(seed, &["killer"]);
        let tasks = TaskTracker::new();
        for turn in 1.. {
            let pause = Duration::from_millis(rng.random_range(every.clone()));
            let first = rng.random_range(0..self.members.len());
            let down = Duration::from_millis(rng.random_range(0..=RESTART_MS));
            tokio::select! {
                () = end.cancelled() => break,
                () = tokio::time::sleep_until(until) => break,
                () = tokio::time::sleep(pause) => {}
            }
            // If it is down or stopping, the next one is disturbed instead.
            let mut order = self.members.iter().cycle().skip(first).take(self.members.len());
            let free = |member: &Arc<AsyncMutex<Member>>| Arc::clone(member).try_lock_owned().ok();
            let Some(member) = order.find_map(free) else {
                continue;
            };
            let how = match turn % SIGTERM_EACH {
                0 => How::Gently,
                1 | 2 if member.kind == Kind::Redis => How::Demote,
                _ => How::Kill,
            };
            let fleet = Arc::clone(&self);
            tasks.spawn(async move { fleet.disturb(member, how, down).await });
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Disturbs the first process of a kind. Returns when it runs again, `down` after its end.
    pub async fn take_down_first(&self, kind: Kind, how: How, down: Duration) {
        for member in &self.members {
            let member = Arc::clone(member).lock_owned().await;
            if member.kind == kind {
                return self.disturb(member, how, down).await;
            }
        }
        panic!("there is no {}", kind.name());
    }

    async fn disturb(&self, mut member: OwnedMutexGuard<Member>, how: How, down: Duration) {
        let reload = member.kind == Kind::Nginx && how == How::Gently;
        {
            let mut books = self.books.lock();
            *books.disturbed.entry(member.kind.name()).or_default() += 1;
            let count = match how {
                How::Kill => &mut books.killed,
                How::Gently if reload => &mut books.reloaded,
                How::Gently => &mut books.stopped,
                How::Demote => &mut books.demoted,
            };
            *count += 1;
        }
        if reload {
            member.process.as_ref().expect("a locked member runs").signal("-HUP").await;
            return;
        }
        if how == How::Demote {
            let address = member.address.as_deref().expect("Redis has a fixed address");
            return demote(address, down).await;
        }
        self.end(&mut member, how).await;
        tokio::time::sleep(down).await;
        self.books.lock().restarted += 1;
        self.run(&mut member).await;
    }

    /// Stops all at the same time.
    pub async fn stop(&self) {
        let ends = self
            .members
            .iter()
            .map(|member| async move { self.end(&mut *member.lock().await, How::Gently).await });
        futures::future::join_all(ends).await;
    }

    /// Ends a member's process and records its end.
    async fn end(&self, member: &mut Member, how: How) {
        let Some(mut process) = member.process.take() else { return };
        let name = member.name.clone();
        self.apis.lock().retain(|(api, _)| *api != name);
        let exit = |asked, how: String, success| Exit { name, asked, how, success };
        if let Some(status) = process.has_ended() {
            self.books.lock().exits.push(exit(false, status.to_string(), false));
        } else if how == How::Gently {
            process.signal("-TERM").await;
            // It panics if that takes too long.
            let exit = match tokio::spawn(process.ended()).await {
                Ok(status) => exit(true, status.to_string(), status.success()),
                Err(_) => exit(true, "did not end within a minute".to_owned(), false),
            };
            self.books.lock().exits.push(exit);
        } else {
            process.kill().await;
        }
    }

    /// Starts a member's process. Returns when it answers.
    async fn run(&self, member: &mut Member) {
        let apis = self.balanced.as_ref().map_or(&[][..], |(_, apis)| apis);
        let address = member.start(&self.http, apis).await;
        if member.kind == Kind::Api {
            self.apis.lock().push((member.name.clone(), format!("http://{address}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use longhand_e2e::redis;

    use super::*;

    #[tokio::test]
    async fn a_demoted_redis_refuses_writes_until_it_is_the_primary_again() {
        let logs = std::env::temp_dir().join(format!("longhand-demoted-{}", std::process::id()));
        std::fs::create_dir_all(&logs).expect("a folder for the logs");
        let crew = Crew { apis: 0, workers: 0, balanced: false, redis: true, old: None };
        let fleet = Fleet::start(crew, &[], &logs).await;
        let address = fleet.members[0].lock().await.address.clone().expect("it is fixed");
        let answers = async |command| redis::ask(&address, command).await.expect("an answer");
        assert_eq!(answers("SET a 1").await, "+OK\r\n");
        let refused = async {
            longhand_e2e::eventually("a refused write", async || {
                answers("SET a 1").await.starts_with("-READONLY").then_some(())
            })
            .await;
            assert_eq!(answers("GET a").await, "$1\r\n1\r\n", "it still reads");
        };
        tokio::select! {
            () = fleet.take_down_first(Kind::Redis, How::Demote, Duration::from_hours(1)) => unreachable!("an hour"),
            () = refused => {}
        }
        fleet.take_down_first(Kind::Redis, How::Demote, Duration::ZERO).await;
        assert_eq!(answers("SET a 3").await, "+OK\r\n");
        assert_eq!((fleet.books().demoted, fleet.books().killed), (2, 0));
        drop(fleet);
        std::fs::remove_dir_all(logs).expect("the logs were there");
    }
}
