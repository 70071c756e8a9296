//! `chaos`: load while things break, then an audit. Needs the emulator: `make chaos` runs it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use longhand_chaos::outage::{self, Down, Outage};
use longhand_chaos::report::{Report, summary};
use longhand_chaos::run::{self, Badness};
use longhand_chaos::world::Size;
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
        /// How it is down, commas between.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "status")]
        how: Vec<Down>,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    size: Size,
    /// What chance is drawn from; several with commas between.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seed: Vec<u64>,
    /// Writes the report as JSON, too.
    #[arg(long)]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut reports: Vec<Report> = Vec::new();
    let common = match Arguments::parse().command {
        Command::Run { common, badness } => {
            for seed in &common.seed {
                reports.push(said(run::run(&common.size, &badness, *seed).await));
            }
            common
        }
        Command::Outage { common, outage, how } => {
            for seed in &common.seed {
                for how in &how {
                    reports.push(said(outage::run(&common.size, &outage, *how, *seed).await));
                }
            }
            common
        }
    };
    print(&summary(&reports));
    let good = reports.iter().all(Report::is_good);
    if let Some(path) = &common.report {
        let all: Vec<Value> = reports.iter().map(Report::json).collect();
        let text = format!("{:#}\n", json!({"asPromised": good, "scenarios": all}));
        if let Err(error) = std::fs::write(path, text) {
            let _ = writeln!(std::io::stderr(), "{}: {error}", path.display());
            return ExitCode::from(74);
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn said(report: Report) -> Report {
    print(&report.text());
    report
}

fn print(text: &str) {
    // A reader that has gone (`| head`) is no failure.
    let _ = writeln!(std::io::stdout(), "{text}");
}
