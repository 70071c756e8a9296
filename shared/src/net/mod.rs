//! Calls to other servers: backoff, the model's address, and addresses that clients supply.

pub mod backoff;
pub mod model;
pub mod outbound;

/// The causes of an error, without its URL.
pub fn causes(error: &reqwest::Error) -> String {
    let outermost: &dyn std::error::Error = error;
    let chain = std::iter::successors(outermost.source(), |cause| cause.source());
    let causes: Vec<String> = chain.map(ToString::to_string).collect();
    if causes.is_empty() { "no cause given".to_owned() } else { causes.join(": ") }
}
