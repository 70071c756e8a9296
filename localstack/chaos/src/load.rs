//! Submits jobs to any api that answers.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use longhand_e2e::service::wav;
use parking_lot::Mutex;
use rand::RngExt;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::world::World;
use crate::{draw, model};

/// Bytes of each chunk's audio.
const AUDIO_BYTES: usize = 1_000;

/// The number of users.
const USERS: usize = 7;

/// What was submitted.
#[derive(Debug, Default)]
pub struct Submitted {
    /// The ids of jobs whose `202` arrived.
    pub accepted: Mutex<Vec<String>>,
    /// The number of attempts to submit: more than jobs if answers were lost.
    pub tries: Mutex<u64>,
    /// Files whose chunks must fail, with their error code.
    pub doomed: Mutex<BTreeMap<String, &'static str>>,
}

/// The jobs to submit.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Decides when each job is submitted, and which files are doomed.
    pub seed: u64,
    pub jobs: usize,
    /// The chunks of each job.
    pub chunks: u64,
    /// The time over which the jobs are submitted.
    pub over: Duration,
    /// Whether some files are [doomed](model::doom).
    pub with_doomed: bool,
    /// When to stop submitting jobs that no api accepts.
    pub until: Instant,
}

/// Submits all jobs. Returns when each was accepted, or at the deadline.
pub async fn submit(world: &World, load: Load, submitted: &Submitted) {
    let http = Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
    let began = Instant::now();
    let one = async |number: usize| {
        let mut rng = draw::rng(load.seed, &["job", &number.to_string()]);
        sleep_until(began + load.over.mul_f64(rng.random())).await;
        let mut turn: usize = rng.random_range(0..24);
        while Instant::now() < load.until {
            let apis = world.fleet.apis();
            if let Some(api) = apis.get(turn % apis.len().max(1)) {
                // Each attempt has files of its own, so that jobs whose answers were lost share none with the next.
                let (_, body) = prepare(world, load, submitted, number, turn).await;
                if post(&http, api, submitted, &body).await.is_some() {
                    return;
                }
            }
            turn += 1;
            sleep(Duration::from_millis(200)).await;
        }
    };
    join_all((0..load.jobs).map(one)).await;
}

/// Submits a job. Returns its id if it was accepted.
pub(crate) async fn post(http: &Client, api: &str, submitted: &Submitted, body: &Value) -> Option<String> {
    *submitted.tries.lock() += 1;
    let answer = http.post(format!("{api}/transcribe")).json(body).send().await.ok()?;
    if answer.status().as_u16() != 202 {
        return None;
    }
    let answer: Value = answer.json().await.ok()?;
    let id = answer["jobId"].as_str()?.to_owned();
    submitted.accepted.lock().push(id.clone());
    Some(id)
}

/// Uploads the audio of a job. Returns the names of the files and the body to submit.
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
            submitted.doomed.lock().insert(file.clone(), code);
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
