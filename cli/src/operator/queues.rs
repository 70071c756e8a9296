//! The two queues, each with its dead-letter queue.

/// The names of a queue and its dead-letter queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// The prefixes of the doctor's checks.
    pub(crate) queue: &'static str,
    pub(crate) dlq: &'static str,
    /// The settings with their URLs.
    pub(crate) queue_url: &'static str,
    pub(crate) dlq_url: &'static str,
    /// The command that lists the dead letters.
    pub(crate) list: &'static str,
    /// The kind of message, for texts.
    pub(crate) message: &'static str,
}

pub(crate) const CHUNKS: Pair = Pair {
    queue: "queue",
    dlq: "dlq",
    queue_url: "LONGHAND_QUEUE_URL",
    dlq_url: "LONGHAND_DLQ_URL",
    list: "longhand dlq list",
    message: "a chunk",
};

pub(crate) const WEBHOOKS: Pair = Pair {
    queue: "webhook queue",
    dlq: "webhook dlq",
    queue_url: "LONGHAND_WEBHOOK_QUEUE_URL",
    dlq_url: "LONGHAND_WEBHOOK_DLQ_URL",
    list: "longhand dlq list --queue webhooks",
    message: "a webhook",
};

/// `45 s`, `12 min`, `3 h`, `14 days`: whole, rounded down.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
