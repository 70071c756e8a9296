//! The real processes, and who kills them.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longhand_e2e::processes::{Process, binary, free_port};
use longhand_e2e::redis;
use rand::RngExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{balancer, draw};

/// One in so many is asked to stop with SIGTERM; the others are killed.
const SIGTERM_EACH: u64 = 4;

/// The longest pause between a process's end and its restart, in milliseconds.
const RESTART_MS: u64 = 2_000;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `longhand-api`.
    Api,
    /// `longhand-worker`.
    Worker,
    /// nginx before the apis.
    Nginx,
    /// What apis and workers share.
    Redis,
}

impl Kind {
    /// As its members are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Nginx => "nginx",
            Self::Redis => "redis",
        }
    }
}

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `kill -9`.
    Kill,
    /// SIGTERM: the process ends by itself. nginx reloads its configuration instead and keeps running.
    Gently,
    /// Redis becomes a replica for a while, which reads and does not write, as in a failover; then it is the primary
    /// again.
    Demote,
}

/// How a process that was asked to stop ended, or one that nobody asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// `worker-2`.
    pub name: String,
    /// Whether SIGTERM had been sent.
    pub asked: bool,
    /// `exit status: 0`, and how it is put otherwise.
    pub how: String,
    /// Whether that is success.
    pub success: bool,
}

/// What was done to the processes.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// `kill -9`.
    pub kills: u64,
    /// SIGTERM, those at the very end left out.
    pub stops: u64,
    /// Reloads of nginx.
    pub reloads: u64,
    /// How often Redis became a replica.
    pub demotions: u64,
    /// Starts after the first one.
    pub restarts: u64,
    /// All that was done, by the kind of the process.
    pub struck: BTreeMap<&'static str, u64>,
    /// How they ended, those that were killed left out.
    pub exits: Vec<Exit>,
}

/// A place in the fleet: the process in it comes and goes.
#[derive(Debug)]
struct Member {
    kind: Kind,
    name: String,
    variables: Vec<(&'static str, String)>,
    log: PathBuf,
    /// Where its program is; among the programs of this build otherwise.
    programs: Option<PathBuf>,
    /// Where it always listens, if others have to find it there.
    address: Option<String>,
    process: Option<Process>,
}

/// How many of each.
#[derive(Clone, Debug)]
pub struct Crew {
    /// `longhand-api`.
    pub apis: usize,
    /// `longhand-worker`.
    pub workers: usize,
    /// Whether clients go to an nginx before the apis.
    pub balanced: bool,
    /// Whether apis and workers share a Redis.
    pub redis: bool,
    /// Programs of an earlier version: each second api and each second worker is one of those.
    pub old: Option<PathBuf>,
}

/// The name in `AWS_SDK_UA_APP_ID` of the programs of this kind, of the earlier version or of this one.
pub fn app(kind: Kind, old: bool) -> String {
    format!("{}-{}", if old { "old" } else { "new" }, kind.name())
}

/// All processes.
#[derive(Debug)]
pub struct Fleet {
    members: Vec<Arc<AsyncMutex<Member>>>,
    /// Where each of the apis that run listens.
    apis: Mutex<Vec<(String, String)>>,
    /// Where nginx listens, and before which apis.
    balanced: Option<(String, Vec<String>)>,
    books: Mutex<Books>,
    http: reqwest::Client,
}

impl Fleet {
    /// So many of each, started. `variables` are those of api and worker; logs go to `logs`.
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
        let fixed = || format!("127.0.0.1:{}", free_port());
        let lasting = || crew.balanced.then(fixed);
        if crew.redis {
            let address = fixed();
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

    /// What was done so far.
    pub fn books(&self) -> Books {
        lock(&self.books).clone()
    }

    /// Where apis listen, in some order; behind nginx, where that does.
    pub fn apis(&self) -> Vec<String> {
        if let Some((nginx, _)) = &self.balanced {
            return vec![format!("http://{nginx}")];
        }
        lock(&self.apis).iter().map(|(_, url)| url.clone()).collect()
    }

    /// Kills or stops one process after the other, `every` so many milliseconds, until `end` is cancelled. Returns
    /// when all run again.
    pub async fn kill(self: Arc<Self>, seed: u64, every: Range<u64>, end: CancellationToken) {
        let mut rng = draw::rng(seed, &["killer"]);
        let tasks = TaskTracker::new();
        for turn in 1.. {
            let pause = Duration::from_millis(rng.random_range(every.clone()));
            let first = rng.random_range(0..self.members.len());
            let down = Duration::from_millis(rng.random_range(0..=RESTART_MS));
            tokio::select! {
                () = end.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            // One that is down or stopping is passed over for its neighbour.
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
            tasks.spawn(async move { fleet.strike(member, how, down).await });
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Strikes the first one of a kind; returns when it runs again, `down` after its end.
    pub async fn take_down_first(&self, kind: Kind, how: How, down: Duration) {
        for member in &self.members {
            let member = Arc::clone(member).lock_owned().await;
            if member.kind == kind {
                return self.strike(member, how, down).await;
            }
        }
        panic!("there is no {}", kind.name());
    }

    async fn strike(&self, mut member: OwnedMutexGuard<Member>, how: How, down: Duration) {
        let reload = member.kind == Kind::Nginx && how == How::Gently;
        {
            let mut books = lock(&self.books);
            *books.struck.entry(member.kind.name()).or_default() += 1;
            let count = match how {
                How::Kill => &mut books.kills,
                How::Gently if reload => &mut books.reloads,
                How::Gently => &mut books.stops,
                How::Demote => &mut books.demotions,
            };
            *count += 1;
        }
        if reload {
            member.process.as_ref().expect("it runs: its place is locked").signal("-HUP").await;
            return;
        }
        if how == How::Demote {
            let address = member.address.as_deref().expect("others look for it there");
            return demote(address, down).await;
        }
        self.end(&mut member, how).await;
        tokio::time::sleep(down).await;
        lock(&self.books).restarts += 1;
        self.run(&mut member).await;
    }

    /// Asks all to stop, at once.
    pub async fn stop(&self) {
        let ends = self
            .members
            .iter()
            .map(|member| async move { self.end(&mut *member.lock().await, How::Gently).await });
        futures::future::join_all(ends).await;
    }

    /// Ends a member's process and notes how that went.
    async fn end(&self, member: &mut Member, how: How) {
        let Some(mut process) = member.process.take() else { return };
        let name = member.name.clone();
        lock(&self.apis).retain(|(api, _)| *api != name);
        let exit = |asked, how: String, success| Exit { name, asked, how, success };
        if let Some(status) = process.has_ended() {
            lock(&self.books).exits.push(exit(false, status.to_string(), false));
        } else if how == How::Gently {
            process.signal("-TERM").await;
            // It panics when that takes too long.
            let exit = match tokio::spawn(process.ended()).await {
                Ok(status) => exit(true, status.to_string(), status.success()),
                Err(_) => exit(true, "did not end within a minute".to_owned(), false),
            };
            lock(&self.books).exits.push(exit);
        } else {
            process.kill().await;
        }
    }

    /// Starts a member's process; returns when it answers. On another port each time, unless others look for it on
    /// that one: the old one may have become somebody else's.
    async fn run(&self, member: &mut Member) {
        loop {
            let any = || format!("127.0.0.1:{}", free_port());
            let address = member.address.clone().unwrap_or_else(any);
            let mut process = self.begin(member, &address);
            if self.answers(&mut process, member.kind, &address).await {
                if member.kind == Kind::Api {
                    lock(&self.apis).push((member.name.clone(), format!("http://{address}")));
                }
                member.process = Some(process);
                return;
            }
        }
    }

    fn begin(&self, member: &Member, address: &str) -> Process {
        let log = OpenOptions::new().create(true).append(true).open(&member.log).expect("a log file");
        let (name, variable) = match (member.kind, &self.balanced) {
            (Kind::Api, _) => ("longhand-api", "LONGHAND_LISTEN"),
            (Kind::Worker, _) => ("longhand-worker", "LONGHAND_HEALTH_LISTEN"),
            (kind, balanced) => {
                let folder = member.log.with_extension("");
                let apis = balanced.as_ref().map_or(&[][..], |(_, apis)| apis);
                let mut command = match kind {
                    Kind::Redis => balancer::redis(&folder, address),
                    _ => balancer::nginx(&folder, address, apis),
                };
                return Process::start_group(&member.name, &mut command, log);
            }
        };
        let mut variables = member.variables.clone();
        variables.push((variable, address.to_owned()));
        let program = member.programs.as_ref().map_or_else(|| binary(name), |folder| folder.join(name));
        Process::start_logging(&program, &variables, log)
    }

    /// Waits until the process answers; false when it ended first, as one does whose port was taken.
    async fn answers(&self, process: &mut Process, kind: Kind, address: &str) -> bool {
        let url = format!("http://{address}/healthz");
        loop {
            if process.has_ended().is_some() {
                return false;
            }
            let answers = match kind {
                // Nobody says that an api runs just then.
                Kind::Nginx | Kind::Redis => TcpStream::connect(address).await.is_ok(),
                _ => self.http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()),
            };
            if answers {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Makes a Redis the replica of a primary that is not there, for a while.
async fn demote(address: &str, down: Duration) {
    let take = async |command: &str| {
        let answer = async || redis::ask(address, command).await.filter(|answer| answer.starts_with("+OK"));
        longhand_e2e::eventually(command, answer).await;
    };
    take("REPLICAOF 127.0.0.1 1").await;
    tokio::time::sleep(down).await;
    take("REPLICAOF NO ONE").await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
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
        assert_eq!((fleet.books().demotions, fleet.books().kills), (2, 0));
        drop(fleet);
        std::fs::remove_dir_all(logs).expect("the logs were there");
    }
}
