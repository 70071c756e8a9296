//! The audio of one chunk in hand.

use std::time::Duration;

use longhand_shared::AudioPath;
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::{Audio, AudioError, AudioStore};

/// The timeout of opening the audio, which includes the download of remote audio.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

type Opening = AbortOnDropHandle<Result<Audio, AudioError>>;

/// The audio of one chunk. It is opened again for each call of the model.
#[derive(Debug)]
pub struct ChunkAudio<'a> {
    store: &'a AudioStore,
    path: &'a AudioPath,
    early: Mutex<Option<Opening>>,
}

impl<'a> ChunkAudio<'a> {
    pub fn new(store: &'a AudioStore, path: &'a AudioPath) -> Self {
        Self { store, path, early: Mutex::default() }
    }

    /// Starts to open the audio for the first call.
    pub fn begin(&self) {
        let (store, path) = (self.store.clone(), self.path.clone());
        let opening = async move { open_in_time(&store, &path).await }.in_current_span();
        *self.early.lock() = Some(AbortOnDropHandle::new(tokio::spawn(opening)));
    }

    pub(crate) async fn open(&self) -> Result<Audio, AudioError> {
        let early = self.early.lock().take();
        // If that panicked, the audio is opened here, where a panic is reported.
        if let Some(opening) = early
            && let Ok(opened) = opening.await
        {
            return opened;
        }
        // Boxed, since this future is large and short: a chunk's own future would keep its size during the model's call.
        Box::pin(open_in_time(self.store, self.path)).await
    }
}

async fn open_in_time(store: &AudioStore, path: &AudioPath) -> Result<Audio, AudioError> {
    timeout(OPEN_TIMEOUT, store.open(path)).await.unwrap_or_else(|_| {
        let seconds = OPEN_TIMEOUT.as_secs();
        Err(AudioError::Unavailable(format!("{} could not be read within {seconds} s", path.shown())))
    })
}
