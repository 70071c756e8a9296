//! Counts AWS calls and the write units that they use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_dynamodb::config::http::{HttpRequest, HttpResponse};
use aws_sdk_dynamodb::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextMut,
    BeforeTransmitInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// The operations whose write units are counted.
const WRITES: [&str; 3] = ["PutItem", "UpdateItem", "TransactWriteItems"];

/// The number of calls of each operation, including retries, and the write units of `DynamoDB`.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    calls: BTreeMap<String, usize>,
    write_units: f64,
}

impl Calls {
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.0.lock().calls.clone()
    }

    pub fn of(&self, operation: &str) -> usize {
        self.0.lock().calls.get(operation).copied().unwrap_or(0)
    }

    /// The units of successful writes, including those of indexes.
    pub fn write_units(&self) -> f64 {
        self.0.lock().write_units
    }

    pub fn reset(&self) {
        *self.0.lock() = Counted::default();
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
        let operation = operation(context.request()).to_owned();
        *self.0.lock().calls.entry(operation).or_default() += 1;
        Ok(())
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        if WRITES.contains(&operation(request)) {
            let mut body: Value = serde_json::from_slice(request.body().bytes().unwrap_or_default())?;
            body["ReturnConsumedCapacity"] = json!("TOTAL");
            let body = body.to_string();
            request.headers_mut().insert("content-length", body.len().to_string());
            *request.body_mut() = body.into();
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer: Value =
            serde_json::from_slice(context.response().body().bytes().unwrap_or_default()).unwrap_or_default();
        // One object, or for a transaction a list with one for each table.
        let consumed = &answer["ConsumedCapacity"];
        let units = &consumed.get(0).unwrap_or(consumed)["CapacityUnits"];
        self.0.lock().write_units += units.as_f64().unwrap_or_default();
        Ok(())
    }
}

/// The operation of a call: `UpdateItem` of `DynamoDB_20120810.UpdateItem`.
fn operation(request: &HttpRequest) -> &str {
    let target = request.headers().get("x-amz-target").unwrap_or("other");
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
        if operation(context.request()) == "UpdateItem" && self.armed.swap(false, Ordering::SeqCst) {
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
