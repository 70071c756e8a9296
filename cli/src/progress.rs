//! What is shown on stderr while the work goes on: one line per chunk on a terminal, one line per
//! change elsewhere.

use std::time::Duration;

use tokio::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressFinish, ProgressStyle};
use longhand_shared::job::ChunkStatus;
use longhand_shared::transcript::{ChunkResult, TranscriptResult};

use crate::output;

/// How far a row of steps is; hidden when stderr is no terminal, and gone when dropped.
pub(crate) fn steps(doing: &str, count: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64).with_finish(ProgressFinish::AndClear);
    bar.set_style(style("{spinner} {msg}: {pos} of {len}, {elapsed_precise}"));
    bar.set_message(doing.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// How far the chunks of a job are.
pub(crate) struct Progress {
    names: Vec<String>,
    shown: Vec<ChunkStatus>,
    began: Instant,
    all: MultiProgress,
    lines: Vec<ProgressBar>,
    total: ProgressBar,
}

impl Progress {
    /// Nothing is known yet of the chunks but their `names`.
    pub(crate) fn new(names: Vec<String>) -> Self {
        let all = MultiProgress::new();
        let add = |bar: ProgressBar, template| {
            let bar = all.add(bar.with_finish(ProgressFinish::Abandon));
            bar.set_style(style(template));
            bar
        };
        let lines: Vec<_> = names.iter().map(|_| add(ProgressBar::new_spinner(), "  {wide_msg}")).collect();
        let total = add(
            ProgressBar::new(names.len() as u64),
            "{spinner} {pos} of {len} chunks done, {elapsed_precise}",
        );
        total.enable_steady_tick(Duration::from_millis(100));
        let shown = vec![ChunkStatus::Pending; names.len()];
        let progress = Self { names, shown, began: Instant::now(), all, lines, total };
        for index in 0..progress.names.len() {
            progress.draw(index, ChunkStatus::Pending);
        }
        progress
    }

    /// Shows what has changed.
    pub(crate) fn show(&mut self, result: &TranscriptResult) {
        for chunk in &result.chunks {
            let index = usize::from(chunk.index.get());
            let Some(shown) = self.shown.get_mut(index).filter(|shown| **shown != chunk.chunk_status) else {
                continue;
            };
            *shown = chunk.chunk_status;
            if self.all.is_hidden() {
                let (status, name) = (chunk.chunk_status.as_str(), &self.names[index]);
                output::note(format_args!("chunk {index} {status}  {name}"));
            } else {
                self.draw(index, chunk.chunk_status);
            }
        }
        self.total.set_position(settled(&result.chunks) as u64);
    }

    /// Says something beside the lines.
    pub(crate) fn note(&self, line: &str) {
        self.all.suspend(|| output::note(line));
    }

    fn draw(&self, index: usize, status: ChunkStatus) {
        let (line, name) = (&self.lines[index], &self.names[index]);
        let text = format!("chunk {index:>2} {:<11}  {name}", status.as_str());
        if matches!(status, ChunkStatus::Completed | ChunkStatus::Failed) {
            let seconds = self.began.elapsed().as_secs_f64();
            line.abandon_with_message(format!("{text}  {seconds:.1} s"));
        } else {
            line.set_message(text);
            // Without a tick a line is not drawn before its first change.
            line.tick();
        }
    }
}

/// How many chunks are over.
pub(crate) fn settled(chunks: &[ChunkResult]) -> usize {
    let over =
        |chunk: &&ChunkResult| matches!(chunk.chunk_status, ChunkStatus::Completed | ChunkStatus::Failed);
    chunks.iter().filter(over).count()
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants and parse")
}
