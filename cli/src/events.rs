//! A job's stream of server-sent events (WHATWG HTML, section 9.2), as far as the service uses it.

use std::time::Duration;

use longhand_shared::job::{ChunkStatus, JobStatus};
use longhand_shared::transcript::TranscriptResult;
use serde::Deserialize;
use tokio::time::timeout;

/// The most that an event may have before its end: the result of 24 long texts, with room.
const MAX_BYTES: usize = 64 << 20;

/// A stream that is open.
pub(crate) struct Events {
    answer: reqwest::Response,
    parser: Parser,
}

/// What a stream brings.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A chunk has changed.
    Chunk { index: usize, status: ChunkStatus },
    /// The job has ended, and this is its result: as it came, and as it is understood here.
    Ended(String, Box<TranscriptResult>),
    /// The stream lives, and says nothing that matters here.
    Life,
    /// Nothing came in time.
    Silence,
    /// It was cut, or has ended.
    Cut,
    /// What came makes no sense.
    Nonsense,
}

impl Events {
    pub(crate) fn new(answer: reqwest::Response) -> Self {
        Self { answer, parser: Parser::default() }
    }

    /// What comes next, within `patience`.
    pub(crate) async fn next(&mut self, patience: Duration) -> Heard {
        if let Some(heard) = self.parser.heard() {
            return heard;
        }
        match timeout(patience, self.answer.chunk()).await {
            Ok(Ok(Some(bytes))) => self.parser.buffer.extend_from_slice(&bytes),
            Ok(Ok(None) | Err(_)) => return Heard::Cut,
            Err(_) => return Heard::Silence,
        }
        self.parser.heard().unwrap_or(Heard::Life)
    }

    /// What tells a server how far was read: the id of the last event.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.parser.last_id.as_deref()
    }

    /// When to come again after a cut, if the server said so.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.parser.retry
    }
}

/// Bytes to events. Lines end with a line feed, as the service's do, with or without a carriage return.
#[derive(Default)]
struct Parser {
    buffer: Vec<u8>,
    /// How much of the buffer was read.
    read: usize,
    /// How much of it was searched for the end of a line: a result may be one long line in many pieces.
    searched: usize,
    event: Event,
    last_id: Option<String>,
    retry: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    data: Option<String>,
    id: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct TooLong;

impl Parser {
    /// What the next event says, if one is there.
    fn heard(&mut self) -> Option<Heard> {
        match self.next() {
            Ok(event) => event.map(Event::meaning),
            Err(TooLong) => Some(Heard::Nonsense),
        }
    }

    /// The next event that is whole.
    fn next(&mut self) -> Result<Option<Event>, TooLong> {
        while let Some(more) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + more;
            let line = String::from_utf8_lossy(&self.buffer[self.read..end]).into_owned();
            (self.read, self.searched) = (end + 1, end + 1);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if !line.is_empty() {
                self.field(line);
                continue;
            }
            let event = std::mem::take(&mut self.event);
            if event.id.is_some() {
                self.last_id.clone_from(&event.id);
            }
            if event.data.is_some() {
                return Ok(Some(event));
            }
        }
        self.buffer.drain(..self.read);
        (self.read, self.searched) = (0, self.buffer.len());
        let data = self.event.data.as_ref().map_or(0, String::len);
        if self.buffer.len() + data > MAX_BYTES { Err(TooLong) } else { Ok(None) }
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.event.name),
            "data" => match &mut self.event.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.event.data = Some(value.to_owned()),
            },
            // It goes back in a header.
            "id" if value.bytes().all(|byte| byte.is_ascii_graphic()) => {
                self.event.id = Some(value.to_owned());
            }
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis),
            // A comment, or something newer.
            _ => {}
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChunkEvent {
    index: usize,
    chunk_status: ChunkStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobEvent {
    job_status: JobStatus,
}

impl Event {
    fn meaning(self) -> Heard {
        let data = self.data.unwrap_or_default();
        let read = match self.name.as_str() {
            "chunk" => serde_json::from_str(&data)
                .map(|ChunkEvent { index, chunk_status: status }| Heard::Chunk { index, status }),
            "job" => serde_json::from_str(&data).and_then(|JobEvent { job_status }| match job_status {
                JobStatus::InProgress => Ok(Heard::Life),
                _ => serde_json::from_str(&data).map(|result| Heard::Ended(data.clone(), Box::new(result))),
            }),
            // Something newer.
            _ => Ok(Heard::Life),
        };
        read.unwrap_or(Heard::Nonsense)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pieces: &[&[u8]]) -> (Vec<Event>, Parser) {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.buffer.extend_from_slice(piece);
            while let Some(event) = parser.next().expect("short") {
                events.push(event);
            }
        }
        (events, parser)
    }

    fn event(name: &str, data: &str, id: Option<&str>) -> Event {
        Event { name: name.to_owned(), data: Some(data.to_owned()), id: id.map(str::to_owned) }
    }

    const STREAM: &str = "retry: 2000\n\nid: I;.\nevent: job\ndata: {\"a\":\"é\"}\n\n: alive\n\n\
                          id:I;C1\r\nevent: chunk\r\ndata: one\r\ndata:two\r\n\r\nid: unread\nevent: chunk\ndata: x\n";

    #[test]
    fn events_are_read_wherever_the_bytes_are_parted() {
        let expected = [event("job", "{\"a\":\"é\"}", Some("I;.")), event("chunk", "one\ntwo", Some("I;C1"))];
        for size in 1..STREAM.len() {
            let (events, parser) = parsed(&STREAM.as_bytes().chunks(size).collect::<Vec<_>>());
            assert_eq!(events, expected, "{size}");
            assert_eq!(parser.retry, Some(Duration::from_secs(2)));
            // An event that was cut was not read.
            assert_eq!(parser.last_id.as_deref(), Some("I;C1"), "{size}");
        }
    }

    #[test]
    fn what_is_no_field_is_passed_over() {
        let (events, parser) =
            parsed(&[b"data\n\nid: a\x01b\nnewer: 7\nretry: soon\n\xff\n:\n\nevent: x\n\n"]);
        assert_eq!(events, [event("", "", None)]);
        assert_eq!((parser.last_id, parser.retry), (None, None));
    }

    #[test]
    fn an_event_without_end_is_given_up() {
        let mut parser = Parser { buffer: vec![b'x'; MAX_BYTES + 1], ..Parser::default() };
        assert_eq!(parser.next(), Err(TooLong));
    }

    #[test]
    fn what_an_event_means() {
        let meaning = |name, data| event(name, data, None).meaning();
        let chunk = meaning("chunk", r#"{"index":3,"chunkStatus":"COMPLETED","attempts":1,"newer":1}"#);
        assert!(matches!(chunk, Heard::Chunk { index: 3, status: ChunkStatus::Completed }));
        let job = meaning("job", r#"{"jobStatus":"IN_PROGRESS","chunkCount":2}"#);
        assert!(matches!(job, Heard::Life));
        assert!(matches!(meaning("newer", "?"), Heard::Life));
        for (name, data) in [
            ("chunk", "{}"),
            ("chunk", r#"{"index":-1,"chunkStatus":"COMPLETED"}"#),
            ("chunk", r#"{"index":0,"chunkStatus":"DONE"}"#),
            ("job", "<html>"),
            // The end without the result.
            ("job", r#"{"jobStatus":"COMPLETED","chunkCount":2}"#),
        ] {
            assert!(matches!(meaning(name, data), Heard::Nonsense), "{name} {data}");
        }
    }
}
