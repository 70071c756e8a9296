//! The service against the real emulator. `make test` starts it; so does, for some of these alone:
//! `python3 localstack/stack.py test -- cargo test -p longhand-e2e NAME`

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
