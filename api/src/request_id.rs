//! The id of the request that the running task answers.

tokio::task_local! {
    static REQUEST_ID: String;
}

/// Runs `answer` as the request of this id.
pub(crate) async fn scope<T>(id: String, answer: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(id, answer).await
}

pub(crate) fn current() -> Option<String> {
    REQUEST_ID.try_with(String::clone).ok()
}
