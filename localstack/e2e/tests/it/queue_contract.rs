//! The contract of queues. SQS and the in-memory queue pass the same suite.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longhand_e2e::calls::Calls;
use longhand_e2e::eventually;
use longhand_e2e::resources::Resources;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::queue::{ChunkQueue, Delivery, Depth, Envelope, Outgoing, Progress, QueueError};

/// A queue and its dead-letter queue, with three receives as in the template.
struct Queues {
    queue: Arc<dyn ChunkQueue>,
    dead_letters: Arc<dyn ChunkQueue>,
}

fn memory() -> Queues {
    let dead_letters = Arc::new(MemoryQueue::new());
    let queue = Arc::new(MemoryQueue::with_redrive(3, Arc::clone(&dead_letters)));
    Queues { queue, dead_letters }
}

async fn sqs() -> Queues {
    let clients = Resources::deploy().await.clients(&Calls::default()).await;
    Queues { queue: clients.queue(), dead_letters: clients.dead_letters() }
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod in_memory { $(#[tokio::test] async fn $case() { super::$case(super::memory()).await; })* }
        mod in_sqs { $(#[tokio::test] async fn $case() { super::$case(super::sqs().await).await; })* }
    };
}

contract!(
    a_message_is_received_unchanged,
    messages_are_sent_and_received_in_batches_of_10,
    a_message_is_visible_again_after_its_timeout,
    renewal_hides_and_release_shows_a_message,
    a_deleted_message_is_not_delivered_again,
    the_lease_of_a_deleted_message_is_lost,
    a_failed_entry_does_not_fail_its_batch,
    the_fourth_receive_makes_a_dead_letter,
    a_delayed_message_is_received_later,
    a_long_poll_returns_when_a_message_is_sent,
    an_empty_queue_returns_no_messages,
);

const SOON: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

fn message(body: &str) -> Outgoing {
    Outgoing {
        body: body.to_owned(),
        group: Some("ana".to_owned()),
        envelope: Envelope::default(),
        delay: Duration::ZERO,
    }
}

async fn send(queue: &Arc<dyn ChunkQueue>, messages: &[Outgoing]) {
    for answer in queue.send(messages).await {
        answer.expect("sent");
    }
}

async fn receive_one(queue: &Arc<dyn ChunkQueue>, visibility: Duration) -> Delivery {
    eventually("a message", async || queue.receive(1, SOON, visibility).await.expect("an answer").pop()).await
}

async fn assert_empty(queue: &Arc<dyn ChunkQueue>) {
    assert_eq!(queue.receive(10, Duration::ZERO, LONG).await.expect("an answer"), []);
}

async fn a_message_is_received_unchanged(Queues { queue, .. }: Queues) {
    let envelope = Envelope {
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        origin: Some("0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b".to_owned()),
        requeues: 3,
        reason: Some("not ours".to_owned()),
        progress: Progress { tries: 2, outages: 1, audio: 3 },
    };
    let sent = Outgoing { envelope: envelope.clone(), ..message("{\"a\":\"é\u{1F3A7}\"}") };
    send(&queue, std::slice::from_ref(&sent)).await;
    let got = receive_one(&queue, LONG).await;
    assert_eq!((&got.body, &got.group, &got.envelope), (&sent.body, &sent.group, &envelope));
    assert_eq!(got.receive_count, 1);
}

async fn messages_are_sent_and_received_in_batches_of_10(Queues { queue, .. }: Queues) {
    let messages: Vec<_> = (0..25).map(|n| message(&n.to_string())).collect();
    send(&queue, &messages).await;
    let mut bodies = BTreeSet::new();
    while bodies.len() < 25 {
        let batch = queue.receive(10, SOON, LONG).await.expect("an answer");
        assert!(batch.len() <= 10 && !batch.is_empty());
        bodies.extend(batch.into_iter().map(|delivery| delivery.body));
    }
    assert_eq!(bodies, messages.into_iter().map(|message| message.body).collect());
}

async fn a_message_is_visible_again_after_its_timeout(Queues { queue, .. }: Queues) {
    send(&queue, &[message("x")]).await;
    let first = receive_one(&queue, SOON).await;
    assert_empty(&queue).await;
    let second = receive_one(&queue, LONG).await;
    assert_eq!((second.receive_count, &second.message_id), (2, &first.message_id));
    assert_ne!(second.receipt, first.receipt);
}

async fn renewal_hides_and_release_shows_a_message(Queues { queue, .. }: Queues) {
    send(&queue, &[message("x"), message("y")]).await;
    let (kept, released) = (receive_one(&queue, SOON).await, receive_one(&queue, SOON).await);
    let answers = queue
        .change_visibility(&[(kept.receipt.clone(), LONG), (released.receipt.clone(), Duration::ZERO)])
        .await;
    assert_eq!(answers, [Ok(()), Ok(())]);
    let again = receive_one(&queue, LONG).await;
    assert_eq!(again.body, released.body);
    // The first visibility timeout of both has ended. Only the renewal hides the other message.
    assert_eq!(queue.receive(10, SOON * 2, LONG).await.expect("an answer"), []);
}

async fn a_deleted_message_is_not_delivered_again(Queues { queue, .. }: Queues) {
    send(&queue, &[message("x")]).await;
    let delivery = receive_one(&queue, SOON).await;
    assert_eq!(queue.delete(std::slice::from_ref(&delivery.receipt)).await, [Ok(())]);
    assert_eq!(queue.receive(10, SOON * 2, LONG).await.expect("an answer"), []);
}

async fn the_lease_of_a_deleted_message_is_lost(Queues { queue, .. }: Queues) {
    send(&queue, &[message("x")]).await;
    let delivery = receive_one(&queue, LONG).await;
    queue.delete(std::slice::from_ref(&delivery.receipt)).await.remove(0).expect("deleted");
    let answers = queue.change_visibility(&[(delivery.receipt, LONG)]).await;
    assert!(matches!(answers[..], [Err(QueueError::LeaseLost(_))]), "{answers:?}");
}

async fn a_failed_entry_does_not_fail_its_batch(Queues { queue, .. }: Queues) {
    send(&queue, &[message("gone"), message("there")]).await;
    let mut both = [receive_one(&queue, LONG).await, receive_one(&queue, LONG).await];
    both.sort_by_key(|delivery| delivery.body.clone());
    let [gone, there] = [0, 1].map(|n: usize| both[n].receipt.clone());
    queue.delete(std::slice::from_ref(&gone)).await.remove(0).expect("deleted");
    let answers = queue.change_visibility(&[(gone, LONG), (there, Duration::ZERO)]).await;
    assert!(matches!(answers[..], [Err(QueueError::LeaseLost(_)), Ok(())]), "{answers:?}");
    assert_eq!(receive_one(&queue, LONG).await.body, "there");
}

async fn the_fourth_receive_makes_a_dead_letter(Queues { queue, dead_letters }: Queues) {
    let envelope = Envelope { requeues: 2, ..Envelope::default() };
    send(&queue, &[Outgoing { envelope: envelope.clone(), ..message("poison") }]).await;
    let mut ids = BTreeSet::new();
    for count in 1..=3 {
        let delivery = receive_one(&queue, LONG).await;
        assert_eq!(delivery.receive_count, count);
        ids.insert(delivery.message_id);
        let released = queue.change_visibility(&[(delivery.receipt, Duration::ZERO)]).await;
        assert_eq!(released, [Ok(())]);
    }
    // The queue moves the message at the fourth receive.
    let dead = eventually("the dead letter", async || {
        assert_eq!(queue.receive(1, Duration::ZERO, LONG).await.expect("an answer"), []);
        dead_letters.receive(1, SOON, LONG).await.expect("an answer").pop()
    })
    .await;
    assert_eq!((dead.body.as_str(), &dead.envelope), ("poison", &envelope));
    assert_eq!(ids, BTreeSet::from([dead.message_id]), "the id stays the same");
}

async fn a_delayed_message_is_received_later(Queues { queue, .. }: Queues) {
    send(&queue, &[Outgoing { delay: SOON * 2, ..message("later") }]).await;
    assert_empty(&queue).await;
    assert_eq!(queue.depth().await.expect("an answer"), Depth { delayed: 1, ..Depth::default() });
    assert_eq!(receive_one(&queue, LONG).await.body, "later");
    assert_eq!(queue.depth().await.expect("an answer"), Depth { in_flight: 1, ..Depth::default() });
}

async fn a_long_poll_returns_when_a_message_is_sent(Queues { queue, .. }: Queues) {
    let polling = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.receive(10, LONG, LONG).await }
    });
    send(&queue, &[message("x")]).await;
    let got = tokio::time::timeout(LONG / 2, polling).await.expect("long before the poll's end");
    assert_eq!(got.expect("no panic").expect("an answer").len(), 1);
}

async fn an_empty_queue_returns_no_messages(Queues { queue, .. }: Queues) {
    assert_empty(&queue).await;
    assert_eq!(queue.depth().await.expect("an answer"), Depth::default());
    assert_eq!(queue.send(&[]).await, []);
    assert_eq!(queue.delete(&[]).await, []);
    assert_eq!(queue.change_visibility(&[]).await, []);
}
