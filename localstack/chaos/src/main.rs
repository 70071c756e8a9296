//! `chaos`: load while things break, then an audit. Needs the emulator: `make chaos` runs it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use longhand_chaos::outage::{self, Outage};
use longhand_chaos::report::{Report, summary};
use longhand_chaos::run::{self, Badness};
use longhand_chaos::world::Size;
use longhand_shared::shutdown;
use serde_json::{Value, json};

/// Loads the real binaries while they are killed, the model fails and AWS calls are lost; then audits what came of
/// it. Exits with 1 when something is not as promised.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kills, faults of the model and of AWS, all at once: one run for each seed.
    Run {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        badness: Badness,
    },
    /// The model is down for a while: one run for each way of being down.
    Outage {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        outage: Outage,
    },
    /// One after the other: the runs, then the outages.
    All {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        badness: Badness,
        #[command(flatten)]
        outage: Outage,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    size: Size,
    /// What chance is drawn from; several with commas between. Outages take the first.
    #[arg(long, value_delimiter = ',', default_value = "1", num_args = 1..)]
    seed: Vec<u64>,
    /// Writes the report as JSON, too.
    #[arg(long)]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let stop = match shutdown::on_signal() {
        Ok(stop) => stop,
        Err(error) => return complain(&error, 1),
    };
    tokio::select! {
        code = scenarios(command) => code,
        // What was started is killed when it is dropped.
        () = stop.cancelled() => ExitCode::from(130),
    }
}

async fn scenarios(command: Command) -> ExitCode {
    let mut reports: Vec<Report> = Vec::new();
    let (common, badness, outage) = match command {
        Command::Run { common, badness } => (common, Some(badness), None),
        Command::Outage { common, outage } => (common, None, Some(outage)),
        Command::All { common, badness, outage } => (common, Some(badness), Some(outage)),
    };
    if let Some(badness) = badness {
        for seed in &common.seed {
            reports.push(said(run::run(&common.size, &badness, *seed).await));
        }
    }
    if let Some(outage) = outage {
        for how in &outage.how {
            reports.push(said(outage::run(&common.size, &outage, *how, common.seed[0]).await));
        }
    }
    print(&summary(&reports));
    let good = reports.iter().all(Report::is_good);
    if let Some(path) = &common.report {
        let all: Vec<Value> = reports.iter().map(Report::json).collect();
        let text = format!("{:#}\n", json!({"asPromised": good, "scenarios": all}));
        if let Err(error) = std::fs::write(path, text) {
            return complain(&format!("{}: {error}", path.display()), 74);
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{error}");
    ExitCode::from(code)
}

fn said(report: Report) -> Report {
    print(&report.text());
    report
}

fn print(text: &str) {
    // A reader that has gone (`| head`) is no failure.
    let _ = writeln!(std::io::stdout(), "{text}");
}
