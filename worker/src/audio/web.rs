//! Audio from a web address. Its host is not ours: it may be slow, lie about the size, send for ever, or break off.
//! So it is read whole before the model is called, into a file without a name on disk, which keeps its faults from being
//! taken for the model's, its size from being believed, and the memory small.

use std::io;

use futures::StreamExt;
use longhand_shared::job::ErrorCode;
use longhand_shared::media::MAX_AUDIO_BYTES;
use longhand_shared::outbound::{Outbound, PublicUrl, not_public};
use reqwest::{Method, StatusCode};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::task::spawn_blocking;
use tokio_util::io::ReaderStream;

use crate::asr::causes;

use super::{AudioError, Opened, READ_BYTES};

/// Reads the audio at `url`. The caller limits the time.
pub(super) async fn open(outbound: &Outbound, url: &PublicUrl) -> Result<Opened, AudioError> {
    let request = outbound.request(Method::GET, url);
    let mut response = request.send().await.map_err(|error| no_answer(url, &error))?;
    judge(url, response.status())?;
    if response.content_length().is_some_and(|length| length > MAX_AUDIO_BYTES) {
        return Err(too_large(url));
    }
    let not_kept = |error: io::Error| AudioError::Unavailable(format!("{url} cannot be kept: {error}"));
    let file = spawn_blocking(tempfile::tempfile).await.map_err(io::Error::other).and_then(|file| file);
    let mut file = File::from_std(file.map_err(not_kept)?);
    let mut bytes = 0;
    while let Some(part) = response.chunk().await.map_err(|error| no_answer(url, &error))? {
        bytes += part.len() as u64;
        if bytes > MAX_AUDIO_BYTES {
            return Err(too_large(url));
        }
        file.write_all(&part).await.map_err(not_kept)?;
    }
    file.flush().await.map_err(not_kept)?;
    file.rewind().await.map_err(not_kept)?;
    Ok(Opened { bytes, body: ReaderStream::with_capacity(file, READ_BYTES).boxed() })
}

/// What an answer means before its body is read. What may pass is tried again, as for S3.
fn judge(url: &PublicUrl, status: StatusCode) -> Result<(), AudioError> {
    let forbidden = |why: &str| {
        Err(AudioError::bad(ErrorCode::AudioForbidden, format!("{url} answered {}: {why}", status.as_u16())))
    };
    match status {
        _ if status.is_success() => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Err(AudioError::bad(ErrorCode::AudioNotFound, format!("there is no {url}")))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => forbidden("it may not be read"),
        _ if status.is_redirection() => forbidden("redirects are not followed, give the address it leads to"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(AudioError::Unavailable(format!("{url} answered {}", status.as_u16())))
        }
        _ if status.is_client_error() => forbidden("it does not give the audio"),
        _ => Err(AudioError::Unavailable(format!("{url} answered {}", status.as_u16()))),
    }
}

fn too_large(url: &PublicUrl) -> AudioError {
    AudioError::bad(ErrorCode::AudioTooLarge, format!("{url} has more than {MAX_AUDIO_BYTES} bytes"))
}

/// A name that means no public address is not asked again; all else may pass.
fn no_answer(url: &PublicUrl, error: &reqwest::Error) -> AudioError {
    if let Some(refusal) = not_public(error) {
        return AudioError::bad(ErrorCode::AudioForbidden, format!("{url} may not be read: {refusal}"));
    }
    AudioError::Unavailable(format!("{url} cannot be read just now: {}", causes(error)))
}
