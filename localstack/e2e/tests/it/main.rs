//! The service against the real emulator. `make test` starts it; so does, for some of these alone:
//! `python3 localstack/stack.py test -- cargo test -p longhand-e2e NAME`

/// Makes two tests of each function: one that calls the api as a server, one that goes through API Gateway.
macro_rules! through_each_door {
    ($($test:ident)*) => {
        mod server {
            $(#[tokio::test] async fn $test() { super::$test(longhand_e2e::gateway::Door::Server).await; })*
        }
        mod gateway {
            $(#[tokio::test] async fn $test() { super::$test(longhand_e2e::gateway::Door::Gateway).await; })*
        }
    };
}

mod cache;
mod calls;
mod command;
mod crashes;
mod deploys;
mod doctor;
mod eyes;
mod inputs;
mod load;
mod main_job;
mod operator;
mod queue_contract;
mod store_contract;
mod waiting;
mod webhooks;
