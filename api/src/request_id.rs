//! The id of the request that the running task answers.

tokio::task_local! {
    pub(crate) static REQUEST_ID: String;
}

pub(crate) fn current() -> Option<String> {
    REQUEST_ID.try_with(String::clone).ok()
}
