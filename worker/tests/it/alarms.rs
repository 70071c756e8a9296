//! Log lines that alarms count by: the metric filters of infra/alarms.yaml find what the worker writes.

use std::fs::File;
use std::io::{Seek, read_to_string};
use std::sync::Arc;

use longhand_shared::domain::job::{ErrorCode, JobStatus};
use longhand_shared::lifecycle::MAX_REQUEUES;
use longhand_sim_asr::Behaviour;
use serde_json::{Value, json};
use tracing::subscriber::DefaultGuard;

use crate::s3_audio::{Then, refusal, s3};
use crate::support::{World, limits, secs};

/// Collects this thread's log.
struct Log {
    file: Arc<File>,
    _guard: (tracing::Dispatch, DefaultGuard),
}

impl Log {
    fn start() -> Self {
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        // With one alone, events that another test's thread is first to come by would be off for all threads.
        let second = tracing::Dispatch::new(tracing_subscriber::registry());
        let lines =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(Arc::clone(&file)).finish();
        Self { file, _guard: (second, tracing::subscriber::set_default(lines)) }
    }

    /// How many lines the metric filter of this name counts, each of which must have a 1.
    fn counted_by(&self, filter: &str) -> usize {
        let template = include_str!("../../../infra/alarms.yaml");
        let (_, filter) = template.split_once(&format!("  {filter}:\n")).expect("a metric filter");
        let (_, pattern) = filter.split_once("FilterPattern: '{ ").expect("a pattern");
        let (pattern, _) = pattern.split_once(" = * }'").expect("a pattern");
        let message = pattern.strip_prefix("$.message = \"").and_then(|rest| rest.split_once('"'));
        let (_, field) = pattern.rsplit_once("$.").expect("a field");
        (&*self.file).rewind().expect("a file");
        let text = read_to_string(&*self.file).expect("a file");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let matching = |line: &Value| message.is_none_or(|(message, _)| line["message"] == message);
        lines.filter(|line| matching(line) && line[field] == json!(1)).count()
    }
}

#[tokio::test(start_paused = true)]
async fn audio_that_our_own_policy_forbids_is_counted() {
    let log = Log::start();
    let world = World::new(Behaviour::default()).await;
    let mut processor = world.processor();
    processor.audio = s3(refusal("403 Forbidden", "AccessDenied"), Then::Close).await;
    // A path that is not allowed is the user's fault, and not counted.
    let job = world.send(&world.job(&["s3://audio/a.wav", "s3://other/a.wav"], false)).await;
    let running = world.work_with(processor, limits(8));
    let result = world.ended(job).await;
    running.stop().await;
    let codes = result.chunks.iter().map(|chunk| chunk.error.as_ref().map(|error| error.code));
    assert!(codes.eq([Some(ErrorCode::AudioForbidden); 2]));
    assert_eq!(log.counted_by("ForbiddenAudio"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_a_dead_letter_fails_is_counted() {
    let log = Log::start();
    let world = World::new(Behaviour::default()).await;
    let job = world.submit(&["a.wav", "b.wav"]).await;
    // One goes back, as most dead letters do.
    let [first, second] = world.queue.drain().await.try_into().expect("two messages");
    let mut last = first.requeued(secs(0));
    last.envelope.requeues = MAX_REQUEUES;
    world.dead.put(&[last, second.requeued(secs(0))]).await;
    let (consumer, working) = (world.consume_dead_letters(), world.work());
    assert_eq!(world.ended(job).await.job_status, JobStatus::Failed);
    consumer.stop().await;
    working.stop().await;
    assert_eq!(log.counted_by("DeadLettered"), 1);
}
