//! The command line of `longhand load`.

use longhand_shared::domain::id::MAX_CHUNKS;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::Url;

use crate::options::{duration, first_of_list, url};

pub(crate) const HELP: &str = "\
Set the environment of the services (. .local/env) and use a simulated model (ASR=sim): the audio is empty WAV,
which a real model may reject. The users of the jobs are load-0, load-1 and so on. If the service authenticates callers,
the token must be an operator's. The jobs, and their audio under load/RUN/ in the bucket, are not removed.

Turnaround is the time from the planned submit until the client has the result. The command waits for every job
(Prefer: wait). Without Redis the servers poll the table for waiting clients, which adds up to a second. CPU and AWS
calls are differences between /metrics before the first submit and after the last job, so they include idle work.

Exit codes:
    0  every job completed and every transcript is correct
    1  a job failed or was lost, or a transcript is wrong
    2  wrong usage, the file of --report cannot be created, or the service rejected a job (4xx)
    4  the service or S3 cannot be reached, or did not accept a job
    5  some jobs had not ended when the time limit (--timeout) was reached
   74  the report could not be written";

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Number of jobs.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) jobs: u32,

    /// Number of chunks in each job.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=MAX_CHUNKS as i64))]
    pub(crate) chunks: u8,

    /// Jobs submitted per second, regardless of how long the answers take. 0 submits all at once.
    #[arg(long, value_name = "RATE", default_value_t = 5.0, value_parser = rate)]
    pub(crate) rate: f64,

    /// Seed of the random numbers: the same seed gives the same users and sizes.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Average size of a chunk's audio in bytes. Sizes are random, from half to one and a half of it.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(32..=3_495_253)
    )]
    pub(crate) audio_bytes: u32,

    /// Number of users. Each job has a random one.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) user_count: u32,

    /// Also print each step of the job with the largest overhead, with its time. Not with --json.
    #[arg(long)]
    pub(crate) trace: bool,

    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Longest time to wait for the jobs after the last submit: 90s, 10m, 2h.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// Bucket for the audio. Of a list, the first is used.
    #[arg(
        long,
        value_name = "BUCKET",
        env = "LONGHAND_AUDIO_BUCKETS",
        hide_env_values = true,
        value_parser = first_of_list
    )]
    pub(crate) bucket: Option<String>,

    /// URL of the simulated model, which reports the time of each of its calls.
    #[arg(long, value_name = "URL", env = "ASR_BASE_URL", hide_env_values = true, value_parser = address)]
    pub(crate) sim_url: Option<Url>,

    /// Addresses of the api servers, separated by commas, for their /metrics. Needed if --url is a load balancer.
    #[arg(
        long,
        value_name = "URL",
        env = "LONGHAND_LISTEN",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = address
    )]
    pub(crate) api_url: Vec<Url>,

    /// Health addresses of the workers, separated by commas, for their /metrics.
    #[arg(
        long,
        value_name = "URL",
        env = "LONGHAND_HEALTH_LISTEN",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = address
    )]
    pub(crate) worker_url: Vec<Url>,
}

/// A URL, or an address and port as in `LONGHAND_LISTEN`.
fn address(text: &str) -> Result<Url, String> {
    if text.contains("://") { url(text) } else { url(&format!("http://{text}")) }
}

fn rate(text: &str) -> Result<f64, &'static str> {
    match text.parse() {
        Ok(rate) if (0.0..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number of jobs per second, 0 to 100000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_rates_are_read() {
        assert_eq!(address("127.0.0.1:8081").map(String::from), Ok("http://127.0.0.1:8081/".to_owned()));
        assert_eq!(address("https://w.example/x").map(String::from), Ok("https://w.example/x".to_owned()));
        assert!(address("ftp://w").is_err());
        assert_eq!((rate("0"), rate("2.5")), (Ok(0.0), Ok(2.5)));
        for bad in ["-1", "NaN", "inf", "", "5/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
