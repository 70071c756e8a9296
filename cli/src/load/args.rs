//! The command line of `longhand load`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::Url;

use crate::args::{duration, first_of_list, url};

pub(crate) const HELP: &str = "\
Run it with the environment of the services (. .local/env), against a stack whose model is simulated (ASR=sim):
the audio is empty WAV, which a real model may well refuse. What it submits stays: the jobs, of users load-0,
load-1, .., and their audio, under load/RUN/ in the bucket.

Turnaround is the service's own completedTime less submittedTime; the jobs are looked at one after the other,
after the last was submitted, so that looking costs next to nothing. CPU and AWS calls are the differences
between two readings of /metrics, before the first submit and after the last end: what idles counts too.

Exit codes:
    0  every job completed, and every transcript is right
    1  a job failed or was lost, or a transcript is wrong
    2  bad usage, or the service refused a job (4xx)
    4  the service or S3 cannot be reached, or did not take a job
    5  gave up waiting (--timeout) for some job
   74  the report could not be written";

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// How many jobs.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) jobs: u32,

    /// How many chunks each job has.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=24))]
    pub(crate) chunks: u8,

    /// Jobs submitted per second, whatever the answers take; 0: all at once.
    #[arg(long, value_name = "RATE", default_value_t = 5.0, value_parser = rate)]
    pub(crate) rate: f64,

    /// Where chance starts: the same seed gives the same users and sizes again.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,

    /// The usual size of a chunk's audio, in bytes; chance makes it half as large to one and a half times.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(32..=3_495_253)
    )]
    pub(crate) audio_bytes: u32,

    /// How many users the jobs are of, by chance.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) user_count: u32,

    /// Writes the report to this file too, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// How long to wait for the jobs' ends after the last was submitted: 90s, 10m, 2h.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// The bucket that the audio is put into; of a list, the first.
    #[arg(
        long,
        value_name = "BUCKET",
        env = "LONGHAND_AUDIO_BUCKETS",
        hide_env_values = true,
        value_parser = first_of_list
    )]
    pub(crate) bucket: Option<String>,

    /// The simulated model, whose books tell what is its own time.
    #[arg(long, value_name = "URL", env = "ASR_BASE_URL", hide_env_values = true, value_parser = address)]
    pub(crate) sim_url: Option<Url>,

    /// The apis' own addresses, commas between, where --url is a balancer's: their /metrics tell calls, memory and CPU.
    #[arg(
        long,
        value_name = "URL",
        env = "LONGHAND_LISTEN",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = address
    )]
    pub(crate) api_url: Vec<Url>,

    /// The workers' health addresses, commas between: their /metrics tell calls, memory and CPU.
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

/// A URL, or the address that a service was told to listen at.
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
