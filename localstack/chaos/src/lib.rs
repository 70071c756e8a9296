//! Chaos: load on the real binaries while they are killed, the model fails and AWS calls are throttled, cut and
//! lost; then an audit of the table, the queues and the books of everybody who was asked.
//!
//! [`run`], [`outage`] and [`poison`] are the scenarios. [`audit`] is a pure function over what they gathered.

pub mod audit;
pub mod balancer;
pub mod client;
pub mod draw;
pub mod fault;
pub mod fleet;
pub mod gate;
pub mod gather;
pub mod ledger;
pub mod load;
pub mod model;
pub mod outage;
pub mod poison;
pub mod proxy;
pub mod report;
pub mod run;
pub mod world;
