//! The worker, all in memory and mostly under tokio's paused clock: slots, leases, the model's client,
//! one chunk's life, dead letters, the sweeper, each with whatever can go wrong around it. The program itself, at last.

mod alarms;
mod asr;
mod asr_faults;
mod cases;
mod copies;
mod dead_letters;
mod deletes;
mod drain;
mod formats;
mod fuzz;
mod fuzz_inputs;
mod guard;
mod history;
mod isolation;
mod lease;
mod outage;
mod polling;
mod process;
mod process_faults;
mod program;
mod runner;
mod s3_audio;
mod support;
mod sweeper;
mod web_audio;
mod webhooks;
mod words;
