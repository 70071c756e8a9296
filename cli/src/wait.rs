//! Waits for a job.

use std::time::Duration;

use longhand_shared::JobId;
use longhand_shared::domain::transcript::TranscriptResult;

use crate::chunk::own_names;
use crate::client::Answer;
use crate::context::Context;
use crate::error::Failure;
use crate::follow::{Follow, Update};
use crate::output;
use crate::progress::Progress;

/// Shows the job's progress until it ends. `names` are the files as the user gave them; without them the job's own
/// names are shown.
pub(crate) async fn wait(
    context: &Context,
    job: JobId,
    timeout: Duration,
    names: Option<&[String]>,
) -> Result<Answer<TranscriptResult>, Failure> {
    let mut follow = Follow::new(context, job, timeout);
    let mut progress = names.map(|names| Progress::new(names.to_vec()));
    loop {
        match follow.next().await? {
            Update::InProgress(result) => {
                progress.get_or_insert_with(|| Progress::new(own_names(&result))).show(&result);
            }
            Update::Ended(answer) => {
                let result = &answer.value;
                progress.get_or_insert_with(|| Progress::new(own_names(result))).show(result);
                return Ok(*answer);
            }
            Update::Retrying(line) => {
                progress.as_ref().map_or_else(|| output::note(&line), |progress| progress.note(&line));
            }
        }
    }
}
