//! Progress on stderr: one line per chunk on a terminal, else one line per change.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressFinish, ProgressStyle};
use longhand_shared::domain::job::ChunkStatus;
use longhand_shared::domain::transcript::TranscriptResult;
use tokio::time::Instant;

use crate::chunk::{is_settled, line, running_failure, settled};
use crate::output;

/// A progress bar. Hidden if stderr is not a terminal; removed when dropped.
pub(crate) fn steps(doing: &str, count: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64).with_finish(ProgressFinish::AndClear);
    bar.set_style(style("{spinner} {msg}: {pos} of {len}, {elapsed_precise}"));
    bar.set_message(doing.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// The progress of a job's chunks.
pub(crate) struct Progress {
    names: Vec<String>,
    shown: Vec<(ChunkStatus, Option<String>)>,
    began: Instant,
    all: MultiProgress,
    lines: Vec<ProgressBar>,
    total: ProgressBar,
}

impl Progress {
    /// All chunks are shown as pending at first.
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
        let shown = vec![(ChunkStatus::Pending, None); names.len()];
        let progress = Self { names, shown, began: Instant::now(), all, lines, total };
        for index in 0..progress.names.len() {
            progress.draw(index, ChunkStatus::Pending, None);
        }
        progress
    }

    pub(crate) fn show(&mut self, result: &TranscriptResult) {
        for chunk in &result.chunks {
            let index = usize::from(chunk.index.get());
            let now = (chunk.chunk_status, running_failure(chunk));
            let Some(shown) = self.shown.get_mut(index).filter(|shown| **shown != now) else {
                continue;
            };
            shown.clone_from(&now);
            if self.all.is_hidden() {
                output::note(line(chunk, &self.names[index], result.chunks.len()));
            } else {
                self.draw(index, chunk.chunk_status, now.1.as_deref());
            }
        }
        self.total.set_position(settled(&result.chunks) as u64);
    }

    /// Writes a message between the lines.
    pub(crate) fn note(&self, line: &str) {
        self.all.suspend(|| output::note(line));
    }

    fn draw(&self, index: usize, status: ChunkStatus, failure: Option<&str>) {
        let (line, name) = (&self.lines[index], &self.names[index]);
        let failure = failure.map(|failure| format!(": {failure}")).unwrap_or_default();
        let (place, all) = (index + 1, self.names.len());
        let text = format!("chunk {place:>2} of {all:<2} {:<11}  {name}{failure}", status.as_str());
        if is_settled(status) {
            let seconds = self.began.elapsed().as_secs_f64();
            line.abandon_with_message(format!("{text}  {seconds:.1} s"));
        } else {
            line.set_message(text);
            // Without a tick a line is drawn only after its first change.
            line.tick();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants and parse")
}
