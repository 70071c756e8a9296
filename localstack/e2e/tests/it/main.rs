//! Tests of the whole service against an emulator, which `make test` starts. To run some of them:
//! `python3 localstack/stack.py test -- cargo test -p longhand-e2e NAME`

/// Makes two tests of each function: one with the api as a server, and one through API Gateway.
macro_rules! in_each_mode {
    ($($test:ident)*) => {
        mod server {
            $(#[tokio::test] async fn $test() { super::$test(longhand_e2e::gateway::ApiMode::Server).await; })*
        }
        mod gateway {
            $(#[tokio::test] async fn $test() { super::$test(longhand_e2e::gateway::ApiMode::Gateway).await; })*
        }
    };
}

mod cache;
mod calls;
mod command;
mod crashes;
mod deploys;
mod doctor;
mod fauxqs;
mod from_0_1_0;
mod groups;
mod inputs;
mod load;
mod main_job;
mod observability;
mod operator;
mod queue_contract;
mod relay;
mod store_contract;
mod waiting;
mod webhooks;
