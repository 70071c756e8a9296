//! Remote audio on disk. Its host may be slow, lie about the size, send for ever, or break off: none of that may look
//! like a fault of the model, be believed, or cost memory for each chunk in hand.

use std::fmt::Display;
use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use longhand_shared::domain::job::ErrorCode;
use longhand_shared::domain::media::MAX_AUDIO_BYTES;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::task::spawn_blocking;

use super::opened::{AudioError, Opened};

/// Writes the whole body into a file without a name. The caller limits the time. `name` is for messages, `stated` the
/// size that the host stated, if any.
pub(super) async fn spool<E: Display>(
    name: &str,
    stated: Option<u64>,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin + Send,
) -> Result<Opened, AudioError> {
    let too_large =
        || AudioError::bad(ErrorCode::AudioTooLarge, format!("{name} has more than {MAX_AUDIO_BYTES} bytes"));
    let not_kept =
        |error: io::Error| AudioError::Unavailable(format!("{name} cannot be written to disk: {error}"));
    if stated.is_some_and(|stated| stated > MAX_AUDIO_BYTES) {
        return Err(too_large());
    }
    let file = spawn_blocking(tempfile::tempfile).await.map_err(io::Error::other).and_then(|file| file);
    let mut file = File::from_std(file.map_err(not_kept)?);
    let mut bytes = 0;
    while let Some(part) = body.next().await {
        let part =
            part.map_err(|error| AudioError::Unavailable(format!("the download of {name} failed: {error}")))?;
        bytes += part.len() as u64;
        if bytes > MAX_AUDIO_BYTES {
            return Err(too_large());
        }
        file.write_all(&part).await.map_err(not_kept)?;
    }
    if stated.is_some_and(|stated| stated != bytes) {
        return Err(AudioError::Unavailable(format!("the download of {name} ended after {bytes} bytes")));
    }
    file.flush().await.map_err(not_kept)?;
    file.rewind().await.map_err(not_kept)?;
    Ok(Opened { bytes, file })
}
