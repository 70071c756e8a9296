//! A small world: a store, the queues, a simulated model, audio files, and workers over them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longhand_shared::domain::job::{Chunk, Metadata, NewJob, TranscribeOptions};
use longhand_shared::domain::path::AudioSources;
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::net::outbound::Outbound;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::store::{self, JobStore};
use longhand_shared::{ChunkRef, JobId, Timestamp};
use longhand_sim_asr::{Behaviour, SimAsr};
use longhand_worker::asr::guard::Guard;
use longhand_worker::asr::probe::Recording;
use longhand_worker::asr::{Asr, AsrSettings};
use longhand_worker::audio::AudioStore;
use longhand_worker::dead_letters::DeadLetters;
use longhand_worker::process::Processor;
use longhand_worker::runner::{EndedEarly, Limits};
use longhand_worker::siblings::Siblings;
use longhand_worker::sweeper::SweepSettings;
use longhand_worker::{Parts, Worker};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{FOREVER, FaultyQueue, FaultyStore, Running, limits, secs};

/// How long a claim keeps the messages of others off, as in a worker with the usual limits.
pub(crate) const CLAIM_TIMEOUT: Duration = secs(330);

/// A WAV file, as far as anyone here looks, of so many bytes.
pub(crate) fn wav(bytes: usize) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WAVEfmt ".to_vec();
    file.resize(bytes.max(16), 0);
    file
}

/// Reads local files under `root`; its S3 is one that nobody listens at.
pub(crate) fn audio_store(root: &Path) -> AudioStore {
    let s3 =
        aws_sdk_s3::Config::builder().behavior_version(aws_sdk_s3::config::BehaviorVersion::latest()).build();
    let sources = AudioSources { root: Some(root.to_owned()), ..AudioSources::default() };
    AudioStore::new(aws_sdk_s3::Client::from_conf(s3), Outbound::new().expect("a client"), sources)
}

/// The usual settings of the model's client, without a probe: every failure counts.
pub(crate) fn asr_settings(base_url: String) -> AsrSettings {
    AsrSettings {
        base_url,
        api_key: None,
        model: "whisper-1".to_owned(),
        timeout: secs(30),
        max_retries: 3,
        max_concurrency: 100,
        first_pause: Duration::from_millis(500),
        probe: None,
    }
}

/// The world.
pub(crate) struct World {
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) queue: Arc<FaultyQueue>,
    pub(crate) dead: Arc<FaultyQueue>,
    pub(crate) sim: SimAsr,
    pub(crate) root: TempDir,
}

impl World {
    /// A world with this model. A message goes to the dead-letter queue after three receives.
    pub(crate) async fn new(behaviour: Behaviour) -> Self {
        Self::with_order(behaviour, None).await
    }

    /// The same; with a seed, messages are received in any order.
    pub(crate) async fn with_order(behaviour: Behaviour, seed: Option<u64>) -> Self {
        let dead = Arc::new(MemoryQueue::new());
        let queue = MemoryQueue::with_redrive(3, Arc::clone(&dead));
        Self {
            store: FaultyStore::new(),
            queue: FaultyQueue::over(match seed {
                Some(seed) => queue.shuffled(seed),
                None => queue,
            }),
            dead: FaultyQueue::around(dead),
            sim: SimAsr::start(behaviour).await.expect("a free port of the loopback"),
            root: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Puts a file under the audio root.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.root.path().join(name), bytes).expect("the folder can be written");
    }

    /// A job that has not been made yet; each of its files is there if `audio`.
    pub(crate) fn job(&self, files: &[&str], audio: bool) -> NewJob {
        self.job_of("ana", files, audio)
    }

    /// The same for this user.
    pub(crate) fn job_of(&self, user: &str, files: &[&str], audio: bool) -> NewJob {
        if audio {
            for file in files {
                self.file(file, wav(2_000));
            }
        }
        let paths = files.iter().map(|file| file.parse().expect("a path")).collect();
        let user = user.parse().expect("a user");
        NewJob::new(user, paths, TranscribeOptions::default(), Metadata::new(), Timestamp::now())
            .expect("not too many chunks")
    }

    pub(crate) fn lifecycle(&self) -> Lifecycle {
        Lifecycle::new(Arc::clone(&self.store) as _, Arc::clone(&self.queue) as _)
    }

    /// Makes a job and sends its messages. The files are there.
    pub(crate) async fn submit(&self, files: &[&str]) -> JobId {
        self.send(&self.job(files, true)).await
    }

    /// Makes a job and sends its messages.
    pub(crate) async fn send(&self, job: &NewJob) -> JobId {
        self.lifecycle().submit(job, None).await.expect("made");
        job.id
    }

    /// One chunk's life, as a worker has it.
    pub(crate) fn processor(&self) -> Processor {
        self.processor_with(asr_settings(self.sim.base_url()))
    }

    /// The same with other settings of the client.
    pub(crate) fn processor_with(&self, asr: AsrSettings) -> Processor {
        Processor {
            lifecycle: self.lifecycle(),
            audio: audio_store(self.root.path()),
            asr: Arc::new(Asr::new(asr).expect("a client")),
            claim_timeout: CLAIM_TIMEOUT,
            name: "w-1".to_owned(),
            siblings: Siblings::default(),
        }
    }

    /// A worker with eight slots.
    pub(crate) fn work(&self) -> Running {
        self.work_with(self.processor(), limits(8))
    }

    /// A worker that tests the model's health with its probe.
    pub(crate) fn work_probing(&self) -> Running {
        let probe = Some(Recording::built_in());
        let processor = self.processor_with(AsrSettings { probe, ..asr_settings(self.sim.base_url()) });
        let asr = Arc::clone(&processor.asr);
        tokio::spawn(async move { asr.keep_probing().await });
        self.work_with(processor, limits(8))
    }

    /// A worker like this.
    pub(crate) fn work_with(&self, processor: Processor, limits: Limits) -> Running {
        Running::start(&self.queue, Some(&self.dead), Arc::new(processor), limits)
    }

    /// Starts the consumer of dead letters.
    pub(crate) fn consume_dead_letters(&self) -> Running {
        let handler = DeadLetters { lifecycle: self.lifecycle() };
        Running::start(&self.dead, None, Arc::new(handler), limits(4))
    }

    /// The job as a client sees it.
    pub(crate) async fn result(&self, job: JobId) -> TranscriptResult {
        store::read(&*self.store.inner, job).await.expect("memory answers").expect("there is such a job")
    }

    /// One chunk as the table has it.
    pub(crate) async fn chunk(&self, job: JobId, index: usize) -> Chunk {
        self.store.inner.chunks(job).await.expect("memory answers").swap_remove(index)
    }

    /// Waits until the job has ended.
    pub(crate) async fn ended(&self, job: JobId) -> TranscriptResult {
        let began = Instant::now();
        loop {
            let result = self.result(job).await;
            if result.completed_time.is_some() {
                return result;
            }
            assert!(began.elapsed() < FOREVER, "after {FOREVER:?} the job has not ended: {result:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the queue holds nothing.
    pub(crate) async fn emptied(&self) {
        let began = Instant::now();
        while self.queue.len().await > 0 {
            assert!(began.elapsed() < FOREVER, "after {FOREVER:?} the queue is not empty");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One of a job's chunks.
pub(crate) fn chunk_of(job: JobId, index: u64) -> ChunkRef {
    ChunkRef { job, index: index.try_into().expect("0 to 23") }
}

/// A worker as it is in production: chunks, dead letters, sweeper, probe.
pub(crate) struct Whole {
    pub(crate) guard: Arc<Guard>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), EndedEarly>>,
}

impl World {
    /// Starts one with so many slots.
    pub(crate) fn whole(&self, slots: usize, timeout: Duration) -> Whole {
        let asr = AsrSettings {
            max_concurrency: slots,
            timeout,
            probe: Some(Recording::built_in()),
            ..asr_settings(self.sim.base_url())
        };
        let worker = Worker::new(Parts {
            lifecycle: self.lifecycle(),
            dead_letters: Arc::clone(&self.dead) as _,
            webhooks: None,
            audio: audio_store(self.root.path()),
            asr,
            limits: limits(slots),
            sweep: SweepSettings { every: secs(15) },
            name: "w-1".to_owned(),
        });
        let worker = worker.expect("a worker");
        let guard = worker.guard();
        let stop = CancellationToken::new();
        let running = tokio::spawn(worker.run(stop.clone()));
        Whole { guard, stop, running }
    }
}

impl Whole {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("no panic").expect("it ends when it is asked to");
    }
}
