//! Reads a job's stream of server-sent events (WHATWG HTML, section 9.2), as far as the service uses them.

use std::time::Duration;

use longhand_shared::domain::attempt::AttemptRecord;
use longhand_shared::domain::job::{ChunkStatus, JobStatus};
use longhand_shared::domain::transcript::TranscriptResult;
use serde::Deserialize;
use tokio::time::timeout;

/// The largest event in bytes: more than the result of the longest job.
const MAX_BYTES: usize = 64 << 20;

pub(crate) struct Events {
    answer: reqwest::Response,
    parser: Parser,
}

#[derive(Debug)]
pub(crate) enum StreamEvent {
    Chunk(ChunkEvent),
    /// The job has ended: its result as text and parsed.
    Ended(String, Box<TranscriptResult>),
    /// The stream is alive, but this event changes nothing.
    Alive,
    TimedOut,
    /// The stream was interrupted or has ended.
    Disconnected,
    Invalid,
}

impl Events {
    pub(crate) fn new(answer: reqwest::Response) -> Self {
        Self { answer, parser: Parser::default() }
    }

    /// The next event, or [`StreamEvent::TimedOut`] after `limit`.
    pub(crate) async fn next(&mut self, limit: Duration) -> StreamEvent {
        if let Some(event) = self.parser.next_event() {
            return event;
        }
        match timeout(limit, self.answer.chunk()).await {
            Ok(Ok(Some(bytes))) => self.parser.buffer.extend_from_slice(&bytes),
            Ok(Ok(None) | Err(_)) => return StreamEvent::Disconnected,
            Err(_) => return StreamEvent::TimedOut,
        }
        self.parser.next_event().unwrap_or(StreamEvent::Alive)
    }

    /// The id of the last event that was read, for `Last-Event-ID`.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.parser.last_id.as_deref()
    }

    /// The pause before a reconnect, if the server sent one.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.parser.retry
    }
}

/// Parses bytes into events. Lines end with `\n` or `\r\n`.
#[derive(Default)]
struct Parser {
    buffer: Vec<u8>,
    /// Bytes of the buffer that were parsed.
    read: usize,
    /// Bytes that were searched for the end of a line: a result may be one long line in many pieces.
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
    fn next_event(&mut self) -> Option<StreamEvent> {
        match self.next() {
            Ok(event) => event.map(Event::decode),
            Err(TooLong) => Some(StreamEvent::Invalid),
        }
    }

    /// The next complete event.
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
            // The id is sent back in a header.
            "id" if value.bytes().all(|byte| byte.is_ascii_graphic()) => {
                self.event.id = Some(value.to_owned());
            }
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis),
            // A comment, or a field of a newer version.
            _ => {}
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChunkEvent {
    pub(crate) index: usize,
    pub(crate) chunk_status: ChunkStatus,
    /// The running attempt, after failed calls of the model.
    #[serde(default)]
    pub(crate) running: Option<AttemptRecord>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobEvent {
    job_status: JobStatus,
}

impl Event {
    fn decode(self) -> StreamEvent {
        let data = self.data.unwrap_or_default();
        let read = match self.name.as_str() {
            "chunk" => serde_json::from_str(&data).map(StreamEvent::Chunk),
            "job" => serde_json::from_str(&data).and_then(|JobEvent { job_status }| match job_status {
                JobStatus::InProgress => Ok(StreamEvent::Alive),
                _ => serde_json::from_str(&data)
                    .map(|result| StreamEvent::Ended(data.clone(), Box::new(result))),
            }),
            // An event of a newer version.
            _ => Ok(StreamEvent::Alive),
        };
        read.unwrap_or(StreamEvent::Invalid)
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
    fn events_are_read_however_the_bytes_are_split() {
        let expected = [event("job", "{\"a\":\"é\"}", Some("I;.")), event("chunk", "one\ntwo", Some("I;C1"))];
        for size in 1..STREAM.len() {
            let (events, parser) = parsed(&STREAM.as_bytes().chunks(size).collect::<Vec<_>>());
            assert_eq!(events, expected, "{size}");
            assert_eq!(parser.retry, Some(Duration::from_secs(2)));
            // An incomplete event does not count as read.
            assert_eq!(parser.last_id.as_deref(), Some("I;C1"), "{size}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let (events, parser) =
            parsed(&[b"data\n\nid: a\x01b\nnewer: 7\nretry: soon\n\xff\n:\n\nevent: x\n\n"]);
        assert_eq!(events, [event("", "", None)]);
        assert_eq!((parser.last_id, parser.retry), (None, None));
    }

    #[test]
    fn an_event_that_is_too_long_is_an_error() {
        let mut parser = Parser { buffer: vec![b'x'; MAX_BYTES + 1], ..Parser::default() };
        assert_eq!(parser.next(), Err(TooLong));
    }

    #[test]
    fn events_are_decoded() {
        let decode = |name, data| event(name, data, None).decode();
        let chunk = decode("chunk", r#"{"index":3,"chunkStatus":"COMPLETED","attempts":1,"newer":1}"#);
        assert!(matches!(
            chunk,
            StreamEvent::Chunk(ChunkEvent { index: 3, chunk_status: ChunkStatus::Completed, running: None })
        ));
        let job = decode("job", r#"{"jobStatus":"IN_PROGRESS","chunkCount":2}"#);
        assert!(matches!(job, StreamEvent::Alive));
        assert!(matches!(decode("newer", "?"), StreamEvent::Alive));
        for (name, data) in [
            ("chunk", "{}"),
            ("chunk", r#"{"index":-1,"chunkStatus":"COMPLETED"}"#),
            ("chunk", r#"{"index":0,"chunkStatus":"DONE"}"#),
            ("job", "<html>"),
            // An ended job without its result.
            ("job", r#"{"jobStatus":"COMPLETED","chunkCount":2}"#),
        ] {
            assert!(matches!(decode(name, data), StreamEvent::Invalid), "{name} {data}");
        }
    }
}
