//! Divides recordings into the chunks of jobs.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use longhand_shared::UserId;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::media::Format;

use crate::audio::{Audio, Content, LocalFile, Place};
use crate::client::Api;
use crate::error::{Exit, Failure, Fault};
use crate::recording::{Piece, Recording, clock, seconds};
use crate::{output, progress, upload};

/// Concurrent encoders.
const ENCODERS: usize = 2;

/// The chunks of one job.
#[derive(Debug)]
pub(crate) struct Part {
    /// Where the first chunk begins, in seconds from the beginning of all recordings.
    pub(crate) start: f64,
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    /// For messages.
    name: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Remote(String),
    File(LocalFile),
    Piece(Arc<Recording>, Piece),
}

/// All chunks in jobs of equal numbers of chunks. If one file is long, all local files are decoded, so that their lengths
/// are known exactly.
pub(crate) async fn of(audio: Vec<Audio>) -> Result<Vec<Part>, Failure> {
    let is_long = |audio: &Audio| matches!(audio.place, Place::Long(..));
    let decode = audio.iter().any(is_long);
    let (mut chunks, mut unmeasured, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for Audio { name, place } in audio {
        let (path, stated) = match place {
            Place::Long(path, stated) => (path, stated),
            Place::Local(LocalFile { content: Content::File(path), .. }) if decode => (path, None),
            Place::Local(file) => {
                unmeasured.push(name.clone());
                chunks.push(Chunk { name, source: Source::File(file) });
                continue;
            }
            Place::Remote(address) => {
                unmeasured.push(name.clone());
                chunks.push(Chunk { name, source: Source::Remote(address) });
                continue;
            }
        };
        match Recording::decode(&path, &name, stated).await {
            Ok(recording) => chunks.extend(pieces(&name, recording, stated)),
            Err(detail) => faults.push(Fault::of_file(&name, detail)),
        }
    }
    if chunks.len() > MAX_CHUNKS {
        let detail = format!(
            "has no known length. All files together make more than {MAX_CHUNKS} chunks, so they need several jobs, and \
             dividing them needs every length. Transcribe this recording in another command, or pass a local file"
        );
        faults.extend(unmeasured.iter().map(|name| Fault::of_file(name, detail.as_str())));
    }
    if !faults.is_empty() {
        let message = "nothing was submitted. Problems with these files:";
        return Err(Failure::new(Exit::Refused, "BAD_FILES", message).with_faults(faults));
    }
    Ok(divided(chunks))
}

/// The pieces of a recording as chunks. A short recording has one.
fn pieces(name: &str, recording: Recording, stated: Option<f64>) -> Vec<Chunk> {
    let recording = Arc::new(recording);
    let length = recording.seconds();
    let count = recording.pieces.len();
    if count > 1 {
        output::note(format_args!("longhand: {name} ({}) is cut into {count} chunks", clock(length)));
    }
    // Stated lengths may be rounded, or estimated from the size.
    if let Some(stated) = stated.filter(|stated| length < stated * 0.9) {
        let (length, stated) = (clock(length), clock(stated));
        output::note(format_args!("longhand: {name} states {stated}, but only {length} could be decoded"));
    }
    let chunk = |piece: &Piece| Chunk {
        name: match count {
            1 => name.to_owned(),
            _ => format!("{name} {}-{}", clock(piece.start()), clock(piece.end())),
        },
        source: Source::Piece(Arc::clone(&recording), piece.clone()),
    };
    recording.pieces.iter().map(chunk).collect()
}

fn divided(chunks: Vec<Chunk>) -> Vec<Part> {
    let jobs = chunks.len().div_ceil(MAX_CHUNKS).max(1);
    let (least, larger) = (chunks.len() / jobs, chunks.len() % jobs);
    let (mut chunks, mut start) = (chunks.into_iter(), 0);
    let part = |job| {
        let chunks: Vec<_> = chunks.by_ref().take(least + usize::from(job < larger)).collect();
        let part = Part { start: seconds(start), chunks };
        start += part.samples();
        part
    };
    (0..jobs).map(part).collect()
}

impl Part {
    /// The names of the chunks, for messages.
    pub(crate) fn names(&self) -> Vec<String> {
        self.chunks.iter().map(|chunk| chunk.name.clone()).collect()
    }

    /// The known length in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        seconds(self.samples())
    }

    fn samples(&self) -> u64 {
        let samples = |chunk: &Chunk| match &chunk.source {
            Source::Piece(_, piece) => piece.samples(),
            Source::Remote(_) | Source::File(_) => 0,
        };
        self.chunks.iter().map(samples).sum()
    }

    /// Encodes and uploads what is local, and returns the paths of all chunks. Only these files are in memory.
    pub(crate) async fn upload(
        self,
        api: &Api,
        user: Option<&UserId>,
        bucket: Option<&str>,
    ) -> Result<Vec<String>, Failure> {
        let is_piece = |chunk: &&Chunk| matches!(chunk.source, Source::Piece(..));
        let pieces = self.chunks.iter().filter(is_piece).count();
        let bar = (pieces > 0).then(|| progress::steps("encoding chunks", pieces));
        let ready = stream::iter(self.chunks).map(Chunk::ready).buffered(ENCODERS);
        let ready = ready.inspect(|_| {
            if let Some(bar) = &bar {
                bar.inc(1);
            }
        });
        let ready: Vec<Ready> = ready.try_collect().await?;
        drop(bar);
        let (mut paths, mut files) = (Vec::new(), Vec::new());
        for (index, ready) in ready.into_iter().enumerate() {
            match ready {
                Ready::Remote(address) => paths.push(Some(address)),
                Ready::File(file) => {
                    paths.push(None);
                    files.push((index, file));
                }
            }
        }
        let mut uploaded = upload::upload(&files, api, user, bucket).await?.into_iter();
        let path = |path: Option<String>| path.or_else(|| uploaded.next()).expect("each file was uploaded");
        Ok(paths.into_iter().map(path).collect())
    }
}

enum Ready {
    Remote(String),
    File(LocalFile),
}

impl Chunk {
    async fn ready(self) -> Result<Ready, Failure> {
        let (recording, piece) = match self.source {
            Source::Remote(address) => return Ok(Ready::Remote(address)),
            Source::File(file) => return Ok(Ready::File(file)),
            Source::Piece(recording, piece) => (recording, piece),
        };
        let encoded = recording.encode(&piece).await.map_err(|detail| {
            let fault = Fault::of_file(&self.name, detail);
            Failure::new(Exit::Refused, "BAD_FILES", "nothing was submitted:").with_faults(vec![fault])
        })?;
        let bytes = encoded.len() as u64;
        let content = Content::Memory(encoded);
        Ok(Ready::File(LocalFile { shown: self.name, content, format: Format::Ogg, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(count: usize) -> Vec<Chunk> {
        let chunk = |n: usize| Chunk { name: n.to_string(), source: Source::Remote(format!("s3://b/{n}")) };
        (0..count).map(chunk).collect()
    }

    #[test]
    fn jobs_have_equal_numbers_of_chunks() {
        for (count, expected) in
            [(1, &[1][..]), (24, &[24]), (25, &[13, 12]), (49, &[17, 16, 16]), (72, &[24; 3])]
        {
            let parts = divided(remote(count));
            let sizes: Vec<_> = parts.iter().map(|part| part.chunks.len()).collect();
            assert_eq!(sizes, expected);
            let names: Vec<_> = parts.iter().flat_map(Part::names).collect();
            assert!(names.iter().enumerate().all(|(place, name)| *name == place.to_string()), "{names:?}");
        }
    }
}
