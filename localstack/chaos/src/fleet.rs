//! The real processes, and who kills them.

use std::fs::OpenOptions;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longhand_e2e::processes::{Process, free_port};
use rand::RngExt;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::draw;

/// One in so many is asked to stop with SIGTERM; the others are killed.
const SIGTERM_EACH: u64 = 4;

/// The longest pause between a process's end and its restart, in milliseconds.
const RESTART_MS: u64 = 2_000;

/// Which binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `longhand-api`.
    Api,
    /// `longhand-worker`.
    Worker,
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
    /// Starts after the first one.
    pub restarts: u64,
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
    process: Option<Process>,
}

/// All processes.
#[derive(Debug)]
pub struct Fleet {
    members: Vec<Arc<AsyncMutex<Member>>>,
    /// Where each of the apis that run listens.
    apis: Mutex<Vec<(String, String)>>,
    books: Mutex<Books>,
    http: reqwest::Client,
}

impl Fleet {
    /// So many of each, started. `variables` are those of both kinds; logs go to `logs`.
    pub async fn start(
        apis: usize,
        workers: usize,
        variables: &[(&'static str, String)],
        logs: &std::path::Path,
    ) -> Arc<Self> {
        let kinds = [(Kind::Api, "api", apis), (Kind::Worker, "worker", workers)];
        let members = kinds.into_iter().flat_map(|(kind, name, count)| {
            (1..=count).map(move |number| (kind, format!("{name}-{number}")))
        });
        let members = members.map(|(kind, name)| {
            let log = logs.join(format!("{name}.log"));
            Arc::new(AsyncMutex::new(Member {
                kind,
                name,
                variables: variables.to_vec(),
                log,
                process: None,
            }))
        });
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().expect("a client");
        let fleet = Arc::new(Self {
            members: members.collect(),
            apis: Mutex::default(),
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

    /// Where apis listen, in some order.
    pub fn apis(&self) -> Vec<String> {
        lock(&self.apis).iter().map(|(_, url)| url.clone()).collect()
    }

    /// Kills or stops one process after the other, `every` so many milliseconds, until told to end; returns when
    /// all run again.
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
            tasks.spawn(Arc::clone(&self).strike(member, turn % SIGTERM_EACH == 0, down));
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn strike(self: Arc<Self>, mut member: OwnedMutexGuard<Member>, gently: bool, down: Duration) {
        {
            let mut books = lock(&self.books);
            *(if gently { &mut books.stops } else { &mut books.kills }) += 1;
        }
        self.end(&mut member, gently).await;
        tokio::time::sleep(down).await;
        lock(&self.books).restarts += 1;
        self.run(&mut member).await;
    }

    /// Asks all to stop, at once.
    pub async fn stop(&self) {
        let ends =
            self.members.iter().map(|member| async move { self.end(&mut *member.lock().await, true).await });
        futures::future::join_all(ends).await;
    }

    /// Ends a member's process and notes how that went.
    async fn end(&self, member: &mut Member, gently: bool) {
        let Some(mut process) = member.process.take() else { return };
        let name = member.name.clone();
        lock(&self.apis).retain(|(api, _)| *api != name);
        let exit = |asked, how: String, success| Exit { name, asked, how, success };
        if let Some(status) = process.has_ended() {
            lock(&self.books).exits.push(exit(false, status.to_string(), false));
        } else if gently {
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

    /// Starts a member's process; returns when it answers. On another port each time: the old one may have
    /// become somebody else's.
    async fn run(&self, member: &mut Member) {
        loop {
            let address = format!("127.0.0.1:{}", free_port());
            let (binary, variable) = match member.kind {
                Kind::Api => ("longhand-api", "LONGHAND_LISTEN"),
                Kind::Worker => ("longhand-worker", "LONGHAND_HEALTH_LISTEN"),
            };
            let mut variables = member.variables.clone();
            variables.push((variable, address.clone()));
            let log = OpenOptions::new().create(true).append(true).open(&member.log).expect("a log file");
            let mut process = Process::start_logging(binary, &variables, log);
            if self.answers(&mut process, &format!("http://{address}/healthz")).await {
                if member.kind == Kind::Api {
                    lock(&self.apis).push((member.name.clone(), format!("http://{address}")));
                }
                member.process = Some(process);
                return;
            }
        }
    }

    /// Waits until the process answers; false when it ended first, as one does whose port was taken.
    async fn answers(&self, process: &mut Process, url: &str) -> bool {
        loop {
            if process.has_ended().is_some() {
                return false;
            }
            if self.http.get(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
