//! The recordings that a user names, checked before anything is sent.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use bytes::Bytes;
use longhand_shared::AudioPath;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::media::{self, Format, MAX_AUDIO_BYTES};

use crate::error::{Exit, Failure, Fault, chain};
use crate::recording;

/// Stdin on the command line.
const STDIN: &str = "-";

/// A recording that the user named.
#[derive(Debug)]
pub(crate) struct Audio {
    /// As the user gave it, for messages.
    pub(crate) name: String,
    pub(crate) place: Place,
}

#[derive(Debug)]
pub(crate) enum Place {
    /// An address that is submitted as it is.
    Remote(String),
    Local(LocalFile),
    /// A local file that is too long for one chunk, with the seconds that it states.
    Long(PathBuf, Option<f64>),
}

/// A file that is uploaded as it is.
#[derive(Debug)]
pub(crate) struct LocalFile {
    /// The name for messages.
    pub(crate) shown: String,
    pub(crate) content: Content,
    pub(crate) format: Format,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) enum Content {
    File(PathBuf),
    Memory(Bytes),
}

/// Whether an argument is a local file and not an address.
pub(crate) fn is_local(name: &str) -> bool {
    !["s3://", "https://", "http://"].iter().any(|scheme| name.starts_with(scheme))
}

/// Checks every argument and reports all faults at once.
pub(crate) async fn check(files: &[OsString]) -> Result<Vec<Audio>, Failure> {
    let (mut audio, mut faults) = (Vec::new(), Vec::new());
    if files.len() > MAX_CHUNKS {
        let detail = format!("there are {} files, but one command takes 1 to {MAX_CHUNKS}", files.len());
        faults.push(Fault { detail, ..Fault::default() });
    }
    let mut reads_stdin = false;
    for file in files {
        let mut name = file.to_string_lossy().into_owned();
        let place = if name == STDIN {
            let again = std::mem::replace(&mut reads_stdin, true);
            if again { Err("is given more than once".to_owned()) } else { stdin().map(Place::Local) }
        } else if is_local(&name) {
            check_file(file).await
        } else {
            let path = name.parse::<AudioPath>();
            path.map(|_| Place::Remote(name.clone())).map_err(|error| error.to_string())
        };
        match place {
            Ok(place) => {
                if name == STDIN {
                    "stdin".clone_into(&mut name);
                }
                audio.push(Audio { name, place });
            }
            Err(detail) => faults.push(Fault::of_file(&name, detail)),
        }
    }
    if !faults.is_empty() {
        let message = "nothing was submitted. Problems with these files:";
        return Err(Failure::new(Exit::Refused, "BAD_FILES", message).with_faults(faults));
    }
    Ok(audio)
}

impl LocalFile {
    pub(crate) async fn read(&self) -> Result<Bytes, Failure> {
        match &self.content {
            Content::File(path) => {
                Ok(tokio::fs::read(path).await.map_err(|error| self.unreadable(&error))?.into())
            }
            Content::Memory(bytes) => Ok(bytes.clone()),
        }
    }

    fn unreadable(&self, error: &dyn std::error::Error) -> Failure {
        let fault = Fault::of_file(&self.shown, chain(error));
        Failure::new(Exit::Refused, "BAD_FILES", "a file could not be read").with_faults(vec![fault])
    }
}

async fn check_file(file: &OsStr) -> Result<Place, String> {
    let path = PathBuf::from(file);
    // Before `open`, which would block on a pipe until it has a writer.
    let metadata = fs::metadata(&path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    let bytes = metadata.len();
    if bytes == 0 {
        return Err("is empty".to_owned());
    }
    let opened = File::open(&path).and_then(|mut file| media::read_head(&mut file));
    let head = opened.map_err(|error| error.to_string())?;
    let format = media::detect(&head).map_err(|error| error.to_string())?;
    let stated = recording::stated_seconds(&path).await;
    if bytes > MAX_AUDIO_BYTES {
        let limit =
            |why| format!("has {bytes} bytes, more than the 5 MB ({MAX_AUDIO_BYTES}) of a chunk: {why}");
        return Ok(Place::Long(path, stated.map_err(limit)?));
    }
    // Without `ffprobe`, and for formats that it does not know, the service decides.
    if let Ok(Some(seconds)) = stated
        && seconds > recording::MAX_SECONDS
    {
        return Ok(Place::Long(path, Some(seconds)));
    }
    let shown = path.to_string_lossy().into_owned();
    Ok(Place::Local(LocalFile { shown, content: Content::File(path), format, bytes }))
}

/// Reads all of stdin.
fn stdin() -> Result<LocalFile, String> {
    let mut content = Vec::new();
    let read = io::stdin().lock().take(MAX_AUDIO_BYTES + 1).read_to_end(&mut content);
    let bytes = read.map_err(|error| error.to_string())? as u64;
    match bytes {
        0 => return Err("is empty".to_owned()),
        1..=MAX_AUDIO_BYTES => {}
        _ => {
            return Err(
                "has more than 5 MB, the limit for stdin. Save the recording as a file, and pass the file's name instead of -"
                    .to_owned(),
            );
        }
    }
    let head = media::read_head(&mut content.as_slice()).unwrap_or_default();
    let format = media::detect(&head).map_err(|error| error.to_string())?;
    Ok(LocalFile { shown: "stdin".to_owned(), content: Content::Memory(content.into()), format, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_submitted_unchanged() {
        let files = ["s3://some/a b.wav".into(), "https://good.example/a.wav?sig=x%20y".into()];
        let audio = check(&files).await.expect("good paths");
        assert!(audio.iter().all(|audio| matches!(audio.place, Place::Remote(_))), "{audio:?}");
        let names: Vec<_> = audio.iter().map(|audio| audio.name.as_str()).collect();
        assert_eq!(names, ["s3://some/a b.wav", "https://good.example/a.wav?sig=x%20y"]);
        assert!(check(&["https://user:word@good.example/a.wav".into()]).await.is_err());
    }
}
