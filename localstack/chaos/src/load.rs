//! The client: submits jobs through whichever api answers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use longhand_e2e::service::wav;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Clients;
use crate::world::World;
use crate::{draw, model};

/// Bytes of each chunk's audio.
const AUDIO_BYTES: usize = 1_000;

/// How many users share the jobs.
const USERS: usize = 7;

/// What the client knows.
#[derive(Debug, Default)]
pub struct Submitted {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    accepted: Vec<String>,
    tries: u64,
    doomed: BTreeMap<String, &'static str>,
}

impl Submitted {
    /// The ids of jobs whose `202` was read.
    pub fn accepted(&self) -> Vec<String> {
        self.lock(|state| state.accepted.clone())
    }

    pub(crate) fn note_accepted(&self, id: String) {
        self.lock(|state| state.accepted.push(id));
    }

    pub(crate) fn note_doomed(&self, file: String, code: &'static str) {
        self.lock(|state| state.doomed.insert(file, code));
    }

    pub(crate) fn note_try(&self) {
        self.lock(|state| state.tries += 1);
    }

    /// How often a job was submitted; more than there are jobs, where the answer was lost.
    pub fn tries(&self) -> u64 {
        self.lock(|state| state.tries)
    }

    /// Files that the model never has a transcript for, and the code that their chunks must fail with.
    pub fn doomed(&self) -> BTreeMap<String, &'static str> {
        self.lock(|state| state.doomed.clone())
    }

    fn lock<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is submitted.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Draws when, and which files are doomed.
    pub seed: u64,
    /// Jobs.
    pub jobs: usize,
    /// Chunks of each.
    pub chunks: u64,
    /// Over how long.
    pub over: Duration,
    /// Whether some files are [doomed](model::doom).
    pub with_doomed: bool,
    /// When to give up on jobs that nobody takes.
    pub until: Instant,
}

/// Submits all jobs behind nginx and follows them; returns when all have ended, or at the load's end.
pub async fn submit_and_follow(world: &World, load: Load, submitted: &Submitted, clients: &Clients) {
    let began = Instant::now();
    let one = async |number: usize| {
        let mut rng = draw::rng(load.seed, &["job", &number.to_string()]);
        sleep_until(began + load.over.mul_f64(rng.random())).await;
        clients.one(world, load, submitted, number).await;
    };
    join_all((0..load.jobs).map(one)).await;
}

/// Submits all jobs; returns when each was accepted, or at the load's end.
pub async fn submit(world: &World, load: Load, submitted: &Submitted) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
    let began = Instant::now();
    let one = |number: usize| {
        let http = http.clone();
        async move {
            let mut rng = draw::rng(load.seed, &["job", &number.to_string()]);
            sleep_until(began + load.over.mul_f64(rng.random())).await;
            let mut turn: usize = rng.random_range(0..24);
            while Instant::now() < load.until {
                if let Some(id) = try_once(world, load, submitted, &http, number, turn).await {
                    submitted.note_accepted(id);
                    return;
                }
                turn += 1;
                sleep(Duration::from_millis(200)).await;
            }
        }
    };
    join_all((0..load.jobs).map(one)).await;
}

/// One try: its own files, so that a job that was made though its answer was lost shares none with the next.
async fn try_once(
    world: &World,
    load: Load,
    submitted: &Submitted,
    http: &reqwest::Client,
    number: usize,
    turn: usize,
) -> Option<String> {
    let apis = world.fleet.apis();
    let url = apis.get(turn % apis.len().max(1))?;
    let (_, body) = prepare(world, load, submitted, number, turn).await;
    submitted.note_try();
    let answer = http.post(format!("{url}/transcribe")).json(&body).send().await.ok()?;
    if answer.status().as_u16() != 202 {
        return None;
    }
    let answer: Value = answer.json().await.ok()?;
    answer["jobId"].as_str().map(str::to_owned)
}

/// Puts the audio of a job where it belongs: the names of the files, and what is submitted.
pub(crate) async fn prepare(
    world: &World,
    load: Load,
    submitted: &Submitted,
    number: usize,
    turn: usize,
) -> (Vec<String>, Value) {
    let (mut files, mut paths) = (Vec::new(), Vec::new());
    for chunk in 0..load.chunks {
        let file = format!("s{}-j{number}-t{turn}-c{chunk}.wav", load.seed);
        if load.with_doomed
            && let Some((answers, code)) = model::doom(load.seed, &file)
        {
            world.model.script(&file, answers);
            submitted.note_doomed(file.clone(), code);
        }
        paths.push(world.aws.put(&file, wav(AUDIO_BYTES)).await);
        files.push(file);
    }
    let body = json!({
        "userId": format!("user-{}", number % USERS),
        "audioChunkPaths": paths,
        "metadata": {"number": number.to_string()},
    });
    (files, body)
}
