//! The test jobs: generated from a seed and uploaded before the measurement.

use longhand_shared::UserId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::args::Load;
use crate::error::Failure;
use crate::upload::{self, not_put, s3};

/// Concurrent uploads.
const AT_ONCE: usize = 16;

#[derive(Debug)]
pub(super) struct Plan {
    /// Distinguishes this run's files from all others.
    pub(super) run: String,
    pub(super) jobs: Vec<Job>,
    bucket: String,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) user: UserId,
    pub(super) files: Vec<File>,
}

#[derive(Debug)]
pub(super) struct File {
    /// Unique across runs. The simulated model records its calls by name and puts the name into the transcript.
    pub(super) name: String,
    bytes: usize,
}

impl Plan {
    /// Random users and sizes, the same for the same seed.
    pub(super) fn new(args: &Load, bucket: String) -> Self {
        let run = Uuid::now_v7().simple().to_string().split_off(20);
        let mut chance = StdRng::seed_from_u64(args.seed);
        let usual = args.audio_bytes as usize;
        let jobs = (0..args.jobs).map(|job| {
            let user = format!("load-{}", chance.random_range(0..args.user_count));
            let file = |chunk| File {
                name: format!("{run}-{job:05}-{chunk:02}.wav"),
                bytes: chance.random_range(usual / 2..=usual * 3 / 2),
            };
            Job {
                files: (0..args.chunks).map(file).collect(),
                user: user.parse().expect("letters, a hyphen and digits are a user's id"),
            }
        });
        Self { jobs: jobs.collect(), run, bucket }
    }

    pub(super) fn path(&self, file: &File) -> String {
        format!("s3://{}/{}", self.bucket, self.key(file))
    }

    pub(super) fn place(&self) -> String {
        format!("s3://{}/load/{}/", self.bucket, self.run)
    }

    fn key(&self, file: &File) -> String {
        format!("load/{}/{}", self.run, file.name)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        self.jobs.iter().flat_map(|job| &job.files)
    }

    pub(super) async fn upload(&self) -> Result<(), Failure> {
        let s3 = s3().await;
        upload::all(self.files().map(|file| self.put(&s3, file)).collect(), AT_ONCE).await
    }

    async fn put(&self, s3: &aws_sdk_s3::Client, file: &File) -> Result<(), Failure> {
        let put = s3.put_object().bucket(&self.bucket).key(self.key(file)).content_type("audio/wav");
        let put = put.body(wav(file.bytes).into()).send().await;
        put.map(drop).map_err(|error| not_put(&file.name, &self.bucket, &error))
    }
}

/// A WAV header and zeros, which is enough for the workers and the simulated model.
fn wav(bytes: usize) -> Vec<u8> {
    let mut wav = b"RIFF\0\0\0\0WAVEfmt ".to_vec();
    wav.resize(bytes.max(wav.len()), 0);
    wav
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn plan(line: &str) -> Plan {
        let cli = Cli::try_parse_from(line.split(' ')).expect("a good line");
        let Command::Load(args) = cli.command else { panic!("another command") };
        Plan::new(&args, "audio".to_owned())
    }

    /// The values that depend on the seed.
    fn chosen(plan: &Plan) -> (Vec<UserId>, Vec<usize>) {
        let users = plan.jobs.iter().map(|job| job.user.clone()).collect();
        (users, plan.files().map(|file| file.bytes).collect())
    }

    #[test]
    fn a_seed_gives_the_same_jobs_under_new_names() {
        let line = "longhand load --jobs 20 --chunks 3 --user-count 4 --audio-bytes 1000 --seed";
        let (one, again, other) =
            (plan(&format!("{line} 7")), plan(&format!("{line} 7")), plan(&format!("{line} 8")));
        assert_eq!(chosen(&one), chosen(&again));
        assert_ne!(chosen(&one), chosen(&other));
        let names: BTreeSet<_> = one.files().chain(again.files()).map(|file| &file.name).collect();
        assert_eq!(names.len(), 2 * 20 * 3);
        let (users, sizes) = chosen(&one);
        assert_eq!(users.iter().collect::<BTreeSet<_>>().len(), 4);
        assert!(sizes.iter().all(|bytes| (500..=1500).contains(bytes)), "{sizes:?}");
    }

    #[test]
    fn the_largest_audio_is_accepted_by_workers() {
        let plan = plan("longhand load --audio-bytes 3495253 --jobs 200");
        assert!(plan.files().all(|file| file.bytes <= 5 * 1024 * 1024));
    }
}
