//! The api's memory is bounded however clients behave: the peak of several attacks, over sockets.

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, SharedCredentialsProvider};
use cap::Cap;
use longhand_api::waiting::Waiting;
use longhand_api::{AppState, Auth, Origins, Rendered, Signer, Tickets, router, server};
use longhand_shared::cache::Cache;
use longhand_shared::domain::id::ChunkRef;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::{Metadata, NewJob, TranscribeOptions, Transcription, Verdict};
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::store::JobStore;
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::{Attempt, JobId, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

const BOUND: usize = 256 * 1024 * 1024;

/// 40 jobs of the most chunks, with 72 KB of text each: 1.7 MB a job.
async fn long_jobs(store: &Arc<MemoryStore>) -> Vec<JobId> {
    let lifecycle = Lifecycle::new(Arc::clone(store) as _, Arc::new(MemoryQueue::new()));
    let mut ids = Vec::new();
    for second in 1..=40 {
        let now = Timestamp::from_unix(second);
        let paths = (0..MAX_CHUNKS).map(|n| format!("s3://audio/{n}.wav").parse().expect("a path")).collect();
        let user = "ana".parse().expect("a user");
        let job = NewJob::new(user, paths, TranscribeOptions::default(), Metadata::new(), now);
        let job = job.expect("not too many chunks");
        store.create(&job, now).await.expect("in memory");
        for chunk in job.chunks() {
            let words = Transcription::new("word ".repeat(72 * 1024 / 5), None, vec![]).expect("it fits");
            let at = ChunkRef { job: job.id, index: chunk.index };
            let verdict = Verdict::Completed(words);
            lifecycle.settle(at, &Attempt::number(0), &verdict, now).await.expect("in memory");
        }
        ids.push(job.id);
    }
    ids
}

/// A job of the most chunks that is in progress, for each of 20 users.
async fn open_jobs(store: &MemoryStore) -> Vec<JobId> {
    let mut ids = Vec::new();
    for number in 0..20 {
        let now = Timestamp::from_unix(100);
        let paths = (0..MAX_CHUNKS).map(|n| format!("s3://audio/{n}.wav").parse().expect("a path")).collect();
        let user = format!("user-{number}").parse().expect("a user");
        let job = NewJob::new(user, paths, TranscribeOptions::default(), Metadata::new(), now);
        let job = job.expect("not too many chunks");
        store.create(&job, now).await.expect("in memory");
        ids.push(job.id);
    }
    ids
}

async fn request(address: std::net::SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    // A small window, so that the system takes little of an answer.
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let mut socket = socket.connect(address).await?;
    let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(text.as_bytes()).await?;
    Ok(socket)
}

/// The beginning of the answer; the rest is read and dropped.
async fn answered(address: std::net::SocketAddr, path: &str) -> String {
    let mut socket = request(address, path).await.expect("a connection");
    let (mut head, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        if head.len() < 1024 {
            head.extend_from_slice(&buffer[..read.min(1024)]);
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attacks_take_a_bounded_amount_of_memory() {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let store = Arc::new(MemoryStore::new());
    let jobs = long_jobs(&store).await;
    let open = open_jobs(&store).await;
    let stop = CancellationToken::new();
    let config = aws_sdk_s3::Config::builder().behavior_version(BehaviorVersion::latest()).build();
    let s3 = aws_sdk_s3::Client::from_conf(config);
    let credentials = Credentials::new("key", "secret", None, None, "test");
    let router = router(AppState {
        lifecycle: Lifecycle::new(store.clone(), Arc::new(MemoryQueue::new())),
        sources: Arc::default(),
        callback_hosts: Arc::default(),
        auth: Arc::new(Auth::none()),
        limits: Arc::default(),
        origins: Origins::default(),
        tickets: Tickets::new(None),
        dead_letters: None,
        s3: s3.clone(),
        upload_signer: Arc::new(Signer::new(s3, SharedCredentialsProvider::new(credentials))),
        waiting: Waiting::new(store.clone(), Cache::local(), stop.clone()),
        rendered: Rendered::default(),
        stop: stop.clone(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(server::serve(listener, router, 1000, stop, Duration::from_secs(1)));
    let stored = MEMORY.allocated();
    let peak = || MEMORY.max_allocated() - stored;

    // 50 listings of all of it at once: each is answered, or refused with a time to come again.
    let path = "/transcript/search?userId=ana&limit=100";
    let answers = futures::future::join_all((0..50).map(|_| answered(address, path))).await;
    for answer in &answers {
        let refused = answer.starts_with("HTTP/1.1 503 ") || answer.starts_with("HTTP/1.1 429 ");
        assert!(
            answer.starts_with("HTTP/1.1 200 ") || (refused && answer.contains("retry-after: ")),
            "{answer}"
        );
    }
    assert!(answers.iter().any(|answer| answer.starts_with("HTTP/1.1 200 ")));
    assert!(peak() < BOUND, "{} MB for listings", peak() / 1024 / 1024);

    // 250 clients that read nothing of 1.7 MB.
    let path = |n: usize| format!("/transcript/{}", jobs[n % jobs.len()]);
    let paths: Vec<String> = (0..250).map(path).collect();
    let idle = futures::future::join_all(paths.iter().map(|path| request(address, path))).await;
    // Those who read are answered, or refused, all the same: by then the others hold what they may.
    let answer = answered(address, &paths[0]).await;
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    assert!(peak() < BOUND, "{} MB for clients that do not read", peak() / 1024 / 1024);
    drop(idle);

    // 300 streams of jobs in which nothing happens, read by nobody.
    let path = |n: usize| format!("/transcript/{}/events", open[n % open.len()]);
    let paths: Vec<String> = (0..300).map(path).collect();
    let idle = futures::future::join_all(paths.iter().map(|path| request(address, path))).await;
    let answer = answered(address, &format!("/transcript/{}", open[0])).await;
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    assert!(peak() < BOUND, "{} MB for streams", peak() / 1024 / 1024);
    drop(idle);

    // 8,000 idle connections, of which 1,000 are kept.
    let mut connections = Vec::new();
    for _ in 0..8000 {
        connections.extend(TcpStream::connect(address).await);
    }
    assert!(peak() < BOUND, "{} MB for connections", peak() / 1024 / 1024);
    eprintln!("peak {} MB", peak() / 1024 / 1024);
}
