//! Load on the real programs while they are killed, the model fails, and AWS calls are throttled, cut and lost. Then an
//! audit of the table, the queues, and the records of the model, the proxy and the clients.
//!
//! [`run`], [`outage`] and [`poison`] are the scenarios. [`audit`] is a pure function of the evidence that they gather.

pub mod audit;
pub mod balancer;
pub mod client;
pub mod draw;
pub mod fault;
pub mod fleet;
pub mod gather;
pub mod ledger;
pub mod load;
pub mod member;
pub mod model;
pub mod outage;
pub mod poison;
pub mod proxy;
pub mod report;
pub mod run;
pub mod world;
