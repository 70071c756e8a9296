//! Counts AWS calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;

/// The number of calls of each operation, including retries.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<BTreeMap<String, usize>>>);

impl Calls {
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn of(&self, operation: &str) -> usize {
        self.counts().get(operation).copied().unwrap_or(0)
    }

    pub fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Intercept for Calls {
    fn name(&self) -> &'static str {
        "Calls"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = operation(context).to_owned();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(operation).or_default() += 1;
        Ok(())
    }
}

/// The operation of a call: `UpdateItem` of `DynamoDB_20120810.UpdateItem`.
fn operation<'a>(context: &'a BeforeTransmitInterceptorContextRef<'_>) -> &'a str {
    let target = context.request().headers().get("x-amz-target").unwrap_or("other");
    target.rsplit('.').next().unwrap_or(target)
}

/// Loses the answer to one successful call. The SDK then repeats the call.
#[derive(Clone, Debug, Default)]
pub struct LostAnswer {
    armed: Arc<AtomicBool>,
    losing: Arc<AtomicBool>,
}

impl LostAnswer {
    /// Loses the answer to the next `UpdateItem`.
    pub fn next_update(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}

impl Intercept for LostAnswer {
    fn name(&self) -> &'static str {
        "LostAnswer"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if operation(context) == "UpdateItem" && self.armed.swap(false, Ordering::SeqCst) {
            self.losing.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.losing.swap(false, Ordering::SeqCst) {
            *context.response_mut() = HttpResponse::new(500.try_into()?, "".into());
        }
        Ok(())
    }
}
