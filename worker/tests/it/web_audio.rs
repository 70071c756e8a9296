//! Audio from web addresses: hosts that refuse, redirect, lie about the size, or never end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use longhand_shared::domain::job::ErrorCode;
use longhand_shared::domain::media::MAX_AUDIO_BYTES;
use longhand_shared::domain::path::AudioSources;
use longhand_shared::net::outbound::Outbound;
use longhand_worker::audio::{AudioError, AudioStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::wav;

/// A host that writes the same bytes to every client and, if `endless`, repeats the last ones for ever.
struct Host {
    port: u16,
    asked: Arc<AtomicUsize>,
    /// Bytes of bodies without end.
    sent: Arc<AtomicUsize>,
}

impl Host {
    async fn start(answer: impl Into<Vec<u8>>, endless: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let sent = Arc::new(AtomicUsize::new(0));
        let (answer, count, counted) = (Arc::new(answer.into()), Arc::clone(&asked), Arc::clone(&sent));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&answer), endless, Arc::clone(&counted)));
            }
        });
        Self { port, asked, sent }
    }

    /// What the worker makes of it: the audio's name and bytes.
    async fn open(&self) -> Result<(String, Vec<u8>), AudioError> {
        let (hosts, path) = (format!("http://127.0.0.1:{}", self.port), "x/a%20b?sig=secret");
        open(&hosts, &format!("{hosts}/{path}")).await
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<Vec<u8>>, endless: bool, sent: Arc<AtomicUsize>) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    if stream.write_all(&answer).await.is_ok() {
        // Until the other side has had enough.
        while endless && stream.write_all(b"10000\r\n").await.is_ok() {
            let mut part = vec![7; 0x10000];
            part.extend(b"\r\n");
            if stream.write_all(&part).await.is_err() {
                return;
            }
            sent.fetch_add(part.len(), Ordering::SeqCst);
        }
    }
}

async fn open(hosts: &str, path: &str) -> Result<(String, Vec<u8>), AudioError> {
    let s3 =
        aws_sdk_s3::Config::builder().behavior_version(aws_sdk_s3::config::BehaviorVersion::latest()).build();
    let sources = AudioSources { hosts: hosts.parse().expect("hosts"), ..AudioSources::default() };
    let store =
        AudioStore::new(aws_sdk_s3::Client::from_conf(s3), Outbound::new().expect("a client"), sources);
    let audio = store.open(&path.parse().expect("a path")).await?;
    let parts: Vec<_> = audio.body.try_collect().await.expect("it can be read");
    let bytes = parts.concat();
    assert_eq!(bytes.len() as u64, audio.bytes, "the length is the measured one");
    Ok((audio.name, bytes))
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n").as_bytes(), body].concat()
}

#[track_caller]
fn code(opened: Result<(String, Vec<u8>), AudioError>) -> (ErrorCode, String) {
    match opened {
        Err(AudioError::Bad(error)) => {
            assert!(!error.message.contains("secret"), "{}", error.message);
            (error.code, error.message)
        }
        other => panic!("expected a bad chunk, got {:?}", other.map(|(name, bytes)| (name, bytes.len()))),
    }
}

#[track_caller]
fn unavailable(opened: Result<(String, Vec<u8>), AudioError>) -> String {
    match opened {
        Err(AudioError::Unavailable(message)) => {
            assert!(!message.contains("secret"), "{message}");
            message
        }
        other => panic!("expected a retryable error, got {:?}", other.map(|(name, _)| name)),
    }
}

#[tokio::test]
async fn audio_comes_with_and_without_a_length() {
    let sound = wav(100_000);
    let limit = usize::try_from(MAX_AUDIO_BYTES).expect("5 MB");
    let chunked = [b"186a0\r\n".as_slice(), &sound, b"\r\n0\r\n\r\n"].concat();
    for (headers, body, expected) in [
        ("content-length: 100000\r\n", &sound, &sound),
        ("transfer-encoding: chunked\r\n", &chunked, &sound),
        ("", &sound, &sound),
        ("", &wav(limit), &wav(limit)),
    ] {
        let host = Host::start(answer("200 OK", headers, body), false).await;
        let (name, bytes) = host.open().await.expect("audio");
        assert_eq!(name, "a%20b.wav");
        assert!(bytes == *expected, "{headers}");
    }
}

#[tokio::test]
async fn each_status_has_its_meaning() {
    for (status, expected) in [
        ("410 Gone", ErrorCode::AudioNotFound),
        ("401 Unauthorized", ErrorCode::AudioForbidden),
        ("403 Forbidden", ErrorCode::AudioForbidden),
        ("400 Bad Request", ErrorCode::AudioForbidden),
        ("418 Teapot", ErrorCode::AudioForbidden),
        ("304 Not Modified", ErrorCode::AudioForbidden),
        ("204 No Content", ErrorCode::AudioEmpty),
    ] {
        let host = Host::start(answer(status, "content-length: 0\r\n", b""), false).await;
        assert_eq!(code(host.open().await).0, expected, "{status}");
    }
    for (status, expected) in [
        ("404 Not Found", ErrorCode::AudioNotFound),
        ("409 Conflict", ErrorCode::AudioForbidden),
        ("423 Locked", ErrorCode::AudioForbidden),
    ] {
        let host = Host::start(answer(status, "content-length: 0\r\n", b""), false).await;
        let opened = host.open().await.map(|(name, _)| name);
        assert!(matches!(&opened, Err(AudioError::NotYet(error)) if error.code == expected), "{opened:?}");
    }
    for status in ["408 Timeout", "425 Too Early", "429 Too Many", "500 Oh", "502 Oh", "503 Busy", "504 Oh"] {
        let host = Host::start(answer(status, "content-length: 0\r\n", b""), false).await;
        let message = unavailable(host.open().await);
        assert!(message.contains(&status[..3]), "{message}");
    }
    // No server listens on port 1.
    unavailable(Host { port: 1, asked: Arc::default(), sent: Arc::default() }.open().await);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Host::start(answer("200 OK", "", &wav(100)), false).await;
    for to in [format!("http://127.0.0.1:{}/", other.port), "http://169.254.169.254/latest/".to_owned()] {
        for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
            let headers = format!("location: {to}\r\ncontent-length: 0\r\n");
            let host = Host::start(answer(status, &headers, b""), false).await;
            let (code, message) = code(host.open().await);
            assert_eq!(code, ErrorCode::AudioForbidden, "{status}");
            assert!(message.contains("redirects are not followed"), "{message}");
        }
    }
    assert_eq!(other.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn no_length_is_believed() {
    let over = MAX_AUDIO_BYTES + 1;
    // Declared too large: no byte is waited for.
    let host = Host::start(answer("200 OK", &format!("content-length: {over}\r\n"), b""), false).await;
    assert_eq!(code(host.open().await).0, ErrorCode::AudioTooLarge);
    let host = Host::start(answer("200 OK", &format!("content-length: {}\r\n", i64::MAX), b""), false).await;
    assert_eq!(code(host.open().await).0, ErrorCode::AudioTooLarge);
    // Too large without saying so, and without end.
    let host = Host::start(answer("200 OK", "", &wav(usize::try_from(over).expect("5 MB"))), false).await;
    assert_eq!(code(host.open().await).0, ErrorCode::AudioTooLarge);
    let host = Host::start(answer("200 OK", "transfer-encoding: chunked\r\n", b"4\r\nRIFF\r\n"), true).await;
    assert_eq!(code(host.open().await).0, ErrorCode::AudioTooLarge);
    // What the sockets hold is on its way too.
    assert!(host.sent.load(Ordering::SeqCst) < 25_000_000, "{:?}", host.sent);
    // Shorter than declared: the connection broke, and a retry may get the whole.
    let host = Host::start(answer("200 OK", "content-length: 1000\r\n", &wav(100)), false).await;
    unavailable(host.open().await);
    let host = Host::start(answer("200 OK", "transfer-encoding: chunked\r\n", b"4\r\nRIFF\r\n"), false).await;
    unavailable(host.open().await);
    // Longer than declared: by HTTP, the rest is not part of this response.
    let host = Host::start(answer("200 OK", "content-length: 100\r\n", &wav(1000)), false).await;
    assert_eq!(host.open().await.expect("audio").1.len(), 100);
    let host = Host::start(answer("200 OK", "content-length: 0\r\n", &wav(1000)), false).await;
    assert_eq!(code(host.open().await).0, ErrorCode::AudioEmpty);
    let host = Host::start(answer("200 OK", "content-length: -1\r\n", &wav(1000)), false).await;
    unavailable(host.open().await);
}

#[tokio::test]
async fn a_response_that_is_not_audio_is_rejected() {
    let host = Host::start(answer("200 OK", "", b"<html>sign in</html>"), false).await;
    assert_eq!(code(host.open().await).0, ErrorCode::AudioUnsupported);
    // Compressed: not asked for, and not undone, so that nothing grows.
    let gzip = [b"\x1f\x8b\x08\0\0\0\0\0".as_slice(), &[0; 600]].concat();
    let host = Host::start(answer("200 OK", "content-encoding: gzip\r\n", &gzip), false).await;
    assert_eq!(code(host.open().await).0, ErrorCode::AudioUnsupported);
}

#[tokio::test]
async fn a_name_that_means_this_machine_is_refused_for_good() {
    let host = Host::start(answer("200 OK", "", &wav(100)), false).await;
    let named = format!("localhost:{}", host.port);
    let (code, message) = code(open(&named, &format!("https://{named}/a.wav?sig=secret")).await);
    assert_eq!(code, ErrorCode::AudioForbidden);
    assert!(message.contains("localhost has no public address"), "{message}");
    assert_eq!(host.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_message_older_than_the_setting_is_looked_at_again() {
    for path in ["https://evil.example/a.wav?sig=secret", "http://good.example/a.wav?sig=secret"] {
        let (code, message) = code(open("good.example", path).await);
        assert_eq!(code, ErrorCode::AudioForbidden, "{message}");
    }
    assert_eq!(code(open("", "https://good.example/a.wav").await).0, ErrorCode::AudioForbidden);
}

/// It may be entered in DNS yet, so it is tried for a quarter of an hour, and not for a day.
#[tokio::test]
async fn an_unknown_host_is_waited_for_as_a_missing_file_is() {
    match open("nobody.invalid", "https://nobody.invalid/a.wav?sig=secret").await {
        Err(AudioError::NotYet(error)) => {
            assert_eq!(error.code, ErrorCode::AudioNotFound);
            assert!(error.message.contains("nobody.invalid has no address in DNS"), "{}", error.message);
            assert!(!error.message.contains("secret"), "{}", error.message);
        }
        // Where there is no DNS server, nobody knows. RFC 6761 has any server know this name.
        Err(AudioError::Unavailable(_)) => {}
        other => panic!("{:?}", other.map(|(name, _)| name)),
    }
}
